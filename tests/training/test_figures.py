"""Figures: none overwrites another, each says what it measures, and intervals know who was filmed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.skeletons import Skeleton
from tests.support import motion_files
from tests.support.motion_files import TMOR
from tests.training.test_runs import made
from training.data.formats import open_datasets
from training.data.subsets import label_subset
from training.evaluate.joints import drawing_positions
from training.evaluate.probes import LabelledFeatures, classification_result, knn
from training.runs import evaluation as evaluating
from training.runs import probe as probing
from training.runs import zero_shot
from training.runs.compare import compare
from training.runs.report import open_split_of
from training.runs.run import load_run
from training.runs.splits import groups_of
from training.runs.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return motion_files.write(tmp_path_factory.mktemp("data") / "motions.npz")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "supervised"
    train(made(data, run={"epochs": 1}), folder)
    return load_run(folder)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """The slowest picture, t-SNE, is a file of a few bytes."""

    def drawn(*arguments, **more):
        arguments[3].write_bytes(b"tsne")
        return arguments[3]

    monkeypatch.setattr(probing, "embedding", drawn)


def measure(run, path, **options):
    train, test = (open_split_of(run, [str(path)], (), which) for which in ("train", "val"))
    report = probing.probe(run, train, test, **options)
    report.write()
    return report


def test_measures_of_other_data_stand_beside_each_other(run, data, tmp_path):
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    other = motion_files.write(tmp_path / "other.npz", seed=4)
    first = measure(run, data)
    kept = first.path.read_bytes()
    second = measure(run, other)
    assert first.path != second.path and first.path.read_bytes() == kept
    assert first.path.parent.parent == run.folder / "measured" and first.path.parent.name.startswith("motions-")
    assert second.path.parent.name.startswith("other-")
    assert all(path.parent == second.path.parent and path.is_file() for path in second.plots)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {line.measured_on["fingerprint"] for line in compare(run.folder) if line.result.name == "linear probe"} == {
        report.measured_on["fingerprint"] for report in (first, second)
    }
    third = measure(run, data, neighbours=True)  # the same again with more: what it does not measure anew stays
    names = [result["name"] for result in json.loads(third.path.read_text())["results"]]
    assert sorted(names) == ["20 nearest neighbours", "classifier", "linear probe"]
    assert third.path == first.path


def test_a_table_of_runs_has_each_figure_once(run, data):
    measure(run, data)
    shown = [
        (line.result.name, line.measured_on["fingerprint"], line.result.value)
        for line in compare(run.folder)
        if line.result is not None
    ]
    assert len(shown) == len(set(shown)) and any(name == "classifier" for name, *_ in shown)


def test_few_labels_of_a_network_that_saw_all_are_told(run, data, tmp_path):
    with pytest.warns(UserWarning, match=r"trained with the labels of all.*25 %.*data\.label_fraction"):
        report = measure(run, data, fractions=(0.25,), seeds=2)
    few = next(result for result in report.results if "25 %" in result.name)
    assert few.name == "linear probe, 25 % of labels, network with 100 %"
    train(made(data, data={"label_fraction": 0.25}, run={"epochs": 1, "batch": 4}), tmp_path / "few")
    report = measure(load_run(tmp_path / "few"), data, fractions=(0.25,), seeds=2)
    assert "linear probe, 25 % of labels" in [result.name for result in report.results]


@pytest.fixture(scope="module")
def texts(data, tmp_path_factory):
    """A run that learnt the texts of two of four classes."""
    folder = tmp_path_factory.mktemp("runs") / "tmor"
    two = {"where": "label IN ('squat', 'walk') OR split = 'val'"}
    train(made(data, run={"epochs": 1}, method={**TMOR, "video": ""}, data=two), folder)
    return load_run(folder)


def test_zero_shot_is_what_was_never_trained(texts, data):
    assert texts.facts["seen"] == ["squat", "walk"]
    test = open_split_of(texts, [str(data)], (), "val")
    found = {result.name.split(", ngrams")[0]: result for result in zero_shot.zeroshot(texts, test).results}
    assert set(found) == {
        f"{what}{way}"
        for way in ("", " through known classes")
        for what in ("zero-shot, unseen classes", "generalised zero-shot")
    }
    general, alone = found["generalised zero-shot"], found["zero-shot, unseen classes"]
    seen, unseen = general.details["seen"], general.details["unseen"]
    assert general.metric == "harmonic mean"
    assert general.value == pytest.approx(2 * seen * unseen / (seen + unseen) if seen + unseen else 0)
    assert alone.details["clips"] == 12 and alone.details["classes"] == 2 and alone.baselines["chance"] == 0.5
    assert alone.value >= unseen


def test_naming_trained_classes_is_not_called_zero_shot(texts, data):
    test = open_datasets(data, "val", "label IN ('squat', 'walk')")
    assert all(r.name.startswith("seen classes by text") for r in zero_shot.zeroshot(texts, test).results)
    unseen = open_datasets(data, "val", "label NOT IN ('squat', 'walk')")
    assert all(r.name.startswith("zero-shot, unseen classes") for r in zero_shot.zeroshot(texts, unseen).results)


def test_probes_while_training_read_with_workers(data, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        evaluating, "extract_features", lambda *args, workers=0, **more: asked.append(workers) or (np.eye(4), None)
    )
    monkeypatch.setattr("training.runs.features.MANY", 10)
    config = made(data, run={"workers": 3})
    clips = open_datasets(data, "train")
    evaluation = evaluating.Evaluation(config, None, clips[0].labels, clips, clips, "cpu")
    monkeypatch.setattr(evaluating, "LabelledFeatures", lambda *a, **k: None)
    evaluation._features(type("M", (), {"embed": None})(), clips)
    assert asked == [3]


def test_an_interval_is_over_people_where_they_are_known(data, tmp_path):
    right = np.eye(2)[np.repeat([0, 1], 30)]
    labels = np.zeros(60, int)
    people = np.repeat(["a", "b", "c", "d", "e", "f"], 10)
    over_clips, over_people = (classification_result("x", right, labels, groups=g) for g in (None, people))
    assert over_clips.interval.method == "bootstrap over clips" and over_clips.interval.n == 60
    assert over_people.interval.method == "bootstrap over groups" and over_people.interval.n == 6
    assert over_people.interval.half > 1.5 * over_clips.interval.half
    rows = np.random.default_rng(0).normal(size=(60, 4))
    test = LabelledFeatures(rows, np.arange(60) % 3 - 1, list(people))
    assert len(test.groups) == 40 and knn(test, test, 2).interval.n == 6
    with np.load(data) as arrays:
        np.savez(tmp_path / "who.npz", **arrays, subject=np.arange(72) % 5)
    val = open_datasets(tmp_path / "who.npz", "val")
    assert len(set(groups_of(val))) == 5 and groups_of(open_datasets(data, "val")) is None
    subset = label_subset(val, 0.5, 0)
    assert len(groups_of(subset)) == len(subset[0])


def test_a_drawn_body_stands_on_its_feet():
    chain = ("foot_end", "leg", "trunk", "neck_part", "skull")
    heights = np.arange(5.0)
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        names = [chain[k] for k in order]
        bones = tuple((names.index(a), names.index(b)) for a, b in itertools.pairwise(chain))
        drawn = drawing_positions(Skeleton("mine", tuple(names), bones), heights[list(order)])
        assert drawn[names.index("skull"), 1] > drawn[names.index("foot_end"), 1]
    known = Skeleton("mine", ("left_ankle", "knee_thing", "pelvis", "head"), ((0, 1), (1, 2), (2, 3)))
    assert drawing_positions(known)[3, 1] > drawing_positions(known)[0, 1]
    turned = Skeleton("mine", ("head", "pelvis", "knee_thing", "left_ankle"), ((0, 1), (1, 2), (2, 3)))
    assert drawing_positions(turned)[0, 1] > drawing_positions(turned)[3, 1]
