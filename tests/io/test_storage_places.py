"""Whether a file can be written is asked before the work for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dataengine.io.storage import check_place, staged


def test_a_file_in_folders_that_are_not_there_yet_can_be_written(tmp_path: Path) -> None:
    assert check_place(tmp_path / "a" / "b" / "c.csv") == tmp_path / "a" / "b" / "c.csv"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, staged(tmp_path / "x.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "x.csv") and not list(tmp_path.iterdir())


def test_a_folder_a_file_in_a_file_and_a_folder_of_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place, number in ((tmp_path, errno.EISDIR), (tmp_path / "file" / "x.csv", errno.ENOTDIR)):
        with pytest.raises(OSError) as raised:
            check_place(place)
        assert raised.value.errno == number and raised.value.filename == str(place)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError):
        check_place(tmp_path / "new" / "x.csv")
