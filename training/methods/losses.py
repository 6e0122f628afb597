"""Contrastive losses over logits and masks, and the triplet loss.

One function computes every form of InfoNCE. Masks say which pairs are positive and which take part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

Form = Literal["sum", "each", "alone", "paper"]
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def in_full_precision(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """The function without autocast, its tensors of half precision as float32.

    A similarity divided by a temperature of 0.1 or less is a number of 10 or more, of which bfloat16 keeps two digits.
    """

    def full(value: Any) -> Any:
        is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if is_half else value

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type if tensors else "cpu", enabled=False):
            return function(*map(full, args), **{name: full(value) for name, value in kwargs.items()})

    return call


@in_full_precision
def info_nce(logits: Tensor, positive: Tensor, valid: Tensor | None = None, form: Form = "sum") -> Tensor:
    """InfoNCE of each anchor.

    With p over the positives of an anchor, n over all others that take part, and s the logits:

    - sum: -log( sum_p e^s / (sum_p e^s + sum_n e^s) )
    - each: the mean over p of -log( e^s_p / (sum_p e^s + sum_n e^s) )
    - alone: the mean over p of -log( e^s_p / (e^s_p + sum_n e^s) ), as MoCo with several positives
    - paper: -log( sum_p e^s / sum_n e^s ), as printed in the thesis (equations 4.6, 4.7, 6.3, 6.4, 6.6); it has no
      lower bound

    Args:
        logits: (N, L) float, similarities divided by the temperature.
        positive: (N, L) bool; an anchor without a positive has loss 0.
        valid: (N, L) bool, False where a pair takes no part; None: all take part.
        form: see above.

    Returns:
        (N,) float.
    """
    lowest = torch.finfo(logits.dtype).min
    positive = positive if valid is None else positive & valid
    among = torch.ones_like(positive) if valid is None else valid
    negatives = torch.logsumexp(logits.masked_fill(positive | ~among, lowest), 1)
    if form in ("sum", "paper"):
        positives = torch.logsumexp(logits.masked_fill(~positive, lowest), 1)
        each = (negatives if form == "paper" else torch.logaddexp(positives, negatives)) - positives
        return torch.where(positive.any(1), each, torch.zeros_like(each))
    total = (
        torch.logaddexp(logits, negatives[:, None])
        if form == "alone"
        else torch.logsumexp(logits.masked_fill(~among, lowest), 1)[:, None]
    )
    return torch.where(positive, total - logits, torch.zeros_like(logits)).sum(1) / positive.sum(1).clamp(min=1)


@in_full_precision
def queue_info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
    form: Form = "sum",
    negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE of queries and their keys against a queue of other keys (MoCo, equation 1).

    Vectors may have further axes, such as frames (N, D, T): the similarity is then the mean over these, frame by frame.

    Args:
        query: (N, D) unit vectors.
        key: (N, D) unit vectors; or (N, P, D), P keys of each query.
        queue: (Q, D) unit vectors.
        negatives: (N, L, D) unit vectors, negatives of each query alone, such as its own clip played backwards.
        temperature: divides the similarities.
        excluded: (N, Q) bool, True for keys that are no negatives of the query; see `Queue.not_negative_mask`.
        form: see `info_nce`.

    Returns:
        (N,) float.
    """
    several, places = key.ndim > query.ndim, query[0, 0].numel()
    if query.ndim > 2:
        query, key, queue = query.flatten(1) / places, key.flatten(1 + several), queue.flatten(1)
    own = _each(query, key) if several else (query * key).sum(1, keepdim=True)
    parts = [own, query @ queue.T]
    if negatives is not None:
        parts.append(_each(query, negatives.flatten(2)))
    logits = torch.cat(parts, 1) / temperature
    positive = torch.zeros_like(logits, dtype=torch.bool)
    positive[:, : own.shape[1]] = True
    valid = None
    if excluded is not None:
        valid = torch.ones_like(positive)
        valid[:, own.shape[1] : own.shape[1] + queue.shape[0]] = ~excluded
    return info_nce(logits, positive, valid, form)


def _each(query: Tensor, others: Tensor) -> Tensor:
    """(N, L) products of queries (N, D) with L vectors of their own (N, L, D)."""
    return (others @ query[..., None])[..., 0]


@in_full_precision
def batch_info_nce(
    a: Tensor, b: Tensor, temperature: float | Tensor, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE of a's rows among b's rows, and of b's among a's (CLIP).

    Args:
        a, b: (N, D) unit vectors.
        temperature: divides the similarities.
        same: (N, N) bool, True for further pairs that mean the same, for example equal texts; they take no part.

    Returns:
        (N,) float each.
    """
    logits = a @ b.T / temperature
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    valid = None if same is None else own | ~same
    return info_nce(logits, own, valid), info_nce(logits.T, own, None if valid is None else valid.T)


@in_full_precision
def two_view_info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE (2N,) of two views (N, D) of a batch, each among all 2N rows but itself (SimCLR)."""
    both = torch.cat([a, b])
    own = torch.eye(len(both), dtype=torch.bool, device=a.device)
    return info_nce(both @ both.T / temperature, own.roll(len(a), 1), ~own)


@in_full_precision
def similarities(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """(N, L) cosines of unit vectors (N, D) and (L, D), divided by the temperature."""
    return a @ b.T / temperature


@in_full_precision
def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, inverted: bool = False) -> Tensor:
    """max(0, margin + d(anchor, positive) - d(anchor, negative)) (N,) of (N, D); d is the Euclidean distance.

    `inverted` is equation 1 of MCC as printed, which pushes positives apart.
    """
    near, far = torch.linalg.vector_norm(anchor - positive, dim=1), torch.linalg.vector_norm(anchor - negative, dim=1)
    return functional.relu(margin - (near - far) if inverted else margin + near - far)
