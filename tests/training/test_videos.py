"""Videos as training data: folders, tables of labels, the video shards of a built dataset; and the verbs over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DataEngineError, DatasetError, TrainingError
from dataengine.io.shards import ShardWriter
from tests.support import tiny_dataset
from tests.support.motion_files import write
from tests.support.pictures import CLASSES, crossing, write_videos
from training.data.formats import format_of, open_dataset
from training.data.rgb import PICTURES, SECONDS, as_frames

SMALL = {
    "run.epochs": 1,
    "run.min_steps": 0,
    "run.batch": 4,
    "run.floors": "false",
    "run.tensorboard": "false",
    "run.cache": '"memory"',
    "preprocess.size": "[16, 16]",
    "view.frames": 4,
    "backbone.channels_base": 2,
    "method.queue": "{size = 16, momentum = 0.9}",
    "method.projector": "{hidden = 8, width = 4}",
    "method.time": "{hidden = 8, directions = 4}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 4, 4)


def test_a_folder_gives_split_and_class(folder):
    dataset = open_dataset(folder, "train", short_side=16)
    assert dataset.skeleton == PICTURES and dataset.labels == CLASSES and len(dataset) == 4
    clip = dataset.read([1])[0]
    frames = as_frames(clip.keypoints)
    assert frames.shape == (12, 16, 20, 3) and clip.size == (20, 16) and clip.fps == pytest.approx(10)
    assert clip.features[SECONDS].tolist() == pytest.approx([n / 10 for n in range(12)])
    number = int(Path(clip.key).stem)
    whole = as_frames(open_dataset(folder, "train").read([1])[0].keypoints)
    assert np.abs(whole.astype(int) - crossing(number, size=(40, 32))).mean() < 6  # an mp4 is not exact
    half = open_dataset(folder, "train", short_side=16, every=2)
    assert half.read([1])[0].keypoints.shape[1] == 6 and half.fingerprint != dataset.fingerprint
    assert len(open_dataset(folder)) == 8


def test_a_table_says_more_than_folders(folder, tmp_path):
    name = next(path for path in sorted(folder.rglob("*.mp4"))).relative_to(folder).as_posix()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes((folder / name).read_bytes())
    table = tmp_path / "labels.csv"
    table.write_text("file,label,split,start,end\na/x.mp4,jump,val,,0.45\na/x.mp4,fall,val,0.5,\n")
    dataset = open_dataset(tmp_path, "val")
    assert dataset.labels == ("fall", "jump") and dataset.groups == ["a/x.mp4"] * 2
    assert [clip.keypoints.shape[1] for clip in dataset.read([0, 1])] == [5, 7]
    assert list(open_dataset(tmp_path, where="label = 'fall'").keys) == ["a/x.mp4@0.5"]
    for text, message in (
        ("file,label\n../x.mp4,a\n", "no video under"),
        ("name,label\na,b\n", "needed: file"),
        ("file,start,end\na/x.mp4,3,1\n", "allowed: 0 <= start < end"),
        ("file,start\na/x.mp4,soon\n", "are seconds"),
        ("file,label\na/x.mp4,a\na/x.mp4,b\n", "stands there twice"),
    ):
        table.write_text(text)
        with pytest.raises(TrainingError, match=message) as caught:
            open_dataset(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_no_video_is_named_when_it_is_read(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    dataset = open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"broken\.mp4 cannot be decoded: .*; take the video out"):
        dataset.read([0])
    with pytest.raises(TrainingError, match="short_side 2"):
        open_dataset(tmp_path, short_side=2)


def with_videos(out: Path) -> Path:
    """A built dataset with video shards."""
    build = tiny_dataset.build(out)
    root = build / "dataset" if (build / "dataset").is_dir() else build
    manifest = json.loads((root / "MANIFEST.json").read_text())
    clips = open_dataset(build)
    names = [Path(file["path"]).name for file in manifest["files"] if file["path"].startswith("shards/pose/")]
    files = write_videos(out / "files", len(clips), 0)
    paths = {int(path.stem): path for path in files.rglob("*.mp4")}
    (root / "shards" / "video").mkdir(parents=True)
    with ShardWriter(root / "shards" / "video" / names[0]) as writer:
        for number, key in enumerate(clips.keys):
            writer.write(key, {"mp4": paths[number].read_bytes()})
    size = (root / "shards" / "video" / names[0]).stat().st_size
    manifest["files"].append({"path": f"shards/video/{names[0]}", "bytes": size, "blake3": "0" * 64})
    (root / "MANIFEST.json").write_text(json.dumps(manifest))
    return build


def test_video_shards_of_a_built_dataset(tmp_path):
    build = with_videos(tmp_path / "build")
    poses, videos = open_dataset(build), open_dataset(build, format="videos", short_side=16)
    assert format_of(str(build)) == "built" and list(videos.keys) == list(poses.keys)
    assert videos.labels == poses.labels and videos.label_ids.tolist() == poses.label_ids.tolist()
    clips = videos.read([2, 0])
    assert all(clip.keypoints.shape == (20, 12, 16, 3) for clip in clips)
    difference = as_frames(clips[0].keypoints).astype(int) - crossing(2, size=(40, 32))[:, ::2, ::2]
    assert np.abs(difference).mean() < 12
    train = open_dataset(build, "train", where="label = 'jump'", format="videos")
    assert 0 < len(train) < len(videos)
    without = tiny_dataset.build(tmp_path / "without")
    with pytest.raises(DatasetError, match="keep_video"):
        open_dataset(without, format="videos")
    with pytest.raises(DataEngineError, match="did you mean 'videos'"):
        open_dataset(build, format="video")


def options(**more) -> list[str]:
    return [part for name, value in {**SMALL, **more}.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_trained_probed_embedded_and_finetuned_by_the_usual_verbs(folder, tmp_path, call):
    run = tmp_path / "ltn"
    status, _, error = call("train", "ltn_small", "--data", folder, "--out", run, "--device", "cpu", *options())
    assert status == 0, error
    status, out, error = call("probe", run, "--data", folder, "--knn", "--device", "cpu")
    assert status == 0 and "linear probe" in out, error
    assert "ridge" in out and "random network" in out and not (run / "joints.png").exists()
    status, _, error = call("embed", run, "--data", folder, "--to", tmp_path / "features.parquet", "--device", "cpu")
    assert status == 0, error
    status, _, error = call("finetune", run, "--data", folder, "--out", tmp_path / "tuned", "--set", "run.epochs=1")
    assert status == 0 and "crop" in (tmp_path / "tuned" / "run.toml").read_text(), error
    status, _, error = call("rank", run, "--to", tmp_path / "plan.csv", "-n", 2, "--data", folder, "--device", "cpu")
    assert status == 0 and not (tmp_path / "plan.html").exists(), error
    status, _, error = call("export", run, "--format", "safetensors", "--to", tmp_path / "out" / "m.safetensors")
    card = (tmp_path / "out" / "README.md").read_text()
    assert status == 0 and "4 pictures of 16 x 16" in card and "picture_preprocess(PICTURES, (16, 16))" in card, error
    status, _, error = call("export", run, "--to", tmp_path / "out" / "m.onnx")
    assert status != 0 and "does not take motions" in error


@pytest.mark.slow
def test_networks_and_data_that_do_not_go_together_are_refused(folder, tmp_path, call):
    motions = write(tmp_path / "motions.npz")
    for recipe, data, more, message in (
        ("ltn_small", motions, options(), "no folder of videos"),
        ("mcc_small", folder, [], "the data are pictures"),
        ("ltn_small", folder, options(**{"preprocess.stream": '"bone"'}), "is of joints, and the data are pictures"),
        ("ltn_small", folder, options(**{"view.steps": '"weak"'}), "has steps of joints"),
    ):
        status, _, error = call("train", recipe, "--data", data, "--out", tmp_path / "run", *more)
        assert status != 0 and message in error.replace("\n", " "), error
