"""The dataset card: a README.md about the content, the rights and the reading of a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from dataengine.core.counting import counted
from dataengine.core.markdown import plain, rows
from dataengine.core.reasons import of_manifest
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.descriptions import ENTRIES, entry_meaning
from dataengine.report import sections
from dataengine.report import statistics as tallies
from dataengine.report.charts import number, percent

TOP_LABELS = 30


def dataset_card(dataset: Dataset, licences: Mapping[str, str] | None = None) -> str:
    """The card as Markdown; equal datasets give equal text.

    Args:
        dataset: an open dataset.
        licences: expert or lifter -> text about the licence of its code and weights.
    """
    manifest = dataset.manifest
    recipe = manifest.get("recipe", {})
    name = str(recipe.get("name", "dataset"))
    parts = [
        f"# {plain(name)}",
        _about(dataset),
        _holds(dataset),
        _reading(dataset),
        _made(dataset, licences or {}),
        _left_out(dataset),
        _rights(dataset),
        _limits(dataset),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _many(n: int, noun: str) -> str:
    return counted(n, noun, f"{n:,}")


def _about(dataset: Dataset) -> str:
    recipe, total = dataset.manifest.get("recipe", {}), tallies.totals(dataset)
    skeletons = "skeletons in the picture and in space" if dataset.manifest.get("lifter") else "2D skeletons"
    first = f"{plain(recipe['description'])}\n\n" if recipe.get("description") else ""
    return (
        f"{first}{_many(total['clips'], 'clip')} of human motion from {_many(total['videos'], 'video')} "
        f"({sections.hours(total['seconds'])}, {total['frames'] or 0:,} frames) with {skeletons}, "
        f"{_many(total['labels'], 'label')}. `report.html` beside this file shows them."
    )


def _holds(dataset: Dataset) -> str:
    splits = [
        (
            plain(r["split"]),
            f"{r['clips']:,}",
            sections.hours(r["seconds"]),
            f"{r['frames'] or 0:,}",
            f"{r['labels']:,}",
            f"{r['subjects']:,}" if r["subjects"] else "–",
        )
        for r in tallies.splits(dataset)
    ]
    found = tallies.labels(dataset)
    used = [row[0] for row in splits]
    counts = [
        (
            plain(label) if label is not None else "(no label)",
            *(f"{clips.get(s, 0):,}" for s in used),
            f"{sum(clips.values()):,}",
        )
        for label, clips in found[:TOP_LABELS]
    ]
    rest = len(found) - len(counts)
    more = (
        f"\n\nand {rest:,} more labels: `SELECT label, split, count(*) FROM clips GROUP BY label, split`"
        if rest > 0
        else ""
    )
    by_split = rows(("split", "clips", "video", "frames", "labels", "subjects"), splits)
    by_label = rows(("label", *used, "clips"), counts)
    return f"## What it holds\n\n{by_split}\n\n{by_label}{more}"


def _reading(dataset: Dataset) -> str:
    first = tallies.drawn(dataset, 1)
    clip_id = first[0] if first else "CLIP_ID"
    entries = sorted(
        {
            e["name"]
            for e in dataset.clips.select("entries").head(100).explode("entries").unnest("entries").collect().to_dicts()
            if e["name"]
        }
    )
    members = rows(
        ("entry", "content"),
        [
            (f"`KEY.{entry}`", entry_meaning(entry))
            for entry in sorted(entries, key=lambda e: list(ENTRIES).index(e) if e in ENTRIES else 99)
        ],
    )
    shards = sorted({str(shard) for (shard, _) in tallies.tally(dataset, "shard")})
    pattern = (
        f"shards/pose/train-{{000000..{sum('/train-' in s for s in shards) - 1:06d}}}.tar"
        if any("/train-" in s for s in shards)
        else (shards or ["shards/pose/*.tar"])[0]
    )
    return f"""## How to read it

```python
import dataengine

ds = dataengine.open("PATH/TO/THIS/DATASET")            # or a url
ds.clips.group_by("label").len().collect()              # tables are polars LazyFrames
sample = ds.sample("{clip_id}")
sample["keypoints"].shape                               # (people, frames, joints, 2){_in_space(dataset)}
for sample in ds.samples(where="split = 'train'", shuffle_seed=0):
    sample["keypoints"], sample["scores"]
```

Shards are plain WebDataset tar files and the tables plain Parquet:

```python
import webdataset as wds

for sample in wds.WebDataset("{pattern}", shardshuffle=False).decode():
    sample["json"]["label"], sample["keypoints.npy"]
```

{members}

