"""Training in several processes: values of all of them, with gradients, in the order of ranks."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if torch.distributed.is_available():
    # before a group is there: the defaults of its functions would hold that group until the interpreter ends
    from torch.distributed.nn import functional as collectives


def world() -> int:
    """How many processes train together."""
    return (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )


def launched() -> tuple[int, int] | None:
    """Machines, and processes on each, where torchrun started this process; else None."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ["WORLD_SIZE"]) // here, here


def end_together() -> None:
    """Wait for the threads that communicate before the interpreter ends.

    Such a thread may hold the last reference to a tensor that Python knows. Where it lets go of that while the
    interpreter ends, the whole process is aborted.
    """
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # wrapped networks in cycles hold the group
        torch.distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this is the first of the processes that were started together, also before they are connected."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def gather(values: Tensor) -> Tensor:
    """(N, ...) of every process as (world N, ...), the same everywhere; without gradients."""
    if world() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world())]
    torch.distributed.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(values: Tensor) -> Tensor:
    """As `gather`; gradients of all processes flow back to the one that a row came from."""
    if world() == 1:
        return values
    return torch.cat(collectives.all_gather(values.contiguous()))


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes, on any device; torch's own needs a GPU.

    Processes may have batches of different sizes. In evaluation, and with one process, it is nn.BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...); given {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = torch.full((1,), float(values.numel() // values.shape[1]), dtype=values.dtype, device=values.device)
        totals = collectives.all_reduce(torch.cat([values.sum(axes), values.square().sum(axes), count]))
        channels, count = values.shape[1], totals[-1]
        mean = totals[:channels] / count
        variance = (totals[channels:-1] / count - mean.square()).clamp(min=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        factor = scale if self.weight is None else scale * self.weight
        offset = -mean * factor if self.bias is None else self.bias - mean * factor
        out: Tensor = values * factor.view(shape) + offset.view(shape)
        return out.to(input.dtype)


def synchronise(module: nn.Module) -> nn.Module:
    """Make every batch normalisation of a network one over all processes, with the same weights under the same
    names."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and type(child).__module__.startswith(
            "torch."
        ):
            made = GlobalBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            made.__dict__["_parameters"], made.__dict__["_buffers"] = child._parameters, child._buffers
            setattr(module, name, made.train(child.training))
        else:
            synchronise(child)
    return module


def unit(values: Tensor) -> Tensor:
    """Rows of unit length, at least in single precision."""
    is_half = values.dtype in (torch.float16, torch.bfloat16)
    return functional.normalize(values.float() if is_half else values, dim=-1)


def masked_mean(each: Tensor, counted: Tensor) -> Tensor:
    """The mean of `each` (N,) where `counted` (N,) bool; averaged over processes it is the mean over all of theirs. 0
    where none counts."""
    count = gather(counted.sum()[None]).sum().clamp(min=1) / world()
    return torch.where(counted, each, torch.zeros_like(each)).sum() / count


def rank() -> int:
    """This process's number."""
    return int(torch.distributed.get_rank()) if world() > 1 else 0


def average(values: dict[str, Any]) -> dict[str, float]:
    """Scalars averaged over processes."""
    names = sorted(values)
    stacked = (
        torch.stack([torch.as_tensor(values[name]).detach().double().cpu() for name in names])
        if names
        else torch.zeros(0)
    )
    if world() > 1 and names:
        torch.distributed.all_reduce(stacked)
        stacked /= world()
    return dict(zip(names, stacked.tolist()))
