"""What travels between the driver and its workers: a task there, a receipt back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One key of a pass to run, or a probe of some of its clips.

    Attributes:
        key: what is run: a unit, a shard, or `all`.
        clips: ids of the clips to run, in order; what a deadline is reckoned by.
        inputs: digest of everything that the key reads. The record of the key holds only for these inputs.
        quarantine: (clip_id, reason) of clips that must not be run again.
        replaces: digest of the record for these inputs that a retry may replace; empty where there was none.
        probe: run the clips and commit nothing. A probe searches for the clip that kills workers.
        attempt: path of the file that tells that the task was begun, and is touched as it goes on; '' for none.
    """

    key: str
    clips: tuple[str, ...] = ()
    inputs: str = ""
    quarantine: tuple[tuple[str, str], ...] = ()
    replaces: str = ""
    probe: bool = False
    attempt: str = field(default="", compare=False)


@dataclass(frozen=True)
class Receipt:
    """What a finished task tells.

    Attributes:
        clips: how many clips the task was given. kept: how many of them go on.
        seconds: wall time of the task.
        inputs, artifact, digest: what the record says; empty for a probe.
        record: the record as it was written, so that nobody has to read it back; empty for a probe.
        host: name of the machine that ran the task. pid: of the process there.
    """

    key: str
    clips: int
    kept: int
    seconds: float
    inputs: str = ""
    artifact: str = ""
    digest: str = ""
    record: bytes = b""
    host: str = field(default="", compare=False)
    pid: int = field(default=0, compare=False)
