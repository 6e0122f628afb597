"""From spans that people gave to spans that an annotator of frames proposes, and what cannot be learnt."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from dataengine.core.errors import ComponentError, TrainingError
from dataengine.labels.span_table import read_spans
from tests.support import motion_files
from training.config import validate
from training.data.formats import open_datasets
from training.runs import annotate_frames as frames
from training.runs.annotate_frames import annotate_frames, read_span_labels
from training.runs.frame_features import ClipsOfRun, FrameFeatures
from training.runs.frame_table import ClipsOfTable, embed_frames
from training.runs.run import Run, load_run
from training.runs.train import train

RATE = 20.0
LABELS = ("歩く", "wave")


class Made:
    """Clips in whose rows the direction of a label lasts as long as its span, in noise."""

    def __init__(self, clips: int = 24, every: int = 2, fps: float | None = RATE, groups: int = 24) -> None:
        self.keys = tuple(f"clip-{n:02d}" for n in range(clips))
        self.spans: dict[str, list[tuple[str, int, int]]] = {}
        self.read_clips: list[str] = []
        rng, self._clips = np.random.default_rng(0), list[FrameFeatures]()
        for number, key in enumerate(self.keys):
            total = int(rng.integers(80, 120))
            first, second = int(rng.integers(4, 20)), int(rng.integers(10, 40))
            self.spans[key] = [(LABELS[0], first, first + 30), (LABELS[1], second, second + 40)]
            rows = rng.normal(0, 0.2, (-(-total // every), 6)).astype(np.float32)
            for label, start, end in self.spans[key]:
                rows[-(-start // every) : -(-end // every), LABELS.index(label)] += 1
            self._clips.append(FrameFeatures(key, rows, every, total, fps, f"group-{number % groups}"))

    def read(self, numbers: Iterable[int], advance: Callable[[int], None] | None = None) -> Iterator[FrameFeatures]:
        for number in numbers:
            self.read_clips.append(self.keys[number])
            yield self._clips[number]

    def table(self, path: Path, clips: Iterable[int], unit: str = "seconds", more: Iterable[str] = ()) -> Path:
        """What people said of some clips."""
        scale = RATE if unit == "seconds" else 1
        rows = [
            f"{self.keys[n]},{label},{start / scale},{end / scale},{unit}"
            for n in clips
            for label, start, end in self.spans[self.keys[n]]
        ]
        path.write_text("\n".join(["clip_id,label,start,end,unit", *rows, *more]) + "\n", encoding="utf-8")
        return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotators of few steps, for rows that are easy to tell apart."""
    monkeypatch.setattr(frames, "STEPS", 40)
    monkeypatch.setattr(frames, "REPEATS", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A network after one step, and the clips it learnt from."""
    folder = tmp_path_factory.mktemp("run")
    data = motion_files.write(folder / "a.npz", 24, video=0)
    own = {"data": {"train": [str(data)]}, "run": {**motion_files.TABLES["run"], "epochs": 1}}
    train(validate({**motion_files.TABLES, **own}, "test"), folder / "run", stop_after=1)
    return load_run(folder / "run"), data


def test_spans_of_all_other_clips_are_proposed_in_a_form_that_builds_take(tmp_path: Path) -> None:
    clips = Made()
    labels = read_span_labels([clips.table(tmp_path / "said.csv", range(12), more=["clip-12,,,,"])])
    for name in ("p.csv", "p.parquet"):
        found = annotate_frames(clips, labels, tmp_path / name)
        assert (found.learnt, found.proposed) == (13, 11) and found.spans >= 22 and found.result is not None
        assert found.result.value > 0.9 > 0.7 > found.result.baselines["commonest"] > 0.3
        assert found.result.details["frames"] == sum(clip.frames for clip in clips._clips[:13])
        rows = read_spans([str(tmp_path / name)], 0.5).rows
        assert set(rows["clip_id"]) == set(clips.keys[13:]) and set(rows["label_from"]) == {"annotator"}
        for key in clips.keys[13:]:
            mine = rows.filter(pl.col("clip_id") == key)
            for label, start, end in clips.spans[key]:
                best = mine.filter(pl.col("label") == label).sort(pl.col("end") - pl.col("start")).row(-1, named=True)
                assert abs(best["start"] * RATE - start) <= 6 and abs(best["end"] * RATE - end) <= 6
    table = pl.read_csv(tmp_path / "p.csv")
    assert table["margin"].is_sorted() and table["probability"].is_between(0.5, 1).all()
    assert json.dumps(found.to_dict())


def test_unsure_clips_come_first_and_silent_ones_have_a_row(tmp_path: Path) -> None:
    clips = Made()
    clips._clips[20] = FrameFeatures("clip-20", np.full((50, 6), 0.45, np.float32), 2, 100, RATE, "x")
    clips._clips[21] = FrameFeatures("clip-21", np.full((50, 6), -0.1, np.float32), 2, 100, None, "y")
    labels = read_span_labels([clips.table(tmp_path / "said.csv", range(12))])
    annotate_frames(clips, labels, tmp_path / "p.parquet")
    table = pl.read_parquet(tmp_path / "p.parquet")
    assert table["clip_id"][0] == "clip-20"
    silent = table.filter(pl.col("clip_id") == "clip-21").to_dicts()
    assert len(silent) == 1 and silent[0]["label"] is silent[0]["start"] is None and silent[0]["margin"] > 0.3
    assert "clip-21" not in set(read_spans([str(tmp_path / "p.parquet")], 0.0).rows["clip_id"])
    assert silent[0]["unit"] == "frames" and set(table["unit"]) == {"seconds", "frames"}


def test_frames_and_seconds_say_the_same_and_equal_seeds_give_equal_proposals(tmp_path: Path) -> None:
    clips = Made(16)
    paths = []
    for unit in ("seconds", "frames", "seconds"):
        labels = read_span_labels([clips.table(tmp_path / f"{unit}.csv", range(8), unit)])
        paths.append(tmp_path / f"p{len(paths)}.csv")
        annotate_frames(clips, labels, paths[-1])
    assert len({path.read_bytes() for path in paths}) == 1


def test_clips_of_one_group_are_held_out_together_and_few_give_no_figure(tmp_path: Path) -> None:
    for groups, measured in ((4, False), (6, True)):
        clips = Made(16, groups=groups)
        labels = read_span_labels([clips.table(tmp_path / "said.csv", range(12))])
        result = annotate_frames(clips, labels, tmp_path / "p.csv").result
        assert (result is not None) == measured and (result is None or result.details["groups"] == 6)


def test_one_label_short_clips_and_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST", 200)
    clips = Made(16)
    clips._clips[15] = FrameFeatures("clip-15", np.eye(6, dtype=np.float32)[1:2], 2, 1, RATE, "z")  # less than a step
    path = clips.table(tmp_path / "said.csv", range(12))
    only = [line for line in path.read_text(encoding="utf-8").splitlines() if LABELS[0] not in line]
    path.write_text("\n".join(only), encoding="utf-8")
    labels = read_span_labels([path])
    known, _ = frames._thinned(clips.read(range(12)))
    assert sum(len(clip.rows) for clip in known) <= 200 and {clip.every for clip in known} == {8}
    found = annotate_frames(clips, labels, tmp_path / "p.csv")
    table = pl.read_csv(tmp_path / "p.csv")
    assert set(table["label"].drop_nulls()) == {"wave"} and found.proposed == 4
    assert table.filter(pl.col("clip_id") == "clip-15").select("start", "end").rows() == [(0.0, 1 / RATE)]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ((), "no span that people gave"),
        (("clip-00,,,",), "no span that people gave"),
        (("elsewhere,wave,0,1",), "none of its 1 clips is in the data, such as 'elsewhere'"),
        (("clip-00,wave,2,1",), "0 <= start < end"),
        (("clip-00,wave,90,99",), "no frame of the 1 clips has a label: .* such as 'wave' from 90 of 'clip-00'"),
        (("clip-00,,,", "elsewhere,wave,0,1"), "no frame of the 1 clips has a label"),
    ],
)
def test_what_cannot_be_learnt_is_said_in_one_line(tmp_path: Path, lines: tuple[str, ...], what: str) -> None:
    path = tmp_path / "said.csv"
    path.write_text("\n".join(["clip_id,label,start,end", *lines]))
    with pytest.raises((TrainingError, ComponentError), match=what) as raised:
        annotate_frames(Made(4), read_span_labels([path]), tmp_path / "p.csv")
    assert "\n" not in str(raised.value) and not (tmp_path / "p.csv").exists()


def test_proposals_of_before_are_not_learnt_from_and_strange_clips_are_counted(tmp_path: Path) -> None:
    clips = Made(12)
    guessed = tmp_path / "guessed.csv"
    guessed.write_text("clip_id,label,start,end,probability\nclip-09,robot,0,1,0.9\n")
    said = clips.table(tmp_path / "said.csv", range(6), more=["elsewhere,wave,0,1,"])
    with pytest.warns(UserWarning, match="1 of 1 proposed spans are left out"):
        labels = read_span_labels([said, guessed])
    assert labels.names == ("wave", LABELS[0]) and "clip-09" not in labels.spans
    with pytest.warns(UserWarning, match="1 of 7 clips are not in the data, such as 'elsewhere'"):
        annotate_frames(clips, labels, tmp_path / "p.csv")
    labels = read_span_labels([clips.table(tmp_path / "late.csv", range(6), more=["clip-00,wave,90,99,"])])
    with pytest.warns(UserWarning, match="1 spans lie outside of their clips and are left out, such as 'wave' from 90"):
        annotate_frames(clips, labels, tmp_path / "p.csv")
    more = ["clip-00,wave,1,99,", "clip-00,wave,1,99,"]
    with pytest.warns(UserWarning, match="1 spans stand there twice"):
        labels = read_span_labels([clips.table(tmp_path / "long.csv", range(6), more=more)])
    with pytest.warns(
        UserWarning, match="1 spans end after their clips and are cut there, such as 'wave' to 99 of 'cl"
    ):
        annotate_frames(clips, labels, tmp_path / "p.csv")


def test_clips_that_show_no_pose_are_neither_learnt_from_nor_given_proposals(tmp_path: Path) -> None:
    clips = Made(16)
    for number in (0, 14):
        clips._clips[number] = dataclasses.replace(clips._clips[number], shows_pose=False)
    labels = read_span_labels([clips.table(tmp_path / "s.csv", range(8))])
    with pytest.warns(UserWarning, match="2 of 16 clips show no pose .* for example 'clip-00'"):
        found = annotate_frames(clips, labels, tmp_path / "p.csv")
    assert (found.learnt, found.proposed) == (7, 7)
    last = pl.read_csv(tmp_path / "p.csv").row(-1, named=True)
    assert (last["clip_id"], last["label"], last["margin"], last["reason"]) == ("clip-14", None, None, "no_pose")
    labels = read_span_labels([clips.table(tmp_path / "s.csv", [0])])
    with pytest.raises(TrainingError, match="none of the 1 clips that people looked at shows a pose"):
        annotate_frames(clips, labels, tmp_path / "q.csv")


def test_seconds_without_a_frame_rate_are_refused(tmp_path: Path) -> None:
    clips = Made(12, fps=None)
    with pytest.raises(TrainingError, match="poses do not say their frame rate"):
        annotate_frames(clips, read_span_labels([clips.table(tmp_path / "s.csv", range(6))]), tmp_path / "p.csv")
    labels = read_span_labels([clips.table(tmp_path / "f.csv", range(6), "frames")])
    assert annotate_frames(clips, labels, tmp_path / "p.csv").proposed == 6


def test_a_network_gives_features_of_frames_and_a_table_keeps_them(run: tuple[Run, Path], tmp_path: Path) -> None:
    loaded, data = run
    (dataset,) = open_datasets(str(data))
    clips = ClipsOfRun(loaded, [dataset])
    read = dataset.read

    def without_third(indices: Any) -> Any:
        nobody = np.array(np.nan, np.float32)
        return [
            dataclasses.replace(clip, keypoints=clip.keypoints * nobody) if clip.key == dataset.keys[2] else clip
            for clip in read(indices)
        ]

    dataset.read = without_third  # type: ignore[method-assign]
    assert [clip.shows_pose for clip in clips.read(range(4))] == [True, True, False, True]
    path = embed_frames(clips, tmp_path / "frames.parquet")
    kept = ClipsOfTable(path)
    assert kept.keys == clips.keys and len(clips.keys) == 24
    chosen = [0, 2, 23]
    for one, other in zip(clips.read(chosen), kept.read(chosen), strict=True):
        assert one.rows.shape == (-(-one.frames // one.every), loaded.backbone.width) and np.isfinite(one.rows).all()
        assert np.array_equal(one.rows, other.rows)
        assert one.shows_pose == other.shows_pose == (one.key != dataset.keys[2])
        assert (one.key, one.every, one.frames, one.fps, one.group) == (
            other.key,
            other.every,
            other.frames,
            other.fps,
            other.group,
        )
    pl.DataFrame({"clip_id": ["a"], "feature": [[1.0]]}).write_parquet(tmp_path / "other.parquet")
    for name, what in (("other.parquet", "no features of frames"), ("none.parquet", "can be read")):
        with pytest.raises(TrainingError, match=what):
            ClipsOfTable(tmp_path / name)


def test_the_commands(run: tuple[Run, Path], call: Any, tmp_path: Path) -> None:
    loaded, data = run
    keys = list(open_datasets(str(data))[0].keys)
    said = tmp_path / "said.csv"
    said.write_text("\n".join(["clip_id,label,start,end,unit", *(f"{key},wave,0,9,frames" for key in keys[:6])]))
    code, out, _ = call("embed", loaded.folder, "--data", data, "--frames", "--to", tmp_path / "f.parquet")
    assert code == 0 and "f.parquet" in out
    to = tmp_path / "p.csv"
    code, out, err = call("annotate", tmp_path / "f.parquet", "--frames", "--labels", said, "--to", to, "--json")
    assert code == 0
    told = json.loads(out)
    assert code == 0 and told["learnt"] == 6 and pl.read_csv(to)["clip_id"].n_unique() == 18, err
    code, out, err = call("annotate", loaded.folder, "--data", data, "--frames", "--labels", said, "--to", to)
    assert code == 0 and "learnt from 6 clips" in out and "spans = [" in out and "commonest" in out, err
    for arguments, what in (
        (("annotate", tmp_path / "f.parquet", "--labels", said, "--to", to), "no column feature"),
        (
            ("annotate", loaded.folder, "--labels", said, "--labels", said, "--to", to),
            "labels of clips stand in one file",
        ),
        (("annotate", loaded.folder, "--frames", "--labels", said, "--to", tmp_path / "p.txt"), "allowed endings"),
        (
            ("annotate", tmp_path / "f.parquet", "--frames", "--data", data, "--labels", said, "--to", to),
            "leave out --data",
        ),
        (("embed", loaded.folder, "--frames", "--blocks", "--to", to), "give one of them"),
        (("embed", loaded.folder, "--frames", "--data", data, "--to", to), "ends in .parquet"),
    ):
        code, _, err = call(*arguments)
        lines = [line for line in err.strip().splitlines() if not line.startswith("note: ")]
        assert code == 1 and what in err and len(lines) == 1, err
