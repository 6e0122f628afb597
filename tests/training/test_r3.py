"""Motion-R3: views and their times, the contrast of frames, the reversed negative, and what goes wrong."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support import motion_files
from tests.support.method_runs import check_kills, check_two_processes, train_double
from tests.support.motions import Motions
from training import config, create_backbone, create_method
from training.data.formats import open_datasets
from training.data.loader import DataLoader
from training.distributed import unit
from training.methods.r3 import Perturbation, frame_info_nce, printed_frame_loss
from training.runs.clip_features import of_clips
from training.runs.model_card import card
from training.runs.rank import rank
from training.runs.run import load_run
from training.runs.train import train
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

SMALL = {"queue": {"size": 48, "momentum": 0.9}, "projector": {"hidden": 16, "width": 8, "layers": 2}}
CROP = View(16, [{"name": "crop", "min": 0.3, "max": 0.6}], "body13")


def method(name: str = "stgcn", **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1} if name == "st_transformer" else {"channels_base": 4, "blocks": (1, 1)}
    backbone = create_backbone(name, 0, "body13", 2, people=1, **sizes)
    return create_method("r3", backbone=backbone, **{**SMALL, **options})


def batch_of(made, clips: int = 8, mask: bool = False):
    transform = made.sample_transform(Preprocess("body13", mask=mask), CROP)
    return next(iter(DataLoader(Motions(8, 1), transform, clips, seed=1)))


def test_frames_are_missing_or_out_of_place_as_often_as_printed():
    array = np.arange(1, 20_001, dtype=np.float32).reshape(1, -1, 1, 1)
    found = Perturbation()(array, np.random.default_rng(0))
    assert (found == 0).mean() == pytest.approx(0.135, abs=0.01)
    assert ((found != array) & (found != 0)).mean() == pytest.approx(0.015, abs=0.004)
    assert np.array_equal(Perturbation(0.0)(array, np.random.default_rng(0)), array)


def test_views_say_when_their_frames_were_and_the_third_runs_backwards():
    clip = Motions(1, 1).clips[0]
    walk = 50 * np.arange(clip.keypoints.shape[1], dtype=np.float32)[:, None, None]
    clip = dataclasses.replace(clip, keypoints=clip.keypoints + walk)
    transform = method(perturbation={"share": 0.0}).sample_transform(Preprocess("body13"), CROP)
    sample = transform(clip, np.random.default_rng(0))
    whole = Preprocess("body13").joints(clip)
    for name, sign in (("motion", 1), ("key", 1), ("reversed", -1)):
        at = [int(np.abs(whole[0] - frame).sum((1, 2)).argmin()) for frame in sample[name].array[0]]
        assert (np.diff(at) * sign >= 0).all() and at[0] != at[-1]
        if name != "reversed":
            np.testing.assert_allclose(sample[f"{name}_frames"], at, atol=0.5)
    assert sample.keys() == {"motion", "key", "reversed", "motion_frames", "key_frames"}


def test_frames_near_in_time_are_positives_and_all_others_negatives():
    rng = torch.Generator().manual_seed(0)
    query, key = (unit(torch.randn(2, 4, 5, generator=rng).double()) for _ in range(2))
    near = torch.rand(2, 4, 4, generator=rng) < 0.4
    near[0, 0] = False
    valid = torch.tensor([[True, True, True, False], [True] * 4])
    near &= valid[:, None]
    found = frame_info_nce(query, key, near, valid, 0.1)
    printed = printed_frame_loss(query, key, near, 0.1)
    for n in range(2):
        total = 0.0
        for i in range(4):
            powers = [math.exp(float(query[n, i] @ key[n, j]) / 0.1) for j in range(4)]
            close = sum(power for j, power in enumerate(powers) if near[n, i, j])
            total += close
            among = sum(power for j, power in enumerate(powers) if valid[n, j])
            assert float(found[n, i]) == pytest.approx(-math.log(close / among) if close else 0.0, abs=1e-9)
        assert float(printed[n]) == pytest.approx(-math.log(total), rel=1e-9)


def test_steps_of_a_network_are_at_the_mean_time_of_their_frames():
    made = method()
    batch = batch_of(made)
    made.backbone.stride = 4
    time, there = made._times(batch, "motion", 4)
    torch.testing.assert_close(time, batch["motion_frames"].view(8, 4, 4).mean(2))
    assert there.all()
    batch["motion_frames"][0, 8:] = -1
    batch["motion_frames"][0, 5] = -1
    time, there = made._times(batch, "motion", 4)
    assert there[0].tolist() == [True, True, False, False]
    assert float(time[0, 1]) == pytest.approx(float(batch["motion_frames"][0, [4, 6, 7]].mean()))


def test_a_clip_played_backwards_is_a_negative_of_itself_alone():
    made = method(frame_weight=0.0).eval()
    batch = batch_of(made)
    outcome = made.loss(batch)
    with torch.no_grad():
        anchor = made.encoder(batch["motion"])[1]
        key, turned = (made.key_encoder(batch[name])[1] for name in ("key", "reversed"))
    logits = torch.stack([(anchor * key).sum(1), (anchor * turned).sum(1)], 1) / 0.07
    torch.testing.assert_close(outcome.loss, torch.nn.functional.cross_entropy(logits, torch.zeros(8).long()))
    assert torch.equal(made.queue.keys[:8], key) and int(made.queue.pointer) == 8
    alone = method(frame_weight=0.0, backwards=False).eval()
    assert float(alone.loss(batch).loss.detach()) == 0, "an empty queue and no reversed view: nothing to tell apart"
    printed = method(frame_weight=0.0, variant="paper").eval()
    printed.loss(batch)
    assert torch.equal(printed.queue.keys[:24], torch.cat([turned, anchor, key]))


@pytest.mark.parametrize("name", ["stgcn", "st_transformer"])
def test_absent_frames_are_neither_anchors_nor_positives(name):
    made = method(name)
    batch = batch_of(made, mask=True)
    missing = ~batch["motion_mask"].any(2)
    assert missing.any()
    outcome = made.loss(batch)
    noisy = batch["motion"].clone().permute(0, 2, 1, 3, 4)
    noisy[missing] = 7.0
    changed = method(name).loss({**batch, "motion": noisy.permute(0, 2, 1, 3, 4)})
    torch.testing.assert_close(outcome.loss, changed.loss)


def test_what_does_not_go_together_is_said():
    for options, words in (
        ({"neighbourhood": 0.0}, "neighbourhood 0.0"),
        ({"frame_weight": -1.0}, "frame_weight -1.0"),
        ({"perturbation": {"share": 1.5}}, "perturbation share 1.5"),
        ({"variant": "printed"}, "variant"),
    ):
        with pytest.raises(TrainingError, match=words):
            method(**options)
    with pytest.raises(TrainingError, match="which frames it shows"):
        method().sample_transform(Preprocess("body13"), lambda joints, rng: joints)


@pytest.mark.parametrize("name", ["r3", pytest.param("r3_small", marks=pytest.mark.slow)])
def test_committed_configurations_train_and_their_features_rank(name, tmp_path):
    data = motion_files.write(tmp_path / "motions.npz", 24, video=0)
    small = {
        "run.epochs": 1,
        "run.min_steps": 0,
        "run.batch": 8,
        "run.tensorboard": "false",
        "view.frames": 16,
        "run.floors": "false",
    }
    small |= {"backbone.width": 16, "backbone.depth": 1, "backbone.heads": 2, "method.queue.size": 16}
    given = config.load(name, [f"{key}={value}" for key, value in small.items()]).on([str(data)])
    assert given.run.name == name and given.method.name == "r3"
    train(given, tmp_path / "run")
    made = of_clips(load_run(tmp_path / "run"), open_datasets([str(data)]))
    assert made.rows.shape == (24, 16) and np.isfinite(made.rows).all()
    assert len(set(rank(made, 5).order.tolist())) == 5
    told = card(load_run(tmp_path / "run"), tmp_path / "card", "CC-BY-4.0").read_text()
    assert "Learnt with the method `r3` in" in told and "given under CC-BY-4.0" in told


def run(name: str, folder: Path, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0) -> None:
    """A run in double precision, as one of `world` processes."""
    made = method("st_transformer", variant=name).double()
    transform = made.sample_transform(Preprocess("body13"), CROP)
    train_double(made, transform, Motions(48, 1), 16, folder, fabric, world, epochs, save)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_are_one(tmp_path):
    check_two_processes(__name__, run, ("standard", "paper"), tmp_path)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_it_goes_on_bit_for_bit(tmp_path):
    check_kills(__name__, "standard", tmp_path)
