"""Exported files say what networks say, or are not there; cards are complete; features join with the clips."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import polars as pl
import pyarrow.parquet as pq
import yaml

import dataengine
from dataengine.core.errors import TrainingError
from tests.support import tiny_dataset
from tests.support.exported import lively, says
from tests.support.motions import CLASSES, Motions
from training import create_backbone, create_method
from training.backbones.base import read_weights
from training.backbones.stgcn import STGCN
from training.config import validate
from training.data.formats import open_datasets
from training.evaluate.result import of_seeds
from training.runs.embed import embed
from training.runs.export import FORMATS, SEEDS, export, metadata
from training.runs.export_formats import motions
from training.runs.features import extract_features
from training.runs.model_card import card
from training.runs.run import load_run
from training.runs.train import train
from training.runs.trained_network import BareNetwork
from training.transforms.preprocess import Preprocess

FRAMES = 8


def network(name: str, num_classes: int = 4, skeleton: str = "body13", **options):
    torch.manual_seed(0)
    return lively(create_backbone(name, num_classes, skeleton, 2, channels_base=4, blocks=(1, 1), **options))


def test_weights_alone_are_safetensors(tmp_path) -> None:
    model = network("stgcn").eval()
    done = export(model, tmp_path / "w.safetensors", "safetensors")
    other = network("stgcn", num_classes=4)
    torch.nn.init.zeros_(other.fcn.weight)
    other.eval().load_published(done.path)
    motion = torch.randn(2, 2, 9, 13, 1)
    assert torch.equal(other(motion), model(motion)) and metadata(done.path)["network"] == "STGCN"
    assert read_weights(done.path).keys() == model.state_dict().keys()


class Baked(STGCN):
    """Takes a number out of the motion, which a trace keeps as it was."""

    def sequence(self, x):
        return super().sequence(x) * float(x.abs().max())


class Forbidden(STGCN):
    """Uses what ONNX has no word for."""

    def sequence(self, x):
        y = super().sequence(x)
        return y + torch.linalg.svdvals(y)[..., :1, None]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_a_file_that_says_something_else_is_removed(format, hidden, tmp_path) -> None:
    path = tmp_path / "model"
    path.write_text("an older one")
    model = lively(Baked(3, "body13", 2, 4, (1, 1)))
    if hidden:  # under a constant so large that no number is wrong by 1e-5 of it
        model.eval()
        traced = torch.jit.trace(model, motions(model, 2, FRAMES), check_trace=False)
        wrong = max(
            float((traced(x) - model(x)).detach().abs().max())
            for x in (motions(model, 2, FRAMES, seed) for seed in SEEDS)
        )
        torch.nn.init.constant_(model.fcn.bias, wrong / 6e-6)
    with pytest.raises(TrainingError, match=r"model: removed: it differs from the network by .* of .* is allowed"):
        export(model, path, format, frames=FRAMES)
    assert [file.name for file in tmp_path.iterdir()] == ["model"] and path.read_text() == "an older one"


def test_a_network_that_cannot_be_written_is_an_error(tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"Forbidden cannot be exported so: .*svd.*; try another format"):
        export(Forbidden(3, "body13", 2, 4, (1, 1)), tmp_path / "model", frames=FRAMES)
    assert not list(tmp_path.iterdir())
    assert (
        export(Forbidden(3, "body13", 2, 4, (1, 1)), tmp_path / "model", "torchscript", frames=FRAMES).difference
        <= 1e-5
    )


def test_what_is_asked_for_must_be_there(tmp_path) -> None:
    bare = network("stgcn", num_classes=0)
    for wrong, said in (
        ({"format": "onxx"}, "unknown format 'onxx'.*did you mean 'onnx'"),
        ({"output": "feature"}, "did you mean 'features'"),
        ({"output": "logits"}, "no classes"),
        ({"output": "embedding"}, "what methods with a projection learn .*tmor"),
        ({"frames": 0}, "1 frame or more"),
    ):
        with pytest.raises(TrainingError, match=said):
            export(bare, tmp_path / "model", **wrong)
    with pytest.raises(TrainingError, match="SlowR50 does not take motions"):
        export(create_backbone("slow_r50", channels=3, channels_base=2, depths=(1, 1, 1, 1)), tmp_path / "model")
    for content in (b"", b"PK\3\4torn", b"some text"):
        (tmp_path / "model").write_bytes(content)
        with pytest.raises(TrainingError, match="no network that was exported from here"):
            metadata(tmp_path / "model")


def tmor(backbone):
    return create_method(
        "tmor", backbone=backbone, text=np.eye(3, 5), video=None, queue={"size": 8}, projector={"hidden": 6, "width": 4}
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tiny_dataset.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """A finished run of four clips, with its results."""
    out = tmp_path_factory.mktemp("runs") / "little"
    tables = {
        "run": {"name": "little", "epochs": 1, "batch": 4, "workers": 0, "tensorboard": False},
        "data": {"train": [str(built)]},
        "preprocess": {"normalise": "screen"},
        "view": {"frames": FRAMES},
        "backbone": {"name": "stgcn", "channels_base": 4, "blocks": [1, 1]},
        "method": {"name": "supervised"},
    }
    train(validate(tables, "here"), out)
    of_seeds("linear probe", "top-1", [0.5, 0.625], baselines={"chance": 0.333}).to_json(out / "seeds.json")
    (out / "other.json").write_text("[{}]")
    return load_run(out)


def chosen(run, **data):
    """The run as if its data had been others."""
    tables = run.config.to_toml()
    return dataclasses.replace(run, config=validate(tables | {"data": tables["data"] | data}, "here"))


@pytest.mark.parametrize("output", ["features", "embedding"])
@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_other_outputs(output, format, tmp_path) -> None:
    method = tmor(network("stgcn"))
    done = export(BareNetwork(method.backbone, method), tmp_path / "model", format, output=output, frames=FRAMES)
    motion = torch.randn(3, 2, 11, 13, 2)
    method.eval()
    with torch.no_grad():
        wanted = method.embed_motion(motion) if output == "embedding" else method.backbone.features(motion)
    torch.testing.assert_close(says(done.path, format)(motion), wanted, rtol=1e-4, atol=1e-5)
    assert metadata(done.path)["output"] == output and metadata(done.path)["labels"] == []


def test_runs_say_more_and_equal_ones_give_equal_files(run, tmp_path) -> None:
    paths = [export(run, tmp_path / name).path for name in ("a.onnx", "b.onnx")]
    assert (
        paths[0].read_bytes() == paths[1].read_bytes()
        and str(Path(__file__).parents[2]).encode() not in paths[0].read_bytes()
    )
    note = metadata(paths[0])
    assert (
        note["frames"] == FRAMES
        and note["preprocess"]["normalise"] == "screen"
        and note["preprocess"]["skeleton"] == "posetics17"
    )
    assert note["backbone"]["blocks"] == [1, 1] and note["method"] == "supervised" and note["data"] == run.facts["data"]
    assert {p.key: json.loads(p.value) for p in onnx.load(str(paths[0])).metadata_props} == note


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_card_is_complete_and_its_examples_run(run, built, tmp_path, monkeypatch) -> None:
    out = tmp_path / "published"
    for format, suffix in zip(FORMATS, ("onnx", "pt", "safetensors")):
        export(run, out / f"model.{suffix}", format)
    text = card(run, out / "model.onnx", "CC-BY-4.0").read_text()
    assert card(run, out, "CC-BY-4.0").read_text() == text
    front = yaml.safe_load(text.split("---\n")[1])
    assert (
        front["license"] == "cc-by-4.0"
        and "skeleton-based-action-recognition" in front["tags"]
        and text.startswith("---\n")
    )
    for heading in ("How to load it", "Data", "Results", "Configuration", "Limits", "Licence"):
        assert f"\n## {heading}\n" in text
    data = text.split("\n## Data\n")[1].split("\n## ")[0]
    assert dataengine.open(built).manifest["fingerprint"] in data and run.facts["data"] in data
    assert "| CC0 | not stated | 4 |" in data and "CC-BY" not in data  # the clips of its split
    assert "| linear probe | top-1 | 56.2 % |" in text and "chance 33.3" in text and "| classifier | top-1 |" in text
    assert "clap, jump, wave" in text and "in 1 steps" in text and "not finished" not in text
    assert str(tmp_path.parent) not in text and "/tmp" not in text
    (told,) = (tomllib.loads(block) for block in blocks(text, "toml"))
    assert validate(told, "card").backbone == run.config.backbone and told["data"]["train"] == [built.parent.name]
    for suffix in ("onnx", "pt", "safetensors"):
        assert f"| `model.{suffix}` | logits |" in text
    monkeypatch.chdir(out)
    names = {"clip": open_datasets(str(built))[0].read([0])[0]}
    for block in blocks(text, "python"):
        exec(block, names)
    assert names["logits"].shape == (1, 3) and names["about"]["labels"] == list(tiny_dataset.LABELS)
    motion = torch.from_numpy(names["motion"].transpose(3, 1, 2, 0)[None].copy())
    torch.testing.assert_close(names["network"](motion), run.backbone(motion))


def test_the_run_s_own_folder_can_be_published(run) -> None:
    export(run, run.folder / "model.onnx")
    text = card(run, run.folder, "MIT").read_text()
    assert 'network.load_published("model.safetensors")' in text and "last.safetensors" not in text


def test_somebody_s_readme_stays(run, tmp_path) -> None:
    (tmp_path / "README.md").write_text("# my project\n")
    with pytest.raises(TrainingError, match="no model card of dataengine"):
        card(run, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# my project\n"


def test_a_card_says_what_is_not_known(run, tmp_path) -> None:
    text = card(dataclasses.replace(chosen(run, train=[str(tmp_path / "gone")]), folder=tmp_path), tmp_path).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "unknown" and "**not stated**" in text
    assert (
        "| gone | not found when the card was written |" in text
        and "None were measured" in text
        and "ask whoever published" in text
    )
    own = yaml.safe_load(card(run, tmp_path, "Our Own 1.0").read_text().split("---\n")[1])
    assert (own["license"], own["license_name"], own["license_link"]) == ("other", "our-own-1.0", "README.md")
    with pytest.raises(TrainingError, match="how a network was trained"):
        card(BareNetwork(run.backbone), tmp_path)
    every = card(chosen(run, split=""), tmp_path).read_text()
    assert "| CC0 | not stated | 4 |" in every and "| CC-BY-4.0 | not stated | 4 |" in every
    assert "| CC0 | not stated | 1 |" in card(chosen(run, where="video_id = 'video002'"), tmp_path).read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_features_join_with_the_clips(run, built, workers, tmp_path) -> None:
    path = embed(run, str(built), tmp_path / "features.parquet", batch=3, workers=workers)
    clips = dataengine.open(built).clips.select("clip_id", "label", "split", "text")
    joined = clips.join(pl.scan_parquet(path), on="clip_id", suffix="_here").collect()
    assert (
        len(joined) == 8
        and (joined["label"] == joined["label_here"]).all()
        and (joined["split"] == joined["split_here"]).all()
    )
    (dataset,) = open_datasets(str(built))
    wanted, _ = extract_features(run.backbone.features, dataset, run.preprocess, FRAMES, batch=3)
    table = pl.read_parquet(path)
    assert table["clip_id"].to_list() == list(dataset.keys) and table.columns == [
        "clip_id",
        "label",
        "split",
        "feature",
        "reason",
    ]
    assert table.schema["feature"] == pl.List(pl.Float32) and np.array_equal(
        np.array(table["feature"].to_list(), np.float32), wanted
    )
    assert json.loads(pq.read_schema(path).metadata[b"dataengine"])["data"] == dataset.fingerprint
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(
        f"SELECT label, len(feature) AS width FROM '{built}/index/clips/*.parquet' JOIN '{path}' USING (clip_id, "
        "label) ORDER BY clip_id"
    ).fetchall()
    assert found == [(label, run.backbone.width) for label in clips.sort("clip_id").collect()["label"].to_list()]


def test_the_space_of_texts_is_written_too(tmp_path) -> None:
    method = tmor(network("stgcn", num_classes=0, people=1))
    run = BareNetwork(method.backbone, method, None, Preprocess("body13"))
    path = embed(run, [Motions(5, 1), Motions(4, 2, "others")], tmp_path / "f.parquet", batch=4, frames=FRAMES)
    table = pl.read_parquet(path)
    wanted, _ = extract_features(
        method.embed_motion, [Motions(5, 1), Motions(4, 2, "others")], run.preprocess, FRAMES, batch=4
    )
    np.testing.assert_allclose(np.array(table["projection"].to_list()), wanted, rtol=1e-5, atol=1e-6)
    assert table["split"].null_count() == 9 and table["label"].to_list() == [
        CLASSES[k % 4] for k in (*range(5), *range(4))
    ]


def test_embedding_whole_or_not_at_all(tmp_path) -> None:
    model = network("stgcn", num_classes=0, people=1)
    path = tmp_path / "f.parquet"
    with pytest.raises(TrainingError, match="'motions-0000' stands at 2 clips"):
        embed(BareNetwork(model, preprocess=Preprocess("body13")), [Motions(5), Motions(5)], path)
    with pytest.raises(TrainingError, match="how clips are preprocessed"):
        embed(BareNetwork(model), Motions(5), path)
    with pytest.raises(TrainingError, match="STGCN takes"):
        embed(BareNetwork(model, preprocess=Preprocess("body13", people=2)), Motions(5), path)
    assert not list(tmp_path.iterdir()) and model.training
