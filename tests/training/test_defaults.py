"""What a training decides by its data: length, batch and width by the number of clips, normalisation by the joints."""

from __future__ import annotations

import json
import tomllib
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import RecipeError
from tests.support import motion_files
from training import config
from training.runs import splits
from training.runs.defaults import upright
from training.runs.run import load_run
from training.runs.train import resolve, train

SMALL = {
    "run": {"epochs": 2, "batch": 32, "workers": 0, "tensorboard": False, "min_steps": 40, "probe_every": 1},
    "view": {"frames": 8},
    "backbone": {"name": "unik", "channels_base": 8},
    "method": {"name": "supervised"},
    "optim": {"warmup": 0.5, "schedule": "step", "milestones": [1]},
}
RULE = {"up_to": 48, "run.batch": 8, "backbone.channels_base": 4}


def made(path, **tables):
    merged = {**SMALL, "data": {"train": [str(path)]}}
    for name, table in tables.items():
        merged[name] = {**merged.get(name, {}), **table}
    return config.validate(merged, "the test")


def decided(configuration):
    """The resolved configuration, and what was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = resolve(configuration, splits.open_split(configuration.data, "train"), "val")
    return found, [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 training clips in the plane."""
    return motion_files.write(tmp_path_factory.mktemp("data") / "motions.npz")


def in_space(path, up=1, names=True, clips=12):
    """Bodies that stand along an axis, in metres."""
    rng = np.random.default_rng(0)
    joints = ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "nose")
    body = np.zeros((5, 3))
    body[:, 0] = (0.2, -0.2, 0.15, -0.15, 0)
    body[:, up] = (1.4, 1.4, 0.9, 0.9, 1.7)
    points = body + rng.normal(0, 0.05, (clips * 6, 5, 3))
    named = {"joint_names": np.array(joints if names else [f"point{k}" for k in range(5)])}
    np.savez(
        path,
        keypoints=points.astype(np.float32),
        offsets=np.arange(clips + 1) * 6,
        label=np.arange(clips) % 2,
        label_names=np.array(["a", "b"]),
        split=np.array(["train", "val"] * (clips // 2)),
        parents=np.array([4, 4, 0, 1, -1]),
        **named,
    )
    return path


def test_few_clips_get_the_steps_that_a_run_has_at_least(data):
    found, told = decided(made(data))
    assert found.run.epochs == 40 and found.run.probe_every == 20
    assert found.optim.warmup == 10.0 and found.optim.milestones == [20]
    assert told == ["48 clips to learn from: run.epochs 40 in place of 2, as run.min_steps is 40"]
    again, told = decided(found)
    assert again == found and not told  # what was decided decides nothing anew


def test_many_steps_stay_as_they_are(data):
    found, told = decided(made(data, run={"min_steps": 2}))
    assert (found.run.epochs, found.optim.warmup, found.optim.milestones) == (2, 0.5, [1]) and not told


def test_accumulated_batches_are_one_step(data):
    assert decided(made(data, run={"batch": 8, "accumulate": 2, "min_steps": 30}))[0].run.epochs == 10


@pytest.mark.parametrize(("up_to", "batch", "width"), [(47, 32, 8), (48, 8, 4)])
def test_width_and_batch_follow_the_number_of_clips(data, up_to, batch, width):
    rules = [{**RULE, "up_to": up_to}]
    found, told = decided(made(data, run={"by_clips": rules, "min_steps": 0}))
    assert found.run.batch == batch and found.backbone.options["channels_base"] == width and not found.run.by_clips
    assert bool(told) == (up_to == 48)
    if told:
        assert told == ["48 clips to learn from: run.batch 8; backbone.channels_base 4"]


def test_the_first_rule_with_enough_clips_is_taken(data):
    rules = [{"up_to": 10, "run.batch": 1}, {"up_to": 100, "run": {"batch": 6}}, {"up_to": 1000, "run.batch": 7}]
    assert decided(made(data, run={"by_clips": rules}))[0].run.batch == 6


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"run.batch": 8}, "up_to = CLIPS"),
        ({"up_to": 0}, "up_to = CLIPS"),
        ({"up_to": 100, "batch": 8}, "'batch' is no table.key"),
        ({"up_to": 100, "runs.batch": 8}, "'runs.batch' is no table.key.*run"),
        ({"up_to": 100, "run.bath": 8}, "unknown key 'bath'.*batch"),
        ({"up_to": 100, "run.start": "x"}, "run.start is not chosen"),
    ],
)
def test_a_rule_that_is_none_is_refused(data, rule, message):
    with pytest.raises(RecipeError, match=message):
        decided(made(data, run={"by_clips": [rule]}))


def test_what_is_set_comes_before_the_rules(tmp_path, data):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[run]\nepochs = 2\nmin_steps = 40\n"
        'by_clips = [{ up_to = 100, "run.batch" = 8, "backbone.channels_base" = 4 }]\n'
        '[backbone]\nname = "unik"\nchannels_base = 8\n[method]\nname = "supervised"\n'
    )
    found, _ = decided(config.load(str(path), ["run.batch=12"]).on([str(data)]))
    assert (found.run.batch, found.backbone.options["channels_base"], found.run.epochs) == (12, 4, 10)
    found, _ = decided(config.load(str(path), ["run.epochs=3"]).on([str(data)]))
    assert (found.run.epochs, found.run.min_steps) == (3, 0)
    found, _ = decided(config.load(str(path), ["run.epochs=3", "run.min_steps=24"]).on([str(data)]))
    assert found.run.epochs == 4


