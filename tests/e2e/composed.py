"""A compose project of the test's own, and what tests ask the Docker engine about it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.conftest import ROOT

# Named, so that a developer's own docker-compose.override.yml is left out.
COMPOSE = ("docker", "compose", "--file", "docker-compose.yml")
BASES = {"GDSOLVER_PYTHON_IMAGE": "python:3.11-slim-bookworm", "GDSOLVER_REDIS_IMAGE": "redis:7-alpine"}
"""The official images by their tags; docker-compose.yml pins them by digest, too."""


def missing_engine() -> str | None:
    """Say why no container can be run here, if so."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        subprocess.run(["docker", "info"], capture_output=True, check=True, timeout=20)
    except subprocess.SubprocessError:
        return "no Docker engine answers"
    return None


def docker(*arguments: str) -> str:
    """Run docker and return its output; a failure shows what it said."""
    return run(["docker", *arguments])


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def stand_ins() -> dict[str, str]:
    """Base images that this engine has under their tags but from no registry: there a digest would not be found."""
    found = {}
    for variable, tag in BASES.items():
        seen = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False)
        if seen.returncode == 0 and not json.loads(seen.stdout)[0]["RepoDigests"]:
            found[variable] = tag
    return found


def size_of(image: str) -> int:
    """Bytes of an image, its base included."""
    return int(json.loads(docker("image", "inspect", image))[0]["Size"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Pool:
    """A compose project beside any that the user runs."""

    project: str = field(default_factory=lambda: f"gdsolver-test-{secrets.token_hex(3)}")
    key: str = field(default_factory=secrets.token_hex)
    port: int = field(default_factory=free_port)
    bases: dict[str, str] = field(default_factory=stand_ins)

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output; a failure shows what it said."""
        return run([*COMPOSE, "--project-name", self.project, *arguments], self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What `.env` would say."""
        return {
            **os.environ,
            **self.bases,
            "GDSOLVER_API_KEY": self.key,
            "GDSOLVER_REDIS_PASSWORD": self.key[::-1],
            "GDSOLVER_PORT": str(self.port),
        }

    def up(self, *, workers: int) -> None:
        """Return when the gateway and that many workers are healthy."""
        self.compose("up", "--detach", "--wait", "--scale", f"worker={workers}")

    def in_image(self, service: str, *command: str) -> str:
        """Run a command in the service's container, as its user."""
        return self.compose("exec", "-T", service, *command)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What the engine knows of a service's containers, running or not."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        return list(json.loads(docker("inspect", *ids)))

    def health(self, service: str) -> str:
        """`healthy` or `unhealthy`, of a service with one container."""
        return str(self.containers(service)[0]["State"]["Health"]["Status"])

    def image_of(self, service: str) -> str:
        """The id of a service's image."""
        return str(self.containers(service)[0]["Image"])

    def left(self) -> list[str]:
        """Whatever of this project the engine still has."""
        label = f"label=com.docker.compose.project={self.project}"
        return [
            line
            for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
            for line in docker(*kind, "--quiet", "--filter", label).split()
        ]

    def http(self) -> httpx.Client:
        """Open a client with the key, on the published port."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {self.key}"}, timeout=60
        )
