"""Encoders of texts for zero-shot and for methods that learn beside texts, all of them usable without a network.

========= ============================================================================= ==================
name      what it is                                                                    weights
========= ============================================================================= ==================
ngrams    hashed n-grams of characters: says which strings look alike, knows no meaning none
minilm    all-MiniLM-L6-v2, a sentence encoder (384 values)                             `training.evaluate.minilm`
viclip    ViCLIP's text tower, in one space with its videos                             `dataengine weights`
open_clip a text tower of open_clip, in one space with its pictures                     `dataengine weights`
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
    """Texts to vectors. A text gives the same vector, up to rounding, whatever is encoded beside it."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the vectors do: name, options, and the hashes of the weights."""
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
        TrainingError: no such name or option.
        ComponentError, WeightsError, MissingExtraError: what the encoder needs is not here.
    """
    if name not in ENCODERS:
        raise TrainingError(f"unknown text encoder {name!r}{suggestion(name, ENCODERS)}")
    module, _, attribute = ENCODERS[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    if name in TOWERS:
        made: TextEncoder = cls(name, features.create(name, **options))
        return made
    for option in options:
        if option not in inspect.signature(cls).parameters:
            raise TrainingError(
                f"text encoder {name} has no option {option!r}{suggestion(option, inspect.signature(cls).parameters)}"
            )
    made = cls(**options)
    return made


def checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        TrainingError: something else than strings.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TrainingError(f"an encoder takes a list of texts; given {texts!r:.80}")
    return list(texts)


@dataclass(frozen=True)
class NGrams:
    """Hashed n-grams of characters of the words, in small letters, with marks at both ends of a word.

    The hash is CRC-32, whose last bits name the place and whose first bit the sign (Weinberger et al. 2009); counts
    enter as 1 + log. Similar spelling gives similar vectors. A baseline without learning for every encoder that knows
    words.

    Attributes:
        size: D.
        shortest, longest: lengths of the n-grams in characters; words shorter than that count whole.
    """

    size: int = 1024
    shortest: int = 3
    longest: int = 5

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.shortest <= self.longest:
            raise TrainingError(
                f"ngrams wants size >= 1 and 1 <= shortest <= longest; given {self.size}, {self.shortest}, "
                f"{self.longest}"
            )

    @property
    def dim(self) -> int:
        return self.size

    @property
    def fingerprint(self) -> str:
        return f"ngrams 1 {self.size} {self.shortest} {self.longest}"

    def encode(self, texts: Sequence[str]) -> Array:
        found = np.zeros((len(texts), self.size), np.float64)
        for row, text in zip(found, checked(texts)):
            for gram, count in Counter(self._grams(text)).items():
                code = zlib.crc32(gram.encode())
                row[code % self.size] += (1 if code >> 31 else -1) * (1 + np.log(count))
            if not row.any():  # nothing to read, or grams that cancelled out
                row[zlib.crc32(text.encode()) % self.size] = 1
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

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
