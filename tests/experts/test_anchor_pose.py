"""The network of anchor poses and the people it makes of overlapping regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from safetensors.torch import save_file

from dataengine.core.errors import ComponentError, WeightsError
from dataengine.experts.anchor_pose import AnchorPose
from dataengine.experts.anchor_pose_network import Regions, build, contained, integrate, place, state_of
from dataengine.experts.anchor_pose_spec import NetworkSpec, read_spec

V, K = 4, 3
ANCHORS = np.random.default_rng(0).uniform(0, 1, (K, V, 2)).astype(np.float32)


def regions(boxes: list[list[float]], likely: list[list[float]]) -> Regions:
    """Regions with these boxes and probabilities (background first), poses at the anchors."""
    where = torch.tensor(boxes)
    logits = torch.log(torch.tensor(likely).clamp(min=1e-12))
    return Regions(where, logits, place(where, torch.from_numpy(ANCHORS).expand(len(boxes), -1, -1, -1)))


def test_poses_are_placed_in_their_boxes() -> None:
    placed = place(torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[[[0.0, 0], [1, 1], [0.5, 2]]]]))
    assert placed[0, 0].tolist() == [[10, 20], [30, 60], [20, 100]]


def test_overlapping_regions_are_one_person_with_the_weighted_mean_of_their_poses() -> None:
    boxes = [[0.0, 0, 20, 40], [2, 0, 22, 40], [100, 0, 120, 40]]
    likely = [[0.1, 0.6, 0.3, 0.0], [0.3, 0.0, 0.0, 0.7], [0.4, 0.6, 0.0, 0.0]]
    given = regions(boxes, likely)
    people = integrate(given, 0.3, 0.05, 0.5, 8)
    assert people.shape == (2, 5 + 3 * V)
    assert people[:, 4] == pytest.approx([0.9, 0.6], abs=1e-6)
    total, weight = np.zeros((V, 2)), 0.0
    for r in (0, 1):
        for k in range(K):
            if likely[r][k + 1] >= 0.05:
                total += likely[r][k + 1] * given.poses[r, k].numpy()
                weight += likely[r][k + 1]
    assert people[0, 5:].reshape(V, 3)[:, :2] == pytest.approx(total / weight, rel=1e-5)
    assert people[1, 5:].reshape(V, 3)[:, :2] == pytest.approx(given.poses[2, 0].numpy(), rel=1e-5)
    assert people[0, 5:].reshape(V, 3)[:, 2] == pytest.approx([0.9] * V, abs=1e-6)


def test_a_region_within_another_is_the_same_person() -> None:
    boxes = [[0.0, 0, 20, 60], [1, 1, 19, 22], [15, 0, 35, 60]]
    assert contained(torch.tensor(boxes)).round(decimals=3).tolist()[0] == [1.0, 1.0, 0.25]
    people = integrate(regions(boxes, [[0.1, 0.9, 0, 0], [0.2, 0, 0.8, 0], [0.3, 0, 0, 0.7]]), 0.3, 0.1, 0.4, 8)
    assert people[:, 4] == pytest.approx([0.9, 0.7], abs=1e-6)


def test_a_class_that_is_not_likely_takes_no_part() -> None:
    given = regions([[0.0, 0, 20, 40]], [[0.1, 0.82, 0.08, 0.0]])
    people = integrate(given, 0.3, 0.1, 0.5, 8)
    assert people[0, 5:].reshape(V, 3)[:, :2] == pytest.approx(given.poses[0, 0].numpy(), rel=1e-5)


def test_background_and_more_than_the_most_people_are_left_out() -> None:
    boxes = [[50.0 * n, 0, 50.0 * n + 20, 40] for n in range(4)]
    given = regions(boxes, [[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.3, 0, 0.7, 0], [0.4, 0, 0, 0.6]])
    assert [round(float(p[4]), 3) for p in integrate(given, 0.3, 0.1, 0.5, 2)] == [0.8, 0.7]
    assert integrate(given, 0.95, 0.1, 0.5, 8).shape == (0, 5 + 3 * V)
    empty = Regions(torch.zeros(0, 4), torch.zeros(0, K + 1), torch.zeros(0, K, V, 2))
    assert integrate(empty, 0.3, 0.1, 0.5, 8).shape == (0, 5 + 3 * V)


LARGE = ("mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50")


@pytest.mark.parametrize("name", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_backbones(name: str, tmp_path: Path) -> None:
    """Every backbone runs, and its weights come back from a file; the same seed draws the same weights."""
    spec = NetworkSpec(name, 64, 64, "body13", 16, 5)  # type: ignore[arg-type]
    anchors = np.random.default_rng(0).uniform(0, 1, (2, 13, 2)).astype(np.float32)
    network = build(spec, anchors, 1).eval()
    with torch.inference_mode():
        found = network.regions(torch.randn(2, 3, 64, 64))
    assert [one.poses.shape[1:] for one in found] == [(2, 13, 2)] * 2
    assert all(len(one.boxes) <= 5 for one in found)
    state = state_of(network)
    again = state_of(build(spec, anchors, 1))
    assert all(torch.equal(t, again[name]) for name, t in state.items())
    save_file(state, path := tmp_path / "w.safetensors", spec.metadata())
    assert read_spec(path) == spec
    assert AnchorPose(checkpoint=str(path)).skeleton == "body13"
    assert len(AnchorPose(checkpoint=str(path)).load().predict(np.zeros((1, 40, 50, 3), np.uint8))) == 1


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_such_network_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="no safetensors file of anchor_pose") as error:
        AnchorPose(checkpoint=str(path)).load()
    assert "\n" not in str(error.value)


def test_weights_with_anchors_of_another_layout_are_told(tmp_path: Path) -> None:
    spec = NetworkSpec("tiny", 64, 64, "coco17", 16, 5)
    save_file({"anchors": torch.zeros(2, 13, 2)}, path := tmp_path / "w.safetensors", spec.metadata())
    with pytest.raises(WeightsError, match="17 joints of coco17"):
        AnchorPose(checkpoint=str(path)).load()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"backbone": "resnet500"}, "resnet50"),
        ({"width": 100}, "width"),
        ({"proposals": 0}, "proposals"),
        ({"skeleton": "no"}, "no"),
    ],
)
def test_wrong_networks(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(ComponentError, match=what):
        NetworkSpec(**wrong)  # type: ignore[arg-type]


def test_wrong_options() -> None:
    with pytest.raises(ComponentError, match="candidate"):
        AnchorPose(candidate=1.5)
