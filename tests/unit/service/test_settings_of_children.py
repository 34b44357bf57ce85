"""What a child's environment says is what its parent's settings are, whatever the parent's own environment said."""

import pytest

from solver_service.settings import Settings

OTHERS: dict[str, object] = {
    "redis_url": "unix:///x.sock",
    "host": "::1",
    "port": 9001,
    "api_key": "a key of some length",
    "require_keys": True,
    "worker_memory_mb": 700,
}


def test_a_child_has_every_setting_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags that were given, variables and defaults; variables that are wrong, or written otherwise, are replaced."""
    numbers = {name: field.default + 1 for name, field in Settings.model_fields.items() if type(field.default) is int}
    parent = Settings.model_validate({**numbers, **OTHERS})
    for name in Settings.model_fields:
        monkeypatch.setenv(f"gdsolver_{name}", "wrong")
    child = parent.environment({"GDSOLVER_PORT": "wrong", "gdsolver_host": "wrong", "HOME": "/root"})
    for name in Settings.model_fields:
        monkeypatch.delenv(f"gdsolver_{name}")
    assert child["HOME"] == "/root"
    assert "gdsolver_host" not in child
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    assert Settings() == parent


def test_what_is_not_set_is_not_set_for_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is no key."""
    for name, value in Settings().environment({}).items():
        monkeypatch.setenv(name, value)
    assert Settings() == Settings(api_key=None, worker_memory_mb=None)
    assert "GDSOLVER_API_KEY" not in Settings().environment({})
