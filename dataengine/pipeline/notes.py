"""Options of a recipe that have no effect: a threshold of a filter that is not in use, and the like.

A recipe may carry options of components that an overlay or `--set` then leaves out, so they are no error: `build` says
them in one line each. Nothing is said of an option of a file that had its effect until an overlay, or an argument of
the command line, left its component out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from dataengine.core.errors import DataEngineError
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.recipe import Layer, Recipe

Options: TypeAlias = dict[tuple[str, ...], str]
"""Keys of an option -> why the option has no effect."""


def notes(layers: Sequence[Layer]) -> list[str]:
    """One line per option that has no effect, in the order of the layers.

    Args:
        layers: the tables that make a recipe, lowest first (`dataengine.pipeline.recipe.layers`).
    """
    found: list[str] = []
    final = dict(without_effect(recipes.merged(layers)))
    for number, layer in enumerate(layers, 1):
        here = final if layer.is_argument else _without_effect_below(layers[:number], final)
        for path, reason in final.items():
            if path in here and _is_set(layer.tables, path):
                found.append(f"{layer.label}: {_shown(path)} has no effect: {reason}")
    return found


def _without_effect_below(layers: Sequence[Layer], final: Options) -> Options:
    """What has no effect in a recipe of the lower layers; `final` where they make no whole recipe."""
    try:
        return dict(without_effect(recipes.merged(layers)))
    except DataEngineError:
        return final


def _is_set(tables: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    table: Any = tables
    for key in path:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _shown(path: tuple[str, ...]) -> str:
    """('filters', 'jitter', 'max') -> '[filters.jitter] max', ('pose', 'detector') -> '[pose] detector'."""
    if path[0] not in recipes.COMPONENT_TABLES:
        return f"[{path[0]}] {'.'.join(path[1:])}"
    return f"[{'.'.join(path[:2])}]" + (f" {path[2]}" if len(path) > 2 else "")


def without_effect(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys, reason) of every option that changes nothing in this recipe, set or not."""
    pose, pack = recipe.pose, recipe.pack
    for kind, (used, key) in _in_use(recipe).items():
        for name, options in recipe.options.get(kind, {}).items():
            if name not in used:
                reason = f"{key} does not use {name}"
                if kind == "filters":  # other options have an effect: every filter measures every clip
                    yield from (((kind, name, bound), reason) for bound in ("min", "max") if bound in options)
                else:
                    yield (kind, name), reason
    for name in pose.expert_weights:
        if name not in pose.experts:
            yield ("pose", "expert_weights", name), f"pose.experts does not use {name}"
    if len(pose.experts) == 1:
        yield ("pose", "expert_weights", pose.experts[0]), "it is the only expert"
    if recipe.detector is None:
        yield ("pose", "detector"), "no expert looks inside person boxes"
        yield ("pose", "detect_every"), "no expert looks inside person boxes"
    if not pack.keep_video:
        for option in ("crf", "blur_faces", "face_detector", "allow_unknown_licence"):
            yield ("pack", option), "pack.keep_video is off"
    elif not pack.blur_faces:
        yield ("pack", "face_detector"), "pack.blur_faces is off"
    if not recipe.plan.splits:
        yield ("plan", "split_by"), "plan.splits is empty"
    if not recipe.curate.annotations and not recipe.curate.spans:
        yield ("curate", "min_probability"), "curate.annotations and curate.spans are empty"
    if recipe.curate.dedup in ("exact", "off") and not recipe.plan.leak_guard:
        yield (
            ("curate", "near_duplicate_threshold"),
            f'curate.dedup is "{recipe.curate.dedup}", plan.leak_guard is empty',
        )


def _in_use(recipe: Recipe) -> dict[str, tuple[Sequence[str], str]]:
    """kind -> names of the components in use, and the key that names them."""
    pose = recipe.pose
    return {
        "sources": (recipe.use, "sources.use"),
        "fetchers": (recipe.fetch.fetchers, "fetch.fetchers"),
        "decoders": ((pose.decoder,), "pose.decoder"),
        "detectors": ((pose.detector,) if pose.detector else (), "pose.detector"),
        "face_detectors": ((recipe.face_detector,) if recipe.face_detector else (), "pack.face_detector"),
        "experts": (pose.experts, "pose.experts"),
        "trackers": ((pose.tracker,), "pose.tracker"),
        "fusion": ((pose.fusion,), "pose.fusion"),
        "lifters": ((recipe.lifter,) if recipe.lifter else (), "lift.use"),
        "filters": (recipe.curate.filters, "curate.filters"),
        "features": (recipe.embed.features, "embed.features"),
        "students": ((recipe.refine.student,) if recipe.refine.student else (), "refine.student"),
    }
