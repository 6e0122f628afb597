"""ViCLIP: one feature of a clip, and of a string, in the same space (Wang et al. 2023, arXiv 2307.06942).

Architecture, sampling and preprocessing after OpenGVLab/InternVideo@3965eef, Data/InternVid/viclip. The
published weights are read as they are: the .pth files (under their key "model") and the safetensors.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from dataengine.core.component import FeaturesSession
from dataengine.core.errors import ComponentError, MissingExtraError, suggestion
from dataengine.core.types import Float, Frames
from dataengine.features.component import Encoders, as_clips
from dataengine.features.viclip_sizes import SIZES
from dataengine.io import weights

if TYPE_CHECKING:
    import torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, which ViCLIP uses in place of CLIP's own."""


PUBLISHED = {"L/14": "viclip-l14-hf.safetensors", "B/16": "viclip-b16-hf.safetensors"}
"""Names of their weights in manifests/weights.toml."""


@dataclass(frozen=True)
class ViCLIP(Encoders):
    """ViCLIP's video and text encoders.

    Attributes:
        size: L/14 (768 values), B/16 (512 values), or tiny (32 values, random weights).
        checkpoint: weights in place of the published safetensors of that size: a name of manifests/weights.toml or the
            path of a local .pth or .safetensors file. tiny takes none.
        num_frames: frames per view, as many as the checkpoint was trained with; all published ones have 8.
        views: temporal views of a clip (augmentation), see `sample_indices`.
        batch: most clips at once on CUDA, and sixteen times as many strings; a CPU takes one by one.
        precision: auto (half on CUDA, float32 elsewhere), float32, float16 or bfloat16.
    """

    size: str = "L/14"
    checkpoint: str | None = None

    title: ClassVar[str] = "[features.viclip]"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ComponentError(f"{self.title} size = {self.size!r}{suggestion(self.size, SIZES)}")
        super().__post_init__()
        if self.size == "tiny" and self.checkpoint is not None:
            raise ComponentError(f"{self.title} size = 'tiny' has random weights and takes no checkpoint")

    @property
    def dim(self) -> int:
        return SIZES[self.size].dim

    @property
    def file(self) -> str | None:
        """Name or path of the weights in use; None for tiny."""
        return self.checkpoint or PUBLISHED.get(self.size)

    def weights(self) -> dict[str, str]:
        """sha256 of the weights by their name; nothing for tiny.

        Raises:
            WeightsError: they are not here; the message names their address, licence and the command that gets them.
        """
        return {} if self.file is None or self.locate() is None else weights.hashes(self.file)

    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """(num_frames, side, side, 3) uint8: what `encode_video` uses of a (T, H, W, 3) clip."""
        return resized(frames[self.sample_indices(len(frames), view)], SIZES[self.size].image)

    def load(self, device: str = "cpu") -> FeaturesSession:
        """Read the weights and move them to `device` ('cpu', 'cuda', 'cuda:1').

        Raises:
            MissingExtraError: torch or open_clip is not installed.
            WeightsError: they are not here, or are another model's; the message lists the tensors that differ.
        """
        try:
            from dataengine.features import inference, viclip_towers
        except ImportError as error:
            raise MissingExtraError("ViCLIP", "clip") from error
        path = self.locate()
        model = viclip_towers.build(SIZES[self.size], self.num_frames)
        if path is None:
            shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
            viclip_towers.fill(model, random_weights(shapes), "tiny")
        else:
            what = f"{path.name} as ViCLIP {self.size} with {self.num_frames} frames"
            viclip_towers.fill(model, viclip_towers.read(path), what)
        dtype = inference.dtype(self.precision, device)
        return ViCLIPSession(self, viclip_towers.fused_attention(inference.ready(model, dtype, device)), dtype, device)


class ViCLIPSession(FeaturesSession):
    """Both encoders on a device. Strings that were encoded before cost nothing.

    Strings longer than 32 tokens are cut, as published.
    """

    def __init__(self, options: ViCLIP, model: Any, dtype: torch.dtype, device: str) -> None:
        from dataengine.features.inference import TextCache

        self.options = options
        self.model = model
        self.dtype = dtype
        self.device = device
        self._texts = TextCache()

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """As `FeaturesSession.encode_video`."""
        from dataengine.features.inference import batched

        self.require_open()
        own = self.options
        return batched(lambda part: self._encode(part, view), as_clips(frames), own.batch, self.device, own.dim)

    def _encode(self, clips: Sequence[Frames], view: int) -> torch.Tensor:
        import torch

        pixels = np.stack([self.options.prepare(clip, view) for clip in clips])
        table = torch.from_numpy(normalised()).to(self.device, self.dtype)
        index = torch.from_numpy(pixels).to(self.device).long()
        images = table[index, torch.arange(3, device=self.device)].movedim(-1, 2)
        found: torch.Tensor = self.model.vision_encoder(images)
        return found

    def encode_text(self, texts: Sequence[str]) -> Float:
        """As `FeaturesSession.encode_text`."""
        self.require_open()
        return self._texts.encode(texts, self._encode_texts, self.options.dim)

    def _encode_texts(self, texts: list[str]) -> Float:
        from dataengine.features import viclip_towers
        from dataengine.features.inference import batched

        own = self.options
        tokens = list(viclip_towers.tokens(texts, SIZES[own.size].context))
        return batched(
            lambda part: self.model.text_encoder(_stack(part, self.device)),
            tokens,
            own.batch * 16,
            self.device,
            own.dim,
        )

    def release(self) -> None:
        """Let the networks go."""
        self.model = None


def _stack(rows: Sequence[torch.Tensor], device: str) -> torch.Tensor:
    import torch

    return torch.stack(list(rows)).to(device)


def resized(frames: Frames, side: int) -> Frames:
    """(T, side, side, 3) uint8: each frame stretched to a square, bilinear and without cropping."""
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR) for frame in frames])


@functools.cache
def normalised() -> Float:
    """(256, 3) float32: the normalised value of each pixel value in each channel, rounded once from float64 as
    published."""
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
