"""What is done: artifacts and commit records of passes (knows nothing of video).

Layout under `work/`::

    <pass>-<fingerprint12>/data/<unit>-<hash12>.<ext>          what a pass made of one unit
    <pass>-<fingerprint12>/commits/<unit>.json                 the record that makes it count
    <pass>-<fingerprint12>/commits/<unit>.<inputs12>.json      records of the unit for other inputs
    <pass>-<fingerprint12>/generations/<learned12>/            weights that a student learned (`joined_inputs`)
    staging/                                                   files being written; never read

Commit protocol: write to staging, fsync, rename to a name that holds the content's hash, fsync the
folder, then put the record in place. Readers believe records only, so a crash at any point leaves
either the whole artifact or none of it, and two workers that do one unit write the same bytes
under the same name.

A record is created if there is none for its unit and inputs; of two workers that do one unit the first one counts. Only
a retry replaces a record: the one that it read, and no other. Records for other inputs stay, so that a build of some
clips does not cost what a build of all clips did: the driver says which one counts now (`find` with `activate`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from dataengine.core.errors import DamagedArtifact
from dataengine.core.types import Fail, Keep, Outcome, Reject
from dataengine.io.storage import file_hash, fsync_file, fsync_folder, locked, write_durably
from dataengine.io.storage import staged as staged_file
from dataengine.pipeline.patience import awaited

_KINDS: dict[str, type[Keep] | type[Reject] | type[Fail]] = {"keep": Keep, "reject": Reject, "fail": Fail}


def joined_inputs(learned: str, judged: str) -> str:
    """Inputs of a pass that learns and judges, of the digests of what it learns from and of how it judges: what was
    learned is found again where only the latter changed."""
    return judged[:32] + learned[:32]


def learned_of(inputs: str) -> str:
    """Name of the folder under `generations/` for inputs that `joined_inputs` made."""
    return inputs[32:44]


@dataclass(frozen=True)
class Commit:
    """The record of one finished unit of one pass.

    Attributes:
        inputs: digest of everything the unit read; the record holds only for these.
        artifact: file name in the pass's data folder. size, blake3: of that file.
        outcomes: what became of each clip given, one each.
        seconds: wall time the unit took; not part of the digest.
        sidecar: blake3 of the file beside the artifact, where there is one.
    """

    unit: str
    inputs: str
    artifact: str
    size: int
    blake3: str
    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    sidecar: str = ""

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
        """The record of a unit that counts now, or None when there is none, it is unreadable, or its artifact is gone
        or has another length."""
        return self._load(self.record(unit))

    def record(self, unit: str, inputs: str = "") -> Path:
        """The file of the record of a unit that counts now, or of the one for other inputs."""
        return self.folder / "commits" / (f"{unit}.{inputs[:12]}.json" if inputs else f"{unit}.json")

    def find(self, unit: str, inputs: str, activate: bool = False) -> Commit | None:
        """The record of a unit for some inputs, or None.

        Args:
            activate: make it the one that counts now; for the driver alone.
        """
        current = self.read(unit)
        if current is not None and current.inputs == inputs:
            return current
        former = self._load(self.record(unit, inputs)) if inputs else None
        if former is None or former.inputs != inputs:
            return None
        if activate:
            self._activate(former)
        return former

    def settle(self, commit: Commit) -> None:
        """Make a record count that a worker has written, where one for other inputs counted; for the driver alone."""
        current = self.read(commit.unit)
        if current is not None and current.inputs != commit.inputs:
            self._activate(commit)

    def _activate(self, former: Commit) -> None:
        with self._alone():
            current = self.read(former.unit)
            if current is not None:
                write_durably(self.record(former.unit, current.inputs), current.to_json())
            write_durably(self.record(former.unit), former.to_json())
            self.record(former.unit, former.inputs).unlink(missing_ok=True)

    def _load(self, path: Path) -> Commit | None:
        try:
            commit = Commit.from_json(path.read_bytes())
            return commit if self.path(commit).stat().st_size == commit.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes records of the pass meanwhile, where the file system has locks."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(locked(self.folder / "commits.lock"))
            yield

    def commit(
        self,
        unit: str,
        inputs: str,
        staged: Path,
        outcomes: tuple[Outcome, ...],
        seconds: float,
        sidecar: bytes | None = None,
        replaces: str = "",
    ) -> Commit:
        """Make a staged artifact and its outcomes count. The staged file is moved; `sidecar` goes beside it as
        <name>.json.

        Args:
            replaces: digest of the record that a retry has read, which alone it may replace.

        Returns:
            The record for these inputs that counts: this one, or that of another worker who was first.
        """
        fsync_file(staged)
        digest = file_hash(staged)
        name = f"{unit}-{digest[:12]}{staged.suffix}"
        beside = "" if sidecar is None else blake3(sidecar).hexdigest()
        commit = Commit(unit, inputs, name, staged.stat().st_size, digest, outcomes, round(seconds, 3), beside)
        for folder in ("data", "commits"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        staged.replace(self.folder / "data" / name)
        if sidecar is not None:
            write_durably(self.folder / "data" / f"{name}.json", sidecar)
        fsync_folder(self.folder / "data")
        if self._create(self.record(unit), commit):
            return commit
        with self._alone():
            return self._write(commit, replaces)

    def _create(self, path: Path, commit: Commit) -> bool:
        """Write a record where there is none; whether that was so."""
        try:
            with staged_file(path, replace=False) as partial:
                partial.write_bytes(commit.to_json())
        except FileExistsError:
            return False
        return True

    def _write(self, commit: Commit, replaces: str) -> Commit:
        """Put a record in place, or give the one that stands there for the same inputs."""
        path, current = self.record(commit.unit), self.read(commit.unit)
        if current is not None and current.inputs != commit.inputs:
            path = self.record(commit.unit, commit.inputs)
        known = self._load(path)
        if known is not None and known.inputs == commit.inputs and known.digest in (replaces, commit.digest):
            if known.digest == commit.digest:
                return known
            write_durably(path, commit.to_json())
            return commit
        if known is not None and known.inputs == commit.inputs:
            return known
        if known is None and path.exists():  # unreadable, or its artifact is gone
            path.unlink(missing_ok=True)
        if self._create(path, commit):
            return commit
        return self._load(path) or commit  # another worker was quicker

    def sidecar(self, commit: Commit) -> bytes:
        """What was written beside the artifact of a record.

        Raises:
            DamagedArtifact: it is not what was written; the record was dropped.
        """
        try:
            content = (self.folder / "data" / f"{commit.artifact}.json").read_bytes()
        except FileNotFoundError:
            content = b""
        if commit.sidecar and blake3(content).hexdigest() != commit.sidecar:
            raise self._drop(commit, f"{commit.artifact}.json")
        return content

    def path(self, commit: Commit) -> Path:
        """The artifact of a record."""
        return self.folder / "data" / commit.artifact

    def artifact(self, unit: str) -> Path:
        """The artifact of a finished unit, its content checked against the record.

        Raises:
            DamagedArtifact: no record, or the file is not what the record says; the record is dropped, so that the
                unit is run again.
        """
        commit = awaited(lambda: self.read(unit), (self.folder / "commits", self.folder / "data"))
        if commit is None:
            raise DamagedArtifact(self.pass_name, unit, f"unit {unit} has no artifact, or one that was cut off")
        return self.checked(commit)

    def checked(self, commit: Commit) -> Path:
        """The artifact of a record, its content checked.

        Raises:
            DamagedArtifact: the file is not what the record says; the record is dropped.
        """
        path = self.path(commit)
        try:
            whole = file_hash(path) == commit.blake3
        except FileNotFoundError:
            whole = False
        if not whole:
            raise self._drop(commit, path.name)
        return path

    def _drop(self, commit: Commit, what: str) -> DamagedArtifact:
        """Remove a damaged artifact and every record that names it; the error to raise."""
        with self._alone():
            for record in (self.record(commit.unit), self.record(commit.unit, commit.inputs)):
                known = self._load(record)
                if known is None or known.artifact == commit.artifact:
                    record.unlink(missing_ok=True)
            self.path(commit).unlink(missing_ok=True)
        return DamagedArtifact(self.pass_name, commit.unit, f"{what} was damaged after it was written")

    def use(self) -> None:
        """Note that the folder of the pass is in use now: `gc` keeps those that were used last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)

    def records(self) -> Iterator[tuple[Path, Commit | None]]:
        """Every record, for all inputs: its file, and what it says if that holds."""
        for path in sorted((self.folder / "commits").glob("*.json")):
            yield path, self._load(path)

    def units(self) -> Iterator[str]:
        """Names of all units with a record."""
        folder = self.folder / "commits"
        if folder.is_dir():
            names = {p.name.removesuffix(".json") for p in folder.glob("*.json") if not p.name.startswith(".")}
            yield from sorted(name for name in names if "." not in name)
