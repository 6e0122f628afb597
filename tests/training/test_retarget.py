"""From bodies in space to a report of retargeting, and to a network that learnt from composed motions."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.commands import dataengine_train as call
from training import config
from training.runs.example import write_example
from training.runs.report import open_split_of
from training.runs.retarget import retarget
from training.runs.run import load_run
from training.runs.train import train

SMALL = ["run.workers=0", "run.tensorboard=false", "view.frames=16", "run.batch=16"]
AUTOENCODER = ["backbone.widths=[8, 12, 16]", "backbone.directions=12"]
CONTRAST = ["backbone.channels_base=4", "method.steps=4", "method.queue.size=16", "method.projector.hidden=8"]


@pytest.mark.parametrize("name", ["lac", "lac_small", "lac_retarget", "lac_retarget_small"])
def test_committed_configurations_are_complete(name):
    given = config.load(name)
    assert given.run.name == name and given.run.batch % 8 == 0


@pytest.mark.slow
def test_both_stages_from_the_command_line(tmp_path):
    bodies = write_example(tmp_path / "bodies.npz", 80, space=True)
    pictures = write_example(tmp_path / "pictures.npz", 80)
    first, second = tmp_path / "first", tmp_path / "second"
    options = [part for one in [*SMALL, *AUTOENCODER, "run.epochs=1"] for part in ("--set", one)]
    code, _, err = call("train", "lac_retarget_small", "--data", str(bodies), "--out", str(first), *options)
    assert code == 0, err
    code, out, err = call("retarget", str(first), "--json")
    assert code == 0, err
    assert code == 0
    report = json.loads(out)
    result = report["results"][0]
    assert set(result["baselines"]) == {"as it is", "standing still", "moments", "nearest neighbour", "random network"}
    assert result["baselines"]["nearest neighbour"] < result["baselines"]["as it is"] and result["value"] > 0
    assert [path.rsplit("/", 1)[1] for path in report["plots"]] == [
        "composition.png",
        "bodies.png",
        "directions.png",
        "retarget.mp4",
    ]
    given = [*SMALL, *CONTRAST, "run.epochs=1", "run.probe_every=0", f'method.generator="{first}"']
    options = [part for one in given for part in ("--set", one)]
    code, _, err = call("train", "lac_small", "--data", str(pictures), "--out", str(second), *options)
    assert code == 0, err
    with pytest.raises(TrainingError, match="trained UNIK, which generates no motions"):
        retarget(load_run(second), [], [])
    (first / "model.safetensors").unlink()
    assert load_run(second).done  # needs no autoencoder any more


@pytest.mark.slow
def test_pairs_are_of_other_bodies_and_the_same_again(tmp_path):
    bodies = write_example(tmp_path / "bodies.npz", 80, space=True)
    run = load_run(
        train(
            config.load("lac_retarget_small", [*SMALL, *AUTOENCODER]).on([str(bodies)]), tmp_path, stop_after=1
        ).folder
    )
    train_clips, test_clips = (open_split_of(run, (), (), side) for side in ("train", "val"))
    one, two = (retarget(run, train_clips, test_clips, 3, draw=False).results[0] for _ in range(2))
    assert one == two and one.details["pairs"] == len(test_clips[0])
    pixels = write_example(tmp_path / "pixels.npz", 80)
    with pytest.raises(TrainingError, match="works on 3 coordinates"):
        retarget(run, train_clips, open_split_of(run, [str(pixels)], (), "val"), draw=False)
    flat = [*SMALL, "run.epochs=1", "run.probe_every=0", "method.directions=4"]
    in_plane = load_run(
        train(config.load("via_small", flat).on([str(pixels)]), tmp_path / "in_plane", stop_after=1).folder
    )
    with pytest.raises(TrainingError, match="joints of 2 coordinates: the truth of a motion on another body"):
        retarget(in_plane, [], open_split_of(in_plane, (), (), "val"), draw=False)
