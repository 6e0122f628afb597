"""The rendered corpus: real files, both layouts, exact joints, planted defects, the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import dataengine.sources.synthetic as sample
from dataengine.core.errors import ComponentError, MediaError, SourceError
from dataengine.core.reasons import REASONS
from dataengine.core.registry import create
from dataengine.core.types import Clip, Sample
from dataengine.media.probe import probe
from dataengine.sources.synthetic_clips import CAP_ACTIONS, DEFECTS, KINETICS_ACTIONS, SHOTS, RenderedVideo, joined


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Clip]:
    return list(create("sources", "sample", {"clips": 12}).discover(corpus))


@pytest.fixture(scope="module")
def by_defect(corpus: Path, clips: list[Clip]) -> dict[str, Clip]:
    ids = {sample.fake_id(0, number): defect.name for number, defect in enumerate(DEFECTS, sample._FIRST_DEFECT)}
    return {ids[clip.video_id]: clip for clip in clips if clip.video_id in ids}


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_both_layouts_are_read(corpus: Path, clips: list[Clip]) -> None:
    assert len({clip.clip_id for clip in clips}) == len(clips) == 12 + len(DEFECTS) + 1
    assert all(clip.clip_id.startswith("sample-") and clip.source == "sample" and clip.url is None for clip in clips)
    assert {(clip.licence, clip.consent) for clip in clips if clip.reason is None} == {
        ("CC0-1.0", "rendered; no person depicted")
    }
    assert {clip.split for clip in clips} == {"train", "val"}
    ordinary = [clip for clip in clips if clip.clip_id not in sample.planted(corpus)]
    motions = {label: motion for actions in (KINETICS_ACTIONS, CAP_ACTIONS) for motion, label in actions.items()}
    assert len(ordinary) == 12 and len({motions[clip.label or ""] for clip in ordinary}) == 12
    cap = [clip for clip in clips if clip.media.startswith("cap/")]
    assert len(cap) == 4 and all(clip.actor and clip.subject and clip.span_start is not None for clip in cap)
    assert max(Counter(clip.media for clip in cap).values()) == 2


def test_truth_fits_the_pictures(corpus: Path, clips: list[Clip]) -> None:
    people = set()
    for clip in clips:
        if clip.truth is None:
            assert clip.media == "" or sample.planted(corpus)[clip.clip_id] in ("media_empty", "media_corrupt")
            continue
        with np.load(corpus / clip.truth, allow_pickle=False) as truth:
            joints, info = truth["joints"], probe(corpus / clip.media)
            assert (
                joints.shape[2:] == (14, 2)
                and truth["head"].shape == joints.shape[:2]
                and truth["hidden"].shape == joints.shape[:3]
            )
            assert len(joints) == pytest.approx(float(info.duration or 0) * float(truth["fps"]), abs=1.01)
            people.add(joints.shape[1])
        if clip.actor:
            boxes, fps = np.array(json.loads(clip.actor)), float(info.fps)
            for second, x0, y0, x1, y1 in boxes:
                inside = np.clip(
                    joints[min(round(second * fps), len(joints) - 1), 0], (0, 0), (info.width, info.height)
                )
                assert (inside >= (x0 - 0.1, y0 - 0.1)).all() and (inside <= (x1 + 0.1, y1 + 0.1)).all()
    assert people == {0, 1, 2, 3}


def test_planted_defects_are_what_they_claim(corpus: Path, by_defect: dict[str, Clip]) -> None:
    def file(name: str) -> Path:
        return corpus / by_defect[name].media

    for name, kind in (("empty", "media_empty"), ("no_index", "media_corrupt")):
        with pytest.raises(MediaError) as caught:
            probe(file(name))
        assert caught.value.kind == kind
    assert by_defect["missing"].media == "" and by_defect["missing"].reason is None
    assert (
        file("copy").read_bytes() == file("original").read_bytes()
        and by_defect["copy"].label == by_defect["original"].label
    )
    assert len(decoded(file("short"))) < 16
    turned = probe(file("turned"))
    assert (turned.rotation, turned.width, turned.height) == (90, 256, 340)
    with av.open(str(file("uneven"))) as video:
        steps = np.diff([frame.time for frame in video.decode(video=0)])
    assert np.unique(np.round(steps, 3)).size > 1
    still = decoded(file("still")).astype(float)
    assert np.abs(still - still[0]).mean() < 2
    change = np.abs(np.diff(decoded(file("cut")).astype(float), axis=0)).mean((1, 2, 3))
    assert change.argmax() == 49 and change[49] > 5 * np.delete(change, 49).max()
    with np.load(corpus / (by_defect["edge"].truth or "")) as truth:
        assert (truth["joints"][:, 0, 8:, 1] > probe(file("edge")).height).mean() > 0.8
    for name in ("nobody", "nobody_panned"):
        with np.load(corpus / (by_defect[name].truth or "")) as truth:
            assert truth["joints"].shape[1] == 0


def test_the_filters_name_them_given_exact_joints(corpus: Path, clips: list[Clip]) -> None:
    planted, filters = (
        sample.planted(corpus),
        {name: create("filters", name) for name in ("length", "truncation", "motion", "camera_cut")},
    )
    for clip in clips:
        expected = planted.get(clip.clip_id, "keep")
        if clip.truth is None or expected not in ("keep", *filters):
            continue
        info, pictures = probe(corpus / clip.media), decoded(corpus / clip.media)
        with np.load(corpus / clip.truth) as truth:
            fps = float(truth["fps"])
            span = slice(round((clip.span_start or 0) * fps), round(clip.span_end * fps) if clip.span_end else None)
            # Experts keep joints inside the picture.
            joints = np.clip(truth["joints"][span].transpose(1, 0, 2, 3), 0, (info.width - 1, info.height - 1)).astype(
                np.float32
            )
        small = np.stack(
            [cv2.resize(picture, (64, 48), interpolation=cv2.INTER_AREA) for picture in pictures[span]]
        ).astype(np.float32)
        change = np.abs(np.diff(small, axis=0, prepend=small[:1])).mean((1, 2, 3)) / 255
        ones = np.ones(joints.shape[:3], np.float32)
        seen = Sample(
            info.width,
            info.height,
            fps,
            "body14",
            joints,
            ones,
            ones[..., 0],
            ones[..., 0].astype(int),
            ones,
            ones[0, :, 0].astype(int),
            change,
        )
        named = [name for name, made in filters.items() if not made.keep(made.measure(seen))]
        assert (named[0] if named else "keep") == expected, clip


def test_expectations_are_written(corpus: Path, clips: list[Clip], by_defect: dict[str, Clip]) -> None:
    planted = sample.planted(corpus)
    assert set(planted.values()) - {"keep"} <= set(REASONS)
    assert {by_defect[d.name].clip_id: d.expected for d in DEFECTS} == {
        k: v for k, v in planted.items() if v != "bad_row"
    }
    (bad,) = [clip for clip in clips if clip.reason]
    assert (planted[bad.clip_id], bad.reason) == ("bad_row", "bad_row") and "#NAME?" in (bad.detail or "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Shots of three grey frames, for what does not depend on pictures."""

    def render(self: object, seed: int, motion: str | None, seconds: float) -> RenderedVideo:
        count = 16 if seconds > 1 else 3
        grey = np.full((count, 64, 64, 3), seed % 200, np.uint8)
        joints = np.full((count, 1, 14, 2), 30, np.float32)
        return RenderedVideo(
            grey, joints, np.full((count, 1), 5, np.float32), np.zeros((count, 1, 14), bool), SHOTS[0].fps, "clean"
        )

    return lambda: monkeypatch.setattr("dataengine.sources.synthetic_clips.Shot.render", render)


