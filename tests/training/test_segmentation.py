"""Segmentation: spans of files and annotations, windows, events, and streams that give the offline answer."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DataEngineError, TrainingError
from tests.support.motions import CLASSES, Motions
from training import create_backbone, create_method
from training.data.annotations import read_all, read_spans
from training.data.formats import open_dataset
from training.data.spans import AnnotatedDataset, SpanTable, WindowedDataset, cut, dense, renumbered
from training.data.types import SkeletonSequence
from training.evaluate.metrics import segments
from training.evaluate.segmentation import (
    Boundaries,
    FrameScores,
    events_of,
    overlapping,
    runs_of,
    segmentation_results,
    segments_of,
    smoothed,
)
from training.methods.segmentation import at_frames
from training.runs.frame_probe import frame_floors, frame_probe
from training.runs.sliding import frame_scores, segmenting, stream_of
from training.transforms.preprocess import Preprocess
from training.transforms.view import View
from training.transforms.windows import prepared_window

PREPROCESS = Preprocess("body13")


def arrays(**changed):
    """An npz file of two clips, 20 and 30 frames, with spans."""
    rng = np.random.default_rng(0)
    held = {
        "keypoints": rng.random((50, 13, 2)),
        "offsets": [0, 20, 50],
        "names": ["a", "b"],
        "spans": [[0, 0, 5], [1, 3, 9], [0, 2, 30]],
        "span_offsets": [0, 2, 3],
        "span_names": ["x", "y"],
        "split": ["train", "val"],
        "fps": 10.0,
    }
    return {key: value for key, value in (held | changed).items() if value is not None}


def npz(folder, **changed):
    np.savez(folder / "a.npz", **arrays(**changed))
    return str(folder / "a.npz")


def method_of(seed: int = 0, **options):
    torch.manual_seed(seed)
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=8, blocks=(1, 1))
    return create_method("segment", backbone=backbone, num_classes=4, **options).eval()


def test_spans_of_npz_and_pyskl_files(tmp_path):
    dataset = open_dataset(npz(tmp_path))
    assert dataset.span_labels == ("x", "y") and dataset.lengths.tolist() == [20, 30]
    first, second = dataset.read([0, 1])
    assert first.spans.tolist() == [[0, 0, 5], [1, 3, 9]] and second.spans.tolist() == [[0, 2, 30]]
    assert open_dataset(npz(tmp_path), split="val").read([0])[0].spans.tolist() == [[0, 2, 30]]
    assert dense(first.spans, 6, 2)[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    note = {"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 9, 17, 2)), "spans": [[1, 2, 9]]}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"annotations": [note], "span_names": ["x", "y"]}))
    assert open_dataset(str(path)).read([0])[0].spans.tolist() == [[1, 2, 9]]


def test_files_without_spans_have_the_fingerprint_they_had(tmp_path):
    without = open_dataset(npz(tmp_path, spans=None, span_offsets=None, span_names=None))
    assert without.read([0])[0].spans is None and without.span_labels == ()
    assert without.fingerprint != open_dataset(npz(tmp_path)).fingerprint


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"span_names": None}, "it holds spans and no span_names"),
        ({"span_offsets": [0, 2]}, "span_offsets must be 3 whole numbers from 0 to the number of spans, 3"),
        ({"spans": [[0, 0, 5], [2, 3, 9], [0, 2, 30]]}, "spans of clip 'a' are of class 2, which has no name"),
        ({"spans": [[0, 0, 5], [1, 9, 9], [0, 2, 30]]}, "go from frame 9 to 9; allowed: 0 <= first < end <= 20"),
        ({"spans": [[0, 0, 5], [1, 3, 9], [0, 2, 31]]}, "go from frame 2 to 31; allowed: 0 <= first < end <= 30"),
        ({"spans": [[0.0, 0, 5], [1, 3, 9], [0, 2, 3]]}, "whole numbers .S, 3."),
    ],
)
def test_wrong_spans_are_said_in_one_line(tmp_path, changed, said):
    with pytest.raises(TrainingError, match=said) as caught:
        open_dataset(npz(tmp_path, **changed))
    assert "\n" not in str(caught.value)


def charades(folder):
    (folder / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Taking clothes\n")
    path = folder / "Charades_v1_train.csv"
    path.write_text(
        'id,subject,script,actions,length\na,S,"one, two",c001 0.30 0.90;c000 0.00 1.99,2.0\nb,S,"x\ny",,3\n'
    )
    return path


def test_charades(tmp_path):
    table = read_spans(charades(tmp_path))
    assert table.labels == ("Holding some clothes", "Taking clothes") and table.unit == "seconds"
    assert table.rows == {"a": [(1, 0.3, 0.9), (0, 0.0, 1.99)], "b": []} and table.splits["a"] == "train"
    dataset = AnnotatedDataset(open_dataset(npz(tmp_path)), table)  # 10 frames a second
    assert dataset.read([0])[0].spans.tolist() == [[1, 3, 9], [0, 0, 20]] or dataset.read([0])[0].spans.tolist() == [
        [0, 0, 20],
        [1, 3, 9],
    ]
    assert dataset.read([1])[0].spans.tolist() == []
    without_rate = AnnotatedDataset(open_dataset(npz(tmp_path, fps=None)), table)
    assert without_rate.read([0])[0].spans.tolist() == dataset.read([0])[0].spans.tolist()  # by the length, 2 s


def test_tsu(tmp_path):
    path = tmp_path / "smarthome.json"
    videos = {
        "a": {"subset": "training", "duration": 40, "actions": [[1, 4, 20.0]]},
        "b": {"subset": "testing", "duration": 3.0, "actions": []},
    }
    path.write_text(json.dumps(videos))
    table = read_spans(path)
    assert table.labels == ("0", "1") and table.splits == {"a": "train", "b": "test"}
    train = AnnotatedDataset(open_dataset(npz(tmp_path)), table, "train")
    assert train.keys == ["a"] and train.read([0])[0].spans.tolist() == [[1, 2, 10]]
    with pytest.raises(TrainingError, match="no clip of split 'val'; its splits: test, train"):
        AnnotatedDataset(open_dataset(npz(tmp_path)), table, "val")


def test_pku_mmd(tmp_path):
    folder = tmp_path / "Train_Label_PKU_final"
    folder.mkdir()
    (folder / "0002-L.txt").write_text("3,5,9,1\n1,12,30,2\n\n")
    (folder / "0003-M.txt").write_text("2,1,4,1\n")
    (tmp_path / "cross-subject.txt").write_text("Training videos: \n0002-L, \nValidataion videos: \n0003-M, \n")
    table = read_spans(folder)
    assert table.rows["0002-L"] == [(2, 5.0, 10.0), (0, 12.0, 31.0)]
    assert table.splits == {"0002-L": "train", "0003-M": "val"}
    dataset = AnnotatedDataset(open_dataset(npz(tmp_path, names=["0002-L", "x/0003-M.skeleton"])), table)
    assert dataset.read([0])[0].spans.tolist() == [[2, 5, 10], [0, 12, 20]]  # cut off at the end of the clip
    assert dataset.read([1])[0].spans.tolist() == [[1, 1, 5]]


def test_own_csv_and_several_files(tmp_path):
    (tmp_path / "one.csv").write_text("clip_id,label,start,end,unit,split\na,jump,0.5,1.0,seconds,train\n")
    (tmp_path / "two.csv").write_text(
        "file,label,start,end,unit,split\nb,wave,0,0.3,seconds,test\nb,jump,1,2,seconds,test\n"
    )
    table = read_all([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert table.labels == ("jump", "wave") and table.rows["b"] == [(1, 0.0, 0.3), (0, 1.0, 2.0)]
    assert AnnotatedDataset(open_dataset(npz(tmp_path)), table).read([0])[0].spans.tolist() == [[0, 5, 10]]
    late = SpanTable("late.csv", ("x",), {"a": [(0, 3, 9), (0, 5000, 6000)], "b": []}, "frames")
    with pytest.warns(UserWarning, match=r"late\.csv: of .* 1 span is left out that would begin after .* one of 'a'"):
        assert AnnotatedDataset(open_dataset(npz(tmp_path)), late).read([0])[0].spans.tolist() == [[0, 3, 9]]
    rows = pl.read_csv(tmp_path / "one.csv").with_columns(probability=pl.lit(0.5))
    pl.concat([rows, pl.DataFrame({"clip_id": ["c"]})], how="diagonal").with_columns(
        unit=pl.lit("seconds")
    ).write_parquet(tmp_path / "one.parquet")
    same = read_spans(tmp_path / "one.parquet")
    assert (same.rows, same.unit, same.splits) == ({"a": [(0, 0.5, 1.0)], "c": []}, "seconds", {"a": "train"})
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match=r"torn\.parquet: spans cannot be read"):
        read_spans(tmp_path / "torn.parquet")
    text = (tmp_path / "one.csv").read_text()
    (tmp_path / "sheet.csv").write_bytes(text.replace(",", ";").encode("utf-16"))  # as a spreadsheet writes it
    assert read_spans(tmp_path / "sheet.csv").rows == read_spans(tmp_path / "one.csv").rows
    with pytest.raises(TrainingError, match="two of them say something of clip 'a'"):
        read_all([tmp_path / "one.csv", tmp_path / "one.csv"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "id,actions\nx,c01 5\n", "a.csv, line 2: 'c01 5' cannot be read as a class with its start and end"),
        ("a.csv", "id,actions\nx,c01 5 nan\n", "class 1 from 5 to nan; allowed: numbers from 0"),
        ("a.csv", "one,two\n1,2\n", "its columns are .*; allowed: a CSV of Charades"),
        ("a.json", '{"a": {"duration": 0, "actions": []}}', "video 'a' cannot be read"),
        ("a.json", '{"a": {"actions": []}}', "video 'a' cannot be read .KeyError: 'duration'."),
        ("a.json", "[1", "no JSON"),
        ("0002-L.txt", "0,1,2,1\n", "line 1: '0,1,2,1' cannot be read"),
        ("a.csv", "clip_id,label,start,end\n", "it has no row"),
        ("a.csv", "clip_id,label,start,end\na,x\n", "line 2: ' ' cannot be read"),
        ("b.txt", "nothing", "holds no label file such as 0002-L.txt"),
        ("c.csv", "clip_id,label,start,end,unit\na,x,0,1,hours\n", "unit hours; allowed: one of frames and seconds"),
    ],
)
def test_wrong_annotations_are_said_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=said) as caught:
        read_spans(tmp_path if name.endswith(".txt") else tmp_path / name)
    assert "\n" not in str(caught.value)


def test_annotations_of_other_clips_are_refused(tmp_path):
    (tmp_path / "one.csv").write_text("clip_id,label,start,end\nz,jump,0,1\n")
    with pytest.raises(
        TrainingError, match=r"it knows none of the 2 clips of .*: there they are called 'z', here 'a', 'b'"
    ):
        AnnotatedDataset(open_dataset(npz(tmp_path)), read_spans(tmp_path / "one.csv"))
    with pytest.raises(TrainingError, match="there is no such file of spans"):
        read_spans(tmp_path / "absent.csv")


def test_windows_cover_clips_and_keep_what_happens_in_its_place(tmp_path):
    windows = WindowedDataset(open_dataset(npz(tmp_path)), 8, 4)
    assert windows.keys[:4] == ["a@0", "a@4", "a@8", "a@12"] and windows.keys[-1] == "b@20"
    regions = windows.read(range(4))
    assert [region.keypoints.shape[1] for region in regions] == [12, 12, 12, 8]
    assert [region.spans.tolist() for region in regions[:3]] == [
        [[0, 0, 5], [1, 3, 9]],
        [[0, 0, 1], [1, 0, 5]],
        [[1, 0, 1]],
    ]
    assert windows.groups[:2] == ["a", "a"] and copy.deepcopy(windows).fingerprint == windows.fingerprint


def test_spans_take_the_numbers_of_other_names():
    spans = np.array([[0, 1, 2], [1, 3, 4]])
    assert renumbered(spans, ("x", "y"), ("y", "z")).tolist() == [[0, 3, 4]]
    assert renumbered(None, ("x",), ("y",)) is None


def test_a_window_keeps_frames_in_which_nobody_is_seen():
    joints = np.random.default_rng(0).random((1, 10, 13, 2), np.float32)
    joints[:, :3] = np.nan
    whole, valid = prepared_window(PREPROCESS, SkeletonSequence("a", joints), 12)
    assert whole.shape == (1, 12, 13, 2) and valid.tolist() == [True] * 10 + [False] * 2
    assert not whole[:, :3].any() and whole[:, 3:10].any((0, 2, 3)).all()
    np.testing.assert_array_equal(whole[:, 10:], whole[:, [9, 9]])
    np.testing.assert_array_equal(whole[:, 3:10], PREPROCESS.joints(SkeletonSequence("a", joints)))


def test_samples_pair_each_frame_with_what_happens_in_it():
    """The horizontal position of all joints is the number of the frame, so that the window says where it was cut."""
    frames = 40
    joints = np.zeros((1, frames, 13, 2), np.float32)
    joints[0, :, :, 0] = np.arange(frames)[:, None]
    joints[0, :, :, 1] = np.arange(13)
    spans = np.array([[2, 10, 23]])
    clip = SkeletonSequence("a", joints, spans=spans)
    transform = method_of().sample_transform(Preprocess("body13", normalise="none"), View(16, "weak", "body13"))
    plain = type(transform)(transform.preprocess, View(16, "none", "body13"), 16, 4)
    for seed in range(8):
        sample = plain(clip, np.random.default_rng(seed))
        place = sample["motion"].array[0, :, 0, 0].round().astype(int)
        assert (np.diff(place) == 1).all()
        np.testing.assert_array_equal(sample["dense"][:, 2], (place >= 10) & (place < 23))
        assert sample["valid"].all() and not sample["dense"][:, [0, 1, 3]].any()
        crooked = transform(clip, np.random.default_rng(seed))  # crop of "weak" is left out
        np.testing.assert_array_equal(crooked["dense"], sample["dense"])


def test_steps_lie_at_multiples_of_the_stride():
    steps = torch.arange(4.0).view(1, 1, 4) * 4
    np.testing.assert_allclose(at_frames(steps, 14, 4)[0, 0], np.minimum(np.arange(14), 12))
    assert at_frames(steps, 4, 1) is steps


@pytest.mark.parametrize("options", [{}, {"head": "tcn"}, {"head": "window"}, {"loss": "softmax"}])
def test_scores_are_probabilities_of_frames(options):
    scores = method_of(**options).frame_scores(torch.randn(2, 2, 16, 13, 1))
    assert scores.shape == (2, 16, 4) and bool(((scores > 0) & (scores < 1)).all())
    if options.get("head") == "window":
        assert bool((scores == scores[:, :1]).all())
    if options.get("loss") == "softmax":
        assert bool((scores.sum(-1) < 1).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "at least one class"),
        ({"num_classes": 2, "head": "cnn"}, "head"),
        ({"num_classes": 2, "hop": -1}, "hop"),
    ],
)
def test_wrong_options_are_said(options, said):
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=8, blocks=(1, 1))
    with pytest.raises(TrainingError, match=said):
        create_method("segment", backbone=backbone, **options)


@pytest.mark.parametrize("frames", [1, 5, 16, 17, 31, 100])
@pytest.mark.parametrize("hop", [0, 5, 16])
def test_a_stream_gives_the_offline_answer_in_bounded_memory(frames, hop):
    rng = np.random.default_rng(frames)
    joints = np.cumsum(rng.normal(size=(1, frames, 13, 2)), 1).astype(np.float32)
    method = method_of()
    whole = stream_of(method, PREPROCESS, 16, hop, 32)
    offline = np.concatenate([whole.push(joints), whole.close()])
    stream, given, start = stream_of(method, PREPROCESS, 16, hop), [], 0
    while start < frames:
        stop = min(frames, start + int(rng.integers(1, 13)))
        given.append(stream.push(joints[:, start:stop]))
        assert stop - sum(map(len, given)) <= stream.delay and stream._joints.shape[1] <= 2 * 16
        start = stop
    online = np.concatenate([*given, stream.close()])
    assert online.shape == offline.shape == (frames, 4)
    np.testing.assert_allclose(online, offline, atol=1e-6)


def test_a_stream_takes_people_who_come_later_and_refuses_other_joints():
    method, rng = method_of(), np.random.default_rng(0)
    stream = stream_of(method, PREPROCESS, 8)
    stream.push(rng.random((1, 10, 13, 2), np.float32), np.ones((1, 10, 13), np.float32))
    stream.push(rng.random((2, 10, 13, 2), np.float32), np.ones((2, 10, 13), np.float32))
    with pytest.raises(TrainingError, match="give pieces of one sequence"):
        stream.push(rng.random((1, 10, 14, 2), np.float32))
    with pytest.raises(TrainingError, match="with all pieces of a sequence or with none"):
        stream.push(rng.random((1, 10, 13, 2), np.float32))
    assert len(stream_of(method, PREPROCESS, 8).close()) == 0


def test_methods_without_classes_of_frames_are_refused():
    backbone = create_backbone("stgcn", 4, "body13", 2, people=1, channels_base=8, blocks=(1, 1))
    with pytest.raises(TrainingError, match="train a head on its network with `dataengine-train segment`"):
        segmenting(create_method("supervised", backbone=backbone), "runs/x")


def test_runs_close_gaps_and_drop_short_ones():
    active = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 0], bool)
    assert runs_of(active).tolist() == [[1, 3], [4, 5], [8, 9]]
    assert runs_of(active, gap=1).tolist() == [[1, 5], [8, 9]]
    assert runs_of(active, gap=3).tolist() == [[1, 9]]
    assert runs_of(active, shortest=2).tolist() == [[1, 3]] and runs_of(active[:0]).shape == (0, 2)


def test_the_moving_mean_is_shorter_at_the_ends():
    values = np.arange(5.0)[:, None]
    np.testing.assert_allclose(smoothed(values, 3)[:, 0], [0.5, 1, 2, 3, 3.5])
    assert smoothed(values, 1) is not None and smoothed(values[:0], 3).shape == (0, 1)


def perfect(spans, frames=100, k=3):
    return 0.02 + 0.96 * dense(spans, frames, k)


def test_perfect_scores_have_perfect_figures():
    spans = np.array([[0, 0, 30], [1, 20, 50], [2, 60, 90]])
    assert overlapping(spans) and not overlapping(spans[[0, 2]])
    clip = FrameScores("a", perfect(spans).astype(np.float32), spans)
    found = {r.metric: r.value for r in segmentation_results([clip], ("x", "y", "z"), boundaries=Boundaries(smooth=1))}
    assert all(value == pytest.approx(1) for value in found.values()), found
    events = events_of(clip.scores, Boundaries(smooth=1))
    assert sorted(map(tuple, events[:, :3].astype(int).tolist())) == [tuple(span) for span in spans.tolist()]
    assert events[:, 3] == pytest.approx(0.96)


def test_segments_of_exclusive_scores_are_the_runs_of_the_best_class():
    rng = np.random.default_rng(1)
    truth = np.repeat(rng.integers(0, 4, 12), 10)  # 3 is the background
    scores = 0.1 + 0.6 * np.eye(4)[truth][:, :3]
    found = segments_of(scores, True, Boundaries(smooth=1, gap=0, shortest=1))
    np.testing.assert_array_equal(found, segments(truth, 3))


def test_an_event_with_right_boundaries_is_the_best():
    """Of runs at several thresholds, the one whose frames stand out most from those beside stays."""
    scores = np.zeros((100, 1))
    scores[30:60] = 0.6
    scores[25:65, 0] += 0.15
    events = events_of(scores, Boundaries(smooth=1))
    assert events[0, 1:3].tolist() == [30, 60] and len(events) == 1


def test_figures_need_spans():
    with pytest.raises(TrainingError, match="none of 1 clips has a span"):
        segmentation_results([FrameScores("a", np.zeros((5, 2), np.float32), None)], ("x", "y"))


def untrimmed(count=3, seed=0):
    """Sequences of four motions each, from `Motions`."""
    clips = Motions(4 * count, seed)
    made = []
    for row in range(count):
        parts = clips.clips[4 * row : 4 * row + 4]
        ends = np.cumsum([0, *(part.keypoints.shape[1] for part in parts)])
        spans = np.array([[part.label, a, b] for part, a, b in zip(parts, ends, ends[1:])])
        joints = np.concatenate([part.keypoints for part in parts], 1)
        made.append(SkeletonSequence(f"s{row}", joints, None, -1, (640, 480), 25.0, spans=spans))
    clips.clips, clips.keys, clips.label_ids = made, [clip.key for clip in made], np.full(count, -1)
    clips.fingerprint = f"untrimmed {count} {seed}"
    return clips


def test_floors_and_probes_of_frames_know_more_than_chance():
    train, test = untrimmed(3, 1), untrimmed(2, 2)
    for scores in frame_floors([train], [test], CLASSES, PREPROCESS, 16).values():
        found = segmentation_results(scores, CLASSES)[0]
        assert found.value > found.baselines["chance"] + 0.2
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=8, blocks=(1, 1))
    probe = frame_probe(backbone, [train], CLASSES, PREPROCESS, 16)
    found = segmentation_results(list(frame_scores(probe, [test], CLASSES, PREPROCESS, 16)), CLASSES)[0]
    assert found.value > found.baselines["chance"] + 0.1


def test_cut_keeps_what_lies_in_it():
    clip = SkeletonSequence("a", np.zeros((1, 20, 13, 2), np.float32), spans=np.array([[0, 0, 5], [1, 4, 18]]))
    part = cut(clip, 5, 12, clip.spans)
    assert part.keypoints.shape[1] == 7 and part.spans.tolist() == [[1, 0, 7]]


def test_windows_need_spans():
    from training.data.spans import joined_span_labels

    clips = Motions(2)
    clips.span_labels = ()
    with pytest.raises(DataEngineError, match="no clip has spans of what happens when"):
        joined_span_labels([clips])
