"""From checkpoints to shipped files: ONNX with half-size weights, calibrated scores, and the manifest."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from blake3 import blake3
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dataengine.core.errors import WeightsError
from dataengine.core.types import Poses
from tools.synthetic_experts.calibrate import fit
from tools.synthetic_experts.nets import NETS, Shipped

OPSET = 18
LIMIT = 7_000_000
"""Bytes all shipped networks may have together."""
FIRST_SEED = 5_000_000
"""Calibration seeds start here, apart from those of training, tests and benchmarks."""
Array = NDArray[Any]


def file_name(net: str) -> str:
    return f"synthetic_{net}.onnx"


def export(net: str, checkpoint: Path, out: Path) -> None:
    """Write one network as ONNX: uint8 pictures in, weights stored in 16 bits and widened when loaded."""
    if not checkpoint.is_file():
        raise WeightsError(
            f"no checkpoint at {checkpoint}; make one with  python -m tools.synthetic_experts train {net} ..."
        )
    kind = NETS[net]
    module = kind()
    module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    shipped: nn.Module = Shipped(module).eval()
    example = torch.zeros((2, kind.height, kind.width, 3), dtype=torch.uint8)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["answer"]}
    torch.onnx.export(
        shipped,
        (example,),
        str(out),
        dynamo=False,
        opset_version=OPSET,
        dynamic_axes={"image": {0: "n"}, "answer": {0: "n"}},
        **names,
    )
    model = onnx.load(str(out))
    _halve(model)
    onnx.checker.check_model(model)
    out.write_bytes(model.SerializeToString(deterministic=True))


def _halve(model: onnx.ModelProto) -> None:
    """Store large float tensors as float16 behind a cast; onnxruntime folds the cast when it loads."""
    casts = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= 64:
            small = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + "_half")
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(small)
            casts.append(helper.make_node("Cast", [small.name], [tensor.name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)


def ship(checkpoints: Path, num_clips: int, report: Callable[[str], None]) -> None:
    """Export all networks into the package, fit the calibrations, and write the manifest with every file's blake3.

    Raises:
        WeightsError: a checkpoint is missing, or the files are larger together than `LIMIT`.
    """
    # scores must be fitted with the decoder that will be used; a late look-up, because training
    # otherwise knows nothing of the engine's rooms
    module = importlib.import_module("dataengine.experts.synthetic")
    weights: Path = module.weights_folder()
    weights.mkdir(parents=True, exist_ok=True)
    for net in NETS:
        export(net, checkpoints / f"{net}.pt", weights / file_name(net))
    _write_manifest(weights)
    detector = module.SyntheticDetector().load()
    raw: dict[str, Any] = {"min_score": 0.0, "min_mean": 0.0}
    experts = {
        "topdown": module.SyntheticTopDown(**raw).load(),
        "bottomup": module.SyntheticBottomUp(**raw).load(),
        "regression": module.SyntheticRegression(**raw).load(),
    }

    def look(frames: Array) -> dict[str, list[Poses]]:
        boxes = detector.detect(frames)
        return {name: expert.predict(frames, boxes) for name, expert in experts.items()}

    for net, table in fit(look, FIRST_SEED, num_clips).items():
        path = weights / file_name(net)
        model = onnx.load(str(path))
        helper.set_model_props(model, {"calibration": json.dumps(np.round(table, 5).tolist())})
        path.write_bytes(model.SerializeToString(deterministic=True))
        report(f"{net}: score = logistic(slope * evidence + shift), joint by joint {np.round(table, 2).tolist()}")
    report(f"shipped {_write_manifest(weights)} bytes to {weights}")


def _write_manifest(weights: Path) -> int:
    """List every shipped file's blake3; returns the bytes of all."""
    files = {file_name(net): (weights / file_name(net)).read_bytes() for net in NETS}
    if (total := sum(map(len, files.values()))) > LIMIT:
        raise WeightsError(f"the networks have {total} bytes together, allowed {LIMIT}: make them smaller")
    manifest = {"files": {name: blake3(content).hexdigest() for name, content in sorted(files.items())}}
    (weights / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return total
