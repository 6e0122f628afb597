"""One component of every kind from a package outside, each in one file and one line, seen to the end of its work.

The package is `tests/support/outside`; it is installed as pip does, by a folder with its entry points.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tomli_w

import dataengine
from dataengine import builder, dry_run
from dataengine.core import registry
from dataengine.core.errors import ComponentError, RecipeError
from dataengine.core.skeletons import skeleton
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.pipeline.engine import Engine
from tests.support import blocks, plugins
from tests.support.commands import dataengine as command
from tests.support.commands import dataengine_train as train
from tests.support.shared import SERIAL

RECIPE = [
    'pose.experts=["bright_block"]', "pose.expert_weights={}", 'pose.fusion="first_seen"',
    'curate.filters=["length", "upright"]', "filters.upright.min=1.2", "filters.length.min=8",
    'curate.relabel="block_labels"', 'embed.features=["mean_colour"]', "passes.brightness.min=0.1",
    "passes.video_cap.most=3", "passes.name_length={}", 'lift.use="paper"', "lifters.paper.fold=0.125",
]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package outside, for this process and those started from it; a folder with videos for it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("outside")
        plugins.install_outside(folder / "site", patch)
        blocks.write_corpus(folder / "videos")
        yield folder
    registry.refresh()


def build(installed: Path, out: Path, *overrides: str, **options: Any) -> builder.BuildResult:
    arguments = {"overlay": "core", "engine": SERIAL, "overrides": [*RECIPE, *overrides]}
    return dataengine.build("posecap", {"blocks": str(installed / "videos")}, out, **{**arguments, **options})


@pytest.fixture(scope="module")
def out(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that every component took part in."""
    folder = tmp_path_factory.mktemp("added") / "out"
    assert build(installed, folder).kept == 3
    return folder


@pytest.fixture(scope="module")
def clips(out: Path) -> pl.DataFrame:
    return dataengine.open(out).clips.collect()


@pytest.fixture(scope="module")
def rejects(out: Path) -> dict[str, tuple[str, str]]:
    rows = dataengine.open(out).rejects.select("clip_id", "pass", "reason").collect().rows()
    return {clip_id: (p, reason) for clip_id, p, reason in rows}


def test_every_kind_is_offered_once(installed: Path) -> None:
    lines = (plugins.OUTSIDE / "entry_points.txt").read_text().splitlines()
    groups = [line.strip("[]").partition(".") for line in lines if line.startswith("[")]
    assert {kind for package, _, kind in groups if package == "dataengine"} == {
        "sources", "experts", "fusion", "lifters", "filters", "relabel", "features", "students", "exports", "passes",
    }  # fmt: skip
    assert {kind for package, _, kind in groups if package == "training"} == {"backbones", "methods", "formats"}
    for _, _, kind in groups:
        assert set(registry.names(kind)) > set(registry.KINDS[kind].builtin), kind
    for name in ("experts", "lifters", "filters", "sources", "features", "students", "relabel", "exports"):
        told = command("list", name, "-v").stdout
        assert any(line.partition(" = ")[0] in told for line in lines if "outside." in line), name


def test_the_dataset_is_sound(out: Path) -> None:
    assert verify(out) == []
    assert command("verify", str(out)).returncode == 0


def test_a_source_names_the_clips(clips: pl.DataFrame) -> None:
    assert clips["clip_id"].to_list() == ["blocks-walk-1", "blocks-walk-2", "blocks-walk-3"]
    assert set(clips["source"]) == {"blocks"} and set(clips["licence"]) == {"CC0-1.0"}


def test_an_expert_and_a_fusion_make_the_poses(out: Path) -> None:
    ds = dataengine.open(out)
    for clip_id in ds.clips.collect()["clip_id"]:
        sample = ds.sample(clip_id)
        assert sample["keypoints"].shape[0] == 1 and np.isfinite(sample["keypoints"]).all()
        assert set(np.unique(sample["scores"])) == {np.float16(0.75)}
    assert set(ds.tracks.collect()["share_bright_block"]) == {1.0}
    assert ds.manifest["fusion"] == "first_seen"


def test_a_lifter_brings_the_poses_into_space(out: Path, clips: pl.DataFrame) -> None:
    ds = dataengine.open(out)
    joints = skeleton("posetics17")
    for clip_id in clips["clip_id"]:
        sample = ds.sample(clip_id)
        flat, space = sample["keypoints"], sample["keypoints3d"]
        assert space.dtype == np.float16 and space.shape == (*flat.shape[:3], 3)
        root = flat[:, :, joints.index("mid_hip"), None]
        np.testing.assert_allclose(space[..., :2], (flat - root) * 2 / sample["json"]["height"], atol=2e-3)
        assert (space[..., joints.index("left_knee"), 2] == 0.125).all()
    assert (clips["lift_reprojection"] == 0).all() and ds.manifest["lifter"] == "paper"


def test_a_format_writes_the_clips(out: Path, tmp_path: Path) -> None:
    made = dataengine.export(out, "lengths", tmp_path / "x.jsonl")
    rows = [json.loads(line) for line in Path(made.path).read_text().splitlines()]
    assert [row["clip"] for row in rows] == dataengine.open(out).clips.collect()["clip_id"].to_list()
    assert {row["joints"] for row in rows} == {17} and made.layout == "coco17"


def test_a_filter_brings_its_own_reason(out: Path, rejects: dict[str, tuple[str, str]]) -> None:
    assert rejects["blocks-lie-5"] == ("curate", "lying")
    assert "height over width" in to_text(explain(out, "blocks-lie-5"))
    assert "the body is wider than high" in (out / "dataset" / "report.html").read_text()


