"""What every registered method promises: it makes a step, is saved and goes on as if it had not stopped, and learns.

A new method is one line of `CASES`; one without a case fails by its name.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.support.motions import CLASSES, Motions
from tests.support.pictures import Pictures
from training import create_backbone, create_method, registry
from training.data.loader import DataLoader
from training.data.rgb import PICTURES
from training.engine import checkpoint
from training.engine.history import History
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.methods.base import Method
from training.methods.text_network import TextNetwork
from training.transforms.preprocess import Preprocess
from training.transforms.rgb import picture_preprocess
from training.transforms.view import View

PREPROCESS = Preprocess("body13", normalise="body")
QUEUE = 32
BATCH = 16


def right(history: History) -> float:
    """Cross-entropy over chance."""
    return float(np.mean(history.losses[-6:])) - math.log(len(CLASSES))


def told_apart(history: History) -> float:
    """Binary cross-entropy of frames over that of the classes' shares, which know nothing of the frame."""
    k = len(CLASSES)
    known = -(math.log(1 / k) + (k - 1) * math.log(1 - 1 / k))
    return float(np.mean(history.losses[-6:])) - known


def contrast(part: str, negatives: int = QUEUE) -> Callable[[History], float]:
    """The contrast over that of a network that tells nothing apart, by a part of the loss."""
    return lambda history: float(np.mean([line[part] for line in history.log[-6:]])) - math.log(1 + negatives)


def named(history: History) -> float:
    """Both cross-entropies of motions and texts over those of a network that tells no two texts of four apart."""
    return float(np.mean([line["part_contrast"] for line in history.log[-6:]])) - 2 * math.log(13)


def told_again(history: History) -> float:
    """How far the distance of told frames has fallen."""
    losses = [line["part_reconstruction"] for line in history.log]
    return float(np.mean(losses[-6:])) / losses[0] - 1


@dataclass(frozen=True)
class Case:
    """A small method.

    Attributes:
        learnt: how far the end of a run is from knowing nothing; below -0.25 it has learnt. Nearest neighbours by class
            say nothing here: those of a random network are right, too.
        options: that make it small.
        classes: of the network.
        autoencoder: whether it trains an autoencoder, on clips in space.
        space: whether it sees clips in space by random cameras.
        adam: whether it learns to reconstruct, for which it takes Adam and longer.
        generator: whether it takes a trained autoencoder.
        texts: whether it has an encoder of texts that is trained along.
        pictures: whether it learns from videos.
    """

    learnt: Callable[[History], float]
    options: dict[str, Any] = field(default_factory=dict)
    classes: int = 0
    autoencoder: bool = False
    generator: bool = False
    texts: bool = False
    pictures: bool = False
    space: bool = False
    adam: bool = False

    @property
    def optim(self) -> OptimSettings:
        return ADAM if self.autoencoder or self.adam else OptimSettings(lr=0.02, warmup=2)


def reconstructed(history: History) -> float:
    """Squared errors of standardised channels over those of their mean."""
    return float(np.mean([line["part_self"] + line["part_cross"] for line in history.log[-12:]])) - 2


def made_again(history: History) -> float:
    """Squared errors of standardised channels of a clip made of its own codes, over those of their mean."""
    return float(np.mean([line["part_own"] for line in history.log[-12:]])) - 1


ADAM = OptimSettings(lr=0.003, optimizer="adam", weight_decay=0.0)
AUTOENCODER: dict[str, Any] = {"widths": (16, 16, 24), "directions": 18, "dropout": 0.0, "people": 1}


@functools.cache
def generator() -> str:
    """A file of an autoencoder that learnt a little."""
    method, loader = made("lac_retarget", in_space())
    fit(method, loader, TrainSettings(epochs=20, optim=ADAM))
    network = method.backbone
    facts = {"backbone": {"name": "skeleton_autoencoder", **AUTOENCODER}, "channels": 3}
    facts["skeleton"] = {"name": "body13", "joints": network.skeleton.joints, "bones": network.skeleton.bones}
    path = Path(tempfile.mkdtemp(prefix="generator")) / "model.safetensors"
    checkpoint.write(path, network.state_dict(), facts)
    return str(path)


