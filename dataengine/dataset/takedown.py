"""takedown: removes clips from a dataset for good. Readers skip them at once; a record says who asked and why.

The record is on the disk first, in `OUT/takedowns`, outside of what can be built again. Tombstones, copies of it in the
dataset, hide the clips from all readers of this package from then on, wherever the dataset lies. The next build, or
`rewrite` at once, makes shards without the clips. Later builds keep them out, also clips of a taken-down video that
appear later. A build may run meanwhile: what it puts in place has the tombstones.

A build without a dataset, which was removed or is not made yet, knows its clips by its plan and its table of units.

In a dataset that was copied without its build the tombstones are the records. Put in the place of a build's `dataset`,
they are taken over by the next build, takedown or gc there.
"""

from __future__ import annotations

import datetime
import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core.counting import counted
from dataengine.core.errors import DatasetError
from dataengine.dataset import takedown_records
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.index import MANIFEST, locate, write_tombstones
from dataengine.dataset.learned_from import generations_that_saw
from dataengine.dataset.placing import changing
from dataengine.dataset.takedown_records import TakenDown, home
from dataengine.io.switch import interrupted


def read_list(path: Path) -> list[str]:
    """Ids from a text file, one per line; empty lines and lines that begin with # are skipped.

    Raises:
        DatasetError: the file cannot be read, or names nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not a list of ids, one per line: {error}") from error
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise DatasetError(f"{path}: names no clip or video")
    return ids


def takedown(out: Path, ids: Sequence[str], reason: str, *, by: str | None = None) -> dict[str, Any]:
    """Take down clips by clip id or by video id.

    Args:
        out: a build's OUT or a dataset's folder.
        ids: clip ids or video ids, as the index has them, kept clips or rejected ones; of a build also those that were
            ever planned.
        reason: why, for the record.
        by: who did it; default: the name of the user.

    Returns:
        The record: time (UTC), by, reason, clip_ids, video_ids, fingerprint of the dataset (None where there is
        no dataset), its file, report_removed: whether the report page showed them, and so was removed, and learned:
        weights of students in the build's work that learned from them.

    Raises:
        DatasetError: no dataset and no plan, no reason, or an id that is in neither. Nothing is changed then.
    """
    if "://" in str(out):
        raise DatasetError(f"{out}: take clips down where the dataset lies, not over the network")
    if not reason.strip():
        raise DatasetError("takedown wants a reason: it is what the record is for")
    folder = Path(out).absolute()
    if interrupted(folder / "dataset"):
        with changing(folder, "takedown"):
            pass
    build = folder if _plans(folder) else None
    if build is None or (folder / "dataset" / MANIFEST).exists():
        root = Path(locate(out)).absolute()
        build = home(root) or (folder if folder != root else None)
    if build is None:
        return _take_down(root, None, ids, reason.strip(), by)
    with changing(build, "takedown") as root:
        return _take_down(root if (root / MANIFEST).exists() else None, build, ids, reason.strip(), by)


def _take_down(
    root: Path | None, build: Path | None, ids: Sequence[str], reason: str, by: str | None
) -> dict[str, Any]:
    """Write the record of a takedown from the dataset in `root`, or from what a build has planned: to the build where
    there is one."""
    dataset = None if root is None else Dataset(str(root))
    known: dict[str, str] = {} if build is None else _planned(build)
    gone: set[str] = set() if build is None else set(TakenDown.of(build).clips)
    if dataset is not None:
        for name in ("clips", "rejects"):
            known |= dict(dataset.table(name).select("clip_id", "video_id").collect().rows())
        gone |= set(dataset.tombstones()["clip_id"])
    videos: dict[str, list[str]] = {}
    for clip_id, video_id in known.items():
        videos.setdefault(video_id, []).append(clip_id)
    clip_ids: set[str] = set()
    video_ids = []
    for given in ids:
        if given in known or given in gone:
            clip_ids.add(given)
        elif given in videos:
            video_ids.append(given)
            clip_ids.update(videos[given])
        else:
            lists = f"{build / 'work' / 'plan.parquet'} holds" if root is None and build else ""
            raise DatasetError(
                f"{given!r} is neither a clip id nor a video id of this {'build' if lists else 'dataset'}; "
                f"{lists or f'tables clips and rejects of `dataengine audit {root} --sql QUERY` hold'} them"
            )
    record = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "by": by or getpass.getuser(),
        "reason": reason,
        "video_ids": sorted(set(video_ids)),
        "fingerprint": None if dataset is None else dataset.manifest["fingerprint"],
    }
    rows = [{"clip_id": clip_id, "reason": reason} for clip_id in sorted(clip_ids)]
    if build is not None:
        path = takedown_records.add(build, rows, record)
        if root is not None:
            takedown_records.derive(build, root)
    else:
        assert root is not None, "a dataset without a build lies somewhere"
        path = write_tombstones(root, rows, record)
    removed = root is not None and _remove_page(root, clip_ids)
    learned = [] if build is None else [str(one) for one in generations_that_saw(build / "work", clip_ids)]
    return {**record, "clip_ids": sorted(clip_ids), "file": str(path), "report_removed": removed, "learned": learned}


def _remove_page(root: Path, clip_ids: set[str]) -> bool:
    """Remove the report page of a dataset where it names one of the clips: it has pictures of them."""
    page = root / "report.html"
    if not page.is_file():
        return False
    text = page.read_text(encoding="utf-8")
    if not any(clip_id in text for clip_id in clip_ids):
        return False
    page.unlink()
    return True


def _plans(folder: Path) -> list[Path]:
    """The tables of a build that name every clip which was ever planned, and its video."""
    work = folder / "work"
    return [path for path in (*sorted(work.glob("units/part-*.parquet")), work / "plan.parquet") if path.is_file()]


def _planned(build: Path) -> dict[str, str]:
    """clip_id -> video_id of every clip that a build ever planned.

    Raises:
        DatasetError: a table cannot be read.
    """
    known: dict[str, str] = {}
    for path in _plans(build):
        try:
            table = pq.read_table(path, columns=["clip_id", "video_id"])
        except (OSError, pa.ArrowInvalid) as error:
            what = str(error).splitlines()[0]
            raise DatasetError(f"{path} cannot be read: {what}; put it back from a copy, or remove it") from error
        known.update(zip(*(column.to_pylist() for column in table.columns)))
    return known


def to_text(record: dict[str, Any], rewritten: bool) -> str:
    """The record for people."""
    taken = counted(len(record["clip_ids"]), "clip")
    lines = [f"{taken} taken down by {record['by']} at {record['time']}: {record['reason']}"]
    lines += [f"  {clip_id}" for clip_id in record["clip_ids"][:20]]
    lines += [f"  and {len(record['clip_ids']) - 20} more"] if len(record["clip_ids"]) > 20 else []
    lines.append(f"record   {record['file']}")
    if record["report_removed"] and not rewritten:
        lines.append("report   removed, since it showed them: `dataengine report OUT` makes it anew")
    lines += _learned(record["learned"], rewritten)
    if record["fingerprint"] is None:
        removed = "intermediates removed" if rewritten else "--rewrite removes intermediates"
        lines.append(f"shards   there is no dataset: the next build leaves them out; {removed}")
    elif Path(record["file"]).parent.name == "tombstones":
        lines.append(
            "shards   still hold them, hidden from readers: take them down in the build, too, with --rewrite, and copy "
            "its dataset anew"
        )
    else:
        lines.append(
            "shards   rewritten, intermediates removed"
            if rewritten
            else "shards   still hold them, hidden from readers: --rewrite, or the next build, removes them"
        )
    return "\n".join(lines)


def _learned(weights: Sequence[str], rewritten: bool) -> list[str]:
    """What becomes of generations that learned from what was taken down."""
    if not weights:
        return []
    what = f"{counted(len(weights), 'generation')} of a student learned from them"
    todo = (
        "the student learned again without them, and the weights were removed"
        if rewritten
        else "the next build learns again without them, and --rewrite, or gc after that build, removes the weights"
    )
    return [f"student  {what}: {todo}; copies elsewhere are yours to remove", *(f"  {path}" for path in weights[:5])]
