"""Charts of the report page: bars, histograms and a body, as HTML and inline SVG without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.core.skeletons import Skeleton
from dataengine.core.types import Float
from dataengine.report.html import Html, el

BINS = 28


@dataclass(frozen=True)
class Part:
    """A segment of a bar: length, CSS class for the colour, and text on hovering."""

    length: float
    look: str = "c0"
    hint: str = ""


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: name, segments, note behind and text below them."""

    name: object
    parts: Sequence[Part]
    note: object = ""
    under: object = ""


def count(value: float | int | None) -> str:
    """A whole number with thin spaces between thousands."""
    return "–" if value is None else f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: up to `digits` significant digits, an exponent only for very small numbers."""
    if value is None or not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return count(value)
    return (
        f"{value:.{digits}g}"
        if 1e-4 <= abs(value) < 10**digits
        else count(value)
        if abs(value) >= 10**digits
        else f"{value:.1e}"
    )


def percent(part: float, whole: float) -> str:
    """`part` of `whole` in per cent; a positive part is never written as 0."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return (
        "<0.1 %"
        if 0 < share < 0.1
        else ">99.9 %"
        if 99.9 < share < 100
        else f"{share:.0f} %"
        if share in (0, 100)
        else f"{share:.1f} %"
    )


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals, for columns of similar numbers."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def bars(rows: Sequence[Bar], longest: float | None = None) -> Html:
    """Horizontal bars, one per row, with a common scale."""
    whole = longest or max((sum(p.length for p in row.parts) for row in rows), default=0) or 1
    written = []
    for row in rows:
        parts = [
            el("span", class_=f"part {p.look}", style=f"width:{100 * p.length / whole:.3f}%", title=p.hint or None)
            for p in row.parts
            if p.length
        ]
        under = el("span", row.under, class_="under") if row.under else None
        cells = (
            el("dt", row.name),
            el("dd", el("span", parts, class_="track"), el("span", row.note, class_="note"), under),
        )
        written.append(el("div", cells, class_="bar"))
    return el("dl", written, class_="bars")


def legend(names: Mapping[str, str]) -> Html:
    """The legend of colours: CSS class -> name."""
    return el(
        "p", [el("span", el("i", class_=f"swatch {look}"), name) for look, name in names.items()], class_="legend"
    )


def table(
    headers: Sequence[object], rows: Sequence[Sequence[object]], numeric: Sequence[int] = (), look: str = ""
) -> Html:
    """A table; the columns in `numeric` are aligned right."""
    head = el("tr", [el("th", h, class_="num" if n in numeric else None, scope="col") for n, h in enumerate(headers)])
    body = [
        el("tr", [el("td", cell, class_="num" if n in numeric else None) for n, cell in enumerate(row)]) for row in rows
    ]
    return el("div", el("table", el("thead", head), el("tbody", body), class_=look or None), class_="scroll")


