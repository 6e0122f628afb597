"""Floors: what coordinates reach without a network, chosen on the training clips alone, and kept."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support import motion_files
from tests.support.motion_files import TABLES
from training import config
from training.data.subsets import label_subsets
from training.evaluate import floors as pure
from training.evaluate.floors import NEIGHBOUR, RANDOM, RIDGE, STRENGTHS, Coordinates, coordinate_floors, nearest
from training.evaluate.result import Result
from training.runs import floors as kept
from training.runs import splits
from training.runs.floors import Floors
from training.runs.run import make_preprocess
from training.runs.train import resolve
from training.transforms.prepared import ClipCache
from training.transforms.view import View


def clouds(count: int, seed: int = 0, classes: int = 4, width: int = 12):
    """Rows around a centre for each class, the centres the same for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return (centres[labels] + 0.8 * rng.normal(size=(count, width))).astype(np.float32), labels


def test_the_nearest_row_is_the_one_of_the_smallest_distance(monkeypatch):
    (known, _), (queries, _) = clouds(50), clouds(33, seed=1)
    apart = np.square(queries[:, None] - known).sum(-1)
    assert (nearest(known, queries) == apart.argmin(1)).all()
    monkeypatch.setattr(pure, "CELLS", 120)
    assert (nearest(known, queries) == apart.argmin(1)).all()
    assert nearest(np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)).tolist() == [0]


@pytest.mark.parametrize("count", [8, 40])
def test_the_ridge_is_least_squares_with_a_penalty(count):
    """Against weights found from the normal equations, with fewer clips than numbers and with more."""
    (known, labels), (queries, _) = clouds(count), clouds(20, seed=1)
    rows = known - known.mean(0, dtype=np.float64)
    goal = np.eye(4)[labels] - np.eye(4)[labels].mean(0)
    for strength in (0.01, 1.0):
        penalty = strength * np.square(rows).sum(1).mean()
        stacked = np.concatenate([rows, np.sqrt(penalty) * np.eye(12)])
        weight = np.linalg.lstsq(stacked, np.concatenate([goal, np.zeros((12, 4))]), rcond=None)[0]
        expected = (queries - known.mean(0, dtype=np.float64)) @ weight + np.eye(4)[labels].mean(0)
        found = pure._ridge_outputs(known, labels, queries, 4, (strength,))[strength]
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_strength_is_chosen_without_the_test_clips():
    (rows, labels), (queries, truth) = clouds(60), clouds(200, seed=1)
    own = coordinate_floors(Coordinates(rows, labels), queries, truth, 4)
    other = coordinate_floors(Coordinates(rows, labels), queries[:20], (truth[:20] + 1) % 4, 4)
    assert own[RIDGE].details["strength"] == other[RIDGE].details["strength"] in STRENGTHS
    assert own[RIDGE].value > 0.8 > 0.3 > other[RIDGE].value and own[NEIGHBOUR].value > 0.7
    assert own[RIDGE].details["training clips"] == "as they are" and len(own[RIDGE].details["each"]) == 1


def test_mirrored_clips_count_where_they_help():
    """Test clips that are all mirrored ones: the rows with their sign turned."""
    rows, labels = clouds(60)
    found = coordinate_floors(Coordinates(rows, labels, -rows), -rows, labels, 4)
    for floor in found.values():
        each = floor.details["each"]
        assert floor.details["training clips"] == "with mirrored clips"
        assert floor.value == each["with mirrored clips"] > each["as they are"]
    assert found[NEIGHBOUR].value == 1.0


def test_nobody_is_in_two_folds():
    rows, labels = clouds(60)
    people = [f"p{number % 7}" for number in range(60)]
    fold = Coordinates(rows, labels, groups=people).folds()
    assert all(len({fold[n] for n in range(60) if people[n] == person}) == 1 for person in people)
    assert sorted(set(fold.tolist())) == [0, 1, 2]
    assert len(set(Coordinates(rows, labels, groups=["one"] * 60).folds().tolist())) == 3
    assert Coordinates(rows[:4], np.arange(4)).folds() is None
    few = coordinate_floors(Coordinates(rows[:4], np.arange(4)), rows, labels, 4)
    assert few[RIDGE].details == {
        "training clips": "as they are",
        "each": {"as they are": few[RIDGE].value},
        "strength": pure.FALLBACK,
        "cross-validation": {},
    }


def test_clips_without_a_label_are_left_out():
    (rows, labels), (queries, truth) = clouds(60), clouds(40, seed=1)
    half = np.where(np.arange(60) % 2, labels, -1)
    own = Coordinates(rows, half, rows + 1, [str(n) for n in range(60)])
    assert len(own.labels) == 30 and own.groups[0] == "1" and (own.mirrored == rows[1::2] + 1).all()
    expected = coordinate_floors(Coordinates(rows[1::2], labels[1::2]), queries[:20], truth[:20], 4)
    asked = np.where(np.arange(40) < 20, truth, -1)
    assert coordinate_floors(Coordinates(rows, half), queries, asked, 4)[NEIGHBOUR] == expected[NEIGHBOUR]
    with pytest.raises(TrainingError, match="none has a label"):
        Coordinates(rows, np.full(60, -1))
    with pytest.raises(TrainingError, match="one row a label"):
        Coordinates(rows, labels[:3])
    with pytest.raises(TrainingError, match="have 12 coordinates, those to measure on 3"):
        coordinate_floors(Coordinates(rows, labels), queries[:, :3], truth, 4)


