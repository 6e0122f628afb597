"""The report page of a dataset: one self-contained HTML file about what is in the dataset, what is not, and why.

Everything on the page comes from the tables of the dataset. Text from sources is escaped, and the policy of the page
lets only its own script run. The page holds no date, so equal datasets give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import polars as pl

from dataengine.core.skeletons import Skeleton, skeleton
from dataengine.dataset.dataset import Dataset
from dataengine.report import sections
from dataengine.report import statistics as tallies
from dataengine.report.html import Html, data_block, el, escape, joined
from dataengine.report.overlay import PEOPLE
from dataengine.report.refinement import refinement


@dataclass(frozen=True)
class Picture:
    """A still picture for the page, which the caller draws.

    Attributes:
        clip_id: clip of the picture.
        label: label of the clip; None shows none.
        data: JPEG or PNG bytes.
        caption: line below the picture.
        reason: why the clip is out (a key of `dataengine.core.reasons.REASONS`); None for a kept clip.
    """

    clip_id: str
    label: str | None
    data: bytes
    caption: str = ""
    reason: str | None = None


def render_report(
    dataset: Dataset,
    pictures: Sequence[Picture] = (),
    in_space: Sequence[Picture] = (),
    *,
    title: str | None = None,
    motions: int = 12,
) -> str:
    """The page as HTML text.

    Args:
        dataset: an open dataset.
        pictures: stills of kept and of rejected clips, in the order to show them.
        in_space: stills of kept clips beside their people in space.
        title: headline; default: the name of the recipe.
        motions: number of kept clips that are shown moving.

    Raises:
        DataEngineError: the skeleton of the dataset is unknown, or its samples cannot be read.
    """
    recipe = dataset.manifest.get("recipe", {})
    headline = title or str(recipe.get("name", "Dataset"))
    layout = skeleton(dataset.manifest.get("skeleton", "posetics17"))
    kept, out = [p for p in pictures if p.reason is None], [p for p in pictures if p.reason is not None]
    parts: list[tuple[str, str, Html | None]] = [
        ("motions", "In motion", _motions(dataset, layout, motions)),
        ("pictures", "Pictures", _pictures(kept, "Pictures", "Kept clips with their skeletons.")),
        ("funnel", "Funnel", sections.funnel(dataset)),
        ("reasons", "Reasons", sections.reasons(dataset)),
        ("rejected", "Rejected", _pictures(out, "Rejected, pictured", "Clips that are not in the dataset, and why.")),
        ("quality", "Quality", sections.quality(dataset)),
        ("space", "In space", _in_space(dataset, in_space)),
        ("labels", "Labels", sections.labels(dataset)),
        ("people", "People and joints", sections.people(dataset, layout)),
        ("experts", "Experts", sections.experts(dataset)),
        ("accuracy", "Accuracy", sections.accuracy(dataset)),
        ("refinement", "Refinement", refinement(dataset)),
        ("media", "Splits and media", sections.media(dataset)),
        ("rights", "Rights", sections.rights(dataset)),
    ]
    shown = [(anchor, name, content) for anchor, name, content in parts if content is not None]
    nav = el("nav", el("div", [el("a", name, href=f"#{anchor}") for anchor, name, _ in shown]), aria_label="sections")
    main = el("main", [el("section", content, id=anchor) for anchor, _, content in shown])
    page = joined([sections.header(dataset, headline), nav, main, sections.footer(dataset)])
    room = files("dataengine.report")
    script = room.joinpath("report_player.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Template(room.joinpath("report_template.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(headline), script_hash=digest, script=script, body=page)


def _left_right(layout: Skeleton, joint: int) -> int:
    """0 for joints of the left, 1 for joints of the right, 2 for joints of the middle."""
    name = layout.joints[joint]
    return 0 if name.startswith("left_") else 1 if name.startswith("right_") else 2


def _motions(dataset: Dataset, layout: Skeleton, wanted: int) -> Html | None:
    """Kept clips as moving skeletons."""
    ids = tallies.drawn(dataset, wanted)
    if not ids:
        return None
    columns = ("clip_id", "label", "split", "fps", "width", "height", "num_frames", "confidence_mean")
    rows = {
        row["clip_id"]: row
        for row in dataset.clips.filter(pl.col("clip_id").is_in(ids)).select(columns).collect().to_dicts()
    }
    clips, cards = [], []
    for number, clip_id in enumerate(ids):
        row = rows[clip_id]
        clips.append(tallies.motion_data(dataset.sample(clip_id), row))
        cards.append(_motion_card(number, row, clips[-1]))
    bones = [[a, b, _bone_left_right(layout, a, b)] for a, b in layout.bones]
    hues = [["#" + bytes(colour).hex() for colour in person] for person in PEOPLE]
    head = layout.joints.index("nose") if "nose" in layout.joints else -1
    left_right = [_left_right(layout, joint) for joint in range(layout.num_joints)]
    shared = {
        "bones": bones,
        "left_right": left_right,
        "head": head,
        "hues": hues,
        "missing": tallies.MISSING,
        "fine": tallies.FINE,
        "size": tallies.SIZE,
    }
    lead = (
        "A fair draw: labels in turn, evenly spaced clips of each. No person chose them. "
        "Cool colours are the left of the body, warm colours the right."
    )
    button = el(
        "div",
        el("button", "Play all", id="toggle", type="button"),
        el("span", "Click a clip to hold it, then move across it.", class_="small"),
        class_="controls",
    )
    return joined(
        [
            el("h2", "In motion"),
            el("p", lead, class_="lead"),
            button,
            el("div", cards, class_="grid"),
            data_block("motion-data", {"clips": clips, **shared}),
        ]
    )


def _bone_left_right(layout: Skeleton, a: int, b: int) -> int:
    """As `_left_right`, for a bone; 2 for a bone from left to right."""
    halves = {_left_right(layout, a), _left_right(layout, b)} - {2}
    return halves.pop() if len(halves) == 1 else 2


def _motion_card(number: int, row: dict[str, Any], clip: dict[str, Any]) -> Html:
    confidence = "" if row["confidence_mean"] is None else f", C {row['confidence_mean']:.2f}"
    facts = f"{row['split']}, {clip['people']} {'person' if clip['people'] == 1 else 'people'}{confidence}"
    canvas = el(
        "canvas", id=f"motion-{number}", tabindex="0", role="img", aria_label=f"moving skeleton of {row['clip_id']}"
    )
    name = row["label"] if row["label"] is not None else "no label"
    caption = el(
        "figcaption", el("b", name), el("span", facts, class_="small"), el("div", row["clip_id"], class_="mono")
    )
    return el("figure", canvas, caption, class_="card")


def _in_space(dataset: Dataset, pictures: Sequence[Picture]) -> Html | None:
    """How well the poses in space fit those of the picture, and stills of both."""
    figure = sections.space(dataset)
    return None if figure is None else joined([figure, _grid(pictures, WIDE)])


WIDE = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr))"
"""Style of a grid of pictures that are about three times as wide as high."""


def _pictures(pictures: Sequence[Picture], title: str, lead: str) -> Html | None:
    """Stills in a grid, below a heading."""
    if not pictures:
        return None
    return joined([el("h2", title), el("p", lead, class_="lead"), _grid(pictures)])


def _grid(pictures: Sequence[Picture], style: str | None = None) -> Html:
    """Stills in a grid."""
    cards = []
    for picture in pictures:
        kind = "png" if picture.data.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(picture.data).decode()}"
        why = el("span", picture.reason, class_="why") if picture.reason else None
        label = el("b", picture.label) if picture.label else None
        note = (
            el("div", picture.caption, class_="small") if picture.caption and picture.caption != picture.label else None
        )
        caption = el("figcaption", label, why, note, el("div", picture.clip_id, class_="mono"))
        image = el("img", src=source, alt=f"a frame of {picture.clip_id}", loading="lazy")
        cards.append(el("figure", image, caption, class_="card out" if picture.reason else "card"))
    return el("div", cards, class_="grid", style=style)
