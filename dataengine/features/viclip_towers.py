"""The networks of ViCLIP on open_clip's building blocks, with the parameter names of the published files (imports
torch)."""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from open_clip.tokenizer import SimpleTokenizer, re
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer, Transformer
from torch import Tensor, nn

from dataengine.core.errors import WeightsError
from dataengine.features.viclip_sizes import SIZES, Architecture

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
LISTED = 4
"""How many tensors a message names."""


class VideoTower(nn.Module):
    """A CLIP image transformer whose attention spans the patches of all frames.

    Patches carry the position in their picture, shared by the frames, plus the position in time; one class
    token stands for the clip.
    """

    def __init__(self, a: Architecture, num_frames: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(a.width))
        self.positional_embedding = nn.Parameter(torch.empty((a.image // a.patch) ** 2 + 1, a.width))
        self.temporal_positional_embedding = nn.Parameter(torch.empty(1, num_frames, a.width))
        self.proj = nn.Parameter(torch.empty(a.width, a.dim))
        self.conv1 = nn.Conv3d(3, a.width, (1, a.patch, a.patch), (1, a.patch, a.patch), bias=False)
        self.ln_pre = LayerNorm(a.width)
        self.transformer = Transformer(a.width, a.layers, a.heads, act_layer=QuickGELU)
        self.ln_post = LayerNorm(a.width)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, D) features, not normalised, of (N, T, 3, H, W) normalised frames."""
        patches = self.conv1(frames.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
        patches = patches + self.positional_embedding[1:] + self.temporal_positional_embedding[0, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(frames), 1, -1)
        tokens = self.transformer(self.ln_pre(torch.cat([first, patches.flatten(1, 2)], dim=1)))
        found: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return found


class Towers(nn.Module):
    """Both towers, and the temperature that they were trained with."""

    def __init__(self, a: Architecture, num_frames: int) -> None:
        super().__init__()
        self.temp = nn.Parameter(torch.empty(()))
        self.vision_encoder = VideoTower(a, num_frames)
        self.text_encoder = TextTransformer(
            a.context, a.vocabulary, a.text_width, a.text_heads, a.text_layers, output_dim=a.dim, act_layer=QuickGELU
        )


def build(a: Architecture, num_frames: int) -> Towers:
    """The networks without memory for their weights; `fill` gives them some."""
    with torch.device("meta"):
        return Towers(a, num_frames)


@functools.cache
def _tokenizer() -> Any:
    """CLIP's tokenizer as published with ViCLIP: open_clip's, but for how the start and end tokens are written.

    A text with one of them in it is the only one for which the two differ.
    """
    tokenizer = SimpleTokenizer()
    own = dict(zip(SPECIAL, (tokenizer.sot_token_id, tokenizer.eot_token_id)))
    theirs = [text for text, number in tokenizer.encoder.items() if number in own.values()]
    rest = tokenizer.pat.pattern.removeprefix("|".join(theirs))
    tokenizer.pat = re.compile("|".join(map(re.escape, SPECIAL)) + rest, re.IGNORECASE)
    tokenizer.encoder.update(own)
    tokenizer.cache = {text: text for text in SPECIAL}
    return tokenizer


def tokens(texts: list[str], context: int) -> Tensor:
    """(N, context) token ids of CLIP's vocabulary; a longer text is cut and ends with the end token."""
    found: Tensor = _tokenizer()(texts, context_length=context)
    return found


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file: a .safetensors, or a .pth that holds them at its top or under "model".

    Raises:
        WeightsError: the file is damaged, holds other things than tensors, or none.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds Python objects beside tensors (or is damaged), and those are never run; "
            f"give a file with tensors only, such as a .safetensors: {str(error).splitlines()[0]:.200}"
        ) from error
    except (OSError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path.name} cannot be read as weights: {str(error).splitlines()[0]:.200}") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path.name} holds no tensors at its top or under 'model'")
    return state


def fill(model: Towers, state: Mapping[str, Any], what: str) -> None:
    """Give the networks their weights: every tensor of the same name and shape, none missing, none left over.

    Args:
        what: what is being read, for the message.

    Raises:
        WeightsError: names the tensors that are missing, not expected, or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    other = [
        f"{key} {given[key]}, wanted {wanted[key]}" for key in wanted if key in given and given[key] != wanted[key]
    ]
    lists = {
        "missing": list(wanted.keys() - given.keys()),
        "not expected": list(given.keys() - wanted.keys()),
        "of another shape": other,
    }
    wrong = [f"{len(names)} {kind}: {_some(names)}" for kind, names in lists.items() if names]
    if wrong:
        raise WeightsError(f"cannot read {what}: tensors {'; '.join(wrong)}{_likely(given)}")
    model.load_state_dict(
        {key: torch.as_tensor(np.asarray(v) if isinstance(v, np.ndarray) else v) for key, v in state.items()},
        assign=True,
    )
    model.text_encoder.attn_mask = model.text_encoder.build_causal_mask()


def fused_attention(model: Towers) -> Towers:
    """Have every attention computed in one fused kernel.

    PyTorch's own shortcut for attention in evaluation mode writes out all weights of all tokens; measured on
    a clip of B/16 on one core the fused kernel takes two thirds of its time. The shortcut is left when the
    module counts as training, which changes nothing else: there is no dropout.
    """
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.train()
    return model


def _some(names: list[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:LISTED]) + (", ..." if len(listed) > LISTED else "")


def _likely(given: Mapping[str, tuple[int, ...]]) -> str:
    """A hint when the file is one of another published size."""
    projection = given.get("vision_encoder.proj")
    sizes = [name for name, a in SIZES.items() if name != "tiny" and projection == (a.width, a.dim)]
    return f" (its sizes are those of {sizes[0]!r})" if sizes else ""
