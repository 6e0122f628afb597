"""A pass over the table of all clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dataengine.passes.base import Row
from dataengine.passes.table_pass import Table, TablePass, leave_out


@dataclass(frozen=True)
class VideoCap(TablePass):
    """Keeps the first clips of every label.

    Attributes:
        most: clips of a label that are kept.
    """

    most: int = 2

    version = 1
    after = ("decisions",)
    reasons: ClassVar[Mapping[str, str]] = {"enough_of_label": "its label has as many clips as wanted"}

    def decide(self, table: Table) -> list[Row]:
        counts: Counter[str] = Counter()
        for row in table.rows:
            if row["kept"]:
                counts[row["label"]] += 1
                if counts[row["label"]] > self.most:
                    leave_out(row, "enough_of_label", f"at most {self.most} of {row['label']}")
        return table.rows
