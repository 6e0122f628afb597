"""The training loop: a method, a feed, and how long; on one device or several, killed and gone on with at will.

    result = fit(method, feed, Plan(epochs=65, lr=0.1), out="runs/unik")

Everything that decides a step is a function of the seed, the step and the checkpoint, random numbers
included: a run that was killed and started again ends with the same bytes as one that was not (on one
kind of device). `out` holds:

    run.toml          the configuration, when the run came from one
    last.safetensors  the latest checkpoint
    log.jsonl         a line every few steps: loss and parts, learning rate, rates, times, collapse statistics, probes
    model.safetensors the network alone, at the end
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
from typing import Any, Literal, Protocol

import torch
from torch import nn

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.loader import Feed
from training.distributed import average, rank, synchronise
from training.engine import checkpoint
from training.evaluate.collapse import statistics
from training.methods.base import Method

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Plan:
    """How a method is trained; see the tables [run] and [optim] of `training.config` for each."""

    epochs: int = 65
    lr: float = 0.1
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    decay: float = 1e-4
    decay_all: bool = True
    schedule: Literal["cosine", "step"] = "cosine"
    min_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    backbone_scale: float = 1.0
    accumulate: int = 1
    clip: float | None = 5.0
    precision: str = "32-true"
    compile: bool = False
    seed: int = 0
    log_every: int = 10
    save_every: float = 300.0
    probe_every: int = 0
    tensorboard: bool = False
    wandb: bool = False

    def rate(self, epoch: float) -> float:
        """The learning rate at a time counted in epochs."""
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        share = min(1.0, (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9))
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * share)) / 2


class Watcher(Protocol):
    """Who is told how a run goes; `dataengine-train` shows it."""

    def begin(self, total: int, done: int) -> None:
        """The run has so many steps, so many of them done."""

    def step(self, entry: Mapping[str, Any] | None) -> None:
        """A step was made; with a line of the log where one is due."""


@dataclass
class History:
    """What a run left: its log, and how far it came."""

    log: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    epochs: float = 0.0

    @property
    def losses(self) -> list[float]:
        """The logged losses in order."""
        return [entry["loss"] for entry in self.log if "loss" in entry]


Probe = Callable[[Method], Mapping[str, float]]


def fit(
    method: Method,
    feed: Feed,
    plan: Plan,
    out: str | Path | None = None,
    fabric: Any = None,
    facts: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    watcher: Watcher | None = None,
    stop_after: int | None = None,
) -> History:
    """Train until the plan is done, from the checkpoint in `out` where there is one.

    Args:
        method: what is learnt; trained in place.
        feed: its batches, drawn by the method's draw, of this process's share.
        out: folder of checkpoints and log; None keeps nothing.
        fabric: a launched `lightning_fabric.Fabric`; default one of this device.
        facts: put into checkpoints, such as the configuration; a checkpoint with others is refused.
        probe: measures the method every `plan.probe_every` epochs.
        watcher: told of every step.
        stop_after: ends early after so many steps of the whole run, with a checkpoint.

    Raises:
        TrainingError: the checkpoint is of another run, the loss is no number, or the plan cannot be used.
    """
    return _Run(method, feed, plan, out, fabric, dict(facts or {}), probe, watcher).go(stop_after)


def fabric_of(precision: str = "32-true", devices: int | str = 1) -> Any:
    """A Fabric that is not yet launched; on CPUs with several devices the processes talk by gloo."""
    import lightning_fabric

    strategy = "auto" if devices in (1, "1") else "ddp"
    return lightning_fabric.Fabric(accelerator="auto", devices=devices, precision=precision, strategy=strategy)


class _Run:
    """One run and everything that moves in it."""

    def __init__(
        self,
        method: Method,
        feed: Feed,
        plan: Plan,
        out: str | Path | None,
        fabric: Any,
        facts: dict[str, Any],
        probe: Probe | None,
        watcher: Watcher | None,
    ) -> None:
        self.fabric = fabric or fabric_of(plan.precision)
        self.method, self.feed, self.plan, self.probe, self.watcher = method, feed, plan, probe, watcher
        self.out = None if out is None else Path(out)
        self.facts = {"plan": asdict(plan), "data": feed.fingerprint, **facts}
        if self.fabric.world_size > 1:
            synchronise(method)
        if plan.compile:
            for network in method.modules():
                if isinstance(network, Backbone):
                    network.features = torch.compile(network.features)  # type: ignore[method-assign]
        self.optimizer = _optimizer(method, plan)
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(method, self.optimizer)
        self.steps_per_epoch = max(1, len(feed) // plan.accumulate)
        self.total = plan.epochs * self.steps_per_epoch
        self.step = 0
        self.history = History()
        self.saved = time.monotonic()
        self.writers = _writers(self.out, plan) if rank() == 0 else []

    def go(self, stop_after: int | None) -> History:
        self._resume()
        if self.watcher is not None:
            self.watcher.begin(self.total, self.step)
        limit = self.total if stop_after is None else min(self.total, stop_after)
        self.method.train()
        while self.step < limit:
            self._epoch(limit)
        self._save(limit == self.total)
        for writer in self.writers:
            writer.close()
        self.history.steps, self.history.epochs = self.step, self.step / self.steps_per_epoch
        return self.history

    def _epoch(self, limit: int) -> None:
        """The rest of an epoch; gradients are gathered over `accumulate` batches, a rest that fills no step is left out."""
        epoch = self.feed.epoch
        group: list[Any] = []
        begun = waited = time.perf_counter()
        waiting = 0.0
        for batch in self.feed:
            waiting += time.perf_counter() - waited
            group.append(self.fabric.to_device(batch))
            if len(group) == self.plan.accumulate:
                self._update(group, begun, waiting)
                group, waiting, begun = [], 0.0, time.perf_counter()
                if self.step >= limit:
                    break
            waited = time.perf_counter()
        if self.feed.step >= len(self.feed):  # left by break at the very end
            self.feed.set_epoch(epoch + 1)
        if (
            self.probe is not None
            and self.plan.probe_every
            and self.feed.epoch > epoch
            and self.feed.epoch % self.plan.probe_every == 0
        ):
            self.method.eval()
            self._log(
                {
                    "step": self.step,
                    "epoch": self.feed.epoch,
                    **{f"probe_{k}": v for k, v in self.probe(self.method).items()},
                }
            )
            self.method.train()

    def _update(self, group: list[Any], begun: float, waiting: float) -> None:
        """One step of the optimiser over a group of batches."""
        rate = self.plan.rate(self.step / self.steps_per_epoch)
        for table in self.optimizer.param_groups:
            table["lr"] = rate * table["scale"]
        torch.manual_seed((self.plan.seed << 32) + (self.step << 8) + rank())
        answers = []
        for number, batch in enumerate(group):
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(group)):
                answer = self.wrapped(batch)
                self.fabric.backward(answer["loss"] / len(group))
            answers.append({name: value.detach() for name, value in answer.items()})
        norm = None
        if self.plan.clip is not None:
            norm = self.fabric.clip_gradients(
                self.wrapped, self.wrapped_optimizer, max_norm=self.plan.clip, error_if_nonfinite=False
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.method.finish(self.step / self.total)
        due = self.step % self.plan.log_every == 0 or self.step == 1 or self.step == self.total
        entry = self._entry(answers, group, rate, norm, begun, waiting) if due else None
        if self.watcher is not None:
            self.watcher.step(entry)
        if self.out is not None and time.monotonic() - self.saved > self.plan.save_every:
            self._save(False)

    def _entry(
        self, answers: list[Any], group: list[Any], rate: float, norm: Any, begun: float, waiting: float
    ) -> dict[str, Any]:
        """A line of the log; the loss is checked here, where the device is waited for anyway."""
        scalars = {
            name: torch.stack([answer[name] for answer in answers]).mean() for name in answers[0] if name != "features"
        }
        values = average(scalars)
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} at step {self.step} (epoch {self.feed.epoch}); lower optim.lr (now {rate:.3g}), set run.clip, "
                f"or look at the data: nothing was saved since step {self._saved_step()}"
            )
        spent = time.perf_counter() - begun
        clips = sum(len(batch["label"]) for batch in group) * self.fabric.world_size
        entry: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            **values,
            "lr": rate,
        }
        if norm is not None:
            entry["gradient"] = float(norm)
        if "features" in answers[-1]:
            entry |= statistics(answers[-1]["features"].float())
        entry |= {
            "data_s": round(waiting, 6),
            "compute_s": round(spent - waiting, 6),
            "clips_per_s": round(clips / max(spent, 1e-9), 2),
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
            for writer in self.writers:
                writer.write(entry)

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
        facts = {**self.facts, "step": self.step, "feed": self.feed.state_dict(), "done": done}
        checkpoint.write(self.out / "last.safetensors", tensors, facts)
        if done:
            checkpoint.write(
                self.out / "model.safetensors", self.method.backbone.state_dict(), {**self.facts, "step": self.step}
            )

    def _resume(self) -> None:
        path = None if self.out is None else self.out / "last.safetensors"
        if path is None or not path.exists():
            if self.out is not None and rank() == 0:
                (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        tensors, facts = checkpoint.read(path)
        own = json.loads(json.dumps(self.facts))
        if changed := [
            name for name in own if name not in _FREE and _decisive(facts.get(name)) != _decisive(own[name])
        ]:
            raise TrainingError(
                f"{self.out} holds a run with another {', '.join(changed)}: give another --out, go on with what it began with, or delete it"
            )
        self.method.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
        checkpoint.restore_optimizer(
            self.optimizer,
            self.method,
            {name[6:]: value for name, value in tensors.items() if name.startswith("optim.")},
        )
        self.step = int(facts["step"])
        self.feed.load_state_dict(facts["feed"])
        self.history.log = list(_kept(self.out / "log.jsonl", self.step)) if self.out is not None else []
        if rank() == 0 and self.out is not None:
            (self.out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in self.history.log))


_FREE = ("config",)
"""Facts that may differ between a checkpoint and the run that goes on from it."""
_WATCHING = ("log_every", "save_every", "probe_every", "tensorboard", "wandb", "compile")


def _decisive(fact: Any) -> Any:
    """A fact without what changes no result."""
    return {k: v for k, v in fact.items() if k not in _WATCHING} if isinstance(fact, dict) else fact


def _kept(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """Lines of a log up to a step; what was written after the checkpoint is made again."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # torn by the end of the process
            continue
        if entry["step"] <= step:
            yield entry


