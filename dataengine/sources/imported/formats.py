"""The formats that poses are imported from: how each is opened, and the layout that a number of joints stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from dataengine.core.errors import SourceError
from dataengine.sources.imported import unik
from dataengine.sources.imported.openpose import OpenPoseFolder
from dataengine.sources.imported.people_lists import PeopleFile, files_of
from dataengine.sources.imported.pyskl import PysklFile
from dataengine.sources.imported.saved_clip import SavedClip

Format: TypeAlias = Literal["pyskl", "coco", "unik", "openpose", "alphapose"]
FORMATS: tuple[Format, ...] = ("pyskl", "coco", "unik", "openpose", "alphapose")

_COMMON = {13: "lcr13", 14: "body14", 16: "mpii16", 17: "coco17", 18: "openpose18", 25: "openpose25"}
_COMMON |= {26: "halpe26", 33: "blazepose33"}
LAYOUTS: dict[Format, dict[int, str]] = {
    "pyskl": _COMMON | {25: "nturgbd25"},
    "coco": _COMMON,
    "unik": unik.LAYOUTS,
    "openpose": _COMMON,
    "alphapose": _COMMON,
}
"""The layout that a number of joints stands for in a format where nobody says otherwise."""


class Reader(Protocol):
    """A file or folder of saved poses that was opened.

    Attributes:
        notes: what of it is passed over or was decided, one line each; complete when all clips were read.
        classes: names of classes by number, where it has some.
        layout: of the joints, where it names one; '' before that is known.
    """

    notes: list[str]
    classes: tuple[str, ...]
    layout: str

    def __len__(self) -> int: ...

    def clips(self) -> Iterator[SavedClip]:
        """The clips in an order that depends on the files alone, each once."""
        ...


class PeopleFiles:
    """Files of COCO or AlphaPose, opened one after another."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, format_: str) -> None:
        self.notes: list[str] = []
        self.layout = ""
        self._files = files_of(path, format_)

    def __len__(self) -> int:
        return len(self._files)

    def clips(self) -> Iterator[SavedClip]:
        """The clips file by file; a file that cannot be read is a clip that cannot be taken."""
        for path, name, images in self._files:
            try:
                file = PeopleFile(path, name, images)
            except SourceError as error:
                if len(self._files) == 1:
                    raise
                yield SavedClip(name, reason="bad_row", detail=str(error).replace(str(path), path.name))
                continue
            self.layout = self.layout or file.layout
            yield from file.clips()
            self.notes += file.notes


def poses_in(path: Path) -> Path:
    """The folder of poses of what `dataengine export` wrote, which lies beside a table; else the path itself."""
    inner = next((path / name for name in ("poses", "annotations") if (path / name).is_dir()), None)
    return inner if inner is not None and not any(path.glob("*_keypoints.json")) else path


def open_reader(format_: Format, path: Path, splits: str) -> Reader:
    """Open a file or folder of saved poses.

    Args:
        format_: of the files.
        path: of the file or folder.
        splits: which of several sets of splits to take; '' the first.

    Raises:
        SourceError: there is nothing of this format.
    """
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder; give what another program saved")
    if format_ in ("openpose",) and not path.is_dir():
        raise SourceError(f"{path}: OpenPose writes a folder of *_keypoints.json; give the folder")
    if format_ == "pyskl" and not path.is_file():
        raise SourceError(f"{path}: a pyskl pickle is a file; this is a folder")
    if splits and format_ not in ("pyskl", "unik"):
        raise SourceError(f"--splits {splits}: {format_} files have no splits; give a table with a column split")
    if format_ == "pyskl":
        return PysklFile(path, splits)
    if format_ == "unik":
        return unik.UnikFolder(path, splits)
    path = poses_in(path)
    return OpenPoseFolder(path) if format_ == "openpose" else PeopleFiles(path, format_)
