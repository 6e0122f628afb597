"""recipe.lock.toml: the resolved recipe with everything that its results depend on; itself a recipe of the same
dataset."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from dataengine.io import weights
from dataengine.io.storage import write_durably
from dataengine.pipeline.recipe import Recipe

NAME = "recipe.lock.toml"
PACKAGES = (
    *("dataengine", "numpy", "av", "opencv-python-headless", "onnxruntime", "numba", "scipy", "pyarrow"),
    *("torch", "torchvision", "transformers", "open-clip-torch"),
)
"""Libraries whose version can change a dataset; the lock records those that are here."""


def _hashes(used: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Weight files of each component with their hashes."""
    return {name: found for name, component in used.items() if (found := component.weights())}


def check(out: Path, used: Mapping[str, Any]) -> None:
    """Refuse weights that are not those the build in `out` began with.

    Args:
        used: the components of its recipe by name.

    Raises:
        WeightsError: a file has another hash now.
    """
    path = out / NAME
    if path.is_file():
        weights.check_pins(
            tomllib.loads(path.read_text(encoding="utf-8")).get("lock", {}).get("weights", {}), _hashes(used)
        )


def write(out: Path, recipe: Recipe, fingerprints: Mapping[str, str], used: Mapping[str, Any]) -> None:
    """Write the lock of a build: recipe, versions of libraries, hashes of weights, fingerprints of passes."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    table: dict[str, Any] = {"versions": versions, "weights": _hashes(used), "fingerprints": dict(fingerprints)}
    if recipe.overlay:
        table["overlay"] = recipe.overlay
    write_durably(out / NAME, tomli_w.dumps({**recipe.to_toml(), "lock": table}).encode())
