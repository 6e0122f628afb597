"""Sizes of ViCLIP's two encoders."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Sizes of the two towers; `context` and `vocabulary` count tokens, `image` and `patch` pixels."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    dim: int
    vocabulary: int = 49408
    context: int = 32


SIZES = {
    "L/14": Architecture(224, 14, 1024, 24, 16, 768, 12, 12, 768),
    "B/16": Architecture(224, 16, 768, 12, 12, 512, 12, 8, 512),
    "tiny": Architecture(32, 16, 64, 2, 2, 32, 2, 2, 32),
}
"""The published sizes, and one with random weights for trying things out."""
