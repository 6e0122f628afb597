"""Runs: a folder is a network again without its data, run.toml is the run again, and what was learnt is measured."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core import settings
from dataengine.core.errors import DataEngineError, RecipeError, TrainingError
from tests.support import motion_files
from tests.support.motion_files import TABLES, TMOR
from training import config
from training.data.formats import open_datasets
from training.data.subsets import label_subset, label_subsets
from training.engine import checkpoint
from training.runs import probe as probing
from training.runs import splits, zero_shot
from training.runs.classify import class_probabilities
from training.runs.report import open_split_of
from training.runs.run import load_run, start_file
from training.runs.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return motion_files.write(tmp_path_factory.mktemp("data") / "motions.npz")


def made(path, **tables) -> config.Config:
    tables["data"] = {"train": [str(path)], **tables.get("data", {})}
    base = {**TABLES, "method": {}} if "name" in tables.get("method", {}) else TABLES
    return config.validate(settings.merge(base, tables), "test")


def network(folder):
    return checkpoint.read(folder / "model.safetensors")[0]


@pytest.fixture(scope="module")
def supervised(data, tmp_path_factory):
    """A finished supervised run."""
    folder = tmp_path_factory.mktemp("runs") / "supervised"
    return folder, train(made(data, run={"epochs": 8, "probe_every": 4, "floors": True}), folder)


@pytest.fixture(scope="module")
def tmor(data, tmp_path_factory):
    """A finished run that knows texts and videos."""
    folder = tmp_path_factory.mktemp("runs") / "tmor"
    train(made(data, run={"epochs": 16}, method=TMOR, optim={"name": "adamw", "lr": 0.01}), folder)
    return folder


def test_a_run_learns_and_says_so(supervised):
    folder, result = supervised
    classifier, neighbours = result.results
    assert classifier.value > 0.8 and classifier.baselines["chance"] == 0.25 and neighbours.value > 0.8
    floors = {"nearest neighbour", "ridge", "random network"}
    assert all(floors <= one.baselines.keys() and min(one.baselines.values()) >= 0 for one in result.results)
    assert len(classifier.details["floors"]["random network"]["each"]) == 3 and " ± " in str(classifier)
    assert {path.name for path in result.plots} == {"curves.png", "confusion.png", "figures.png"}
    assert all(path.stat().st_size > 5000 for path in result.plots)
    told = json.loads((folder / "summary.json").read_text())
    assert told["steps"] == 48 and told["results"][0]["value"] == classifier.value
    assert [entry["epoch"] for entry in told["probes"]] == [4, 8] and told["loss"] == result.history.losses[-1]


def test_the_resolved_configuration_stopped_and_gone_on_trains_the_same(data, tmp_path):
    first = train(made(data, method={"name": "supervised", "smoothing": 0.1}), tmp_path / "first", stop_after=9)
    resolved = tomllib.loads((tmp_path / "first" / "run.toml").read_text())
    assert resolved["data"]["train"] == [str(data)] and resolved["data"]["skeleton"] == "body13"
    assert resolved["backbone"]["people"] == 1 and resolved["backbone"]["hops"] == 1
    loaded = config.load(str(tmp_path / "first"))
    stopped = train(loaded, tmp_path / "second", stop_after=1)
    assert stopped.history.steps == 1 and not stopped.results and not (tmp_path / "second" / "summary.json").exists()
    assert not load_run(tmp_path / "second").done
    with pytest.raises(TrainingError, match="that run is not finished"):
        start_file(tmp_path / "second")
    second = train(loaded, tmp_path / "second", stop_after=9)
    one, two = (checkpoint.read(tmp_path / name / "last.safetensors")[0] for name in ("first", "second"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert first.history.losses == second.history.losses
    assert (tmp_path / "first" / "run.toml").read_text() == (tmp_path / "second" / "run.toml").read_text()
    assert config.load(str(tmp_path / "second")) == loaded


def test_a_folder_is_a_network_again_without_its_data(data, supervised, tmp_path):
    moved = tmp_path / "moved.npz"
    moved.write_bytes(data.read_bytes())
    train(made(moved), tmp_path / "run", stop_after=1)
    moved.unlink()
    run = load_run(tmp_path / "run")
    assert run.labels == ("wave left", "wave right", "squat", "walk") and run.skeleton.name == "body13"
    assert (run.channels, run.frames, run.step, run.done) == (2, 16, 1, False) and not run.method.training
    assert run.facts["data"] and run.config.data.train == [str(moved)]
    run, dataset = load_run(supervised[0]), open_datasets(data, split="val")
    said = class_probabilities(run.backbone, dataset, run.preprocess, run.config)[0]
    assert (said.argmax(1) == dataset[0].label_ids).mean() == supervised[1].results[0].value


def test_another_run_is_refused_and_its_configuration_kept(data, tmp_path):
    train(made(data), tmp_path / "run", stop_after=1)
    before = (tmp_path / "run" / "run.toml").read_text()
    other = motion_files.write(tmp_path / "other.npz", seed=7)
    with pytest.raises(TrainingError, match=r"holds a run with another data.*another --out"):
        train(made(other), tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run with another method"):
        train(made(data, method={"smoothing": 0.2}), tmp_path / "run")
    assert (tmp_path / "run" / "run.toml").read_text() == before
    train(
        made(data, run={"log_every": 7, "save_every": 1.0}), tmp_path / "run", stop_after=2
    )  # how it is watched is nobody's business


def test_few_clips_are_a_smaller_batch(data, tmp_path):
    with pytest.warns(UserWarning, match="run.batch 48, as 500 is more than the 48 clips"):
        train(made(data, run={"batch": 500}), tmp_path / "run", stop_after=1)
    assert load_run(tmp_path / "run").config.run.batch == 48


def test_what_the_data_lacks_is_said(data, tmp_path):
    bare = motion_files.write(tmp_path / "bare.npz", 16, video=0, labels=False)
    with pytest.raises(
        TrainingError, match=r"bare.npz: no clip has a label, and supervised learns from labels.*mcc, tmor"
    ):
        train(made(bare), tmp_path / "run")
    with pytest.raises(DataEngineError, match=r"no array 'video'.*embed.*--set 'method.video=\"\"'"):
        train(made(bare, method=TMOR), tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"no clip of split 'xsub'.*train, val; choose with --set data.split='\"NAME\"'"
    ):
        train(made(bare, data={"split": "xsub"}), tmp_path / "run")
    with pytest.raises(TrainingError, match="no data is named: give --data PATH"):
        train(made(bare, data={"train": []}), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"unknown text encoder 'minilmm' \(did you mean 'minilm'"):
        train(made(data, method={**TMOR, "text": "minilmm"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    blind = {name: value for name, value in TMOR.items() if name != "text"}
    with pytest.warns(UserWarning, match="nothing is probed"):
        train(made(bare, method={**blind, "video": ""}, run={"probe_every": 1}), tmp_path / "run", stop_after=1)


def test_of_val_and_test_the_one_there_is(data, tmp_path):
    with np.load(data) as arrays:
        np.savez(tmp_path / "tested.npz", **{**arrays, "split": np.where(arrays["split"] == "val", "test", "train")})
        np.savez(tmp_path / "whole.npz", **{name: array for name, array in arrays.items() if name != "split"})
    assert splits.open_validation(made(tmp_path / "tested.npz").data)[1] == "test"
    assert splits.open_validation(made(tmp_path / "whole.npz").data) is None
    with pytest.warns(UserWarning, match="its clips belong to no split, so all 72 are learnt from; give --val PATH"):
        assert len(splits.open_split(made(tmp_path / "whole.npz").data, "train")[0]) == 72
    both = {"train": [str(data)], "val": [str(tmp_path / "whole.npz")]}
    with pytest.warns(UserWarning, match="so all 72 are measured on"):
        assert len(splits.open_validation(made(data, data=both).data)[0][0]) == 72
    with pytest.raises(TrainingError, match=r"its clips belong to no split, and 'dev' is asked for.*takes all clips"):
        splits.open_split(made(tmp_path / "whole.npz", data={"split": "dev"}).data, "train")
    assert len(splits.open_split(made(tmp_path / "whole.npz", data={"split": ""}).data, "train")[0]) == 72
    with pytest.raises(TrainingError, match="no clip of split 'dev'"):
        splits.open_validation(made(data, data={"val_split": "dev"}).data)


def test_probes_stand_beside_a_random_network(supervised):
    run = load_run(supervised[0])
    report = probing.probe(
        run, open_split_of(run, (), (), "train"), open_split_of(run, (), (), "val"), (0.25,), 3, True
    )
    by_name = {result.name: result for result in report.results}
    assert set(by_name) == {
        "linear probe",
        "20 nearest neighbours",
        "linear probe, 25 % of labels, network with 100 %",
        "classifier",
    }
    floors = {"nearest neighbour", "ridge", "random network"}
    assert all(floors <= result.baselines.keys() for result in by_name.values())
    assert (
        by_name["linear probe"].value > 0.7
        and len(by_name["linear probe, 25 % of labels, network with 100 %"].per_seed) == 3
    )
    assert by_name["classifier"].value == supervised[1].results[0].value
    told = json.loads(report.write().read_text())
    assert told["trained on"] == run.facts["data"] and len(told["results"]) == 4
    drawn = {"confusion.png", "probe_confusion.png", "joints.png", "tsne.png", "figures.png"}
    assert {path.name for path in report.plots} == drawn


def test_motions_are_named_by_texts_and_found_by_videos(tmor, data):
    run = load_run(tmor)
    assert run.config.method.options["video_width"] == 6
    test = open_split_of(run, (), (), "val", None, ("video",))
    shown = zero_shot.zeroshot(run, test)
    assert [result.name.split(",")[0] for result in shown.results] == [
        "seen classes by text",
        "seen classes by text through known classes",
    ]
    assert min(result.value for result in shown.results) > 0.6 and "ngrams" in shown.results[0].name
    by_text = {result.name: result for result in zero_shot.retrieve(run, test).results}
    assert set(by_text) == {"motion to text", "text to motion", "4-way, text to motion", "4-way, motion to text"}
    assert by_text["4-way, motion to text"].value > 0.6
    by_video = {result.name: result.details["R@5"] for result in zero_shot.retrieve(run, test, "video").results}
    assert set(by_video) == {"motion to video", "video to motion"} and min(by_video.values()) > 0.4


def test_scores_of_another_modality_are_added(tmor, data, tmp_path):
    """Stored videos and texts of one space that tell classes apart for certain."""
    with np.load(data) as arrays:
        one = np.eye(4, dtype=np.float32)[arrays["label"]]
        np.savez(tmp_path / "more.npz", **arrays, viclip_video=one, viclip_text=one)
    run = load_run(tmor)
    wants = zero_shot.zeroshot_features(zero_shot.class_text(run, None, None), "viclip_video")
    test = open_split_of(run, [str(tmp_path / "more.npz")], (), "val", None, wants)
    result = zero_shot.zeroshot(run, test, fuse="viclip_video").results[0]
    assert result.value == 1.0 and result.baselines["other alone"] == 1.0 and result.baselines["motion alone"] > 0.6


def test_videos_and_texts_of_one_space_say_where_classes_lie(data, tmp_path):
    with np.load(data) as arrays:
        one = np.eye(4, dtype=np.float32)[arrays["label"]]
        np.savez(tmp_path / "more.npz", **arrays, viclip_video=one, viclip_text=one)
    method = {**TMOR, "text": "viclip_text", "video": "viclip_video", "shared": True}
    train(
        made(tmp_path / "more.npz", method=method, run={"epochs": 12}, optim={"name": "adamw", "lr": 0.01}),
        tmp_path / "run",
    )
    run = load_run(tmp_path / "run")
    results = zero_shot.zeroshot(run, open_split_of(run, (), (), "val", None, ("viclip_text",))).results
    assert [result.name.split(",")[0] for result in results] == [
        "seen classes by text",
        "seen classes by text through known classes",
        "seen classes by text by video",
    ]
    assert min(result.value for result in results) > 0.6


def test_texts_may_be_those_that_are_stored(data, tmp_path):
    with np.load(data) as arrays:
        one = np.eye(5, dtype=np.float32)[arrays["label"]] * 3
        np.savez(tmp_path / "more.npz", **arrays, viclip_text=one)
    train(
        made(tmp_path / "more.npz", method={**TMOR, "text": "viclip_text", "video": ""}), tmp_path / "run", stop_after=1
    )
    run = load_run(tmp_path / "run")
    assert torch.equal(run.method.texts, torch.eye(5)[:4])
    with pytest.raises(TrainingError, match="ngrams gives 1024 numbers a text, the run learnt with 5"):
        zero_shot.zeroshot(run, open_split_of(run, (), (), "val", None, ("viclip_text",)), text="ngrams")


def test_finetuning_begins_with_the_network_and_a_new_classifier(tmor, data, tmp_path):
    own = config.finetuning(str(tmor))
    assert (own.run.epochs, own.optim.name, own.optim.lr, own.view.steps) == (30, "sgd", 0.05, "weak")
    assert own.view.frames == load_run(tmor).config.view.frames and own.optim.backbone_scale == 0.3
    frozen = config.finetuning(str(tmor), None, ["optim.backbone_scale=0.0", "run.epochs=1", "method.smoothing=0.1"])
    assert frozen.method.name == "supervised" and frozen.run.name == "run_finetuned" and frozen.run.start == str(tmor)
    train(frozen, tmp_path / "frozen")
    before, after = network(tmor), network(tmp_path / "frozen")
    parameters = {name for name, _ in load_run(tmor).backbone.named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in parameters) and after.keys() > before.keys()
    other = made(data, run={"start": str(tmp_path / "frozen" / "model.safetensors"), "epochs": 2})
    train(other, tmp_path / "whole", stop_after=1)
    assert load_run(tmp_path / "whole").facts["start"] != load_run(tmp_path / "frozen").facts["start"]
    with pytest.raises(TrainingError, match="there is no run and no file of weights"):
        train(made(data, run={"start": str(tmp_path / "none")}), tmp_path / "never")
    with pytest.raises(TrainingError, match="is not a STGCN of these options"):
        train(made(data, run={"start": str(tmor)}, backbone={"channels_base": 4}), tmp_path / "never")


def test_a_share_of_the_labels_is_the_one_that_probes_take(data, tmp_path):
    table = config.DataTable(train=[str(data)])
    whole = splits.open_split(table, "train")
    part = label_subset(whole, 0.25, seed=3)
    chosen = label_subsets(whole[0].label_ids, (0.25,), 3)[0.25]
    assert part[0].keys == [whole[0].keys[place] for place in chosen] and len(chosen) < len(whole[0]) / 2
    assert [clip.key for clip in part[0].read(range(len(chosen)))] == part[0].keys
    assert label_subset(whole, 0.25, seed=4)[0].fingerprint != part[0].fingerprint
    few = made(data, data={"label_fraction": 0.25}, run={"epochs": 2, "batch": 4})
    assert train(few, tmp_path / "few").to_dict()["steps"] == 2 * (len(chosen) // 4)
    with pytest.raises(
        TrainingError, match=r"data\.label_fraction is one of every class's clips, and no clip has a label"
    ):
        bare = motion_files.write(tmp_path / "bare.npz", 16, labels=False)
        label_subset(splits.open_split(config.DataTable(train=[str(bare)]), "train"), 0.1, 0)


def test_motions_are_compared_with_the_texts_of_their_labels(supervised, tmor):
    run = load_run(tmor)
    texts = zero_shot.zeroshot_features(zero_shot.class_text(run, None, None), None)
    clips = open_split_of(run, (), (), "val", features=texts)
    margins = zero_shot.text_margins(run, clips)
    assert len(margins) == sum(map(len, clips)) and np.isfinite(margins).all()
    with pytest.raises(TrainingError, match="learnt beside no texts"):
        zero_shot.text_margins(load_run(supervised[0]), clips)


def test_what_measures_nothing_is_refused(supervised, tmor, data, tmp_path):
    with pytest.raises(TrainingError, match=r"is no run: it holds no last.safetensors"):
        load_run(tmp_path)
    run = load_run(supervised[0])
    with pytest.raises(TrainingError, match="learnt beside no texts"):
        zero_shot.zeroshot(run, open_split_of(run, (), (), "val"))
    with pytest.raises(TrainingError, match="neither texts nor videos"):
        zero_shot.retrieve(run, open_split_of(run, (), (), "val"))
    with pytest.raises(TrainingError, match="finds motions by text and video; given 'sound'"):
        zero_shot.retrieve(load_run(tmor), [], "sound")
    bare = motion_files.write(tmp_path / "bare.npz", 16, video=0, labels=False)
    with pytest.raises(TrainingError, match=r"bare.npz: no clip has a label, and this is measured by labels"):
        probing.probe(run, *(open_split_of(run, [str(bare)], (), side) for side in ("train", "val")))


@pytest.mark.parametrize("name", ["unik", "unik_small", "mcc", "mcc_small", "tmor", "tmor_small", "tmor_text"])
def test_committed_configurations_are_complete_and_train(name, data, tmp_path):
    given = config.load(name)
    assert given.run.name == name
    if name == "unik":
        assert (given.optim.lr, given.optim.milestones, given.run.epochs, given.run.batch) == (0.1, [45, 55], 65, 64)
        assert (given.view.frames, given.optim.weight_decay, given.run.grad_clip) == (150, 1e-4, 0)
    small = [
        "run.epochs=2",
        "run.batch=8",
        "run.workers=0",
        "run.tensorboard=false",
        "run.probe_every=1",
        "view.frames=16",
    ]
    small += ["data.epoch_size=8", "backbone.channels_base=4"]
    small += ["method.queue.size=16"] if given.method.name != "supervised" else []
    small += {"mcc": ["method.decoder_width=8"], "tmor": ["method.projector.hidden=8"]}.get(given.method.name, [])
    small += ['method.video="video"'] if name in ("tmor", "tmor_text") else []
    small += ['method.text="ngrams"'] if name == "tmor_text" else []
    result = train(config.load(name, small).on([str(data)]), tmp_path, stop_after=1)
    assert result.history.steps == 1 and "probe_knn" in result.history.log[-1]


def test_unknown_configurations_keys_and_options_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown configuration 'unik_smal' \(did you mean 'unik_small'"):
        config.load("unik_smal")
    with pytest.raises(RecipeError, match=r"\[run\] unknown key 'epoch' \(did you mean 'epochs'"):
        config.load("unik", ["run.epoch=3"])
    with pytest.raises(TrainingError, match=r"\[method\] supervised has no option 'smooth' \(did you mean 'smoothing'"):
        config.load("unik", ["method.smooth=0.1"])
    with pytest.raises(TrainingError, match="give --from a finished run"):
        config.finetuning("unik")
