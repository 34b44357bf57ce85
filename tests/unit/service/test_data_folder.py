"""The data folder of an embedded pool: its own files are this user's alone, and nobody else's are touched."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from solver_service.pool.folder import ForeignFolderError, taken
from solver_service.pool.running import FolderTakenError, exclusive


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): mode(path) for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a program in it."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_a_folder_that_is_no_pools_is_refused_and_left_as_it_was(project: Path) -> None:
    """Also the second time: nothing of ours is written there that would make it look like one."""
    before = modes(project)
    for _ in range(2):
        with pytest.raises(ForeignFolderError, match=r"no pool's .*--data-dir"), taken(project):
            pass
    assert modes(project) == before


def test_beside_a_pools_files_everything_keeps_its_permissions(project: Path) -> None:
    """A pool that an earlier release made in a project: its own files become private, and those alone."""
    for name in ("pool.lock", "redis.log", "appendonlydir/appendonly.aof.1.incr.aof"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("")
    with taken(project):
        pass
    found = modes(project)
    assert (found["run.sh"], found["sub"]) == (0o755, 0o755)
    assert (found["."], found["appendonlydir"]) == (0o700, 0o700)
    assert {found["redis.log"], found["pool.lock"], found["appendonlydir/appendonly.aof.1.incr.aof"]} == {0o600}


def test_a_log_that_a_shell_has_just_opened_is_no_strangers_file(tmp_path: Path) -> None:
    """`up --data-dir pool > pool/pool.log`: the shell makes the file before the pool begins."""
    (tmp_path / "pool.log").touch(mode=0o644)
    with taken(tmp_path):
        pass
    assert mode(tmp_path / "pool.log") == 0o644


@pytest.mark.parametrize("there", [None, "", "lost+found"])
def test_a_new_or_empty_folder_becomes_this_users_alone(tmp_path: Path, there: str | None) -> None:
    """A file system of its own begins with `lost+found`; what is made in the folder later is private as well."""
    folder = tmp_path / "above" / "pool"
    if there is not None:
        (folder / there).mkdir(parents=True)
    with taken(folder):
        (folder / "redis.log").write_text("")
    assert mode(folder) == 0o700
    assert mode(folder / "redis.log") == mode(folder / "pool.lock") == 0o600
    with taken(folder):
        pass


def test_a_running_pools_folder_is_not_touched(tmp_path: Path) -> None:
    """Who is refused changes nothing."""
    (tmp_path / "redis.log").write_text("")
    with exclusive(tmp_path), pytest.raises(FolderTakenError), taken(tmp_path):
        pass
    assert mode(tmp_path / "redis.log") == 0o644
