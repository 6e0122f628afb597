"""From features to an annotation plan, and from people's labels to proposals, by commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS
from tests.support import motion_files
from training.evaluate.clip_sheet import Card, clip_sheet
from training.runs.clip_features import of_table, read_labels

KINDS = ("run", "sit", "wave")


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Features of 60 clips around three directions, the third rare, and the true label of each."""
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat([0, 1, 2], [35, 20, 5]))
    rows = (np.eye(8)[owner] + rng.normal(0, 0.08, (60, 8))).astype(np.float32)
    ids = [f"clip-{n:02d}" for n in range(60)]
    path = tmp_path / "features.parquet"
    pl.DataFrame({"clip_id": ids, "label": [None] * 60, "feature": rows.tolist()}).write_parquet(path)
    return path, {clip_id: KINDS[kind] for clip_id, kind in zip(ids, owner)}


def filled(plan: Path, truth: dict[str, str], wrong: str = "") -> Path:
    """The plan with the labels that a person writes down; those of `wrong` are another's."""
    rows = list(csv.DictReader(plan.open()))
    with plan.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            label = truth[row["clip_id"]]
            writer.writerow({**row, "label": KINDS[KINDS.index(label) - 1] if row["clip_id"] == wrong else label})
    return plan


def test_a_plan_is_filled_in_and_all_others_get_proposals(
    table: tuple[Path, dict[str, str]], call: Any, tmp_path: Path
) -> None:
    path, truth = table
    plan = tmp_path / "plan.csv"
    code, out, _ = call("rank", path, "-n", 30, "--by", "k-centre", "--to", plan)
    assert code == 0 and "30 of 60 clips" in out and "annotate" in out
    rows = pl.read_csv(plan)
    assert rows["rank"].to_list() == list(range(1, 31)) and rows["stands_for"].sum() == 60
    assert {truth[clip_id] for clip_id in rows["clip_id"].head(3)} == set(KINDS)  # the rare one is among the first
    mistaken = rows["clip_id"][5]
    to = tmp_path / "proposals.parquet"
    code, out, _ = call("annotate", path, "--labels", filled(plan, truth, mistaken), "--to", to, "--json")
    assert code == 0
    told = json.loads(out)
    found = pl.read_parquet(to)
    assert code == 0 and told["proposed"] == 30 and len(found) == 60
    others = found.filter(pl.col("given").is_null())
    right = [truth[clip_id] == label for clip_id, label in others.select("clip_id", "proposed").iter_rows()]
    assert np.mean(right) > 0.9 and others["doubt"].null_count() == 30
    doubted = found.drop_nulls("doubt").sort("doubt", descending=True)
    assert doubted["clip_id"][0] == mistaken and doubted["doubt"][0] > 0.5 > doubted["doubt"][1]


def test_the_next_plan_leaves_out_what_is_labelled(
    table: tuple[Path, dict[str, str]], call: Any, tmp_path: Path
) -> None:
    path, truth = table
    whole, first, second = tmp_path / "whole.csv", tmp_path / "first.csv", tmp_path / "second.csv"
    by = ("--by", "k-centre")
    assert (
        call("rank", path, "-n", 12, *by, "--to", whole)[0] == call("rank", path, "-n", 7, *by, "--to", first)[0] == 0
    )
    code, out, _ = call("rank", path, "-n", 5, *by, "--to", second, "--labels", filled(first, truth), "--json")
    rows = pl.read_csv(second)
    assert code == 0 and json.loads(out)["clips"] == 5
    assert rows["clip_id"].head(5).to_list() == pl.read_csv(whole)["clip_id"].tail(5).to_list()
    assert rows["label"].drop_nulls().to_list() == [truth[clip_id] for clip_id in rows["clip_id"].tail(7)]


def test_clips_with_several_labels(table: tuple[Path, dict[str, str]], call: Any, tmp_path: Path) -> None:
    path, truth = table
    labels = tmp_path / "labels.csv"
    lines = [f"{clip_id} ,{kind + ';moves' if kind != 'sit' else kind}" for clip_id, kind in list(truth.items())[:40]]
    labels.write_text("\n".join(["clip_id,label", *lines, "clip-55,"]))
    code, out, _ = call("annotate", path, "--labels", labels, "--to", tmp_path / "p.csv")
    found = dict(pl.read_csv(tmp_path / "p.csv").select("clip_id", "proposed").iter_rows())
    wanted = {clip_id: "sit" if kind == "sit" else ";".join(sorted((kind, "moves"))) for clip_id, kind in truth.items()}
    assert code == 0 and "20 clips got proposals" in out and "micro-F1" in out
    assert np.mean([found[clip_id] == label for clip_id, label in wanted.items()]) > 0.9


