"""Regions of Keypoint R-CNN for a whole batch at once, on an accelerator.

torchvision goes from image to image, and in each it asks the device several times how many boxes are left. Here every
image has the same number of candidates, those that do not count are marked, and overlaps are suppressed for all images
together. The boxes are the same (tests/experts/test_region_proposals.py).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROUNDS = 32
"""Longest chain of boxes, each suppressed by the one before, that is followed to its end."""
PAIRS_AT_ONCE = 1 << 26
"""Pairs of boxes that are compared at once; bounds memory, not results."""

_KEPT: weakref.WeakKeyDictionary[Any, dict[Any, list[torch.Tensor]]] = weakref.WeakKeyDictionary()
"""Anchors of the networks of this process."""


def suppress(boxes: torch.Tensor, counts: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which boxes stay, as of greedy non-maximum suppression in each group: (B, K) bool.

    A box goes if a better one that stays shares more than `overlap` of their union. Starting from all boxes, each round
    asks this of the boxes that stayed in the round before. After n rounds the answer is that of the greedy rule for all
    boxes at the end of chains of up to n boxes.

    Args:
        boxes: (B, K, 4) xyxy, best first.
        counts: (B, K) bool, the boxes that take part.
        overlap: largest intersection over union.
    """
    import torch

    step = max(1, PAIRS_AT_ONCE // max(1, boxes.shape[1] ** 2))
    return torch.cat([_suppress(*some, overlap) for some in zip(boxes.split(step), counts.split(step))])


def _suppress(boxes: torch.Tensor, counts: torch.Tensor, overlap: float) -> torch.Tensor:
    import torch

    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    both = (high - low).clamp_(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    share = both / (area[:, :, None] + area[:, None] - both)
    kind = torch.float16 if boxes.is_cuda else torch.float32
    better = (share > overlap).tril_(-1).to(kind)
    stay = counts
    for _ in range(ROUNDS):
        stay = counts & ((better @ stay.to(kind)[..., None])[..., 0] == 0)
    return stay


def propose(
    rpn: Any,
    features: list[torch.Tensor],
    size: tuple[int, int],
    most: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidate regions of N images: boxes (N, P, 4), best first, and which of them count (N, P) bool.

    Args:
        rpn: torchvision's region proposal network.
        features: maps (N, C, h, w) float32, one per level.
        size: width and height of the images.
        most: most regions per image.
    """
    import torch

    scores, deltas = rpn.head(features)
    anchors = anchors_of(rpn, features, size)
    boxes, likely, stays = [], [], []
    for score, delta, anchor in zip(scores, deltas, anchors):
        num, count, height, width = score.shape
        flat = score.permute(0, 2, 3, 1).reshape(num, -1)
        moves = delta.view(num, count, 4, height, width).permute(0, 3, 4, 1, 2).reshape(num, -1, 4)
        best, which = flat.topk(min(rpn.pre_nms_top_n(), flat.shape[1]), 1)
        chosen = moves.gather(1, which[..., None].expand(-1, -1, 4))
        here = decode_boxes(rpn.box_coder, chosen, anchor[which], size)
        counts = large(here, rpn.min_size) & (best.sigmoid() >= rpn.score_thresh)
        boxes.append(here)
        likely.append(best.sigmoid())
        stays.append(suppress(here, counts, rpn.nms_thresh))
    return best_of(torch.cat(boxes, 1), torch.cat(likely, 1), torch.cat(stays, 1), most)[::2]


def detect(
    heads: Any,
    logits: torch.Tensor,
    shifts: torch.Tensor,
    regions: torch.Tensor,
    counts: torch.Tensor,
    size: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The people in regions: boxes (N, M, 4), scores (N, M), best first, and which of them count (N, M) bool.

    Args:
        heads: torchvision's heads of regions; their threshold, overlap and number of people hold.
        logits, shifts: (N P, 2) and (N P, 8), what the box predictor says; class 1 are people.
        regions, counts: as of `propose`.
        size: width and height of the images.
    """
    import torch

    num, most = counts.shape
    scores = torch.softmax(logits, -1).view(num, most, -1)[..., 1]
    boxes = decode_boxes(heads.box_coder, shifts.view(num, most, -1, 4)[:, :, 1], regions, size)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    stays = counts.gather(1, order) & (scores > heads.score_thresh) & large(boxes, 1e-2)
    stays = suppress(boxes, stays, heads.nms_thresh)
    return best_of(boxes, scores, stays, heads.detections_per_img)


def anchors_of(rpn: Any, features: list[torch.Tensor], size: tuple[int, int]) -> list[torch.Tensor]:
    """Anchors (P, 4) of every level; torchvision makes them of numbers of the host, and so they are kept."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    given = torch.empty((1, 3, size[1], size[0]), device="meta")
    key = (size, tuple(tuple(one.shape[-2:]) for one in features))
    kept: dict[Any, list[torch.Tensor]] = _KEPT.setdefault(rpn, {})
    if key not in kept:
        every = rpn.anchor_generator(ImageList(given, [(size[1], size[0])]), features)[0]
        per_cell = rpn.anchor_generator.num_anchors_per_location()
        sizes = [h * w * n for (h, w), n in zip(key[1], per_cell)]
        if every.is_cuda:  # threads on other streams may use them from now on
            torch.cuda.current_stream(every.device).synchronize()
        kept[key] = list(every.split(sizes))
    return kept[key]


def decode_boxes(coder: Any, moves: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes (N, K, 4) moved by what a network says of them (N, K, 4), within the image."""
    moved = coder.decode_single(moves.reshape(-1, 4), boxes.reshape(-1, 4)).view(moves.shape)
    return _inside(moved, size)


def _inside(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch

    x, y = boxes[..., 0::2].clamp(0, size[0]), boxes[..., 1::2].clamp(0, size[1])
    return torch.stack([x, y], -1).flatten(-2)


def large(boxes: torch.Tensor, least: float) -> torch.Tensor:
    """Which boxes have sides of at least so many pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(-1)


def best_of(
    boxes: torch.Tensor, scores: torch.Tensor, stays: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best boxes of those that stay, with their scores; and which of them count, where fewer stay."""
    best, which = scores.masked_fill(~stays, -1.0).topk(min(most, scores.shape[1]), 1)
    return boxes.gather(1, which[..., None].expand(-1, -1, 4)), best, best >= 0
