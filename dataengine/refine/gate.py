"""The gate: a generation counts only where it is shown to be no worse than the one before.

A measure passes where the loss from before to after is below a margin with a confidence of 95 %: the upper end of a
one-sided interval of a paired bootstrap over videos (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13). So a student passes by being shown to be no worse, not by being measured on too little. One video alone
has an interval without a width and shows nothing. Of few videos the interval is narrower than it says: that of two
holds the mean in 74 % of cases, of three in 81 %, of five in 89 %, of twenty in 93 % (normal losses, 2,000 trials).

Being no worse is not enough for a student that never was any good. So its poses also have to give most of the fused
joints that they are to replace (`Limits`), and to be shown to be no worse than the fused poses where the truth is
known: exact joints of rendered clips, and annotations. Where it is not known, nobody can tell who is right where a
student and the fusion differ. So the student has to confirm the fused joints as well as the middle one of the experts
does (`middle_expert`). Each expert took part in the fusion, so this asks for more than to be as good as that expert.

Jitter and flips need no reference, so the fused poses have them, too. They pass where the student is no worse than the
generation before *or* than the fused poses, which its poses are to replace: a student that knows nothing and always
gives the middle of its box trembles less than any that follows a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dataengine.core.types import Float
from dataengine.refine import measures
from dataengine.refine.measures import JudgedClip

DRAWS = 2000
LEVEL = 0.95
ONE_VIDEO = (
    "one held-out video alone does not show that a student is no worse; more videos, or a larger [refine] validation, "
    "give more"
)
ALONE = 0.85
"""Share of the sure fused joints that a student of a single expert has to have within half a head-neck length."""


@dataclass(frozen=True)
class Margins:
    """The loss that still counts as no worse: shares, people per person, and for jitter a share of the value before."""

    agreement: float = 0.02
    missing: float = 0.02
    extra: float = 0.05
    sides: float = 0.01
    jitter: float = 0.1
    truth: float = 0.01


@dataclass(frozen=True)
class Limits:
    """What the poses have to reach whatever was before.

    Attributes:
        missing: share of the sure fused joints that they lack at most.
        extra: people whom the experts did not find, per fused person and frame, at most.
        agreement: share of them that they have within half a head-neck length at least. None: where the truth is not
            known, as many as the middle expert has; a recipe of one expert has none to compare with but itself, and
            `ALONE` counts.
    """

    missing: float = 0.3
    agreement: float | None = None
    extra: float = 0.3


@dataclass(frozen=True)
class Comparison:
    """One measure of two generations.

    Attributes:
        name: key of `MEASURES`. against: what `before` is: "before" (the last generation), "fused", or "limit".
        before, after: means over clips. None: it could not be measured.
        loss: by how much it got worse on average; below 0 is better. worst: upper end of the interval of `loss`; None
            where it has no end, of one video alone.
        margin: the largest `worst` that passes.
        count: clips or people that were compared. groups: videos or pictures that were drawn.
        passes: whether it does.
    """

    name: str
    against: str
    before: float | None
    after: float | None
    loss: float | None
    worst: float | None
    margin: float
    count: int
    groups: int
    passes: bool

    @property
    def alone(self) -> bool:
        """Whether it was measured in one video or picture alone, so that there is no interval."""
        return self.loss is not None and self.worst is None

    def line(self) -> str:
        """The comparison in words."""
        if self.before is None or self.after is None:
            return f"{self.name}: not measured"
        if self.against == "limit":
            return f"{self.name} {self.after:.4g} {'keeps to' if self.passes else 'misses'} the limit {self.before:.4g}"
        head = f"{self.name} {self.before:.4g} -> {self.after:.4g} (against {self.against})"
        said = "no worse" if self.passes else "not shown to be no worse"
        if self.alone:
            return f"{head}: loss {self.loss:.3g} of one video or picture alone: {said}"
        return f"{head}: loss {self.loss:.3g}, at most {self.worst:.3g} with 95 %, margin {self.margin:.3g}: {said}"


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a generation.

    Attributes:
        published: whether its poses count.
        reasons: why not, one line each.
        comparisons: of all measures.
        breakdown: agreement by joint, score and height (`measures.breakdown`).
        clips: held-out clips that were looked at.
    """

    published: bool
    reasons: list[str]
    comparisons: list[Comparison]
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    clips: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairedValues:
    """Values of one measure, larger is better or smaller is better, of two generations.

    Attributes:
        before, after: (N,) float. groups: of each value; those of a group are drawn together.
    """

    before: Float
    after: Float
    groups: Sequence[str]


