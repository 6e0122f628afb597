"""Joint layouts as graphs: which joints are joined, towards which centre, and the adjacency stacks of the published
networks.

Layouts that published weights exist for have the bones of those programs (`PUBLISHED`); every other
layout has the bones of its `Skeleton`. Arrays are float64 (partitions, V, V); entry [p, i, j] is
what joint i gives to joint j.

Sources: ST-GCN (AAAI 2018, section 3.3) and yysijie/st-gcn@221c0e1 `net/utils/graph.py`; 2s-AGCN (CVPR 2019,
section 3.1) as described in the paper; kennymckormick/pyskl@3f6795f `pyskl/utils/graph.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import Skeleton
from training.backbones.base import resolve

Stack: TypeAlias = NDArray[np.float64]
Edges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Topology:
    """A joint layout as a graph. `inward` are (farther, nearer) joint pairs, seen from `center`; both ways where
    equally far."""

    num_joints: int
    inward: Edges
    center: int


def _parents(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split())


PUBLISHED: dict[str, tuple[int, ...]] = {
    # joint -> the joint that it hangs on; the centre hangs on itself
    "openpose18": _parents("1 1 1 2 3 1 5 6 2 8 9 5 11 12 0 0 14 15"),
    "coco17": _parents("0 0 0 1 2 0 0 5 6 7 8 5 6 11 12 13 14"),
    "nturgbd25": _parents("1 20 20 2 20 4 5 6 20 8 9 10 0 12 13 14 0 16 17 18 20 22 7 24 11"),
}
"""Bones of ST-GCN and 2s-AGCN (OpenPose and NTU), of pyskl (COCO), by layout name."""

PYSKL: dict[str, tuple[int, ...]] = {
    **PUBLISHED,
    "nturgbd25": _parents("1 20 20 2 20 4 5 6 20 8 9 10 0 12 13 14 0 16 17 18 20 7 7 11 11"),
}
"""Bones of pyskl: hand tips and thumbs of NTU hang on the wrists."""

ATTACHED: dict[str, tuple[tuple[str, ...], ...]] = {
    "nose": (("neck",), ("upper_neck",), ("head_top",), ("left_shoulder", "right_shoulder")),
    "left_mouth": (("nose",),),
    "right_mouth": (("nose",),),
    **{f"{side}_{part}": (("nose",),) for side in ("left", "right") for part in ("eye", "eye_inner", "eye_outer")},
    **{f"{side}_ear": ((f"{side}_eye",), ("nose",)) for side in ("left", "right")},
    **{
        f"{side}_{finger}": ((f"{side}_wrist",),)
        for side in ("left", "right")
        for finger in ("pinky", "index", "thumb")
    },
    **{
        f"{side}_{part}": ((f"{side}_ankle",),)
        for side in ("left", "right")
        for part in ("heel", "big_toe", "small_toe", "foot_index")
    },
}
"""What joints hang on that some layouts draw no bone to: the first group that the layout has."""


def _distances(num_joints: int, edges: Sequence[tuple[int, int]], limit: int | None = None) -> Stack:
    """(V, V) number of bones between joints; infinite beyond `limit` and where there is no way."""
    joined = np.eye(num_joints, dtype=bool)
    for a, b in edges:
        joined[a, b] = joined[b, a] = True
    distances = np.where(np.eye(num_joints, dtype=bool), 0.0, np.inf)
    reached = np.eye(num_joints, dtype=bool)
    for hop in range(1, (num_joints if limit is None else limit) + 1):
        further = reached @ joined
        distances[further & ~reached] = hop
        reached = further
    return distances


def _islands(num_joints: int, edges: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The lowest joint that each joint has a way to."""
    return np.asarray(np.argmax(np.isfinite(_distances(num_joints, edges)), axis=1))


def _closed(skeleton: Skeleton) -> list[tuple[int, int]]:
    """The bones, and joints that no way leads to hung on what `ATTACHED` names."""
    islands = _islands(skeleton.num_joints, skeleton.bones)
    main = np.bincount(islands).argmax()
    edges = list(skeleton.bones)
    for index, joint in enumerate(skeleton.joints):
        groups = [group for group in ATTACHED.get(joint, ()) if set(group) <= set(skeleton.joints)]
        if groups and islands[index] != main:
            edges += [(hold, index) for hold in skeleton.indices(groups[0]) if islands[hold] != islands[index]]
    return edges


def _middle(skeleton: Skeleton, edges: Sequence[tuple[int, int]]) -> int:
    """The centre of the largest connected part: the joint with the smallest largest distance, then the smallest sum of
    them.

    Joints between left and right come first, so that both sides of a body are treated alike.
    """
    distances = _distances(skeleton.num_joints, edges)
    islands = _islands(skeleton.num_joints, edges)
    inside = np.flatnonzero(islands == np.bincount(islands).argmax())

    def rank(joint: int) -> tuple[bool, float, float, int]:
        far = distances[joint, inside]
        return skeleton.joints[joint].startswith(("left_", "right_")), float(far.max()), float(far.sum()), joint

    return min(inside.tolist(), key=rank)


