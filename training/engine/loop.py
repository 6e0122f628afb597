"""The training loop: trains a method on one or several devices. A run that was killed resumes from its checkpoint.

    result = fit(method, loader, TrainSettings(epochs=65, optim=OptimSettings(lr=0.1)), out="runs/unik")

Every step, random numbers included, is a function of the seed, the step and the checkpoint. On one kind of device, a
resumed run ends with the same bytes as an uninterrupted one. `out` holds:

    run.toml          the configuration, for a run of a configuration
    last.safetensors  the latest checkpoint
    log.jsonl         a line every few steps: loss and parts, learning rate, times, collapse statistics, probes
    model.safetensors the network alone, after the last step
    tensorboard/
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dataengine.core.errors import TrainingError
from dataengine.core.failures import in_one_line
from training.backbones.base import Backbone
from training.data.loader import DataLoader
from training.distributed import average, rank, synchronise
from training.engine import checkpoint, resume
from training.engine.loggers import loggers_of
from training.engine.settings import TrainSettings
from training.evaluate.collapse import statistics
from training.methods.base import Method

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class ProgressCallback(Protocol):
    """Called during a run; `dataengine-train` shows a progress bar."""

    def begin(self, total: int, done: int) -> None:
        """Called before the first step, with the number of all steps and of completed steps."""

    def step(self, entry: Mapping[str, Any] | None) -> None:
        """Called after each step; `entry` is the line of the log, or None at steps that are not logged."""


@dataclass
class History:
    """Log and length of a run.

    Attributes:
        log: lines of log.jsonl.
        steps: number of steps of the optimiser.
        epochs: `steps` in epochs.
    """

    log: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    epochs: float = 0.0

    @property
    def losses(self) -> list[float]:
        """The logged losses, in order of steps."""
        return [entry["loss"] for entry in self.log if "loss" in entry]


Probe = Callable[[Method], Mapping[str, float]]


def fit(
    method: Method,
    loader: DataLoader,
    settings: TrainSettings,
    out: str | Path | None = None,
    fabric: Any = None,
    facts: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    progress: ProgressCallback | None = None,
    stop_after: int | None = None,
) -> History:
    """Trains a method, from the checkpoint in `out` where there is one.

    Args:
        method: trained in place.
        loader: batches of this process, with the `sample_transform` of the method.
        settings: hyper-parameters.
        out: folder of checkpoints and log. None: nothing is written.
        fabric: a launched `lightning_fabric.Fabric`. Default: one device.
        facts: stored in checkpoints, for example the configuration. A checkpoint with other facts is an error; only the
            number of epochs may be another. Then `extended` holds the step and the number of epochs before.
        probe: evaluates the method every `settings.probe_every` epochs.
        progress: called after every step.
        stop_after: step of the run at which to stop, with a checkpoint.

    Raises:
        TrainingError: the checkpoint is of another run, the loss is not finite, or no parameter can be trained.
    """
    return _Run(method, loader, settings, out, fabric, dict(facts or {}), probe, progress).run(stop_after)


def fabric_of(precision: str = "32-true", devices: int | str = 1) -> Any:
    """A Fabric that is not yet launched. Several processes on CPUs communicate by gloo."""
    import lightning_fabric

    strategy = "auto" if devices in (1, "1") else "ddp"
    return lightning_fabric.Fabric(accelerator="auto", devices=devices, precision=precision, strategy=strategy)


class _Run:
    """One run: its method, optimiser, position and log."""

    def __init__(
        self,
        method: Method,
        loader: DataLoader,
        settings: TrainSettings,
        out: str | Path | None,
        fabric: Any,
        facts: dict[str, Any],
        probe: Probe | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.fabric = fabric or fabric_of(settings.precision)
        self.method, self.loader, self.settings, self.probe, self.progress = method, loader, settings, probe, progress
        self.out = None if out is None else Path(out)
        self.facts = {"settings": asdict(settings), "data": loader.fingerprint, **facts}
        if self.fabric.world_size > 1:
            synchronise(method)
        if settings.compile:
            for network in method.modules():
                if isinstance(network, Backbone):
                    network.features = torch.compile(network.features)  # type: ignore[method-assign]
        self.optimizer = _optimizer(method, settings)
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(method, self.optimizer)
        self.steps_per_epoch = max(1, len(loader) // settings.accumulate)
        self.total = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.history = History()
        self.saved = time.monotonic()
        self.loggers = loggers_of(settings, self.out) if rank() == 0 else []

    def run(self, stop_after: int | None) -> History:
        self._resume()
        if self.progress is not None:
            self.progress.begin(self.total, self.step)
        limit = self.total if stop_after is None else min(self.total, stop_after)
        self.method.train()
        while self.step < limit:
            self._epoch(limit)
        self._save(limit == self.total)
        for logger in self.loggers:
            logger.close()
        self.history.steps, self.history.epochs = self.step, self.step / self.steps_per_epoch
        return self.history

    def _epoch(self, limit: int) -> None:
        """The rest of an epoch. A step takes `accumulate` batches; an incomplete last step is dropped."""
        epoch = self.loader.epoch
        batches: list[Any] = []
        start = wait_start = time.perf_counter()
        data_seconds = 0.0
        for batch in self.loader:
            data_seconds += time.perf_counter() - wait_start
            batches.append(self.fabric.to_device(batch))
            if len(batches) == self.settings.accumulate:
                self._update(batches, start, data_seconds)
                batches, data_seconds, start = [], 0.0, time.perf_counter()
                if self.step >= limit:
                    break
            wait_start = time.perf_counter()
        if self.loader.step >= len(self.loader):  # the loop ended by break after the last batch
            self.loader.set_epoch(epoch + 1)
        if (
            self.probe is not None
            and self.settings.probe_every
            and self.loader.epoch > epoch
            and self.loader.epoch % self.settings.probe_every == 0
        ):
            self.method.eval()
            self._log(
                {
                    "step": self.step,
                    "epoch": self.loader.epoch,
                    **{f"probe_{k}": v for k, v in self.probe(self.method).items()},
                }
            )
            self.method.train()

    def _update(self, batches: list[Any], start: float, data_seconds: float) -> None:
        """One step of the optimiser over `accumulate` batches."""
        rate = self.settings.rate(self.step / self.steps_per_epoch)
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = rate * param_group["scale"]
        torch.manual_seed((self.settings.seed << 32) + (self.step << 8) + rank())
        outputs = []
        for number, batch in enumerate(batches):
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(batches)):
                output = self.wrapped(batch)
                self.fabric.backward(output["loss"] / len(batches))
            outputs.append({name: value.detach() for name, value in output.items()})
        norm = None
        if self.settings.grad_clip is not None:
            norm = self.fabric.clip_gradients(
                self.wrapped, self.wrapped_optimizer, max_norm=self.settings.grad_clip, error_if_nonfinite=False
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.method.after_step(self.step / self.total)
        is_logged = self.step % self.settings.log_every == 0 or self.step == 1 or self.step == self.total
        entry = self._entry(outputs, batches, rate, norm, start, data_seconds) if is_logged else None
        if self.progress is not None:
            self.progress.step(entry)
        if self.out is not None and time.monotonic() - self.saved > self.settings.save_every:
            self._save(False)

    def _entry(
        self, outputs: list[Any], batches: list[Any], rate: float, norm: Any, start: float, data_seconds: float
    ) -> dict[str, Any]:
        """A line of the log. The loss is checked here, where the device is synchronised anyway."""
        scalars = {
            name: torch.stack([output[name] for output in outputs]).mean() for name in outputs[0] if name != "features"
        }
        values = average(scalars)
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} at step {self.step} (epoch {self.loader.epoch}); lower optim.lr (now "
                f"{rate:.3g}), set run.grad_clip, "
                f"or look at the data: nothing was saved since step {self._saved_step()}"
            )
        seconds = time.perf_counter() - start
        clips = sum(len(batch["label"]) for batch in batches) * self.fabric.world_size
        entry: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            **values,
            "lr": rate,
        }
        if norm is not None:
            entry["gradient"] = float(norm)
        if "features" in outputs[-1]:
            entry |= statistics(outputs[-1]["features"].float())
        entry |= {
            "data_s": round(data_seconds, 6),
            "compute_s": round(seconds - data_seconds, 6),
            "clips_per_s": round(clips / max(seconds, 1e-9), 2),
        }
        self._log(entry)
        return entry

    def _log(self, entry: dict[str, Any]) -> None:
        self.history.log.append(entry)
        if rank() == 0:
            if self.out is not None:
                self.out.mkdir(parents=True, exist_ok=True)
                with (self.out / "log.jsonl").open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            for logger in self.loggers:
                logger.write(entry)

    def _saved_step(self) -> int:
        path = None if self.out is None else self.out / "last.safetensors"
        return int(checkpoint.read(path)[1]["step"]) if path is not None and path.exists() else 0

    def _save(self, done: bool) -> None:
        """A checkpoint, and at the end the network alone."""
        self.saved = time.monotonic()
        if self.out is None or rank() != 0:
            return
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        tensors |= {
            f"optim.{name}": value for name, value in checkpoint.optimizer_tensors(self.optimizer, self.method).items()
        }
        facts = {**self.facts, "step": self.step, "loader": self.loader.state_dict(), "done": done}
        with in_one_line(self.out):
            checkpoint.write(self.out / "last.safetensors", tensors, facts)
            if done:
                network = self.method.backbone.state_dict()
                checkpoint.write(self.out / "model.safetensors", network, {**self.facts, "step": self.step})

    def _resume(self) -> None:
        path = None if self.out is None else self.out / "last.safetensors"
        if path is None or not path.exists():
            if self.out is not None and rank() == 0:
                (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        tensors, facts = checkpoint.read(path)
        remark = resume.check(
            self.out, facts, json.loads(json.dumps(self.facts)), int(facts["step"]), self.steps_per_epoch
        )
        if remark is not None and rank() == 0:
            warnings.warn(remark, stacklevel=4)
        extended = list(facts.get("extended", []))
        if remark is not None:
            extended.append({"step": facts["step"], "epochs": facts["settings"]["epochs"]})
        if extended:
            self.facts["extended"] = extended
        self.method.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
        checkpoint.restore_optimizer(
            self.optimizer,
            self.method,
            {name[6:]: value for name, value in tensors.items() if name.startswith("optim.")},
        )
        self.step = int(facts["step"])
        self.loader.load_state_dict(facts["loader"])
        self.history.log = list(_log_until(self.out / "log.jsonl", self.step)) if self.out is not None else []
        if rank() == 0 and self.out is not None:
            (self.out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in self.history.log))


def _log_until(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """Lines of a log up to a step; later lines are written again by the resumed run."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # incomplete, as the process was killed
            continue
        if entry["step"] <= step:
            yield entry


