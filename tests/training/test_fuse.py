"""Several networks fused: sums of probabilities, whatever the order of their classes, with floors beside."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from dataengine.core import settings
from dataengine.core.errors import TrainingError
from tests.support import motion_files
from tests.support.motion_files import TABLES
from training import config
from training.runs.classify import class_probabilities
from training.runs.fuse import Clips, fuse, load_seeds, open_clips, titles_of, train_streams
from training.runs.probe import probe
from training.runs.report import open_split_of
from training.runs.run import load_run

STREAMS = ("joint", "bone", "motion")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return motion_files.write(tmp_path_factory.mktemp("data") / "motions.npz")


def made(path, **tables):
    return config.validate(settings.merge({**TABLES, "data": {"train": [str(path)]}}, tables), "test")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "streams"
    return folder, train_streams(made(data, run={"epochs": 2}), folder, STREAMS, floors=False)


def test_streams_are_trained_and_added(trained):
    folder, found = trained
    assert [result.name for result in found.results] == [*(f"classifier {s}" for s in STREAMS), "joint + bone + motion"]
    runs = [load_run(folder / stream) for stream in STREAMS]
    assert [run.config.preprocess.stream for run in runs] == list(STREAMS)
    test = open_split_of(runs[0], (), (), "val")
    each = [class_probabilities(run.backbone, test, run.preprocess, run.config)[0] for run in runs]
    report, scores = fuse(runs, open_clips(runs), weights=(1, 2, 1))
    np.testing.assert_allclose(scores, (each[0] + 2.0 * each[1] + each[2]) / 4, atol=1e-6)
    together = report.results[-1]
    assert together.name == "1 joint + 2 bone + 1 motion" and "per class" in together.details
    assert {"chance", "nearest neighbour", "ridge", "random network"} <= together.baselines.keys()
    told = json.loads((folder / "streams.json").read_text())
    assert [one["name"] for one in told["results"]] == [result.name for result in found.results]
    log = (folder / "joint" / "log.jsonl").read_text()
    again = train_streams(made(*runs[0].config.data.train, run={"epochs": 2}), folder, STREAMS, floors=False)
    assert again.results == found.results and (folder / "joint" / "log.jsonl").read_text() == log


def test_a_network_with_itself_is_itself(trained):
    run = load_run(trained[0] / "joint")
    test = open_split_of(run, (), (), "val")
    report, _ = fuse([run, run], Clips([test, test]))
    assert {result.value for result in report.results} == {trained[1].results[0].value}
    assert "ridge" not in report.results[-1].baselines
    both = probe(run, open_split_of(run, (), (), "train"), test, second=load_run(trained[0] / "bone"), floors=False)
    assert both.results[-1].name == "joint + bone"


def test_networks_without_classes_are_fused_by_their_probes(trained, data, tmp_path):
    from training.runs.train import train

    folder = tmp_path / "mcc"
    base = made(data, run={"epochs": 1}, view={"frames": 16})
    mcc = config.validate({**base.to_toml(), "method": {"name": "mcc", "queue": {"size": 64}}}, "test")
    train(mcc, folder)
    runs = [load_run(folder), load_run(trained[0] / "bone")]
    report, scores = fuse(runs, open_clips(runs), floors=False)
    assert [result.name for result in report.results] == ["linear probe mcc", "linear probe bone", "mcc + bone"]
    np.testing.assert_allclose(scores.sum(1), 1)
    with pytest.raises(TrainingError, match="mcc learnt no classes, so all are probed"):
        fuse(runs, open_clips(runs, learn=False))


def test_what_cannot_be_fused_is_told(trained, data, tmp_path):
    runs = [load_run(trained[0] / stream) for stream in STREAMS]
    with pytest.raises(TrainingError, match="fuse adds two or more"):
        fuse(runs[:1], open_clips(runs[:1]))
    for weights in ((1.0,), (1.0, -1.0, 0.0), (0.0, 0.0, 0.0), (1.0, np.inf, 1.0)):
        with pytest.raises(TrainingError, match="allowed: one finite number for each"):
            fuse(runs, open_clips(runs), weights=weights)
    other, own = open_clips(runs[:1], split="train", val_split="train"), open_clips(runs[:1])
    with pytest.raises(TrainingError, match="measured on other clips"):
        fuse(runs[:2], Clips([own.test[0], other.test[0]]))
    for streams in (("joint",), ("joint", "joint"), ("joint", "bones")):
        with pytest.raises(TrainingError, match="two or more different ones of joint, bone, motion, bone_motion"):
            train_streams(made(data), tmp_path, streams)
    with pytest.raises(TrainingError, match=r"one after the other.*fuse"):
        train_streams(made(data, run={"devices": 2}), tmp_path, STREAMS)
    with pytest.raises(TrainingError, match="is no run"):
        load_seeds([tmp_path])
    assert titles_of([runs[0], runs[0]]) == [str(runs[0].folder)] * 2


def test_the_command_fuses_runs_and_seeds(trained, tmp_path, call):
    runs = [str(trained[0] / stream) for stream in STREAMS]
    code, out, _ = call("fuse", *runs, "--no-floors", "--to", str(tmp_path / "all.csv"))
    assert code == 0 and "joint + bone + motion" in out and "top-1" in out
    assert pl.read_csv(tmp_path / "all.csv").columns == ["clip_id", "label", "predicted", "probability", "reason"]
    for name in ("one", "two"):
        for seed in (0, 1):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"seed{seed}").symlink_to(trained[0] / ("joint" if name == "one" else STREAMS[seed + 1]))
    (tmp_path / "two" / "seed2").symlink_to(trained[0] / "bone")
    code, out, _ = call("fuse", str(tmp_path / "one"), str(tmp_path / "two"), "--no-floors", "--json")
    assert code == 0
    told = json.loads(out)
    assert code == 0 and [one["name"] for one in told["results"]][-1] == "one + two"
    assert len(told["results"][-1]["per_seed"]) == 2
    code, _, err = call("fuse", *runs, "--to", "all.txt")
    assert code and "allowed endings: .csv, .parquet" in err
    code, _, err = call("train", "unik_small", "--streams", "joint,bone", "--seeds", "2", "--data", "x.npz")
    assert code and "dataengine-train fuse" in err
