"""Runs of single methods in processes of their own: killed at random, or shared by two."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HEAD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from {module} import run
"""
PROCESSES = (
    HEAD
    + """
from lightning_fabric import Fabric

def main(fabric):
    for name in {names!r}:
        run(name, Path({folder!r}) / (name + "2"), fabric, 2)

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, precision="64-true", strategy="ddp_spawn").launch(main)
"""
)
CHILD = HEAD + "run({name!r}, Path({folder!r}), epochs=6, save=0.0)\n"


def started(code: str) -> subprocess.Popen[str]:
    """A Python process."""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def last(folder: Path) -> dict[str, Any]:
    """The tensors of the last checkpoint of a run."""
    from training.engine import checkpoint

    return checkpoint.read(folder / "last.safetensors")[0]


def two_processes(module: str, names: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Two processes that call `run(name, folder/NAME2, fabric, 2)` of a module for each name."""
    script = folder / "two.py"
    script.write_text(PROCESSES.format(paths=[str(ROOT)], module=module, names=tuple(names), folder=str(folder)))
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)


def killed_and_whole(module: str, name: str, folder: Path, kills: int = 3) -> int:
    """`run(name, folder/whole)` beside `run(name, folder/killed)`, which is killed after some steps; how often."""
    code = {
        part: CHILD.format(paths=[str(ROOT)], module=module, name=name, folder=str(folder / part))
        for part in ("whole", "killed")
    }
    whole, rng, done = started(code["whole"]), random.Random(4), 0
    mark = folder / "killed" / "log.jsonl"
    for _ in range(kills):
        process = started(code["killed"])
        begun = len(mark.read_text().splitlines()) if mark.exists() else 0
        while process.poll() is None:
            if mark.exists() and len(mark.read_text().splitlines()) >= begun + 2:
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                done += 1
                process.wait()
                break
            time.sleep(0.02)
    rest = started(code["killed"])
    for process in (rest, whole):
        _, error = process.communicate(timeout=1500)
        assert process.returncode == 0, error
    return done


def train_double(
    method: Any, transform: Any, data: Any, batch: int, folder: Path, fabric: Any, world: int, epochs: int, save: float,
    optim: Any = None,
) -> None:  # fmt: skip
    """A run of a method in double precision, as one of `world` processes that share a batch."""
    from training.data.loader import DataLoader
    from training.engine.loop import fabric_of, fit
    from training.engine.settings import OptimSettings, TrainSettings

    rank = 0 if fabric is None else fabric.global_rank
    loader = DataLoader(data, transform, batch // world, seed=5, shard=(rank, world))
    settings = TrainSettings(
        epochs=epochs,
        optim=optim or OptimSettings(lr=0.05),
        log_every=1,
        grad_clip=None,
        precision="64-true",
        save_every=save,
    )
    fit(method, loader, settings, folder, fabric or fabric_of("64-true"))


def check_two_processes(module: str, run: Callable[[str, Path], None], names: Sequence[str], folder: Path) -> None:
    """One process of `run(name, folder)` ends with the tensors of two, for each name."""
    import torch

    other = two_processes(module, names, folder)
    for name in names:
        run(name, folder / f"{name}1")
    _, error = other.communicate(timeout=1500)
    assert other.returncode == 0, error
    for name in names:
        one, two = last(folder / f"{name}1"), last(folder / f"{name}2")
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-7, atol=1e-9, msg=f"{name} {key}")


def check_kills(module: str, name: str, folder: Path) -> None:
    """A run that is killed at random ends with the bits of one that is not."""
    import torch

    assert killed_and_whole(module, name, folder)
    one, two = last(folder / "whole"), last(folder / "killed")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
