"""What a recipe has to say for its components to work together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dataengine.core import registry
from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.skeletons import SKELETONS, skeleton

if TYPE_CHECKING:
    from dataengine.pipeline.recipe import Recipe
    from dataengine.pipeline.recipe_tables import PoseTable


def check_components(recipe: Recipe) -> None:
    """Refuse components that are unknown, wrongly set, or that do not go together.

    Raises:
        ComponentError: what is wrong, and what is allowed.
    """
    pose, chosen = recipe.pose, [("sources", name) for name in recipe.use]
    chosen += [("decoders", pose.decoder), ("trackers", pose.tracker), ("fusion", pose.fusion)]
    chosen += [("fetchers", name) for name in recipe.fetch.fetchers]
    chosen += [("detectors", pose.detector)] if pose.detector else []
    chosen += [("face_detectors", recipe.pack.face_detector)] if recipe.pack.face_detector else []
    chosen += [("experts", name) for name in pose.experts] + [("filters", name) for name in recipe.curate.filters]
    chosen += [("features", name) for name in recipe.embed.features]
    chosen += [("students", recipe.refine.student)] if recipe.refine.student is not None else []
    chosen += [("lifters", recipe.lifter)] if recipe.lifter else []
    for kind, name in chosen:
        if name not in registry.names(kind):
            raise ComponentError(f"unknown name {name!r} in {kind}{suggestion(name, registry.names(kind))}")
    for kind, names in recipe.options.items():
        for name in names:
            recipe.component(kind, name)
    skeleton(pose.skeleton)
    _check_poses(recipe)
    _check_lift(recipe)
    boxed = [name for name in pose.experts if recipe.component("experts", name).needs_boxes]
    if boxed and pose.detector is None:
        raise ComponentError(
            f"[pose] experts {boxed} look inside person boxes: "
            f"name a detector{suggestion('', registry.names('detectors'))}"
        )
    _check_expert_every(pose, boxed)
    for name, weight in pose.expert_weights.items():
        if name not in registry.names("experts") or not weight > 0:
            raise ComponentError(
                f"[pose] expert_weights.{name} = {weight}: "
                f"give a weight above 0 to an expert{suggestion(name, registry.names('experts'))}"
            )
    for name, seconds in pose.isolated.items():
        if name not in pose.experts or not seconds > 0:
            raise ComponentError(
                f"[pose] isolated.{name} = {seconds}: "
                f"give seconds above 0 to one of the recipe's experts{suggestion(name, pose.experts)}"
            )
        recipe.expert(name)
    embedded = recipe.embed.features
    if recipe.embed.agreement not in (None, *embedded):
        raise ComponentError(
            f"[embed] agreement = {recipe.embed.agreement!r}{suggestion(str(recipe.embed.agreement), embedded)}"
        )
    if not embedded and (recipe.embed.min_cosine is not None or recipe.embed.min_margin is not None):
        raise ComponentError(
            f"[embed] min_cosine and min_margin need features{suggestion('', registry.names('features'))}"
        )
    several = (
        ("experts", pose.experts),
        ("filters", recipe.curate.filters),
        ("features", embedded),
        ("use", recipe.use),
    )
    for field, values in several:
        if len(set(values)) < len(values):
            raise ComponentError(f"{field} names something twice: {values}")


def _check_expert_every(pose: PoseTable, boxed: Sequence[str]) -> None:
    """Refuse looks of experts that are not used, and a first expert that does not look at every frame."""
    leader = boxed[:1] or pose.experts[:1]
    for name, every in pose.expert_every.items():
        if name not in pose.experts or not 1 <= every <= 100:
            raise ComponentError(
                f"[pose] expert_every.{name} = {every}: "
                f"give frames, 1 to 100, to one of the recipe's experts{suggestion(name, pose.experts)}"
            )
        if name in leader and every > 1:
            raise ComponentError(
                f"[pose] expert_every.{name} = {every}: {name} comes first and looks at every frame; "
                "name another expert first, or see fewer frames with [pose] max_fps"
            )


def _check_poses(recipe: Recipe) -> None:
    """Refuse a recipe that asks for pictures where there are only poses, or for poses where there are pictures."""
    given = [name for name in recipe.use if registry.component_class("sources", name).brings_poses]
    videos = [name for name in recipe.use if name not in given]
    if not given and not recipe.pose.experts:
        raise ComponentError(f"[pose] experts is empty{suggestion('', registry.names('experts'))}")
    if not given:
        return
    if videos:
        raise ComponentError(
            f"[sources] {', '.join(given)} brings saved poses and {', '.join(videos)} videos: build a dataset of each; "
            "dataengine-train takes several with --data"
        )
    wanted: dict[str, Any] = {"[pose] experts": recipe.pose.experts, "[embed] features": recipe.embed.features}
    wanted["[pack] keep_video"] = recipe.pack.keep_video
    wanted["[refine] student"] = recipe.refine.student
    for key, value in wanted.items():
        if value:
            raise ComponentError(f"{key} = {value} needs videos, and {given[0]} brings saved poses: leave it out")


def _check_lift(recipe: Recipe) -> None:
    """Refuse a layout that the lifter does not take, and a filter of lifted poses where nothing is lifted."""
    if recipe.lifter is None:
        for name in recipe.curate.filters:
            if registry.component_class("filters", name).needs_lift:
                raise ComponentError(
                    f"[curate] filters: {name!r} measures poses in space, and the recipe makes none: name a lifter in "
                    f"[lift] use{suggestion('', registry.names('lifters'))}, or leave the filter out"
                )
        return
    lifter, layout = recipe.component("lifters", recipe.lifter), recipe.pose.skeleton
    if not lifter.serves(layout):
        served = [name for name in SKELETONS if lifter.serves(name)]
        raise ComponentError(
            f"[lift] use = {recipe.lifter!r} does not take poses of the layout {layout!r} ([pose] skeleton); "
            f"it takes {', '.join(served)}"
        )
