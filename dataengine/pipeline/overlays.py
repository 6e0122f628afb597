"""Which overlay of a recipe fits a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataengine.core import devices, extras
from dataengine.pipeline import recipe as recipes

CPU, CPU_FAST = "cpu", "cpu-fast"
"""Overlays with real networks that a processor runs fast enough, without torch."""
NONE = "no overlay"
FOR_GPU = ("torch", "vitpose", "yolo", "mmpose", "clip")
"""Extras of networks that are too slow for a processor."""


def overlays_of(name: str) -> list[str]:
    """Names of the overlays of a recipe that `build` finds by name."""
    path = recipes.available().get(name)
    return [] if path is None else sorted(p.stem.partition(".")[2] for p in path.parent.glob(f"{path.stem}.*.toml"))


def hint(recipe: recipes.Recipe, components: Mapping[str, Any]) -> str:
    """What to do where a recipe is for a GPU and this machine has none; '' where there is nothing to say.

    Args:
        recipe: the recipe as it is built, with its overlay.
        components: all components that it uses, by name.
    """
    slow = [name for name, component in components.items() if component.extra in FOR_GPU]
    if recipe.overlay is not None or not slow or devices.gpus() or CPU not in overlays_of(recipe.recipe.name):
        return ""
    return f"this machine has no NVIDIA GPU: --overlay {CPU} finds real people here without {', '.join(slow)}"


def fitting() -> tuple[str, str]:
    """What fits this machine, and why: ('--overlay cpu', 'there is no NVIDIA GPU ...')."""
    if not devices.gpus():
        return f"--overlay {CPU}", f"no NVIDIA GPU; --overlay {CPU_FAST} is four times as fast and finds fewer people"
    if not devices.able():
        return f"--overlay {CPU}", "neither torch nor onnxruntime can use the GPU yet"
    absent = [extra for extra in ("vitpose", "clip") if not extras.installed(extra)]
    if absent:
        return f"--overlay {CPU}", f"there is a GPU, but not the extras {', '.join(absent)}"
    return NONE, "there are a GPU and the extras vitpose and clip"