Joints, in order (`{dataset.manifest.get("skeleton", "posetics17")}`): {_joint_names(dataset)}."""


def _in_space(dataset: Dataset) -> str:
    shape = "# (people, frames, joints, 3), metres"
    return (
        f'\nsample["keypoints3d"].shape                             {shape}' if dataset.manifest.get("lifter") else ""
    )


def _joint_names(dataset: Dataset) -> str:
    from dataengine.core.skeletons import skeleton

    return ", ".join(skeleton(dataset.manifest.get("skeleton", "posetics17")).joints)


def _made(dataset: Dataset, licences: Mapping[str, str]) -> str:
    manifest = dataset.manifest
    recipe = manifest.get("recipe", {})
    lines = [
        f"Recipe `{plain(recipe.get('name', 'unknown'))}`, version {recipe.get('version', '–')}; "
        f"dataset fingerprint `{manifest['fingerprint']}`."
    ]
    if manifest.get("fusion"):
        lines.append(f"Poses of the experts are fused joint by joint with `{plain(manifest['fusion'])}`.")
    if manifest.get("lifter"):
        licence = licences.get(manifest["lifter"])
        lines.append(
            f"The lifter `{plain(manifest['lifter'])}`{f' ({plain(licence)})' if licence else ''} brought them into "
            "space, each person alone: `keypoints3d` are metres from the middle of the hips."
        )
    shares = dict(tallies.shares(dataset))
    experts = [
        (plain(e), percent(shares[e], 1) if e in shares else "–", plain(licences.get(e, "not stated")))
        for e in manifest.get("experts", [])
    ]
    table = f"\n\n{rows(('expert', 'share of joints', 'licence of code and weights'), experts)}" if experts else ""
    limits = [
        (plain(n), *(number(options.get(b)) for b in ("min", "max")))
        for n, options in sorted(manifest.get("filters", {}).items())
    ]
    filters = (
        f"\n\nA clip is kept when it lies within all of these:\n\n{rows(('filter', 'min', 'max'), limits)}"
        if limits
        else ""
    )
    return f"## How it was made\n\n{' '.join(lines)}{table}{filters}"


def _left_out(dataset: Dataset) -> str:
    planned, found, meanings = tallies.planned(dataset), tallies.reasons(dataset), of_manifest(dataset.manifest)
    cells = [
        (plain(r["reason"]), plain(r["pass"]), f"{r['clips']:,}", plain(meanings.get(r["reason"], ""))) for r in found
    ]
    kept = tallies.totals(dataset)["clips"]
    table = f"\n\n{rows(('reason', 'pass', 'clips', 'meaning'), cells)}" if cells else ""
    summary = f"Of {planned:,} planned clips {kept:,} are here ({percent(kept, planned)}). "
    return f"## What was left out\n\n{summary}`index/rejects` has one row for every other clip.{table}"


def _rights(dataset: Dataset) -> str:
    found = tallies.tally(dataset, "source", "licence", "consent")
    cells = [
        (plain(s), plain(licence) if licence else "**unknown**", plain(consent) if consent else "not stated", f"{n:,}")
        for s, licence, consent, n in found
    ]
    unknown = sum(row[-1] for row in found if row[1] is None)
    warning = (
        f"\n\n**The licence of {_many(unknown, 'clip')} is unknown: clear their rights before publishing them.**"
        if unknown
        else ""
    )
    gone = len(dataset.tombstones())
    were = f"{_many(gone, 'clip')} {'was' if gone == 1 else 'were'} taken down since the dataset was built"
    taken = f"\n\n{were}; readers do not see what was taken down." if gone else ""
    lead = "As the sources state them per clip (columns `licence` and `consent` of `index/clips`)."
    table = rows(("source", "licence", "consent", "clips"), cells)
    return f"## Licences and consent\n\n{lead}\n\n{table}{warning}{taken}"


def _limits(dataset: Dataset) -> str:
    experts = dataset.manifest.get("experts", [])
    lines = [
        "Poses are estimates, not annotations. Swaps of left and right are the most likely mistake. "
        "A joint that no expert saw is NaN.",
        "`confidence` says how far the experts agree, not whether they are right: experts of one family err together."
        if len(experts) > 1
        else "A single expert was used, so `confidence` is 1 wherever it saw a joint.",
        "Labels are those of the sources, by way of the label table of the recipe. No person watched every clip.",
        "Filters favour clips in which one person is large and whole. Crowds, close-ups and cut-off bodies are rarer "
        "here "
        "than in the sources.",
    ]
    if dataset.manifest.get("lifter"):
        lines.append(
            "Poses in space are made of those of the picture alone. Depth and absolute size are the least certain. "
            "`lift_reprojection` tells how far they fit the picture, not whether the depth is right."
        )
    conditions, found = tallies.accuracy(dataset)
    measured = ""
    if found:
        cells = [
            (plain(e), *(f"{100 * c[k][0] / c[k][1]:.1f}" if c.get(k, (0, 0))[1] else "–" for k in conditions))
            for e, c in found
        ]
        lead = "Measured on the rendered clips, whose joints are known exactly (PCKh@0.5, per cent):"
        measured = f"\n\n{lead}\n\n{rows(('', *conditions), cells)}"
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines) + measured