def same(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert [path for path in files if (one / path).read_bytes() != (other / path).read_bytes()] == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, corpus: Path) -> None:
    sample.write_corpus(tmp_path / "again", 12, 0)
    same(corpus, tmp_path / "again")


def test_lists_truth_and_files_are_the_same_each_time(tmp_path: Path, quick: Callable[[], None]) -> None:
    quick()
    for name in ("one", "other"):
        sample.write_corpus(tmp_path / name, 30, 7)
    same(tmp_path / "one", tmp_path / "other")


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".corpus.lock"}


def test_a_complete_corpus_is_reused_and_an_interrupted_run_leaves_none(
    tmp_path: Path, quick: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick()
    source = create("sources", "sample", {"clips": 12})
    with monkeypatch.context() as broken:
        broken.setattr(sample, "_write_cap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            source.prepare(tmp_path)
    assert entries(tmp_path) == set()
    root = source.prepare(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert source.prepare(tmp_path) == root and {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert create("sources", "sample", {"clips": 12, "seed": 1}).prepare(tmp_path) != root
    assert len(entries(tmp_path)) == 2


def test_what_a_killed_run_left_is_removed(tmp_path: Path, quick: Callable[[], None]) -> None:
    program = (
        "import os, sys; from pathlib import Path; import dataengine.sources.synthetic as sample\n"
        "sample._write_kinetics = lambda root, clips, seed: (root.mkdir(), os.kill(os.getpid(), 9))\n"
        "sample.write_corpus(Path(sys.argv[1]), 12, 5)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "other")], check=False).returncode == -9
    assert entries(tmp_path) == {".other.partial"}
    quick()
    sample.write_corpus(tmp_path / "corpus", 12, 0)
    assert entries(tmp_path) == {"corpus"}


def test_what_is_no_corpus_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SourceError, match="is no sample corpus"):
        sample.write_corpus(tmp_path / "mine", 12)
    with pytest.raises(SourceError, match=r"no corpus\.json"):
        list(create("sources", "sample").discover(tmp_path))
    with pytest.raises(ComponentError, match="clips"):
        create("sources", "sample", {"clips": 11})


def test_joined_takes_keep_their_order() -> None:
    one = SHOTS[0].render(3, "wave", 0.2)
    both = joined([one, SHOTS[0].render(3, "squat", 0.2)])
    assert len(both.frames) == len(both.joints) == 10 and np.array_equal(both.joints[:5], one.joints)
