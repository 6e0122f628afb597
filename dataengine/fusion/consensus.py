"""Consensus: the best path over the experts, then a robust spline through what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.fusion.spline import Spline, Start


@dataclass(frozen=True)
class Consensus(Spline):
    """`ViterbiPath`, then `Spline` started from it, left and right put straight, and the spline again.

    Unlike a selection it blends: errors of several experts average out, and a joint that all experts get wrong for some
    frames is carried by its neighbours in time. See `Spline` for how, and for what its options mean.
    """

    start: Start = "viterbi_path"
