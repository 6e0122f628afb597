"""Vectors of the texts of classes: prompts through an encoder, or vectors that a dataset stores beside its clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataengine.core.errors import TrainingError, suggestion
from dataengine.labels.prompts import class_prompts, described
from training.data.sampler import joined_labels
from training.data.types import Array, SkeletonDataset
from training.evaluate import text as encoders
from training.evaluate.retrieval import class_embeddings
from training.methods import text_network
from training.methods.text_network import TextNetwork
from training.runs.splits import names_of

STORED = ("viclip_text", "open_clip_text")
"""Stored vectors of the text of a clip; a class has the mean over some of its clips."""
CLIPS = 16
"""Clips of a class whose stored vectors are averaged."""


@dataclass(frozen=True)
class ClassText:
    """Which texts a class has, and which encoder reads them.

    Attributes:
        encoder: a name of `training.evaluate.text.ENCODERS`, or of a stored feature.
        prompts: set of templates of manifests/prompts.toml; "label" is the plain name, as in T-MOR. Or a CSV with the
            columns label and text: descriptions of the actions.
        options: of the encoder.
    """

    encoder: str
    prompts: str = "label"
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(value: str | Mapping[str, Any], trained: bool = False) -> ClassText:
        """From a configuration: a name, or a table of encoder, prompts and options of the encoder.

        Args:
            value: the name or the table.
            trained: whether the encoder is one that is trained along, of `training.methods.text_network`.

        Raises:
            TrainingError: an unknown encoder, or a table without one.
        """
        table = {"encoder": value} if isinstance(value, str) else dict(value)
        if "encoder" not in table:
            raise TrainingError(
                f"a text is the name of an encoder, or {{ encoder = NAME, prompts = SET }}; given {value!r}"
            )
        encoder, prompts = table.pop("encoder"), table.pop("prompts", "label")
        allowed = list(text_network.ENCODERS) if trained else [*encoders.ENCODERS, *STORED]
        if encoder not in allowed:
            raise TrainingError(f"unknown text encoder {encoder!r}{suggestion(str(encoder), allowed)}")
        return ClassText(encoder, prompts, table)

    @property
    def stored(self) -> str | None:
        """The name of the stored feature, where it is one."""
        return self.encoder if self.encoder in STORED else None

    def texts(self, names: Sequence[str]) -> list[list[str]]:
        """The texts of each class, one or more.

        Raises:
            ComponentError: no such set of prompts, or a class without a text.
        """
        return described(names, self.prompts) if self.prompts.endswith(".csv") else class_prompts(names, self.prompts)

    def network(self, names: Sequence[str]) -> TextNetwork:
        """The encoder as a network that is trained along, with the texts of the classes.

        Raises:
            ComponentError, MissingExtraError, WeightsError, TrainingError: the texts or the encoder are not here.
        """
        return TextNetwork.create(self.encoder, self.texts(names), **self.options)

    def vectors(self, names: Sequence[str], datasets: Sequence[SkeletonDataset]) -> Array:
        """(K, P, D) float32 of unit length, P texts a class.

        Args:
            names: of the classes.
            datasets: clips with the stored feature; not read for an encoder.

        Raises:
            TrainingError: a class none of whose clips has the stored feature.
            ComponentError: no such set of prompts.
            MissingExtraError, WeightsError, ComponentError: the encoder is not here.
        """
        if self.stored:
            return stored_vectors(names, datasets, self.stored)[:, None]
        encode = encoders.create(self.encoder, **self.options).encode
        if self.prompts.endswith(".csv"):
            return class_embeddings(self.texts(names), encode)[:, None].astype(np.float32)
        texts = self.texts(names)
        flat = encode([text for each in texts for text in each])
        return np.asarray(flat, np.float32).reshape(len(texts), -1, flat.shape[-1])


def stored_vectors(names: Sequence[str], datasets: Sequence[SkeletonDataset], feature: str) -> Array:
    """(K, D) float32 of unit length: the mean of a stored feature over some clips of each class.

    Raises:
        TrainingError: a class none of whose clips has it.
    """
    own, ids = joined_labels(datasets)
    ends = np.cumsum([len(dataset) for dataset in datasets])
    rows: list[Array] = []
    for name in names:
        indices = np.flatnonzero(ids == own.index(name))[:CLIPS] if name in own else np.zeros(0, np.int64)
        vectors: list[Array] = []
        for dataset, end in zip(datasets, ends):
            mine = indices[(indices >= end - len(dataset)) & (indices < end)] - (end - len(dataset))
            vectors += [
                np.asarray(clip.features[feature], np.float32)
                for clip in dataset.read(mine.tolist())
                if feature in clip.features
            ]
        if not vectors:
            raise TrainingError(
                f"no clip of class {name!r} has {feature}: name an encoder that reads its label, such as minilm"
            )
        mean = np.mean([vector.reshape(-1, vector.shape[-1]).mean(0) for vector in vectors], axis=0)
        rows.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    return np.asarray(rows, np.float32)


def stored_rows(datasets: Sequence[SkeletonDataset], feature: str) -> tuple[Array, Any]:
    """(N, D) float32 of a stored feature, the mean of several views of a clip, and (N,) bool which clips have it."""
    rows: list[Array | None] = []
    for dataset in datasets:
        for start in range(0, len(dataset), 512):
            for clip in dataset.read(range(start, min(start + 512, len(dataset)))):
                value = clip.features.get(feature)
                rows.append(
                    None if value is None else np.asarray(value, np.float32).reshape(-1, np.shape(value)[-1]).mean(0)
                )
    first = next((row for row in rows if row is not None), None)
    if first is None:
        raise TrainingError(
            f"{names_of(datasets)}: no clip has the feature {feature!r}; build the dataset with [embed] features"
        )
    return np.stack([np.zeros_like(first) if row is None else row for row in rows]), np.array(
        [row is not None for row in rows]
    )
