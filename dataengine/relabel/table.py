"""A label map kept as a CSV, so that people can read, discuss and change it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataengine.errors import ComponentError, suggestion

COLUMNS = ("source", "source_label", "label", "rule", "reason")


def manifest_folders() -> list[Path]:
    """Folders that hold manifests, nearest first: ./manifests, the checkout's, the packaged copies."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (Path.cwd() / "manifests", package.parent / "manifests", package / "_manifests") if folder.is_dir()]


def find_table(name: str) -> Path | None:
    """The file of a label map: `name` is a path to a CSV, or names NAME.csv in a folder of manifests."""
    candidates = [Path(name)] if name.endswith(".csv") else [folder / f"{name}.csv" for folder in manifest_folders()]
    return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class LabelTable:
    """A label map. It speaks for the sources it names and for no others.

    Attributes:
        table: name of a manifest, or path of a CSV with the columns source, source_label, label, rule, reason.

    Raises:
        ComponentError: the file is not found, or a line of it is wrong.
    """

    table: str

    def __post_init__(self) -> None:
        _ = self.rules

    @cached_property
    def rules(self) -> dict[tuple[str, str], tuple[str | None, str | None]]:
        """(source, source label) -> (label, None), or (None, why it is left out)."""
        path = find_table(self.table)
        if path is None:
            names = sorted({file.stem for folder in manifest_folders() for file in folder.glob("*_labels.csv")})
            raise ComponentError(
                f"relabel = {self.table!r}: there is no such label map{suggestion(self.table, names)}, or the path of a .csv"
            )
        return _read(path)

    @cached_property
    def sources(self) -> frozenset[str]:
        """The sources whose labels the table decides."""
        return frozenset(source for source, _ in self.rules)

    def label_ids(self) -> dict[str, int]:
        """The labels that the table gives, numbered in alphabetical order."""
        return {label: number for number, label in enumerate(sorted({label for label, _ in self.rules.values() if label is not None}))}

    def apply(self, source: str, source_label: str | None) -> tuple[str | None, str | None]:
        """The label of a clip and None, or None and why the clip is left out.

        A source that the table does not name keeps its label; so does a clip without one.
        """
        if source not in self.sources or source_label is None:
            return source_label, None
        return self.rules.get((source, source_label), (None, f"{source_label!r} is not in the table {Path(self.table).stem}"))


def _read(path: Path) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    rules: dict[tuple[str, str], tuple[str | None, str | None]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ComponentError(f"{path}: the columns are {', '.join(reader.fieldnames or ()) or '(none)'}; want {', '.join(COLUMNS)}")
            for row in reader:
                if None in row or None in row.values():
                    raise ComponentError(f"{path} line {reader.line_num}: want {len(COLUMNS)} fields")
                key, label, reason = (row["source"], row["source_label"]), row["label"] or None, row["reason"] or None
                if not all(key):
                    raise ComponentError(f"{path} line {reader.line_num}: source or source_label is empty")
                if (label is None) == (reason is None):
                    raise ComponentError(
                        f"{path} line {reader.line_num}: give a label, or a reason why {row['source_label']!r} is left out"
                    )
                if key in rules:
                    raise ComponentError(
                        f"{path} line {reader.line_num}: {key[0]} {key[1]!r} is already there; give each source label once"
                    )
                rules[key] = (label, reason)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ComponentError(f"{path} cannot be read as a CSV: {error}") from error
    return rules
