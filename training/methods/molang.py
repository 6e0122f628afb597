"""MoLang: masked motion prediction, then motions and language in one space.

Source: Kim et al., Learning Joint Representation of Human Motion and Language (MoLang, arXiv 2210.15187).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.types import Bool
from training.backbones.base import Backbone
from training.data.entries import Motion, Text
from training.data.types import Array, SampleTransform, SkeletonSequence
from training.distributed import gather, gather_with_gradient, masked_mean, unit
from training.methods.base import Batch, LossOutput, Method, Needs, View, features_of
from training.methods.losses import batch_info_nce
from training.methods.text_network import TextNetwork
from training.transforms.preprocess import Preprocess

LOWEST_TEMPERATURE = 0.01
"""Similarities are multiplied by at most 100 (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True)
class Masking:
    """What is hidden of a motion (section 3.1).

    Attributes:
        longest: most frames in a row that noise takes the place of; the number is uniform from 1, as the first of them.
        only: whether the reconstruction is measured on these frames alone; else on all, which the paper leaves open.
    """

    longest: int = 30
    only: bool = False


MASKING = Masking()


@dataclass(frozen=True)
class MaskedViews:
    """A view of a clip, the same with some frames hidden, and a text.

    Entries: "motion" and "masked" (M, T, V, C); "hidden" (T,) bool; "prompt", a number in [0, 1) that chooses among the
    texts of a class; "text", the stored text of the clip or "".

    Attributes:
        preprocess: makes the input of the network.
        view: of the joints.
        masking: what is hidden.
        text: name of the stored text of each clip; "": none.
    """

    preprocess: Preprocess
    view: View
    masking: Masking
    text: str = ""

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        entry = self.preprocess.entry(self.view(self.preprocess.joints(sequence), rng))
        masked, hidden = self.hide(entry.array, rng)
        prompt, stored = rng.random(), ""
        if self.text:
            stored = str(sequence.features.get(self.text) or "").strip()
        made = {"motion": entry, "masked": Motion(masked), "hidden": hidden, "prompt": prompt}
        return made | {"text": Text(stored)}

    def hide(self, array: Array, rng: np.random.Generator) -> tuple[Array, Bool]:
        """Frames in a row become noise with the standard deviation of each coordinate of the clip: (M, T, V, C), and
        (T,) bool which. The paper says Gaussian noise, and not of which size. Absent people stay absent."""
        frames = array.shape[1]
        length = int(rng.integers(1, min(self.masking.longest, max(frames - 1, 1)) + 1))
        start = int(rng.integers(0, frames - length + 1))
        hidden = (np.arange(frames) >= start) & (np.arange(frames) < start + length)
        people = (array != 0).any((1, 2, 3))
        out = array.copy()
        noise = rng.standard_normal((len(array), length, *array.shape[2:]), dtype=np.float32)
        if people.any():
            out[:, hidden] = noise * array[people].std((0, 1, 2)) * people[:, None, None, None]
        return out, hidden


