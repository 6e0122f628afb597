"""Features in a real build: packed, cached, resumed; labels that do not fit them are shown, and left out on request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

import dataengine
from dataengine import builder
from dataengine import dry_run as estimates
from dataengine.core.errors import RecipeError
from dataengine.dataset.verify import verify
from dataengine.features.viclip import ViCLIP, ViCLIPSession
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.labels.prompts import text_of, texts
from dataengine.media.decode import read_frames
from dataengine.passes import embed
from dataengine.passes.embed import Embed
from dataengine.passes.pose import Pose
from dataengine.pipeline import plan
from dataengine.pipeline.engine import Engine
from tests.support.shared import SETTINGS, build_sample, copied

SMALL = [*SETTINGS, "pose.max_fps=30.0", "report.gallery=1", 'pose.experts=["synthetic_regression"]']
FEATURES = ['embed.features=["viclip"]', 'features.viclip.size="tiny"', "features.viclip.views=2"]


@pytest.fixture(scope="module")
def again(corpus) -> Callable[..., builder.BuildResult]:
    """Builds with features in the folder it is given."""
    return lambda out, *overrides, **options: build_sample(corpus, out, *SMALL, *FEATURES, *overrides, **options)


@pytest.fixture(scope="module")
def out(again, tmp_path_factory) -> Path:
    """A finished small build with features."""
    folder = tmp_path_factory.mktemp("embed") / "out"
    assert again(folder).kept
    return folder


@pytest.fixture
def copy(out, tmp_path) -> Path:
    return copied(out, tmp_path)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many views are encoded from now on."""
    seen, encode = [], ViCLIPSession.encode_video
    monkeypatch.setattr(
        ViCLIPSession,
        "encode_video",
        lambda self, frames, view=0: seen.extend([1] * len(frames)) or encode(self, frames, view),
    )
    return seen


def content(out: Path) -> dict[str, str]:
    return {
        file["path"]: file["blake3"] for file in json.loads((out / "dataset" / "MANIFEST.json").read_text())["files"]
    }


def test_features_come_back_and_are_those_of_the_clips(out):
    ds, component = dataengine.open(out), ViCLIP("tiny")
    planned = plan.load(out / "work")
    for number, row in enumerate(ds.clips.collect().iter_rows(named=True)):
        sample = ds.sample(row["clip_id"])
        video, views, text = (sample[f"viclip_{name}"] for name in ("video", "views", "text"))
        assert video.shape == text.shape == (component.dim,) and views.shape == (2, component.dim)
        assert {video.dtype, views.dtype, text.dtype} == {np.dtype("float16")}
        np.testing.assert_allclose(np.linalg.norm(np.stack([*views, text]).astype(float), axis=1), 1, atol=2e-3)
        assert sample["json"]["text"] == row["text"] == text_of(row["clip_id"], row["label"]) != row["label"]
        np.testing.assert_array_equal(text, component.encode_text([row["text"]])[0].astype(np.float16))
        clip = planned.clip(row["clip_id"])
        if number < 2 and clip.span_start is None:
            frames = np.stack(read_frames(planned.media(clip), range(row["num_frames"])))
            np.testing.assert_array_equal(video, component.encode_video(frames)[0].astype(np.float16))
    assert verify(out) == []
    assert ds.manifest["features"] == ["viclip"] and {"embed", "label_check"} <= {
        p["name"] for p in ds.manifest["passes"]
    }


