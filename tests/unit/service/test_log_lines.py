"""Everything that a process of the pool says is a line of JSON, libraries' warnings and tracebacks as well."""

import json
import subprocess
import sys

from tests.conftest import ROOT

TALK = """
import logging
from solver_service import logs

logs.configure()
logging.getLogger("kombu.transport").warning("lost %s", "it")
logging.getLogger("celery").info("not worth telling")
try:
    raise ValueError("odd")
except ValueError:
    logging.getLogger("uvicorn.error").exception("broken")
"""


def test_what_libraries_say_is_json_as_well() -> None:
    """With its logger's name, and a traceback within its line."""
    done = subprocess.run([sys.executable, "-c", TALK], check=True, cwd=ROOT, capture_output=True, text=True)
    lost, broken = map(json.loads, done.stderr.splitlines())
    assert (lost["logger"], lost["level"], lost["event"]) == ("kombu.transport", "warning", "lost it")
    assert (broken["logger"], broken["level"], broken["event"]) == ("uvicorn.error", "error", "broken")
    assert "ValueError: odd" in broken["exception"]
