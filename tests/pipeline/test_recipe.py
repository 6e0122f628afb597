"""Recipes: strict, with a place and a suggestion; overlays and overrides; the lock is a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from dataengine import builder
from dataengine.core.errors import ComponentError, DataEngineError, RecipeError
from dataengine.passes.base import passes_of
from dataengine.pipeline import recipe

MINIMAL = '[recipe]\nname = "mini"\nversion = 1\n[sources]\nuse = ["folder"]\n[pose]\nexperts = ["mediapipe"]\n'


def write(folder: Path, extra: str = "", name: str = "mini.toml") -> str:
    path = folder / name
    path.write_text(MINIMAL + extra)
    return str(path)


@pytest.mark.parametrize("name", ["posecap", "posetics"])
@pytest.mark.parametrize("overlay", [None, "core"])
def test_the_committed_recipes_are_valid(name: str, overlay: str | None) -> None:
    loaded = recipe.load(name, overlay)
    assert loaded.recipe.name == name and loaded.recipe.description


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("[pots]\n", ["unknown table [pots]", "did you mean 'pose'"]),
        ('fuson = "ssta"\n', ["[pose] unknown key 'fuson'", "did you mean 'fusion'"]),
        ('fusion = "sst"\n', ["unknown name 'sst' in fusion", "did you mean 'ssta'"]),
        ("max_people = 0\n", ["[pose] max_people = 0", "greater than or equal to 1"]),
        ('max_people = "two"\n', ["[pose] max_people = 'two'", "valid integer"]),
        ("[filters.motoin]\nmin = 1\n", ["unknown name 'motoin'", "did you mean 'motion'"]),
        ("[filters.motion]\nmni = 1\n", ["[filters.motion] has no option 'mni'", "did you mean 'min'"]),
        ('[filters.motion]\nmin = "much"\n', ["[filters.motion] min = 'much'"]),
        ('[curate]\nfilters = ["motion", "motion"]\n', ["names something twice"]),
        ('skeleton = "coco18"\n', ["unknown skeleton 'coco18'"]),
        ("[plan\n", ["is not valid TOML"]),
    ],
)
def test_mistakes_say_where_and_what(tmp_path: Path, extra: str, words: list[str]) -> None:
    path = write(tmp_path, extra)
    with pytest.raises(DataEngineError) as caught:
        recipe.load(path)
    message = str(caught.value)
    assert "\n" not in message and path in message and all(word in message for word in words), message


def test_experts_that_need_boxes_need_a_detector(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises((RecipeError, ComponentError), match="look inside person boxes"):
        recipe.load(path, overrides=['pose.experts=["synthetic_topdown"]'])


def test_overrides_are_typed_and_applied_last(tmp_path: Path) -> None:
    write(tmp_path, name="mini.small.toml")
    (tmp_path / "mini.small.toml").write_text("[pose]\nmax_people = 1\n[filters.motion]\nmin = 0.5\n")
    loaded = recipe.load(write(tmp_path), "small", ["filters.motion.min=0.25", "pose.max_fps=10.0"])
    assert (
        loaded.pose.max_people == 1
        and loaded.pose.max_fps == 10.0
        and loaded.component("filters", "motion").min == 0.25
    )


@pytest.mark.parametrize(
    "text", ["max_people", "pose.max_people=", "pose.max_people=two", ".max_people=1", "pose.max_people.x=1"]
)
def test_a_wrong_override_is_explained(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "max_people = 2\n")
    with pytest.raises(RecipeError, match="--set"):
        recipe.load(path, overrides=[text])


def test_an_unknown_recipe_or_overlay_suggests() -> None:
    with pytest.raises(RecipeError, match="did you mean 'posecap'"):
        recipe.load("posecpa")
    with pytest.raises(RecipeError, match="did you mean 'core'"):
        recipe.load("posecap", "cor")


def test_sample_alone_implies_core() -> None:
    assert builder.resolve("posecap", "sample").overlay == "core"
    assert builder.resolve("posecap", "kinetics700=x").overlay is None


def test_a_recipe_survives_its_own_toml(tmp_path: Path) -> None:
    loaded = recipe.load("posecap", "core", ["filters.motion.min=0.1"], {"folder": str(tmp_path)})
    path = tmp_path / "recipe.lock.toml"
    path.write_text(tomli_w.dumps({**loaded.to_toml(), "lock": {"versions": {"numpy": "2"}}}))
    again = recipe.load(str(path))
    assert again.model_dump(exclude={"overlay"}) == loaded.model_dump(exclude={"overlay"})


def test_the_fingerprint_ignores_the_order_of_keys() -> None:
    assert (
        recipe.fingerprint({"a": 1, "b": [2, None]})
        == recipe.fingerprint({"b": [2, None], "a": 1})
        != recipe.fingerprint({"a": 1, "b": [2, 0]})
    )


def test_an_empty_name_switches_off_what_a_recipe_switched_on() -> None:
    given = ['refine.student="movenet"', 'lift.use="temporal"', 'refine.student=""', 'lift.use=""']
    off = builder.resolve("posecap", "sample", "core", given)
    assert off.refine.student is None and off.lifter is None
    assert not {"refine", "repose", "lift"} & {p.name for p in passes_of(off)}