def test_a_run_by_rules_goes_on_and_trains_the_same_from_its_own_file(data, tmp_path):
    tables = {"run": {"by_clips": [RULE], "min_steps": 12, "probe_every": 0}}
    whole = train(made(data, **tables), tmp_path / "whole")
    assert whole.history.steps == 12
    train(made(data, **tables), tmp_path / "parts", stop_after=5)
    train(made(data, **tables), tmp_path / "parts")
    stored = tomllib.loads((tmp_path / "whole" / "run.toml").read_text())
    assert stored["run"]["batch"] == 8 and stored["run"]["epochs"] == 2 and stored["run"]["by_clips"] == []
    train(config.load(str(tmp_path / "whole")), tmp_path / "again")
    one, two, three = (load_run(tmp_path / name).method.state_dict() for name in ("whole", "parts", "again"))
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_a_network_that_a_run_starts_from_keeps_its_width(data, tmp_path):
    train(made(data, run={"epochs": 1, "min_steps": 0, "by_clips": [RULE], "probe_every": 0}), tmp_path / "first")
    rules = [{"up_to": 100, "backbone.channels_base": 16, "run.batch": 16}]
    start = {"epochs": 1, "min_steps": 0, "by_clips": rules, "start": str(tmp_path / "first"), "probe_every": 0}
    train(made(data, run=start), tmp_path / "second", stop_after=1)
    found = load_run(tmp_path / "second").config
    assert found.backbone.options["channels_base"] == 4 and found.run.batch == 16


@pytest.mark.parametrize(("up", "name"), [(1, "y"), (2, "z")])
def test_joints_in_space_are_turned_about_the_axis_they_stand_along(tmp_path, up, name):
    path = in_space(tmp_path / "space.npz", up)
    found, told = decided(made(path, run={"min_steps": 0, "batch": 2}))
    assert (found.preprocess.normalise, found.preprocess.up) == ("view_body", name)
    assert told == [
        f'6 clips to learn from: preprocess.normalise "view_body" of joints in space; preprocess.up "{name}"'
    ]
    assert upright(splits.open_split(made(path).data, "train")) == name


def test_joints_in_the_plane_and_joints_without_names_keep_their_view(tmp_path, data):
    found, told = decided(made(data, run={"min_steps": 0}))
    assert (found.preprocess.normalise, found.preprocess.up) == ("body", "y") and not told
    found, told = decided(made(in_space(tmp_path / "a.npz", names=False), run={"min_steps": 0, "batch": 2}))
    assert found.preprocess.normalise == "body" and '"body" of joints in space' in told[0]
    chosen = {"channels": [0, 1]}
    found, _ = decided(made(in_space(tmp_path / "b.npz"), run={"min_steps": 0, "batch": 2}, preprocess=chosen))
    assert found.preprocess.normalise == "body"
    stated = {"normalise": "view", "up": "y"}
    found, _ = decided(made(in_space(tmp_path / "c.npz", 2), run={"min_steps": 0, "batch": 2}, preprocess=stated))
    assert (found.preprocess.normalise, found.preprocess.up) == ("view", "y")


@pytest.mark.parametrize("name", ["unik_small", "mcc_small", "tmor_small"])
def test_small_recipes_have_enough_steps_for_any_set(data, name):
    found, told = decided(config.load(name).on([str(data)]))
    steps = found.run.epochs * (48 // found.run.batch)
    assert steps >= found.run.min_steps >= 1000 and len(told) == 1
    assert json.loads(json.dumps(found.to_toml())) == found.to_toml()


@pytest.mark.parametrize("text", ["run = 3", "[[run]]\nepochs = 1", "backbone = 'unik'"])
def test_what_is_no_table_is_told(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.toml: (run|backbone) is .*, and no table; allowed: \["):
        config.load(str(tmp_path / "mine.toml"), ["run.epochs=3"] if "[[" not in text and "run" not in text else [])
    for other in (config.finetuning, config.segmenting):
        with pytest.raises(RecipeError, match="and no table"):
            other(str(tmp_path / "mine.toml"))


def test_classes_that_are_mirror_images_of_each_other_are_not_mirrored(data, tmp_path):
    found, told = decided(made(data, view={"steps": "small"}))
    (line,) = [line for line in told if "without flip" in line]
    assert "mirrored clips of 'wave left' are nearest to 'wave right'" in line
    assert [step["name"] for step in found.view.steps] == ["crop", "scale", "shift", "rotate"]
    again, told = decided(found)
    assert again.view.steps == found.view.steps and not any("mirrored" in line for line in told)
    flip = [{"name": "flip"}, {"name": "scale", "range": 0.1}]
    kept, told = decided(made(data, view={"steps": flip}))
    assert [step["name"] for step in kept.view.steps] == ["flip", "scale"], "what was written stays"
    assert any("view.steps has a step flip" in line and "leave it out" in line for line in told)
    other = motion_files.write(tmp_path / "renamed.npz", seed=3)
    with np.load(other) as stored:
        arrays = dict(stored)
    arrays["label"] = np.maximum(arrays["label"], 1)  # either hand is one class
    np.savez(other, **arrays)
    whole, told = decided(made(other, view={"steps": "small"}))
    assert whole.view.steps == "small" and not any("mirrored" in line for line in told)
    assert decided(made(data, view={"steps": "small"}, method={"name": "r3"}))[0].view.steps == "small"
