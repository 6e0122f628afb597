"""Trains one of the small networks for a given time, on a GPU or a CPU."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import WeightsError
from tools.synthetic_experts.data import Array, Crops, Material, Wholes, batches
from tools.synthetic_experts.losses import LOSSES
from tools.synthetic_experts.nets import MEAN, NETS, SPREAD, Net

EMA_STEPS = 1500
"""Steps the moving average of the weights looks back over."""


@dataclass(frozen=True)
class Training:
    """How one network is trained."""

    net: str
    """one of `nets.NETS`"""
    minutes: float
    """the time budget, of the processor's time on a CPU; the learning rate falls along a cosine to its end"""
    batch: int = 32
    rate: float = 2e-3
    seed: int = 0
    device: str = "cpu"
    loaders: int = 1
    threads: int = 1
    save_every: float = 2.0
    """minutes between checkpoints"""


def train(
    settings: Training,
    data: Path,
    out: Path,
    start: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> int:
    """Train and write the averaged weights to `out`, again and again and at the end.

    Args:
        settings: what to train and how.
        data: folder of rendered parts.
        out: checkpoint to write, a dict of tensors that `torch.load(weights_only=True)` reads.
        start: checkpoint whose tensors of the same name and shape are the starting point; it may
            be another network's.
        report: is given a line of progress now and then.

    Returns:
        How many pictures were seen.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    kind = NETS[settings.net]
    net = kind().to(settings.device).to(memory_format=torch.channels_last)
    if start is not None:
        report(f"took over {_take_over(net, start)} tensors of {start.name}")
    optimizer = torch.optim.AdamW(net.parameters(), settings.rate, weight_decay=0.02)
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    sampler = _sampler(settings.net, kind, Material(data))
    clock = time.monotonic if settings.device.startswith("cuda") else time.process_time
    begun, saved, step, running = clock(), 0.0, 0, 0.0
    for made in batches(sampler.batch, settings.batch, settings.seed, settings.loaders):
        passed = (clock() - begun) / 60
        if passed >= settings.minutes:
            break
        share = min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * passed / settings.minutes)) + 1e-3
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * share
        value = _learn(net, optimizer, settings, made)
        step += 1
        if step % 4 == 0:
            _follow(average, net, 1 - 4 / min(EMA_STEPS, step / 4 + 8))
        running = value if step == 1 else 0.98 * running + 0.02 * value
        if step % 200 == 0:
            seen = step * settings.batch
            report(
                f"{settings.net} step {step} minute {passed:.1f} loss {running:.4f} pictures {seen} "
                f"({seen / passed / 60:.0f}/s)"
            )
        if passed - saved > settings.save_every:
            saved = passed
            _save(average, out)
    _save(average, out)
    return step * settings.batch


def _learn(net: nn.Module, optimizer: torch.optim.Optimizer, settings: Training, made: tuple[Array, ...]) -> float:
    """One step; returns its loss."""
    pictures, joints, mask = (
        torch.from_numpy(np.ascontiguousarray(a)).to(settings.device, non_blocking=True) for a in made
    )
    x = ((pictures.permute(0, 3, 1, 2).float() - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)
    # convolutions in 16 bits where the device is made for it
    with torch.autocast("cuda", torch.bfloat16) if settings.device.startswith("cuda") else contextlib.nullcontext():
        answer = net(x)
    loss = LOSSES[settings.net](answer, joints, mask)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def _sampler(name: str, kind: type[Net], material: Material) -> Crops | Wholes:
    if name in ("topdown", "regression"):
        return Crops(material, kind.width, kind.height)
    if name == "bottomup":
        # windows about people hold as many joints as whole frames at half the work
        return Wholes(material, 128, 128, whole=kind.width)
    return Wholes(material, kind.width, kind.height, whole=kind.width)


def _follow(average: dict[str, Tensor], net: nn.Module, keep: float) -> None:
    for key, value in net.state_dict().items():
        if value.dtype.is_floating_point:
            average[key].lerp_(value, 1 - max(keep, 0.0))
        else:
            average[key].copy_(value)


def _save(average: dict[str, Tensor], out: Path) -> None:
    part = out.with_suffix(".part")
    torch.save({k: v.detach().cpu().contiguous() for k, v in average.items()}, part)
    part.replace(out)


def _take_over(net: nn.Module, start: Path) -> int:
    if not start.is_file():
        raise WeightsError(f"no checkpoint at {start}; give one that 'train' wrote")
    given = torch.load(start, map_location="cpu", weights_only=True)
    own = net.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    net.load_state_dict(fitting, strict=False)
    return len(fitting)
