"""Component `table` of the kind `relabel`: a label map in a file that people can read, discuss and change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.settings import find_folder, find_manifest
from dataengine.labels.label_map import COLUMNS, RULES, UNKNOWN, Decision, LabelMap, read
from dataengine.labels.names import key

__all__ = ["COLUMNS", "RULES", "LabelTable", "find_table", "label_table"]

_FORMS = (".csv", ".json", ".txt")


def find_table(name: str) -> Path | None:
    """The file of a label map: `name` is the path of a .csv, .json or .txt, or names NAME.csv in a folder of
    manifests."""
    if name.endswith(_FORMS):
        return path if (path := Path(name)).is_file() else None
    return find_manifest(f"{name}.csv") if Path(name).name == name else None


@dataclass(frozen=True)
class LabelTable(Component):
    """A label map. It decides the labels of the sources it names, and of no others.

    Attributes:
        table: name of a manifest; or path of a CSV with the columns source, source_label, label, rule, reason; or path
            of the `*_label.json` or `classes.txt` of the authors of Posetics, which decide the labels of `kinetics400`.

    Raises:
        ComponentError: the file is not found, or a line of it is wrong.
    """

    table: str

    def __post_init__(self) -> None:
        _ = self._map

    @cached_property
    def _map(self) -> LabelMap:
        return self.read()

    def read(self) -> LabelMap:
        """The map: what the file says. A table of another package may make it in another way.

        Raises:
            ComponentError: as the class.
        """
        path = find_table(self.table)
        if path is None:
            names = sorted({file.stem for folder in find_folder("manifests") for file in folder.glob("*_labels.csv")})
            raise ComponentError(
                f"relabel = {self.table!r}: there is no such label map{suggestion(self.table, names)}, "
                "or the path of a .csv, a *_label.json or a classes.txt"
            )
        return read(path)

    @property
    def rules(self) -> dict[tuple[str, str], Decision]:
        """(source, source label) -> (label, None), or (None, why it is left out)."""
        return self._map.rules

    @property
    def sources(self) -> frozenset[str]:
        """The sources whose labels the table decides."""
        return self._map.sources

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the map was read from."""
        return self._map.files

    @property
    def by_video(self) -> bool:
        """Whether the map labels videos by their ids instead of classes by their names."""
        return self._map.videos is not None

    def label_ids(self) -> dict[str, int]:
        """label -> number, in alphabetical order, or as the authors of Posetics number them."""
        return dict(self._map.ids)

    def apply(self, source: str, source_label: str | None, video_id: str | None = None) -> Decision:
        """(label of a clip, None), or (None, why the clip is left out).

        Sources that the map does not name keep their labels. A clip without a label stays without one. Case,
        underscores, quotes and brackets of `source_label` make no difference.

        Raises:
            ComponentError: the table labels videos, and `video_id` is not given.
        """
        if source not in self.sources:
            return source_label, None
        if self._map.videos is not None:
            if video_id is None:
                raise ComponentError(
                    f"relabel = {self.table!r} labels videos by their ids; the clip's video id is needed"
                )
            label = self._map.videos.get(video_id)
            return label, UNKNOWN if label is None else None
        if source_label is None:
            return None, None
        return self._map.keyed.get((source, key(source_label)), (None, UNKNOWN))


def label_table(name: str) -> LabelTable:
    """The table of a recipe's `curate.relabel`: one that another package offers under this name, or a manifest or file.

    Raises:
        ComponentError: there is no such table, or it is wrong.
    """
    if name != "table" and name in registry.names("relabel"):
        found: LabelTable = registry.create("relabel", name)
    else:
        found = registry.create("relabel", "table", {"table": name})
    return found
