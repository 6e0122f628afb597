"""Fusion `consensus`: the best path over the experts, then a robust spline through what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.fusion.spline import Spline, Start


@dataclass(frozen=True)
class Consensus(Spline):
    """`ViterbiPath`, then `Spline` from that path, then swapped limbs corrected, and the spline again.

    Unlike a selection, the consensus blends experts: their errors average out, and the frames before and after correct
    a joint that all experts get wrong for a while. `Spline` describes the steps and the options.
    """

    start: Start = "viterbi_path"
