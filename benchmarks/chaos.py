"""Kills drivers, workers, schedulers, takedowns and gc at random moments, fills the disk, and compares the datasets.

Each life is a folder that is built to the end, while processes are killed (SIGKILL), runs with `--limit`, takedowns and
gc come in between, and the disk is full for a while: with a local cluster on a small file system, and with a scheduler
and workers of their own. In the end every clip must be there once, every record must have been kept, and the bytes must
be those of a build that nobody disturbed and that had the same takedowns.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import saved_corpus
from dask_processes import DaskProcesses, descendants, kill, working
from harness import main

import dataengine
from dataengine.core.errors import DatasetError

SEED = 14
TAKEN = 6
"""Clips that are taken down, in pairs."""
PATIENCE = 900.0
"""Seconds after which a run that nobody disturbs counts as hung."""


def run_cli(*arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataengine.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def bytes_of(out: Path) -> dict[str, str]:
    """Fingerprint, and blake3 of every file of the dataset."""
    manifest = json.loads((out / "dataset" / "MANIFEST.json").read_text())
    return {"fingerprint": manifest["fingerprint"], **{f["path"]: f["blake3"] for f in manifest["files"]}}


@dataclass
class Life:
    """One folder, from nothing to a finished dataset.

    Attributes:
        name: for the result.
        corpus: folder of videos and poses.
        out: folder of the build.
        rng: what happens when.
        victims: clip ids to take down, in this order.
        cluster: processes of a scheduler of their own; None for a local cluster.
        ballast: file that fills the disk; None where the disk is not small.
        kills: kills by kind.
        events: other events by kind.
        faults: what was not as it must be.
    """

    name: str
    corpus: Path
    out: Path
    rng: random.Random
    victims: list[str]
    cluster: DaskProcesses | None = None
    ballast: Path | None = None
    kills: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)
    taken: int = 0

    def command(self, *more: str) -> list[str]:
        build = saved_corpus.arguments(self.corpus, self.out, "plan.clips_per_unit=2")
        where = ["--workers", "2"] if self.cluster is None else ["--scheduler", self.cluster.address]
        return [*build, *where, *more]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        if self.cluster is not None:
            self.cluster.restart()
        with (self.out.parent / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(self.command(*more), stdout=subprocess.DEVNULL, stderr=log)

    def torment(self, kills: dict[str, int]) -> None:
        """Until so many processes of each kind were killed: build, kill, and do in between what users do."""
        left = [kind for kind, number in kills.items() for _ in range(number)]
        self.rng.shuffle(left)
        limit = ["--limit", "40"]  # a small dataset first, so that there is something to take down
        while left:
            driver = self.start(*limit)
            self._kill_while_running(driver, left)
            self._ended(driver)
            limit = []
            self._in_between()
            if self.rng.random() < 0.25:
                limit = ["--limit", str(self.rng.randrange(20, 200))]
                self.events["limited run"] += 1
        while self.taken < len(self.victims):
            self._take_down(may_die=False)

    def _kill_while_running(self, driver: subprocess.Popen[bytes], left: list[str]) -> None:
        """Kill what is drawn next, again and again, until the driver has ended."""
        while left and driver.poll() is None:
            workers: list[psutil.Process] = []
            while left[-1] == "worker" and not workers and driver.poll() is None:
                workers = self.cluster.workers() if self.cluster else working(driver.pid)
                self._sleep(driver, 0.2)
            self._sleep(driver, self.rng.uniform(0.2, 4.0))
            if driver.poll() is not None:
                return
            what = left.pop()
            if what == "driver":
                self._kill_driver(driver)
            elif what == "scheduler":
                assert self.cluster is not None and self.cluster.scheduler is not None
                kill(self.cluster.scheduler)
                self.kills["scheduler"] += 1
                self._sleep(driver, self.rng.uniform(0.0, 4.0))
                self.cluster.restart()
            else:
                try:
                    self.rng.choice(workers).kill()
                    self.kills["worker"] += 1
                except psutil.NoSuchProcess:
                    left.append("worker")

    def _kill_driver(self, driver: subprocess.Popen[bytes]) -> None:
        orphans = descendants(driver.pid)
        kill(driver)
        self.kills["driver"] += 1
        _, alive = psutil.wait_procs(orphans, timeout=60)
        if alive:
            self.faults.append(f"{len(alive)} processes outlived their driver")
            for process in alive:
                process.kill()

    def _sleep(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    def _ended(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait for a driver; only a kill, a full disk or a lost scheduler may end it otherwise than by 0 or 3."""
        try:
            code = driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.faults.append("a driver hangs")
            self._kill_driver(driver)
            return
        self.events[f"driver ended with {code}"] += 1

    def _in_between(self) -> None:
        what = self.rng.choices(("nothing", "takedown", "gc", "gc beside a build", "full disk"), (2, 3, 2, 1, 2))[0]
        if what == "takedown" and self.taken < len(self.victims):
            self._take_down(may_die=True)
        elif what == "gc":
            self._gc()
        elif what == "gc beside a build":
            driver = self.start()
            self._sleep(driver, self.rng.uniform(1.0, 6.0))
            self._gc()
            self._sleep(driver, self.rng.uniform(0.5, 3.0))
            if driver.poll() is None:
                self._kill_driver(driver)
        elif what == "full disk" and self.ballast is not None:
            self._full_disk()

    def _take_down(self, may_die: bool) -> None:
        """Take two clips down, or kill the process that does; what it recorded must stay for ever."""
        if not (self.out / "dataset" / "MANIFEST.json").exists():
            if not may_die:
                self.finish()
            return
        two = self.victims[self.taken : self.taken + 2]
        ids = [part for clip in two for part in ("--clip-id", clip)]
        arguments = ["takedown", str(self.out), "--reason", "asked for", "--by", "chaos", *ids]
        if may_die and self.rng.random() < 0.5:
            process = subprocess.Popen(
                [sys.executable, "-m", "dataengine.cli", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._sleep(process, self.rng.uniform(0.3, 1.5))
            if process.poll() is None:
                kill(process)
                self.kills["takedown"] += 1
            self._note_records()
            return
        done = run_cli(*arguments)
        if done.returncode:
            # the clip may lie beyond a limit, so that the dataset of now does not know it
            self.events["takedown refused"] += 1
            if not may_die:
                self.faults.append(f"takedown: {done.stderr.strip()[-300:]}")
                self.taken += 2
            return
        self.taken += 2
        self.events["takedown"] += 1
        self._note_records()

    def _note_records(self) -> None:
        for path in sorted((self.out / "takedowns").glob("*.parquet")):
            self.records.setdefault(path.name, path.read_bytes())

    def _gc(self) -> None:
        if not (self.out / "recipe.lock.toml").exists():
            return
        if self.rng.random() < 0.3:
            process = subprocess.Popen(
                [sys.executable, "-m", "dataengine.cli", "gc", str(self.out)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._sleep(process, self.rng.uniform(0.5, 2.0))
            if process.poll() is None:
                kill(process)
                self.kills["gc"] += 1
            return
        done = run_cli("gc", str(self.out))
        self.events["gc" if done.returncode == 0 else "gc refused"] += 1
        if "Traceback" in done.stderr:
            self.faults.append(f"gc: {done.stderr.strip()[-300:]}")

    def _full_disk(self) -> None:
        """Leave a random rest of the disk, build into it, and make room again."""
        assert self.ballast is not None
        state = os.statvfs(self.ballast.parent)
        left = state.f_bavail * state.f_frsize - self.rng.randrange(1 << 12, 1 << 19)
        if left > 0:
            with self.ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, left)
        driver = self.start()
        self._sleep(driver, self.rng.uniform(4.0, 12.0))
        if driver.poll() is None and self.rng.random() < 0.5:
            self._kill_driver(driver)
        elif driver.poll() is None:
            self.ballast.unlink(missing_ok=True)
        self._ended(driver)
        self.ballast.unlink(missing_ok=True)
        self.events["full disk"] += 1

    def finish(self) -> None:
        """Build to the end, undisturbed; clips that random kills brought into quarantine are tried again."""
        for attempt in range(3):
            if self.cluster is not None:
                self.cluster.restart()
            done = subprocess.run(self.command(), capture_output=True, text=True, check=False, timeout=PATIENCE)
            if done.returncode not in (0, 3):
                self.faults.append(f"the last build: {done.stderr.strip()[-300:]}")
                continue
            reasons = json.loads(done.stdout)["reasons"]
            unlucky = {name: n for name, n in reasons.items() if name in ("worker_killed", "unit_timeout")}
            if not unlucky:
                break
            self.events["clips in quarantine"] += sum(unlucky.values())
            again = [part for name in unlucky for part in ("--retry", name)]
            subprocess.run(self.command(*again), capture_output=True, check=False, timeout=PATIENCE)
            del attempt

    def judge(self, reference: dict[str, str], clips: int) -> dict[str, Any]:
        """Finish, and compare with the build that nobody disturbed."""
        self.finish()
        try:
            dataset = dataengine.open(self.out)
        except DatasetError as error:
            self.faults.append(str(error))
            return self.result(False)
        ids = [name for table in ("clips", "rejects") for name in dataset.table(table).collect()["clip_id"].to_list()]
        if len(ids) != clips or len(set(ids)) != clips:
            self.faults.append(f"{len(ids)} rows, {len(set(ids))} clips, of {clips}")
        for name, content in self.records.items():
            if not (path := self.out / "takedowns" / name).exists() or path.read_bytes() != content:
                self.faults.append(f"the record {name} was not kept")
        gone = set(dataset.tombstones()["clip_id"].to_list())
        if gone != set(self.victims) or gone & set(dataset.clips.collect()["clip_id"].to_list()):
            self.faults.append(f"{len(gone)} clips are taken down, {len(self.victims)} were asked for")
        checked = run_cli("verify", str(self.out))
        if checked.returncode:
            self.faults.append(f"verify: {(checked.stdout + checked.stderr).strip()[-300:]}")
        found = bytes_of(self.out)
        differ = sorted(name for name in {*found, *reference} if found.get(name) != reference.get(name))
        if differ:
            self.faults.append(f"{len(differ)} files differ: {', '.join(differ[:5])}")
        return self.result(not differ)

    def result(self, same: bool) -> dict[str, Any]:
        return {
            "same_bytes": same,
            "kills": dict(self.kills),
            "events": dict(sorted(self.events.items())),
            "faults": self.faults,
        }


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own in `folder`; whether there is one, since mounting needs rights."""
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def run(quick: bool) -> dict[str, Any]:
    """Torment builds of 200 clips by 62 kills (of 24 clips by 7, --quick), and compare the datasets."""
    clips, taken = (24, 2) if quick else (200, TAKEN)
    local = {"driver": 2, "worker": 2} if quick else {"driver": 14, "worker": 20}
    remote = {"driver": 1, "worker": 1, "scheduler": 1} if quick else {"driver": 8, "worker": 12, "scheduler": 8}
    goal = sum(local.values()) + sum(remote.values())
    begun, rng = time.monotonic(), random.Random(SEED)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        corpus = folder / "corpus"
        saved_corpus.write(corpus, clips)
        calm = Life("calm", corpus, folder / "calm", rng, [])
        calm.finish()
        known = sorted(dataengine.open(calm.out).clips.collect()["clip_id"].to_list())
        calm.victims = rng.sample(known[: min(40, clips)], taken)
        while calm.taken < taken:
            calm._take_down(may_die=False)
        calm.finish()
        reference = bytes_of(calm.out)
        disk = folder / "disk"
        mounted = stack.enter_context(small_disk(disk, 64))
        cluster = stack.enter_context(DaskProcesses(folder / "dask", 2))
        lives = [
            Life("local", corpus, disk / "out", rng, calm.victims, ballast=disk / "ballast" if mounted else None),
            Life("scheduler", corpus, folder / "out", rng, calm.victims, cluster),
        ]
        for life, kills in zip(lives, (local, remote)):
            life.torment(kills)
        results = {life.name: life.judge(reference, clips) for life in lives}
    by_kind: Counter[str] = sum((life.kills for life in lives), Counter())
    faults = [f"{name}: {fault}" for name, result in results.items() for fault in result["faults"]] + calm.faults
    return {
        "name": "chaos",
        "value": sum(by_kind.values()),
        "unit": "kills without a lost clip, record or byte" if not faults else "kills; see faults",
        "goal": goal,
        "holds": not faults and sum(by_kind.values()) >= goal,
        "baselines": {"kills": dict(by_kind), "lives": results, "faults": faults, "small_disk": mounted},
        "n": clips,
        "spread": {"seed": SEED, "seconds": round(time.monotonic() - begun, 1)},
        "data": f"{clips} tiny clips with saved poses, {taken} of them taken down",
    }


if __name__ == "__main__":
    main(run)
