"""What a training step of UNIK costs beside the plain way of writing the same network: every head by itself, a 9x1
convolution.

Both have the same weights and their outputs are compared in the same run. A step is forward, backward and SGD. On a CPU
it is CPU time of one thread, the networks interleaved; bfloat16 is autocast, measured small where the processor has no
bfloat16 products. On a GPU wall time is added: samples a second, the share of the card's measured matrix product,
ST-GCN++ beside it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from harness import main
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from unik_plain import Plain

from dataengine.core.skeletons import skeleton
from training import create_backbone

torch.set_num_threads(1)

CLASSES = 15
CASES = {
    "half_width_T32": (32, 32, 32, "body13", 1),
    "half_width_T64": (32, 32, 64, "body13", 1),
    "full_width_T32": (64, 32, 32, "body13", 1),
    "full_width_T64": (64, 32, 64, "body13", 1),
    "published_T150": (64, 4, 150, "posetics17", 2),
}
"""Channels of the first blocks, clips a batch, frames, layout, people."""
SMALL = (16, 2, 16, "body13", 1)
"""For bfloat16 on a processor without it: two hundred times slower than float32."""
GOALS = {"float32": 1.1, "bfloat16": 0.5}
EQUAL = 1e-5


def bfloat16_in_hardware() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def pair(case: tuple[int, int, int, str, int]) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """(both networks with the same weights, motions, labels)."""
    base, batch, frames, layout, people = case
    torch.manual_seed(0)
    ours = create_backbone("unik", CLASSES, layout, 2, channels_base=base, people=people, unused_bias=False)
    plain = Plain(CLASSES, skeleton(layout).num_joints, 2, people, base)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(batch, 2, frames, skeleton(layout).num_joints, people)
    return {"ours": ours, "plain": plain}, x, torch.randint(CLASSES, (batch,))


def stepper(network: nn.Module, x: Tensor, y: Tensor, low: bool) -> Callable[[], None]:
    """One training step."""
    optimizer = torch.optim.SGD(network.train().parameters(), 0.01, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16) if low else nullcontext():
            loss = functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    return step


def difference(networks: dict[str, nn.Module], x: Tensor) -> float:
    """Largest difference of the two networks' outputs, in training and in evaluation mode, relative to the largest
    output."""
    found = []
    for training in (True, False):
        with torch.no_grad():
            ours, plain = (networks[name].train(training)(x) for name in ("ours", "plain"))
        found.append(float((ours - plain).abs().max() / plain.abs().max()))
    return max(found)


def timed(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step, interleaved, after one that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            spent[name].append(time.process_time() - begun)
    return spent


def on_cpu(case: tuple[int, int, int, str, int], rounds: int) -> dict[str, Any]:
    """Cost of a float32 step, ours beside the plain one."""
    networks, x, y = pair(case)
    off = difference(networks, x)
    spent = timed({name: stepper(network, x, y, False) for name, network in networks.items()}, rounds)
    ratios = [a / b for a, b in zip(spent["ours"], spent["plain"], strict=True)]
    return {
        "ratio": round(median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "samples_per_cpu_second": round(len(x) / median(spent["ours"]), 1),
        "plain_samples_per_cpu_second": round(len(x) / median(spent["plain"]), 1),
        "output_difference": off,
    }


def low_precision(case: tuple[int, int, int, str, int], rounds: int) -> dict[str, float]:
    """Cost of a bfloat16 step over that of the plain network's float32 step."""
    networks, x, y = pair(case)
    steps = {
        f"{name}_{low}": stepper(network, x, y, low) for name, network in networks.items() for low in (False, True)
    }
    middle = {name: median(seconds) for name, seconds in timed(steps, rounds).items()}
    return {
        name: round(middle[key] / middle["plain_False"], 3)
        for name, key in (("ours", "ours_True"), ("plain", "plain_True"))
    }


def on_gpu(case: tuple[int, int, int, str, int], seconds: float) -> dict[str, Any]:
    """Samples a second of wall time and the share of the card's matrix product, bfloat16."""
    big = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def rate(step: Callable[[], object]) -> float:
        """Calls a second."""
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        begun, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < seconds:
            for _ in range(5):
                step()
            torch.cuda.synchronize()
            count += 5
        return count / spent

    peak = rate(lambda: big @ big) * 2 * 8192**3
    base, batch, frames, layout, people = case
    networks, x, y = pair((base, 16 * batch, frames, layout, people))
    networks["stgcnpp"] = create_backbone("stgcnpp", CLASSES, layout, 2, channels_base=base, people=people)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "matmul_tflops": round(peak / 1e12, 1)}
    x, y = x.cuda(), y.cuda()
    for name, network in networks.items():
        step = stepper(network.cuda(), x, y, True)
        with FlopCounterMode(display=False) as counter:
            step()
        speed = rate(step)
        share = round(speed * counter.get_total_flops() / peak, 3)
        found[name] = {"samples_per_second": round(speed * len(x)), "share_of_matmul": share}
    return found


def run(quick: bool) -> dict[str, Any]:
    """Cost of a UNIK training step over that of the plain network."""
    rounds = 3 if quick else 7
    names = ["half_width_T32"] if quick else list(CASES)
    found = {name: on_cpu(CASES[name], rounds) for name in names}
    hardware = bfloat16_in_hardware()
    low = low_precision(CASES["half_width_T32"] if hardware else SMALL, rounds)
    details: dict[str, Any] = {"float32": found, "bfloat16_over_plain_float32": low, "bfloat16_in_hardware": hardware}
    if torch.cuda.is_available():
        details["cuda"] = on_gpu(CASES["full_width_T64"], 2 if quick else 5)
    worst = max(case["ratio"] for case in found.values())
    equal = all(case["output_difference"] < EQUAL for case in found.values())
    return {
        "name": "unik_step",
        "value": worst,
        "unit": "CPU time of a float32 step over that of the plain network, worst case",
        "goal": f"<= {GOALS['float32']}; bfloat16 <= {GOALS['bfloat16']} where the processor has it; equal outputs",
        "holds": equal and worst <= GOALS["float32"] and (not hardware or low["ours"] <= GOALS["bfloat16"]),
        "baselines": {name: case["plain_samples_per_cpu_second"] for name, case in found.items()},
        "n": rounds,
        "spread": [
            min(case["spread"][0] for case in found.values()),
            max(case["spread"][1] for case in found.values()),
        ],
        "data": f"random motions; medians of {rounds} interleaved rounds, one thread; "
        f"bfloat16 at {'half width' if hardware else SMALL}",
        "details": details,
    }


if __name__ == "__main__":
    main(run)
