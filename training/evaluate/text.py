"""Text encoders for zero-shot and for methods that learn with texts. All work without network access.

========= ============================================================================= ==================
name      encoder                                                                       weights
========= ============================================================================= ==================
ngrams    hashed n-grams of characters: compares the spelling of texts, not the meaning none
minilm    all-MiniLM-L6-v2, a sentence encoder (384 values)                             `training.evaluate.minilm`
viclip    the text tower of ViCLIP, in one space with videos                            `dataengine weights`
open_clip a text tower of open_clip, in one space with images                           `dataengine weights`
========= ============================================================================= ==================
"""

from __future__ import annotations

import importlib
import inspect
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dataengine import features
from dataengine.core.errors import TrainingError, suggestion
from training.data.types import Array

ENCODERS = {
    "ngrams": "training.evaluate.text:NGrams",
    "minilm": "training.evaluate.minilm:MiniLM",
    "viclip": "training.evaluate.text:Tower",
    "open_clip": "training.evaluate.text:Tower",
}
TOWERS = ("viclip", "open_clip")


@runtime_checkable
class TextEncoder(Protocol):
    """Encodes texts. The vector of a text does not depend, up to rounding, on the other texts of a call."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the vectors: name, options, and the hashes of the weights."""
        ...

    def encode(self, texts: Sequence[str]) -> Array:
        """(N, D) float32 of unit length for N texts."""
        ...


def create(name: str, **options: Any) -> TextEncoder:
    """The encoder called `name`.

    Args:
        name: one of `ENCODERS`.
        options: of `NGrams`, of `MiniLM`, or of the component of `dataengine.features` of that name.

    Raises:
        TrainingError: unknown name or option.
        ComponentError, WeightsError, MissingExtraError: something that the encoder needs is absent.
    """
    if name not in ENCODERS:
        raise TrainingError(f"unknown text encoder {name!r}{suggestion(name, ENCODERS)}")
    module, _, attribute = ENCODERS[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    if name in TOWERS:
        encoder: TextEncoder = cls(name, features.create(name, **options))
        return encoder
    for option in options:
        if option not in inspect.signature(cls).parameters:
            raise TrainingError(
                f"text encoder {name} has no option {option!r}{suggestion(option, inspect.signature(cls).parameters)}"
            )
    encoder = cls(**options)
    return encoder


def checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        TrainingError: an element is no string.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TrainingError(f"an encoder takes a list of texts; given {texts!r:.80}")
    return list(texts)


@dataclass(frozen=True)
class NGrams:
    """Hashed n-grams of the characters of lower-case words, with a mark at both ends of a word.

    The hash is CRC-32: the last bits are the index and the first bit is the sign (Weinberger et al. 2009). A count n
    enters as 1 + log n. Similar spelling gives similar vectors. NGrams is a baseline without learning for the learnt
    encoders.

    Attributes:
        size: D.
        shortest, longest: lengths of the n-grams in characters. Every word also counts as a whole.
    """

    size: int = 1024
    shortest: int = 3
    longest: int = 5

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.shortest <= self.longest:
            raise TrainingError(
                f"ngrams needs size >= 1 and 1 <= shortest <= longest; given {self.size}, {self.shortest}, "
                f"{self.longest}"
            )

    @property
    def dim(self) -> int:
        return self.size

    @property
    def fingerprint(self) -> str:
        return f"ngrams 1 {self.size} {self.shortest} {self.longest}"

    def encode(self, texts: Sequence[str]) -> Array:
        vectors = np.zeros((len(texts), self.size), np.float64)
        for row, text in zip(vectors, checked(texts)):
            for gram, count in Counter(self._grams(text)).items():
                code = zlib.crc32(gram.encode())
                row[code % self.size] += (1 if code >> 31 else -1) * (1 + np.log(count))
            if not row.any():  # no n-grams, or n-grams that cancelled out
                row[zlib.crc32(text.encode()) % self.size] = 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _grams(self, text: str) -> list[str]:
        words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
        marked = [f"<{word}>" for word in words]
        lengths = range(self.shortest, self.longest + 1)
        return marked + [word[n : n + k] for word in marked for k in lengths for n in range(len(word) - k + 1)]


@dataclass(frozen=True)
class Tower:
    """The text tower of a component of `dataengine.features`."""

    name: str
    component: features.Features

    @property
    def dim(self) -> int:
        return self.component.dim

    @property
    def fingerprint(self) -> str:
        return f"{self.component!r} {sorted(self.component.weights().items())}"

    def encode(self, texts: Sequence[str]) -> Array:
        return np.asarray(self.component.encode_text(checked(texts)), np.float32)
