"""ViCLIP: one feature of a clip, and of a string, in the same space (Wang et al. 2023, arXiv 2307.06942).

Architecture, sampling and preprocessing after OpenGVLab/InternVideo@3965eef, Data/InternVid/viclip. The
published weights are read as they are: the .pth files (under their key "model") and the safetensors.
"""

from __future__ import annotations

import functools
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError, MissingExtraError, suggestion
from dataengine.core.types import Float, Frames
from dataengine.features.component import as_clips, check_options, located, sample_indices
from dataengine.io import weights

if TYPE_CHECKING:
    import torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, which ViCLIP uses in place of CLIP's own."""


_LOADING = threading.Lock()
"""Threads that share a component wait for the one that loads it."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the two towers; `context` and `vocabulary` count tokens, `image` and `patch` pixels."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    dim: int
    vocabulary: int = 49408
    context: int = 32


SIZES = {
    "L/14": Architecture(224, 14, 1024, 24, 16, 768, 12, 12, 768),
    "B/16": Architecture(224, 16, 768, 12, 12, 512, 12, 8, 512),
    "tiny": Architecture(32, 16, 64, 2, 2, 32, 2, 2, 32),
}
"""The published sizes, and one with random weights for trying things out."""
PUBLISHED = {"L/14": "viclip-l14-hf.safetensors", "B/16": "viclip-b16-hf.safetensors"}
"""Names of their weights in manifests/weights.toml."""


@dataclass(frozen=True)
class ViCLIP:
    """ViCLIP's video and text towers.

    Attributes:
        size: L/14 (768 values), B/16 (512 values), or tiny (32 values, random weights).
        checkpoint: weights to take in place of the published safetensors of that size: a name of manifests/weights.toml
            or the path of a local .pth or .safetensors file. tiny takes none.
        num_frames: frames a view, as many as the checkpoint was trained with; all published ones have 8.
        views: temporal views wanted of a clip (augmentation), see `sample_indices`.
        batch: most clips at once on CUDA, and sixteen times as many strings; a CPU takes one by one.
        precision: auto (half on CUDA, float32 elsewhere), float32, float16 or bfloat16.
    """

    extra: ClassVar[str] = "clip"

    size: str = "L/14"
    checkpoint: str | None = None
    num_frames: int = 8
    views: int = 1
    batch: int = 16
    precision: str = "auto"
    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ComponentError(f"[features.viclip] size = {self.size!r}{suggestion(self.size, SIZES)}")
        check_options("features.viclip", self.num_frames, self.views, self.batch, self.precision)
        if self.size == "tiny" and self.checkpoint is not None:
            raise ComponentError("[features.viclip] size = 'tiny' has random weights and takes no checkpoint")

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def dim(self) -> int:
        return SIZES[self.size].dim

    @property
    def file(self) -> str | None:
        """Name or path of the weights in use; None for tiny."""
        return self.checkpoint or PUBLISHED.get(self.size)

    def needs(self) -> list[str]:
        """Published weights that must lie here."""
        return [] if self.file is None else weights.names_of(self.file)

    def weights(self) -> dict[str, str]:
        """sha256 of the weights by their name; nothing for tiny.

        Raises:
            WeightsError: they are not here; the message names their address, their licence and what gets them.
        """
        if self.file is None:
            return {}
        located("features.viclip", self.file)
        return weights.hashes(self.file)

    def load(self, device: str = "cpu") -> None:
        """Read the weights and move them to `device` ('cpu', 'cuda', 'cuda:1'). Idempotent.

        Raises:
            MissingExtraError: torch or open_clip is not installed.
            WeightsError: they are not here, or are another model's; the message lists the tensors that differ.
        """
        with _LOADING:
            if self._live.get("device") != device:
                self._load(device)

    def _load(self, device: str) -> None:
        try:
            from dataengine.features import inference, viclip_towers
        except ImportError as error:
            raise MissingExtraError("ViCLIP", "clip") from error
        path = None if self.file is None else located("features.viclip", self.file)
        model = viclip_towers.build(SIZES[self.size], self.num_frames)
        if path is None:
            viclip_towers.fill(
                model, random_weights({k: tuple(v.shape) for k, v in model.state_dict().items()}), "tiny"
            )
        else:
            viclip_towers.fill(
                model, viclip_towers.read(path), f"{path.name} as ViCLIP {self.size} with {self.num_frames} frames"
            )
        wanted = inference.dtype(self.precision, device)
        model = viclip_towers.fused_attention(inference.ready(model, wanted, device))
        self._live.update(dtype=wanted, model=model, texts=inference.TextCache(), device=device)

    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """The `num_frames` indices that a view looks at in a clip of so many frames, ascending; see `component.sample_indices`."""
        return sample_indices(num_frames_total, self.num_frames, view)

    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """(num_frames, side, side, 3) uint8: what `encode_video` looks at of a (T, H, W, 3) clip; encoding this gives the same feature."""
        return resized(frames[self.sample_indices(len(frames), view)], SIZES[self.size].image)

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """One feature a clip.

        Args:
            frames: clips of (T, H, W, 3) uint8 RGB, of any length and size each; or one such array. Either all
                frames of a clip, of which a view's are taken, or just those of the view.
            view: which temporal view.

        Returns:
            (N, D) float32, unit length.

        Raises:
            ComponentError: frames of another form.
            MissingExtraError, WeightsError: as `load`.
        """
        clips = as_clips(frames)
        self.load(self._live.get("device", "cpu"))
        from dataengine.features.inference import batched

        return batched(lambda part: self._look(part, view), clips, self.batch, self._live["device"], self.dim)

    def _look(self, clips: Sequence[Frames], view: int) -> torch.Tensor:
        import torch

        device = self._live["device"]
        pixels = np.stack([self.prepare(clip, view) for clip in clips])
        table = torch.from_numpy(normalised()).to(device, self._live["dtype"])
        index = torch.from_numpy(pixels).to(device).long()
        found: torch.Tensor = self._live["model"].vision_encoder(
            table[index, torch.arange(3, device=device)].movedim(-1, 2)
        )
        return found

    def encode_text(self, texts: Sequence[str]) -> Float:
        """One feature a string, (N, D) float32 of unit length; a string met before costs nothing.

        Strings longer than 32 tokens are cut, as published.

        Raises:
            ComponentError: something else than strings.
            MissingExtraError, WeightsError: as `load`.
        """
        self.load(self._live.get("device", "cpu"))
        found: Float = self._live["texts"].encode(texts, self._read, self.dim)
        return found

    def _read(self, texts: list[str]) -> Float:
        from dataengine.features import viclip_towers
        from dataengine.features.inference import batched

        device, model = self._live["device"], self._live["model"]
        tokens = list(viclip_towers.tokens(texts, SIZES[self.size].context))
        return batched(lambda part: model.text_encoder(_stack(part, device)), tokens, self.batch * 16, device, self.dim)


def _stack(rows: Sequence[torch.Tensor], device: str) -> torch.Tensor:
    import torch

    return torch.stack(list(rows)).to(device)


def resized(frames: Frames, side: int) -> Frames:
    """(T, side, side, 3) uint8: each picture brought to a square, bilinear, neither cropped nor kept in proportion."""
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR) for frame in frames])


@functools.cache
def normalised() -> Float:
    """(256, 3) float32: what each pixel value becomes in each channel; computed in float64 and rounded once, as published."""
    values = (np.arange(256.0)[:, None] / 255.0 - np.array(MEAN)) / np.array(STD)
    table: Float = values.astype(np.float32)
    return table


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Float]:
    """Weights of the size tiny: norms as identity, no biases, all else normal and of the scale that keeps variance.

    Each tensor is drawn on its own from the CRC-32 of its name, so the same on every machine and version.
    """
    found: dict[str, Float] = {}
    for key, shape in shapes.items():
        last = key.rsplit(".", 1)[-1]
        if len(shape) < 2 and last in ("weight", "bias", "in_proj_bias"):
            found[key] = np.full(shape, last == "weight", np.float32)
            continue
        drawn = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
        fan_in = shape[0] if last in ("proj", "text_projection") else int(np.prod(shape[1:]))
        scale = 1.0 if "embedding" in key else fan_in**-0.5
        found[key] = np.asarray(drawn * scale, np.float32)
    return found