class MoLang(Method):
    """Masked motion prediction; with texts also the contrast of motions and texts beside it (equation 3).

    First stage, without `text`: frames in a row are noise, and the network says what they were. Second stage, from its
    weights (`run.start`), with `text`: the masked motion is compared with the texts of the batch and is still told in
    whole. The text encoder is trained along as the network "text"; `optim.groups.text` gives it a rate of its own.

    Decisions where the paper is silent or cannot be trained as printed:

    - Equation 3 is a sum of probabilities; its minimum drives pairs apart. Here it is the sum of both cross-entropies
      (CLIP); `variant = "paper"` computes what is printed.
    - The reconstruction compares frames with frames: a linear layer on the token of each, against the motion that was
      not masked, on frames that are there. The L1 distance is a mean over them, not a sum.
    - Clips of a batch whose texts are equal are no negatives of each other. Clips without a text are told in whole
      alone.
    - A projection takes motions to the width of the texts.

    The bottleneck over the joints' graph belongs to the network `mmp_transformer` (`bottleneck_after`). Rotations of
    six numbers, the paper's input, come from sources that have them (`data.options.rotations` of BVH files); positions
    will do.

    Args:
        backbone: the network; `mmp_transformer` gives a token of the whole motion, others the mean over time.
        text: the text encoder. In a configuration: its name, or a table of `encoder`, `prompts` and its options; see
            `training.methods.text_network`. None or "": the first stage.
        clip_text: name of a stored text of each clip, such as "text", which takes the place of the texts of its class
            where it is not empty; "": none.
        contrast: weight of the contrast.
        reconstruction: alpha, the weight of the reconstruction; 0 leaves it out.
        masking: what is hidden.
        first_temperature: that the learnt temperature begins with.
        variant: "standard", or equation 3 of the "paper" as printed.

    Raises:
        TrainingError: an option out of range, or nothing to learn.
    """

    has_projection: ClassVar[bool] = True
    optional_networks: ClassVar[tuple[str, ...]] = ("decoder", "text")

    def __init__(
        self,
        backbone: Backbone,
        text: TextNetwork | str | None = None,
        clip_text: str = "",
        contrast: float = 1.0,
        reconstruction: float = 10.0,
        masking: Masking = MASKING,
        first_temperature: float = 0.07,
        variant: Literal["standard", "paper"] = "standard",
    ) -> None:
        super().__init__(backbone)
        if isinstance(text, str) and text:
            raise TrainingError(f"text = {text!r}: in Python give TextNetwork.create({text!r}, class_texts)")
        network = text if isinstance(text, TextNetwork) else None
        if min(contrast, reconstruction) < 0 or masking.longest < 1 or first_temperature <= 0:
            raise TrainingError(
                f"contrast {contrast}, reconstruction {reconstruction}, masking.longest {masking.longest}, "
                f"first_temperature {first_temperature}; allowed: 0 and more, 0 and more, 1 and more, above 0"
            )
        if not reconstruction and (network is None or not contrast):
            raise TrainingError("nothing is left to learn: give reconstruction or, with text, contrast above 0")
        if clip_text and network is None:
            raise TrainingError(f"clip_text {clip_text!r} has no effect without text: name a text encoder")
        self.clip_text, self.contrast, self.reconstruction = clip_text, contrast, reconstruction
        self.masking, self.variant = masking, variant
        frame = backbone.skeleton.num_joints * backbone.channels
        self.decoder = nn.Linear(backbone.width, backbone.stride * frame) if reconstruction else None
        self.text = network
        if network is not None:
            self.project_motion = nn.Linear(backbone.width, network.width)
            self.log_temperature = nn.Parameter(torch.tensor(first_temperature).log())

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Needs:
        """The text encoder, and a stored text where `clip_text` names one; labels where it does not."""
        text, stored = options.get("text") or None, options.get("clip_text") or ""
        return Needs(
            features=(stored,) if stored else (),
            labels=text is not None and not stored,
            text_networks={} if text is None else {"text": text},
            without="--set 'method.clip_text=\"\"'",
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network, the layer that tells frames, and the text encoder."""
        named = {"decoder": self.decoder, "text": self.text}
        return {**super().networks, **{name: part for name, part in named.items() if part is not None}}

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """A view of each clip with frames hidden; see `MaskedViews`."""
        return MaskedViews(preprocess, view, self.masking, self.clip_text)

    def loss(self, batch: Batch) -> LossOutput:
        """The reconstruction, and with texts the contrast."""
        mask = batch.get("motion_mask")
        features, people = self.backbone.features_and_people(batch["masked"], mask)
        parts: dict[str, Tensor] = {}
        total = features.new_zeros(())
        if self.text is not None and self.contrast:
            parts["contrast"] = self._contrast(self.text, features, batch)
            total = total + self.contrast * parts["contrast"]
        if self.decoder is not None:
            parts["reconstruction"] = self._reconstruction(self.decoder, people, batch, mask)
            total = total + self.reconstruction * parts["reconstruction"]
        return LossOutput(total, parts, features)

    def _reconstruction(self, decoder: nn.Linear, people: Tensor, batch: Batch, mask: Tensor | None) -> Tensor:
        """Mean L1 distance of told frames to the motion that was not masked."""
        wanted = batch["motion"]
        n, c, t, v, m = wanted.shape
        told = decoder(people[:, :m].transpose(2, 3)).reshape(n, m, -1, v, c)[:, :, :t]
        error = (told.permute(0, 4, 2, 3, 1) - wanted).abs().mean((1, 3))  # (N, T, M)
        counted = torch.ones_like(error, dtype=torch.bool) if mask is None else mask
        if self.masking.only:
            counted = counted & batch["hidden"][..., None]
        return masked_mean(error.flatten(), counted.flatten())

    def _contrast(self, network: TextNetwork, features: Tensor, batch: Batch) -> Tensor:
        """Motions among the texts of the batch, and texts among its motions, of all processes together."""
        texts = self._texts_of(network, batch)
        words = network([text or " " for text in texts])
        own = torch.tensor([_number(text) for text in texts], device=features.device)
        numbers, present = gather(own), gather(own != _number(""))
        motions = gather_with_gradient(unit(self.project_motion(features)))
        words = gather_with_gradient(words)
        without = (numbers[:, None] == numbers) | ~present | ~present[:, None]
        both = batch_info_nce(motions, words, self._temperature(), without)
        if self.variant == "paper":
            both = (torch.exp(-both[0]), torch.exp(-both[1]))
        each = both[0] + both[1]
        return torch.where(present, each, torch.zeros_like(each)).sum() / present.sum().clamp(min=1)

    def _texts_of(self, network: TextNetwork, batch: Batch) -> list[str]:
        """The text of each clip: its own, else one of its class, else ""."""
        texts = []
        for stored, label, prompt in zip(batch["text"], batch["label"].tolist(), batch["prompt"].tolist()):
            of_class = network.class_texts[label] if 0 <= label < len(network.class_texts) else ()
            texts.append(stored or (of_class[int(prompt * len(of_class))] if of_class else ""))
        return texts

    def _temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(min=LOWEST_TEMPERATURE)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Text, in the second stage."""
        return () if self.text is None else ("text",)

    @property
    def projects(self) -> bool:
        """In the second stage."""
        return self.text is not None

    @property
    def reads_texts(self) -> bool:
        """Whether there is a text encoder."""
        return self.text is not None

    def project(self, features: Tensor) -> Tensor | None:
        """Features (N, D) of the network in the space of texts, (N, W) of unit length; None without texts."""
        return None if self.text is None else unit(self.project_motion(features))

    def embed_motion(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """Motions in the space of texts, (N, W) of unit length."""
        projected = self.project(features_of(self.backbone, motion, mask))
        if projected is None:
            raise TrainingError("this run of molang is its first stage, without texts: train it on with method.text")
        return projected

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts in the space of motions, (K, W) of unit length."""
        if self.text is None:
            raise TrainingError("this run of molang is its first stage, without texts: train it on with method.text")
        return self.text.encode(texts)


def _number(text: str) -> int:
    """A number of 63 bits that is equal for equal texts, whatever process asks."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
