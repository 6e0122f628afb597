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
from dataengine.pipeline.fingerprints import Parts, changes, reasons
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


def parts(path: Path) -> dict[str, Parts]:
    """What the fingerprints of a lock were made of, by pass; nothing where there is no lock, or one of a former
    version."""
    if not path.is_file():
        return {}
    lock = tomllib.loads(path.read_text(encoding="utf-8")).get("lock", {})
    return {name: Parts.from_toml(table) for name, table in lock.get("passes", {}).items()}


def write(
    out: Path, recipe: Recipe, fingerprints: Mapping[str, str], used: Mapping[str, Any], parts: Mapping[str, Parts]
) -> None:
    """Write the lock of a build: recipe, versions of libraries, hashes of weights, fingerprints of passes and what
    they were made of."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    table: dict[str, Any] = {"versions": versions, "weights": _hashes(used), "fingerprints": dict(fingerprints)}
    table["passes"] = {name: one.to_toml() for name, one in parts.items()}
    if recipe.overlay:
        table["overlay"] = recipe.overlay
    write_durably(out / NAME, tomli_w.dumps({**recipe.to_toml(), "lock": table}).encode())


def why_anew(recipe: str, before: Mapping[str, Parts], now: Mapping[str, Parts]) -> list[str]:
    """One line for each pass whose finished results count no more; or, for a lock that was given as the recipe of a new
    build, for each pass that the build makes in another way.

    Args:
        recipe: name or path of the recipe, as given.
        before: the parts that the lock of the build holds. now: those of the build that begins.
    """
    if before:
        return [f"{name}: made anew: {why}" for name, why in reasons(before, now).items()]
    given = parts(Path(recipe)) if recipe.endswith(".lock.toml") else {}
    told = {name: changes(given[name].environment, one.environment) for name, one in now.items() if name in given}
    return [f"{name}: not as {recipe} was built: {'; '.join(lines)}" for name, lines in told.items() if lines]
