"""Kills trainings at random moments, starts them again each time, and compares the weights with those of a training
that nobody disturbed and that prepared every clip anew.

Between and during the lives things happen to the folder of prepared clips: it is empty, full, deleted, torn, of another
version, or on a disk that is full. Two trainings share it, and two processes train one network. Trainings are forked
from this process, which has imported everything, so that a life costs its steps alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from harness import cpu_seconds, main
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dataengine.core import settings
from tests.support import motion_files
from tests.support.motions import Motions
from training import config
from training.data import clip_store
from training.engine.loop import fabric_of
from training.runs.evaluation import Evaluation
from training.runs.train import train
from training.transforms import prepared
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

SEED = 17
PATIENCE = 600.0
"""Seconds after which a training that nobody disturbs counts as hung."""
SMALL_DISK = 160
"""Kilobytes of the disk that fills up; the prepared clips need more."""
NEAR = 1e-9
"""Largest difference of a weight between one process and two, in double precision."""
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised"},
    "supervised_double": {"name": "supervised"},  # in double precision, where the order of sums decides little
    "mcc": {"name": "mcc", "decoder_width": 8, "playback": {"frames": 8}, "queue": {"size": 16, "momentum": 0.9}},
}


@dataclass
class Bench:
    """What is trained, and what happened.

    Attributes:
        folder: of everything.
        rng: when to kill.
        wholes: by method the weights of a training that nobody disturbed.
        kills: by condition. prepared: by condition the clips that each finished life prepared.
    """

    folder: Path
    rng: random.Random
    wholes: dict[str, dict[str, Any]] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    prepared: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def start(
        self, out: Path, method: str, cache: str, environment: dict[str, str] | None = None, **patched: Any
    ) -> int:
        """Fork a training; the process id."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.setsid()
            os.environ.update(environment or {})
            torch.set_num_threads(1)
            warnings.simplefilter("ignore")
            for name, value in patched.items():
                setattr(clip_store if name == "SPARED" else prepared, name, value)
            counted = count_prepared()
            Evaluation.finish = lambda *_: None  # type: ignore[method-assign]  # figures and plots are no matter here
            own = {"epochs": 2, "cache": cache, "save_every": 0.0}
            own["precision"] = "64-true" if method.endswith("double") else "32-true"
            tables = settings.merge({**motion_files.TABLES, "method": {}}, {"run": own, "method": METHODS[method]})
            tables["data"] = {"train": [str(self.folder / "motions.npz")]}
            train(config.validate(tables, "benchmark"), out, device="cpu")
            (out / "prepared.json").write_text(json.dumps(counted))
            code = 0
        except BaseException as error:
            (self.folder / "fault.txt").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def finish(self, condition: str, children: list[tuple[int, Path]]) -> None:
        """Wait for trainings to end; what they say counts."""
        for child, out in children:
            begun = time.monotonic()
            while (state := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < begun + PATIENCE:
                time.sleep(0.05)
            if state == (0, 0):
                os.killpg(child, signal.SIGKILL)
                self.faults.append(f"{condition}: hung")
            elif state[1]:
                fault = self.folder / "fault.txt"
                self.faults.append(f"{condition}: {fault.read_text() if fault.exists() else 'a training died'}")
            else:
                counts = json.loads((out / "prepared.json").read_text())
                self.prepared.setdefault(condition, []).append(len(counts))

    def compare(self, condition: str, out: Path, method: str, near: float = 0.0) -> None:
        """The weights of a finished training and those of the whole one."""
        if not (out / "model.safetensors").exists():
            return
        found, whole = load_file(out / "model.safetensors"), self.wholes[method]
        if found.keys() != whole.keys():
            self.faults.append(f"{condition}: other tensors")
        elif near:
            worst = max(float(np.abs(found[name] - whole[name]).max(initial=0.0)) for name in whole)
            if worst > near:
                self.faults.append(f"{condition}: weights differ by {worst:.2g}")
        elif differ := [name for name in whole if found[name].tobytes() != whole[name].tobytes()]:
            self.faults.append(f"{condition}: {len(differ)} of {len(whole)} tensors differ, such as {differ[0]}")

    def torment(
        self,
        condition: str,
        kills: int,
        cache: str,
        method: str = "mcc",
        together: int = 1,
        between: Callable[[], None] = lambda: None,
        during: Callable[[], None] = lambda: None,
        **patched: Any,
    ) -> None:
        """Kill so often, with something done between and during lives; then the end must be the whole one's."""
        outs = [self.folder / condition / str(number) for number in range(together)]
        for _ in range(kills):
            before = [lines(out) for out in outs]
            children = [(self.start(out, method, cache, **patched), out) for out in outs]
            steps, begun = self.rng.randint(1, 3), time.monotonic()
            while time.monotonic() < begun + PATIENCE and not all(
                lines(out) >= had + steps or not Path(f"/proc/{child}").exists()
                for (child, out), had in zip(children, before)
            ):
                time.sleep(0.01)
            during()
            time.sleep(self.rng.uniform(0, 0.1))
            for child, _ in children:
                os.killpg(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)[1]
                self.kills[condition] = self.kills.get(condition, 0) + (ended == signal.SIGKILL)
            between()
        self.finish(condition, [(self.start(out, method, cache, **patched), out) for out in outs])
        for out in outs:
            self.compare(condition, out, method)


def warm() -> None:
    """Compile and import here, once for all trainings, what each would; without polars, whose threads end at a fork."""
    data = Motions(2, 0)
    clip = data.clips[0]
    prepare, view = Preprocess(data.skeleton, people=1), View(16, "weak", data.skeleton)
    view(prepare.prepare(clip).joints, np.random.default_rng(0))
    fabric_of(device="cpu")


def count_prepared() -> list[int]:
    """A list that grows by the positions of clips as they are prepared in this process."""
    counted: list[int] = []
    plain = prepared.PreparedDataset._prepared

    def watched(self: Any, clip: Any) -> Any:
        counted.append(1)
        return plain(self, clip)

    prepared.PreparedDataset._prepared = watched  # type: ignore[method-assign]
    return counted


def lines(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def tear(folder: Path, rng: random.Random) -> None:
    """Cut off the ends of half of the files of a cache, and turn a byte of the others."""
    for file in sorted(folder.rglob("*.*")):
        size = file.stat().st_size
        if file.suffix not in (".data", ".index") or not size:
            continue
        if rng.random() < 0.5:
            os.truncate(file, int(size * rng.uniform(0.2, 1)))
        else:
            with file.open("r+b") as opened:
                opened.seek(rng.randrange(size))
                byte = opened.read(1)
                opened.seek(-1, os.SEEK_CUR)
                opened.write(bytes([byte[0] ^ 0x55]))


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own that is soon full, where this process may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def two_processes(bench: Bench, cache: str) -> None:
    """One network trained by two processes that share the cache, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out, method = bench.folder / "two_processes", "supervised_double"
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none", "NODE_RANK": "0"}
    ranks = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    bench.finish("two_processes", [(bench.start(out, method, cache, environment=own), out) for own in ranks])
    bench.compare("two_processes", out, method, NEAR)


def run(quick: bool) -> dict[str, Any]:
    """Kills in every condition of the cache, and two processes (--quick: one kill each)."""
    rng, begun, kills = random.Random(SEED), time.monotonic(), 1 if quick else 3
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        motion_files.write(folder / "motions.npz")
        warm()
        bench, cache = Bench(folder, rng), folder / "cache"
        for method in METHODS:
            out = folder / f"whole_{method}"
            bench.finish("off", [(bench.start(out, method, "off"), out)])
            bench.wholes[method] = load_file(out / "model.safetensors")
        bench.torment("off", kills, "off")
        bench.torment("cold", kills, str(cache), between=lambda: shutil.rmtree(cache, ignore_errors=True))
        bench.torment("warm", kills, str(cache))
        bench.torment("warm_supervised", kills, str(cache), "supervised")
        bench.torment("deleted", kills, str(cache), during=lambda: shutil.rmtree(cache, ignore_errors=True))
        bench.torment("torn", kills, str(cache), between=lambda: tear(cache, rng))
        bench.torment("other_version", 1, str(folder / "old"), version=lambda: "of another version")
        bench.torment("after_other_version", kills, str(folder / "old"))
        bench.torment("shared", kills, str(folder / "shared"), together=2)
        bench.torment("memory", kills, "memory")
        with small_disk(folder / "disk") as mounted:
            if mounted:
                bench.torment("full_disk", kills, str(folder / "disk" / "cache"), SPARED=0.0)
        two_processes(bench, str(folder / "both"))
    counted = sum(bench.kills.values())
    return {
        "name": "training_kills",
        "value": counted,
        "unit": "kills after which the weights have the same bytes" if not bench.faults else "kills; see faults",
        "goal": "every condition of the cache; one process = two",
        "holds": not bench.faults and not quick and mounted,
        "baselines": {
            "kills": bench.kills,
            "clips prepared by the last life": bench.prepared,
            "faults": bench.faults,
            "full disk": "a tmpfs" if mounted else "not tried: no right to mount one",
            "largest difference allowed of two processes": NEAR,
        },
        "n": len(bench.prepared),
        "spread": {"seed": SEED, "seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(cpu_seconds(), 1)},
        "data": "72 made-up motions, ST-GCN of one block; MCC with its queue and momentum encoder, and with labels",
    }


if __name__ == "__main__":
    main(run)
