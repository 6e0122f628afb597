"""Rendered clips: people, what they do, and where their joints are, from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.core.errors import ComponentError, suggestion
from dataengine.core.types import Bool, Float, Frames
from dataengine.rendering.body import HEAD, NUM_JOINTS, ROOT, Appearance, Body, Pose3D, pose
from dataengine.rendering.motion import MOTIONS, angles
from dataengine.rendering.paint import Painter, View
from dataengine.rendering.scene import Camera, Occluder, Recording, draw_background, draw_camera, draw_occluders

CONDITIONS: tuple[str, ...] = ("mixed", "clean", "occluded", "lowres", "multi")
"""What makes a clip hard; `mixed` draws a bit of everything and is meant for training."""


@dataclass(frozen=True)
class RenderedClip:
    """A rendered clip and the truth about it.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        joints: (T, P, 14, 2) float32 pixels in the layout `body14`; they may lie outside the picture.
        head: (T, P) float32 pixels, the length from nose to neck seen square on: the unit of PCKh.
        hidden: (T, P, 14) bool, the joint is covered by an occluder, another person or the person's own body.
        motions: what each of the P people does.
        times: (T,) float64 seconds.
    """

    frames: Frames
    joints: Float
    head: Float
    hidden: Bool
    motions: tuple[str, ...]
    times: Float


@dataclass(frozen=True)
class _Person:
    painter: Painter
    pose: Pose3D
    view: View
    motion: str


def render_clip(
    seed: int,
    num_frames: int,
    *,
    fps: float = 25.0,
    size: tuple[int, int] = (340, 256),
    condition: str = "mixed",
    num_people: int | None = None,
    motion: str | None = None,
    camera_motion: bool = False,
    irregular: bool = False,
) -> RenderedClip:
    """Render people with exact joints; the same arguments give the same bytes.

    The same seed shows the same people in every condition but `multi` (and whenever `num_people`
    is given).

    Args:
        seed: chooses everything that is not given.
        num_frames: T.
        fps: frames a second of an evenly sampled clip.
        size: (width, height) pixels.
        condition: one of `CONDITIONS`.
        num_people: how many; None draws 1 (2 or 3 for `multi`, 1 to 3 for `mixed`); 0 gives the background alone.
        motion: what the first person does, one of `MOTIONS`; None draws it.
        camera_motion: the camera pans, zooms and shakes.
        irregular: random steps of 0.15 to 0.6 s between frames instead of 1 / fps; for training.

    Raises:
        ComponentError: unknown condition or motion, or an impossible number.
    """
    _check(num_frames, fps, size, condition, num_people, motion)
    scene_rng, people_rng, record_rng = (np.random.default_rng((seed, stream)) for stream in range(3))
    t = np.cumsum(scene_rng.uniform(0.15, 0.6, num_frames)) if irregular else np.arange(num_frames) / fps
    count = _count(scene_rng, condition) if num_people is None else num_people
    camera = draw_camera(scene_rng, t, size, count, camera_motion)
    people = _people(people_rng, t, size, camera, count, motion)
    joints = (
        np.stack([p.view.points[:, :NUM_JOINTS] for p in people], 1)
        if people
        else np.zeros((num_frames, 0, NUM_JOINTS, 2))
    )
    before = []
    if people and (condition == "occluded" or (condition == "mixed" and record_rng.random() < 0.3)):
        before = draw_occluders(record_rng, joints[num_frames // 2])
    moves = camera.moves(size)
    background = draw_background(scene_rng, size)
    recording = Recording.draw(record_rng, size, condition)
    frames = _paint(background, people, before, recording, moves, size, record_rng, camera_motion)
    heads = [np.linalg.norm(p.pose.points[:, 0] - p.pose.points[:, 1], axis=-1) * p.view.scale[:, 1] for p in people]
    head = np.stack(heads, 1) if people else np.zeros((num_frames, 0))
    hidden = _hidden(people, before, moves)
    return RenderedClip(
        frames, joints.astype(np.float32), head.astype(np.float32), hidden, tuple(p.motion for p in people), t
    )


def _check(
    num_frames: int, fps: float, size: tuple[int, int], condition: str, num_people: int | None, motion: str | None
) -> None:
    if condition not in CONDITIONS:
        raise ComponentError(f"unknown condition {condition!r}{suggestion(condition, CONDITIONS)}")
    if motion is not None and motion not in MOTIONS:
        raise ComponentError(f"unknown motion {motion!r}{suggestion(motion, MOTIONS)}")
    if num_frames < 1 or fps <= 0 or min(size) < 16 or (num_people is not None and not 0 <= num_people <= 8):
        raise ComponentError(
            f"cannot render {num_frames} frames at {fps}/s, {size[0]}x{size[1]}, {num_people} people: "
            "give frames >= 1, fps > 0, sides >= 16, 0 to 8 people"
        )


def _count(rng: np.random.Generator, condition: str) -> int:
    draw = rng.random()
    if condition == "multi":
        return 2 if draw < 0.6 else 3
    if condition == "mixed":
        return 1 if draw < 0.55 else 2 if draw < 0.85 else 3
    return 1


def _people(
    rng: np.random.Generator, t: Float, size: tuple[int, int], camera: Camera, count: int, motion: str | None
) -> list[_Person]:
    half = -camera.eye[2] * size[0] / 2 / camera.focal[0]
    slots = rng.permutation(count)
    light = rng.uniform(0, 2 * np.pi)
    towards, shade = np.array((np.cos(light), -abs(np.sin(light)))), rng.uniform(0.12, 0.38)
    out = []
    for i in range(count):
        if count == 1:
            position = (rng.uniform(-0.4, 0.4) * half, rng.uniform(-0.4, 0.4))
        else:
            position = (((slots[i] + 0.5) / count * 2 - 1) * half * 0.75 + rng.normal(0, 0.15), rng.uniform(-0.7, 1.2))
        named = motion if motion is not None and i == 0 else MOTIONS[rng.choice(len(MOTIONS), p=_SHARES)]
        body, appearance = Body.draw(rng), Appearance.draw(rng)
        posed = pose(body, angles(named, t, rng), position, float(rng.uniform(0, 2 * np.pi)))
        depth = camera.depth(posed.points)
        view = View(
            camera.project(posed.points),
            depth,
            camera.focal[:, None] / depth,
            camera.project,
            camera.eye,
            camera.axes,
            towards,
        )
        out.append(_Person(Painter(body, appearance, posed, view, shade), posed, view, named))
    return out


_SHARES = np.array([1.0 if m not in ("free", "lie") else 4.0 if m == "free" else 0.8 for m in MOTIONS])
_SHARES /= _SHARES.sum()


def _paint(
    background: np.ndarray,
    people: list[_Person],
    before: list[Occluder],
    recording: Recording,
    moves: Float,
    size: tuple[int, int],
    rng: np.random.Generator,
    moving: bool,
) -> Frames:
    """Paint all frames: background, shadows, all parts of all people by falling depth, occluders, recording."""
    w, h = size
    parts = [part for person in people for part in person.painter.parts()]
    order = (
        np.argsort(-np.stack([part.depth for part in parts], 1), axis=1, kind="stable")
        if parts
        else np.zeros((len(moves), 0), int)
    )
    dark = tuple((background[3 * h // 4 :].mean((0, 1)) * 0.5).tolist())
    shadows = bool(rng.random() < 0.7)
    frames = np.empty((len(moves), h, w, 3), np.uint8)
    for t, move in enumerate(moves):
        picture = (
            cv2.warpAffine(background, move, (w, h), borderMode=cv2.BORDER_REFLECT) if moving else background.copy()
        )
        for person in people if shadows else ():
            _shadow(picture, person, t, dark)
        for i in order[t]:
            for stroke in parts[i].strokes:
                stroke(picture, t)
        for occluder in before:
            occluder.draw(picture, move)
        frames[t] = recording.apply(picture, rng)
    return frames


def _shadow(picture: np.ndarray, person: _Person, t: int, dark: tuple[float, ...]) -> None:
    ground = person.pose.points[:, ROOT] * np.array((1.0, 0.0, 1.0))
    x, y = person.view.project(ground[:, None])[t, 0]
    r = 0.3 * person.view.scale[t, ROOT]
    cv2.ellipse(picture, (int(x), int(y)), (max(1, int(r)), max(1, int(0.3 * r))), 0, 0, 360, dark, -1, cv2.LINE_AA)


def _hidden(people: list[_Person], before: list[Occluder], moves: Float) -> Bool:
    """(T, P, 14): covered by an occluder, or a limb passes clearly nearer to the camera over the joint."""
    num_frames = len(moves)
    hidden = np.zeros((num_frames, len(people), NUM_JOINTS), np.bool_)
    for i, person in enumerate(people):
        joints, depth = person.view.points[:, :NUM_JOINTS], person.view.depth[:, :NUM_JOINTS]
        for t in range(num_frames if before else 0):
            for occluder in before:
                hidden[t, i] |= occluder.covers(joints[t], moves[t])
        for other in people:
            for a, b, radius in other.painter.limbs():
                covered = _covered(joints, depth, other.view, a, b, radius)
                if other is person:
                    covered[
                        :, [j for j in range(NUM_JOINTS) if j in (a, b) or (j == 0 and a == HEAD and b == HEAD)]
                    ] &= False
                    if a == b == HEAD:  # the face hides nothing of itself; the back of the head hides the nose
                        covered[:, 0] = depth[:, 0] > person.view.depth[:, HEAD] + 0.4 * radius
                hidden[:, i] |= covered
    return hidden


def _covered(joints: Float, depth: Float, view: View, a: int, b: int, radius: float) -> Bool:
    """(T, J) whether the limb a-b of a view lies over the joints and nearer by more than its radius."""
    p, q = view.points[:, None, a], view.points[:, None, b]
    axis = q - p
    share = np.clip(((joints - p) * axis).sum(-1) / np.maximum((axis * axis).sum(-1), 1e-9), 0, 1)
    apart = np.linalg.norm(joints - p - share[..., None] * axis, axis=-1)
    nearer = depth - (view.depth[:, None, a] * (1 - share) + view.depth[:, None, b] * share)
    return np.asarray((apart < radius * view.scale[:, None, a]) & (nearer > radius + 0.03))
