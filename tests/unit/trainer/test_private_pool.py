"""A `--local` pool is private: settings meant for other pools do not reach it."""

import sys
from pathlib import Path

import pytest

from trainer.pool.embedded import embedded_pool

STUB = (
    "import os, sys; "
    "found = sorted(name for name in os.environ if name.startswith('GDSOLVER_')); "
    "print('gdsolver-pool ready: ' + ','.join(found), flush=True); sys.stdin.read()"
)


def test_a_private_pool_asks_for_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, host, port or Redis named in the environment for another pool is not handed on."""
    monkeypatch.delenv("GDSOLVER_DATA", raising=False)
    for name in ("API_KEY", "HOST", "PORT", "REDIS_URL", "LEASE_S"):
        monkeypatch.setenv(f"GDSOLVER_{name}", "1")
    with embedded_pool(tmp_path / "log", command=lambda workers, folder: [sys.executable, "-c", STUB]) as said:
        assert said == "GDSOLVER_LEASE_S"
