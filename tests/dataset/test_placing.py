"""A build changes its own folder `dataset` and nothing that lies elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.core.errors import DatasetError
from dataengine.dataset.placing import changing
from tests.support.tiny_dataset import build


def test_a_dataset_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere = build(tmp_path / "elsewhere", clips=2)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    (out / "dataset").symlink_to(elsewhere)
    with pytest.raises(DatasetError, match=r"is a link to .*: a build exchanges this folder"), changing(out, "build"):
        pass
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before
