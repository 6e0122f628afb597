"""Content of the sample corpus: shots, planted defects, and how each becomes a file with exact joints."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from dataengine.core.types import Float, Frames
from dataengine.media.encode import write_video
from dataengine.rendering import render_clip

NTSC = Fraction(30000, 1001)

KINETICS_ACTIONS: dict[str, str] = {
    "jumping_jack": "jumping jacks",
    "wave": "waving hand",
    "clap": "clapping",
    "squat": "squat",
    "walk": "marching",
    "run": "jogging",
    "kick": "high kick",
    "throw": "throwing ball (not baseball or American football)",
    "punch": "punching person (boxing)",
    "stretch": "stretching arm",
    "lie": "yoga",
}
"""Motion -> the Kinetics-700 class it stands for."""

CAP_ACTIONS: dict[str, str] = {
    "bow": "person_bows",
    "sit": "person_sits_down",
    "pick_up": "person_picks_up_object_from_floor",
    "jump": "person_jumps",
    "clap": "person_claps_hands",
    "wave": "person_waves_at_person",
    "jumping_jack": "person_exercises_with_jumping_jacks",
    "lie": "person_lies_down_on_floor",
    "squat": "person_squats",
    "kick": "person_karate_kicks",
    "punch": "person_punches",
    "stretch": "person_stretches_arms_over_head",
}
"""Motion -> the CAP class it stands for."""


@dataclass(frozen=True)
class Shot:
    """How a piece of video is taken; arguments of `render_clip`, and a name for the truth file."""

    condition: str = "clean"
    people: int = 1
    size: tuple[int, int] = (340, 256)
    fps: Fraction = Fraction(25)
    moving: bool = False

    def render(self, seed: int, motion: str | None, seconds: float) -> RenderedVideo:
        """Render `seconds` of the shot with the first person doing `motion`."""
        made = render_clip(
            seed,
            round(seconds * self.fps),
            fps=float(self.fps),
            size=self.size,
            condition=self.condition,
            num_people=self.people,
            motion=motion,
            camera_motion=self.moving,
        )
        return RenderedVideo(
            made.frames, made.joints, made.head, made.hidden, self.fps, "moving" if self.moving else self.condition
        )


SHOTS: tuple[Shot, ...] = (
    Shot(),
    Shot(fps=NTSC),
    Shot("multi", people=2, fps=Fraction(30)),
    Shot(moving=True),
    Shot("lowres", fps=Fraction(30)),
    Shot("occluded"),
    Shot(size=(256, 340), fps=NTSC),
    Shot("multi", people=3, size=(320, 240)),
    Shot(size=(426, 240), fps=Fraction(24), moving=True),
)
"""Kinds of shots of the Kinetics part, in turn."""

CAP_SHOTS: tuple[Shot, ...] = (
    Shot(size=(256, 340), fps=Fraction(30)),
    Shot("multi", people=2, fps=Fraction(30)),
    Shot(fps=Fraction(30), moving=True),
    Shot("occluded", size=(256, 340), fps=Fraction(30)),
)
"""Kinds of shots of the CAP part, in turn."""


@dataclass(frozen=True)
class RenderedVideo:
    """Pictures with exact joints.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        joints: (T, P, 14, 2) float32 pixels, layout body14. head: (T, P) float32 pixels. hidden: (T, P, 14) bool.
        fps: frames a second of the joints.
    """

    frames: Frames
    joints: Float
    head: Float
    hidden: Any
    fps: Fraction
    condition: str

    def save(self, video: Path, truth: Path, **options: Any) -> None:
        """Write the pictures and the truth about them."""
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, iter(self.frames), self.fps, **options)
        self.save_truth(truth)

    def save_truth(self, truth: Path) -> None:
        truth.parent.mkdir(parents=True, exist_ok=True)
        with truth.open("wb") as file:
            np.savez(
                file,
                joints=self.joints,
                head=self.head,
                hidden=self.hidden,
                fps=np.float64(self.fps),
                condition=np.str_(self.condition),
            )

    def box(self, frame: int, person: int = 0) -> list[float] | None:
        """x0, y0, x1, y1 in pixels around a person's joints, with a margin; None outside the picture."""
        height, width = self.frames.shape[1:3]
        joints, margin = self.joints[frame, person], 0.6 * self.head[frame, person]
        low, high = joints.min(0) - margin, joints.max(0) + margin
        x0, y0, x1, y1 = max(low[0], 0.0), max(low[1], 0.0), min(high[0], width), min(high[1], height)
        return [round(float(v), 2) for v in (x0, y0, x1, y1)] if x0 < x1 and y0 < y1 else None


def joined(videos: list[RenderedVideo]) -> RenderedVideo:
    """Takes one after the other; they show as many people and have one size."""
    parts = [
        np.concatenate([getattr(rendered, name) for rendered in videos])
        for name in ("frames", "joints", "head", "hidden")
    ]
    return RenderedVideo(parts[0], parts[1], parts[2], parts[3], videos[0].fps, videos[0].condition)


