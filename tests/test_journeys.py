"""The way of a user from a folder of videos with a CSV of labels to a network trained elsewhere, by commands alone."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import DataEngineError
from dataengine.io import weights
from tests.support import other_programs
from tests.support.commands import dataengine, dataengine_train

pytestmark = pytest.mark.slow
REAL = {
    "v_SoccerJuggling_g23_c01.avi": ("juggling", "train"),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": ("cartwheel", "train"),
    "R6llTwEh07w.mp4": ("juggling", "val"),
}
"""Videos of `data/videos` with the label and split that the user writes down."""
NETWORKS = ("movenet_thunder", "efficientpose", "movenet_multipose", "nanodet")


def write_labels(folder: Path, rows: dict[str, tuple[str, str]]) -> None:
    """labels.csv as a user writes it, and one file that is no video."""
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split", "licence"])
        writer.writerows([name, label, split, "CC0-1.0"] for name, (label, split) in rows.items())
        writer.writerow(["broken.mp4", "juggling", "train", "CC0-1.0"])
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(4000))


def rendered(corpus: Path, folder: Path) -> Path:
    """The rendered clips that are whole, as a user's folder."""
    folder.mkdir()
    expected = json.loads((corpus / "defects.json").read_text())
    rows: dict[str, tuple[str, str]] = {}
    for number, path in enumerate(sorted((corpus / "kinetics").rglob("*.mp4"))):
        if not any(path.stem[:11] in clip_id for clip_id in expected):
            name = f"{path.parent.name}-{number}.mp4"
            shutil.copyfile(path, folder / name)
            rows[name] = path.parent.name, ("train", "val")[number % 3 == 2]
    write_labels(folder, rows)
    return folder


def build_and_export(videos: Path, out: Path, overlay: str, *settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """build, verify and export; the pickle and what `export --json` told of it."""
    options = [part for one in settings for part in ("--set", one)]
    line = ["build", "posecap", "--overlay", overlay, "--sources", f"folder={videos}", "--out", str(out)]
    done = dataengine(*line, "--engine", "serial", *options)
    assert done.returncode == 0, done.stderr
    assert dataengine("verify", str(out)).returncode == 0
    done = dataengine("export", str(out), "--format", "pyskl", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return pickle.loads(Path(told["path"]).read_bytes()), told  # noqa: S301, a file of our own making


def train_and_load(pickled: Path, tmp_path: Path) -> None:
    """Trained by `dataengine-train`; loaded by MMAction2's own class where that can be installed."""
    pytest.importorskip("torch")
    run = tmp_path / "run"
    settings = ("run.epochs=1", "run.batch=4", "view.frames=16", "backbone.channels_base=8", "run.probe_every=1")
    options = [part for one in settings for part in ("--set", one)]
    done = dataengine_train("pretrain", "unik_small", "--data", str(pickled), "--out", str(run), *options)
    assert done.returncode == 0, done.stderr
    assert (run / "model.safetensors").is_file()
    told = other_programs.read("mmaction2", pickled, tmp_path / "environment")
    content = pickle.loads(pickled.read_bytes())  # noqa: S301, a file of our own making
    assert {split: len(ids) for split, ids in content["split"].items()} == {k: v["clips"] for k, v in told.items()}


def test_rendered_people_reach_a_trainer(corpus: Path, tmp_path: Path) -> None:
    videos = rendered(corpus, tmp_path / "videos")
    settings = ("pose.max_fps=8.0", "filters.length.min=8")
    content, told = build_and_export(videos, tmp_path / "out", "core", *settings)
    assert (
        told["clips"] >= 4
        and set(told["splits"]) == {"train", "val"}
        and told["licences"] == {"CC0-1.0": told["clips"]}
    )
    for note in content["annotations"]:
        assert note["keypoint"].shape[2:] == (17, 2) and np.isfinite(note["keypoint"]).all()
        label = re.sub(r"[^A-Za-z0-9]+", "_", content["label_names"][note["label"]]).strip("_")
        assert note["frame_dir"].startswith(f"folder-{label}")
    train_and_load(Path(told["path"]), tmp_path)


@pytest.mark.data
def test_real_people_reach_a_trainer(shared_data: Path, tmp_path: Path) -> None:
    try:
        for name in NETWORKS:
            weights.locate(name)
    except DataEngineError as error:
        pytest.skip(str(error))
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in REAL:
        shutil.copyfile(shared_data / "videos" / name, videos / name)
    write_labels(videos, REAL)
    settings = ("pose.max_fps=6.0", "filters.length.min=8", "filters.body_visible={ min=0.2, joints=8 }")  # cut legs
    content, told = build_and_export(videos, tmp_path / "out", "cpu", *settings)
    assert told["splits"] == {"train": 2, "val": 1}
    for note in content["annotations"]:
        seen = note["keypoint_score"][0] > 0
        assert seen.any(-1).mean() > 0.5, note["frame_dir"]
        inside = note["keypoint"][0][seen]
        height, width = note["img_shape"]
        assert (inside > -0.2 * width).all() and (inside < 1.2 * max(width, height)).all()
    train_and_load(Path(told["path"]), tmp_path)
