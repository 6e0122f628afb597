"""Programs of others that read exports, each in an environment of its own that `uv` makes from its package index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

PACKAGES = {
    "mmaction2": [
        "mmaction2==1.2.0", "mmengine==0.10.7", "mmcv-lite==2.1.0", "numpy<2", "addict", "yapf", "termcolor", "rich",
        "pyyaml", "einops", "scipy<1.15", "opencv-python-headless==4.10.0.84", "packaging", "platformdirs", "pillow",
        "matplotlib<3.10", "decord2", "cycler", "kiwisolver", "contourpy", "fonttools", "pyparsing", "python-dateutil",
        "six", "markdown-it-py", "mdurl", "pygments",
    ],
    "energon": ["megatron-energon>=7"],
}  # fmt: skip
"""What is installed; torch is this environment's."""

MMACTION2 = """
from mmaction.datasets import PoseDataset
from mmengine.registry import DefaultScope
DefaultScope.get_instance("reader", scope_name="mmaction")
STEPS = ["PreNormalize2D", {"type": "GenSkeFeat", "dataset": "coco", "feats": ["j"]},
         {"type": "UniformSampleFrames", "clip_len": 20}, "PoseDecode", {"type": "FormatGCNInput", "num_person": 2},
         "PackActionInputs"]
told = {}
for split in ("train", "val"):
    data = PoseDataset(ann_file=sys.argv[1], split=split,
                       pipeline=[one if isinstance(one, dict) else {"type": one} for one in STEPS])
    items = [data[n] for n in range(len(data))]
    told[split] = {"clips": len(data), "shape": list(items[0]["inputs"].shape),
                   "labels": [int(item["data_samples"].gt_label) for item in items]}
"""
ENERGON = """
import torch
from megatron import energon
from megatron.energon import Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys, edataclass, stateless

@edataclass
class Pose(Sample):
    keypoints: torch.Tensor

@stateless
def cook(sample):
    return Pose(**basic_sample_keys(sample), keypoints=torch.as_tensor(sample["keypoints.npy"].copy()))

class Encoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

told = {}
for split in ("train", "val"):
    data = energon.get_val_dataset(sys.argv[1], split_part=split, batch_size=None, task_encoder=Encoder(),
                                   worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0))
    told[split] = {"clips": len(data), "keys": [sample.__key__ for sample in energon.get_loader(data)]}
"""
PROGRAMS = {"mmaction2": MMACTION2, "energon": ENERGON}


def read(program: str, path: Path, environment: Path) -> dict[str, Any]:
    """What a program finds in an export, by split; skips the test where its packages cannot be had."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not here")
    python = environment / "bin" / "python"
    without_torch = environment.with_suffix(".txt")
    without_torch.write_text("torch; sys_platform == 'never'\n")
    commands: list[list[str]] = [
        [uv, "venv", "-q", "--python", sysconfig.get_python_version(), str(environment)],
        [uv, "pip", "install", "-q", "--python", str(python), "--override", str(without_torch)]
        + (["--no-deps"] if program == "mmaction2" else [])
        + PACKAGES[program],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{program} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    head = f"import json, sys\nsys.path.append({sysconfig.get_path('purelib')!r})\n"
    code = head + PROGRAMS[program] + "\nprint('TOLD', json.dumps(told))\n"
    done = subprocess.run([str(python), "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(next(line[5:] for line in done.stdout.splitlines() if line.startswith("TOLD "))))
