"""Options without effect are said: where they stand, and why they change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataengine import builder
from dataengine.cli import app
from dataengine.pipeline.notes import notes


def said(*overrides: str, recipe: str = "posecap", overlay: str | None = "core") -> list[str]:
    return notes(builder.layers(recipe, None, overlay, overrides))


@pytest.mark.parametrize("recipe", ["posecap", "posetics"])
@pytest.mark.parametrize("overlay", [None, "core", "mediapipe"])
def test_nothing_is_said_of_the_committed_recipes(recipe: str, overlay: str | None) -> None:
    assert said(recipe=recipe, overlay=overlay) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["filters.num_people.max=1"],
            "[filters.num_people] max has no effect: curate.filters does not use num_people",
        ),
        (["experts.mediapipe.max_people=1"], "[experts.mediapipe] has no effect: pose.experts does not use mediapipe"),
        (["features.viclip.batch=2"], "[features.viclip] has no effect: embed.features does not use viclip"),
        (["detectors.rtdetr.threshold=0.5"], "[detectors.rtdetr] has no effect: pose.detector does not use rtdetr"),
        (["fusion.ssta.max_gap=2"], "[fusion.ssta] has no effect: pose.fusion does not use ssta"),
        (['sources.cap.path="x"'], "[sources.cap] has no effect: sources.use does not use cap"),
        (
            ["pose.expert_weights={vitpose=2.0}"],
            "[pose] expert_weights.vitpose has no effect: pose.experts does not use",
        ),
        (["pack.crf=20"], "[pack] crf has no effect: pack.keep_video is off"),
        (
            ["pack.keep_video=true", 'pack.face_detector="blazeface"'],
            "[pack] face_detector has no effect: pack.blur_faces is off",
        ),
        (["pack.blur_faces=true"], "[pack] blur_faces has no effect: pack.keep_video is off"),
        (['plan.split_by="subject"'], "[plan] split_by has no effect: plan.splits is empty"),
        (["curate.near_duplicate_threshold=0.9"], "[curate] near_duplicate_threshold has no effect: curate.dedup is"),
    ],
)
def test_an_option_without_effect_is_said(overrides: list[str], expected: str) -> None:
    sources = {"sample": None}
    (line,) = notes(builder.layers("posecap", sources, "core", overrides))
    assert line.startswith(f"--set {overrides[-1]}: {expected}") and "\n" not in line


def test_a_detector_without_a_topdown_expert() -> None:
    lines = said('pose.experts=["synthetic_bottomup"]', 'pose.detector="synthetic_detector"', "pose.detect_every=2")
    assert [line.partition(": ")[2] for line in lines] == [
        "[pose] detector has no effect: no expert looks inside person boxes",
        "[pose] detect_every has no effect: no expert looks inside person boxes",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["filters.motion.min=0.1"],
        ["filters.body_visible.joints=6"],
        ['curate.filters=["length"]', "filters.motion.min=0.1", 'curate.filters=["motion"]'],
        ["pack.keep_video=true", "pack.crf=20"],
        ['pose.experts=["synthetic_bottomup"]'],
        ["curate.filters=[]"],
    ],
)
def test_what_has_an_effect_or_lost_it_to_a_later_choice_is_not_said(overrides: list[str]) -> None:
    assert said(*overrides) == []


def test_a_measuring_option_of_a_filter_has_an_effect() -> None:
    (line,) = said("curate.filters=[]", "filters.body_visible={min=0.5, joints=6}")
    assert line.endswith("[filters.body_visible] min has no effect: curate.filters does not use body_visible")


def test_a_recipe_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[recipe]\nname = "mine"\nversion = 1\n[sources]\nuse = ["sample"]\n[pose]\nexperts = ["synthetic_bottomup"]\n'
        "[filters.jitter]\nmax = 0.1\n"
    )
    (line,) = said(recipe=str(path), overlay=None)
    assert line == f"{path}: [filters.jitter] max has no effect: curate.filters does not use jitter"


def test_a_dry_run_says_it_on_stderr_and_in_its_json(corpus: Path, tmp_path: Path) -> None:
    arguments = ["build", "posecap", "--sources", f"sample={corpus}", "--out", str(tmp_path), "--dry-run", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--set", "pack.crf=20"])
    assert done.exit_code == 0, done.output
    line = "--set pack.crf=20: [pack] crf has no effect: pack.keep_video is off"
    assert f"note: {line}" in done.stderr.splitlines()
    assert json.loads(done.stdout)["notes"] == [line]