def topology(skeleton: str | Skeleton, published: dict[str, tuple[int, ...]] = PUBLISHED) -> Topology:
    """The graph of a joint layout.

    A layout of the given table has that table's bones and centre, so that published weights fit. Any
    other keeps its own bones; each points from the joint farther from the centre to the nearer one,
    and both ways where both are equally far. Joints without a way to the centre keep their bones, or only
    the link to themselves.

    Args:
        skeleton: name of a layout, or a layout of your own.
        published: `PUBLISHED` or `PYSKL`.

    Raises:
        TrainingError: no such layout.
    """
    layout = resolve(skeleton)
    parents = published.get(layout.name)
    if parents is not None and len(parents) == layout.num_joints:
        inward = tuple((child, parent) for child, parent in enumerate(parents) if child != parent)
        return Topology(
            layout.num_joints, inward, next(child for child, parent in enumerate(parents) if child == parent)
        )
    edges = _closed(layout)
    center = _middle(layout, edges)
    far = _distances(layout.num_joints, edges)[center]
    both = {pair for a, b in edges for pair in ((a, b), (b, a)) if far[pair[0]] >= far[pair[1]]}
    return Topology(layout.num_joints, tuple(sorted(both)), center)


def _normalised(matrix: Stack) -> Stack:
    """Columns divided by their sums; empty columns stay empty."""
    sums = matrix.sum(0)
    scale: Stack = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    return matrix * scale


def uniform(graph: Topology, hops: int = 1) -> Stack:
    """One partition: everything within `hops` bones. (1, V, V)."""
    near = _distances(graph.num_joints, graph.inward, hops) <= hops
    return _normalised(near.astype(np.float64))[None]


def distance(graph: Topology, hops: int = 1) -> Stack:
    """A partition for each number of bones up to `hops`. (hops + 1, V, V)."""
    far = _distances(graph.num_joints, graph.inward, hops)
    whole = uniform(graph, hops)[0]
    return np.stack([np.where(far == hop, whole, 0) for hop in range(hops + 1)])


def _partitioned(graph: Topology, hops: int, from_center: Stack) -> Stack:
    far = _distances(graph.num_joints, graph.inward, hops)
    whole = uniform(graph, hops)[0]
    closer = from_center[:, None] >= from_center[None]
    parts = [np.where(far == 0, whole, 0)]
    for hop in range(1, hops + 1):
        parts += [np.where((far == hop) & closer, whole, 0), np.where((far == hop) & ~closer, whole, 0)]
    return np.stack(parts)


def spatial(graph: Topology, hops: int = 1) -> Stack:
    """The joint itself, neighbours not nearer to the centre, neighbours nearer to it. (2 hops + 1, V, V).

    As in the published programs, distances from the centre are known up to `hops` bones only: joints
    beyond it count as equally far, so with one hop few links point outwards. `spatial_paper` uses
    the whole distances, as ST-GCN section 3.3 describes.
    """
    return _partitioned(graph, hops, _distances(graph.num_joints, graph.inward, hops)[graph.center])


def spatial_paper(graph: Topology, hops: int = 1) -> Stack:
    """As `spatial`, with the whole distances from the centre (ST-GCN section 3.3). (2 hops + 1, V, V)."""
    return _partitioned(graph, hops, _distances(graph.num_joints, graph.inward)[graph.center])


def _directed(graph: Topology, edges: Sequence[tuple[int, int]]) -> Stack:
    matrix = np.zeros((graph.num_joints, graph.num_joints))
    for start, end in edges:
        matrix[end, start] = 1
    return matrix


def directed(graph: Topology, hops: int = 1) -> Stack:
    """Identity, links towards the centre, links away from it, each normalised by itself (2s-AGCN, pyskl `spatial`). (3,
    V, V)."""
    inward = _directed(graph, graph.inward)
    return np.stack([np.eye(graph.num_joints), _normalised(inward), _normalised(inward.T)])


def binary(graph: Topology, hops: int = 1) -> Stack:
    """1 where a bone is, without links of joints to themselves. (1, V, V)."""
    inward = _directed(graph, graph.inward)
    return np.maximum(inward, inward.T)[None]


STRATEGIES: dict[str, Callable[[Topology, int], Stack]] = {
    "uniform": uniform,
    "distance": distance,
    "spatial": spatial,
    "spatial_paper": spatial_paper,
    "directed": directed,
    "binary": binary,
}
"""How the links of a joint are divided into partitions, by name."""


def adjacency(
    skeleton: str | Skeleton, strategy: str, hops: int = 1, published: dict[str, tuple[int, ...]] = PUBLISHED
) -> Stack:
    """The adjacency stack (partitions, V, V) float64 of a layout.

    Raises:
        TrainingError: no such layout or strategy, or `hops` below 1.
    """
    if strategy not in STRATEGIES:
        raise TrainingError(f"unknown graph strategy {strategy!r}{suggestion(strategy, STRATEGIES)}")
    if hops < 1:
        raise TrainingError(f"hops must be 1 or more; given {hops}")
    return STRATEGIES[strategy](topology(skeleton, published), hops)
