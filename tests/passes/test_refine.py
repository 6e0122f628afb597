"""Refinement in a build: a student that learned makes the poses, and one that is worse leaves those of the experts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

import dataengine
from dataengine.builder import rewrite_and_clean
from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.core.progress import Progress
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Clip
from dataengine.dataset.takedown import takedown
from dataengine.dataset.takedown import to_text as takedown_text
from dataengine.dataset.verify import verify
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.generations import generations
from dataengine.inspect.generations import to_text as generations_text
from dataengine.inspect.status import clean, status
from dataengine.inspect.status import to_text as status_text
from dataengine.inspect.view import view
from dataengine.io import shards
from dataengine.passes.generation_files import GENERATION, folder_of
from dataengine.passes.measure import _accuracy_rows
from dataengine.passes.refine import generation_in_use, record_of
from dataengine.pipeline.engine import Engine
from tests.support import blocks, plugins
from tests.support.shared import SERIAL, copied

RECIPE = [
    'pose.experts=["bright_block", "precomputed"]', "pose.expert_weights={}", 'pose.fusion="consensus"',
    'experts.precomputed.pattern="{stem}"', "plan.clips_per_unit=3", "filters.length.min=8",
    'curate.filters=["length"]', 'curate.relabel="block_labels"', 'refine.student="block_student"',
    "refine.rate=0.6", "refine.epochs=6", "refine.threads=1", "refine.frames=0.5", "refine.weight_decay=0.0",
    "report.gallery=1", "refine.gate.max_missing=0.5", "refine.gate.min_agreement=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from tests.golden.make_passes import save_poses

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("refine")
        plugins.install_outside(folder / "site", patch)
        save_poses(folder / "saved", blocks.write_corpus(folder / "videos"))
        yield folder
    registry.refresh()


def build(installed: Path, out: Path, *overrides: str, engine: Engine = SERIAL) -> Any:
    saved = f'experts.precomputed.folder="{installed / "saved"}"'
    given = [*RECIPE, saved, *overrides]
    return dataengine.build(
        "posecap", {"blocks": str(installed / "videos")}, out, overlay="core", overrides=given, engine=engine
    )


@pytest.fixture(scope="module")
def plain(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same build without a student."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    saved = f'experts.precomputed.folder="{installed / "saved"}"'
    given = [saved, *(one for one in RECIPE if not one.startswith("refine."))]
    dataengine.build(
        "posecap", {"blocks": str(installed / "videos")}, folder, overlay="core", overrides=given, engine=SERIAL
    )
    return folder


@pytest.fixture(scope="module")
def refined(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refined") / "out"
    build(installed, folder)
    return folder


def record(out: Path) -> Any:
    found = record_of(job_of(out))
    assert found is not None
    return found


def poses(out: Path, clip_id: str) -> np.ndarray:
    return np.asarray(dataengine.open(out).sample(clip_id)["keypoints"])


def test_a_student_that_learned_makes_the_poses(refined: Path, plain: Path) -> None:
    told = record(refined)
    assert told["generation"] == 1 and told["rounds"][0]["verdict"]["reasons"] == []
    history = told["rounds"][0]["history"]
    assert min(row["validation"] for row in history) < 0.2 * history[0]["validation"]
    assert verify(refined) == []
    clips = dataengine.open(refined).clips.collect()
    assert set(clips["generation"]) == {1}
    for column in ("jitter_before", "expert_disagreement_before", "pose_coverage_before", "moved"):
        assert clips[column].null_count() == 0, column
    assert clips["moved"].max() < 0.5
    clip_id = clips["clip_id"][0]
    sample = dataengine.open(refined).sample(clip_id)
    assert sample["json"]["generation"] == 1
    assert np.nanmax(np.abs(poses(refined, clip_id) - poses(plain, clip_id))) > 0


def test_the_experts_stay_beside_the_student(refined: Path) -> None:
    job = job_of(refined)
    before = {
        k: shards.decode(v)
        for u in job.ledger("pose").units()
        for k, v in shards.iterate(job.ledger("pose").artifact(u))
    }
    for unit in job.ledger("poses").units():
        for clip_id, entries in shards.iterate(job.ledger("poses").artifact(unit)):
            arrays, old = shards.decode(entries), before[clip_id]
            assert arrays["json"]["experts"] == old["json"]["experts"] == ["bright_block", "precomputed"]
            for name, former in (("expert_keypoints", "expert_keypoints"), ("fused_keypoints", "keypoints")):
                assert any(np.array_equal(arrays[name][0], one, equal_nan=True) for one in old[former]), clip_id
            assert set(np.unique(arrays["winner"])) <= {-2, -1}
            assert arrays["keypoints"].shape[1:] == old["keypoints"].shape[1:]
            assert {k for k in old if k not in arrays} == set()


def test_exact_joints_are_compared_before_and_after(refined: Path, tmp_path: Path) -> None:
    """As of a rendered clip: the fusion keeps its row, and the student gets one of its own."""
    unit_name = next(iter(job_of(refined).ledger("poses").units()))
    _, entries = next(shards.iterate(job_of(refined).ledger("poses").artifact(unit_name)))
    arrays = shards.decode(entries)
    fused, _ = convert(arrays["keypoints"], None, arrays["json"]["skeleton"], COMMON)
    joints = np.zeros((fused.shape[1], 1, 14, 2), np.float32)
    joints[:, 0, list(skeleton("body14").indices(skeleton(COMMON).joints))] = fused[0]
    truth = {"joints": joints, "head": np.full(joints.shape[:2], 10.0), "fps": 10.0}
    np.savez(tmp_path / "truth.npz", **truth)
    roots = SimpleNamespace(roots={"blocks": str(tmp_path)})
    unit = SimpleNamespace(plan=roots, recipe=job_of(refined).recipe, once=lambda key, make: make())
    clip = Clip("c", "blocks", "v", "m", truth="truth.npz")
    rows = {row["expert"]: row["num_right"] / row["num_joints"] for row in _accuracy_rows(unit, clip, arrays, fused)}
    assert list(rows) == ["bright_block", "precomputed", "SST-A", "fusion (consensus)", "student block_student"]
    assert rows["student block_student"] == 1


def test_the_build_says_what_it_did(refined: Path, installed: Path, tmp_path: Path) -> None:
    clip_id = dataengine.open(refined).clips.collect()["clip_id"][0]
    told = to_text(explain(refined, clip_id))
    assert "gate published" in told and "generation 1 of block_student" in told and "jitter_before" in told
    page = (refined / "dataset" / "report.html").read_text()
    assert "Refinement" in page and "generation 1 of the student" in page and "left_ankle" in page
    manifest = json.loads((refined / "dataset" / "MANIFEST.json").read_text())
    assert manifest["refine"]["rounds"][0]["verdict"]["published"]
    assert "refine: the poses are those of generation 1 of block_student" in status_text(status(refined))
    made = view(refined, clip_id, tmp_path / "clip.png", experts=True)
    assert made.stat().st_size > 1000


def test_generations_are_listed(refined: Path, plain: Path) -> None:
    (row,) = generations(refined)
    assert row["in_use"] and row["published"] and Path(row["weights"]).is_file()
    assert row["validation"][0] > row["validation"][1]
    told = generations_text([row])
    assert told.startswith("round 1  in use") and "agreement (before)" in told and row["weights"] in told
    with pytest.raises(DataEngineError, match="holds no generation: build with a student"):
        generations(plain)


def test_building_again_changes_nothing(refined: Path, installed: Path) -> None:
    result = build(installed, refined)
    assert not result.changed and all(state.done == state.units for state in result.states)


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "named"), [("worse", {"agreement"}), ("sides", {"agreement", "exchanged"})])
def test_a_student_that_is_worse_is_refused_and_the_poses_stay(
    spoil: str, named: set[str], installed: Path, plain: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    saved = f'experts.precomputed.folder="{installed / "saved"}"'
    given = [*RECIPE, saved, f'students.block_student.spoil="{spoil}"', "refine.rounds=3"]
    dataengine.build(
        "posecap", {"blocks": str(installed / "videos")}, tmp_path / "out", overlay="core", overrides=given,
        engine=SERIAL, progress=Heard(),
    )  # fmt: skip
    told = record(tmp_path / "out")
    assert told["generation"] == 0 and len(told["rounds"]) == 1
    reasons = {line.split()[0] for line in told["rounds"][0]["verdict"]["reasons"]}
    assert named <= reasons, told["rounds"][0]["verdict"]["reasons"]
    assert any(line.startswith("refine: generation 1 is refused, generation 0 stays: ") for line in said)
    for clip_id in dataengine.open(plain).clips.collect()["clip_id"]:
        assert np.array_equal(poses(tmp_path / "out", clip_id), poses(plain, clip_id), equal_nan=True)
    clips = dataengine.open(tmp_path / "out").clips.collect()
    assert set(clips["generation"]) == {0} and clips["moved"].null_count() == len(clips)
    assert verify(tmp_path / "out") == []
    assert "refused round 1" in to_text(explain(tmp_path / "out", clips["clip_id"][0]))


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "published"), [(0.75, True), (6.0, False)])
def test_annotations_of_the_user_decide_too(
    shift: float, published: bool, installed: Path, refined: Path, tmp_path: Path
) -> None:
    """Pictures of a block; annotated where the experts see the joints, and where the student once saw them."""
    block = registry.create("experts", "bright_block").load()
    images, annotations = [], []
    for number, picture in enumerate(blocks.block(12, (64, 32), 3, (250, 240, 230), 60)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture[..., ::-1])
        (pose,) = block.predict(picture[None])
        points = np.zeros((17, 3))
        points[[0, *range(5, 17)], :2] = pose.coords[0] + (shift, 0 if published else -4)
        points[[0, *range(5, 17)], 2] = 2
        x0, y0, x1, y1, _ = pose.boxes[0].tolist()
        images.append({"id": number, "file_name": f"{number}.png"})
        found = {"image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0], "keypoints": points.ravel().tolist()}
        annotations.append(found)
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    out = copied(refined, tmp_path)
    build(installed, out, f'refine.gate.truth="{tmp_path / "truth.json"}"')
    (row,) = record(out)["rounds"]
    judged = {
        (one["name"], one["against"]): one for one in row["verdict"]["comparisons"] if one["name"] in ("oks", "pckh")
    }
    assert judged["oks", "before"]["passes"] == published == row["verdict"]["published"]
    assert judged["oks", "before"]["count"] == 12
    # no precomputed pose of a picture: the experts' fusion takes no part
    assert {against for _, against in judged} == {"before"}


@pytest.mark.slow
def test_later_rounds_start_with_the_generation_before(installed: Path, tmp_path: Path) -> None:
    build(installed, tmp_path / "out", "refine.rounds=2", "refine.epochs=2", "refine.rate=0.3")
    rounds = record(tmp_path / "out")["rounds"]
    assert len(rounds) == 2 and rounds[0]["verdict"]["published"]
    assert rounds[1]["history"][0]["validation"] < rounds[0]["history"][0]["validation"]
    assert rounds[0]["weights_blake3"] != rounds[1]["weights_blake3"] and rounds[1]["settings"]["seed"] == 1


@pytest.mark.slow
def test_what_is_retuned_decodes_no_frame_again(installed: Path, refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    states = {s.name: s for s in build(installed, out, "refine.gamma=0.5", "refine.gate.clips=1").states}
    assert states["pseudo_labels"].done == states["pseudo_labels"].units
    assert states["refine"].done == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("dataengine.passes.refine.fit")
        gate = {s.name: s for s in build(installed, out, "refine.gate.jitter_margin=0.2").states}
        assert gate["refine"].done == 0 and gate["repose"].done == gate["repose"].units, "the same weights count"
        refused = build(installed, out, "refine.gate.min_agreement=1.0", "refine.gate.max_missing=0.0")
        assert record(out)["generation"] == 0 and not refused.failed, "another verdict on what was learned"
    again = {s.name: s for s in build(installed, out).states}
    assert again["refine"].done == 1 and again["repose"].done == again["repose"].units


def test_gc_keeps_the_generation_that_counts(refined: Path, installed: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    found = generation_in_use(job_of(out))
    assert found is not None and found.weights is not None
    shutil.copytree(found.weights.parents[1], found.weights.parents[1].with_name("0123456789ab"))
    os.utime(found.weights.parents[1].with_name("0123456789ab"), (1, 1))
    clean(out, 1, staging_age=0.0)
    assert [path.name for path in found.weights.parents[2].iterdir()] == [found.weights.parents[1].name]
    assert not build(installed, out).changed


def test_without_anybody_sure_enough_the_experts_stay(installed: Path, refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    build(installed, out, "refine.min_joints=14")
    told = record(out)
    assert told["generation"] == 0 and told["rounds"] == []
    assert "no labelled frames to learn from in 4 clips" in told["nothing"]
    assert "Nothing was learned" in (out / "dataset" / "report.html").read_text()
    assert "no labelled frames" in status_text(status(out))


def test_two_videos_are_too_few_to_learn_and_to_judge(installed: Path, refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    build(installed, out, 'refine.splits=["val", "test"]')
    told = record(out)
    assert told["generation"] == 0 and told["rounds"] == []
    assert "too few" in told["nothing"] and "of val, test" in told["nothing"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"round": 1, "weights": "../x"}'])
def test_what_was_changed_by_hand_is_told_and_not_believed(content: str, refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    for path in (out / "work").glob("refine-*/generations/*/round-1/*.json"):
        path.write_text(content)
    (row,) = generations(out)
    assert row["weights"] is None and generations_text([row]).startswith("damaged  ")
    found = generation_in_use(job_of(out))
    assert found is not None and found.number == 1, "the record of the pass says which weights count"


@pytest.mark.slow
def test_lost_or_damaged_weights_are_learned_again(installed: Path, refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    found = generation_in_use(job_of(out))
    assert found is not None and found.weights is not None
    before = found.weights.read_bytes()
    found.weights.write_bytes(before[:-1] + b"\x00")
    assert not build(installed, out).changed
    assert found.weights.read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_while_it_learns_and_built_again_it_gives_the_same_bytes(
    installed: Path, refined: Path, tmp_path: Path
) -> None:
    """A driver of its own is killed as soon as it has learned for an epoch, again when it has a generation."""
    code = (
        "import sys; from pathlib import Path; from tests.passes.test_refine import build\n"
        "build(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    out = tmp_path / "out"
    for what in ("checkpoint.safetensors", GENERATION, "verdict-*.json"):
        driver = subprocess.Popen([sys.executable, "-c", code, str(installed), str(out)])
        pattern = f"refine-*/generations/*/round-1/{what}"
        while driver.poll() is None and not any((out / "work").glob(pattern)):
            time.sleep(0.002)
        driver.kill()
        driver.wait()
    build(installed, out)
    assert record(out) == record(refined)
    names = [path.relative_to(refined / "dataset") for path in (refined / "dataset").rglob("*") if path.is_file()]
    assert all((out / "dataset" / n).read_bytes() == (refined / "dataset" / n).read_bytes() for n in names)
    assert len(names) > 5


@pytest.mark.slow
def test_a_takedown_names_what_learned_from_the_clip_and_a_rewrite_removes_it(refined: Path, tmp_path: Path) -> None:
    out = copied(refined, tmp_path)
    found = generation_in_use(job_of(out))
    assert found is not None and found.weights is not None
    seen = pq.read_table(found.weights.parents[1] / "clips.parquet").to_pylist()
    gone = next(row["clip_id"] for row in seen if not row["held_out"])
    told = takedown(out, [gone], "consent withdrawn", by="test")
    assert told["learned"] == [str(found.weights)]
    assert "1 generation of a student learned from them" in takedown_text(told, False)
    clean(out, staging_age=0.0)
    assert found.weights.is_file(), "the poses of the other clips are still its own"
    rewrite_and_clean(out)
    assert not found.weights.exists() and verify(out) == []
    again = generation_in_use(job_of(out))
    assert again is not None and again.digest != found.digest
    (left,) = (out / "work").glob("refine-*/generations/*/clips.parquet")
    assert gone not in pq.read_table(left)["clip_id"].to_pylist()
    assert takedown(out, [gone], "once more", by="test")["learned"] == []


def test_a_round_is_written_once(refined: Path) -> None:
    job = job_of(refined)
    commit = job.ledger("refine").read("all")
    assert commit is not None
    folder = folder_of(job, commit.inputs) / "round-1"
    row = json.loads((folder / GENERATION).read_text())
    (verdict,) = [json.loads(path.read_text())["verdict"] for path in folder.glob("verdict-*.json")]
    assert {**row, "verdict": verdict} == record(refined)["rounds"][0]
    assert (folder / row["weights"]).stat().st_size == row["bytes"]


def test_mistakes_are_one_line_before_any_work(installed: Path, tmp_path: Path) -> None:
    mistakes = {
        'refine.student="block_studen"': "did you mean 'block_student'",
        'refine.gate.truth="/nowhere.json"': "No such file",
        "refine.splits=[]": "at least 1 item",
        "students.block_student.spoils=1": "did you mean 'spoil'",
    }
    for override, told in mistakes.items():
        with pytest.raises(DataEngineError, match=told) as caught:
            build(installed, tmp_path / "out", override)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "dataset").exists()
