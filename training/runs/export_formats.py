"""Files of exported networks: each writer makes a file with some axes of any size, and reads it back as a function."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dataengine.core.errors import MissingExtraError
from training.backbones.base import Backbone
from training.engine import checkpoint
from training.runs.trained_network import TrainedNetwork

OPSET = 17
"""Of ONNX files: the first with layer norms."""
INPUT = "motion"
AXES = ("batch", "channels", "time", "joints", "people")
NOTE = "metadata.json"
"""Member of TorchScript files."""
Predictor: TypeAlias = Callable[[Tensor], Tensor]


class Output(nn.Module):
    """One of `OUTPUTS` of a network, as a module of its own."""

    def __init__(self, run: TrainedNetwork, output: str) -> None:
        super().__init__()
        self.inner: Any = run.method if output in ("embedding", "frames") else run.backbone
        self.output = output

    def forward(self, motion: Tensor) -> Tensor:
        if self.output == "embedding":
            embedded: Tensor = self.inner.embed_motion(motion)
            return embedded
        if self.output == "frames":
            scores: Tensor = self.inner.frame_scores(motion)
            return scores
        features: Tensor = self.inner.features(motion)
        return features if self.output == "features" else self.inner.classify(features)


class Guard(nn.Module):
    """A traced network that refuses motions of other sizes, for which its output would be wrong; size 0 allows any."""

    def __init__(self, traced: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.traced = traced
        self.sizes = list(sizes)

    def forward(self, motion: Tensor) -> Tensor:
        sizes = motion.shape
        right = len(sizes) == len(self.sizes)
        for size, expected in zip(sizes, self.sizes):
            right = right and (expected == 0 or size == expected)
        if not right:
            raise ValueError(
                f"the network takes motions (N, C, T, V, M) of {self.sizes}, 0 for any size; given {sizes}"
            )
        return self.traced(motion)  # type: ignore[no-any-return]


def motions(backbone: Backbone, clips: int, frames: int, seed: int = 0) -> Tensor:
    """Random motions (N, C, T, V, M) float32, normal numbers; the last person of the first clip is absent where there
    are several. Pictures (N, 3, T, 64, 64) for networks over pictures."""
    generator = torch.Generator().manual_seed(seed)
    if backbone.takes_pictures:
        return torch.randn(clips, backbone.channels, frames, 64, 64, generator=generator)
    motion = torch.randn(
        clips, backbone.channels, frames, backbone.skeleton.num_joints, backbone.people, generator=generator
    )
    if backbone.people > 1:
        motion[0, ..., -1] = 0
    return motion


def _onnx(
    model: Output, backbone: Backbone, partial: Path, note: dict[str, Any]
) -> Callable[[tuple[str, ...]], Predictor]:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("ONNX export", "torch") from None
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    quiet.intra_op_num_threads = torch.get_num_threads()
    axis_numbers = {"batch": 0, "time": 2}

    def make(dynamic: tuple[str, ...]) -> Predictor:
        torch.onnx.export(
            model,
            (motions(backbone, 2, note["frames"]),),
            str(partial),
            dynamo=False,  # the other exporter needs one more package
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[model.output],
            dynamic_axes={
                INPUT: {axis_numbers[axis]: axis for axis in dynamic},
                model.output: {0: "batch"} if dynamic else {},
            },
        )
        written = onnx.load(str(partial))
        onnx.helper.set_model_props(written, _texts(note | {"dynamic": list(dynamic)}))
        for node in written.graph.node:
            node.doc_string = ""
        partial.write_bytes(written.SerializeToString())
        session = onnxruntime.InferenceSession(str(partial), quiet, providers=["CPUExecutionProvider"])
        return lambda motion: torch.from_numpy(session.run(None, {INPUT: motion.numpy()})[0])

    return make


def _torchscript(
    model: Output, backbone: Backbone, partial: Path, note: dict[str, Any]
) -> Callable[[tuple[str, ...]], Predictor]:
    def make(dynamic: tuple[str, ...]) -> Predictor:
        example = motions(backbone, 2, note["frames"])
        traced = torch.jit.trace(model, example, check_trace=False)
        sizes = [0 if axis in dynamic else size for axis, size in zip(AXES, example.shape)]
        guarded = torch.jit.script(Guard(traced, sizes))
        content = io.BytesIO()  # torch ends the process where it meets a full disk
        torch.jit.save(guarded, content, _extra_files={NOTE: json.dumps(note | {"dynamic": list(dynamic)})})
        partial.write_bytes(content.getvalue())
        read: Predictor = torch.jit.load(str(partial))
        return read

    return make


def _safetensors(
    model: Output, backbone: Backbone, partial: Path, note: dict[str, Any]
) -> Callable[[tuple[str, ...]], Predictor]:
    def make(dynamic: tuple[str, ...]) -> Predictor:
        checkpoint.write(partial, model.inner.state_dict(), note | {"dynamic": list(dynamic)})
        fresh = copy.deepcopy(model)
        for tensor in fresh.state_dict().values():
            tensor.zero_()
        fresh.inner.load_weights(checkpoint.read(partial)[0])
        return fresh

    return make


WRITERS = {"onnx": _onnx, "torchscript": _torchscript, "safetensors": _safetensors}


def _texts(note: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value, ensure_ascii=False) for name, value in note.items()}
