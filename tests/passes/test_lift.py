"""Pass `lift`: poses in space from the recipe to the packed sample, told, checked, left out again; the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine import builder
from dataengine import dry_run as estimates
from dataengine.builder import rewrite_and_clean
from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.dataset import index
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from dataengine.exports.run import export
from dataengine.filters.body import Body
from dataengine.importer import import_poses
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.inspect.view import view
from dataengine.io.shards import decode, iterate
from dataengine.passes.base import passes_of
from dataengine.passes.lift import REACH, within_reach
from dataengine.pipeline.engine import Engine
from tests.support import blocks, plugins
from tests.support.killed import at_every_change
from tests.support.saved_poses import note, write_pyskl
from tests.support.shared import SETTINGS, build_sample, copied

LIFT, SMALL = 'lift.use="temporal"', "report.gallery=2"


@pytest.fixture(scope="module")
def lifted(sample_build: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared build with its poses lifted; read only."""
    out = copied(sample_build, tmp_path_factory.mktemp("lifted"))
    result = build_sample(corpus, out, LIFT, SMALL)
    done = {state.name: (state.done, state.units) for state in result.states}
    assert done["pose"][0] == done["pose"][1] and done["lift"][0] == 0, "poses are taken as they are"
    return out


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[None]:
    """The lifter of another package."""
    with pytest.MonkeyPatch.context() as patch:
        plugins.install_outside(tmp_path / "site", patch)
        yield
    registry.refresh()


def content(out: Path) -> dict[str, str]:
    return {f["path"]: f["blake3"] for f in json.loads((out / "dataset/MANIFEST.json").read_text())["files"]}


def test_every_sample_holds_joints_in_space(lifted: Path) -> None:
    assert verify(lifted) == []
    ds = dataengine.open(lifted)
    clips = ds.clips.collect()
    assert clips["lift_reprojection"].is_between(0, 1).all() and ds.manifest["lifter"] == "temporal"
    tracks = ds.tracks.collect()
    assert tracks.filter("kept")["lift_reprojection"].null_count() == 0
    assert tracks.filter(~pl.col("kept"))["lift_reprojection"].null_count() == len(tracks.filter(~pl.col("kept")))
    first = tracks.filter(rank=0).sort("clip_id")["lift_reprojection"]
    assert first.equals(clips.sort("clip_id")["lift_reprojection"])
    for sample in ds.samples(entries=("keypoints", "keypoints3d")):
        flat, space = sample["keypoints"], sample["keypoints3d"]
        assert space.dtype == np.float16 and space.shape == (*flat.shape[:3], 3)
        absent = np.isnan(flat).all((2, 3))
        assert np.isnan(space[absent]).all() and np.isfinite(space[~absent]).mean() > 0.9
        root = space[..., 4, :].astype(np.float32)
        assert np.abs(root[np.isfinite(root)]).max() < 2e-3 and np.nanmax(np.abs(space)) < REACH


def test_without_lift_the_dataset_is_as_before(lifted: Path, sample_build: Path, corpus: Path, tmp_path: Path) -> None:
    out = copied(lifted, tmp_path)
    build_sample(corpus, out)
    assert content(out) == content(sample_build)
    clean(out, keep=1)
    assert not list((out / "work").glob("lift-*"))


def test_explain_status_and_dry_run_tell_of_it(lifted: Path, corpus: Path) -> None:
    clip_id = dataengine.open(lifted).clips.collect()["clip_id"][0]
    step = next(step for step in explain(lifted, clip_id)["passes"] if step["pass"] == "lift")
    assert step["facts"]["lifter"] == "temporal" and step["facts"]["lift_reprojection"].endswith(" body heights")
    text = to_text(explain(lifted, clip_id))
    assert "lift         keep" in text and "reprojection error" in text and "  reprojection " in text
    row = next(row for row in status(lifted)["passes"] if row["pass"] == "lift")
    assert row["done"] == row["units"] > 0
    recipe = builder.resolve("posecap", {"sample": str(corpus)}, "core", [*SETTINGS, LIFT])
    fresh = {c["name"]: c for c in estimates.dry_run(recipe, lifted.parent / "none", None, None, "cpu")["costs"]}
    assert fresh["lift"]["cpu_hours"] and "rates of" in fresh["lift"]["basis"]


