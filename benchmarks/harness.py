"""What every benchmark shares: arguments, hardware and versions, the JSON printed last, and `--save`."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataengine.core import devices

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "numba",
    "av",
    "onnxruntime",
    "opencv-python-headless",
    "pyarrow",
    "polars",
    "webdataset",
    "dask",
    "torch",
)


def cpu_seconds() -> float:
    """CPU time of this process and its ended children, in seconds."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def hardware() -> str:
    """A short name of the machine's processor and number of cores, and of its GPUs."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            model,
        )
    gpus = devices.gpus()
    return f"{os.cpu_count()} x {model}" + (f", {len(gpus)} x {gpus[0]}" if gpus else "")


def commit() -> str:
    """The commit that is checked out, with '+' when files differ from it; 'unknown' outside git."""
    try:
        here = Path(__file__).parent
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        return head + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(run: Callable[[bool], dict[str, Any]]) -> None:
    """Parse the command line, call `run(quick)`, print its result as JSON and save it when asked."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller run, for a first look")
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results")
    arguments = parser.parse_args()
    result = run(arguments.quick) | {
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
        "quick": arguments.quick,
    }
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        slug = "".join(c if c.isalnum() else "-" for c in result["hardware"]).strip("-")
        while "--" in slug:
            slug = slug.replace("--", "-")
        path = RESULTS / f"{result['name']}_{slug}_{datetime.date.today().isoformat()}.json"
        path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(json.dumps(result))
