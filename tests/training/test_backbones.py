"""What every network over motions promises: the registry's networks on layouts, lengths and numbers of people."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training import create_backbone, registry

OF_PICTURES = {"slow_r50"}
SMALL = {
    "asgcn": {"channels_base": 8, "blocks": (1, 1, 1), "link_width": 8, "hops": 2},
    "st_transformer": {"width": 16, "depth": 2, "heads": 2},
    "mmp_transformer": {"width": 16, "depth": 2, "heads": 2, "hidden": 24, "bottleneck_after": 1, "joint_width": 4},
    "unik": {"channels_base": 8},
}
GRAPH = {"channels_base": 8, "blocks": (1, 1, 1)}
NETWORKS = sorted(set(registry.BACKBONES) - OF_PICTURES)
OWN = Skeleton(
    "kite",
    ("root", "spine", "top", "left_tip", "right_tip", "left_string", "right_string", "knot", "bow"),
    ((0, 1), (1, 2), (1, 3), (1, 4), (0, 5), (0, 6), (5, 7), (6, 7)),
)
LAYOUTS = ["posetics17", "coco17", "openpose18", "nturgbd25", OWN]


def network(name: str, skeleton="coco17", num_classes: int = 3, channels: int = 2, **options):
    torch.manual_seed(0)
    return create_backbone(name, num_classes, skeleton, channels, **(SMALL.get(name, GRAPH) | options))


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


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_and_reach_what_the_classes_need(name: str) -> None:
    model = network(name, channels=3)
    x = torch.randn(4, 3, 9, 17, 2, requires_grad=True)
    torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    idle = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
    branches = ("links.", "recon_layer_", "edge_importance_recon.") if name == "asgcn" else ()
    assert all(key.startswith(branches) for key in idle) if branches else not idle, idle
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_round_trip(name: str, tmp_path) -> None:
    model = network(name).eval()
    x = torch.randn(2, 2, 10, 17, 2)
    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(9)
    other = create_backbone(name, 3, "coco17", 2, **SMALL.get(name, GRAPH)).eval()
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


@pytest.mark.parametrize("name", NETWORKS)
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


@pytest.mark.parametrize("name", NETWORKS)
def test_it_runs_in_half_precision_and_is_copied(name: str) -> None:
    model = network(name).eval()
    x = torch.randn(2, 2, 10, 17, 2)
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


@pytest.mark.parametrize("name", registry.BACKBONES)
def test_strict_options(name: str) -> None:
    with pytest.raises(TrainingError, match="has no option 'channel_base'"):
        create_backbone(name, 3, "coco17", 2, channel_base=8)
    with pytest.raises(TrainingError, match="coco71"):
        create_backbone(name, 3, "coco71", 2)
