"""Pictures are written whole, the same every time, for few and for very many classes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
threadpoolctl = pytest.importorskip("threadpoolctl")

from dataengine.core.errors import MissingExtraError, TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from training.evaluate import joints, plots


@pytest.fixture(autouse=True)
def one_thread():
    with threadpoolctl.threadpool_limits(1):
        yield


def guesses(classes: int, num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=num)
    return np.where(rng.random(num) < 0.6, labels, rng.integers(classes, size=num)), labels


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.mark.parametrize("classes", [15, 811])
def test_confusion_matrix(tmp_path: Path, classes: int) -> None:
    names = [f"a class with a rather long name, {n}" for n in range(classes)]
    path = plots.confusion_matrix(*guesses(classes), names, tmp_path / "a.png", "title")
    assert max(size_of(path)) < 3500 and [p.name for p in tmp_path.iterdir()] == ["a.png"]
    if classes == 15:
        again = plots.confusion_matrix(*guesses(classes), names, tmp_path / "b.png", "title")
        assert again.read_bytes() == path.read_bytes()


def test_of_many_classes_the_confused_ones_are_shown_side_by_side() -> None:
    counts = np.diag(np.full(100, 50))
    counts[7, 90], counts[90, 7], counts[3, 4] = 20, 15, 9
    chosen = plots._most_confused(counts, most=4)
    assert set(chosen[:2]) == {7, 90} and set(chosen[2:4]) == {3, 4}


def test_accuracy_bars_and_svg(tmp_path: Path) -> None:
    few = plots.accuracy_bars(*guesses(4), ["a", "b", "c", "nobody"], tmp_path / "few.svg", "title").read_text()
    assert (
        "<svg" in few
        and few
        == plots.accuracy_bars(*guesses(4), ["a", "b", "c", "nobody"], tmp_path / "again.svg", "title").read_text()
    )
    many = plots.accuracy_bars(*guesses(320, 2000), [str(n) for n in range(320)], tmp_path / "many.png")
    assert size_of(many)[1] < 2000


def test_embedding(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.append(rng.integers(45, size=150), -1)
    path = plots.embedding(
        rng.standard_normal((151, 8)), labels, [str(n) for n in range(45)], tmp_path / "a.png", most=100
    )
    assert size_of(path)[0] > 1000
    with pytest.raises(TrainingError, match="did you mean 'tsne'"):
        plots.embedding(
            rng.standard_normal((151, 8)), labels, [str(n) for n in range(45)], tmp_path / "b.png", method="tsn"
        )
    if importlib.util.find_spec("umap") is None:
        with pytest.raises(TrainingError, match="pip install umap-learn"):
            plots.embedding(
                rng.standard_normal((151, 8)), labels, [str(n) for n in range(45)], tmp_path / "b.png", method="umap"
            )


def test_training_curves_of_a_log_that_is_still_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": n, "train/loss": 1 / (n + 1), "note": "text", "lr": None, "flag": True} for n in range(100)]
    rows += [{"step": n, "val/loss": 0.5, "val/top-1": float("nan")} for n in (0, 50)]
    log.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"step": 1')
    series = plots._series(log, "step")
    assert {name: len(steps) for name, (steps, _) in series.items()} == {"train/loss": 100, "val/loss": 2}
    assert size_of(plots.training_curves(log, tmp_path / "a.png"))[0] > 400


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no line holds 'step'"),
        ("{\n{}\n", "line 1 is no JSON"),
        ('{"step": 1}\n', "no line holds"),
        (None, "cannot be read"),
    ],
)
def test_logs_that_cannot_be_drawn_are_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(TrainingError, match=says):
        plots.training_curves(tmp_path / "log.jsonl", tmp_path / "a.png")


@pytest.mark.parametrize("name", SKELETONS)
def test_every_layout_stands_upright_and_is_symmetric(name: str) -> None:
    skeleton = SKELETONS[name]
    assert all(joints._position_of(joint) for joint in skeleton.joints)
    positions = joints.drawing_positions(skeleton)
    np.testing.assert_allclose(positions[list(skeleton.flip)], positions * [-1, 1], atol=1e-12)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + np.eye(len(positions))
    assert distances.min() > 0.01
    assert positions[:, 1].argmin() in skeleton.indices(
        tuple(j for j in skeleton.joints if "ankle" in j or "toe" in j or "foot" in j)
    )


def test_joints_of_unknown_names_are_drawn_by_their_bones() -> None:
    star = Skeleton("hand", tuple("abcdefgh"), ((0, 1), (1, 2), (2, 3), (1, 4), (4, 5), (1, 6), (6, 7)))
    positions = joints.drawing_positions(star)
    lengths = [np.linalg.norm(positions[a] - positions[b]) for a, b in star.bones]
    assert max(lengths) < 1.6 * min(lengths)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + np.eye(8)
    assert distances.min() > 0.7 * min(lengths)
    np.testing.assert_array_equal(positions, joints.drawing_positions(star))
    assert np.isfinite(joints.drawing_positions(Skeleton("loose", ("a", "b", "c"), ((0, 1),)))).all()


def test_attention_over_joints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, weights in (
        ("coco17", rng.random((17, 17))),
        ("posetics17", rng.random(17)),
        ("lcr13", np.zeros((13, 13))),
    ):
        assert min(size_of(joints.draw_attention(weights, SKELETONS[name], tmp_path / f"{name}.png"))) > 600
    for wrong in (np.ones(16), -np.ones(17), np.full(17, np.nan)):
        with pytest.raises(TrainingError, match=r"attention over coco17 is \(17,\) or \(17, 17\)"):
            joints.draw_attention(wrong, SKELETONS["coco17"], tmp_path / "a.png")


def test_heights_of_names_keep_their_order_and_distance() -> None:
    wanted = np.array([1.0, 0.99, 0.98, 0.5, 0.5, 0.1])
    found = joints._spaced_heights(wanted, 0.05)
    assert (
        (-np.diff(found) >= 0.05 - 1e-9).all() and abs(found - wanted).max() < 0.06 and found[5] == pytest.approx(0.1)
    )
    assert joints._spaced_heights(np.zeros(0), 0.05).shape == (0,)


def test_what_is_missing_or_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"ends in \.png, \.svg or \.pdf"):
        plots.confusion_matrix([0], [0], ["a"], tmp_path / "a.jpeg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="--extra train"):
        plots.confusion_matrix([0], [0], ["a"], tmp_path / "a.png")


def test_characters_that_the_font_lacks_are_said_once(tmp_path):
    with pytest.warns(UserWarning) as told:
        plots.confusion_matrix([0, 1], [0, 1], ["跳", "run"], tmp_path / "c.png")
    assert [str(one.message) for one in told] == [
        f"{tmp_path / 'c.png'}: the font of plots lacks some characters of the names, and draws boxes in their place"
    ]