def test_a_label_table_labels_and_leaves_out(clips: pl.DataFrame, rejects: dict[str, tuple[str, str]]) -> None:
    assert set(clips["label"]) == {"walking"} and set(clips["label_id"]) == {1}
    assert rejects["blocks-test-8"] == ("curate", "label_left_out")


def test_features_are_packed_and_compared_with_labels(out: Path, clips: pl.DataFrame) -> None:
    sample = dataengine.open(out).sample("blocks-walk-1")
    assert sample["mean_colour_video"].shape == sample["mean_colour_text"].shape == (3,)
    assert clips["label_cosine"].null_count() == 0


def test_a_unit_pass_adds_a_column_and_leaves_out(
    out: Path, clips: pl.DataFrame, rejects: dict[str, tuple[str, str]]
) -> None:
    assert clips["brightness"].is_between(0.1, 1).all() and rejects["blocks-walk-6"] == ("brightness", "too_dark")
    step = next(step for step in explain(out, "blocks-walk-1")["passes"] if step["pass"] == "brightness")
    assert step["outcome"] == "keep" and step["facts"]["brightness"] == pytest.approx(clips["brightness"][0])


def test_table_passes_add_a_column_and_leave_out(clips: pl.DataFrame, rejects: dict[str, tuple[str, str]]) -> None:
    assert clips["name_length"].to_list() == [13, 13, 13]
    assert rejects["blocks-walk-4"] == ("video_cap", "enough_of_label")


def test_status_dry_run_and_gc_know_the_passes(out: Path, installed: Path, tmp_path: Path) -> None:
    names = ("brightness", "video_cap", "name_length")
    assert {*names} < {entry["pass"] for entry in status(out)["passes"]}
    resolved = builder.resolve("posecap", {"blocks": str(installed / "videos")}, "core", RECIPE)
    report = dry_run.dry_run(resolved, out, None, None, "cpu")
    assert {*names} < {entry["name"] for entry in report["passes"]}
    result = build(installed, tmp_path / "out")
    clean(tmp_path / "out")
    again = build(installed, tmp_path / "out")
    assert result.changed and not again.changed and all(state.finished for state in again.states)


def test_options_and_names_are_checked_as_those_of_the_own_components(installed: Path, tmp_path: Path) -> None:
    for override, error, words in (
        ("passes.brightness.mim=0.1", ComponentError, "no option 'mim'"),
        ("passes.brightnes={}", RecipeError, "did you mean 'brightness'"),
        ('filters.upright.min="a"', ComponentError, "min"),
        ('pose.fusion="first_sen"', RecipeError, "did you mean 'first_seen'"),
    ):
        with pytest.raises((error, RecipeError, ComponentError), match=words):
            build(installed, tmp_path / "out", override)


def test_workers_import_the_package_too(installed: Path, out: Path, tmp_path: Path) -> None:
    build(installed, tmp_path / "out", engine=Engine(workers=1))
    manifests = [(folder / "dataset" / "MANIFEST.json").read_bytes() for folder in (out, tmp_path / "out")]
    assert manifests[0] == manifests[1]


@pytest.fixture(scope="module")
def circles(installed: Path) -> Path:
    """A file of the format outside: people who go round to the left or to the right."""
    path = installed / "people.circles"
    rows = [
        f"clip{n} {('train', 'val')[n % 5 == 0]} {('left', 'right')[n % 2]} {40 + n} {24 + n % 7}" for n in range(60)
    ]
    path.write_text("\n".join(rows))
    return path


def configuration(folder: Path, run: str, **method: Any) -> str:
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": run, "epochs": 4, "batch": 8, "workers": 0, "log_every": 4, "tensorboard": False},
        "preprocess": {"people": 1},
        "view": {"frames": 16},
        "backbone": {"name": "mean_pose", "width": 24},
        "method": method,
        "optim": {"lr": 0.05},
    }
    path = folder / f"{run}.toml"
    path.write_text(tomli_w.dumps(tables))
    return str(path)


def test_a_format_and_a_backbone_are_trained_with(circles: Path, tmp_path: Path) -> None:
    settings = configuration(tmp_path, "rounds", name="supervised")
    run = str(tmp_path / "run")
    told = train("pretrain", settings, "--data", str(circles), "--out", run, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["steps"] == 24
    again = train("pretrain", settings, "--data", str(circles), "--out", run, "--json")
    assert again.returncode == 0 and "goes on at step 24 of 24" in again.stderr
    told = train("embed", run, "--data", str(circles), "--to", str(tmp_path / "features.parquet"), "--device", "cpu")
    assert told.returncode == 0, told.stderr


def test_a_method_is_trained_and_probed(circles: Path, tmp_path: Path) -> None:
    settings = configuration(tmp_path, "alike", name="two_noises", temperature=0.3)
    run = str(tmp_path / "run")
    told = train("pretrain", settings, "--data", str(circles), "--out", run, "--json")
    assert told.returncode == 0, told.stderr
    told = train("probe", run, "--data", str(circles), "--label-fraction", "0.5", "--json", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    wrong = configuration(tmp_path, "wrong", name="two_noises", temprature=0.3)
    told = train("pretrain", wrong, "--data", str(circles), "--out", str(tmp_path / "x"))
    assert told.returncode == 1 and "did you mean 'temperature'" in told.stderr


def test_the_list_of_training_names_them(installed: Path) -> None:
    for kind, name in (("backbones", "mean_pose"), ("methods", "two_noises"), ("formats", "circles")):
        assert name in train("list", kind).stdout
