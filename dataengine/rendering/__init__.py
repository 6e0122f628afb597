"""Renders articulated people with exact joints: numpy and OpenCV only, deterministic from a seed."""

from dataengine.rendering.clip import CONDITIONS, RenderedClip, render_clip
from dataengine.rendering.motion import MOTIONS

__all__ = ["CONDITIONS", "MOTIONS", "RenderedClip", "render_clip"]
