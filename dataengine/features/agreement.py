"""How well labels fit what a video model sees: pure functions on cached features.

What they find is stored and shown. It may take clips out, or propose other labels to a person; it never
changes a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.types import Bool, Float, Int

REVIEW_COLUMNS = ("clip_id", "label", "proposed", "cosine", "margin")


@dataclass(frozen=True)
class Agreement:
    """Labels against features, one entry a clip; K classes.

    Attributes:
        cosine: (N,) float64, of the clip and its label's text; NaN without a label.
        margin: (N,) float64, that cosine less the best of all other classes: above 0 where the label is the
            nearest class, NaN without a label or with one class.
        rank: (N,) int64, 1 where the label is the nearest class, 2 where one is nearer, ...; 0 without a label.
        nearest: (N,) int64, the nearest class.
        lead: (N,) float64, cosine of the nearest class less that of the second; NaN with one class.
        nearest_cosine: (N,) float64.
    """

    cosine: Float
    margin: Float
    rank: Int
    nearest: Int
    lead: Float
    nearest_cosine: Float

    def keeps(self, min_cosine: float | None = None, min_margin: float | None = None) -> Bool:
        """(N,) bool: the clips whose label reaches both; clips without a label are kept, for there is nothing to
        judge."""
        kept = np.ones(len(self.cosine), bool)
        for values, least in ((self.cosine, min_cosine), (self.margin, min_margin)):
            if least is not None:
                kept &= np.isnan(values) | (values >= least)
        return kept


def cosines(video: Float, text: Float) -> Float:
    """(N, K) float64 cosines of (N, D) clips and (K, D) class texts, of any length and float type.

    Raises:
        ComponentError: the shapes do not fit.
    """
    if video.ndim != 2 or text.ndim != 2 or video.shape[1] != text.shape[1] or not len(text):
        raise ComponentError(
            f"agreement takes (N, D) clips and (K, D) class texts of the same model; given {video.shape} and "
            f"{text.shape}"
        )
    sides = [
        side / np.linalg.norm(side, axis=1, keepdims=True)
        for side in (video.astype(np.float64), text.astype(np.float64))
    ]
    found: Float = sides[0] @ sides[1].T
    return found


def agreement(video: Float, text: Float, labels: Sequence[int] | Int) -> Agreement:
    """Compare each clip with every class.

    Args:
        video: (N, D) features of clips. text: (K, D) features of the texts of all classes.
        labels: (N,) class of each clip, -1 where it has no label.

    Raises:
        ComponentError: the shapes do not fit, or a label is no class.
    """
    found = cosines(video, text)
    own = np.asarray(labels, np.int64)
    num, classes = found.shape
    if own.shape != (num,) or ((own < -1) | (own >= classes)).any():
        raise ComponentError(
            f"agreement takes one label a clip, -1 to {classes - 1}; given {own.shape} for {num} clips"
        )
    has, rows = own >= 0, np.arange(num)
    cosine = np.where(has, found[rows, own], np.nan)
    others = found.copy()
    others[rows[has], own[has]] = -np.inf
    rival = others.max(1) if classes > 1 else np.full(num, np.nan)
    nearest = found.argmax(1)
    best = found[rows, nearest]
    second = np.partition(found, -2, axis=1)[:, -2] if classes > 1 else np.full(num, np.nan)
    rank = np.where(has, (found > cosine[:, None]).sum(1) + 1, 0)
    return Agreement(cosine, np.where(has, cosine - rival, np.nan), rank, nearest, best - second, best)


def review(
    found: Agreement,
    clip_ids: Sequence[str],
    labels: Sequence[str | None],
    classes: Sequence[str],
    min_margin: float = 0.0,
) -> list[dict[str, Any]]:
    """Proposals for a person to decide on: clips nearest to another class than their label, surest first.

    Args:
        found: agreement of these clips with these classes. labels: as given, None where a clip has none.
        min_margin: a proposal leads its rival by at least this cosine.

    Returns:
        Rows of REVIEW_COLUMNS: `cosine` is of the clip and the proposed class, `margin` its lead over the
        clip's label, or over the second nearest class where there is no label (None with one class).
    """
    rows = []
    for n, (clip_id, label) in enumerate(zip(clip_ids, labels, strict=True)):
        proposed = classes[int(found.nearest[n])]
        lead = found.lead[n] if label is None else found.nearest_cosine[n] - found.cosine[n]
        if proposed == label or (label is not None and np.isnan(lead)) or lead < min_margin:
            continue
        margin = None if np.isnan(lead) else float(lead)
        rows.append(dict(zip(REVIEW_COLUMNS, (clip_id, label, proposed, float(found.nearest_cosine[n]), margin))))
    return sorted(rows, key=lambda row: (-(row["margin"] or 0.0), row["clip_id"]))
