"""The folder `dataset` of a build: one at a time changes it, in one step, and what a killed process left is mended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataengine.core.errors import DatasetError
from dataengine.dataset import takedown_records
from dataengine.dataset.index import MANIFEST, read_manifest
from dataengine.io import switch
from dataengine.io.lease import lease

PATIENCE = 600.0
"""Seconds that a change of the dataset waits for another one. Each takes moments: shards are linked, not copied."""


@contextmanager
def changing(out: Path, purpose: str) -> Iterator[Path]:
    """Hold what changes of `OUT/dataset` and of `OUT/takedowns` have in common, with both whole: a takedown waits while
    a build puts its dataset in place, and the other way round.

    Yields:
        The folder of the dataset, which may be absent.
    """
    dataset = out / "dataset"
    with lease(out, "dataset", purpose, wait=PATIENCE):
        mend(out)
        yield dataset


def mend(out: Path) -> None:
    """Finish what a killed process left of a dataset and its takedowns; for who holds the lease."""
    dataset = out / "dataset"
    switch.recover(dataset, MANIFEST)
    takedown_records.clear(out)
    takedown_records.adopt(out)
    if dataset.is_dir():
        takedown_records.derive(out, dataset)


def refuse_link(out: Path) -> None:
    """Refuse a dataset that is a link, or no folder: a build replaces the folder as a whole.

    Raises:
        DatasetError: naming it.
    """
    dataset = out / "dataset"
    if dataset.exists() and not dataset.is_dir():
        raise DatasetError(f"{dataset} is not a folder: remove it, or give another --out")
    if dataset.is_symlink():
        raise DatasetError(
            f"{dataset} is a link, and a build puts a new folder in its place: remove the link, or give the folder "
            "that is to hold the whole build with --out"
        )


def put(out: Path, staging: Path, manifest: Mapping[str, Any], purpose: str) -> bool:
    """Put a finished dataset in place of the one of a build, in one step, with the tombstones of its takedowns.

    Args:
        staging: the folder of the dataset, on the same disk; it is moved, or removed where the dataset there is the
            same.
        manifest: of that dataset.

    Returns:
        Whether it was put there.
    """
    with changing(out, purpose) as dataset:
        refuse_link(out)
        if _same(dataset, manifest):
            shutil.rmtree(staging)
            return False
        takedown_records.derive(out, staging)
        switch.put(staging, dataset, MANIFEST)
        return True


def _same(dataset: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the dataset there is the one of this manifest, with all files in place at their lengths."""
    try:
        if read_manifest(dataset)["fingerprint"] != manifest["fingerprint"]:
            return False
        return all((dataset / file["path"]).stat().st_size == file["bytes"] for file in manifest["files"])
    except (DatasetError, OSError):
        return False