SMALL_TMOR: dict[str, Any] = {"queue": {"size": QUEUE, "momentum": 0.9}, "projector": {"hidden": 64, "width": 16}}
SMALL_MCC: dict[str, Any] = {"decoder_width": 16, "queue": {"size": QUEUE, "momentum": 0.9}}
SMALL_R3: dict[str, Any] = {"queue": {"size": QUEUE, "momentum": 0.9}, "projector": {"hidden": 64, "width": 16}}
SMALL_LTN: dict[str, Any] = {
    **{"queue": {"size": QUEUE, "momentum": 0.9}, "projector": {"hidden": 32, "width": 16}, "positives": 2},
    **{"stride": 2, "time": {"hidden": 16, "directions": 8}, "pictures": {"area": (0.5, 1.0), "colours": 0.0}},
}
SMALL_LAC: dict[str, Any] = {"queue": {"size": QUEUE, "momentum": 0.9}, "projector": {"hidden": 64, "width": 16}}
CASES = {
    "supervised": Case(right, classes=len(CLASSES)),
    "mcc": Case(contrast("part_nce"), {**SMALL_MCC, "playback": {"frames": 16}}),
    "tmor": Case(contrast("part_mm"), {**SMALL_TMOR, "video": "video", "video_width": 6}),
    "segment": Case(told_apart, {"num_classes": len(CLASSES)}),
    "lac_retarget": Case(reconstructed, autoencoder=True),
    "lac": Case(contrast("part_sequence"), {**SMALL_LAC, "positives": 1, "steps": 4}, generator=True),
    "r3": Case(contrast("part_sequence"), SMALL_R3),
    "molang": Case(named, {"masking": {"longest": 4}}, texts=True),
    "ltn": Case(contrast("part_contrast"), SMALL_LTN, pictures=True),
    "via": Case(contrast("part_contrast"), {**SMALL_LAC, "directions": 4, "contrast": {"positives": 0}}),
}
OTHERS = {
    "segment by dilated convolutions": Case(
        right, {"num_classes": len(CLASSES), "head": "tcn", "loss": "softmax", "tcn": {"width": 16, "layers": 2}}
    ),
    "segment by windows": Case(told_apart, {"num_classes": len(CLASSES), "head": "window"}),
    "lac of two views": Case(contrast("part_sequence"), {**SMALL_LAC, "motions": 0, "frame_weight": 0.0}),
    "lac of three motions": Case(
        contrast("part_sequence"), {**SMALL_LAC, "motions": 3, "positives": 1, "steps": 4}, generator=True
    ),
    "lac_retarget as printed": Case(reconstructed, {"variant": "paper"}, autoencoder=True),
    **{
        f"ltn by {transform}": Case(contrast("part_contrast"), {**SMALL_LTN, "transform": transform}, pictures=True)
        for transform in ("addition", "none")
    },
    "ltn by attention": Case(
        lambda history: contrast("part_contrast")(history) - 0.15,
        {**SMALL_LTN, "transform": "attention"},
        pictures=True,
    ),
    "ltn as printed": Case(contrast("part_contrast"), {**SMALL_LTN, "variant": "paper"}, pictures=True),
    "ltn by byol": Case(lambda history: history.losses[-1] - 1.5, {**SMALL_LTN, "framework": "byol"}, pictures=True),
    "via of generated views": Case(
        contrast("part_contrast"), {**SMALL_LAC, "directions": 4, "contrast": {"positives": 1, "random_view": False}}
    ),
    "via without contrast": Case(made_again, {"directions": 4, "losses": {"contrast": 0.0}}, adam=True),
    "via as printed": Case(made_again, {**SMALL_LAC, "directions": 4, "variant": "paper"}, adam=True),
    "via of truths": Case(
        made_again,
        {"directions": 4, "supervised": True, "losses": {"contrast": 0.0}, "camera": {"yaw": 30.0, "scale": 0.0}},
        space=True,
        adam=True,
    ),
    "mcc between frames": Case(
        contrast("part_nce"), {**SMALL_MCC, "playback": {"frames": 16, "loop_at_speed_1": False}}
    ),
    "molang of motion alone": Case(told_again, {"masking": {"longest": 4}}),
    "r3 as printed": Case(contrast("part_sequence", QUEUE + BATCH), {**SMALL_R3, "variant": "paper"}),
    "tmor of motion alone": Case(contrast("part_mm"), {**SMALL_TMOR, "video": None}),
    "tmor both ways": Case(contrast("part_mm"), {**SMALL_TMOR, "video": "video", "video_width": 6, "symmetric": True}),
}
"""Other options of these methods; a name begins with the method's."""
EVERY = registry.names("methods")