def test_the_index_tells_how_labels_agree_and_review_what_lies_nearer(out):
    ds = dataengine.open(out)
    clips, review = ds.clips.collect(), ds.table("review").collect()
    classes = sorted(clips["label"].unique())
    read = {
        label: ViCLIP("tiny").encode_text(texts(label)).astype(np.float16).astype(float).mean(0) for label in classes
    }
    table = np.stack([read[label] / np.linalg.norm(read[label]) for label in classes])
    for row in clips.iter_rows(named=True):
        video = ds.sample(row["clip_id"])["viclip_video"].astype(float)
        found = table @ (video / np.linalg.norm(video))
        own = classes.index(row["label"])
        assert row["label_cosine"] == pytest.approx(found[own], abs=1e-6)
        assert row["label_margin"] == pytest.approx(found[own] - np.delete(found, own).max(), abs=1e-6)
        assert row["label_rank"] == 1 + (found > found[own]).sum()
        proposed = review.filter(pl.col("clip_id") == row["clip_id"])["proposed"].to_list()
        assert proposed == ([] if row["label_rank"] == 1 else [classes[found.argmax()]])
    assert len(review), "random weights agree with nobody"


def test_a_changed_threshold_embeds_nothing_and_leaves_out_what_disagrees(copy, out, encoded, again):
    ds = dataengine.open(copy)
    margins = ds.clips.collect()["label_margin"].sort()
    least = float(margins[len(margins) // 2])
    result = again(copy, f"embed.min_margin={least}")
    lost = dataengine.open(copy).rejects.filter(pl.col("reason") == "label_disagrees").collect()
    assert result.reasons["label_disagrees"] == len(lost) == (margins < least).sum() and not encoded
    assert set(lost["pass"]) == {"label_check"} and set(lost["threshold"]) == {least} and (lost["value"] < least).all()
    assert result.kept + result.rejected + result.failed == result.planned and verify(copy) == []
    assert set(lost["clip_id"]) <= set(dataengine.open(copy).table("review").collect()["clip_id"]) | set(
        ds.clips.collect()["clip_id"]
    )
    story = explain(copy, lost["clip_id"][0])
    assert story["decision"]["reason"] == "label_disagrees" and "wanted at least" in to_text(story)
    assert again(copy, "filters.motion.min=0.5").changed and not encoded
    assert again(copy).changed and not encoded and content(copy) == content(out)


def test_only_what_is_missing_is_embedded_again(copy, out, encoded, again):
    ledger = job_of(copy).ledger("embed")
    unit = next(name for name in ledger.units() if name != embed.TEXTS)
    clips = len(ledger.read(unit).outcomes)
    state = next(p for p in status(copy)["passes"] if p["pass"] == "embed")
    units = state["units"]
    assert clips and (state["pass"], state["done"], state["clips_left"], state["seconds_left"]) == (
        "embed",
        units,
        0,
        0.0,
    )
    ledger.artifact(unit).unlink()
    state = next(p for p in status(copy)["passes"] if p["pass"] == "embed")
    assert (state["pass"], state["done"], state["clips_left"]) == ("embed", units - 1, clips)
    result = again(copy)
    assert len(encoded) == clips * 2 and not result.changed and content(copy) == content(out)
    assert all(s.done == s.units for s in result.states if s.name != "embed")


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(copy, out, again):
    for name in ("embed", "label_check", "pack"):
        shutil.rmtree(job_of(copy).ledger(name).folder)
    again(copy, engine=Engine(workers=2))
    assert content(copy) == content(out)


def test_a_clip_that_cannot_be_embedded_is_a_reject_and_comes_back(copy, out, monkeypatch, again):
    before = again(copy)
    shutil.rmtree(job_of(copy).ledger("embed").folder)
    lost = dataengine.open(copy).clips.collect()["clip_id"][0]
    prepared = embed._prepared

    def short_of_memory(unit, clip, *rest):
        if clip.clip_id == lost:
            raise MemoryError("too large")
        return prepared(unit, clip, *rest)

    monkeypatch.setattr(embed, "_prepared", short_of_memory)
    result = again(copy)
    assert result.failed == before.failed + 1 and result.retryable == before.retryable + 1 and verify(copy) == []
    assert result.reasons["out_of_memory"] == 1 and result.kept == before.kept - 1
    assert explain(copy, lost)["decision"]["reason"] == "out_of_memory"
    monkeypatch.setattr(embed, "_prepared", prepared)
    assert again(copy).failed == before.failed and content(copy) == content(out)


@pytest.mark.slow
def test_a_unit_that_cannot_be_embedded_is_set_aside_and_comes_back(copy, out, monkeypatch, again):
    before = again(copy)
    shutil.rmtree(job_of(copy).ledger("embed").folder)
    run = Embed.run

    def spoilt(self, job, task):
        if task.key == "u000001":
            raise KeyError("nobody foresaw this")
        return run(self, job, task)

    monkeypatch.setattr(Embed, "run", spoilt)
    result = again(copy)
    lost = dataengine.open(copy).rejects.filter(pl.col("reason") == "set_aside").collect()
    assert len(lost) == result.reasons["set_aside"] > 0 and lost["retryable"].all() and verify(copy) == []
    assert result.kept == before.kept - len(lost)
    monkeypatch.setattr(Embed, "run", run)
    assert again(copy).retryable == before.retryable and content(copy) == content(out)


def test_verify_finds_features_that_are_none(copy):
    row = dataengine.open(copy).clips.collect().row(0, named=True)
    place = next(entry for entry in row["entries"] if entry["name"] == "viclip_video.npy")
    shard = copy / "dataset" / row["shard"]
    data = bytearray(shard.read_bytes())
    data[place["offset"] + place["size"] - 8 : place["offset"] + place["size"]] = np.full(4, 3, np.float16).tobytes()
    shard.unlink()  # a link to the file of the pass
    shard.write_bytes(data)
    told = {problem.what for problem in verify(copy)}
    assert {f"{row['clip_id']} viclip_video.npy is not of unit length"} <= told
    assert {f"{row['clip_id']} viclip_views.npy begins with another view than the feature of the video"} <= told


def test_gc_keeps_what_the_features_need(copy, encoded, again):
    again(copy, "features.viclip.views=1")
    clean(copy, keep=1)
    assert len(encoded) == len(dataengine.open(copy).clips.collect())
    assert [folder.name.split("-")[0] for folder in sorted((copy / "work").glob("embed-*")) if folder.is_dir()] == [
        "embed"
    ]
    assert not again(copy, "features.viclip.views=1").changed and len(encoded) == len(
        dataengine.open(copy).clips.collect()
    )


def test_without_features_the_pass_is_left_out(copy, encoded, again):
    assert again(copy, "embed.features=[]").kept and not encoded
    ds = dataengine.open(copy)
    assert (
        "review" not in ds.tables and ds.clips.collect()["label_cosine"].null_count() == ds.manifest["counts"]["clips"]
    )
    assert verify(copy) == [] and not any(
        name.startswith("viclip") for name in ds.sample(ds.clips.collect()["clip_id"][0])
    )


@pytest.mark.parametrize(
    "override, message",
    [
        ('embed.features=["viclop"]', "did you mean 'viclip'"),
        ('embed.features=["viclip","viclip"]', "twice"),
        ('embed.agreement="open_clip"', "agreement = 'open_clip'.*allowed: viclip"),
        ("embed.min_cosine=2.0", "min_cosine = 2.0"),
        ("embed.margin=0.1", "unknown key 'margin'"),
        ('features.viclip.size="huge"', "size = 'huge'"),
    ],
)
def test_mistakes_in_the_recipe_are_told(override, message):
    with pytest.raises(RecipeError, match=message):
        builder.resolve("posecap", "sample", "core", [*FEATURES, override])


def test_a_threshold_without_features_is_a_mistake():
    with pytest.raises(RecipeError, match="need features"):
        builder.resolve("posecap", "sample", "core", ["embed.min_margin=0.0"])


def test_the_cost_of_what_is_left_is_about_what_it_took(copy):
    """One unit is taken away: the rate of the others tells what it costs."""
    job, gone = job_of(copy), "u000000"
    for name in ("probe", "pose", "measure", "embed"):
        (job.ledger(name).folder / "commits" / f"{gone}.json").unlink()
    resolved = builder.resolve(str(copy / "recipe.lock.toml"))
    report = estimates.dry_run(resolved, copy, None, None, "cpu")
    found = {c["name"]: c for c in report["costs"]}
    assert list(found) == ["probe", "pose", "measure", "curate", "embed", "label_check", "pack", "report"]
    others = [job.ledger("pose").read(unit) for unit in job.ledger("pose").units()]
    rows = [row for row in plan.load(copy / "work").rows() if row["reason"] is None]
    frames = estimates.clip_frames(rows, resolved.pose.max_fps)
    rate = sum(c.seconds for c in others) / sum(frames[o.clip_id] for c in others for o in c.outcomes)
    assert found["pose"]["cpu_hours"] * 3600 == pytest.approx(rate * found["pose"]["frames"])
    assert (
        found["pose"]["clips"] <= 7 and found["pose"]["gpu_hours"] == 0 and "finished units" in found["pose"]["basis"]
    )
    known = sum(c["cpu_hours"] for c in report["costs"] if c["cpu_hours"] is not None)
    assert report["total"]["cpu_hours"]["known"] == pytest.approx(known)
    json.dumps(report)
    assert "finished units of this build" in estimates.dry_run_text(report)


def test_a_new_build_is_reckoned_by_measured_rates_or_said_not_to_be(corpus, tmp_path):
    resolved = builder.resolve("posecap", {"sample": str(corpus)}, "core", [*SMALL, *FEATURES])
    report = estimates.dry_run(resolved, tmp_path, None, None, "cpu")
    found = {c["name"]: c for c in report["costs"]}
    rates = {r.what: r for r in estimates.known_rates()}
    each = sum(rates[f"experts/{name}"].seconds for name in resolved.pose.experts)
    assert found["pose"]["cpu_hours"] * 3600 > each * found["pose"]["frames"] > 0
    assert found["embed"]["cpu_hours"] is None and "features/viclip" in found["embed"]["basis"]
    assert not report["total"]["cpu_hours"]["complete"] and "not measured" in estimates.dry_run_text(report)
    on_gpu = estimates.cost(resolved, Pose("pose"), "cuda", 10, 3000, None, estimates.known_rates())
    assert on_gpu.gpu_hours is None and "not measured on cuda" in on_gpu.basis


def test_a_rate_of_other_options_is_none(tmp_path):
    (tmp_path / "rates.toml").write_text(
        '[[rate]]\nwhat = "features/viclip"\noptions = {size = "B/16"}\ndevice = "cuda"\nper = "clip"\n'
        'seconds = 0.5\nhardware = "one"\nsource = "here"\n'
    )
    rates = estimates.known_rates(tmp_path / "rates.toml")
    for size, hours in (("tiny", None), ("B/16", 0.5)):
        resolved = builder.resolve("posecap", "sample", "core", [FEATURES[0], f'features.viclip.size="{size}"'])
        found = estimates.cost(resolved, Embed("embed"), "cuda", 3600, 10, None, rates)
        assert (found.gpu_hours, found.cpu_hours) == (hours, 0.0)
    (tmp_path / "rates.toml").write_text('[[rate]]\nwhat = "measure"\n')
    with pytest.raises(RecipeError, match="a \\[\\[rate\\]\\] has what, device, seconds"):
        estimates.known_rates(tmp_path / "rates.toml")


def test_lengths_come_from_spans_and_from_the_others():
    row = {"clip_id": "a", "span_start": 2.0, "span_end": 6.0, "start": 0.0, "end": 60.0}
    rows = [row, row | {"clip_id": "b", "span_start": None, "span_end": None, "end": 2.0}]
    rows.append(row | {"clip_id": "c", "span_start": None, "span_end": None, "start": None, "end": None})
    assert estimates.clip_frames(rows, None) == {"a": 120, "b": 60, "c": 90}
    assert estimates.clip_frames(rows[2:], 15.0) == {"c": 150}