def _optimizer(method: Method, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser, with parameter groups by learning-rate scale and weight decay."""
    norm_ids = {
        id(p) for module in method.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    classifier = dict(method.backbone.named_modules()).get(
        method.backbone.classifier
    )  # the name may be a path, such as "head.fc"
    classifier_ids = (
        {id(p) for p in classifier.parameters()} if classifier is not None and method.backbone.num_classes else set()
    )
    backbone_ids = {id(p) for p in method.backbone.parameters()} - classifier_ids
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = settings.optim.backbone_scale if id(parameter) in backbone_ids else 1.0
        if scale == 0:
            parameter.requires_grad_(False)
            continue
        without_decay = not settings.optim.decay_all and (id(parameter) in norm_ids or name.endswith("bias"))
        groups.setdefault((scale, 0.0 if without_decay else settings.optim.weight_decay), []).append(parameter)
    if not groups:
        raise TrainingError(
            "nothing is left to train: optim.backbone_scale 0 freezes the network, and the method has no parameters "
            "of its own"
        )
    param_groups = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (scale, decay), parameters in groups.items()
    ]
    if settings.optim.optimizer == "sgd":
        return torch.optim.SGD(
            param_groups,
            lr=settings.optim.lr,
            momentum=settings.optim.momentum,
            nesterov=settings.optim.nesterov and settings.optim.momentum > 0,
        )
    return (torch.optim.AdamW if settings.optim.optimizer == "adamw" else torch.optim.Adam)(
        param_groups, lr=settings.optim.lr
    )
