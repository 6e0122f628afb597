"""Networks as files that run without this package: ONNX, TorchScript, or weights alone.

    export(run, "model.onnx")                                  # logits of motions (N, C, T, V, M)
    export(run, "model.pt", format="torchscript", output="features")
    metadata("model.onnx")["labels"]

A file is run on random motions before it gets its name; a file whose output differs from the network's is removed.
Its metadata are: joints, labels, frames, how clips were prepared, licence, and the data it was trained on.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dataengine
from dataengine.core.errors import TrainingError, suggestion
from dataengine.io.storage import check_place, staged
from training.backbones.base import Backbone
from training.engine import checkpoint
from training.runs.export_formats import AXES, NOTE, WRITERS, Output, Predictor, motions
from training.runs.measures import methods_with_projection
from training.runs.trained_network import BareNetwork, TrainedNetwork

FORMATS = ("onnx", "torchscript", "safetensors")
OUTPUTS = ("logits", "features", "embedding", "frames")
TOLERANCE = 1e-5
"""Largest difference between file and network, in parts of the network's largest number."""
FOLLOWS = 0.01
"""Largest difference in parts of what the motions change, so that a large constant hides nothing."""
ROUNDING = 3e-6
"""A difference that single precision alone may make, in parts of the largest number."""
FRAMES = 64
"""T by default."""
FREE: tuple[tuple[str, ...], ...] = (("batch", "time"), ("batch",), ())
"""Axes that may be of any size, tried in this order: not all networks allow any number of frames."""
SEEDS = (1, 2)
"""Seeds of the random motions on which file and network are compared."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        dynamic: the axes that may be of any size; the others are as `metadata` says.
        difference: the largest between file and network, in parts of the network's largest number.
        spread: how much the motions of the check changed what the network says, in the same parts; where it is about as
            small as `difference`, the network hardly looks at the motion, and the check can tell little.
    """

    path: Path
    format: str
    output: str
    dynamic: tuple[str, ...]
    difference: float
    spread: float


def export(
    run: TrainedNetwork | Backbone,
    path: str | os.PathLike[str],
    format: str = "onnx",
    frames: int | None = None,
    output: str | None = None,
    licence: str = "not stated",
) -> Exported:
    """Write a network and check what was written.

    ONNX and TorchScript take motions (N, C, T, V, M) float32, prepared as their `preprocess` says, with exactly the
    network's C, V and M: people who are absent are zeros. Any N, and any T where the network allows it. They are made
    by tracing. `safetensors` are the network's weights, for `load_published`; networks over pictures are
    written so alone.

    Args:
        run: a finished run, or a network.
        path: the file; an older one of this name stays until the new one holds.
        format: one of `FORMATS`.
        frames: T of the motions that the file is made with; by default what the run was trained with, else 64.
        output: "logits" (N, K), "features" (N, D), "embedding", the method's motions in the space of its texts, or
            "frames", probabilities (N, T, K) of the method segment; by default frames or logits where the run has
            classes, else features.
        licence: of the weights, as the file is to say.

    Raises:
        TrainingError: unknown format or output, one that the network does not have, a network that cannot be written
            so, or a file that says something else than the network.
        MissingExtraError: onnx is not installed.
    """
    run = BareNetwork(run) if isinstance(run, Backbone) else run
    if type(run.backbone).check is not Backbone.check and not (run.backbone.takes_pictures and format == "safetensors"):
        raise TrainingError(
            f"{type(run.backbone).__name__} does not take motions (N, C, T, V, M); only networks that do are exported"
        )
    if format not in FORMATS:
        raise TrainingError(f"unknown format {format!r} of exported networks{suggestion(format, FORMATS)}")
    output = _checked_output(run, format, output)
    if frames is None:
        frames = FRAMES if run.config is None else run.config.view.frames
    if frames < 1:
        raise TrainingError(f"a network is exported for 1 frame or more; given {frames}")
    model = copy.deepcopy(Output(run, output)).float().cpu().eval().requires_grad_(False)
    target = check_place(path)
    with torch.no_grad():
        outputs = torch.cat([model(motions(run.backbone, 2, frames, seed)) for seed in SEEDS])
    spread = float(
        (outputs - outputs.mean(0)).abs().max() / outputs.abs().max().clamp(min=torch.finfo(outputs.dtype).tiny)
    )
    allowed = min(TOLERANCE, max(FOLLOWS * spread, ROUNDING))
    with staged(target) as partial, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every condition on sizes; whether they matter is measured
        make = WRITERS[format](model, run.backbone, partial, describe(run, output, frames, licence))
        dynamic, worst = _with_most_free_axes(make, model, run.backbone, frames, allowed, str(target))
    return Exported(target, format, output, dynamic, worst, spread)


