"""`gdsolver-pool backup FILE`: what lies beside the file, and who else writes it, does a backup no harm."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
from typer.testing import CliRunner, Result

from solver_service.backup.take import Kept
from solver_service.cli import app

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is a name alone."""

    @contextmanager
    def opened(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace()

    monkeypatch.setattr("solver_service.pool.keeping.opened", opened)


def backup(file: Path | str) -> Result:
    return RUN.invoke(app, ["backup", str(file)])


def test_two_backups_to_one_name_are_each_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins and ends within another: the file is always that of the one that ended last."""
    file, seen = tmp_path / "pool.backup", []

    def take(_: object, writing: BinaryIO) -> Kept:
        if not seen:
            seen.append("outer")
            writing.write(b"first half, ")
            assert backup(file).exit_code == 0
            assert file.read_bytes() == b"inner"
            writing.write(b"second half")
        else:
            writing.write(b"inner")
        return Kept()

    monkeypatch.setattr("solver_service.backup.take.take", take)
    assert backup(file).exit_code == 0
    assert file.read_bytes() == b"first half, second half"
    assert [path.name for path in tmp_path.iterdir()] == ["pool.backup"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_an_earlier_backup_left_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """And stays: it is not ours to delete."""
    left = tmp_path / "pool.backup.part"
    left.mkdir() if kind == "folder" else left.write_text("half")
    monkeypatch.setattr("solver_service.backup.take.take", lambda _, writing: Kept(jobs=writing.write(b"x")))
    done = backup(tmp_path / "pool.backup")
    assert done.exit_code == 0, done.output
    assert left.exists()


def test_a_backup_that_fails_leaves_the_one_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it fails with."""
    file = tmp_path / "pool.backup"
    file.write_text("good")

    def take(_: object, writing: BinaryIO) -> Kept:
        writing.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("solver_service.backup.take.take", take)
    assert backup(file).exit_code != 0
    assert file.read_text() == "good"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["", ".", "/dev/null"])
def test_a_name_that_is_no_files_is_told(name: str) -> None:
    """In one line, in words."""
    done = backup(name)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "name a file for the backup" in done.output
