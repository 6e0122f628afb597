"""A column without a single value is named, unless the schema says why it may have none."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dataengine.dataset import index
from dataengine.dataset.null_columns import MAY_BE_NULL, null_columns
from dataengine.dataset.verify import verify
from tests.support.tiny_dataset import EXPERTS, build

SCHEMAS = {**index.TABLES, **index.MORE_TABLES, "tracks": index.tracks_schema(EXPERTS)}
COLUMNS = [(name, column) for name, schema in SCHEMAS.items() for column in schema.names]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The tables of a sound dataset whose poses are long enough for every measure."""
    root = build(tmp_path_factory.mktemp("sound"))
    found = {name: pl.read_parquet(root / "index" / name / "*.parquet") for name in index.TABLES}
    return found | {"tracks": found["tracks"].with_columns(num_frames=pl.lit(20, pl.Int32))}


def without(tables: dict[str, pl.DataFrame], name: str, column: str) -> dict[str, pl.DataFrame]:
    kind = tables[name].schema[column]
    return {**tables, name: tables[name].with_columns(pl.lit(None, kind).alias(column))}


def test_a_sound_dataset_has_none(tables: dict[str, pl.DataFrame]) -> None:
    assert list(null_columns(tables)) == []
    assert list(null_columns({name: table.clear() for name, table in tables.items()})) == [], "no rows, nothing to say"


@pytest.mark.parametrize(("name", "column"), [pair for pair in COLUMNS if pair[0] in index.TABLES])
def test_a_planted_null_column_is_named(tables: dict[str, pl.DataFrame], name: str, column: str) -> None:
    allowed = MAY_BE_NULL.get(name, {}).get(column)
    damaged = without(tables, name, column)
    expected = [] if allowed is not None and allowed.when(damaged) else [(name, column)]
    assert list(null_columns(damaged)) == expected


@pytest.mark.parametrize(
    ("column", "named", "change"),
    [
        ("jitter", True, {}),
        ("jitter", False, {"tracks": pl.col("num_frames").clip(0, 5)}),
        ("bone_variation", False, {"joints": pl.lit(0.0, pl.Float32).alias("visible")}),
        ("expert_disagreement", True, {}),
        ("licence", False, {}),
        ("shard", True, {}),
    ],
)
def test_what_is_allowed_depends_on_the_dataset(
    tables: dict[str, pl.DataFrame], column: str, named: bool, change: dict[str, pl.Expr]
) -> None:
    damaged = without(tables, "clips", column)
    damaged |= {name: damaged[name].with_columns(expression) for name, expression in change.items()}
    assert (("clips", column) in null_columns(damaged)) == named


def test_one_expert_disagrees_with_nobody(tables: dict[str, pl.DataFrame]) -> None:
    alone = {**tables, "tracks": tables["tracks"].drop(f"share_{EXPERTS[0]}")}
    for name, column in (("clips", "expert_disagreement"), ("joints", "disagreement")):
        assert list(null_columns(without(alone, name, column))) == []
        assert list(null_columns(without(tables, name, column))) == [(name, column)]


def test_features_need_columns_about_labels(tables: dict[str, pl.DataFrame]) -> None:
    entry = pl.Series("name", ["json", "viclip_video.npy"])
    entries = [[{"name": name, "offset": 0, "size": 1} for name in entry]] * len(tables["clips"])
    kind = tables["clips"].schema["entries"]
    embedded = {**tables, "clips": tables["clips"].with_columns(pl.Series("entries", entries, kind))}
    assert {column for _, column in null_columns(embedded)} == {"label_cosine", "label_margin", "label_rank"}
    lone = {**embedded, "clips": embedded["clips"].with_columns(label=pl.lit("wave"))}
    assert "label_margin" not in {column for _, column in null_columns(lone)}, "one label has no rival"


def test_every_exception_is_a_column_and_has_a_sentence() -> None:
    for name, columns in MAY_BE_NULL.items():
        for column, allowed in columns.items():
            added = {"clips": index.LIFTED_TRACKS, "tracks": index.LIFTED_TRACKS}.get(name, ())
            assert column in SCHEMAS[name].names or column in (field.name for field in added)
            assert allowed.why.endswith(".")


def test_verify_names_the_column(tmp_path: Path) -> None:
    root = build(tmp_path)
    folder = root / "index/joints"
    rows = pl.read_parquet(folder / "*.parquet").with_columns(visible=pl.lit(None, pl.Float32))
    index.write_table(folder, rows.to_dicts(), index.JOINTS)
    counts = index.read_manifest(root)["counts"]
    index.write_manifest(root, index.build_manifest(root, counts, "0" * 64))
    assert [(p.path, p.what) for p in verify(root)] == [
        (
            "index/joints",
            "column visible is null in every row, which the schema does not allow; build the dataset again",
        )
    ]