def _checked_output(run: TrainedNetwork, format: str, output: str | None) -> str:
    """Raises TrainingError where the network has no such output."""
    of_frames = run.method is not None and run.method.per_frame
    output = output or ("frames" if of_frames else "logits" if run.backbone.num_classes else "features")
    if output not in OUTPUTS:
        raise TrainingError(f"unknown output {output!r} of exported networks{suggestion(output, OUTPUTS)}")
    if output == "logits" and not run.backbone.num_classes:
        raise TrainingError("the network has no classes, hence no logits; export features, or finetune it first")
    if output == "frames" and (format == "safetensors" or not of_frames):
        raise TrainingError(
            "classes of frames are what the method segment learns, in onnx or torchscript; export logits or features"
        )
    if output == "embedding" and (format == "safetensors" or run.method is None or not run.method.projects):
        raise TrainingError(
            f"an embedding is what methods with a projection learn ({', '.join(methods_with_projection())}), in onnx "
            "or torchscript; export features"
        )
    return output


def describe(run: TrainedNetwork, output: str, frames: int, licence: str) -> dict[str, Any]:
    """What a file says of itself, by key; see `metadata`."""
    backbone, preprocess = run.backbone, run.preprocess
    note: dict[str, Any] = {
        "dataengine": dataengine.__version__,
        "network": type(backbone).__name__,
        "output": output,
        "axes": list(AXES),
        "channels": backbone.channels,
        "frames": frames,
        "people": backbone.people,
        "skeleton": backbone.skeleton.name,
        "joints": list(backbone.skeleton.joints),
        "bones": [list(bone) for bone in backbone.skeleton.bones],
        "labels": list(run.labels) if output in ("logits", "frames") else [],
        "width": backbone.width,
        "licence": licence,
        "data": run.facts.get("data"),
        "tolerance": TOLERANCE,
    }
    if preprocess is not None:
        note["preprocess"] = {**dataclasses.asdict(preprocess), "skeleton": preprocess.layout.name}
    if run.config is not None:
        note |= {"backbone": run.config.backbone.model_dump(), "method": run.config.method.name}
    return note


def _others(frames: int, dynamic: Sequence[str]) -> list[tuple[int, int]]:
    """(clips, frames) that a file with these free axes is tried on, beside what it was made with."""
    tried = [(1, frames), (3, frames)] if "batch" in dynamic else []
    return tried + ([(2, frames + 5), (1, 2 * frames), (3, max(1, frames // 2))] if "time" in dynamic else [])


def difference(exported: Predictor, model: Predictor, motion: Tensor) -> float:
    """The largest difference of two networks on a motion, in parts of the second's largest number; infinite for other
    shapes."""
    output, expected = exported(motion), model(motion)
    if output.shape != expected.shape or not torch.isfinite(output).all():
        return float("inf")
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))


def _with_most_free_axes(
    make: Callable[[tuple[str, ...]], Predictor],
    model: Output,
    backbone: Backbone,
    frames: int,
    allowed: float,
    name: str,
) -> tuple[tuple[str, ...], float]:
    """The most free axes with which `make(axes)` gives what the network gives, and how far the two are apart.

    Raises:
        TrainingError: the file cannot be made, or differs on motions of the size that it was made with.
    """
    for dynamic in FREE:
        try:
            exported = make(dynamic)
            worst = max(difference(exported, model, motions(backbone, 2, frames, seed)) for seed in SEEDS)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the network
                raise
            if dynamic:  # a free axis may be what it stumbled over
                continue
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TrainingError(
                f"{name}: {type(backbone).__name__} cannot be exported so: {reason}; try another format"
            ) from error
        if not worst <= allowed:
            raise TrainingError(
                f"{name}: removed: it differs from the network by {worst:.1e} of the largest number, {allowed:.0e} is "
                "allowed; "
                "try another format"
            )
        try:
            rest = max(
                (difference(exported, model, motions(backbone, *size)) for size in _others(frames, dynamic)),
                default=0.0,
            )
        except Exception:  # the file does not take other sizes; which error says so is the runtime's affair
            continue
        if rest <= allowed:
            return dynamic, max(worst, rest)
    raise AssertionError("without free axes nothing is left to fail")


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported file says of itself.

    Returns:
        dataengine (version), network, output, axes, dynamic (axes of any size), channels, frames, people, skeleton,
        joints, bones, labels (of logits), width (of features), licence, data (fingerprint of what it was trained on, or
        None), tolerance; of runs also preprocess (see `training.transforms.preprocess.Preprocess`), backbone (name and
        options) and method. In ONNX files each is JSON under its name among the metadata, in TorchScript files all are
        in `extra/metadata.json`.

    Raises:
        TrainingError: it is no file that `export` wrote.
    """
    file = Path(path)
    try:
        head = file.open("rb").read(2)
        if head == b"PK":
            with zipfile.ZipFile(file) as members:
                name = next(member for member in members.namelist() if member.endswith(f"/extra/{NOTE}"))
                note: dict[str, Any] = json.loads(members.read(name))
                return note
        if file.suffix == ".safetensors":
            return checkpoint.read(file)[1]
        import onnxruntime

        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        texts = (
            onnxruntime.InferenceSession(str(file), quiet, providers=["CPUExecutionProvider"])
            .get_modelmeta()
            .custom_metadata_map
        )
        if not texts:
            raise ValueError("it has no metadata")
        return {name: json.loads(text) for name, text in texts.items()}
    except TrainingError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{file}: no network that was exported from here: {reason}") from error
