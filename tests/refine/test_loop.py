"""Learning: it learns, it can be stopped anywhere and ends with the same bytes, and it keeps what was good."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from safetensors import safe_open
from safetensors.torch import save

from dataengine import testing
from dataengine.core.errors import TrainingError
from dataengine.core.types import LabelledFrame
from dataengine.refine.loop import CHECKPOINT, FLOOR, FitSettings, Fitted, fit, order_of, rate_at
from tests.support.tiny_student import TinySession, TinyStudent

SETTINGS = FitSettings(epochs=3, batch=3, rate=3e-3, threads=1)
TRAIN, HELD = testing.example_labels(8, seed=1), testing.example_labels(4, seed=50)


class Stopped(Exception):
    """Stands for a kill."""


class Interrupted(TinySession):
    """Stops in the n-th call of `loss`."""

    left = -1

    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Any]:
        if self.left == 0:
            raise Stopped
        self.left -= 1
        return super().loss(frames, rng, train)


def run(folder: Path, settings: FitSettings = SETTINGS, stop: int = -1) -> tuple[Fitted, bytes]:
    session = Interrupted(0, None)
    session.left = stop
    fitted = fit(session, TRAIN, HELD, settings, folder)
    session.save(folder / "weights")
    return fitted, (folder / "weights").read_bytes()


def test_the_tiny_student_keeps_the_promises_of_a_student(tmp_path: Path) -> None:
    testing.check_student(TinyStudent(), tmp_path)


def test_it_learns(tmp_path: Path) -> None:
    fitted = fit(TinySession(0, None), TRAIN, TRAIN, SETTINGS, tmp_path)
    rows = fitted.history
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3] and rows[0]["train"] is None
    best = rows[fitted.best_epoch]["validation"]
    assert best == min(row["validation"] for row in rows) < 0.97 * rows[0]["validation"]


def test_stopped_anywhere_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, weights = run(tmp_path / "whole")
    calls = (1 + SETTINGS.epochs) * 2 + SETTINGS.epochs * 3
    for stop in (0, 1, 3, 6, 7, 8, calls - 2, calls - 1):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            run(folder, stop=stop)
        again, found = run(folder)
        assert found == weights and again == whole, stop
    done, found = run(tmp_path / "whole", stop=0)  # nothing is left to do
    assert found == weights and done == whole


def test_a_checkpoint_of_another_run_and_a_damaged_one_are_passed_over(tmp_path: Path) -> None:
    _, weights = run(tmp_path / "a")
    run(tmp_path / "b", replace(SETTINGS, seed=1))
    assert run(tmp_path / "b")[1] == weights
    (tmp_path / "b" / CHECKPOINT).write_bytes((tmp_path / "a" / CHECKPOINT).read_bytes()[:5000])
    assert run(tmp_path / "b")[1] == weights
    whole = tmp_path / "a" / CHECKPOINT
    with safe_open(str(whole), framework="pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    name = next(one for one in tensors if one.startswith("now."))
    for changed in (
        {one: value for one, value in tensors.items() if one != name},
        tensors | {name: tensors[name][..., :1].clone()},
        tensors | {"optim.99.step": tensors[name].clone()},
    ):
        (tmp_path / "b" / CHECKPOINT).write_bytes(save(changed, header))
        assert run(tmp_path / "b")[1] == weights
    (tmp_path / "b" / CHECKPOINT).write_bytes(save(tensors, header | {"facts": "[]"}))
    assert run(tmp_path / "b")[1] == weights


def test_the_number_of_threads_of_the_machine_changes_nothing(tmp_path: Path) -> None:
    import torch

    before, state = torch.get_num_threads(), torch.get_rng_state()
    _, weights = run(tmp_path / "a")
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(before + 1)
    try:
        assert run(tmp_path / "b")[1] == weights
    finally:
        torch.set_num_threads(before)


def test_a_loss_that_is_no_number_ends_learning_with_the_weights_before(tmp_path: Path) -> None:
    class Breaks(TinySession):
        calls = 0

        def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Any]:
            found = super().loss(frames, rng, train)
            self.calls += train
            return {"loss": found["loss"] * math.nan} if self.calls == 5 else found

    session = Breaks(0, None)
    fitted = fit(session, TRAIN, HELD, SETTINGS, tmp_path / "broken")
    assert "step 1 of epoch 2 is nan" in fitted.stopped and fitted.best_epoch == 1 and len(fitted.history) == 2
    session.save(tmp_path / "weights")
    one = Interrupted(0, None)
    fit(one, TRAIN, HELD, replace(SETTINGS, epochs=3, patience=1), tmp_path / "one")
    assert all(np.isfinite(value.numpy()).all() for value in session.network.state_dict().values())


def test_without_gain_the_student_is_as_before(tmp_path: Path) -> None:
    session = TinySession(0, None)
    before = {k: v.clone() for k, v in session.network.state_dict().items()}
    fitted = fit(session, TRAIN, HELD, replace(SETTINGS, rate=1e3, epochs=6, patience=2), tmp_path)
    assert fitted.best_epoch == 0 and len(fitted.history) == 3
    assert fitted.stopped == "no lower validation loss for 2 epochs"
    assert all(value.equal(before[key]) for key, value in session.network.state_dict().items())


def test_nothing_to_learn_from_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no labelled frames to learn from"):
        fit(TinySession(0, None), [], HELD, SETTINGS, tmp_path)
    with pytest.raises(TrainingError, match="no labelled frames to validate with"):
        fit(TinySession(0, None), TRAIN, [], SETTINGS, tmp_path)


def test_the_order_of_frames_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): tuple(order_of(seed, epoch, 50).tolist()) for seed in (0, 1) for epoch in (1, 2)}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert tuple(order_of(1, 2, 50).tolist()) == orders[1, 2]


def test_the_rate_rises_and_falls() -> None:
    factors = [rate_at(step, 100, FitSettings(warmup=0.1)) for step in range(100)]
    assert factors[:10] == [(n + 1) / 10 for n in range(10)]
    assert all(a >= b for a, b in itertools.pairwise(factors[9:])) and FLOOR < factors[-1] < 2 * FLOOR
    assert rate_at(0, 5, FitSettings(warmup=0.0)) == 1
