"""graphs.npz and ssta_synthetic.npz: what published programs compute of small inputs.

    python -m tests.golden.make_published --upstream CHECKOUT [--write]

CHECKOUT is a clone of one of the repositories that graphs.json and ssta_synthetic.json name, at their commits. Its
program is imported from there and run; nothing of it is copied. Arrays of other repositories stay as they are.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.stored import Arrays, keep, read


def load(path: Path) -> Any:
    """A single file as a module, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graphs(upstream: Path) -> Arrays:
    """The adjacency stacks of the program found there, by their names in the golden."""
    made: Arrays = {}
    for name in read("graphs"):
        program, layout, *rest = name.split("__")
        if program == "stgcn" and (upstream / "net/utils/graph.py").is_file():
            graph = load(upstream / "net/utils/graph.py").Graph
            made[name] = graph(layout, rest[0], max_hop=int(rest[1].partition("=")[2])).A
        elif program == "2sagcn" and (upstream / "graph/ntu_rgb_d.py").is_file():
            sys.path[:0] = [str(upstream)]
            file = {"ntu": "ntu_rgb_d", "kinetics": "kinetics"}[layout]
            made[name] = importlib.import_module(f"graph.{file}").Graph("spatial").A
        elif program == "pyskl" and (upstream / "pyskl/utils/graph.py").is_file():
            made[name] = load(upstream / "pyskl/utils/graph.py").Graph(layout, rest[0]).A
    return made


def ssta(upstream: Path) -> Arrays:
    """SSTA of the made-up poses. `run` of the program compares an array with a string; `SSTA` is called instead."""
    program, a = load(upstream / "tools/ssta.py"), read("ssta_synthetic")
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for name in ("pose1", "pose2", "pose3", "truth"):
            files[name] = f"{scratch}/{name}.npz"
            np.savez(files[name], kpts=a[name])
        told = types.SimpleNamespace(gt=files.pop("truth"), vis_conf=False, outname="", **files)
        poses, _, confidence = program.PRS(told).SSTA(gamma=0.06)
        _, _, raw = program.PRS(told).SSTA()
    return {
        "poses": poses.astype(np.float32), "poses_float64": poses, "confidence": confidence, "confidence_raw": raw
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", type=Path, required=True, help="a checkout of the published program")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    made = {"graphs": graphs(told.upstream)}
    if (told.upstream / "tools/ssta.py").is_file():
        made["ssta_synthetic"] = ssta(told.upstream)
    return 0 if all([keep(name, arrays, told.write) for name, arrays in made.items() if arrays]) else 1


if __name__ == "__main__":
    sys.exit(main())
