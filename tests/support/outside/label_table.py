"""A label map without a file: what it decides stands in the code."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.labels.label_map import LabelMap
from dataengine.labels.label_table import LabelTable


@dataclass(frozen=True)
class BlockLabels(LabelTable):
    """Labels of the source `blocks`."""

    table: str = "block_labels"

    def read(self) -> LabelMap:
        rules = {
            ("blocks", "walk"): ("walking", None),
            ("blocks", "lie"): ("lying down", None),
            ("blocks", "test"): (None, "a test picture"),
        }
        return LabelMap(frozenset({"blocks"}), rules, None, {"lying down": 0, "walking": 1}, ())
