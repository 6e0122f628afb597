"""What a dataset holds: tables and columns of the index, members of a sample, reasons, queries, joint layouts."""

from __future__ import annotations

import pyarrow as pa

from dataengine.core import registry, skeletons
from dataengine.core.reasons import REASONS
from dataengine.dataset import descriptions, index, queries
from dataengine.dataset.null_columns import MAY_BE_NULL
from dataengine.passes import PASSES
from tools.reference.markdown import Pages, cell, code, join, prose, table


def pages() -> Pages:
    """Index, samples, reasons, queries, skeletons."""
    return {
        "reference/index-columns.md": ("Datasets/Index columns", columns_page()),
        "reference/sample.md": ("Datasets/Sample entries", sample_page()),
        "reference/reasons.md": ("Datasets/Reasons", reasons_page()),
        "reference/queries.md": ("Datasets/Audit queries", queries_page()),
        "reference/skeletons.md": ("Datasets/Joint layouts", skeletons_page()),
    }


def schemas() -> dict[str, pa.Schema]:
    """Every table of a dataset by name."""
    tracks = pa.schema([*index.TRACKS, *index.LIFTED_TRACKS])
    return {**index.TABLES, "tracks": tracks, **index.MORE_TABLES, "tombstones": index.TOMBSTONES}


def columns_page() -> str:
    """Every column of every table."""
    parts = [
        "# Index columns",
        f"The index is a set of Parquet tables in `dataset/index`, format version {index.FORMAT_VERSION}. Tombstones "
        f"lie "
        "beside it, in `dataset/tombstones`. Any Parquet reader opens them; "
        "`dataengine audit OUT --sql` and `dataengine.open(OUT)` give the tables by name.",
    ]
    for name, schema in schemas().items():
        told = descriptions.COLUMNS[name]
        null = MAY_BE_NULL.get(name, {})
        rows = [
            (
                code(field.name),
                code(_type(field.type)),
                cell(told.get(field.name, "")),
                cell(null[field.name].why) if field.name in null else "",
            )
            for field in schema
        ]
        rows += [(code(column), "`float`", cell(text), "") for column, text in told.items() if "<" in column]
        parts += [
            f"## {name}",
            prose(descriptions.TABLES[name]),
            table(("column", "type", "meaning", "may be null in every row"), rows),
        ]
    rows = [
        (code(column.name), code(_type(column.type)), cell(column.description), code(name))
        for name in PASSES
        for column in registry.component_class("passes", name).columns
        if column.name not in index.CLIPS.names
    ]
    parts += [
        "## Columns that passes add to clips",
        "They are there where the build runs the pass. The manifest lists them under `columns`.",
        table(("column", "type", "meaning", "pass"), rows),
    ]
    return join(*parts)


def _type(kind: pa.DataType) -> str:
    return "list of structs" if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) else str(kind)


def sample_page() -> str:
    """Members of a sample and keys of its JSON."""
    entries = [(code(f"KEY.{entry}"), cell(text)) for entry, text in descriptions.ENTRIES.items()]
    keys = [(code(key), cell(text)) for key, text in descriptions.JSON_KEYS.items()]
    return join(
        "# Sample entries",
        "A sample is a set of members of a tar file that share a key, in the convention of WebDataset. The key is the "
        "clip's id. "
        "M people, T frames, V joints. People are ranked: the first is the person the clip is about.",
        table(("member", "content"), entries),
        "## Keys of KEY.json",
        table(("key", "meaning"), keys),
    )


def reasons_page() -> str:
    """Every reason by which a clip is left out."""
    return join(
        "# Reasons",
        "Why a clip is not in a dataset. The list is closed: `index/rejects` holds no other reason, except those that "
        "components of other packages bring.",
        table(("reason", "meaning"), [(code(reason), cell(text)) for reason, text in REASONS.items()]),
    )


def queries_page() -> str:
    """Every named query with its SQL."""
    parts = [
        "# Audit queries",
        "`dataengine audit OUT NAME` answers a query of this list. `--sql` takes SQL of your own over the tables "
        "`clips`, "
        "`tracks`, `joints`, `rejects`, `accuracy` and `shares` (one row per track and expert).",
    ]
    for name, (about, sql) in queries.QUERIES.items():
        lines = [line.strip() for line in sql.strip().splitlines()]
        parts += [f"## {name}", prose(about[:1].upper() + about[1:] + "."), "```sql\n" + "\n".join(lines) + "\n```"]
    return join(*parts)


def skeletons_page() -> str:
    """Every joint layout."""
    parts = [
        "# Joint layouts",
        "A layout names its joints. Joints of the same name are the same point in every layout. `dataengine.convert` "
        "turns "
        "one layout into another; joints that a layout lacks are interpolated from those it has.",
    ]
    for name, layout in skeletons.SKELETONS.items():
        bones = ", ".join(f"{layout.joints[a]}–{layout.joints[b]}" for a, b in layout.bones)
        joints = ", ".join(f"{n} {joint}" for n, joint in enumerate(layout.joints))
        parts += [f"## {name}", f"{layout.num_joints} joints: {joints}.", f"Bones: {bones}."]
    return join(*parts)
