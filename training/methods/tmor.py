"""T-MOR: motion that shares a space with video and text (thesis, chapter 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.partners import Partner
from training.data.types import SampleTransform, SkeletonSequence
from training.distributed import masked_mean, unit
from training.methods.base import (
    Batch,
    Encoder,
    LossOutput,
    Method,
    Needs,
    Projector,
    ProjectorOptions,
    RandomViews,
    View,
    features_of,
)
from training.methods.losses import Form, batch_info_nce, info_nce, queue_info_nce, similarities
from training.methods.queue import Queue, QueueOptions
from training.transforms.preprocess import Preprocess

QUEUE = QueueOptions()
PROJECTOR = ProjectorOptions()


@dataclass(frozen=True)
class ViewsAndVideo:
    """Random views of a sequence, and the stored video feature of its clip; a row of zeros where the clip has none.

    Attributes:
        views: of the joints.
        feature: name of the stored video feature (K, D) or (D,); one of its K views is chosen at random.
        width: D.
    """

    views: RandomViews
    feature: str
    width: int

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        sample = self.views(sequence, rng)
        stored = sequence.features.get(self.feature)
        if stored is None:
            rows = np.zeros((1, self.width), np.float32)
        else:
            rows = np.asarray(stored, np.float32).reshape(-1, np.shape(stored)[-1])
        if rows.shape[1] != self.width:
            raise TrainingError(
                f"clip {sequence.key!r}: {self.feature} has {rows.shape[1]} numbers; the method was made for "
                f"{self.width}"
            )
        return sample | {"video": rows[rng.integers(len(rows))]}


class TMOR(Method):
    """Motion-motion, motion-video and motion-text InfoNCE (equations 6.3 to 6.6).

    Self-supervised without `text`: L_mm + L_mv. Supervised with it: L_mt in addition. The thesis leaves open:

    - Positives are in the denominators too. Equations 6.3, 6.4 and 6.6 are printed with negatives only and have no
      lower bound; `variant="paper"` computes them.
    - The negatives of L_mt are the texts of all other classes, exactly, and not a queue.
    - In the supervised stage clips of the same class are no negatives of L_mm and L_mv.
    - The queue of L_mv holds video features as they were stored. phi projects all of them at every step, with
      gradients. phi has no momentum encoder: stored keys of earlier steps would differ by the change of phi more
      than by the video.
    - Temperature, projectors and schedule are those of LAC.

    phi is one projector per modality. Zero-shot compares phi(motion) with phi(text). `embed` gives the network's own
    features of a motion.

    Args:
        backbone: the network.
        text: (K, D) float, a text feature per class, of unit length; or (K, P, D), P texts per class, which are
            averaged. In a configuration: the encoder of texts. None: without texts.
        video: name of the stored video feature, for example "viclip_video"; None or "": without videos. Of several
            stored views one is chosen at random.
        video_width: D of the video feature.
        motion: whether motions are compared with motions (L_mm).
        temperature: of all similarities.
        queue: sizes of the queues of motions and of videos, and the momentum of the key encoder.
        projector: sizes of each phi.
        supervised: whether clips of the same label are excluded from the negatives. Default: true with texts.
        symmetric: whether videos are also compared with the motions of the batch.
        shared: whether video and text have one phi, for features that lie in one space already, as those of ViCLIP.
            The alignment of motions and videos then also holds for texts of new classes; see `classes_by_video`.
        partner: column of the data, such as "motion", in which the clip of the key of L_mm agrees with the clip of the
            query: another body or camera in place of another view of the same clip. Clips that agree are no negatives;
            a clip without another is its own. "": the same clip.
        variant: "standard", or the formulas of the "paper" as printed.
    """

    has_projection: ClassVar[bool] = True
    former_options: ClassVar[Mapping[str, str]] = {
        "momentum": "queue.momentum",
        "hidden": "projector.hidden",
        "width": "projector.width",
        "layers": "projector.layers",
    }

    def __init__(
        self,
        backbone: Backbone,
        text: Tensor | Sequence[Any] | None = None,
        video: str | None = "viclip_video",
        video_width: int = 768,
        motion: bool = True,
        temperature: float = 0.1,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
        supervised: bool | None = None,
        symmetric: bool = False,
        shared: bool = False,
        partner: str = "",
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if temperature <= 0 or not (motion or video or text is not None):
            raise TrainingError(
                "T-MOR compares motion with at least one of motion, video and text, at a temperature above 0"
            )
        if not projector.layers:
            raise TrainingError("T-MOR: projector.layers 0; allowed: 1 and more, as motions and videos differ in width")
        self.video, self.video_width, self.motion = video, video_width, motion
        self.temperature, self.symmetric, self.partner = temperature, symmetric, partner
        self.form: Form = "paper" if variant == "paper" else "sum"
        width = projector.width

        def phi(features: int) -> Projector:
            return Projector(features, projector.hidden, width, projector.layers)

        self.project_motion = phi(backbone.width)
        self.keys = self.momentum_copy(Encoder(backbone, self.project_motion)) if motion else None
        self.motions = Queue(queue.size, width) if motion else None
        self.project_video = phi(video_width) if video else None
        self.videos = Queue(queue.size, video_width) if video else None
        self.supervised = supervised if supervised is not None else text is not None
        self.texts: Tensor | None
        self.project_text: Projector | None = None
        if text is None:
            self.texts = None
            return
        vectors = torch.as_tensor(np.asarray(text, np.float32))
        size = vectors.shape[-1]
        self.register_buffer("texts", unit(vectors.mean(1) if vectors.ndim == 3 else vectors))
        if shared and (not video or size != video_width):
            widths = f"texts of {size} numbers and videos of {video_width if video else 0}"
            raise TrainingError(f"shared: {widths} are not in one space")
        self.project_text = None if shared else phi(size)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Needs:
        """The stored video feature; and labels and the texts of the classes, where `text` names an encoder."""
        video, text = options.get("video"), options.get("text")
        return Needs(
            features=(video,) if video else (),
            labels=text is not None,
            texts={} if text is None else {"text": text},
            widths={"video_width": video} if video else {},
            without="--set 'method.video=\"\"'",
        )

    @property
    def partners(self) -> Mapping[str, Partner]:
        """A clip that agrees in the column `partner`."""
        return {"partner": Partner(same=(self.partner,), required=False)} if self.partner and self.motion else {}

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """One view of each motion, a second one as the key of L_mm, and a video feature."""
        of_partner = (("other", "partner"),) if self.partners else ()
        shown = {"motion": view, "other": view} if self.motion else {"motion": view}
        views = RandomViews(preprocess, shown, partners=of_partner)
        return ViewsAndVideo(views, self.video, self.video_width) if self.video else views

    def loss(self, batch: Batch) -> LossOutput:
        features = features_of(self.backbone, batch["motion"], batch.get("motion_mask"))
        anchor = unit(self.project_motion(features))
        labels = batch["label"] if self.supervised else None
        losses: dict[str, Tensor] = {}
        if self.keys is not None and self.motions is not None:
            with torch.no_grad():
                key = self.keys(batch["other"], batch.get("other_mask"))
            owners = batch["partner_group"] if self.partner else batch["index"]
            excluded = self.motions.not_negative_mask(owners, labels)
            keys = self.motions.keys.clone()
            losses["mm"] = queue_info_nce(anchor, key, keys, self.temperature, excluded, self.form).mean()
            self.motions.enqueue(key, owners, batch["label"])
        if self.videos is not None:
            losses["mv"] = self._video_loss(self.videos, anchor, batch, labels)
        if self.texts is not None:
            losses["mt"] = self._text_loss(self.texts, anchor, batch["label"])
        return LossOutput(torch.stack(list(losses.values())).sum(), losses, features)

    def _video_loss(self, queue: Queue, anchor: Tensor, batch: Batch, labels: Tensor | None) -> Tensor:
        """L_mv over the clips that have a video feature."""
        present = batch["video"].abs().sum(1) > 0
        key, others = self.embed_video(batch["video"]), self.embed_video(queue.keys)
        excluded = queue.not_negative_mask(batch["index"], labels)
        each = queue_info_nce(anchor, key, others, self.temperature, excluded, self.form)
        if self.symmetric:
            same = None if labels is None else (labels[:, None] == labels) & (labels >= 0)
            each = (each + batch_info_nce(key, anchor, self.temperature, same)[0]) / 2
        owners = torch.where(present, batch["index"], Queue.EMPTY)
        queue.enqueue(unit(batch["video"]), owners, batch["label"])
        return masked_mean(each, present)

    def _text_loss(self, texts: Tensor, anchor: Tensor, labels: Tensor) -> Tensor:
        """L_mt over labelled clips: the text of the clip's class among the texts of all classes."""
        logits = similarities(anchor, self.embed_text(texts), self.temperature)
        own = torch.nn.functional.one_hot(labels.clamp(min=0), logits.shape[1]).bool()
        return masked_mean(info_nce(logits, own, form=self.form), labels >= 0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Text and video, where the method has them."""
        return tuple(name for name, there in (("text", self.texts is not None), ("video", bool(self.video))) if there)

    @property
    def class_texts(self) -> Tensor | None:
        """(K, D) texts of the training classes; None without texts."""
        return self.texts

    @property
    def video_feature(self) -> str | None:
        """Name of the stored video feature."""
        return self.video or None

    def project(self, features: Tensor) -> Tensor:
        """phi of features (N, D) of the network, (N, width) of unit length."""
        return unit(self.project_motion(features))

    def embed_motion(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """phi(motion), (N, width) of unit length: what is compared with texts and videos."""
        return self.project(features_of(self.backbone, motion, mask))

    def embed_text(self, text: Tensor) -> Tensor:
        """phi(text) of text features (K, D), (K, width) of unit length."""
        if self.texts is None:
            raise TrainingError("this T-MOR was trained without texts: it cannot name motions; train with text")
        return self.embed_video(text) if self.project_text is None else unit(self.project_text(unit(text)))

    def embed_video(self, video: Tensor) -> Tensor:
        """phi(video) of video features (N, D), (N, width) of unit length."""
        if self.project_video is None:
            raise TrainingError("this T-MOR was trained without videos; train with video")
        return unit(self.project_video(unit(video)))

    @property
    def has_classes_by_video(self) -> bool:
        """Whether motions were compared with motions and with videos, and texts have no projector of their own."""
        return self.motions is not None and self.videos is not None and self.project_text is None

    def classes_by_video(self, text: Tensor, training_texts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where videos of classes would lie, without the gap between modalities.

        Embeddings of videos, texts and motions form separate clusters even in one space (the modality gap, Liang et al.
        2022, section 4.1). The video of a class is therefore predicted from the offset of its text to the mean text:
        phi(text - mean text + mean video) - phi(mean video). Means of motions and of videos are those of the queues.

        Args:
            text: (K, D) features of the classes.
            training_texts: (S, D) features of the training classes. Default: the texts of the method.

        Returns:
            (K, width) of the classes, and (width,) the mean of `embed_motion` over training clips.

        Raises:
            TrainingError: motions were not compared with motions and with videos, or texts have a projector of their
                own.
        """
        centre_texts = self.texts if training_texts is None else training_texts
        if self.motions is None or self.videos is None or self.project_video is None or self.project_text is not None:
            raise TrainingError(
                "classes by video need a T-MOR with motion, with video, and without a projector of texts"
            )
        if centre_texts is None:
            raise TrainingError(
                "classes by video need the texts of the training classes; this T-MOR has none of its own"
            )
        mean = self.videos.mean
        moved = unit(text) - unit(centre_texts).mean(0) + mean
        return self.project_video(moved) - self.project_video(mean), self.motions.mean