def compare(
    name: str, values: PairedValues, margin: float, higher_is_better: bool, against: str = "before", seed: int = 0
) -> Comparison:
    """Whether a measure got no worse; see the module. What is NaN before or after is left out."""
    known = np.isfinite(values.before) & np.isfinite(values.after)
    before, after = values.before[known].astype(np.float64), values.after[known].astype(np.float64)
    groups = [group for group, good in zip(values.groups, known) if good]
    names = sorted(set(groups))
    if not names:
        return Comparison(name, against, None, None, None, None, margin, 0, 0, False)
    loss = (before - after) if higher_is_better else (after - before)
    sums = np.array([loss[[g == one for g in groups]].sum() for one in names])
    counts = np.array([groups.count(one) for one in names], np.float64)
    picks = np.random.default_rng(seed).integers(0, len(names), (DRAWS, len(names)))
    drawn = sums[picks].sum(1) / counts[picks].sum(1)
    worst = float(np.quantile(drawn, LEVEL)) if len(names) > 1 else None
    return Comparison(
        name, against, float(before.mean()), float(after.mean()), float(loss.mean()), worst, margin, len(loss),
        len(names), worst is not None and worst <= margin + 1e-12,
    )  # fmt: skip


def judge(
    clips: Sequence[JudgedClip],
    margins: Margins,
    truth: Mapping[str, PairedValues] | None = None,
    replaced: Mapping[str, PairedValues] | None = None,
    best_epoch: int = 1,
    limits: Limits | None = None,
) -> Verdict:
    """Judge a generation.

    Args:
        clips: held-out clips.
        truth: "oks" and "pckh" of annotated people before and after, where there are annotations.
        replaced: the same with the fused poses of the experts in the place of `before`.
        best_epoch: of learning; 0: the student is the one before.
        limits: what has to be reached whatever was before.
    """
    found = [*_without_reference(clips, margins), *_with_reference(clips, margins)]
    found += _within(found, clips, margins, limits or Limits(), known=bool(replaced))
    for against, given in (("before", truth), ("fused", replaced)):
        found += [compare(name, values, margins.truth, True, against) for name, values in (given or {}).items()]
    if rendered := [clip for clip in clips if clip.exact is not None]:
        found += [
            compare("exact", _values(rendered, measures.exact, against), margins.truth, True, against)
            for against in ("before", "fused")
        ]
    refused = [one for one in _decisive(found) if not one.passes]
    if len({clip.video for clip in clips}) == 1:
        reasons = [ONE_VIDEO, *(one.line() for one in refused if not one.alone)]
    else:
        reasons = [one.line() for one in refused]
    if best_epoch == 0:
        reasons.insert(0, "nothing was learned: no epoch has a lower validation loss than the student before")
    if not clips:
        reasons.insert(0, "no held-out clip could be looked at")
    return Verdict(not reasons, reasons, found, measures.breakdown(list(clips)), len(clips))


def _with_reference(clips: Sequence[JudgedClip], margins: Margins) -> list[Comparison]:
    named: dict[str, tuple[Callable[[Float, JudgedClip], float], float, bool]] = {
        "agreement": (measures.agreement, margins.agreement, True),
        "missing": (measures.missing, margins.missing, False),
        "exchanged": (measures.exchanged, margins.sides, False),
    }
    found = [compare(name, _values(clips, of, "before"), margin, up) for name, (of, margin, up) in named.items()]
    before, after = (np.array([clip.extra[n] for clip in clips], np.float64) for n in (0, 1))
    people = PairedValues(before, after, [clip.video for clip in clips])
    return [*found, compare("extra", people, margins.extra, False)]


