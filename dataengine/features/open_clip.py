"""Any image model of open_clip on video: the mean of its features over the frames of a view.

It knows nothing of motion, and is the baseline that a video model has to beat.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError, MissingExtraError, WeightsError, suggestion
from dataengine.core.types import Float, Frames
from dataengine.features.component import as_clips, check_options, located, sample_indices
from dataengine.io import weights

if TYPE_CHECKING:
    import torch

PUBLISHED = {("ViT-B-32", "laion2b_s34b_b79k"): "clip-vit-b-32-laion2b-s34b-b79k.bin"}
"""Names in manifests/weights.toml of the weights that need no `checkpoint`, by model and pretrained."""
CONFIG = "open_clip_config.json"
IN_FOLDER = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls the files of a model in its folder or repository."""
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_LOADING = threading.Lock()


@dataclass(frozen=True)
class OpenClip:
    """An image and a text encoder of open_clip.

    The feature of a clip is the mean over its frames of their unit-length features, again of unit length.

    Attributes:
        model: a name of open_clip's list (`open_clip.list_models()`), or a folder with its open_clip_config.json and
            weights, as its repositories have.
        pretrained: the tag of the weights, which says how pictures are prepared; a folder says that itself.
        checkpoint: the weights of that tag: a name of manifests/weights.toml or a local file.
        num_frames: frames a view.
        views: temporal views wanted of a clip, see `sample_indices`.
        batch: most clips at once on CUDA, and sixteen times as many strings; a CPU takes one by one.
        precision: auto (half on CUDA, float32 elsewhere), float32, float16 or bfloat16.
    """

    extra: ClassVar[str] = "clip"

    model: str = "ViT-B-32"
    pretrained: str = "laion2b_s34b_b79k"
    checkpoint: str | None = None
    num_frames: int = 8
    views: int = 1
    batch: int = 16
    precision: str = "auto"
    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_options("features.open_clip", self.num_frames, self.views, self.batch, self.precision)
        if self._folder is not None and self.checkpoint is not None:
            raise ComponentError(
                "[features.open_clip] model is a folder, whose weights are taken; leave checkpoint out"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def _folder(self) -> Path | None:
        path = Path(self.model).expanduser()
        return path if (path / CONFIG).is_file() else None

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
                    f"[features.open_clip] model = {self.model!r}: no weights in that folder; one of {', '.join(IN_FOLDER)}"
                )
            return str(inside)
        found = self.checkpoint or PUBLISHED.get((self.model, self.pretrained))
        if found is None:
            known = self._tag()
            where = known.get("url") or f"https://huggingface.co/{str(known.get('hf_hub', '')).rstrip('/')}"
            raise WeightsError(
                f"[features.open_clip] {self.model} {self.pretrained}: download its weights from {where}, whose page states the "
                'licence, and give the path as checkpoint = "PATH"'
            )
        return found

    def needs(self) -> list[str]:
        """Published weights that must lie here."""
        return weights.names_of(self.file)

    def weights(self) -> dict[str, str]:
        """sha256 of the weights, and of the settings where the model is a folder, by name.

        Raises:
            WeightsError: they are not here; the message names their address.
        """
        located("features.open_clip", self.file)
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
                f"[features.open_clip] model = {self.model!r}{hint}: neither a name of open_clip.list_models() nor a folder with {CONFIG}"
            )
        return open_clip

    def _tag(self) -> dict[str, Any]:
        """What open_clip knows of the pretrained weights: address, activation and preparation of pictures."""
        library = self._known()
        tags = library.list_pretrained_tags_by_model(self.model)
        if self.pretrained.lower().replace("-", "_") not in tags:
            raise ComponentError(
                f"[features.open_clip] pretrained = {self.pretrained!r} of {self.model}{suggestion(self.pretrained, tags)}"
            )
        found: dict[str, Any] = library.get_pretrained_cfg(self.model, self.pretrained)
        return found

    def load(self, device: str = "cpu") -> None:
        """Read the weights and move them to `device` ('cpu', 'cuda', 'cuda:1'). Idempotent.

        Raises:
            MissingExtraError: torch or open_clip is not installed.
            ComponentError: no such model or tag, or its text encoder needs files that are not here.
            WeightsError: the weights are not here, or are another model's.
        """
        with _LOADING:
            if self._live.get("device") != device:
                self._load(device)

    def _load(self, device: str) -> None:
        library = self._known()
        from dataengine.features import inference

        path = located("features.open_clip", self.file)
        name, options = f"local-dir:{self._folder}", {}
        if self._folder is None:
            tag = self._tag()
            prepare = {key: tag[key] for key in PREPROCESSING if tag.get(key) is not None}
            name, options = (
                self.model,
                {
                    "pretrained": str(path),
                    "force_quick_gelu": bool(tag.get("quick_gelu")),
                    "force_preprocess_cfg": prepare,
                },
            )
        try:
            tokenizer = library.get_tokenizer(name)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ComponentError(
                f"[features.open_clip] {self.model}: its tokenizer is not here: {_first_line(error)}"
            ) from error
        try:
            model = library.create_model(name, **options, require_pretrained=True, weights_only=True)
        except Exception as error:  # open_clip passes on whatever pickle, zip and torch raise
            raise WeightsError(
                f"{path.name} cannot be read as {self.model} of open_clip: {_first_line(error)}"
            ) from error
        prepare_picture = library.transform.image_transform_v2(
            library.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
        )
        wanted = inference.dtype(self.precision, device)
        self._live.update(model=inference.ready(model, wanted, device), prepare=prepare_picture, dtype=wanted)
        self._live.update(tokenizer=tokenizer, texts=inference.TextCache(), device=device)

    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """The `num_frames` indices that a view looks at in a clip of so many frames, ascending; see `component.sample_indices`."""
        return sample_indices(num_frames_total, self.num_frames, view)

    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """(num_frames, H, W, 3) uint8: what `encode_video` looks at of a (T, H, W, 3) clip; encoding this gives the same feature."""
        return np.ascontiguousarray(frames[self.sample_indices(len(frames), view)])

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """One feature a clip.

        Args:
            frames: clips of (T, H, W, 3) uint8 RGB, of any length and size each; or one such array. Either all
                frames of a clip, of which a view's are taken, or just those of the view.
            view: which temporal view.

        Returns:
            (N, D) float32, unit length.

        Raises:
            ComponentError: frames of another form, or as `load`.
            MissingExtraError, WeightsError: as `load`.
        """
        clips = as_clips(frames)
        self.load(self._live.get("device", "cpu"))
        from dataengine.features.inference import batched

        return batched(lambda part: self._look(part, view), clips, self.batch, self._live["device"], self.dim)

    def _look(self, clips: Sequence[Frames], view: int) -> torch.Tensor:
        import torch
        from PIL import Image

        pictures = [Image.fromarray(frame) for clip in clips for frame in self.prepare(clip, view)]
        pixels = torch.stack([self._live["prepare"](picture) for picture in pictures])
        found: torch.Tensor = self._live["model"].encode_image(
            pixels.to(self._live["device"], self._live["dtype"]), normalize=False
        )
        unit = torch.nn.functional.normalize(found.float(), dim=-1)
        return unit.view(len(clips), self.num_frames, -1).mean(1)

    def encode_text(self, texts: Sequence[str]) -> Float:
        """One feature a string, (N, D) float32 of unit length; a string met before costs nothing.

        Raises:
            ComponentError: something else than strings, or as `load`.
            MissingExtraError, WeightsError: as `load`.
        """
        self.load(self._live.get("device", "cpu"))
        found: Float = self._live["texts"].encode(texts, self._read, self.dim)
        return found

    def _read(self, texts: list[str]) -> Float:
        from dataengine.features.inference import batched

        tokens = np.asarray(self._live["tokenizer"](texts))
        return batched(self._read_tokens, list(tokens), self.batch * 16, self._live["device"], self.dim)

    def _read_tokens(self, rows: Sequence[Any]) -> torch.Tensor:
        import torch

        found: torch.Tensor = self._live["model"].encode_text(
            torch.from_numpy(np.stack(rows)).to(self._live["device"]), normalize=False
        )
        return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
