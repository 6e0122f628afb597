"""How a student learns: epochs, order of frames, optimiser, early stopping, and a checkpoint after every epoch.

A run is a function of (student, frames, settings). Killed at any moment and started again in the same folder, it ends
with the same bytes. The order of frames and all random numbers, those of torch included, are seeded by (seed, epoch,
step), so that no state of a generator has to be kept. Weights and the optimiser's state are read back from the last
checkpoint, which is whole or not there. On a CPU the settings fix the number of threads of torch, because sums depend
on it, and torch is asked for deterministic algorithms. On a GPU some kernels add in any order: a run that was killed
there ends with weights that are as good, and not the same bytes.

Epoch 0 is the student before learning. Where no epoch has a lower validation loss, its weights are the result.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataengine.core.component import StudentSession
from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from dataengine.core.types import Int, LabelledFrame
from dataengine.io.storage import staged

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "1"
FLOOR = 0.01
"""Share of the rate at the end of the schedule."""
MOMENTUM = 0.9


@dataclass(frozen=True)
class FitSettings:
    """How a student learns.

    Attributes:
        epochs: most passes over the frames.
        batch: frames per step.
        rate: learning rate after the warm-up; it falls to a hundredth of itself along a half cosine.
        warmup: share of all steps in which the rate rises from 0.
        optimizer: AdamW, or SGD with a momentum of 0.9.
        weight_decay: of the optimiser.
        clip: largest norm of the gradient.
        patience: epochs without a lower validation loss after which learning ends.
        seed: of everything that is drawn.
        threads: of torch on a CPU.
    """

    epochs: int = 8
    batch: int = 8
    rate: float = 1e-4
    warmup: float = 0.1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    clip: float = 1.0
    patience: int = 3
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Fitted:
    """How learning went; the session holds the weights of the best epoch.

    Attributes:
        history: a row per epoch from 0 on: `epoch`, `validation` (mean loss), `train` (mean loss, None for epoch 0),
            `parts` (means of the parts of the loss while learning).
        best_epoch: the epoch with the lowest validation loss; 0: nothing was gained.
        stopped: why learning ended.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    stopped: str


class NotFinite(TrainingError):
    """A loss or a gradient is infinite or no number."""


def order_of(seed: int, epoch: int, count: int) -> Int:
    """(count,) int64, the order in which an epoch goes through the frames."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def rate_at(step: int, steps: int, settings: FitSettings) -> float:
    """The factor of the rate in a step, from 0: a linear warm-up, then half a cosine down to `FLOOR`."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(steps - warm, 1)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share))


def fit(
    session: StudentSession,
    train: Sequence[LabelledFrame],
    validation: Sequence[LabelledFrame],
    settings: FitSettings,
    folder: Path,
    progress: Progress | None = None,
    name: str = "refine",
) -> Fitted:
    """Let a student learn, or go on with a run that was stopped; the session ends with the best weights.

    Args:
        session: as `Student.start` gives it.
        train: frames to learn from. They are asked for by number when they are needed, so they may lie on a disk.
        validation: frames of other videos, for early stopping.
        folder: for the checkpoint of this run. A checkpoint of other settings or other frames there is passed over.
        progress: shows steps, their rate, and the time left.
        name: of the run, for progress.

    Raises:
        TrainingError: there is nothing to learn from, or to validate with.
    """
    for what, frames in (("to learn from", train), ("to validate with", validation)):
        if not len(frames):
            raise TrainingError(
                f"{name}: there are no labelled frames {what}; more clips, or lower thresholds, give some"
            )
    with _torch_fixed(session, settings):
        return _Run(session, train, validation, settings, folder).to_the_end(progress or Progress(), name)


