"""Joint layouts as graphs: the published stacks, and laws that hold for every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.backbones import graph

GOLDEN = dict(np.load(Path(__file__).resolve().parents[1] / "golden" / "graphs.npz", allow_pickle=False))
LAYOUTS = {
    "openpose": "openpose18",
    "kinetics": "openpose18",
    "ntu-rgb+d": "nturgbd25",
    "ntu": "nturgbd25",
    "nturgb+d": "nturgbd25",
    "coco": "coco17",
}
PYSKL_NAMES = {"stgcn_spatial": "spatial", "spatial": "directed", "binary_adj": "binary"}
OWN = Skeleton("own", tuple("abcdefghi"), ((0, 1), (1, 2), (2, 3), (1, 4), (4, 5), (6, 7)))


@pytest.mark.parametrize("name", GOLDEN)
def test_published_stacks(name: str) -> None:
    program, layout, *rest = name.split("__")
    if program == "pyskl":
        found = graph.adjacency(LAYOUTS[layout], PYSKL_NAMES[rest[0]], published=graph.PYSKL)
    elif program == "2sagcn":
        found = graph.adjacency(LAYOUTS[layout], "directed")
    else:
        found = graph.adjacency(LAYOUTS[layout], rest[0], int(rest[1].removeprefix("max_hop=")))
    np.testing.assert_array_equal(found, GOLDEN[name])


@pytest.mark.parametrize("name", SKELETONS)
def test_every_layout_is_one_piece_and_treats_both_sides_alike(name: str) -> None:
    layout = SKELETONS[name]
    made = graph.topology(layout)
    flip = list(layout.flip)
    assert flip[made.center] == made.center
    assert np.isfinite(graph._distances(made.num_joints, made.inward)).all()
    for strategy in graph.STRATEGIES:
        stack = graph.adjacency(layout, strategy, 2)
        np.testing.assert_array_equal(stack[:, flip][:, :, flip], stack, err_msg=strategy)


def slow_distances(num_joints: int, edges) -> np.ndarray:
    """Number of bones between joints, by relaxing every bone again and again."""
    found = np.full((num_joints, num_joints), np.inf)
    np.fill_diagonal(found, 0)
    for _ in range(num_joints):
        for a, b in edges:
            found[a] = np.minimum(found[a], found[b] + 1)
            found[b] = np.minimum(found[b], found[a] + 1)
    return found


@pytest.mark.parametrize("name", ["posetics17", "body13", "hdm31"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_partitions_are_what_they_say(name: str, hops: int) -> None:
    made = graph.topology(name)
    far = slow_distances(made.num_joints, made.inward)
    whole = graph.adjacency(name, "uniform", hops)[0]
    degree = (far <= hops).sum(0)
    np.testing.assert_allclose(whole, (far <= hops) / degree, rtol=1e-15)
    for strategy in ("distance", "spatial", "spatial_paper"):
        np.testing.assert_allclose(graph.adjacency(name, strategy, hops).sum(0), whole, rtol=1e-15)
    stack = graph.adjacency(name, "spatial_paper", hops)
    for hop in range(1, hops + 1):
        for giver, taker in zip(*np.nonzero(stack[2 * hop])):
            assert far[giver, taker] == hop and far[made.center, giver] < far[made.center, taker]
        for giver, taker in zip(*np.nonzero(stack[2 * hop - 1])):
            assert far[giver, taker] == hop and far[made.center, giver] >= far[made.center, taker]
    identity, inward, outward = graph.adjacency(name, "directed")
    np.testing.assert_array_equal(identity, np.eye(made.num_joints))
    np.testing.assert_array_equal(inward > 0, (outward > 0).T)
    assert set(np.round(inward.sum(0), 12)) <= {0.0, 1.0}


def test_joints_of_ones_own() -> None:
    made = graph.topology(OWN)
    assert made.center == 1
    assert (2, 1) in made.inward and (0, 1) in made.inward
    assert {(6, 7), (7, 6)} <= set(made.inward), "a part of its own keeps its bones"
    stack = graph.adjacency(OWN, "spatial")
    assert stack.shape == (3, 9, 9) and stack[0, 8, 8] == 1 and np.isfinite(stack).all()
    lone = graph.adjacency(Skeleton("dots", ("x", "y"), ()), "directed")
    np.testing.assert_array_equal(lone, [np.eye(2), np.zeros((2, 2)), np.zeros((2, 2))])


def test_a_layout_of_a_published_name_with_other_joints_has_its_own_bones() -> None:
    assert graph.topology(Skeleton("coco17", ("a", "b"), ((0, 1),))).num_joints == 2


def test_what_it_refuses() -> None:
    with pytest.raises(TrainingError, match="did you mean 'spatial'"):
        graph.adjacency("coco17", "spatiall")
    with pytest.raises(TrainingError, match="hops"):
        graph.adjacency("coco17", "spatial", 0)
    with pytest.raises(TrainingError, match="coco71"):
        graph.adjacency("coco71", "spatial")