def test_view_shows_it_beside_the_video(lifted: Path, sample_build: Path, tmp_path: Path) -> None:
    clips = dataengine.open(lifted).clips.collect().filter(num_people=1)
    clip_id = clips["clip_id"][0]
    plain, both = (cv2.imread(str(view(o, clip_id, tmp_path / f"{o.parent.name}.png"))) for o in (sample_build, lifted))
    assert both.shape[0] == plain.shape[0] and both.shape[1] > 2 * plain.shape[0], (
        "two sides of about 0.8 times as wide"
    )
    np.testing.assert_array_equal(both[:, : plain.shape[1] - 1], plain[:, :-1])
    with av.open(str(view(lifted, clip_id, tmp_path / "a.mp4"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == clips["num_frames"][0] and frames[0].shape[1] > plain.shape[1]
    panels = np.stack(frames)[:, :, plain.shape[1] :].astype(int)
    assert np.abs(panels[-1] - panels[0]).max() > 60, "the skeleton turns"
    experts = view(lifted, clip_id, tmp_path / "experts.png", experts=True)
    assert cv2.imread(str(experts)).shape[1] > both.shape[1]


def test_report_and_card_show_it(lifted: Path, sample_build: Path) -> None:
    page, before = ((out / "dataset/report.html").read_text() for out in (lifted, sample_build))
    assert "In space" in page and "Reprojection error" in page and page.count(", reprojection error ") == 2
    assert "In space" not in before
    card = (lifted / "dataset/README.md").read_text()
    assert "`KEY.keypoints3d.npy`" in card and "lift_reprojection" in card and 'sample["keypoints3d"].shape' in card
    assert "keypoints3d" not in (sample_build / "dataset/README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (['lift.use="tempral"'], ["unknown name 'tempral' in lifters", "did you mean 'temporal'"]),
        (['lift.user="temporal"'], ["[lift] unknown key 'user'", "did you mean 'use'"]),
        ([LIFT, "lifters.temporal.flipp=true"], ["[lifters.temporal] has no option 'flipp'", "'flip'"]),
        ([LIFT, "lifters.temporal.max_gap=-1"], ["max_gap = -1"]),
        ([LIFT, 'pose.skeleton="ntu25"'], ["unknown skeleton 'ntu25'"]),
        (['curate.filters=["reprojection"]'], ["'reprojection' measures poses in space", "[lift] use", "temporal"]),
    ],
)
def test_mistakes_are_told_before_any_work(
    corpus: Path, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(DataEngineError) as caught:
        build_sample(corpus, tmp_path / "out", *overrides)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_a_layout_that_the_lifter_does_not_take_is_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifter = registry.component_class("lifters", "temporal")
    monkeypatch.setattr(lifter, "serves", lambda self, layout: layout in ("coco17", "body13"))
    with pytest.raises(
        DataEngineError, match=r"\[lift\] use = 'temporal' does not take .* 'posetics17' .*coco17, body13"
    ):
        build_sample(corpus, tmp_path / "out", LIFT)
    assert not (tmp_path / "out").exists()


def test_options_without_effect_are_said(corpus: Path) -> None:
    from dataengine.pipeline.notes import notes

    layers = builder.layers("posecap", {"sample": str(corpus)}, "core", ["lifters.temporal.flip=false"])
    assert notes(layers) == [
        "--set lifters.temporal.flip=false: [lifters.temporal] has no effect: lift.use does not use temporal"
    ]
    recipe = builder.resolve("posecap", "sample", "core", ['lift.use=""'])
    assert "lift" not in [p.name for p in passes_of(recipe)] and "lift" not in recipe.to_toml()


def test_a_change_of_the_lifter_lifts_again_and_no_more(lifted: Path, corpus: Path, tmp_path: Path) -> None:
    out = copied(lifted, tmp_path)
    result = build_sample(corpus, out, LIFT, SMALL, "lifters.temporal.flip=false")
    done = {state.name: state.done for state in result.states}
    assert done["pose"] and not done["lift"] and not done["measure"] and result.changed and verify(out) == []
    limit = float(dataengine.open(out).clips.select(pl.col("lift_reprojection").median()).collect().item())
    filters = ('curate.filters=["reprojection"]', f"filters.reprojection.max={limit}")
    result = build_sample(corpus, out, LIFT, SMALL, "lifters.temporal.flip=false", *filters)
    assert next(s for s in result.states if s.name == "lift").finished, "a threshold lifts nothing"
    lost = dataengine.open(out).rejects.filter(reason="reprojection").collect()
    assert len(lost) == result.reasons["reprojection"] >= 3 and (lost["value"] > limit).all() and verify(out) == []


def test_planted_damage_is_named(lifted: Path, tmp_path: Path) -> None:
    out = copied(lifted, tmp_path)
    manifest = index.read_manifest(out / "dataset")
    without = {**manifest, "passes": [p for p in manifest["passes"] if p["name"] != "lift"]}
    index.write_manifest(out / "dataset", without)
    assert any("columns are not those of this format" in problem.what for problem in verify(out))


def test_joints_beyond_reach_and_of_frames_without_the_person_are_missing() -> None:
    joints = np.zeros((3, 2, 3), np.float32)
    joints[0, 1, 2], joints[1, 0, 0] = 2 * REACH, np.nan
    found = within_reach(joints, np.array([True, True, False]))
    assert np.isnan(found).all(-1).tolist() == [[False, True], [True, False], [True, True]]


def test_guessed_joints_are_told_from_poses_of_a_body(lifted: Path) -> None:
    """The default threshold of the filter, on the poses of rendered clips and on joints drawn about them."""
    keeps, rng, found = registry.create("filters", "reprojection").keep, np.random.default_rng(0), []
    ds = dataengine.open(lifted)
    assert np.mean([keeps(value) for value in ds.clips.collect()["lift_reprojection"]]) > 0.8, "of 8 frames per second"
    with registry.create("lifters", "temporal").load() as session:
        for sample in ds.samples(entries=("keypoints", "scores", "json")):
            poses, scores, meta = sample["keypoints"][0], sample["scores"][0].astype(np.float32), sample["json"]
            height = float(np.nanmedian(Body.of(poses, scores, meta["skeleton"], 8.0).height))
            guessed = np.nanmean(poses, (0, 1)) + rng.normal(0, 0.25, (1, 17, 2)) * height
            guessed = (guessed + rng.normal(0, 0.02, poses.shape) * height).astype(np.float32)
            error = session.lift(guessed, scores, meta["skeleton"], (meta["width"], meta["height"])).reprojection_error
            heights = Body.of(guessed, scores, meta["skeleton"], 8.0).height
            found.append(keeps(float(np.nanmean(error / heights))))
    assert np.mean(found) < 0.3


def test_saved_poses_are_lifted_too(tmp_path: Path, outside: None) -> None:
    write_pyskl(tmp_path / "a.pkl", [note(k, fps="25/1") for k in range(3)])
    folder = tmp_path / "out"
    import_poses(tmp_path / "a.pkl", "pyskl", folder, overrides=['lift.use="paper"', "report.gallery=1"])
    assert verify(folder) == []
    ds = dataengine.open(folder)
    sample = ds.sample(ds.clips.collect()["clip_id"][0])
    assert sample["keypoints3d"].shape == (*sample["keypoints"].shape[:3], 3)
    assert view(folder, sample["clip_id"], tmp_path / "a.png").stat().st_size


def test_a_lifter_is_held_to_its_word(
    lifted: Path, corpus: Path, tmp_path: Path, outside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.outside import lifter

    session = registry.component_class("lifters", "paper")().load().__class__
    whole = session.lift

    def short(self: Any, *given: Any) -> Any:
        found = whole(self, *given)
        return lifter.Lifted(found.keypoints3d[1:], found.reprojection_error)

    monkeypatch.setattr(session, "lift", short)
    with pytest.raises(DataEngineError, match=r"\[lifters.paper\] gave keypoints3d of shape .* must be .* mend"):
        build_sample(corpus, copied(lifted, tmp_path), 'lift.use="paper"')


def test_pyskl_takes_the_joints_in_space(lifted: Path, sample_build: Path, tmp_path: Path) -> None:
    from dataengine.io.plain_pickle import load

    export(lifted, "pyskl", tmp_path / "a.pkl", dimensions=3, layout="own", unknown_licence=True)
    ds = dataengine.open(lifted)
    for made in load(tmp_path / "a.pkl", DataEngineError)["annotations"]:
        stored = ds.sample(made["frame_dir"])["keypoints3d"].astype(np.float32)
        np.testing.assert_array_equal(made["keypoint"], np.nan_to_num(stored))
    with pytest.raises(DataEngineError, match=r"has no poses in space: build the dataset with --set lift.use="):
        export(sample_build, "pyskl", tmp_path / "b.pkl", dimensions=3, unknown_licence=True)
    with pytest.raises(DataEngineError, match="no poses in space"):
        export(sample_build, "hf", tmp_path / "hf", keypoints3d=True, unknown_licence=True)
    export(lifted, "hf", tmp_path / "hf", keypoints3d=True, unknown_licence=True)
    (row, *_) = pl.read_parquet(tmp_path / "hf" / "data" / "train-*.parquet").iter_rows(named=True)
    found = np.array(row["keypoints3d"], np.float32)
    stored = dataengine.open(lifted).sample(row["clip_id"])["keypoints3d"].astype(np.float32)
    assert np.array_equal(found, stored, equal_nan=True)
    assert "name: keypoints3d" in (tmp_path / "hf" / "README.md").read_text()
    with pytest.raises(DataEngineError, match="dimensions = 4: give 2"):
        export(lifted, "pyskl", tmp_path / "b.pkl", dimensions=4)


def test_training_reads_the_joints_in_space(lifted: Path) -> None:
    pytest.importorskip("torch")
    import training
    from training.data.batch import PadOrCrop
    from training.data.formats import open_datasets

    for path in (lifted, lifted / "dataset" / "shards" / "pose"):
        for pose, channels in (("keypoints", 2), ("keypoints3d", 3)):
            whole = PadOrCrop(channels=channels)
            batch = next(iter(training.feed(open_datasets(path, pose=pose), batch_size=4, transform=whole)))
            assert batch["motion"].shape[1] == channels and np.isfinite(np.asarray(batch["motion"])).all()


RECIPE = (
    'pose.experts=["bright_block"]', "pose.expert_weights={}", 'curate.filters=["length"]', "filters.length.min=8",
    "report.gallery=0", 'curate.relabel="block_labels"', "plan.clips_per_unit=5",
)  # fmt: skip


def build_blocks(folder: Path, out: Path, *overrides: str) -> None:
    arguments: dict[str, Any] = {"overlay": "core", "overrides": [*RECIPE, *overrides], "engine": Engine(serial=True)}
    dataengine.build("posecap", {"blocks": str(folder / "videos")}, out, **arguments)


@pytest.mark.slow
def test_a_takedown_erases_the_joints(outside: None, tmp_path: Path) -> None:
    blocks.write_corpus(tmp_path / "videos")
    out = tmp_path / "out"
    build_blocks(tmp_path, out, LIFT)
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    takedown(out, [clip_id], "asked")
    rewrite_and_clean(out)
    assert clip_id not in dataengine.open(out).clips.collect()["clip_id"] and verify(out) == []
    kept = [key for path in (out / "work").glob("lift-*/data/*.tar") for key, _ in iterate(path)]
    assert kept and clip_id not in kept


def _killed_builds(folder: Path, results: Any) -> None:
    """In a process of its own that has started no threads yet: builds that are killed at every change in turn."""

    def under(n: int) -> str:
        shutil.copytree(folder / "before", folder / str(n) / "out", copy_function=shutil.copy2)
        return f"{folder}/{n}/out/work/lift-"

    for n, killed in at_every_change(lambda n: build_blocks(folder, folder / str(n) / "out", LIFT), under):
        results.put((n, killed))
    results.put(None)


@pytest.mark.slow
def test_a_build_that_is_killed_while_it_lifts_makes_the_same_bytes(outside: None, tmp_path: Path) -> None:
    """Killed before every change that the pass makes to its files; the next build goes on."""
    blocks.write_corpus(tmp_path / "videos")
    build_blocks(tmp_path, tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "whole", copy_function=shutil.copy2)
    build_blocks(tmp_path, tmp_path / "whole", LIFT)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_killed_builds, args=(tmp_path, results))
    process.start()
    found = list(iter(results.get, None))
    process.join(60)
    assert process.exitcode == 0 and len(found) > 8 and not found[-1][1]
    for n, _ in found:
        out = tmp_path / str(n) / "out"
        build_blocks(tmp_path, out, LIFT)
        assert content(out) == content(tmp_path / "whole"), n


@pytest.mark.slow
def test_two_workers_make_what_one_makes(lifted: Path, sample_build: Path, corpus: Path, tmp_path: Path) -> None:
    out = copied(sample_build, tmp_path)
    build_sample(corpus, out, LIFT, SMALL, engine=Engine(workers=2))
    assert content(out) == content(lifted)
    assert decode(next(iterate(job_of(out).ledger("lift").artifact(next(iter(job_of(out).ledger("lift").units())))))[1])