def test_many_numbers_of_many_clips_are_learnt_from_some(monkeypatch):
    (rows, labels), (queries, truth) = clouds(200), clouds(50, seed=1)
    monkeypatch.setattr(pure, "MOST_ROWS", 10)
    assert coordinate_floors(Coordinates(rows, labels), queries, truth, 4)[RIDGE].value > 0.4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Floors of two splits of made-up motions, as a function of further options."""
    path = motion_files.write(tmp_path_factory.mktemp("data") / "motions.npz")
    given = config.validate({**TABLES, "data": {"train": [str(path)]}}, "test")
    train, test = (splits.open_split(given.data, "train", split=name) for name in ("train", "val"))
    given = resolve(given, train, "val")

    def floors(folder=None, **changed):
        preprocess, cache = make_preprocess(given, train[0].skeleton), None
        if folder is not None:
            cache = ClipCache(folder, 1e6, 1e6)
        return Floors(given, preprocess, train[0].labels, train, test, cache=cache, **changed)

    return floors, train, test


RESULT = Result("classifier", "top-1", 0.5, baselines={"chance": 0.25}, details={"clips": 24})


def test_what_was_found_is_kept(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "NETWORKS", 2)
    floors, train, _ = made
    first = floors(tmp_path)
    one, two = first.beside(RESULT), first.beside(RESULT, "knn")
    few = first.beside_few([RESULT, RESULT], (0.25, 0.5), (0, 1))
    assert list(one.baselines) == ["chance", NEIGHBOUR, RIDGE, RANDOM] and one.details["clips"] == 24
    assert one.baselines[RANDOM] != two.baselines[RANDOM] and one.baselines[RIDGE] == two.baselines[RIDGE]
    assert len(one.details["floors"][RANDOM]["each"]) == 2 and len(list(tmp_path.glob("*.json"))) == 1
    monkeypatch.setattr(kept, "coordinate_floors", None)
    monkeypatch.setattr(kept, "create_backbone", None)
    again = floors(tmp_path)
    assert again.beside(RESULT) == one and again.beside(RESULT, "knn") == two
    assert again.beside_few([RESULT, RESULT], (0.25, 0.5), (0, 1)) == few
    with pytest.raises(TypeError):  # other labels are another figure, other crops others of random networks
        again.beside_few([RESULT], (0.25,), (0, 1))
    with pytest.raises(TypeError):
        floors(tmp_path, spans=((0.0, 1.0),)).beside(RESULT)
    with pytest.raises(TypeError):
        names = ("another", *train[0].labels)
        Floors(again._config, again._preprocess, names, *again._whole, cache=again._cache).beside(RESULT)


def test_a_torn_file_is_as_none(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "NETWORKS", 1)
    floors, *_ = made
    one = floors(tmp_path).beside(RESULT)
    (path,) = tmp_path.glob("*.json")
    for torn in ("", "[1, 2]", path.read_text()[:-9]):
        path.write_text(torn)
        assert floors(tmp_path).beside(RESULT) == one
        assert json.loads(path.read_text())["coordinates"][RIDGE]["value"] == one.baselines[RIDGE]
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="prepared clips are not written"):
        assert floors(tmp_path / "file").beside(RESULT) == one


def test_few_labels_are_the_same_for_floors_and_networks(made):
    floors, train, test = made
    own = floors()
    (result,) = own.beside_few([RESULT], (0.25,), (3,))
    chosen = label_subsets(train[0].label_ids, (0.25,), 3)[0.25]
    rows, queries = own._coordinates
    part = Coordinates(rows.rows[chosen], rows.labels[chosen], rows.mirrored[chosen])
    expected = coordinate_floors(part, queries.features, test[0].label_ids, len(train[0].labels))
    assert {name: result.baselines[name] for name in (NEIGHBOUR, RIDGE)} == {
        name: floor.value for name, floor in expected.items()
    }


def test_rows_are_what_the_network_is_given(made):
    floors, train, _ = made
    own = floors()
    coordinates, _ = own._coordinates
    clip, preprocess = train[0].read([5])[0], own._preprocess
    whole = View(16, "none")(preprocess.joints(clip), np.random.default_rng(0))
    expected = preprocess.finish(whole)
    rows = coordinates.rows[5].reshape(2, 16, train[0].skeleton.num_joints, 1)
    np.testing.assert_array_equal(rows, expected.transpose(3, 1, 2, 0))
    mirrored = coordinates.mirrored[5].reshape(rows.shape)
    np.testing.assert_allclose(mirrored[0], -rows[0][:, list(train[0].skeleton.flip)], atol=1e-6)


def test_masks_change_random_networks_alone(made):
    """Where the network is given masks, coordinates are what they were."""
    floors, *_ = made
    own = floors()
    masked = dataclasses.replace(own._preprocess, mask=True)
    other = Floors(own._config, masked, own._names, *own._whole)
    for one, two in zip(own._coordinates, other._coordinates):
        np.testing.assert_array_equal(getattr(one, "rows", None), getattr(two, "rows", None))
    assert other.beside(RESULT).baselines[NEIGHBOUR] == own.beside(RESULT).baselines[NEIGHBOUR]


def test_random_networks_are_several_and_the_same_again(made):
    floors, *_ = made
    one, two, again = floors().network(0), floors().network(1), floors().network(0)
    state = [network.state_dict() for network in (one, two, again)]
    assert all(torch.equal(state[0][name], state[2][name]) for name in state[0])
    assert any(not torch.equal(state[0][name], state[1][name]) for name in state[0])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    floors().network(0)
    assert torch.equal(before, torch.random.get_rng_state())
