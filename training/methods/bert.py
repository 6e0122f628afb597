"""A BERT encoder of texts (Devlin et al. 2019) that can be trained on, from published safetensors.

Parameters have their published names, so the weights of a run are read by other programs too. The vector of a text is
the mean of its tokens, which says more of a sentence than the first token of a BERT that was not trained on sentences
(Reimers and Gurevych 2019, table 6).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.errors import MissingExtraError, WeightsError
from dataengine.io import weights
from training.backbones.base import read_weights
from training.evaluate import minilm

BATCH = 64
"""Texts that are encoded at once without gradients."""
CONTEXT = 256
"""Maximum number of tokens of a text."""
EPSILON = 1e-12
BASE = "bert-base-uncased"
"""Folder of its files inside the folder of weights, and its name in the cache of transformers."""
FILES = ("model.safetensors", "tokenizer.json", "config.json")


class _Summed(nn.Module):
    """A linear layer, added to what came before, and normed."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, width), nn.LayerNorm(width, EPSILON)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        y: Tensor = self.LayerNorm(before + self.dense(x))
        return y


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        projections = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": _Summed(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _Summed(hidden, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        parts: Any = self.attention["self"]
        query, key, value = (
            parts[name](x).view(n, length, self.heads, -1).transpose(1, 2) for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, mask[:, None, None])
        x = self.attention["output"](mixed.transpose(1, 2).reshape(n, length, width), x)
        y: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return y


class Bert(nn.Module):
    """Token vectors (N, L, D) of token ids (N, L)."""

    def __init__(self, vocabulary: int, positions: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        tables = {
            "word_embeddings": nn.Embedding(vocabulary, width),
            "position_embeddings": nn.Embedding(positions, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": nn.LayerNorm(width, EPSILON),
        }
        self.embeddings = nn.ModuleDict(tables)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(width, heads, hidden) for _ in range(layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens where the mask (N, L) bool is False are filled up: nothing attends to them."""
        tables: Any = self.embeddings
        order = tables["position_embeddings"].weight[: ids.shape[1]]
        x: Tensor = tables["LayerNorm"](
            tables["word_embeddings"](ids) + order + tables["token_type_embeddings"].weight[0]
        )
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, mask)
        return x


class BertText(nn.Module):
    """A BERT with its tokenizer: texts to the means of their tokens.

    Attributes:
        tokenizer_file: tokenizer.json as bytes, part of the checkpoint: a run is loaded without the first files.
    """

    tokenizer_file: Tensor

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        own = {name: value for name, value in sizes.items() if name != "tokenizer"}
        self.bert = Bert(**own)
        self.register_buffer("tokenizer_file", torch.zeros(sizes["tokenizer"], dtype=torch.uint8))
        self._tokenizer: tuple[bytes, Any] | None = None

    @property
    def width(self) -> int:
        """D."""
        return self.sizes["width"]

    @classmethod
    def of_sizes(cls, sizes: Mapping[str, Any]) -> BertText:
        """With first weights of no use; a checkpoint brings them."""
        return cls(sizes)

    @classmethod
    def load(cls, kind: str, folder: str | None = None) -> BertText:
        """From the files of a folder; see `find_folder`.

        Raises:
            MissingExtraError: safetensors or tokenizers is not installed.
            WeightsError: the files are not here, or are those of another network.
        """
        try:
            import safetensors
            import tokenizers  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"the text encoder {kind}", "train") from error
        assert safetensors
        place = minilm.find_folder(folder) if kind == "minilm" else find_folder(folder)
        state = _published(read_weights(place / "model.safetensors"))
        told = (place / "config.json").read_text(encoding="utf-8") if (place / "config.json").is_file() else "{}"
        tokenizer = (place / "tokenizer.json").read_bytes()
        try:
            heads = minilm.HEADS if kind == "minilm" else int(json.loads(told)["num_attention_heads"])
            made = cls({**_sizes(state), "heads": heads, "tokenizer": len(tokenizer)})
            made.bert.load_state_dict(state)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"{place} holds no BERT that can be read: {reason}") from error
        made.tokenizer_file.copy_(torch.from_numpy(np.frombuffer(tokenizer, np.uint8).copy()))
        return made

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (N, L), filled up with 0, and (N, L) bool which are tokens; of at most 256 tokens each."""
        from tokenizers import Tokenizer

        content = bytes(self.tokenizer_file.cpu().numpy())
        if self._tokenizer is None or self._tokenizer[0] != content:
            tokenizer = Tokenizer.from_str(content.decode("utf-8"))
            tokenizer.no_padding()
            tokenizer.enable_truncation(min(CONTEXT, self.sizes["positions"]))
            self._tokenizer = (content, tokenizer)
        encoded = [self._tokenizer[1].encode(text).ids for text in texts]
        ids = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.long)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (own, there) in enumerate(zip(ids, mask)):
            own[: len(encoded[row])] = torch.tensor(encoded[row])
            there[: len(encoded[row])] = True
        return ids, mask

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of N texts."""
        ids, mask = (part.to(self.tokenizer_file.device) for part in self.tokens(texts))
        tokens = self.bert(ids, mask).masked_fill(~mask[..., None], 0)
        mean: Tensor = tokens.sum(1) / mask.sum(1, keepdim=True)
        return mean


def _published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors of a published BERT under its own names: heads left out, old names of norms changed."""
    bare = {key.removeprefix("bert."): value for key, value in state.items()}
    renamed = {
        key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): value
        for key, value in bare.items()
    }
    is_own = lambda key: key.startswith(("embeddings.", "encoder.layer.")) and not key.endswith("position_ids")  # noqa: E731
    return {key: value.float() for key, value in renamed.items() if is_own(key)}


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes that follow from the shapes of tensors."""
    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    layers = {int(key.split(".")[2]) for key in state if key.startswith("encoder.layer.")}
    return {
        "vocabulary": vocabulary,
        "positions": len(state["embeddings.position_embeddings.weight"]),
        "width": width,
        "layers": len(layers),
        "hidden": len(state["encoder.layer.0.intermediate.dense.weight"]),
    }


def find_folder(folder: str | None = None) -> Path:
    """The first folder with the files of a BERT: the one given; else bert-base-uncased in the folder of weights or in
    the cache of transformers.

    Raises:
        WeightsError: none has them.
    """
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    cached = [
        place
        for name in (f"models--google-bert--{BASE}", f"models--{BASE}")
        for place in sorted((cache / name / "snapshots").glob("*"))
    ]
    candidates = [Path(folder).expanduser()] if folder is not None else [weights.folder() / BASE, *cached]
    found = next((place for place in candidates if all((place / file).is_file() for file in FILES)), None)
    if found is None:
        places = " or ".join(str(place) for place in candidates)
        raise WeightsError(
            f"{BASE} is not here: want {', '.join(FILES)} in {places}; save them there, name their folder with "
            'text = { encoder = "bert", folder = "PATH" }, or take text = "minilm"'
        )
    return found
