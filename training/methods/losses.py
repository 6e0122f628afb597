"""Contrastive losses over logits and masks, and the triplet loss.

One function computes every form of InfoNCE here: what is positive and what takes part is given by
masks, so that methods say only which pairs they mean.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Form = Literal["sum", "each", "alone", "paper"]


def info_nce(logits: Tensor, positive: Tensor, valid: Tensor | None = None, form: Form = "sum") -> Tensor:
    """InfoNCE of each anchor (N,), from logits (N, L): similarities divided by the temperature.

    With p over an anchor's positives, n over all others that take part, and s the logits:
    sum: -log( sum_p e^s / (sum_p e^s + sum_n e^s) ); each: the mean over p of -log( e^s_p / (sum_p e^s + sum_n e^s) );
    alone: the mean over p of -log( e^s_p / (e^s_p + sum_n e^s) ), as MoCo with several positives;
    paper: -log( sum_p e^s / sum_n e^s ), as printed in the thesis (equations 4.6, 4.7, 6.3, 6.4, 6.6): it has no lower bound.

    Args:
        positive: (N, L) bool; an anchor without a positive counts 0.
        valid: (N, L) bool, False where a pair takes no part; default all do.
    """
    hidden = torch.finfo(logits.dtype).min
    positive = positive if valid is None else positive & valid
    among = torch.ones_like(positive) if valid is None else valid
    negatives = torch.logsumexp(logits.masked_fill(positive | ~among, hidden), 1)
    if form in ("sum", "paper"):
        wanted = torch.logsumexp(logits.masked_fill(~positive, hidden), 1)
        each = (negatives if form == "paper" else torch.logaddexp(wanted, negatives)) - wanted
        return torch.where(positive.any(1), each, torch.zeros_like(each))
    every = (
        torch.logaddexp(logits, negatives[:, None])
        if form == "alone"
        else torch.logsumexp(logits.masked_fill(~among, hidden), 1)[:, None]
    )
    return torch.where(positive, every - logits, torch.zeros_like(logits)).sum(1) / positive.sum(1).clamp(min=1)


def against_queue(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, known: Tensor | None = None, form: Form = "sum"
) -> Tensor:
    """InfoNCE (N,) of unit vectors query and key (N, D) against a queue (Q, D) of other keys (MoCo, equation 1).

    Args:
        known: (N, Q) bool, True for entries of the queue that are no negatives of the anchor and take no part.
    """
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
    positive = torch.zeros_like(logits, dtype=torch.bool)
    positive[:, 0] = True
    valid = None if known is None else torch.cat([positive[:, :1], ~known], 1)
    return info_nce(logits, positive, valid, form)


def in_batch(a: Tensor, b: Tensor, temperature: float | Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """InfoNCE of a's rows among b's and of b's among a's, (N,) each, unit vectors (N, D) (CLIP).

    Args:
        same: (N, N) bool, True for further pairs that mean the same and take no part, such as equal texts.
    """
    logits = a @ b.T / temperature
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    valid = None if same is None else own | ~same
    return info_nce(logits, own, valid), info_nce(logits.T, own, None if valid is None else valid.T)


def two_views(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE (2N,) of two views of a batch among all 2N rows but the anchor itself (SimCLR)."""
    both = torch.cat([a, b])
    own = torch.eye(len(both), dtype=torch.bool, device=a.device)
    return info_nce(both @ both.T / temperature, own.roll(len(a), 1), ~own)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, inverted: bool = False) -> Tensor:
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) (N,), d the Euclidean distance, of (N, D).

    `inverted` is MCC's equation 1 as printed, which drives positives apart.
    """
    near, far = torch.linalg.vector_norm(anchor - positive, dim=1), torch.linalg.vector_norm(anchor - negative, dim=1)
    return functional.relu(margin - (near - far) if inverted else margin + near - far)
