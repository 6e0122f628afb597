"""Text encoders that are trained along with motions: a method owns the network, and a checkpoint holds all of it.

- bert: bert-base-uncased, or any BERT, from `model.safetensors`, `tokenizer.json` and `config.json` in a folder that is
  named, in the folder of weights, or in the cache of transformers.
- minilm: all-MiniLM-L6-v2, a BERT that was trained on sentences; see `training.evaluate.minilm`.
- open_clip: the text tower of an image model of open_clip, with its weights from `dataengine weights`.
- ngrams: hashed n-grams of characters and one linear layer, which reads spelling alone and begins at random.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.core.errors import MissingExtraError, TrainingError, suggestion
from training.distributed import unit
from training.evaluate.text import NGrams
from training.methods.bert import BATCH, BertText

Texts = tuple[tuple[str, ...], ...]


class TextNetwork(nn.Module):
    """An encoder of texts (N,) to vectors (N, D), and the texts of the classes that are learnt from.

    Attributes:
        encoder: the network, of one of the kinds of `ENCODERS`.
        class_texts: K classes with one text or more each.
    """

    def __init__(self, kind: str, encoder: BertText | NGramText | ClipText, class_texts: Sequence[Sequence[str]] = ()):
        super().__init__()
        self.kind, self.encoder = kind, encoder
        self.class_texts: Texts = tuple(tuple(texts) for texts in class_texts)

    @property
    def width(self) -> int:
        """D."""
        return self.encoder.width

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of it: `of_facts` makes the same network of them, with other weights."""
        return {"kind": self.kind, "sizes": self.encoder.sizes, "class_texts": [list(t) for t in self.class_texts]}

    @staticmethod
    def of_facts(facts: Mapping[str, Any]) -> TextNetwork:
        """The network that `facts` describe; its weights and its tokenizer come from the checkpoint."""
        kind = str(facts["kind"])
        return TextNetwork(kind, ENCODERS[kind].of_sizes(facts["sizes"]), facts["class_texts"])

    @staticmethod
    def create(kind: str, class_texts: Sequence[Sequence[str]] = (), **options: Any) -> TextNetwork:
        """A network with its published first weights.

        Args:
            kind: one of `ENCODERS`.
            class_texts: of the classes.
            options: of the kind: `folder` of bert and minilm, `width` of ngrams, the options of
                `dataengine.features.open_clip` of open_clip.

        Raises:
            TrainingError: an unknown kind or option.
            MissingExtraError, WeightsError: what it needs is not here.
        """
        if kind not in ENCODERS:
            raise TrainingError(f"no text encoder {kind!r} is trained along{suggestion(kind, ENCODERS)}")
        parameters = inspect.signature(ENCODERS[kind].load).parameters
        for option in options:
            if option not in parameters and "options" not in parameters:
                hint = suggestion(option, [name for name in parameters if name != "kind"])
                raise TrainingError(f"text encoder {kind} has no option {option!r}{hint}")
        return TextNetwork(kind, ENCODERS[kind].load(kind, **options), class_texts)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of unit length; equal texts are encoded once."""
        different = list(dict.fromkeys(texts))
        rows = unit(self.encoder(different))
        where = {text: number for number, text in enumerate(different)}
        chosen: Tensor = rows[torch.tensor([where[text] for text in texts], device=rows.device)]
        return chosen

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """As `forward`, some at a time and without gradients."""
        parts = [self(texts[begin : begin + BATCH]) for begin in range(0, len(texts), BATCH)]
        return torch.cat(parts)


class NGramText(nn.Module):
    """Hashed n-grams of a text, and a linear layer that learns which of them matter."""

    def __init__(self, width: int = 256, size: int = 1024) -> None:
        super().__init__()
        self.width, self.grams = width, NGrams(size)
        self.layer = nn.Linear(size, width)

    @property
    def sizes(self) -> dict[str, int]:
        return {"width": self.width, "size": self.grams.size}

    @classmethod
    def of_sizes(cls, sizes: Mapping[str, Any]) -> NGramText:
        return cls(**sizes)

    @classmethod
    def load(cls, kind: str, width: int = 256) -> NGramText:
        return cls(width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(N, width) of N texts."""
        rows: Tensor = self.layer(torch.from_numpy(np.asarray(self.grams.encode(texts))).to(self.layer.weight))
        return rows


class ClipText(nn.Module):
    """The text tower of a model of open_clip, with the tokenizer that open_clip has under the model's name.

    Attributes:
        sizes: open_clip's configuration of the model, and the name of its tokenizer.
        width: D.
    """

    def __init__(self, sizes: Mapping[str, Any], model: nn.Module, tokenize: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        self.sizes, self.width = dict(sizes), int(sizes["config"]["embed_dim"])
        self.model, self._tokenize = model, tokenize
        for name, parameter in model.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                parameter.requires_grad_(False)  # the temperature is the method's own
        model.visual = nn.Identity()  # pictures are not encoded here

    @classmethod
    def of_sizes(cls, sizes: Mapping[str, Any]) -> ClipText:
        """Raises MissingExtraError without open_clip."""
        try:
            import open_clip
        except ImportError as error:
            raise MissingExtraError("the text encoder open_clip", "clip") from error
        config = dict(sizes["config"])
        made = (open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP)(**config)
        return cls(sizes, made, open_clip.get_tokenizer(str(sizes["tokenizer"])))

    @classmethod
    def load(cls, kind: str, **options: Any) -> ClipText:
        from dataengine import features
        from dataengine.features.open_clip import OpenClip, OpenClipSession

        component = features.create(kind, **{**options, "precision": "float32"})
        assert isinstance(component, OpenClip)
        session = component.load("cpu")
        assert isinstance(session, OpenClipSession)
        sizes = {"config": component.model_config(), "tokenizer": component.open_clip_name}
        return cls(sizes, session.model.train().requires_grad_(True), session.tokenizer)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(N, width) of N texts."""
        model: Any = self.model
        tokens = self._tokenize(list(texts)).to(next(model.parameters()).device)
        rows: Tensor = model.encode_text(tokens, normalize=False)
        return rows


ENCODERS: dict[str, Any] = {"bert": BertText, "minilm": BertText, "open_clip": ClipText, "ngrams": NGramText}
"""Kinds by name."""
