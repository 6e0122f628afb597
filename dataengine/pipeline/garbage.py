"""What of the intermediates of a build may go: what no record names, what nobody came back to, and what was taken down.

For who holds the lease of the build. Staging files may still belong to a worker of another machine whose driver was
killed, so young ones stay.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from dataengine.dataset.learned_from import saw_any
from dataengine.pipeline.ledger import Commit, Ledger, learned_of

STAGING_AGE = 3600.0
"""Seconds after which a staging file that was not written to any more is taken for left behind."""


def collect_garbage(
    work: Path,
    live: Mapping[str, Set[str]],
    *,
    whole: Set[str] = frozenset(),
    former: int = 0,
    gone: Set[str] = frozenset(),
    staging_age: float = STAGING_AGE,
) -> list[Path]:
    """Remove what no record names that is to stay.

    Args:
        work: the work folder of a build.
        live: folder `<pass>-<fingerprint12>` of the present recipe -> keys whose records stay.
        whole: further folders whose records stay.
        former: how many records for other inputs stay beside the one that counts, of each key.
        gone: clips that were taken down: no record that names one stays, and no table or shard but those that count.
        staging_age: seconds; younger staging files stay.

    Returns:
        Paths removed.
    """
    removed = [*_stale_staging(work, staging_age), *_stale_lists(work)]
    folders = sorted(p for p in work.iterdir() if p.is_dir() and (p / "commits").is_dir())
    for folder in folders:
        ledger = Ledger(work, *folder.name.rsplit("-", 1))
        kept = dict[Path, Commit]()
        if folder.name in live or folder.name in whole:
            keys = None if folder.name in whole else live[folder.name]
            kept = _kept(ledger, keys, former, gone, folder.name in live)
        named = {commit.artifact for commit in kept.values()}
        removed += [p for p in sorted((folder / "data").glob("*")) if p.name.removesuffix(".json") not in named]
        removed += [p for p in sorted((folder / "commits").glob("*")) if p not in kept]
        learned = {learned_of(commit.inputs) for commit in kept.values()}
        removed += _former_generations(folder, learned, folder.name in live, gone)
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for folder in folders:
        if folder.name not in live:
            _remove_empty(folder)
    return removed


def _former_generations(folder: Path, learned: Set[str], live: bool, gone: Set[str]) -> list[Path]:
    """What students learned that no record names; what the present recipe is still learning stays, unless from clips
    that were taken down."""
    found = sorted((folder / "generations").glob("*"), key=lambda path: path.stat().st_mtime)
    latest = [path for path in found[-1:] if live and not (gone and saw_any(path, gone))]
    return [path for path in found if path.name not in learned and path not in latest]


def _kept(ledger: Ledger, keys: Set[str] | None, former: int, gone: Set[str], present: bool) -> dict[Path, Commit]:
    """The records of a pass that stay, by file."""
    kept, others = dict[Path, Commit](), dict[str, list[tuple[int, float, Path, Commit]]]()
    for path, commit in ledger.records():
        if commit is None or (keys is not None and commit.unit not in keys):
            continue
        counts = path == ledger.record(commit.unit)
        if any(o.clip_id in gone for o in commit.outcomes) or (
            gone and not commit.outcomes and not (counts and present)
        ):
            continue
        if counts:
            kept[path] = commit
        else:
            with contextlib.suppress(FileNotFoundError):
                row = (len(commit.outcomes), path.stat().st_mtime, path, commit)
                others.setdefault(commit.unit, []).append(row)
    for rows in others.values():
        # those of most clips first: a build of a few clips must not push out the one of all
        ordered = sorted(rows, key=lambda row: row[:2], reverse=True)
        kept |= {path: commit for _, _, path, commit in ordered[:former]}
    return kept


def _stale_staging(work: Path, age: float) -> Iterator[Path]:
    for path in sorted((work / "staging").glob("*")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= age:
                yield path


def _stale_lists(work: Path) -> Iterator[Path]:
    """Files `<name>-<hash12>.json` that the driver wrote for its workers, but the last one of each name."""
    lists: dict[str, list[tuple[float, Path]]] = {}
    for path in work.glob("*-*.json"):
        lists.setdefault(path.name.rpartition("-")[0], []).append((path.stat().st_mtime, path))
    for found in lists.values():
        yield from (path for _, path in sorted(found)[:-1])


def _remove_empty(folder: Path) -> None:
    for inner in (folder / "data", folder / "commits"):
        if inner.is_dir() and any(inner.iterdir()):
            return
    shutil.rmtree(folder, ignore_errors=True)


def last_used(work: Path, live: Set[str], count: int) -> set[str]:
    """The `count` folders of each pass that a build used last, by name, beside those of the present recipe (`live`)."""
    folders: dict[str, list[tuple[float, str]]] = {}
    for path in work.iterdir():
        if path.name not in live and path.is_dir() and (path / "commits").is_dir():
            folders.setdefault(path.name.rpartition("-")[0], []).append((path.stat().st_mtime, path.name))
    return {name for found in folders.values() for _, name in sorted(found, reverse=True)[:count]}
