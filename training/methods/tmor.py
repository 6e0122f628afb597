"""T-MOR: motion that shares a space with video and text (thesis, chapter 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.types import Clip, Draw
from training.distributed import masked_mean, unit
from training.methods.base import Batch, Encoder, Method, Outcome, Projector, Queue, View, Views
from training.methods.losses import Form, against_queue, in_batch, info_nce
from training.transforms.preprocess import Prepare


@dataclass(frozen=True)
class _Optional:
    """`Views` of clips whose features may be absent: then a row of zeros, which takes no part."""

    views: Views
    features: tuple[tuple[str, str, int], ...]

    def __call__(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        drawn = self.views(clip, rng)
        for name, stored, width in self.features:
            found = clip.features.get(stored)
            rows = (
                np.zeros((1, width), np.float32)
                if found is None
                else np.asarray(found, np.float32).reshape(-1, np.shape(found)[-1])
            )
            if rows.shape[1] != width:
                raise TrainingError(
                    f"clip {clip.key!r}: {stored} has {rows.shape[1]} numbers; the method was made for {width}"
                )
            drawn[name] = rows[rng.integers(len(rows))]
        return drawn


class TMOR(Method):
    """Motion-motion, motion-video and motion-text InfoNCE (equations 6.3 to 6.6).

    Self-supervised without `text`: L_mm + L_mv. Supervised with it: L_mt in addition. What the thesis leaves
    open is decided so: positives stand in the denominators too (printed, equations 6.3, 6.4 and 6.6 have
    negatives only and no lower bound: `variant="paper"`); the negatives of L_mt are the texts of all other
    classes, exactly, and not a queue; in the supervised stage clips of the same class are no negatives of
    L_mm and L_mv; the queue of L_mv holds video features as they were stored, and phi sees all of them anew at every
    step, with gradients: it has no momentum encoder, so that keys it made some steps ago would tell how phi moved and
    not which video they are of; temperature, projectors and schedule, which are not given, are LAC's. phi is a projector
    of each modality, and zero-shot compares phi(motion) with phi(text). The motion's feature under `embed`
    is the network's own.

    Args:
        text: (K, D) float text features a class, of unit length, or several texts a class (K, P, D), averaged here; None: without.
        video: name of the stored video feature and its width D, as ("viclip_video", 768); None: without. Cached views are drawn at random.
        motion: whether motion is compared with motion (L_mm).
        video_width: D of the video feature.
        temperature, queue, momentum, hidden, width, layers: of the contrast and the projectors phi.
        supervised: whether labels decide what is no negative; default: when texts are given.
        symmetric: compare video with motion in both directions, within the batch beside the queue.
        shared: one phi for video and text, where their features lie in one space already, as ViCLIP's do: what motions learn
            of videos then also says where texts lie that no clip was trained with, see `classes_by_video`.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: Tensor | Sequence[Any] | None = None,
        video: str | None = "viclip_video",
        video_width: int = 768,
        motion: bool = True,
        temperature: float = 0.1,
        queue: int = 65536,
        momentum: float = 0.994,
        hidden: int = 2048,
        width: int = 128,
        layers: int = 2,
        supervised: bool | None = None,
        symmetric: bool = False,
        shared: bool = False,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, momentum, anneal=True)
        self.project_text: Projector | None
        if temperature <= 0 or not (motion or video or text is not None):
            raise TrainingError(
                "T-MOR compares motion with at least one of motion, video and text, at a temperature above 0"
            )
        self.video, self.video_width, self.motion = video, video_width, motion
        self.temperature, self.symmetric = temperature, symmetric
        self.form: Form = "paper" if variant == "paper" else "sum"
        self.project_motion = Projector(backbone.width, hidden, width, layers)
        self.keys = self.shadow(Encoder(backbone, self.project_motion)) if motion else None
        self.motions = Queue(queue, width) if motion else None
        self.project_video = Projector(video_width, hidden, width, layers) if video else None
        self.videos = Queue(queue, video_width) if video else None
        self.supervised = supervised if supervised is not None else text is not None
        if text is not None:
            given = torch.as_tensor(np.asarray(text, np.float32))
            self.register_buffer("texts", unit(given.mean(1) if given.ndim == 3 else given))
            if shared and (not video or given.shape[-1] != video_width):
                raise TrainingError(
                    f"shared: texts of {given.shape[-1]} numbers and videos of {video_width if video else 0} are not in one space"
                )
            self.project_text = None if shared else Projector(given.shape[-1], hidden, width, layers)
        else:
            self.project_text = None

    def draw(self, prepare: Prepare, view: View) -> Draw:
        views = Views(prepare, {"motion": view, "other": view} if self.motion else {"motion": view})
        return _Optional(views, (("video", self.video, self.video_width),) if self.video else ())

    def loss(self, batch: Batch) -> Outcome:
        features = self.backbone.features(batch["motion"])
        anchor = unit(self.project_motion(features))
        labels = batch["label"] if self.supervised else None
        losses: dict[str, Tensor] = {}
        if self.keys is not None and self.motions is not None:
            with torch.no_grad():
                key = self.keys(batch["other"])
            known = self.motions.known(batch["index"], labels)
            losses["mm"] = against_queue(
                anchor, key, self.motions.keys.clone(), self.temperature, known, self.form
            ).mean()
            self.motions.push(key, batch["index"], batch["label"])
        if self.project_video is not None and self.videos is not None:
            losses["mv"] = self._video(anchor, batch, labels)
        if hasattr(self, "texts"):
            losses["mt"] = self._text(anchor, batch["label"])
        return Outcome(torch.stack(list(losses.values())).sum(), losses, features)

    def _video(self, anchor: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        """L_mv over the clips that have a video feature."""
        assert self.videos is not None
        here = batch["video"].abs().sum(1) > 0
        key, others = self.embed_video(batch["video"]), self.embed_video(self.videos.keys)
        known = self.videos.known(batch["index"], labels)
        each = against_queue(anchor, key, others, self.temperature, known, self.form)
        if self.symmetric:
            same = None if labels is None else (labels[:, None] == labels) & (labels >= 0)
            each = (each + in_batch(key, anchor, self.temperature, same)[0]) / 2
        owners = torch.where(here, batch["index"], Queue.EMPTY)
        self.videos.push(unit(batch["video"]), owners, batch["label"])
        return masked_mean(each, here)

    def _text(self, anchor: Tensor, labels: Tensor) -> Tensor:
        """L_mt over labelled clips: the own class's text among those of all classes."""
        logits = anchor @ self.embed_text(self.texts).T / self.temperature  # type: ignore[arg-type]
        own = torch.nn.functional.one_hot(labels.clamp(min=0), logits.shape[1]).bool()
        return masked_mean(info_nce(logits, own, form=self.form), labels >= 0)

    def embed_motion(self, motion: Tensor) -> Tensor:
        """phi(motion), unit length (N, width): what is compared with texts and videos."""
        return unit(self.project_motion(self.backbone.features(motion)))

    def embed_text(self, text: Tensor) -> Tensor:
        """phi(text) of text features (K, D), unit length."""
        if not hasattr(self, "texts"):
            raise TrainingError(
                "this T-MOR was trained without texts: it cannot say what a motion is called; train with text"
            )
        return self.embed_video(text) if self.project_text is None else unit(self.project_text(unit(text)))

    def embed_video(self, video: Tensor) -> Tensor:
        """phi(video) of video features (N, D), unit length."""
        if self.project_video is None:
            raise TrainingError("this T-MOR was trained without videos; train with video")
        return unit(self.project_video(unit(video)))

    @property
    def by_video(self) -> bool:
        """Whether classes can be told by where their videos would lie."""
        return self.motions is not None and self.videos is not None and self.project_text is None

    def classes_by_video(self, text: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Classes as the projector of videos has them, with means taken off each modality, and what to take off motions.

        Videos and texts of one space still keep apart in it (the modality gap, Liang et al. 2022, section 4.1), and so do motions
        and both: a class's video is looked for where its text lies beside the mean text.
        phi(text - mean text + mean video) - phi(mean video); means of motions and of videos are those of the queues.

        Args:
            text: (K, D) features of the classes asked for.
            known: (S, D) features of the classes of the training clips; the method's own texts without.

        Returns:
            (K, width), and (width,) the mean of `embed_motion` over training clips.

        Raises:
            TrainingError: motions were not compared with motions and with videos, or texts have a projector of their own.
        """
        if not self.by_video or self.motions is None or self.videos is None or self.project_video is None:
            raise TrainingError(
                "classes by video want a T-MOR with motion, with video, and with texts that are shared or not there"
            )
        middle = self.texts if known is None else known
        mean = self.videos.mean
        moved = unit(text) - unit(middle).mean(0) + mean  # type: ignore[arg-type]
        return self.project_video(moved) - self.project_video(mean), self.motions.mean