def _without_reference(clips: Sequence[JudgedClip], margins: Margins) -> list[Comparison]:
    found = []
    for against in ("before", "fused"):
        values = _values(clips, measures.flips, against)
        found.append(compare("flips", values, margins.sides, False, against))
        values = _values(clips, measures.jitter, against)
        known = np.isfinite(values.before) & np.isfinite(values.after)
        usual = float(values.before[known].mean()) if known.any() else 0.0
        found.append(compare("jitter", values, margins.jitter * usual, False, against))
    return found


def _within(
    found: Sequence[Comparison], clips: Sequence[JudgedClip], margins: Margins, limits: Limits, known: bool
) -> list[Comparison]:
    """Whether this generation keeps to the limits.

    Args:
        known: whether annotations tell how the student compares with the fused poses.
    """
    means = {one.name: one for one in found if one.name in ("missing", "extra", "agreement") and one.after is not None}
    within = [_limit(means[name], most, 1) for name, most in (("missing", limits.missing), ("extra", limits.extra))
              if name in means]  # fmt: skip
    if limits.agreement is not None:
        return within + ([_limit(means["agreement"], limits.agreement, -1)] if "agreement" in means else [])
    unknown = [] if known else [clip for clip in clips if clip.exact is None]
    if not unknown or "agreement" not in means:
        return within
    middle = middle_expert(unknown)
    if middle is None:
        alone = compare("agreement", _values(unknown, measures.agreement, "before"), margins.agreement, True)
        return within + ([_limit(alone, ALONE, -1)] if alone.after is not None else [])
    after = _values(unknown, measures.agreement, "before")
    values = PairedValues(middle, after.after, after.groups)
    return [*within, compare("agreement", values, margins.agreement, True, "middle expert")]


def _limit(one: Comparison, limit: float, sign: int) -> Comparison:
    """Whether the mean of a measure keeps to a limit, from above for a sign of -1."""
    assert one.after is not None, "it was measured"
    loss = sign * (one.after - limit)
    return Comparison(one.name, "limit", limit, one.after, loss, loss, 0.0, one.count, one.groups, loss <= 0)


def middle_expert(clips: Sequence[JudgedClip]) -> Float | None:
    """(N,) how much the expert in the middle agrees with the fused poses of each clip; None for fewer than two experts.

    The middle, the lower one of an even number, is that of the means over clips: a single expert that finds nobody
    lowers nothing.
    """
    counts = {0 if clip.experts is None else len(clip.experts) for clip in clips}
    if len(counts) != 1 or min(counts) < 2:
        return None
    shares = np.array([[measures.agreement(one, clip) for one in _experts(clip)] for clip in clips], np.float64)
    means = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else 0.0 for row in shares.T])
    chosen: Float = shares[:, np.argsort(means, kind="stable")[(len(means) - 1) // 2]]
    return chosen


def _experts(clip: JudgedClip) -> Float:
    assert clip.experts is not None, "clips have experts"
    return clip.experts


def _values(clips: Sequence[JudgedClip], of: Callable[[Float, JudgedClip], float], against: str) -> PairedValues:
    before = np.array([of(clip.before if against == "before" else clip.fused, clip) for clip in clips], np.float64)
    after = np.array([of(clip.after, clip) for clip in clips], np.float64)
    return PairedValues(before, after, [clip.video for clip in clips])


def _decisive(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that decide: of jitter and flips the better of the two, or none where neither can be measured; a
    clip of a frame has none."""
    decisive = []
    for name in dict.fromkeys(one.name for one in found):
        mine = [one for one in found if one.name == name]
        if name in ("flips", "jitter"):
            measured = [one for one in mine if one.before is not None]
            decisive += [max(measured, key=lambda one: one.passes)] if measured else []
        elif name == "exchanged":
            decisive += [one for one in mine if one.before is not None]
        else:
            decisive += mine
    return decisive
