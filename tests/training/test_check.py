"""Wrong labels, doubles and strangers are found in features; what people answer is what a build reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.labels import clip_table
from training.runs.check import check
from training.runs.clip_features import ClipFeatures

KINDS = ("run", "sit", "wave")


def planted(seed: int = 0) -> tuple[ClipFeatures, set[str], dict[str, str]]:
    """90 clips around three directions, nine labels exchanged, a clip twice, a stranger and an unlabelled clip."""
    rng = np.random.default_rng(seed)
    owner = np.repeat([0, 1, 2], 30)
    rows = (np.eye(8)[owner] + rng.normal(0, 0.05, (90, 8))).astype(np.float32)
    rows[1], rows[45] = rows[0], -rows[44]
    ids = [f"clip-{n:02d}" for n in range(90)]
    truth = {clip_id: KINDS[kind] for clip_id, kind in zip(ids, owner)}
    wrong = {ids[n] for n in (5, 15, 25, 35, 50, 55, 65, 75, 85)}
    labels: list[str | None] = [
        KINDS[KINDS.index(truth[clip_id]) - 1] if clip_id in wrong else truth[clip_id] for clip_id in ids
    ]
    labels[89] = None
    return ClipFeatures(tuple(ids), rows, tuple(labels)), wrong, truth


def test_planted_mistakes_doubles_and_strangers_are_found(tmp_path: Path) -> None:
    features, wrong, truth = planted()
    found = check(features, tmp_path / "findings.csv")
    table = pl.read_csv(found.path, schema_overrides={"label": pl.String})
    assert found.clips == 90 and found.page is None and found.unjudged == 0
    assert wrong <= set(table["clip_id"].head(10)), "the stranger's own label is doubted, too"
    assert table["doubt"].drop_nulls().is_sorted(descending=True) and table["doubt"][-1] is None
    rows = {row["clip_id"]: row for row in table.to_dicts()}
    assert all(rows[clip_id]["proposed"] == truth[clip_id] for clip_id in wrong)
    assert rows["clip-00"]["nearest"] == "clip-01" and rows["clip-00"]["similarity"] == pytest.approx(1, abs=1e-5)
    assert max(rows, key=lambda clip_id: rows[clip_id]["outlier"]) == "clip-45" and found.far >= 1
    free = rows["clip-89"]
    assert free["current_label"] is None is free["doubt"] and free["proposed"] == "wave"
    assert table["label"].null_count() == table["keep"].null_count() == 90


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    features = planted()[0]
    files = [check(features, tmp_path / name).path.read_bytes() for name in ("a.csv", "b.csv")]
    assert files[0] == files[1]


def test_classes_too_small_to_judge_are_said(tmp_path: Path) -> None:
    features, _, _ = planted()
    few = ClipFeatures(features.clip_ids, features.rows, ("rare", "rare", *features.labels[2:]))
    found = check(few, tmp_path / "f.parquet")
    table = pl.read_parquet(found.path).filter(current_label="rare")
    assert found.unjudged == 2 and table["doubt"].null_count() == table["proposed"].null_count() == 2
    none = check(ClipFeatures(features.clip_ids, features.rows, (None,) * 90), tmp_path / "n.parquet")
    assert none.doubted == none.unjudged == 0 and none.alike >= 2
    with pytest.raises(TrainingError, match="at least two"):
        check(ClipFeatures(("a",), features.rows[:1], (None,)), tmp_path / "x.csv")


def test_what_people_answer_is_what_a_build_reads(call: Any, tmp_path: Path) -> None:
    features, wrong, truth = planted()
    source, to = tmp_path / "features.parquet", tmp_path / "findings.csv"
    columns = {"clip_id": features.clip_ids, "label": features.labels, "feature": features.rows.tolist()}
    pl.DataFrame(columns).write_parquet(source)
    code, out, _ = call("check", source, "--to", to, "--json")
    assert code == 0 and json.loads(out)["doubted"] in (9, 10)
    code, out, _ = call("check", source, "--to", to)
    assert (
        code == 0
        and "of 89 labels are doubted, 86 of 90 clips look like another" in out
        and "curate.annotations" in out
    )
    assert not len(clip_table.read_verdicts([str(to)])), "findings change nothing until people answer"
    answers = pl.read_csv(to, infer_schema=False).with_columns(
        label=pl.when(pl.col("clip_id").is_in(list(wrong))).then(pl.col("proposed")),
        keep=pl.when(clip_id="clip-45").then(pl.lit("no")),
    )
    answers.write_csv(to)
    said = {row["clip_id"]: row for row in clip_table.read_verdicts([str(to)]).to_dicts()}
    assert {clip_id: row["label"] for clip_id, row in said.items() if row["label"]} == {w: truth[w] for w in wrong}
    assert said["clip-45"]["leave_out"] == "no reason given"
    assert call("check", source, "--to", tmp_path / "x.txt")[0] == 1