@pytest.fixture(scope="module")
def clips() -> Motions:
    return Motions(48, 1, video=6)


def case(name: str) -> Case:
    if name not in {**CASES, **OTHERS}:
        pytest.fail(f"the method {name!r} is registered and has no case here")
    return {**CASES, **OTHERS}[name]


def made(name: str, clips: Motions, batch: int = BATCH, seed: int = 0) -> tuple[Method, DataLoader]:
    torch.manual_seed(seed)
    given = case(name)
    if given.pictures:
        backbone = create_backbone("slow_r50", 0, PICTURES, 3, channels_base=4, depths=(1, 1, 1, 1))
        method = create_method(name.split()[0], backbone=backbone, **given.options)
        preprocess = picture_preprocess(PICTURES, (16, 16))
        return method, DataLoader(videos(), method.sample_transform(preprocess, View(3, "none")), batch, seed=3)
    clips = in_space() if given.autoencoder or given.space else clips
    if given.autoencoder:
        backbone = create_backbone("skeleton_autoencoder", 0, "body13", 3, **AUTOENCODER)
    else:
        backbone = create_backbone("stgcn", given.classes, "body13", 2, people=1, channels_base=8, blocks=(1, 1))
    options = {**given.options, "generator": generator()} if given.generator else given.options
    if given.texts:
        options = {**options, "text": TextNetwork.create("ngrams", [(name,) for name in CLASSES], width=16)}
    method = create_method(name.split()[0], backbone=backbone, **options)
    transform = method.sample_transform(PREPROCESS, View(16, "weak", "body13"))
    return method, DataLoader(clips, transform, batch, seed=3)


@functools.cache
def videos() -> Pictures:
    return Pictures(48)


@functools.cache
def in_space() -> Motions:
    return Motions(48, 1, space=True)


@pytest.mark.parametrize("name", EVERY)
def test_a_step_has_a_finite_loss_and_gradients_everywhere(name: str, clips: Motions) -> None:
    method, loader = made(name, clips)
    batches = list(loader)
    method.loss(batches[0])  # fills the queues
    method.zero_grad()
    outcome = method.loss(batches[1])
    outcome.loss.backward()
    assert outcome.loss.shape == () and torch.isfinite(outcome.loss)
    assert all(torch.isfinite(part).all() for part in outcome.parts.values())
    learnt = {key: parameter for key, parameter in method.named_parameters() if parameter.requires_grad}
    idle = [key for key, parameter in learnt.items() if parameter.grad is None]
    assert learnt and not idle, idle
    assert all(torch.isfinite(parameter.grad).all() for parameter in learnt.values())
    assert sum(float(parameter.grad.abs().sum()) > 0 for parameter in learnt.values()) > 0.5 * len(learnt)
    before = {key: parameter.detach().clone() for key, parameter in learnt.items()}
    torch.optim.SGD(learnt.values(), 0.1).step()
    method.after_step(0.0)
    assert any(not torch.equal(parameter, before[key]) for key, parameter in learnt.items())
    said = method(batches[2])
    assert said["loss"].shape == () and torch.isfinite(said["loss"])


@pytest.mark.parametrize("name", EVERY)
def test_saved_and_gone_on_is_the_same_run(name: str, clips: Motions, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=2, optim=OptimSettings(lr=0.02), log_every=1)
    whole, loader = made(name, clips)
    wanted = fit(whole, loader, settings, tmp_path / "whole")
    assert fit(*made(name, clips), settings, tmp_path / "run", stop_after=2).steps == 2
    method, loader = made(name, clips, seed=9)  # drawn anew: everything comes from the checkpoint
    found = fit(method, loader, settings, tmp_path / "run")
    assert found.losses == wanted.losses and len(found.losses) == found.steps == 6
    one, two = whole.state_dict(), method.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", [*EVERY, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_it_learns_in_seconds(name: str, clips: Motions) -> None:
    method, loader = made(name, clips)
    epochs = 40 if case(name).adam else 24 if case(name).autoencoder else 12
    settings = TrainSettings(epochs=epochs, optim=case(name).optim, grad_clip=1.0, log_every=1)
    assert case(name).learnt(fit(method, loader, settings)) < -0.25
