"""Which overlay fits a machine, and where people are told of it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import dataengine
from dataengine import builder
from dataengine.core import devices, extras
from dataengine.core.errors import MissingExtraError, RecipeError
from dataengine.inspect import doctor
from dataengine.io import weights
from dataengine.pipeline import overlays
from dataengine.pipeline import plan as plans
from dataengine.pipeline.fingerprints import components_of


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", tuple)
    monkeypatch.setattr(extras, "installed", lambda extra: False)


def test_the_plain_recipe_without_a_gpu_names_the_overlay(no_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(MissingExtraError) as caught:
        dataengine.build("posecap", sources={"folder": str(tmp_path / "videos")}, out=tmp_path / "out")
    said = str(caught.value)
    assert "--extra vitpose" in said and "no NVIDIA GPU: --overlay cpu finds real people" in said and "\n" not in said
    assert str(copy.copy(caught.value)) == said
    assert not (tmp_path / "out").exists()


def test_with_a_gpu_only_the_extras_are_named(no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ("a GPU",))
    with pytest.raises(MissingExtraError) as caught:
        dataengine.build("posecap", sources={"folder": str(tmp_path)}, out=tmp_path / "out")
    assert "overlay" not in str(caught.value)


def test_an_overlay_is_not_answered_with_another(no_gpu: None) -> None:
    resolved = builder.resolve("posecap", {"folder": None}, overlay="core", overrides=['embed.features=["viclip"]'])
    with pytest.raises(MissingExtraError) as caught:
        builder.check(resolved)
    assert "overlay" not in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "able", "installed", "wanted"),
    [
        ((), False, True, "--overlay cpu"),
        (("a GPU",), False, True, "--overlay cpu"),
        (("a GPU",), True, False, "--overlay cpu"),
        (("a GPU",), True, True, "no overlay"),
    ],
)
def test_what_fits(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], able: bool, installed: bool, wanted: str
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    monkeypatch.setattr(devices, "able", lambda: able)
    monkeypatch.setattr(extras, "installed", lambda extra: installed)
    assert overlays.fitting()[0] == wanted


def test_a_list_of_published_videos_is_not_asked_for_with_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"none")
    roots = {"folder": str(tmp_path)}
    own = builder.resolve("posecap", roots)
    assert own.plan.leak_guard == ["kinetics400_val"]
    assert plans.leak_ids(own, roots, None) == frozenset()
    (tmp_path / "kinetics400_val.csv").write_text("youtube_id\nabc\n")
    assert plans.leak_ids(own, roots, None) == frozenset({"abc"})
    (tmp_path / "kinetics400_val.csv").unlink()
    published = builder.resolve("posecap", {"folder": str(tmp_path), "kinetics700": str(tmp_path)})
    with pytest.raises(RecipeError, match="kinetics400_val"):
        plans.leak_ids(published, roots, None)
    with pytest.raises(RecipeError, match="kinetics999"):
        plans.leak_ids(builder.resolve("posecap", roots, overrides=['plan.leak_guard=["kinetics999"]']), roots, None)
    said: list[str] = []
    assert plans.leak_ids(published, roots, None, said.append) == frozenset(), "an estimate goes on without it"
    assert "kinetics400_val" in said[0]
    with pytest.raises(RecipeError, match=r"mine\.csv"):
        plans.leak_ids(builder.resolve("posecap", roots, overrides=['plan.leak_guard=["mine.csv"]']), roots, None)


@pytest.mark.parametrize("recipe", ["posecap", "posetics"])
@pytest.mark.parametrize("overlay", ["cpu", "cpu-fast"])
def test_the_overlays_for_processors_need_no_extra(recipe: str, overlay: str) -> None:
    components = components_of(builder.resolve(recipe, {"folder": None}, overlay=overlay))
    assert {c.extra for c in components.values()} == {None}
    needed = {name for c in components.values() for name in c.needs()}
    assert needed and all(weights.manifest()[name].licence == "Apache-2.0" for name in needed)
    assert sum(weights.manifest()[name].bytes or 0 for name in needed) < 45e6


def test_doctor_says_which_overlay_fits(no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    said = doctor._recipes()["detail"]
    assert "--overlay cpu" in said and "--overlay cpu-fast" in said and "(35 MB) come" in said
