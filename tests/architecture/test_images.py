"""The locks of the images, and what runs in them beside the service: in step with what they are made from."""

import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from solver_service.settings import Settings
from solver_service.store import keys
from tests.conftest import ROOT
from tests.integration.test_operation import FUNCTIONS

DOCKER = ROOT / "docker"
LOCKS = ("gateway", "worker", "trainer", "torch", "build")
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def project() -> dict[str, list[str]]:
    """What each extra needs, the common dependencies with it."""
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {name: [*table["dependencies"], *wanted] for name, wanted in table["optional-dependencies"].items()}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package of a lock."""
    found = {}
    for text in re.split(r"^(?=\w)", (DOCKER / f"{name}.lock").read_text(), flags=re.MULTILINE)[1:]:
        package, version = re.match(r"([\w.-]+)==([^ ]+)", text).groups()  # type: ignore[union-attr]
        found[canonicalize_name(package)] = (version, text.count("--hash=sha256:"))
    return found


def constrained() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_locked_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    """Images install what make and CI install; `make lock` brings a lock up to date."""
    known = constrained()
    for package, (version, hashes) in locked(name).items():
        assert hashes > 0, package
        assert known.get(package, version) == version, f"{package}: run `make lock`"


@pytest.mark.parametrize("extra", ["gateway", "worker", "trainer"])
def test_what_an_extra_needs_is_locked(extra: str) -> None:
    """A new dependency in pyproject.toml reaches the lock; torch, and what it needs for CUDA, has one of its own."""
    found = locked(extra) | (locked("torch") if extra == "trainer" else {})
    assert {canonicalize_name(Requirement(wanted).name) for wanted in project()[extra]} <= set(found)


def test_the_build_back_end_is_that_of_the_project() -> None:
    """The wheel of an image is built by the locked version of what `[build-system]` asks for."""
    asked = runpy.run_path(str(DOCKER / "lock.py"))["BUILD"]
    assert f'requires = ["{asked}"]' in (ROOT / "pyproject.toml").read_text()
    assert "hatchling" in locked("build")


def test_the_health_check_knows_the_keys_of_the_store() -> None:
    """It looks for heartbeats without loading the service, so it has their names a second time."""
    check = runpy.run_path(str(DOCKER / "health.py"))
    assert check["WORKERS"] == keys.WORKERS
    assert check["WORKER"].format("w") == keys.worker("w")


def test_all_images_are_pinned() -> None:
    """Base and Redis by digest, the others by version; compose and the Dockerfile name the same base."""
    pinned = dict(re.findall(r"\$\{(GDSOLVER_\w+_IMAGE):-([^}]+)\}", COMPOSE))
    assert f"ARG PYTHON_IMAGE={pinned['GDSOLVER_PYTHON_IMAGE']}\n" in (DOCKER / "Dockerfile").read_text()
    for name in ("GDSOLVER_PYTHON_IMAGE", "GDSOLVER_REDIS_IMAGE"):
        assert re.search(r"@sha256:[0-9a-f]{64}$", pinned[name])
    for name in ("GDSOLVER_PROMETHEUS_IMAGE", "GDSOLVER_GRAFANA_IMAGE"):
        assert re.search(r":v?\d+\.\d+\.\d+$", pinned[name])


def test_the_example_of_env_names_what_compose_reads() -> None:
    """Every variable of docker-compose.yml is in .env.example, and no other one."""
    read = set(re.findall(r"(?<!\$)\$\{(GDSOLVER_\w+)", COMPOSE)) - {"GDSOLVER_REVISION"}
    named = set(re.findall(r"^(?:# )?(GDSOLVER_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert read == named
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored
    assert ".env.example" not in ignored


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """Each panel of the provisioned dashboard names only what the alert rules or `/metrics` name, and has a title."""
    import json

    source = "".join(path.read_text() for path in (ROOT / "solver_service").rglob("*.py"))
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "gdsolver.json").read_text())
    assert len(board["panels"]) >= 8
    for panel in board["panels"]:
        assert panel["title"]
        for target in panel["targets"]:
            plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|(by|on) ?\([^)]*\)", " ", target["expr"])
            names = {word for word in re.findall(r"[a-zA-Z_]\w*", plain) if word not in {*FUNCTIONS, "max"}}
            assert names
            for name in names:
                base = re.sub(r"^gdsolver_|_(total|bucket|sum|count)$", "", name)
                base = re.sub(r"_(total|bucket|sum|count)$", "", base)
                assert base in source, name


def test_settings_that_a_service_may_set_exist() -> None:
    """Variables that compose gives to gateways and workers are settings of the service."""
    given = set(re.findall(r"^      GDSOLVER_(\w+):", COMPOSE, re.MULTILINE)) - {"GATEWAY"}
    assert given <= {name.upper() for name in Settings.model_fields}


def test_nothing_of_this_machine_is_in_the_locks() -> None:
    """Locks name no index: pip's own is asked, wherever the images are built."""
    for lock in Path(DOCKER).glob("*.lock"):
        assert "://" not in lock.read_text()
