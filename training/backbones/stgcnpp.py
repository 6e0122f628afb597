"""ST-GCN++: ST-GCN with learnt links, residual graph units and six temporal branches.

Source: Duan et al., PYSKL: Towards Good Practices for Skeleton Action Recognition, ACM MM 2022, section 3;
keys and constants of kennymckormick/pyskl@3f6795f `configs/stgcn++`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataengine.core.skeletons import Skeleton
from training.backbones.graph_units import Trunk


class STGCNpp(Trunk):
    """ST-GCN++ over motions (N, C, T, V, M); by default 256 features, one step every 4 frames.

    Args:
        num_classes: 0 leaves `cls_head` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        channels_base: channels of the first level, 6 or more; each further level doubles them. 64 published.
        blocks: blocks of each level; every level after the first halves the frames.
        people: M at most.
        strategy: how links are divided: "directed" (`spatial` in pyskl) or another of `graph.STRATEGIES`.
        hops: how many bones a link may span.
    """

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        channels_base: int = 64,
        blocks: Sequence[int] = (4, 3, 3),
        people: int = 2,
        strategy: str = "directed",
        hops: int = 1,
    ) -> None:
        super().__init__(
            num_classes, skeleton, channels, channels_base, blocks, people, strategy, hops, learnt="init", scales=True
        )
