"""One data folder, one pool."""

from pathlib import Path

import pytest

from solver_service.pool.running import FolderTakenError, exclusive


def test_a_data_folder_serves_one_pool(tmp_path: Path) -> None:
    """A second pool on it is refused, and let in once the first has ended."""
    with exclusive(tmp_path), pytest.raises(FolderTakenError, match="another pool runs"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass
