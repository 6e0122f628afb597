"""A file that a face detector takes and that sees the same faces in every picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.io.tfjs.onnx_file import OnnxWriter

HEADS = {"scores_16": (16, 2), "boxes_16": (16, 32), "scores_32": (8, 6), "boxes_32": (8, 96)}


def face_file(folder: Path, first_only: bool = False, heads: Sequence[str] = tuple(HEADS)) -> Path:
    """An ONNX file with the heads of BlazeFace: faces of 40 pixels in every cell of 16 pixels, or in the first only."""
    writer = OnnxWriter("faces")
    image = writer.add_input("image", "float32", ["N", 256, 256, 3])
    (mean,) = writer.add_node("ReduceMean", [image], 1, axes=[1, 2, 3], keepdims=1)
    (nothing,) = writer.add_node("Mul", [mean, writer.add_constant(np.float32(0).reshape(1))])
    for name in heads:
        cells, channels = HEADS[name]
        value = np.zeros((1, cells, cells, channels), np.float32)
        if "scores" in name:
            value -= 50
        if name == "scores_16":
            value[:, : 1 if first_only else None, : 1 if first_only else None, 0] = 3
        if name == "boxes_16":
            value[..., 2:4] = 40
        writer.add_node("Add", [nothing, writer.add_constant(value)], [name])
        writer.add_output(name, "float32", ["N", cells, cells, channels])
    path = folder / "faces.onnx"
    path.write_bytes(writer.to_bytes())
    return path
