"""Masks: what is not there does not count, whatever stands there, in networks, methods and probes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.contracts.test_backbones import NETWORKS, network
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.backbones.base import Backbone, at_steps
from training.data.loader import DataLoader
from training.runs.features import extract_features
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

TRANSFORMERS = ("st_transformer", "mmp_transformer")


def there(frames: int = 12, clips: int = 2) -> torch.Tensor:
    """The second person of the first clip is absent, and the last frames of the second clip are filled up."""
    mask = torch.ones(clips, frames, 2, dtype=torch.bool)
    mask[0, :, 1] = False
    mask[1, 8:] = False
    return mask


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_there_changes_nothing(name):
    model, mask = network(name).eval().requires_grad_(False), there()
    x = torch.randn(2, 2, 12, 17, 2)
    other = torch.where(mask[:, None, :, None], x, torch.randn_like(x))
    assert model.features(x, mask).std() > 0
    assert torch.equal(model.features(x, mask), model.features(other, mask))
    assert torch.equal(model.sequence(x, mask), model.sequence(other, mask))
    assert torch.equal(model(x, mask), model.classify(model.features(x, mask)))
    assert not torch.allclose(model.features(x, mask), model.features(x))
    whole = torch.ones_like(mask)
    torch.testing.assert_close(model.features(x, whole), model.features(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"unik", "agcn"}))
def test_a_clip_with_an_absent_person_is_the_clip_of_the_others(name):
    """Not of UNIK and 2s-AGCN: their first norm knows people by their number."""
    model, x = network(name).eval().requires_grad_(False), torch.randn(1, 2, 12, 17, 2)
    mask = torch.tensor([True, False]).expand(1, 12, 2)
    torch.testing.assert_close(model.features(x, mask), model.features(x[..., :1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_filled_clip_is_the_clip_to_a_transformer(name):
    model, x = network(name).eval().requires_grad_(False), torch.randn(1, 2, 12, 17, 2)
    mask = there()[1:]
    torch.testing.assert_close(model.features(x, mask), model.features(x[:, :, :8]), rtol=1e-4, atol=1e-5)


def test_nobody_at_all_has_features_of_zero():
    model = network("stgcn").eval().requires_grad_(False)
    assert not model.features(torch.randn(1, 2, 12, 17, 2), torch.zeros(1, 12, 2, dtype=torch.bool)).any()


def test_steps_are_there_where_one_of_their_frames_is():
    mask = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 0], dtype=torch.bool)[None, :, None]
    assert at_steps(mask, 4).flatten().tolist() == [True, True, False]
    assert torch.equal(at_steps(mask, 1), mask)


def test_other_masks_are_refused():
    model, x = network("stgcn"), torch.zeros(2, 2, 12, 17, 2)
    for mask in (torch.ones(2, 12, dtype=torch.bool), torch.ones(2, 12, 2)):
        with pytest.raises(TrainingError, match=r"a mask says of each clip.*\(2, 12, 2\) bool; given"):
            model.features(x, mask)


class Plain(Backbone):
    """A network that does not keep people apart."""

    def __init__(self) -> None:
        super().__init__(0, "coco17", 2, width=2, stride=1, people=2)

    def sequence(self, x, mask=None):
        return x.mean((3, 4)) if mask is None else super().sequence(x, mask)


def test_a_network_that_takes_no_mask_says_so():
    x = torch.zeros(2, 2, 12, 17, 2)
    assert Plain()(x).shape == (2, 2)
    with pytest.raises(TrainingError, match=r"Plain does not keep people apart and takes no mask: leave out prep"):
        Plain()(x, there())


class Pairs(Motions):
    """Clips of one person, and every other one of two."""

    def _clip(self, number, rng, video):
        clip = super()._clip(number, rng, video)
        people = [clip.keypoints] if number % 2 else [clip.keypoints, clip.keypoints + 50]
        return dataclasses.replace(clip, keypoints=np.concatenate(people))


OPTIONS = {
    "supervised": {},
    "tmor": {"video": None, "queue": {"size": 16, "momentum": 0.9}, "projector": {"hidden": 8, "width": 8}},
    "mcc": {"queue": {"size": 16, "momentum": 0.9}, "playback": {"frames": 16}, "decoder_width": 8},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_absent_people_do_not_count_in_a_method(name):
    preprocess = Preprocess("body13", people=2, mask=True)
    torch.manual_seed(0)
    backbone = create_backbone("stgcn", 4 * (name == "supervised"), "body13", 2, channels_base=4, blocks=(1, 1))
    method = create_method(name, backbone=backbone, **OPTIONS[name])
    transform = method.sample_transform(preprocess, View(16, "weak", "body13"))
    loader = DataLoader(Pairs(16, 1), transform, 8, shuffle=False)
    batch = next(iter(loader))
    first = next(iter(batch))
    mask = batch[f"{first}_mask"]
    assert mask.all(1).tolist() == [[True, number % 2 == 0] for number in range(8)]
    absent = {key: value.clone() for key, value in batch.items()}
    for key in [key.removesuffix("_mask") for key in batch if key.endswith("_mask")]:
        absent[key] = torch.where(batch[f"{key}_mask"][:, None, :, None], batch[key], 7.0)
    method.eval()
    with torch.no_grad():
        one, other = (copy.deepcopy(method).loss(each).loss for each in (batch, absent))
    assert torch.isfinite(one) and torch.equal(one, other)


def test_probes_leave_out_absent_people():
    backbone = create_backbone("stgcn", 0, "body13", 2, channels_base=4, blocks=(1, 1)).eval()
    clips = Pairs(6, 1)
    masked, alone = (
        extract_features(backbone, clips, Preprocess("body13", people=people, mask=people == 2), 16)[0]
        for people in (2, 1)
    )
    np.testing.assert_allclose(masked[1::2], alone[1::2], rtol=1e-4, atol=1e-6)
    counted = extract_features(backbone, clips, Preprocess("body13", people=2), 16)[0]
    assert np.linalg.norm(counted[1::2]) < 0.9 * np.linalg.norm(alone[1::2]), "an absent person counts as zeros"


@pytest.mark.parametrize("name", ["unik", "stgcn", "stgcn_pyskl", "stgcnpp", "agcn"])
def test_people_who_are_absent_cost_nothing(name):
    """Only rows of people go through the blocks, so the statistics of norms are theirs; gradients reach the rest."""
    if name not in NETWORKS:
        pytest.skip(f"{name} is no network here")
    model = network(name).train()
    block = next(module for key, module in model.named_modules() if type(module).__name__ in ("Block", "AdaptiveBlock"))
    rows = []
    block.register_forward_pre_hook(lambda module, given: rows.append(sum(given[0].shape[:2])))
    x, mask = torch.randn(4, 2, 12, 17, 2, requires_grad=True), torch.ones(4, 12, 2, dtype=torch.bool)
    mask[1:, :, 1] = False
    model(x, mask).sum().backward()
    model(x)
    assert rows[1] - rows[0] == 3
    assert x.grad is not None and x.grad[:, :, :, :, 0].any() and not x.grad[1:, :, :, :, 1].any()
    model.zero_grad()
    nobody = torch.zeros_like(mask)
    assert torch.isfinite(model(x, nobody)).all() and rows[2] < rows[0]
