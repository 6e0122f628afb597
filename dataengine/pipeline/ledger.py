"""What is done: artifacts and commit records of passes (knows nothing of video).

Layout under `work/`::

    <pass>-<fingerprint12>/data/<unit>-<hash12>.<ext>     what a pass made of one unit
    <pass>-<fingerprint12>/commits/<unit>.json            the record that makes it count
    staging/                                              files being written; never read

Commit protocol: write to staging, fsync, rename to a name that holds the content's hash, fsync the
folder, then put the record in place. Readers believe records only, so a crash at any point leaves
either the whole artifact or none of it, and two workers that do one unit write the same bytes
under the same name.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from dataengine.core.errors import DamagedArtifact, LedgerError
from dataengine.core.types import Fail, Keep, Outcome, Reject
from dataengine.io.storage import file_hash, fsync_file, fsync_folder, write_durably
from dataengine.pipeline.patience import awaited

_KINDS: dict[str, type[Keep] | type[Reject] | type[Fail]] = {"keep": Keep, "reject": Reject, "fail": Fail}


@dataclass(frozen=True)
class Commit:
    """The record of one finished unit of one pass.

    Attributes:
        inputs: digest of everything the unit read; the record holds only for these.
        artifact: file name in the pass's data folder. size, blake3: of that file.
        outcomes: what became of each clip given, one each.
        seconds: wall time the unit took; not part of the digest.
    """

    unit: str
    inputs: str
    artifact: str
    size: int
    blake3: str
    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """Digest of what the unit gives to later passes: artifact and outcomes."""
        return blake3(json.dumps([self.blake3, [_outcome_row(o) for o in self.outcomes]]).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The record as it is written."""
        row = {**asdict(self), "outcomes": [_outcome_row(outcome) for outcome in self.outcomes]}
        return json.dumps(row, indent=0, sort_keys=True).encode()

    @staticmethod
    def from_json(content: bytes) -> Commit:
        """What `to_json` gave; raises ValueError, KeyError or TypeError for anything else."""
        row = json.loads(content)
        return Commit(**{**row, "outcomes": tuple(_outcome(outcome) for outcome in row["outcomes"])})

    @staticmethod
    def aside(unit: str, inputs: str, outcomes: Sequence[Outcome] = ()) -> Commit:
        """What stands for the record of a unit that was set aside in this build. It is never written."""
        return Commit(unit, inputs, "", 0, "", tuple(outcomes))

    @property
    def is_aside(self) -> bool:
        """Whether the unit was set aside in this build: there is no artifact, and later passes skip the unit."""
        return not self.artifact

    @property
    def kept(self) -> list[str]:
        return [o.clip_id for o in self.outcomes if isinstance(o, Keep)]

    @property
    def retryable(self) -> int:
        return sum(isinstance(o, Fail) and o.retryable for o in self.outcomes)


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    kind = next(name for name, cls in _KINDS.items() if type(outcome) is cls)
    return {"outcome": kind, **asdict(outcome)}


def _outcome(row: dict[str, Any]) -> Outcome:
    given = {k: v for k, v in row.items() if k != "outcome"}
    # a clip's records of all passes share one text, since a driver may hold those of a million clips
    return _KINDS[row["outcome"]](**{**given, "clip_id": sys.intern(given["clip_id"])})


class Ledger:
    """The records and artifacts of one pass under one fingerprint."""

    def __init__(self, work: Path, pass_name: str, fingerprint: str) -> None:
        self.pass_name = pass_name
        self.fingerprint = fingerprint
        self.folder = work / f"{pass_name}-{fingerprint[:12]}"
        self.staging = work / "staging"

    def stage(self, unit: str, extension: str) -> Path:
        """A fresh path to write an artifact to."""
        self.staging.mkdir(parents=True, exist_ok=True)
        return self.staging / f"{self.pass_name}-{unit}-{uuid.uuid4().hex}.{extension}"

    def read(self, unit: str) -> Commit | None:
        """The record of a unit, or None when there is none, it is unreadable, or its artifact is gone."""
        path = self.folder / "commits" / f"{unit}.json"
        try:
            commit = Commit.from_json(path.read_bytes())
            return commit if self.path(commit).stat().st_size == commit.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def commit(
        self,
        unit: str,
        inputs: str,
        staged: Path,
        outcomes: tuple[Outcome, ...],
        seconds: float,
        sidecar: bytes | None = None,
    ) -> Commit:
        """Make a staged artifact and its outcomes count. The staged file is moved; `sidecar` goes beside it as
        <name>.json."""
        fsync_file(staged)
        digest = file_hash(staged)
        name = f"{unit}-{digest[:12]}{staged.suffix}"
        commit = Commit(unit, inputs, name, staged.stat().st_size, digest, outcomes, round(seconds, 3))
        for folder in ("data", "commits"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        staged.replace(self.folder / "data" / name)
        if sidecar is not None:
            write_durably(self.folder / "data" / f"{name}.json", sidecar)
        fsync_folder(self.folder / "data")
        record = self.folder / "commits" / f"{unit}.json"
        known = self.read(unit)
        if known is None or known.inputs != inputs or known.digest != commit.digest:
            write_durably(record, commit.to_json())
        return commit

    def sidecar(self, commit: Commit) -> bytes:
        """What was written beside the artifact of a record."""
        return (self.folder / "data" / f"{commit.artifact}.json").read_bytes()

    def path(self, commit: Commit) -> Path:
        """The artifact of a record."""
        return self.folder / "data" / commit.artifact

    def artifact(self, unit: str) -> Path:
        """The artifact of a finished unit, its content checked against the record.

        Raises:
            LedgerError: no record.
            DamagedArtifact: the file is not what the record says; the record is dropped, so that building again makes
                it anew.
        """
        commit = awaited(lambda: self.read(unit), (self.folder / "commits", self.folder / "data"))
        if commit is None:
            raise LedgerError(f"pass {self.pass_name}: unit {unit} is not finished; build again")
        path = self.path(commit)
        if file_hash(path) != commit.blake3:
            (self.folder / "commits" / f"{unit}.json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise DamagedArtifact(self.pass_name, unit, path.name)
        return path

    def units(self) -> Iterator[str]:
        """Names of all units with a record."""
        folder = self.folder / "commits"
        if folder.is_dir():
            yield from sorted(p.stem for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith("."))


def collect_garbage(work: Path, live: dict[str, set[str]]) -> list[Path]:
    """Remove what no commit of a live pass folder names.

    Args:
        work: the work folder of a build.
        live: folder name `<pass>-<fingerprint12>` -> units that still belong to the plan.

    Returns:
        Paths removed.
    """
    removed = list((work / "staging").glob("*")) if (work / "staging").is_dir() else []
    for folder in sorted(p for p in work.iterdir() if p.is_dir() and (p / "commits").is_dir()):
        ledger = Ledger(work, *folder.name.rsplit("-", 1))
        units = live.get(folder.name, set())
        wanted = {commit.artifact for unit in units if (commit := ledger.read(unit)) is not None}
        removed += [p for p in sorted((folder / "data").glob("*")) if p.name.removesuffix(".json") not in wanted]
        removed += [p for p in sorted((folder / "commits").glob("*")) if p.stem not in units]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    for folder in sorted(p for p in work.iterdir() if p.is_dir() and (p / "commits").is_dir() and p.name not in live):
        for inner in (folder / "data", folder / "commits", folder):
            if inner.is_dir() and not any(inner.iterdir()):
                inner.rmdir()
    return removed
