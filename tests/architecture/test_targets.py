"""What the Makefile's help says of its targets is so."""

import re
import subprocess
import sys

import pytest

from benchmarks.requirements.settings import QUICK_SEEDS
from tests.conftest import ROOT

TARGETS = {
    name: (words, recipe)
    for name, words, recipe in re.findall(
        r"^([\w-]+): \$\(READY\)  ## (.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    )
}
NAMED = [(name, variable) for name, (words, _) in TARGETS.items() for variable in re.findall(r"\b([A-Z]+)=", words)]
WITHOUT = "import sys; sys.modules['playwright'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.parametrize(("target", "variable"), NAMED)
def test_a_variable_that_the_help_names_reaches_the_command(target: str, variable: str) -> None:
    """Setting it changes what is run."""
    assert f"$({variable})" in TARGETS[target][1]


def test_a_quick_run_has_as_many_seeds_as_its_help_says() -> None:
    """One."""
    assert ("QUICK=--quick has one seed" in TARGETS["bench-requirements"][0]) == (QUICK_SEEDS == 1)


def test_without_playwright_browser_tests_are_skipped() -> None:
    """Each of them, and `make test-browser` is no failure; a file that is skipped whole would be one."""
    command = [sys.executable, "-c", WITHOUT, "-q", "-p", "no:cacheprovider", "-m", "browser", "tests/e2e"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Playwright is not installed" in done.stdout
    assert re.search(r"^\d+ skipped", done.stdout.splitlines()[-1])
