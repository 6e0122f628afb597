"""What a newcomer does first: data to learn from, a run, several seeds, predictions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DataEngineError, TrainingError
from tests.support import motion_files
from tests.training.test_runs import made
from training import config
from training.data.formats import open_datasets
from training.evaluate.result import Result, class_table, of_seeds, table
from training.runs.evaluation import per_class
from training.runs.example import ACTIONS, write_example
from training.runs.predict import predict
from training.runs.report import open_split_of
from training.runs.run import load_run
from training.runs.train import train


def test_an_example_is_the_same_again_and_nobody_is_in_two_splits(tmp_path):
    one, two = write_example(tmp_path / "a.npz", 90, 3), write_example(tmp_path / "b" / "c.npz", 90, 3)
    with np.load(one) as first, np.load(two) as second:
        assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)
        people = {split: set(first["subject"][first["split"] == split].tolist()) for split in ("train", "val")}
        assert not people["train"] & people["val"] and len(people["val"]) == 3
        assert set(first["label"].tolist()) == set(range(len(ACTIONS)))
    (dataset,) = open_datasets(one, "train")
    assert dataset.skeleton.name == "body14" and dataset.labels == ACTIONS and dataset.groups is not None
    assert all(0.8 < np.isfinite(clip.keypoints).mean() < 1 for clip in dataset.read(range(4)))
    for path, clips in ((tmp_path / "a.npy", 90), (tmp_path / "a.npz", 20)):
        with pytest.raises(TrainingError, match=r"ends in \.npz, and 80 clips or more"):
            write_example(path, clips)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    path = motion_files.write(folder / "motions.npz")
    train(made(path, run={"epochs": 2}), folder / "run")
    return load_run(folder / "run"), path


def test_every_clip_gets_a_class_and_its_probability(run, tmp_path):
    network, path = run
    clips = open_split_of(network, [str(path)], (), "train", "")
    with pytest.warns(UserWarning, match="48 of 72 clips were learnt from: the figure is of the others alone"):
        found = predict(network, clips, tmp_path / "said.csv")
    table = pl.read_csv(tmp_path / "said.csv", schema_overrides={"clip_id": pl.String})
    assert table.columns == ["clip_id", "label", "predicted", "probability", "reason"] and len(table) == 72
    assert table["clip_id"].to_list() == list(clips[0].keys) and table["probability"].is_between(0.25, 1).all()
    with np.load(path) as arrays:
        new = table.filter(arrays["split"] == "val")
    assert found.result.value == pytest.approx((new["label"] == new["predicted"]).mean())
    assert sum(found.counts.values()) == 72
    assert sum(one["clips"] for one in found.result.details["per class"].values()) == 24
    copied = shutil.copy(path, tmp_path / "copied.npz")  # nothing tells that the clips of another file are the same
    again = predict(network, open_split_of(network, [str(copied)], (), "train", ""), tmp_path / "said.parquet")
    assert again.result.details["clips"] == 72
    with pytest.warns(UserWarning, match=r"all clips with a known label \(48\) were learnt from: no figure"):
        assert predict(network, open_split_of(network, (), (), "train"), tmp_path / "own.csv").result is None
    assert pl.read_parquet(again.path)["predicted"].to_list() == table["predicted"].to_list()
    with pytest.raises(TrainingError, match=r"said\.txt: .*\.csv, \.parquet"):
        predict(network, clips, tmp_path / "said.txt")


def test_a_network_without_classes_predicts_none(run, tmp_path):
    train(made(run[1], method={"name": "mcc", "queue": {"size": 8}}, run={"epochs": 1}), tmp_path / "run", stop_after=1)
    with pytest.raises(TrainingError, match=r"mcc. learnt no classes: .*finetune"):
        predict(load_run(tmp_path / "run"), [], tmp_path / "said.csv")


def test_accuracy_by_class_is_told_the_lowest_first():
    found = per_class([0, 1, 1, 1, 2], [0, 0, 0, 1, 1], ["sit", "run", "jump", "lie"])
    assert found == {
        "sit": {"clips": 3, "accuracy": pytest.approx(1 / 3), "taken for": "run"},
        "run": {"clips": 2, "accuracy": 0.5, "taken for": "jump"},
    }
    lines = class_table([Result("classifier", "top-1", 0.4, details={"per class": found})]).splitlines()
    assert lines[2:] == ["| sit | 3 | 33.3 % | run |", "| run | 2 | 50.0 % | jump |"]
    assert class_table([]) == ""


def test_names_of_classes_keep_tables_whole():
    names = ["sit |\n down", "\x1b[31mrun"]
    shown = table([Result("a|b", "top-1", 0.4)]) + class_table(
        [Result("x\ny", "top-1", 0.4, details={"per class": per_class([1, 0], [0, 1], names)})]
    )
    assert all(line.startswith("| ") or set(line) <= {"|", "-"} for line in shown.splitlines())
    assert "| sit \\| down | 1 | 0.0 % | \ufffd[31mrun |" in shown and "a\\|b" in shown and "| x y, class" in shown


@pytest.mark.slow
def test_commands_of_a_newcomer(call, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("example", "mine.npz", "--clips", "80")
    assert code == 0 and "train unik_small --data mine.npz" in out
    small = ("--set", "run.epochs=1", "--set", "run.tensorboard=false", "--set", "backbone.channels_base=8")
    code, out, _ = call(
        "train", run[0].folder, "--data", run[1], *small[:4], "--seeds", "2", "--out", "r", "--device", "cpu"
    )
    assert code == 0 and "r: 2 runs, of the seeds 0, 1" in out and "t over seeds, n 2" in out
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"seed0", "seed1", "seeds.json"}
    told = json.loads((tmp_path / "r" / "seeds.json").read_text())
    assert len(told["results"][0]["per_seed"]) == 2
    assert config.load("r/seed1").run.seed == 1
    code, out, _ = call("predict", "r/seed1", "--data", run[1], "--to", "said.csv", "--device", "cpu")
    assert code == 0 and "said.csv" in out and "mostly taken for" in out
    code, _, err = call("train", "unik_small", "--data", "mine.npz", "--device", "tpu")
    assert code == 1 and "--device 'tpu'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"run": {"accumulate": 100}}, "run.accumulate 100 batches make a step, and an epoch has 6: lower"),
        ({"method": {"name": "supervised", "smoothing": 2.0}}, "smoothing 2; allowed: from 0 to below 1"),
        ({"run": {"seed": 1 << 40}}, "seed"),
    ],
)
def test_numbers_that_cannot_be_are_told_before_the_first_step(tables, said, tmp_path):
    path = motion_files.write(tmp_path / "motions.npz")
    with pytest.raises(DataEngineError, match=said):
        train(made(path, **tables), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_weights_of_other_datasets_are_told(tmp_path):
    config = made("one.npz", data={"train": ["one.npz", "two.npz"], "weights": [1.0, 2.0]})
    assert config.on(["three.npz", "four.npz"]).data.weights == [1.0, 2.0]
    with pytest.warns(UserWarning, match="are those of 2 datasets, and 1 are named: every clip counts alike"):
        assert config.on(["three.npz"]).data.weights is None


def test_an_interval_of_a_share_is_shown_within_what_a_share_can_be():
    wide = of_seeds("probe", "top-1", [0.0, 0.33])
    assert wide.interval is not None and wide.interval.low is not None and wide.interval.low < 0
    assert wide.cells()[1] == "0.0 to 100.0 (t over seeds, n 2)" and "[0.0, 100.0]" in str(wide)
    assert "-" in of_seeds("error", "mse", [0.1, 0.9], unit="m").cells()[1]


@pytest.mark.parametrize("layers", [{"width": 0}, {"hidden": -1, "layers": 2}, {"layers": 10**9}, {"layers": -1}])
def test_sizes_of_a_projector_that_cannot_be_are_told(layers, tmp_path):
    path = motion_files.write(tmp_path / "motions.npz")
    for name in ("mcc", "tmor", "r3"):
        method = {"name": name, "projector": layers, **({"video": ""} if name == "tmor" else {})}
        with pytest.raises(TrainingError, match=r"projector\.hidden .* width .* layers .*; allowed: 1 and more"):
            train(made(path, method=method), tmp_path / name)
