"""The sections of the report page, each from an open dataset; None for a section without content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataengine.core.counting import counted
from dataengine.core.reasons import of_manifest
from dataengine.core.skeletons import Skeleton
from dataengine.core.types import SPLITS
from dataengine.dataset.dataset import Dataset
from dataengine.report import charts
from dataengine.report import statistics as tallies
from dataengine.report.charts import Bar, Part, count, fixed, number, percent
from dataengine.report.html import Html, el, joined

TOP_LABELS = 40
SPLIT_LOOK = {"train": "c0", "val": "c1", "test": "c2"}


def clips_of(n: int) -> str:
    """A number of clips for people."""
    return counted(n, "clip", count(n))


def hours(seconds: float | None) -> str:
    """A duration for people."""
    seconds = seconds or 0.0
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 5400
        else f"{number(seconds / 3600, 3)} h"
    )


def size(octets: float | None) -> str:
    """Bytes for people."""
    value, prefix = float(octets or 0), ""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if value < 1024 or prefix == "Ti":
            break
        value /= 1024
    return f"{number(value, 3)} {prefix}B"


def titled(title: str, lead: str | Html, *content: object) -> Html:
    """The heading and the content of a section."""
    return joined([el("h2", title), el("p", lead, class_="lead") if lead else None, content])


def header(dataset: Dataset, headline: str) -> Html:
    """Name, fingerprint and main numbers."""
    manifest, total, planned = dataset.manifest, tallies.totals(dataset), tallies.planned(dataset)
    recipe, crowd = manifest.get("recipe", {}), tallies.people(dataset)
    facts = [
        ("clips kept", count(total["clips"]), f"{percent(total['clips'], planned)} of {count(planned)} planned"),
        ("video", hours(total["seconds"]), f"{count(total['frames'])} frames"),
        ("people", count(crowd["kept"]), "tracks kept"),
        ("labels", count(total["labels"]), f"{count(total['videos'])} videos"),
        ("mean confidence", number(total["confidence"]), "agreement, 0 to 1"),
        ("samples", size(total["bytes"]), "poses in shards"),
    ]
    tiles = [
        el("div", el("b", value), el("span", f"{name}"), el("br"), el("span", note), class_="tile")
        for name, value, note in facts
    ]
    chips = [
        ("fingerprint", str(manifest["fingerprint"])[:16]),
        ("skeleton", manifest.get("skeleton")),
        ("fusion", manifest.get("fusion")),
        ("experts", ", ".join(manifest.get("experts", []))),
        ("lifter", manifest.get("lifter")),
        ("sources", ", ".join(str(s) for s, _ in tallies.tally(dataset, "source"))),
    ]
    tags = [el("span", name, " ", el("b", value), class_="chip") for name, value in chips if value]
    version = el("small", f"version {recipe['version']}") if "version" in recipe else None
    about = el("p", recipe["description"], class_="lead") if recipe.get("description") else None
    return el(
        "header",
        el(
            "div", el("h1", headline, version), about, el("div", tags, class_="chips"), el("div", tiles, class_="tiles")
        ),
    )


def funnel(dataset: Dataset) -> Html:
    """Clips from planned to kept, pass by pass."""
    planned = tallies.planned(dataset)
    rows = [Bar("planned", [Part(planned, "c6", f"{clips_of(planned)} planned")], count(planned))]
    before = planned
    for name, left, lost in tallies.funnel(dataset):
        parts = [Part(left, "c0", f"{clips_of(left)} {'goes' if left == 1 else 'go'} on")]
        parts += [
            Part(n, "bad" if index % 2 == 0 else "c1", f"{reason}: {count(n)}")
            for index, (reason, n) in enumerate(lost)
        ]
        rows.append(
            Bar(
                name,
                parts,
                f"{count(left)} (−{count(before - left)})" if lost else count(left),
                ", ".join(f"{reason} {count(n)}" for reason, n in lost),
            )
        )
        before = left
    kept = tallies.totals(dataset)["clips"]
    gone = before - kept
    rows.append(
        Bar(
            "kept",
            [Part(kept, "c3", f"{clips_of(kept)} kept"), Part(gone, "gone", f"{count(gone)} taken down")],
            count(kept),
        )
    )
    lead = (
        f"{count(kept)} of {count(planned)} planned clips are in the dataset ({percent(kept, planned)}). "
        "Every other clip has a reason below."
    )
    taken = (
        el(
            "p",
            f"{clips_of(gone)} {'was' if gone == 1 else 'were'} taken down after the dataset was built.",
            class_="warn",
        )
        if gone > 0
        else None
    )
    key = charts.legend({"c0": "go on", "bad": "rejected here, one segment per reason", "c3": "kept"})
    return titled("Funnel", lead, el("div", charts.bars(rows, planned), class_="funnel"), key, taken)


def reasons(dataset: Dataset) -> Html | None:
    """Reasons of clips that are not in the dataset."""
    found, planned, meanings = tallies.reasons(dataset), tallies.planned(dataset), of_manifest(dataset.manifest)
    if not found:
        return titled("Reasons", "No clip was left out.")
    rows = []
    for row in found:
        limits = ", ".join(number(t) for t in row["thresholds"])
        value = f"median {number(row['median'])}" if row["median"] is not None else ""
        again = (
            el("div", f"{count(row['retryable'])} may succeed when built again", class_="small")
            if row["retryable"]
            else None
        )
        threshold = el("div", f"threshold {limits}", class_="small") if limits else None
        rows.append(
            [
                el("b", row["reason"]),
                row["pass"],
                count(row["clips"]),
                percent(row["clips"], planned),
                joined([meanings.get(row["reason"], ""), again]),
                joined([value, threshold]),
                _examples(row["examples"]),
            ]
        )
    headers = ("reason", "pass", "clips", "of planned", "what it means", "value", "examples")
    lead = joined(
        ["The list of reasons is closed. One clip's whole story: ", el("code", "dataengine explain OUT CLIP_ID")]
    )
    return titled("Why clips are out", lead, charts.table(headers, rows, (2, 3), "reasons"))


def _examples(examples: Sequence[dict[str, Any]]) -> Html:
    lines = []
    for example in examples:
        value = f" {number(example['value'])}" if example["value"] is not None else ""
        note = el("div", example["detail"], class_="small") if example["detail"] else None
        lines.append(el("li", el("code", example["clip_id"]), value, note))
    return el("details", el("summary", f"show {len(examples)}"), el("ul", lines, class_="ids"))


def quality(dataset: Dataset) -> Html | None:
    """Distributions of the measures with the thresholds of the recipe, and the clips nearest to rejection."""
    limits, figures, values = dataset.manifest.get("filters", {}), [], tallies.values(dataset)
    for measure in tallies.MEASURES:
        kept, out = values[measure.column]
        if len(kept) + len(out):
            bounds = limits.get(measure.filter or "", {})
            edge = (bounds.get("min"), bounds.get("max"))
            figures.append(
                charts.histogram(kept, out, measure.title, measure.measured_in, measure.meaning, edge, measure.share)
            )
    if not figures:
        return None
    nearest = []
    for title, measured_in, best in tallies.edges(dataset):
        rows = [
            [joined([el("code", clip_id), el("div", label or "", class_="small")]), number(value)]
            for clip_id, label, value in best
        ]
        nearest.append(el("div", el("h3", title), charts.table(("clip", measured_in), rows, (1,))))
    lead = "Measures of the clips, used by a filter or not. Thresholds are dashed; clips rejected by them are red."
    key = charts.legend({"c0": "kept", "bad": "rejected for this value"})
    more = joined([el("h3", "Kept, but worth a look"), el("div", nearest, class_="quads")]) if nearest else None
    return titled("Quality", lead, key, el("div", figures, class_="hists"), more)


def space(dataset: Dataset) -> Html | None:
    """How well poses in space fit those of the picture."""
    measure = tallies.LIFTED
    if measure.column not in dataset.clips.collect_schema().names():
        return None
    ((kept, out),) = tallies.values(dataset, (measure,)).values()
    bounds = dataset.manifest.get("filters", {}).get(measure.filter or "", {})
    edge = (bounds.get("min"), bounds.get("max"))
    lead = (
        f"Poses lifted from the picture by “{dataset.manifest.get('lifter')}”: metres from the middle of the hips, "
        "each person alone. The reprojection error tells how far the lifted joints, projected, lie from those of the "
        "picture. It does not tell whether the depth is right."
    )
    figure = charts.histogram(kept, out, measure.title, measure.measured_in, measure.meaning, edge, measure.share)
    return titled("In space", lead, el("div", figure, class_="hists") if len(kept) + len(out) else None)


def labels(dataset: Dataset) -> Html | None:
    """Clips per label."""
    found = tallies.labels(dataset)
    if not found:
        return None
    used = [
        s for s in (*SPLITS, *sorted({s for _, c in found for s in c} - set(SPLITS))) if any(s in c for _, c in found)
    ]
    rows = []
    for label, clips in found[:TOP_LABELS]:
        parts = [Part(clips.get(s, 0), SPLIT_LOOK.get(s, "c6"), f"{s}: {count(clips.get(s, 0))}") for s in used]
        rows.append(Bar(label if label is not None else el("i", "no label"), parts, count(sum(clips.values()))))
    amounts = [sum(c.values()) for label, c in found if label is not None]
    lead = (
        f"{count(len(amounts))} labels; the most frequent has {number(max(amounts) / min(amounts))} times "
        "the clips of the rarest."
        if amounts
        else ""
    )
    rest = found[TOP_LABELS:]
    more = (
        el(
            "p",
            f"and {count(len(rest))} more labels with {clips_of(sum(sum(c.values()) for _, c in rest))}",
            class_="small",
        )
        if rest
        else None
    )
    missing = next((sum(c.values()) for label, c in found if label is None), 0)
    note = el("p", f"{clips_of(missing)} without a label.", class_="small") if missing else None
    key = charts.legend({SPLIT_LOOK.get(s, "c6"): s for s in used})
    return titled("Labels", lead, key, charts.bars(rows), more, note)


def people(dataset: Dataset, layout: Skeleton) -> Html | None:
    """People per clip, and visibility of each joint."""
    crowd, found = tallies.people(dataset), tallies.joints(dataset, layout)
    amounts = sorted(tallies.tally(dataset, "num_people"), key=lambda row: (row[0] is None, row[0]))
    rows = [
        Bar("unknown" if n is None else f"{n} {'person' if n == 1 else 'people'}", [Part(c)], count(c))
        for n, c in amounts
    ]
    facts = [
        ("tracks found", count(crowd["tracks"])),
        ("kept in samples", count(crowd["kept"])),
        ("frames with the person", _share(crowd["coverage"])),
        ("mean joint score", number(crowd["score_mean"])),
        ("expert joints per pose", number(crowd["support_mean"])),
    ]
    left = el("div", el("h3", "People in a clip"), charts.bars(rows))
    right = el("div", el("h3", "Tracks"), charts.table(("", ""), facts, (1,)))
    content = [el("div", left, right, class_="halves")]
    if found:
        content.append(_joints(layout, found))
    return titled("People and joints", "", *content)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value, 1)


def _joints(layout: Skeleton, found: list[dict[str, Any]]) -> Html:
    measured = [row["disagreement"] for row in found if row["disagreement"] is not None]
    column, measured_in = ("disagreement", "head-neck lengths") if measured else ("score_mean", "score")
    known = measured or [1 - row["score_mean"] for row in found if row["score_mean"] is not None] or [0.0]
    low, high = min(known), max(known)
    shown = {row["joint"]: row[column] if measured or row[column] is None else 1 - row[column] for row in found}
    hints = {row["joint"]: f"{row['joint']}: {number(row[column])} {measured_in}" for row in found}
    longest = max(measured, default=1.0) or 1.0
    rows = []
    for row in found:
        dot = el("i", class_="heat", style=f"background:{charts.warmth(shown[row['joint']], low, high)}")
        away = row["disagreement"]
        bar = el(
            "span",
            el(
                "span",
                class_="part",
                style=f"width:{100 * (away or 0) / longest:.1f}%;background:{charts.warmth(away, low, high)}",
            ),
            class_="track",
        )
        rows.append(
            [
                joined([dot, row["joint"].replace("_", " ")]),
                _share(row["visible"]),
                fixed(row["score_mean"]),
                fixed(away),
                bar,
            ]
        )
    figure = el(
        "div",
        charts.body(layout, shown, low, high, hints),
        el("p", f"coloured by {column.replace('_mean', '')}, green is best", class_="small"),
    )
    headers = ("joint", "visible", "score", "disagreement", "")
    lead = (
        "Disagreement is the mean distance of the experts to the fused joint, in head-neck lengths. "
        "Interpolated joints have none."
    )
    return joined(
        [
            el("h3", "Joints"),
            el("p", lead, class_="lead"),
            el("div", figure, charts.table(headers, rows, (1, 2, 3), "wide"), class_="joints"),
        ]
    )


def experts(dataset: Dataset) -> Html | None:
    """Shares of the experts in the fused poses."""
    found = tallies.shares(dataset)
    if not found:
        return None
    blended = max(0.0, 1 - sum(share for _, share in found))
    rows = [Bar(name, [Part(share, f"c{n % 6}")], percent(share, 1)) for n, (name, share) in enumerate(found)]
    if blended >= 0.0005:
        refined = dataset.manifest.get("refine", {}).get("generation")
        rows.append(Bar("the student" if refined else "blended of several", [Part(blended, "c6")], percent(blended, 1)))
    fusion = dataset.manifest.get("fusion")
    lead = "Share of the joints of kept people that came from each expert" + (
        f", as the fusion “{fusion}” decided." if fusion else "."
    )
    return titled("Experts", lead, charts.bars(rows, 1.0))


def accuracy(dataset: Dataset) -> Html | None:
    """Share of right joints where exact joints are known."""
    conditions, found = tallies.accuracy(dataset)
    if not found:
        return None

    def rate(cells: dict[str, tuple[int, int]], condition: str) -> float:
        right, whole = cells.get(condition, (0, 0))
        return 100 * right / whole if whole else float("nan")

    best = {c: max((r for r in (rate(cells, c) for _, cells in found) if r == r), default=0.0) for c in conditions}
    rows = []
    for name, cells in found:
        rates = [rate(cells, c) for c in conditions]
        marks = [
            el("span", f"{r:.1f}", class_="best" if r >= best[c] - 0.05 else None) if r == r else "–"
            for c, r in zip(conditions, rates)
        ]
        own = name in dataset.manifest.get("experts", [])
        length = rate(cells, "all")
        bar = el(
            "span",
            el("span", class_=f"part {'c6' if own else 'c3'}", style=f"width:{length if length == length else 0:.1f}%"),
            class_="track",
        )
        rows.append([name, *marks, bar])
    total = max(cells["all"][1] for _, cells in found)
    lead = (
        "PCKh@0.5 in per cent: joints within half a head-neck length of the exact joint, "
        f"of {count(total)} joints of rendered clips. A person that was not found counts as wrong. "
        "Experts are grey, fused poses green."
    )
    return titled(
        "Accuracy", lead, charts.table(("", *conditions, ""), rows, tuple(range(1, len(conditions) + 1)), "wide")
    )


def media(dataset: Dataset) -> Html:
    """Splits, sources, picture sizes and frame rates."""
    rows = [
        [
            row["split"],
            count(row["clips"]),
            hours(row["seconds"]),
            count(row["frames"]),
            count(row["labels"]),
            count(row["subjects"]) if row["subjects"] else "–",
        ]
        for row in tallies.splits(dataset)
    ]

    def listed(title: str, found: Sequence[tuple[Any, ...]]) -> Html:
        shown = [Bar(name, [Part(n)], count(n)) for name, n in found[:8]]
        rest = sum(n for _, n in found[8:])
        shown += [Bar(f"{count(len(found) - 8)} others", [Part(rest, "c6")], count(rest))] if rest else []
        return el("div", el("h3", title), charts.bars(shown))

    sizes = [(f"{w} × {h}", n) for w, h, n in tallies.tally(dataset, "width", "height")]
    blocks = [
        listed("Sources", tallies.tally(dataset, "source")),
        listed("Picture sizes", sizes),
        listed("Frames per second", tallies.tally(dataset, "fps")),
    ]
    table = charts.table(("split", "clips", "video", "frames", "labels", "subjects"), rows, (1, 2, 3, 4, 5))
    return titled("Splits and media", "", table, el("div", blocks, class_="halves"))


def rights(dataset: Dataset) -> Html:
    """Licences and consent, as the sources state them."""
    found = tallies.tally(dataset, "source", "licence", "consent")
    unknown = sum(row[-1] for row in found if row[1] is None)
    missing = el("b", "unknown")
    rows = [[source, licence or missing, consent or "not stated", count(n)] for source, licence, consent, n in found]
    warning = (
        el(
            "p",
            f"The licence of {clips_of(unknown)} is unknown: clear their rights before publishing.",
            class_="warn",
        )
        if unknown
        else None
    )
    lead = joined(
        [
            "As the sources state them; the poses of a clip carry its licence. To take clips out: ",
            el("code", "dataengine takedown OUT --clip-id ID --reason TEXT"),
        ]
    )
    return titled(
        "Licences and consent", lead, warning, charts.table(("source", "licence", "consent", "clips"), rows, (3,))
    )


def footer(dataset: Dataset) -> Html:
    """Next commands."""
    commands = (
        'dataengine audit OUT --sql "SELECT label, count(*) FROM clips GROUP BY label"',
        "dataengine explain OUT CLIP_ID",
        "dataengine view OUT CLIP_ID --to clip.mp4",
    )
    lines = [el("div", el("code", command)) for command in commands]
    return el(
        "footer",
        el("p", "Ask more:"),
        lines,
        el(
            "p",
            "Dataset ",
            el("code", dataset.manifest["fingerprint"]),
            f", format {dataset.manifest['format_version']}",
        ),
    )
