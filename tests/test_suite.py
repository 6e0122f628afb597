"""The suite itself: nothing is skipped by mistake."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
OPTIONAL = {
    "asyncssh", "dask_jobqueue", "datasets", "decord", "duckdb", "matplotlib", "mkdocs", "mmengine", "onnx",
    "onnxruntime", "open_clip", "pycocotools", "safetensors", "sklearn", "tensorboard", "threadpoolctl", "tokenizers",
    "torch", "torchvision", "transformers", "webdataset", "yt_dlp",
}  # fmt: skip
"""Packages of extras that tests may do without, by the name they are imported by."""


def test_only_packages_of_extras_are_skipped_for() -> None:
    """A helper of the tests that moved would else skip a whole file without a word."""
    asked = {
        (path.name, name.partition(".")[0])
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r'importorskip\(\s*"([\w.]+)"', path.read_text(encoding="utf-8"))
    }
    assert {(file, name) for file, name in asked if name not in OPTIONAL} == set()
