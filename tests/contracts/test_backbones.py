"""What every registered network promises, on layouts, lengths and numbers of people.

A new network is one line of `CASES`; one without a case fails by its name.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training import create_backbone, registry

GRAPH: dict[str, Any] = {"channels_base": 8, "blocks": (1, 1, 1)}


@dataclass(frozen=True)
class Case:
    """A small network.

    Attributes:
        options: that make it small.
        pictures: whether it takes pictures (N, 3, T, H, W) and not motions (N, C, T, V, M).
        idle: beginnings of the names of weights that the classes do not need.
    """

    options: dict[str, Any] = field(default_factory=lambda: GRAPH)
    pictures: bool = False
    idle: tuple[str, ...] = ()


CASES = {
    "unik": Case({"channels_base": 8}),
    "stgcn": Case(),
    "stgcn_pyskl": Case(),
    "stgcnpp": Case(),
    "agcn": Case(),
    "asgcn": Case(
        {"channels_base": 8, "blocks": (1, 1, 1), "link_width": 8, "hops": 2},
        idle=("links.", "recon_layer_", "edge_importance_recon."),
    ),
    "st_transformer": Case({"width": 16, "depth": 2, "heads": 2}),
    "mmp_transformer": Case(
        {"width": 16, "depth": 2, "heads": 2, "hidden": 24, "bottleneck_after": 1, "joint_width": 4}
    ),
    "skeleton_autoencoder": Case({"widths": (8, 12, 16), "directions": 12}, idle=("decoder.",)),
    "slow_r50": Case({"channels_base": 4, "depths": (1, 1, 1, 1)}, pictures=True),
}
EVERY = registry.names("backbones")
NETWORKS = [name for name in EVERY if not (name in CASES and CASES[name].pictures)]
"""Those over motions."""
OWN = Skeleton(
    "kite",
    ("root", "spine", "top", "left_tip", "right_tip", "left_string", "right_string", "knot", "bow"),
    ((0, 1), (1, 2), (1, 3), (1, 4), (0, 5), (0, 6), (5, 7), (6, 7)),
)
LAYOUTS = ["posetics17", "coco17", "openpose18", "nturgbd25", OWN]


def case(name: str) -> Case:
    if name not in CASES:
        pytest.fail(f"the network {name!r} is registered and has no case here")
    return CASES[name]


def network(name: str, skeleton: str | Skeleton = "coco17", num_classes: int = 3, channels: int = 2, **options: Any):
    torch.manual_seed(0)
    given, channels = case(name), 3 if case(name).pictures else channels
    return create_backbone(name, num_classes, skeleton, channels, **(given.options | options))


def drawn(name: str, clips: int = 2, frames: int = 10, channels: int = 2, joints: int = 17):
    """Random input of a network."""
    return torch.randn(clips, 3, 5, 40, 33) if case(name).pictures else torch.randn(clips, channels, frames, joints, 2)


@pytest.mark.parametrize("skeleton", LAYOUTS, ids=lambda s: s if isinstance(s, str) else s.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_layouts_lengths_and_people(name: str, skeleton) -> None:
    model = network(name, skeleton).eval().requires_grad_(False)
    joints = model.skeleton.num_joints
    for frames, people in ((13, 2), (16, 1)):
        x = torch.randn(2, 2, frames, joints, people)
        features, sequence = model.features(x), model.sequence(x)
        assert features.shape == (2, model.width)
        assert sequence.shape == (2, model.width, math.ceil(frames / model.stride))
        assert torch.isfinite(sequence).all() and features.std() > 0
        torch.testing.assert_close(model(x), model.classify(features))
        assert model(x).shape == (2, 3)
        torch.testing.assert_close(model(x[:1]), model(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_and_reach_what_the_classes_need(name: str) -> None:
    model = network(name, channels=3)
    x = drawn(name, 4, 9, 3).requires_grad_()
    torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    idle = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not {key for key in idle if not key.startswith(case(name).idle or "-")}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EVERY)
def test_weights_round_trip(name: str, tmp_path) -> None:
    model = network(name).eval()
    x = drawn(name)
    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = network(name).eval()
    with torch.no_grad():
        for weight in other.parameters():
            weight.normal_()
    assert not torch.allclose(other(x), model(x))
    other.load_published(tmp_path / "weights.safetensors")
    assert torch.equal(other(x), model(x))
    bare = network(name, num_classes=0).eval()
    bare.load_published(tmp_path / "weights.safetensors")
    torch.testing.assert_close(bare(x), model.features(x))
    more = network(name, num_classes=7)
    with pytest.raises(TrainingError, match="classifier=False"):
        more.load_published(tmp_path / "weights.safetensors")
    more.load_published(tmp_path / "weights.safetensors", classifier=False)
    torch.testing.assert_close(more.eval().features(x), model.features(x))


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_network(name: str) -> None:
    one, two = network(name).state_dict(), network(name).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


def waving(clips: int, seed: int):
    """Bodies of which the second half wave the right hand, each at its own time, and whether they do."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(clips) * 2 // clips
    x = 0.1 * torch.randn(clips, 2, 16, 17, 1, generator=g)
    x[:, 1, :, 10, 0] += label[:, None] * torch.sin(torch.arange(16) * 0.7 + 6.3 * torch.rand(clips, 1, generator=g))
    return x, label


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_who_waves(name: str) -> None:
    steady = {"dropout": 0.0} if "dropout" in registry.options(registry.find("backbones", name)) else {}
    model = network(name, num_classes=2, people=1, **steady)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    right = []
    for number in range(200):  # every batch is new
        x, label = waving(12, number)
        optimizer.zero_grad()
        logits = model(x)
        torch.nn.functional.cross_entropy(logits, label).backward()
        optimizer.step()
        right.append(float((logits.argmax(1) == label).float().mean()))
        if sum(right[-10:]) > 9.5:
            return
    pytest.fail(f"of the last ten batches {sum(right[-10:]) * 10:.0f} % are right")


@pytest.mark.parametrize("name", EVERY)
def test_it_runs_in_half_precision_and_is_copied(name: str) -> None:
    model = network(name).eval()
    x = drawn(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(x).float()
    torch.testing.assert_close(found, model(x), rtol=0.1, atol=0.1)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert torch.equal(twin.state_dict()[(last := list(model.state_dict())[-1])], model.state_dict()[last])
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_input_of_another_layout_is_refused(name: str) -> None:
    model = network(name)
    for shape in ((2, 3, 9, 17, 1), (2, 2, 9, 18, 1), (2, 2, 9, 17, 3), (2, 2, 0, 17, 1), (2, 2, 9, 17)):
        with pytest.raises(TrainingError, match="takes"):
            model(torch.zeros(shape))


@pytest.mark.parametrize("name", EVERY)
def test_strict_options(name: str) -> None:
    with pytest.raises(TrainingError, match="has no option 'channel_base'"):
        create_backbone(name, 3, "coco17", 2, channel_base=8)
    with pytest.raises(TrainingError, match="coco71"):
        create_backbone(name, 3, "coco71", 2)
