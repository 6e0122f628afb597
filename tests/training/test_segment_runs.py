"""Runs of `segment`: trained, killed and gone on, measured, exported, streamed, and shown by the command."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from dataengine.core import settings
from dataengine.core.errors import TrainingError
from tests.support.motion_files import TABLES
from training import config
from training.cli import app
from training.data.formats import open_datasets
from training.engine import checkpoint
from training.evaluate.segmentation import BOUNDARIES, FrameScores, segments_of
from training.evaluate.timelines import timeline
from training.runs.example import VARIED, write_untrimmed
from training.runs.export import export
from training.runs.predict import predict
from training.runs.run import CHECKPOINT, load_run
from training.runs.segment import _file_name, is_run_of_segment, segment, write_events
from training.runs.sliding import frame_scores
from training.runs.stream import exported_stream
from training.runs.train import train

ROOT = Path(__file__).parents[2]
SMALL = (
    "run.epochs=1",
    "run.batch=16",
    "run.tensorboard=false",
    "view.frames=32",
    'backbone.name="stgcn"',
    "backbone.channels_base=4",
    "backbone.blocks=[1, 1]",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_untrimmed(tmp_path_factory.mktemp("data") / "sequences.npz", 10)


def tables(data, *more):
    return config.load("segment_small", [*SMALL, *more]).on([str(data)])


def test_untrimmed_examples_are_the_same_for_the_same_numbers(data, tmp_path):
    again = write_untrimmed(tmp_path / "again.npz", 10)
    with np.load(data) as one, np.load(again) as two:
        assert all(np.array_equal(one[key], two[key]) for key in one)
    (train_set,) = open_datasets(str(data), "train")
    assert train_set.span_labels == VARIED and len(train_set) == 7
    spans = train_set.read([0])[0].spans
    assert sorted(spans[:, 0]) == list(range(len(VARIED))) and (spans[1:, 1] > spans[:-1, 2]).all()
    with pytest.raises(TrainingError, match="10 or more"):
        write_untrimmed(tmp_path / "few.npz", 2)


def test_a_configuration_of_another_method_is_refused():
    with pytest.raises(TrainingError, match="learns no classes of frames: give segment_small"):
        config.segmenting("unik_small")


def test_what_is_set_comes_before_the_least_number_of_steps(tmp_path):
    (tmp_path / "run.toml").write_text('[backbone]\nname = "unik"\n[method]\nname = "supervised"\n')
    assert config.segmenting(str(tmp_path)).run.min_steps == 600
    assert config.segmenting(str(tmp_path), overrides=["run.epochs=3"]).run.min_steps == 0
    assert config.segmenting(str(tmp_path), overrides=["run.epochs=3", "run.min_steps=9"]).run.min_steps == 9


def test_data_without_spans_are_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=np.random.default_rng(0).random((4, 1, 9, 13, 2)), split=["train"] * 4)
    answer = CliRunner().invoke(app, ["segment", "segment_small", "--data", str(tmp_path / "a.npz")])
    assert answer.exit_code and "no clip has spans of what happens when" in str(answer.exception)


def test_names_of_timelines_differ_as_the_clips_do():
    keys = ["a", "a b", "a/b", "a_b", "x" * 90, "y" + "x" * 90]
    assert _file_name("a_b") == "a_b" and len({_file_name(key) for key in keys}) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", _file_name(key)) for key in keys)


def test_a_timeline_is_drawn(tmp_path):
    spans = np.array([[0, 0, 30], [1, 20, 50]])
    scores = np.random.default_rng(0).random((60, 3)).astype(np.float32)
    clip = FrameScores("a", scores, spans, 25.0)
    path = timeline(clip, segments_of(scores, False, BOUNDARIES), ("x", "y", "z"), tmp_path / "a.png")
    assert path.stat().st_size > 1000


@pytest.mark.slow
def test_a_run_is_trained_measured_exported_and_streamed(data, tmp_path):
    folder = tmp_path / "run"
    result = train(tables(data), folder)
    assert [figure.metric for figure in result.results][:2] == ["frame mAP", "event mAP@0.1"]
    assert is_run_of_segment(folder) and not is_run_of_segment(tmp_path)
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn)
    (torn / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:5000])
    answer = CliRunner().invoke(app, ["segment", str(torn), "--data", str(data), "--to", str(tmp_path / "torn.csv")])
    assert answer.exit_code and "not a whole checkpoint" in str(answer.exception)
    assert not (tmp_path / "torn.csv").exists()
    run = load_run(folder)
    train_set, test = open_datasets(str(data), "train"), open_datasets(str(data), "val")
    report = segment(run, train_set, test, [run], drawn=2)
    first = report.results[0]
    assert first.value == pytest.approx(result.results[0].value)
    assert {"chance", "nearest neighbours", "ridge", "random network", "run"} <= first.baselines.keys()
    assert first.baselines["run"] == first.value and all(plot.is_file() for plot in report.plots)
    path, count = write_events(run, test, tmp_path / "events.csv")
    table = pl.read_csv(path)
    assert len(table) == count and (count == 0 or (table["end"] > table["start"]).all())
    assert table.columns == ["clip_id", "label", "start", "end", "start_s", "end_s", "score", "probability"]
    with np.load(data) as file:
        arrays = dict(file)
    np.savez(tmp_path / "nobody.npz", **{**arrays, "keypoints": np.full_like(arrays["keypoints"], np.nan)})
    nobody = open_datasets(tmp_path / "nobody.npz", "val")
    with pytest.warns(UserWarning, match="clips show no pose .* nothing happens in them"):
        assert write_events(run, nobody, tmp_path / "none.csv")[1] == 0
    with pytest.raises(TrainingError, match=r"learnt what happens when, not classes of clips: .*segment .* --to"):
        predict(run, test, tmp_path / "said.csv")
    exported = export(run, tmp_path / "model.onnx")
    assert exported.output == "frames" and "batch" in exported.dynamic
    clip, whole = test[0].read([0])[0], next(frame_scores(run.method, test, run.labels, run.preprocess, run.frames))
    stream = exported_stream(tmp_path / "model.onnx", fps=clip.fps, size=clip.size)
    steps = range(0, len(whole.scores), 7)
    parts = [stream.push(clip.keypoints[:, k : k + 7], clip.scores[:, k : k + 7]) for k in steps]
    np.testing.assert_allclose(np.concatenate([*parts, stream.close()]), whole.scores, atol=1e-5)
    with pytest.raises(TrainingError, match="no network that tells classes of frames"):
        exported_stream(data)
    head = train(config.segmenting(str(folder), overrides=["run.epochs=1"]).on([str(data)]), tmp_path / "again")
    assert head.history.steps == result.history.steps


@pytest.mark.slow
def test_a_head_on_a_frozen_network_leaves_the_network_as_it_is(data, tmp_path):
    method = {"name": "mcc", "decoder_width": 8, "playback": {"frames": 8}, "queue": {"size": 8, "momentum": 0.9}}
    own = {"data": {"train": [str(data)]}, "method": method, "run": {"batch": 4}}
    base = config.validate(settings.merge({**TABLES, "method": {}}, own), "test")
    train(base, tmp_path / "base")
    given = ["optim.backbone_scale=0", "run.epochs=1", "run.batch=8", "run.min_steps=1"]
    train(config.segmenting(str(tmp_path / "base"), overrides=given).on([str(data)]), tmp_path / "head")
    one, two = (checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("base", "head"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


CHILD = """
import sys
sys.path[:0] = [{root!r}]
import torch
torch.set_num_threads(1)
from tests.training.test_segment_runs import tables
from training.runs.train import train
train(tables({data!r}, "run.epochs=2", "run.save_every=0.0", "run.log_every=1"), {folder!r})
"""


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_it_goes_on_bit_for_bit(data, tmp_path):
    code = {
        name: CHILD.format(root=str(ROOT), data=str(data), folder=str(tmp_path / name)) for name in ("whole", "killed")
    }
    whole = subprocess.Popen([sys.executable, "-c", code["whole"]], stderr=subprocess.PIPE, text=True)
    rng, kills, log = random.Random(4), 0, tmp_path / "killed" / "log.jsonl"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code["killed"]], stderr=subprocess.PIPE, text=True)
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        while process.poll() is None:
            if log.exists() and len(log.read_text().splitlines()) >= begun + 2:
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.005)
    process = subprocess.run([sys.executable, "-c", code["killed"]], stderr=subprocess.PIPE, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert whole.wait(300) == 0, whole.stderr.read()
    one, two = (checkpoint.read(tmp_path / name / "last.safetensors")[0] for name in ("whole", "killed"))
    assert kills and one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    results = [json.loads((tmp_path / name / "summary.json").read_text())["results"] for name in ("whole", "killed")]
    assert results[0] == results[1]
