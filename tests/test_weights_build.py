"""A build gets the weights it needs, keeps to those it began with, and takes saved poses as an expert."""

from __future__ import annotations

import http.server
import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine import builder
from dataengine.core.errors import WeightsError
from dataengine.core.skeletons import convert
from dataengine.io import weights
from dataengine.pipeline import plan
from tests.support.shared import build_sample


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A network that the manifest of the working folder names, on a server; the file it is served from."""
    pytest.importorskip("onnx")
    from tests.support import onnx_files

    folder = tmp_path / "served"
    folder.mkdir()
    onnx_files.trained_heatmap(folder / "net.onnx")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    (tmp_path / "manifests").mkdir()
    url = f"http://127.0.0.1:{server.server_address[1]}/net.onnx"
    (tmp_path / "manifests" / "weights.toml").write_text(
        f'[[file]]\nname = "net.onnx"\nurl = "{url}"\nlicence = "MIT"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DATAENGINE_OFFLINE", raising=False)
    yield folder / "net.onnx"
    server.shutdown()
    server.server_close()


class Said(builder.Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


build = build_sample


def test_weights_come_by_themselves_and_stay_the_same(
    served: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = [
        'pose.experts=["onnx"]',
        'experts.onnx.model="net.onnx"',
        'experts.onnx.kind="heatmap"',
        'experts.onnx.skeleton="body14"',
    ]
    out = tmp_path / "out"
    monkeypatch.setenv("DATAENGINE_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"net\.onnx are not in .* DATAENGINE_OFFLINE is set"):
        build(corpus, out, *net, limit=2)
    assert not out.exists()
    monkeypatch.delenv("DATAENGINE_OFFLINE")
    said = Said()
    result = build(corpus, out, *net, limit=2, progress=said)
    assert result.planned == 2
    assert [line for line in said.lines if "net.onnx (licence MIT) from http://127.0.0.1" in line]
    lock = (out / "recipe.lock.toml").read_text()
    assert weights.digest(weights.locate("net.onnx")) in lock
    assert not build(corpus, out, *net, limit=2).changed

    # the same name, another file: somebody else's download, so the build refuses it before any work
    path = weights.file_of("net.onnx")
    path.write_bytes(served.read_bytes() + b"\0")
    weights.pin_of(path).unlink()
    with pytest.raises(WeightsError, match=r"net\.onnx of onnx have sha256 .* this build began with"):
        build(corpus, out, *net, limit=2)
    assert (out / "recipe.lock.toml").read_text() == lock


def save_truth(corpus: Path, folder: Path, torn: str) -> None:
    """The exact joints of every video, as another program could have saved them; one file torn."""
    folder.mkdir()
    for path in sorted((corpus / "truth").glob("*.npz")):
        with np.load(path) as truth:
            joints = np.nan_to_num(truth["joints"]).transpose(1, 0, 2, 3)
        np.savez(folder / path.name, keypoint=joints)
    (folder / torn).write_bytes((folder / torn).read_bytes()[:500])


def test_saved_poses_are_an_expert(corpus: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    torn = sorted((corpus / "truth").glob("*.npz"))[0].name
    save_truth(corpus, saved, torn)
    said = [
        'pose.experts=["precomputed"]', f'experts.precomputed.folder="{saved}"', 'experts.precomputed.pattern="{stem}"',
        'experts.precomputed.start="media"', "curate.filters=[]", 'curate.dedup="off"', "fusion.consensus.smooth=0.0",
        "pose.max_fps=30.0",
    ]  # fmt: skip
    out = tmp_path / "out"
    build(corpus, out, *said)
    ds = dataengine.open(out)
    rejects = ds.rejects.collect()
    failed = rejects.filter(pl.col("reason") == "expert_failed")
    stems = {row["clip_id"]: Path(row["media"]).stem for row in plan.load(out / "work").rows()}
    assert {stems[name] for name in failed["clip_id"]} == {torn.removesuffix(".npz")}
    assert all("is torn" in detail for detail in failed["detail"])
    distances = []
    for row in ds.clips.collect().iter_rows(named=True):
        sample = ds.sample(row["clip_id"])
        with np.load(corpus / "truth" / f"{stems[row['clip_id']]}.npz") as truth:
            joints = truth["joints"]
        first = round((plan_start(out, row["clip_id"]) or 0.0) * Fraction(row["fps"]))
        joints = joints[first : first + row["num_frames"]]
        true, _ = convert(joints, None, "body14", "posetics17")
        given = sample["keypoints"][0]
        apart = np.linalg.norm(given[:, None] - true, axis=-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # frames without anybody
            distances.append(np.nanmedian(np.nanmin(np.nanmedian(apart, -1), 1)))
    assert len(distances) >= 8
    assert np.max(distances) < 1.5, distances


def plan_start(out: Path, clip_id: str) -> float | None:
    return next(row["span_start"] for row in plan.load(out / "work").rows() if row["clip_id"] == clip_id)
