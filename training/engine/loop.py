"""The training loop: trains a method on one or several devices. A run that was killed resumes from its checkpoint.

    result = fit(method, loader, TrainSettings(epochs=65, optim=OptimSettings(lr=0.1)), out="runs/unik")

Every step, random numbers included, is a function of the seed, the step and the checkpoint. On one kind of device, a
resumed run ends with the same bytes as an uninterrupted one. `out` holds:

    run.toml          the configuration, for a run of a configuration
    last.safetensors  the latest checkpoint; previous.safetensors is the one before
    log.jsonl         a line every few steps: loss and parts, learning rate, times, collapse statistics, probes
    model.safetensors the network alone, after the last step; epochN.safetensors and best.safetensors where asked for
    tensorboard/
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from dataengine.core.errors import TrainingError
from dataengine.core.failures import in_one_line
from dataengine.io.storage import write_durably
from training.backbones.base import Backbone
from training.data.loader import DataLoader
from training.distributed import average, end_together, launched, rank, synchronise
from training.engine import checkpoint, resume
from training.engine.history import History, log_until, tell_of_rise
from training.engine.loggers import Logger, loggers_of
from training.engine.optimizer import make_optimizer, set_rates
from training.engine.settings import TrainSettings
from training.evaluate.collapse import statistics
from training.methods.base import Method

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


class ProgressCallback(Protocol):
    """Called during a run; `dataengine-train` shows a progress bar."""

    def begin(self, total: int, done: int) -> None:
        """Called before the first step, with the number of all steps and of completed steps."""

    def step(self, entry: Mapping[str, Any] | None) -> None:
        """Called after each step; `entry` is the line of the log, or None at steps that are not logged."""


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


def fabric_of(precision: str = "32-true", devices: int | str = 1, device: str = "auto") -> Any:
    """A Fabric on auto, cpu or cuda that is not yet launched. Several processes on CPUs communicate by gloo.

    Where torchrun started this process, it says how many devices and machines there are.
    """
    import lightning_fabric

    nodes, devices = launched() or (1, devices)
    strategy = "auto" if devices in (1, "1") and nodes == 1 else "ddp"
    return lightning_fabric.Fabric(
        accelerator=device, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy
    )


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
            end_together()
        if settings.compile:
            _compile(method)
        self.optimizer = make_optimizer(method, settings)
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(method, self.optimizer)
        self.steps_per_epoch = len(loader) // settings.accumulate
        if not self.steps_per_epoch:
            raise TrainingError(
                f"run.accumulate {settings.accumulate} batches make a step, and an epoch has {len(loader)}: lower "
                "run.accumulate or run.batch"
            )
        self.total = method.total_steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.finite: torch.Tensor | None = None  # whether all losses since the latest look were numbers
        self.history = History()
        self.saved = time.monotonic()
        self.loggers: list[Logger] = []

    def run(self, stop_after: int | None) -> History:
        self._resume()
        self.loggers = loggers_of(self.settings, self.out, self.step) if rank() == 0 else []
        if self.progress is not None:
            self.progress.begin(self.total, self.step)
        limit = self.total if stop_after is None else min(self.total, stop_after)
        self.method.train()
        while self.step < limit:
            self._epoch(limit)
        self._save(limit == self.total)
        for logger in self.loggers:
            logger.close()
        if limit == self.total and rank() == 0:
            tell_of_rise(self.history.log)
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
        if self.loader.epoch > epoch:
            self._end_of_epoch(self.loader.epoch)

    def _end_of_epoch(self, epoch: int) -> None:
        """The probe, and the networks that are kept, where the settings ask for them after this epoch."""
        every = self.settings.keep_every
        if every and epoch % every == 0:
            self._keep(f"epoch{epoch}", {})
        if self.probe is None or not self.settings.probe_every or epoch % self.settings.probe_every:
            return
        self.method.eval()
        values = {f"probe_{name}": value for name, value in self.probe(self.method).items()}
        self.method.train()
        name = next(iter(values), None)
        before = [entry[name] for entry in self.history.log if name in entry]
        self._log({"step": self.step, "epoch": epoch, **values})
        if self.settings.keep_best and name is not None and values[name] > max(before, default=-math.inf):
            self._keep("best", {"chosen_by": {name: values[name], "epoch": epoch}})

    def _keep(self, name: str, facts: Mapping[str, Any]) -> None:
        """The network as it is, under a name of its own."""
        if self.out is not None and rank() == 0:
            with in_one_line(self.out):
                network = self.method.backbone.state_dict()
                checkpoint.write(self.out / f"{name}.safetensors", network, {**self.facts, "step": self.step, **facts})

    def _update(self, batches: list[Any], start: float, data_seconds: float) -> None:
        """One step of the optimiser over `accumulate` batches."""
        rate = self.settings.rate(self.step / self.steps_per_epoch)
        own_rates = set_rates(self.optimizer, self.step / self.steps_per_epoch, self.settings.epochs)
        torch.manual_seed((self.settings.seed << 32) + (self.step << 8) + rank())
        outputs = []
        for number, batch in enumerate(batches):
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(batches)):
                output = self.wrapped(batch)
                self.fabric.backward(output["loss"] / len(batches))
            outputs.append({name: value.detach() for name, value in output.items()})
            is_finite = torch.isfinite(outputs[-1]["loss"])
            self.finite = is_finite if self.finite is None else self.finite & is_finite
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
        rates = {"lr": rate, **own_rates}
        entry = self._entry(outputs, batches, rates, norm, start, data_seconds) if is_logged else None
        if self.progress is not None:
            self.progress.step(entry)
        if self.out is not None and time.monotonic() - self.saved > self.settings.save_every:
            self._save(False)

    def _entry(
        self,
        outputs: list[Any],
        batches: list[Any],
        rates: Mapping[str, float],
        norm: Any,
        start: float,
        data_seconds: float,
    ) -> dict[str, Any]:
        """A line of the log. The loss is checked here, where the device is synchronised anyway."""
        scalars = {
            name: torch.stack([output[name] for output in outputs]).mean() for name in outputs[0] if name != "features"
        }
        values = average(scalars)
        if not math.isfinite(values["loss"]):
            raise self._no_number(f"the loss is {values['loss']}")
        seconds = time.perf_counter() - start
        clips = sum(len(batch["label"]) for batch in batches) * self.fabric.world_size
        entry: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            **values,
            **rates,
        }
        if norm is not None:
            entry["gradient"] = float(norm)
        if len(outputs[-1].get("features", ())) > 1:
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

    def _no_number(self, what: str) -> TrainingError:
        """What is told of a run that has diverged."""
        saved = 0 if self.out is None else int(checkpoint.facts_of(self.out / LAST).get("step", 0))
        stays = f"the checkpoint of step {saved} in {self.out} stays" if saved else "nothing was saved"
        rate = self.settings.rate(max(self.step - 1, 0) / self.steps_per_epoch)
        return TrainingError(
            f"{what} at step {self.step} (epoch {self.loader.epoch}), which is no number: {stays}; lower optim.lr (now "
            f"{rate:.3g}), set run.grad_clip, or look at the data"
        )

    def _check_finite(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raises TrainingError where a loss since the latest checkpoint, or what is to be saved, is no number."""
        if self.finite is not None and not bool(self.finite):
            raise self._no_number("the loss is NaN or infinite")
        self.finite = None
        buffers = {f"method.{name}" for name, _ in self.method.named_buffers()}  # where infinity may be meant
        for name, value in tensors.items():
            if value.is_floating_point() and bool((value.isnan() if name in buffers else ~value.isfinite()).any()):
                raise self._no_number(f"{name} is NaN or infinite")

    def _save(self, done: bool) -> None:
        """A checkpoint, the one before under a name of its own, and at the end the network alone."""
        self.saved = time.monotonic()
        if self.out is None or rank() != 0:
            return
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        tensors |= {
            f"optim.{name}": value for name, value in checkpoint.optimizer_tensors(self.optimizer, self.method).items()
        }
        self._check_finite(tensors)
        facts = {**self.facts, "step": self.step, "loader": self.loader.state_dict(), "done": done}
        scaler = _scaler(self.fabric)
        if scaler is not None:
            facts["scaler"] = scaler.state_dict()
        with in_one_line(self.out):
            checkpoint.keep(self.out / LAST, self.out / PREVIOUS)
            checkpoint.write(self.out / LAST, tensors, facts)
            if done:
                facts = {**self.facts, "step": self.step}
                for name, network in self.method.networks.items():
                    file = "model" if network is self.method.backbone else name
                    checkpoint.write(self.out / f"{file}.safetensors", network.state_dict(), facts)

    def _resume(self) -> None:
        if self.out is None:
            return
        found = checkpoint.latest(self.out / LAST, self.out / PREVIOUS)
        if found is None:
            if rank() == 0:
                (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        tensors, facts, lost = found
        if lost and rank() == 0:
            warnings.warn(lost, stacklevel=4)
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
        scaler = _scaler(self.fabric)
        if scaler is not None and "scaler" in facts:
            scaler.load_state_dict(facts["scaler"])
        self.step = int(facts["step"])
        self.loader.load_state_dict(facts["loader"])
        self.history.log = list(log_until(self.out / "log.jsonl", self.step))
        if rank() == 0:
            lines = "".join(json.dumps(entry) + "\n" for entry in self.history.log)
            write_durably(self.out / "log.jsonl", lines.encode())


def _compile(method: Method) -> None:
    """Compile what the losses call: `sequence`, and `features` of networks that have one of their own."""
    for network in method.modules():
        if isinstance(network, Backbone):
            network.sequence = torch.compile(network.sequence)  # type: ignore[method-assign]
            if type(network).features is not Backbone.features:
                network.features = torch.compile(network.features)  # type: ignore[method-assign]


def _scaler(fabric: Any) -> Any:
    """What scales the gradients of half precision, or None."""
    from lightning_fabric.plugins.precision import MixedPrecision

    precision = fabric.strategy.precision
    return precision.scaler if isinstance(precision, MixedPrecision) else None