def test_what_cannot_be_ranked_or_learnt_is_one_line(
    table: tuple[Path, dict[str, str]], call: Any, tmp_path: Path
) -> None:
    path, _ = table
    labels = tmp_path / "labels.csv"
    for text, what in (
        ("clip,label\nclip-01,run\n", "has no column clip_id"),
        ("clip_id,label\nclip-99,run\nclip-01,sit\n", "names 1 of 2 labelled clips that the data do not have"),
        ("clip_id,label\nclip-01,run\nclip-01,sit\n", "stands there twice"),
        ("clip_id,label\nclip-01,run\n", "at least two"),
        ("clip_id,label\n,run\nclip-99,sit\n", "a row with the label 'run' has no clip_id"),
        ("", "no CSV of labels"),
    ):
        labels.write_text(text)
        code, _, err = call("annotate", path, "--labels", labels, "--to", tmp_path / "p.csv")
        assert code == 1 and what in err and len(err.strip().splitlines()) == 1, err
    for arguments, what in (
        (("rank", path, "--to", tmp_path / "plan.txt"), "ends in .csv"),
        (
            ("rank", path, "--to", tmp_path / "plan.csv", "--by", "centre"),
            "allowed: classifier, facility-location, k-centre, k-means, random",
        ),
        (("rank", path, "--to", tmp_path / "plan.csv", "--data", "x"), "holds features already"),
        (("rank", tmp_path / "none.parquet", "--to", tmp_path / "plan.csv", "--by", "any"), "not ranked by 'any'"),
        (("rank", labels.with_suffix(".parquet"), "--to", tmp_path / "plan.csv"), "no table of features"),
    ):
        code, _, err = call(*arguments)
        assert code == 1 and what in err and len(err.strip().splitlines()) == 1, err
    pl.DataFrame({"clip_id": ["a", "b"], "feature": [[1.0], [1.0, 2.0]]}).write_parquet(path)
    with pytest.raises(TrainingError, match="not of one size"):
        of_table(path)
    with pytest.raises(TrainingError, match="no CSV"):
        read_labels(tmp_path / "nowhere.csv")


def test_the_page_draws_people_and_escapes_names() -> None:
    layout = SKELETONS["coco17"]
    joints = np.zeros((2, 5, 17, 2), np.float32)
    joints[0] = np.random.default_rng(0).normal(size=(5, 17, 2))
    joints[0, :, 4] = np.nan
    page = clip_sheet("<b>", [Card("<script>", "a & b", joints), Card("none", "", joints[1:])], layout, (0, 1, True))
    bones = sum(4 not in bone for bone in layout.bones)
    assert page.count("<line ") == 5 * bones and "nan" not in page and "nobody" in page
    assert "&lt;script&gt;" in page and "a &amp; b" in page and "<script" not in page


def test_a_run_ranks_its_own_clips(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomli_w

    monkeypatch.chdir(tmp_path)
    motion_files.write(tmp_path / "motions.npz")
    (tmp_path / "small.toml").write_text(tomli_w.dumps({**motion_files.TABLES, "run": {**motion_files.TABLES["run"]}}))
    assert call("train", "small.toml", "--data", "motions.npz", "--out", "run", "--set", "run.epochs=1")[0] == 0
    Path("motions.npz").rename("my motions.npz")
    given = ("--data", "my motions.npz", "--device", "cpu")
    code, out, err = call("rank", "run", "-n", 4, "--to", "plans/plan.csv", "--by", "random", *given)
    assert code == 0, err
    assert "annotate run '--data=my motions.npz' --labels plans/plan.csv --to proposals.csv" in out
    page = (tmp_path / "plans" / "plan.html").read_text()
    assert page.count("<figure>") == 4 and "4 clips to annotate" in page and "plans/plan.html" in out
