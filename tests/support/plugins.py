"""Other packages, installed for one test: a folder with their entry points on the path of this process and its
children."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataengine.core import registry

OUTSIDE = Path(__file__).with_name("outside")
"""The example package."""


def install(site: Path, name: str, entry_points: str, code: Path, patch: pytest.MonkeyPatch) -> None:
    """Install a package as pip does, with its code left where it is.

    Args:
        site: a new folder for what pip would write.
        entry_points: content of entry_points.txt.
        code: the folder that holds its modules.
    """
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for folder in (code, site):
        patch.syspath_prepend(str(folder))
    given = os.environ.get("PYTHONPATH", "")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(code), *given.split(os.pathsep)]).rstrip(os.pathsep))
    registry.refresh()


def install_outside(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Install the example package of `tests/support/outside`."""
    install(site, "outside", (OUTSIDE / "entry_points.txt").read_text(), OUTSIDE.parent, patch)