class _Run:
    """One run of `fit`: what it knows after an epoch is what its checkpoint holds."""

    def __init__(
        self,
        session: StudentSession,
        train: Sequence[LabelledFrame],
        validation: Sequence[LabelledFrame],
        settings: FitSettings,
        folder: Path,
    ) -> None:
        import torch

        self.session, self.train, self.validation, self.settings = session, train, validation, settings
        self.path = folder / CHECKPOINT
        self.per_epoch = math.ceil(len(train) / settings.batch)
        groups = [dict(group) for group in session.parameters()]
        self.scales = [group.pop("scale", 1.0) for group in groups]
        given = [{**group, "params": list(group["params"])} for group in groups]
        self.parameters = [p for group in given for p in group["params"]]
        if settings.optimizer == "adamw":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                given, lr=settings.rate, weight_decay=settings.weight_decay, foreach=False
            )
        else:
            self.optimizer = torch.optim.SGD(
                given, lr=settings.rate, momentum=MOMENTUM, weight_decay=settings.weight_decay, foreach=False
            )
        self.history: list[dict[str, Any]] = []
        self.best_epoch, self.best, self.stopped = 0, self._weights(), ""

    def to_the_end(self, progress: Progress, name: str) -> Fitted:
        self._resume()
        total = self.settings.epochs * self.per_epoch
        with progress.step(name, total, "steps") as advance:
            if not self.history:
                self._note(None, {})
            advance((len(self.history) - 1) * self.per_epoch)
            while not self.stopped and len(self.history) <= self.settings.epochs:
                self._epoch(len(self.history), advance)
        self.session.network.load_state_dict(self.best)
        return Fitted(self.history, self.best_epoch, self.stopped or "every epoch was done")

    def _epoch(self, epoch: int, advance: Any) -> None:
        before = self._weights()
        try:
            loss, parts = self._learn(epoch, advance)
            self._note(loss, parts)
        except NotFinite as error:
            self.session.network.load_state_dict(before)
            self.stopped = f"{error}; the weights of the epochs before are kept"
            self._save()
            return
        if epoch - self.best_epoch >= self.settings.patience:
            self.stopped = f"no lower validation loss for {self.settings.patience} epochs"
        self._save()

    def _learn(self, epoch: int, advance: Any) -> tuple[float, dict[str, float]]:
        """One epoch; the mean loss, and the means of its parts."""
        import torch

        size, total = self.settings.batch, self.settings.epochs * self.per_epoch
        order, sums = order_of(self.settings.seed, epoch, len(self.train)), dict[str, float]()
        for number in range(self.per_epoch):
            step = (epoch - 1) * self.per_epoch + number
            frames = [self.train[int(n)] for n in order[number * size : (number + 1) * size]]
            rng = _seeded(self.settings.seed, epoch, number)
            for group, scale in zip(self.optimizer.param_groups, self.scales):
                group["lr"] = self.settings.rate * scale * rate_at(step, total, self.settings)
            self.optimizer.zero_grad(set_to_none=True)
            found = self.session.loss(frames, rng, train=True)
            _check(found["loss"].item(), f"the loss in step {number} of epoch {epoch}")
            found["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip, foreach=False)
            _check(norm.item(), f"the gradient in step {number} of epoch {epoch}")
            self.optimizer.step()
            for key, value in found.items():
                sums[key] = sums.get(key, 0.0) + float(value.item()) * len(frames)
            advance(1)
        means = {key: value / len(self.train) for key, value in sums.items()}
        return means.pop("loss"), means

    def _validate(self) -> float:
        import torch

        size, total = self.settings.batch, 0.0
        with torch.no_grad():
            for start in range(0, len(self.validation), size):
                frames = [self.validation[n] for n in range(start, min(start + size, len(self.validation)))]
                found = self.session.loss(frames, _seeded(self.settings.seed, 0, start), train=False)
                total += float(found["loss"].item()) * len(frames)
        return total / len(self.validation)

    def _note(self, loss: float | None, parts: Mapping[str, float]) -> None:
        """Take note of an epoch, and of its weights where they are the best so far."""
        epoch, validation = len(self.history), self._validate()
        _check(validation, f"the validation loss of epoch {epoch}")
        if all(validation < row["validation"] for row in self.history):
            self.best_epoch, self.best = epoch, self._weights()
        self.history.append({"epoch": epoch, "validation": validation, "train": loss, "parts": dict(parts)})

    def _weights(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self.session.network.state_dict().items()}

    @property
    def _identity(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings), "train": len(self.train), "validation": len(self.validation)}

    def _save(self) -> None:
        import torch
        from safetensors.torch import save

        tensors = {f"now.{name}": value for name, value in self._weights().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optim.{number}.{key}"] = torch.as_tensor(value)
        facts = {
            "run": self._identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
        }
        made = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        data = save(made, {"format": "pt", "version": FORMAT, "facts": json.dumps(facts, sort_keys=True)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with staged(self.path) as partial:
            partial.write_bytes(data)

    def _fits(self, tensors: Mapping[str, Any]) -> bool:
        """Whether tensors of a checkpoint are those of this network and its optimiser."""
        own = {name: value.shape for name, value in self.session.network.state_dict().items()}
        for part in ("now.", "best."):
            if {n.removeprefix(part): t.shape for n, t in tensors.items() if n.startswith(part)} != own:
                return False
        states = [name.split(".", 2) for name in tensors if name.startswith("optim.")]
        return all(len(one) == 3 and one[1].isdigit() and int(one[1]) < len(self.parameters) for one in states)

    def _resume(self) -> None:
        """Go on from the last checkpoint, where it is one of this run."""
        found = _read(self.path)
        if found is None or found[1]["run"] != self._identity or not self._fits(found[0]):
            return
        tensors, facts = found
        device = self.parameters[0].device
        moved = {name: value.to(device) for name, value in tensors.items() if not name.startswith("optim.")}
        self.session.network.load_state_dict({k.removeprefix("now."): v for k, v in moved.items() if k[:4] == "now."})
        self.best = {k.removeprefix("best."): v for k, v in moved.items() if k.startswith("best.")}
        for name, value in tensors.items():
            if name.startswith("optim."):
                _, number, key = name.split(".", 2)
                parameter = self.parameters[int(number)]
                self.optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
        self.history, self.best_epoch, self.stopped = facts["history"], facts["best_epoch"], facts["stopped"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors and facts of a checkpoint; None where there is none, or none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("version") != FORMAT:
                return None
            facts = json.loads(header["facts"])
            if not {"run", "history", "best_epoch", "stopped"} <= facts.keys() or not facts["history"]:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError):
        return None


def _check(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise NotFinite(f"{what} is {value}")


def _seeded(*numbers: int) -> np.random.Generator:
    """Random numbers of one step; torch's are seeded, too."""
    import torch

    sequence = np.random.SeedSequence(numbers)
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return np.random.default_rng(sequence)


@contextlib.contextmanager
def _torch_fixed(session: StudentSession, settings: FitSettings) -> Iterator[None]:
    """Inside, torch adds in the same order each time on a CPU; its settings and generator are as before afterwards."""
    import torch
    import torch.utils.deterministic

    deterministic: Any = torch.utils.deterministic  # attributes of its class, which mypy does not see
    device = next(iter(session.network.parameters())).device
    filled = deterministic.fill_uninitialized_memory
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        try:
            if device.type == "cpu":
                torch.set_num_threads(settings.threads)
                torch.use_deterministic_algorithms(True, warn_only=True)
                # else every new tensor is written twice, a tenth or more of a step
                deterministic.fill_uninitialized_memory = False
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            deterministic.fill_uninitialized_memory = filled