def fake_id(seed: int, number: int) -> str:
    """A made-up YouTube id: 11 characters, every fourth one beginning with '-' as real ones may."""
    made = base64.urlsafe_b64encode(blake3.blake3(f"sample corpus {seed} {number}".encode()).digest())[:11].decode()
    return f"-{made[1:]}" if number % 4 == 1 else made


@dataclass(frozen=True)
class Defect:
    """A planted clip.

    Attributes:
        name: what is wrong.
        motion: what its person does, which gives its label.
        expected: the reason by which a build must name it, or 'keep' where a build must cope with it.
        write: (seed, motion, video, truth) writes its files; None for an annotation row without media.
    """

    name: str
    motion: str
    expected: str
    write: Callable[[int, str, Path, Path], None] | None


def _plain(seed: int, motion: str, video: Path, truth: Path) -> None:
    Shot().render(seed, motion, 3).save(video, truth)


def _empty(seed: int, motion: str, video: Path, truth: Path) -> None:
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"")


def _without_index(seed: int, motion: str, video: Path, truth: Path) -> None:
    """The file of a recorder that died: pictures, and no index of them behind."""
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, iter(Shot().render(seed, motion, 1).frames), 25, faststart=False)
    data = video.read_bytes()
    video.write_bytes(data[: data.rindex(b"moov") - 4])


def _uneven(seed: int, motion: str, video: Path, truth: Path) -> None:
    """Variable frame rate: a fifth of the pictures is missing; the truth stays evenly sampled."""
    rendered = Shot().render(seed, motion, 4)
    shown = np.flatnonzero(np.random.default_rng(seed).random(len(rendered.frames)) < 0.8)
    shown = np.union1d(shown, [0, len(rendered.frames) - 1])
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, iter(rendered.frames[shown]), rendered.fps, timestamps=(shown / float(rendered.fps)).tolist())
    rendered.save_truth(truth)


def _turned(seed: int, motion: str, video: Path, truth: Path) -> None:
    """Stored lying on its side, with the tag that tells players to turn it."""
    rendered = Shot(size=(256, 340)).render(seed, motion, 3)
    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, iter(np.rot90(rendered.frames, 1, axes=(1, 2))), rendered.fps, rotation=90)
    rendered.save_truth(truth)


def _short(seed: int, motion: str, video: Path, truth: Path) -> None:
    Shot().render(seed, motion, 0.32).save(video, truth)


def _still(seed: int, motion: str, video: Path, truth: Path) -> None:
    joined([Shot().render(seed, motion, 0.04)] * 75).save(video, truth)


def _cut(seed: int, motion: str, video: Path, truth: Path) -> None:
    joined([Shot().render(seed, motion, 2), Shot().render(seed + 1000, motion, 2)]).save(video, truth)


def _at_the_edge(seed: int, motion: str, video: Path, truth: Path) -> None:
    """Cropped just above the hips of the person: half of the body lies outside the picture."""
    rendered = Shot(size=(426, 340)).render(seed, motion, 3)
    hips, middle = rendered.joints[:, 0, 8:10, 1], float(np.median(rendered.joints[:, 0, :, 0]))
    bottom = int(hips.min() - 2) // 2 * 2
    left = int(np.clip(middle - 120, 0, 426 - 240)) // 2 * 2
    frames = rendered.frames[:, :bottom, left : left + 240]
    joints = rendered.joints - np.array([left, 0], np.float32)
    RenderedVideo(frames, joints, rendered.head, rendered.hidden, rendered.fps, "truncated").save(video, truth)


def _nobody(seed: int, motion: str, video: Path, truth: Path) -> None:
    Shot(people=0).render(seed, None, 3).save(video, truth)


def _nobody_panned(seed: int, motion: str, video: Path, truth: Path) -> None:
    Shot(people=0, moving=True).render(seed, None, 3).save(video, truth)


DEFECTS: tuple[Defect, ...] = (
    Defect("uneven", "jumping_jack", "keep", _uneven),
    Defect("turned", "jumping_jack", "keep", _turned),
    Defect("original", "squat", "keep", _plain),
    Defect("copy", "squat", "duplicate", _plain),
    Defect("empty", "clap", "media_empty", _empty),
    Defect("no_index", "wave", "media_corrupt", _without_index),
    Defect("missing", "run", "media_missing", None),
    Defect("short", "kick", "length", _short),
    Defect("still", "stretch", "motion", _still),
    Defect("cut", "jumping_jack", "camera_cut", _cut),
    Defect("edge", "jumping_jack", "truncation", _at_the_edge),
    Defect("nobody", "run", "no_person", _nobody),
    Defect("nobody_panned", "walk", "no_person", _nobody_panned),
)
"""Planted clips, in the order of their rows: a copy comes after what it copies. A malformed row comes on top."""
