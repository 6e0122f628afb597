"""A column of the index: a pass over the table that leaves nothing out."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from dataengine.passes.base import Column, Row
from dataengine.passes.table_pass import Table, TablePass


@dataclass(frozen=True)
class NameLength(TablePass):
    """Letters of the clip id."""

    version = 1
    after = ("decisions",)
    columns = (Column("name_length", pa.int32(), description="letters of the clip id"),)

    def decide(self, table: Table) -> list[Row]:
        for row in table.rows:
            row["name_length"] = len(row["clip_id"])
        return table.rows