def _optimizer(method: Method, plan: Plan) -> torch.optim.Optimizer:
    """Parameters in groups: the network and what stands around it, with weight decay and without."""
    bare = {id(p) for module in method.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    classifier = dict(method.backbone.named_modules()).get(
        method.backbone.classifier
    )  # its name may be that of a part of a part
    heads = (
        {id(p) for p in classifier.parameters()} if classifier is not None and method.backbone.num_classes else set()
    )
    inner = {id(p) for p in method.backbone.parameters()} - heads
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = plan.backbone_scale if id(parameter) in inner else 1.0
        if scale == 0:
            parameter.requires_grad_(False)
            continue
        free = not plan.decay_all and (id(parameter) in bare or name.endswith("bias"))
        groups.setdefault((scale, 0.0 if free else plan.decay), []).append(parameter)
    if not groups:
        raise TrainingError(
            "nothing is left to train: optim.backbone_scale 0 freezes the network, and the method has no parameters of its own"
        )
    tables = [
        {"params": parameters, "weight_decay": decay, "scale": scale} for (scale, decay), parameters in groups.items()
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(tables, lr=plan.lr, momentum=plan.momentum, nesterov=plan.nesterov and plan.momentum > 0)
    return (torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam)(tables, lr=plan.lr)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def write(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name not in ("step", "epoch"):
                self.writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, folder: Path) -> None:
        import wandb

        self.run = wandb.init(dir=str(folder), name=folder.name, resume="allow")

    def write(self, entry: Mapping[str, Any]) -> None:
        self.run.log(dict(entry), step=entry["step"])

    def close(self) -> None:
        self.run.finish()


def _writers(out: Path | None, plan: Plan) -> list[Any]:
    """Who else is told the log; one that is wanted and not installed is a warning, not the end of the run."""
    made: list[Any] = []
    for wanted, maker, folder in ((plan.tensorboard, _TensorBoard, "tensorboard"), (plan.wandb, _Wandb, "wandb")):
        if wanted and out is not None:
            try:
                made.append(maker(out / folder))
            except ImportError as error:
                warnings.warn(f"{error.name} is not installed: its log is left out", stacklevel=3)
    return made
