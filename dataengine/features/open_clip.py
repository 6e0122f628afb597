"""Any image model of open_clip on video: the mean of its embeddings over the frames of a view.

The mean knows nothing of motion; it is the baseline that a video model has to beat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataengine.core.component import FeaturesSession
from dataengine.core.errors import ComponentError, MissingExtraError, WeightsError, suggestion
from dataengine.core.types import Float, Frames
from dataengine.features.component import Encoders, as_clips
from dataengine.io import weights

if TYPE_CHECKING:
    import torch

PUBLISHED = {("ViT-B-32", "laion2b_s34b_b79k"): "clip-vit-b-32-laion2b-s34b-b79k.bin"}
"""Names in manifests/weights.toml of the weights that need no `checkpoint`, by model and pretrained."""
CONFIG = "open_clip_config.json"
IN_FOLDER = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls the files of a model in its folder or repository."""
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class OpenClip(Encoders):
    """An image and a text encoder of open_clip.

    The embedding of a clip is the mean of the unit-length embeddings of its frames, brought to unit length.

    Attributes:
        model: a name of open_clip's list (`open_clip.list_models()`), or a folder with its open_clip_config.json and
            weights, as its repositories have.
        pretrained: the tag of the weights, which says how images are prepared; a folder says that itself.
        checkpoint: the weights of that tag: a name of manifests/weights.toml or a local file.
        num_frames: frames per view.
        views: temporal views of a clip, see `sample_indices`.
        batch: most clips at once on CUDA, and sixteen times as many strings; a CPU takes one by one.
        precision: auto (half on CUDA, float32 elsewhere), float32, float16 or bfloat16.
    """

    model: str = "ViT-B-32"
    pretrained: str = "laion2b_s34b_b79k"
    checkpoint: str | None = None

    title: ClassVar[str] = "[features.open_clip]"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._folder is not None and self.checkpoint is not None:
            raise ComponentError(f"{self.title} model is a folder, whose weights are taken; leave checkpoint out")

    @property
    def _folder(self) -> Path | None:
        path = Path(self.model).expanduser()
        return path if (path / CONFIG).is_file() else None

    @property
    def open_clip_name(self) -> str:
        """What open_clip calls the model and its tokenizer."""
        return self.model if self._folder is None else f"local-dir:{self._folder}"

    def model_config(self) -> dict[str, Any]:
        """open_clip's configuration of the network, as these weights need it."""
        if self._folder is not None:
            own: dict[str, Any] = json.loads((self._folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
            return own
        known: dict[str, Any] = self._known().get_model_config(self.model)
        return {**known, "quick_gelu": True} if self._tag().get("quick_gelu") else known

    @property
    def dim(self) -> int:
        if self._folder is not None:
            settings = json.loads((self._folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        else:
            settings = self._known().get_model_config(self.model)
        return int(settings["embed_dim"])

    @property
    def file(self) -> str:
        """Name or path of the weights in use.

        Raises:
            WeightsError: no checkpoint was given, or the folder has none.
        """
        if self._folder is not None:
            inside = next((path for name in IN_FOLDER if (path := self._folder / name).is_file()), None)
            if inside is None:
                raise WeightsError(
                    f"{self.title} model = {self.model!r}: no weights in that folder; one of {', '.join(IN_FOLDER)}"
                )
            return str(inside)
        found = self.checkpoint or PUBLISHED.get((self.model, self.pretrained))
        if found is None:
            known = self._tag()
            where = known.get("url") or f"https://huggingface.co/{str(known.get('hf_hub', '')).rstrip('/')}"
            raise WeightsError(
                f"{self.title} {self.model} {self.pretrained}: download its weights from {where}, whose page states "
                "the "
                'licence, and give the path as checkpoint = "PATH"'
            )
        return found

    def weights(self) -> dict[str, str]:
        """sha256 of the weights, and of the settings where the model is a folder, by name.

        Raises:
            WeightsError: they are not here; the message names their address.
        """
        self.locate()
        return weights.hashes(self.file, *([] if self._folder is None else [self._folder / CONFIG]))

    def _known(self) -> Any:
        """open_clip, which knows the model's name."""
        try:
            import open_clip
        except ImportError as error:
            raise MissingExtraError("features 'open_clip'", "clip") from error
        names = open_clip.list_models()
        if self._folder is None and self.model not in names:
            hint = suggestion(self.model, names).split(";")[0]
            raise ComponentError(
                f"{self.title} model = {self.model!r}{hint}: neither a name of open_clip.list_models() nor a folder "
                f"with {CONFIG}"
            )
        return open_clip

    def _tag(self) -> dict[str, Any]:
        """What open_clip knows of the pretrained weights: address, activation and preparation of pictures."""
        library = self._known()
        tags = library.list_pretrained_tags_by_model(self.model)
        if self.pretrained.lower().replace("-", "_") not in tags:
            raise ComponentError(
                f"{self.title} pretrained = {self.pretrained!r} of {self.model}{suggestion(self.pretrained, tags)}"
            )
        found: dict[str, Any] = library.get_pretrained_cfg(self.model, self.pretrained)
        return found

    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """(num_frames, H, W, 3) uint8: what `encode_video` uses of a (T, H, W, 3) clip."""
        return np.ascontiguousarray(frames[self.sample_indices(len(frames), view)])

    def load(self, device: str = "cpu") -> FeaturesSession:
        """Read the weights and move them to `device` ('cpu', 'cuda', 'cuda:1').

        Raises:
            MissingExtraError: torch or open_clip is not installed.
            ComponentError: no such model or tag, or its text encoder needs files that are not here.
            WeightsError: the weights are not here, or are another model's.
        """
        library = self._known()
        from dataengine.features import inference

        path = self.locate()
        assert path is not None
        name, options = self.open_clip_name, dict[str, Any]()
        if self._folder is None:
            tag = self._tag()
            prepare = {key: tag[key] for key in PREPROCESSING if tag.get(key) is not None}
            options = {
                "pretrained": str(path),
                "force_quick_gelu": bool(tag.get("quick_gelu")),
                "force_preprocess_cfg": prepare,
            }
        try:
            tokenizer = library.get_tokenizer(name)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ComponentError(
                f"{self.title} {self.model}: its tokenizer is not here: {_first_line(error)}"
            ) from error
        try:
            model = library.create_model(name, **options, require_pretrained=True, weights_only=True)
        except Exception as error:  # open_clip passes on whatever pickle, zip and torch raise
            raise WeightsError(
                f"{path.name} cannot be read as {self.model} of open_clip: {_first_line(error)}"
            ) from error
        config = library.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        preprocess = library.transform.image_transform_v2(config, is_train=False)
        dtype = inference.dtype(self.precision, device)
        return OpenClipSession(self, inference.ready(model, dtype, device), tokenizer, preprocess, dtype, device)


class OpenClipSession(FeaturesSession):
    """Both encoders on a device. Strings that were encoded before cost nothing."""

    def __init__(
        self, options: OpenClip, model: Any, tokenizer: Any, preprocess: Any, dtype: torch.dtype, device: str
    ) -> None:
        from dataengine.features.inference import TextCache

        self.options = options
        self.model = model
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.dtype = dtype
        self.device = device
        self.dim = options.dim
        self._texts = TextCache()

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """As `FeaturesSession.encode_video`."""
        from dataengine.features.inference import batched

        self.require_open()
        clips = as_clips(frames)
        return batched(lambda part: self._encode(part, view), clips, self.options.batch, self.device, self.dim)

    def _encode(self, clips: Sequence[Frames], view: int) -> torch.Tensor:
        import torch
        from PIL import Image

        images = [Image.fromarray(frame) for clip in clips for frame in self.options.prepare(clip, view)]
        pixels = torch.stack([self.preprocess(image) for image in images])
        found: torch.Tensor = self.model.encode_image(pixels.to(self.device, self.dtype), normalize=False)
        unit = torch.nn.functional.normalize(found.float(), dim=-1)
        return unit.view(len(clips), self.options.num_frames, -1).mean(1)

    def encode_text(self, texts: Sequence[str]) -> Float:
        """As `FeaturesSession.encode_text`."""
        self.require_open()
        return self._texts.encode(texts, self._encode_texts, self.dim)

    def _encode_texts(self, texts: list[str]) -> Float:
        from dataengine.features.inference import batched

        tokens = list(np.asarray(self.tokenizer(texts)))
        return batched(self._encode_tokens, tokens, self.options.batch * 16, self.device, self.dim)

    def _encode_tokens(self, rows: Sequence[Any]) -> torch.Tensor:
        import torch

        tokens = torch.from_numpy(np.stack(rows)).to(self.device)
        found: torch.Tensor = self.model.encode_text(tokens, normalize=False)
        return found

    def release(self) -> None:
        """Let the networks go."""
        self.model = None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