def extent(values: Float, marks: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: all values except the outermost half per cent, the marks, and 0 where it is near."""
    low, high = (float(v) for v in np.quantile(values, [0.005, 0.995]))
    low, high = min([low, *marks]), max([high, *marks])
    low = min(low, 0.0) if 0 <= low < 0.35 * high else low
    return low, high if high > low else low + (abs(low) or 1.0)


def _columns(kept: Float, out: Float, edges: Float) -> list[Html]:
    """The columns of a histogram, kept clips below and rejected ones on top; the outermost hold values beyond the
    ends."""
    stacks = [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] for v in (kept, out)]
    top = max(int((stacks[0] + stacks[1]).max()), 1)
    shapes = []
    for column, (inside, rejected) in enumerate(zip(*stacks, strict=True)):
        span = f"{number(float(edges[column]))} … {number(float(edges[column + 1]))}"
        base = 100.0
        for amount, look, what in ((inside, "f0", "kept"), (rejected, "fx", "rejected")):
            if amount:
                tall = max(100 * float(amount) / top, 1.2)
                base -= tall
                hint = el("title", f"{span}: {count(amount)} {what}")
                shapes.append(
                    el(
                        "rect",
                        hint,
                        x=f"{column * 10 + 0.6:.1f}",
                        y=f"{base:.2f}",
                        width="8.8",
                        height=f"{tall:.2f}",
                        class_=look,
                    )
                )
    return shapes


def _marks(bounds: tuple[float | None, float | None], low: float, high: float) -> list[Html]:
    """Dashed lines at the thresholds."""
    shapes = []
    for name, bound in zip(("min", "max"), bounds, strict=True):
        if bound is not None:
            x = f"{10 * BINS * (bound - low) / (high - low):.2f}"
            shapes.append(
                el("line", el("title", f"{name} {number(bound)}"), x1=x, x2=x, y1="-4", y2="100", class_="mark")
            )
    return shapes


def histogram(
    kept: Float,
    out: Float,
    title: str,
    measured_in: str,
    meaning: str,
    bounds: tuple[float | None, float | None] = (None, None),
    share: bool = False,
) -> Html:
    """A histogram of the values of kept clips, and of clips rejected for this value, with thresholds.

    Args:
        kept, out: (N,) float64 without NaN.
        title, measured_in, meaning: texts around the histogram.
        bounds: thresholds min and max.
        share: whether the axis is 0 to 1; else it spans all values except the outermost half per cent.
    """
    values = np.concatenate([kept, out])
    marks = [b for b in bounds if b is not None]
    low, high = (0.0, 1.0) if share else extent(values, marks)
    shapes = _columns(kept, out, np.linspace(low, high, BINS + 1)) + _marks(bounds, low, high)
    drawing = el(
        "svg",
        shapes,
        viewBox=f"0 -4 {BINS * 10} 104",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"histogram of {title}",
    )
    limits = [
        f"{name} {number(bound)}" for name, bound in zip(("min", "max"), bounds, strict=True) if bound is not None
    ]
    axis = el(
        "p",
        el("span", number(low)),
        el("span", f"median {number(float(np.median(kept)))}" if len(kept) else ""),
        el("span", number(high)),
        class_="axis",
    )
    caption = (
        el("b", title),
        el("span", ", ".join(limits), class_="limit"),
        el("span", measured_in, class_="measured"),
    )
    return el("figure", el("figcaption", caption), drawing, axis, el("p", meaning, class_="small"), class_="histogram")


JOINT_POSITIONS: dict[str, tuple[float, float]] = {
    "head_top": (0, 4), "nose": (0, 14), "left_eye": (3, 11), "right_eye": (-3, 11),
    "left_ear": (7, 13), "right_ear": (-7, 13), "mouth": (0, 21), "upper_neck": (0, 24),
    "neck": (0, 30), "chest": (0, 49), "mid_hip": (0, 72),
    "left_shoulder": (15, 32), "right_shoulder": (-15, 32), "left_elbow": (24, 52), "right_elbow": (-24, 52),
    "left_wrist": (29, 72), "right_wrist": (-29, 72), "left_hip": (9, 73), "right_hip": (-9, 73),
    "left_knee": (11, 102), "right_knee": (-11, 102), "left_ankle": (12, 131), "right_ankle": (-12, 131),
}  # fmt: skip
"""Positions of joints in a figure that faces the reader."""


def warmth(value: float | None, low: float, high: float) -> str:
    """CSS colour between good (green) and bad (red); grey for unknown values."""
    if value is None or not np.isfinite(value):
        return "var(--line)"
    share = float(np.clip((value - low) / (high - low) if high > low else 0.0, 0, 1))
    return f"hsl({145 - 140 * share:.0f} 62% 45%)"


def body(
    layout: Skeleton, values: Mapping[str, float | None], low: float, high: float, hints: Mapping[str, str]
) -> Html:
    """A body whose joints are coloured from `low` (good) to `high` (bad)."""
    shapes = []
    for a, b in layout.bones:
        if layout.joints[a] in JOINT_POSITIONS and layout.joints[b] in JOINT_POSITIONS:
            (x1, y1), (x2, y2) = JOINT_POSITIONS[layout.joints[a]], JOINT_POSITIONS[layout.joints[b]]
            shapes.append(el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="bone"))
    for joint in layout.joints:
        if joint in JOINT_POSITIONS:
            x, y = JOINT_POSITIONS[joint]
            hint = el("title", hints.get(joint, joint))
            shapes.append(el("circle", hint, cx=x, cy=y, r="4", style=f"fill:{warmth(values.get(joint), low, high)}"))
    return el(
        "svg", shapes, viewBox="-40 -2 80 140", class_="figure", role="img", aria_label="joints coloured by quality"
    )
