"""How near to the annotated joints fused poses of 3, 5 and 7 estimators come, on still pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import main

from dataengine.core.types import Bool, Float
from dataengine.fusion import fuse
from dataengine.fusion._kernels.trees import BoostedTrees
from dataengine.fusion.calibration import Calibration

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LAYOUT = "mpii16"
THREE = ("hourglass_s1", "newell_ref", "tompson")
FIVE = ("hourglass_s1", "hourglass_s2", "hourglass_s8", "newell_ref", "tompson")
SEVEN = (*FIVE, "newell_ours", "newell_example")
RADII = (0.5, 0.1)
UNSCORED = (6, 7)
"""Pelvis and thorax: points that some estimators derive from others."""
GOALS = {7: (91.0, 39.5), 3: (89.8, 37.6)}
FINAL = "calibrated mean_shift"
MEAN_SHIFT: dict[str, Any] = {"method": "mean_shift", "score_power": 4.0, "refine": 1}
"""What the calibrated observations are fused with."""

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ssta": ("none", {"method": "ssta"}),
    "mean": ("none", {"method": "mean"}),
    "median": ("none", {"method": "median"}),
    "mean_shift": ("none", {"method": "mean_shift"}),
    "consensus": ("none", {"method": "consensus"}),
    "bias, mean_shift": ("bias", {"method": "mean_shift"}),
    "bias and chance, mean_shift": ("bias and chance", MEAN_SHIFT),
    FINAL: ("whole", MEAN_SHIFT),
    "calibrated consensus": ("whole", {"method": "consensus"}),
    "calibrated mean": ("whole", {"method": "mean"}),
}
"""What is compared: part of a calibration (see `calibrations`), then a named fusion and its options."""


@dataclass(frozen=True)
class People:
    """Persons of one fold: coords (E, N, 16, 2), truth (N, 16, 2), scored (N, 16), head (N,) head sizes in pixels,
    picture (N,)."""

    coords: Float
    truth: Float
    scored: Bool
    head: Float
    picture: Any

    def calibration(self, experts: Sequence[str]) -> Calibration:
        """Learned from these persons."""
        sequences = list(np.moveaxis(self.coords, 1, 0)[:, :, None])
        return Calibration.fit(
            sequences,
            list(self.truth[:, None]),
            list(self.scored[:, None]),
            self.head.tolist(),
            LAYOUT,
            experts,
            groups=self.picture,
        )

    def hits(self, poses: Float) -> Float:
        """(N, 2) joints of each person within half and a tenth of a head."""
        apart = np.where(self.scored, np.linalg.norm(poses - self.truth, axis=-1) / self.head[:, None], np.inf)
        return np.stack([(apart <= radius).sum(1) for radius in RADII], axis=1).astype(float)


def people(fold: int, experts: Sequence[str], most: int | None = None, data: Path = SHARED) -> People:
    """The persons of a fold, the first `most` of them."""
    with np.load(data / "fusion" / "mpii_valid.npz") as file:
        mine = np.flatnonzero(file["fold"] == fold)[:most]
        scored = file["labelled"][mine]
        scored[:, UNSCORED] = False
        coords = np.stack([file[f"pred_{name}"][mine] for name in experts])
        return People(
            coords, file["gt"][mine].astype(float), scored, file["head_size"][mine].astype(float), file["image"][mine]
        )


def _silent(trees: BoostedTrees) -> BoostedTrees:
    """Trees that add nothing."""
    return replace(trees, roots=trees.roots[:0], begin=np.array(0.0))


def calibrations(whole: Calibration) -> dict[str, Calibration | None]:
    """A calibration, parts of it, and none."""
    still = replace(
        whole, precision=whole.precision * 0, shift_x=_silent(whole.shift_x), shift_y=_silent(whole.shift_y)
    )
    return {
        "none": None,
        "bias": replace(still, chance=_silent(still.chance)),
        "bias and chance": still,
        "whole": whole,
    }


def observations(
    group: People, experts: Sequence[str], calibration: Calibration | None
) -> list[tuple[Float, Float | None]]:
    """Coordinates and scores of each person as a sequence of one frame."""
    views = np.moveaxis(group.coords, 1, 0)[:, :, None]
    return [(view, None) if calibration is None else calibration.apply(view, None, LAYOUT, experts) for view in views]


def interval(hits: Float, counts: Float, draws: int = 2000) -> list[list[float]]:
    """95 % intervals over persons of the share of joints, per cent: low and high of either radius. `hits` may be
    differences."""
    pick = np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))
    shares = 100 * hits[pick].sum(1) / counts[pick].sum(1)[:, None]
    return [[round(float(v), 2) for v in row] for row in np.percentile(shares, [2.5, 97.5], axis=0).T]


def measured(experts: Sequence[str], most: int | None) -> dict[str, Any]:
    """Every method's PCKh@0.5 and @0.1 in per cent, 95 % intervals, and the paired gain over the plain mean_shift with
    its interval."""
    calibration = people(0, experts, most).calibration(experts)
    test = people(1, experts, most)
    counts = test.scored.sum(1).astype(float)
    hits = {name: test.hits(test.coords[e].astype(float)) for e, name in enumerate(experts)}
    variants = {name: observations(test, experts, variant) for name, variant in calibrations(calibration).items()}
    for name, (variant, options) in METHODS.items():
        poses = [fuse(*view, skeleton=LAYOUT, **options).coords[0] for view in variants[variant]]
        hits[name] = test.hits(np.stack(poses))
    return {
        name: {
            "pckh": [round(100 * float(v) / counts.sum(), 2) for v in found.sum(0)],
            "interval": interval(found, counts),
            "gain_over_mean_shift": interval(found - hits["mean_shift"], counts),
        }
        for name, found in hits.items()
    }


def run(quick: bool) -> dict[str, Any]:
    """Learned on fold 0 of MPII's validation persons, measured on fold 1: PCKh@0.5 and @0.1 of seven, five and three
    estimators."""
    most = 300 if quick else None
    rows = {len(experts): measured(experts, most) for experts in (SEVEN, FIVE, THREE)}
    reached = {number: rows[number][FINAL]["pckh"] for number in GOALS}
    return {
        "name": "fusion_mpii",
        "value": rows[7][FINAL]["pckh"][0],
        "unit": "PCKh@0.5, per cent, 7 estimators",
        "goal": ">= 91.0 and 39.5 @0.1 with 7, >= 89.8 and 37.6 with 3",
        "holds": all(value >= goal for number, goals in GOALS.items() for value, goal in zip(reached[number], goals)),
        "baselines": {name: rows[7][name]["pckh"][0] for name in rows[7] if name != FINAL},
        "n": len(people(1, THREE, most).truth),
        "spread": rows[7][FINAL]["interval"][0],
        "data": "MPII, 1,463 validation persons (fold 1), fitted on the other 1,495; still pictures; "
        "95 % intervals over persons",
        "details": {f"{number} estimators": found for number, found in rows.items()},
    }


if __name__ == "__main__":
    main(run)
