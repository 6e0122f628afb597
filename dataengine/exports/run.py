"""export: writes a dataset in the format of another program.

The clips are read one at a time in the order of split and id, so that memory does not grow with the dataset, and the
same dataset, choice and options give the same bytes. Clips that were taken down are left out. The export appears under
its name as a whole, or not at all.
"""

from __future__ import annotations

import csv
import functools
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataengine.core import registry
from dataengine.core.errors import DatasetError
from dataengine.core.failures import in_one_line
from dataengine.core.progress import Progress
from dataengine.core.skeletons import skeleton
from dataengine.dataset.dataset import Dataset, open
from dataengine.dataset.index import read_manifest
from dataengine.exports import placing
from dataengine.exports.base import FACTS, OWN, SPANS, Export, ExportedClip, ExportJob
from dataengine.exports.choice import LEFT_OUT, Choice, Overview, overview
from dataengine.exports.layouts import converted

CLIPS = "clips.csv"
"""The facts of every clip, in folders of formats that have no room for them."""


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the file or folder.
        format: its format.
        layout: the joints of its people.
        clips: clips in it.
        splits: clips by split.
        licences: clips by licence; 'unknown' where the source states none.
        left_out: clips that were left out by cause.
        files: number of files.
        bytes: their size.
        notes: what to know before it is used.
    """

    path: str
    format: str
    layout: str
    clips: int
    splits: Mapping[str, int]
    licences: Mapping[str, int]
    left_out: Mapping[str, int]
    files: int
    bytes: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def export(
    path: str | os.PathLike[str],
    format: str,
    to: str | os.PathLike[str] | None = None,
    *,
    where: str | None = None,
    splits: Sequence[str] = (),
    licences: Sequence[str] = (),
    consents: Sequence[str] = (),
    unknown_licence: bool | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> ExportResult:
    """Write a dataset in the format of another program.

    Args:
        path: a build's OUT, its dataset folder, or a url of either.
        format: name of a format, see `dataengine list exports`.
        to: file or folder to write. Default: OUT/exports/FORMAT, with the ending of the format.
        where: an SQL condition over the clips table, such as "confidence_mean > 0.5".
        splits: splits to export. Default: all.
        licences: licences to export. Default: all.
        consents: consents to export. Default: all.
        unknown_licence: whether clips whose licence is unknown are exported. Default: yes, except in formats that are
            made for publishing (hf).
        replace: put the export in the place of a former one.
        progress: what to tell while it runs.
        options: options of the format.

    Returns:
        What was written.

    Raises:
        ComponentError: no such format or option.
        DatasetError: there is no dataset, nothing is chosen, or `to` may not be written.
        EnvironmentFailure: the disk is full, or failed.
    """
    component: Export = registry.create("exports", format, options)
    component.check()
    dataset = open(path)
    known = not component.publishes if unknown_licence is None else unknown_licence
    choice = Choice(where, tuple(splits), tuple(licences), tuple(consents), known)
    target = _target(dataset, component, format, to)
    taken_down = len(dataset.tombstones())
    seen = overview(dataset, choice)  # a choice of nothing is told of before what lies at the target
    place = next((parent for parent in target.parents if parent.is_dir()), None)
    with in_one_line(place):
        placing.refuse_foreign(target, component, replace)
    progress = progress or Progress()
    record = _record(dataset, component, format, choice, seen)
    notes = _notes(choice, seen)
    with (
        in_one_line(place),
        progress.step("export", seen.clips) as advance,
        placing.placed(target, component, record, replace) as content,
    ):
        job = ExportJob(
            skeleton(record["layout"]),
            seen.labels,
            seen.splits,
            seen.licences,
            record,
            functools.partial(_clips, dataset, choice, component, record["layout"], advance),
            functools.partial(choice.batches, dataset),
            notes,
            seen.span_labels,
        )
        component.write(content, job)
        if component.facts_beside:
            _write_facts(content / CLIPS, job)
        _still_there(dataset, taken_down)
    files, size = placing.size_of(target)
    return ExportResult(
        str(target),
        format,
        record["layout"],
        seen.clips,
        record["splits"],
        record["licences"],
        dict(seen.left_out),
        files,
        size,
        tuple(notes),
    )


def to_text(result: ExportResult) -> str:
    """A result for people."""

    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    lines = [
        result.path,
        f"{result.clips} clips ({listed(result.splits)}) of layout {result.layout}, {result.files} "
        f"file{'s' * (result.files != 1)}, {result.bytes / 1e6:,.1f} MB",
        f"licences: {listed(result.licences)}",
    ]
    if result.left_out:
        told = ", ".join(f"{count} {LEFT_OUT[name]}" for name, count in result.left_out.items())
        lines.append(f"left out: {told}")
    return "\n".join(lines)


def _target(dataset: Dataset, component: Export, format: str, to: str | os.PathLike[str] | None) -> Path:
    """Where to write."""
    name = f"{format}{component.suffix}"
    if to is None:
        root = Path(dataset.root)
        if "://" in dataset.root or root.absolute().name != "dataset":
            raise DatasetError(
                f"{dataset.root}: this is no folder of a build, where exports have a place: give --to PATH"
            )
        return placing.place_of(root) / name
    if not os.fspath(to):
        raise DatasetError("--to '' names no place: give a file or folder")
    target = Path(to).absolute()
    if component.suffix and (target.is_dir() or os.fspath(to).endswith(("/", os.sep))):
        return target / name
    inside = Path(dataset.root).absolute()
    if "://" not in dataset.root and (target == inside or inside in target.parents):
        raise DatasetError(f"{target} lies in the dataset, which holds its own files alone: give another --to")
    return target


def _record(dataset: Dataset, component: Export, format: str, choice: Choice, seen: Overview) -> dict[str, Any]:
    """What the export says about itself; nothing in it depends on the machine or the time."""
    own = str(dataset.manifest.get("skeleton") or "posetics17")
    layout = own if component.target == OWN else component.target
    recipe = dataset.manifest.get("recipe")
    return {
        "format": format,
        "options": registry.config(component),
        "layout": layout,
        "joints": list(skeleton(layout).joints),
        "label_names": list(seen.labels),
        "dataset": {
            "fingerprint": dataset.manifest["fingerprint"],
            "recipe": recipe.get("name") if isinstance(recipe, dict) else None,
            "skeleton": own,
        },
        "choice": {name: value for name, value in asdict(choice).items() if value not in (None, ())},
        "splits": {name: one.clips for name, one in seen.splits.items()},
        "licences": {name or "unknown": count for name, count in sorted(seen.licences.items(), key=_by_name)},
    }


def _by_name(pair: tuple[str | None, int]) -> tuple[bool, str]:
    return pair[0] is None, pair[0] or ""


def _notes(choice: Choice, seen: Overview) -> list[str]:
    notes = []
    unknown = seen.licences[None]
    if unknown and choice.unknown_licence:
        notes.append(
            f"{unknown} of {seen.clips} clips have no known licence: ask before you pass them on; "
            "--no-unknown-licence leaves them out"
        )
    if 0 < seen.unlabelled < seen.clips:
        notes.append(
            f"{seen.unlabelled} of {seen.clips} clips have no label; leave them out with --where 'label IS NOT NULL'"
        )
    return notes


def _clips(
    dataset: Dataset, choice: Choice, component: Export, layout: str, advance: Callable[[int], None], split: str
) -> Iterator[ExportedClip]:
    """The clips of a split, read and converted one at a time."""
    own = str(dataset.manifest.get("skeleton") or "posetics17")
    told = (*FACTS, *([SPANS] if SPANS in dataset.clips.collect_schema().names() else []))
    for rows in choice.batches(dataset, (*told, "shard", "offset", "entries"), split):
        names = rows["entries"].explode().struct.field("name").unique().to_list()
        stored = sorted({name.removesuffix(".npy") for name in names} - {"keypoints", "scores"})
        others = [entry for entry in stored if component.wanted is None or entry in component.wanted]
        facts = rows.select(told).iter_rows(named=True)
        for row, sample in zip(facts, dataset.read(rows, ("keypoints", "scores", *others))):
            keypoints, scores = converted(sample["keypoints"], sample["scores"], own, layout, component.keeps_copies)
            yield ExportedClip(row, keypoints, scores, {name: sample[name] for name in others if name in sample})
            advance(1)


def _write_facts(path: Path, job: ExportJob) -> None:
    """clips.csv: one row per clip; an unknown value is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FACTS)
        for split in job.splits:
            for rows in job.index(FACTS, split):
                writer.writerows(rows.select(FACTS).iter_rows())


def _still_there(dataset: Dataset, taken_down: int) -> None:
    """Refuse to finish where the dataset changed, or clips were taken down, while the export ran."""
    changed = read_manifest(dataset.root)["fingerprint"] != dataset.manifest["fingerprint"]
    if changed or len(dataset.tombstones()) != taken_down:
        what = "was built anew" if changed else "lost clips by a takedown"
        raise DatasetError(f"{dataset.root}: the dataset {what} while the export ran: run the same command again")


def options_of(format: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Options of a format from `--set KEY=VALUE`; a value that is no TOML is text.

    Raises:
        DatasetError: a text without '='.
    """
    found: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise DatasetError(
                f"--set {text!r}: give KEY=VALUE, for example --set layout=coco17; see "
                f"dataengine list exports -v for the options of {format!r}"
            )
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value.strip()
    return found
