"""Lifting: how far joints in space are from the truth, on motion capture and on a real clip of four cameras.

Motion capture: the 287 sequences of the HDM05 subset at 30 frames per second, subjects bd, bk and dg for learning, mm
and tr held out. Every sequence is seen by a random camera per seed: picture of 1000 x 1000 pixels, focal length 1145,
distance 4 to 6 m, any azimuth, elevation -5 to 25 degrees, the person within 60 cm of the middle of the picture.
Pixels get noise of 1 % of the person's height (4 pixels or so), and one joint in twenty is missing. The head point is
the end of the head bone. (a) The shipped network, which has seen nothing of HDM05; (b) the same network, a network of
the same depth on single frames, and ridge regression on single frames, learned on the subjects for learning with other
cameras. Errors are means over the 13 joints of body13 and all frames, root at the middle of the hips, in millimetres.

Four cameras: the overlay `cpu` sees one person on a treadmill in every camera alone (data of Pose2Sim, as in
`multiview`); the fused joints of all four are triangulated. Joints lifted from one camera are compared with that after
a rigid fit (turn and shift, no scale) of every frame, over the twelve body joints, beside mediapipe's own world
landmarks of the same frames. Its joints and ours are not quite the same points of the body, nor are the triangulated.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from harness import main
from multiview import OFFSETS, SHARED, cameras, look, triangulated
from numpy.typing import NDArray
from seeds import WORK, seeds, spread

from dataengine.core import registry
from dataengine.core.skeletons import BODY12, COMMON, convert, skeleton
from dataengine.experts.isolation.process import script_command
from dataengine.fusion.score_calibration import ScoreCalibration, built_in
from dataengine.lift.bones import constant_bones
from dataengine.lift.errors import aligned, joint_errors
from dataengine.lift.inputs import CHANNELS, HIPS, padded, person_features
from dataengine.lift.network import TemporalNetwork
from dataengine.lift.temporal import PADDING, Temporal

Array = NDArray[Any]
UNIT = 0.0254 / 0.45
"""Metres per unit of the skeletons of HDM05."""
SIZE = (1000, 1000)
FOCAL = 1145.0
FRAMES = 48
PROTOCOL = {"steps": 600, "clips": 32, "frames": FRAMES, "rate": 2e-3, "channels": 160, "version": 1}
NETWORKS = {"temporal network": (3, 3, 3), "single-frame network": (1, 1, 1)}
RIDGE = "ridge on one frame"
SHIPPED = "shipped network"
BODY = skeleton(COMMON).indices(BODY12)


@dataclass(frozen=True)
class Captures:
    """Sequences (T, 13, 3) in metres, y up, and whether the subject is for learning."""

    sequences: list[Array]
    train: Array


def hdm05() -> Captures:
    """The HDM05 subset in the layout body13."""
    data = np.load(SHARED / "skeleton" / "hdm05_subset.npz", allow_pickle=False)
    joints = convert(data["joints"].astype(np.float64) * UNIT, None, "hdm31", COMMON)[0]
    return Captures([joints[a:b] for a, b in zip(data["offsets"], data["offsets"][1:])], data["train"])


def seen_by(rng: np.random.Generator, points: Array) -> tuple[Array, Array, Array]:
    """A sequence before a random camera: joints in its axes from the middle of the hips (T, 13, 3) metres, pixels
    (T, 13, 2) with noise, and which joints are seen (T, 13)."""
    centred = points - points[len(points) // 2, HIPS].mean(0)
    turn, tilt = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(-5, 25))
    c, s = np.cos(turn), np.sin(turn)
    axes = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.diag([1.0, -1.0, -1.0])
    c, s = np.cos(tilt), np.sin(tilt)
    space = centred @ axes @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
    place = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.3), rng.uniform(4, 6)])
    whole = space + place
    pixels = FOCAL * whole[..., :2] / whole[..., 2:] + np.array(SIZE) / 2
    height = FOCAL * 1.7 / place[2]
    pixels += rng.normal(0, 0.01 * height, pixels.shape)
    return space - space[:, HIPS].mean(1, keepdims=True), pixels, rng.random(pixels.shape[:2]) > 0.05


def draw(rng: np.random.Generator, captures: Captures, clips: int) -> tuple[Array, Array]:
    """Windows of features (8 N, 27, 42) around frames of N random parts of sequences for learning, and the joints of
    those frames (8 N, 39), float32."""
    numbers = np.flatnonzero(captures.train)
    features, targets = [], []
    for number in rng.choice(numbers, clips):
        sequence = captures.sequences[number]
        begin = rng.integers(0, max(len(sequence) - FRAMES, 0) + 1)
        space, pixels, seen = seen_by(rng, sequence[begin : begin + FRAMES])
        whole = padded(person_features(pixels, seen, SIZE), PADDING, PADDING)
        at = rng.integers(0, len(space), 8)
        features.append(whole[at[:, None] + np.arange(2 * PADDING + 1)])
        targets.append(space[at].reshape(8, -1))
    return np.concatenate(features), np.concatenate(targets).astype(np.float32)


def learn(captures: Captures, widths: tuple[int, ...], seed: int, protocol: dict[str, Any]) -> TemporalNetwork:
    """A network learned on the subjects for learning."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    network = TemporalNetwork(CHANNELS, 39, widths, protocol["channels"], 0.1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=protocol["rate"], weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, protocol["rate"], protocol["steps"])
    extra = PADDING - network.padding[0]
    network.train()
    for step in range(protocol["steps"]):
        drawn = draw(np.random.default_rng((seed, step)), captures, protocol["clips"])
        features, targets = (torch.as_tensor(array) for array in drawn)
        made = network.one_frame(features[:, extra : features.shape[1] - extra]).reshape(-1, 13, 3)
        made = made - made[:, HIPS].mean(1, keepdim=True)
        loss = torch.linalg.vector_norm(made - targets.reshape(made.shape), dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def ridge(captures: Captures, seed: int, protocol: dict[str, Any]) -> Array:
    """(43, 39) weights of ridge regression on the features of one frame, from a quarter of the frames that networks
    get."""
    left, right = np.zeros((CHANNELS + 1,) * 2), np.zeros((CHANNELS + 1, 39))
    for step in range(max(protocol["steps"] // 4, 1)):
        features, targets = draw(np.random.default_rng((seed, step)), captures, protocol["clips"])
        x = features[:, PADDING].astype(np.float64)
        x = np.concatenate([x, np.ones((len(x), 1))], 1)
        left, right = left + x.T @ x, right + x.T @ targets.reshape(-1, 39)
    return np.asarray(np.linalg.solve(left + 1e-4 * np.trace(left) / len(left) * np.eye(len(left)), right))


Lift = Callable[[Array, Array], Array]


def by_network(network: TemporalNetwork) -> Lift:
    """Pixels (T, 13, 2) and seen (T, 13) to joints (T, 13, 3) by a network."""

    def lift(pixels: Array, seen: Array) -> Array:
        given = padded(person_features(pixels, seen, SIZE), *network.padding)
        with torch.inference_mode():
            return np.asarray(network(torch.as_tensor(given[None]))[0].numpy().reshape(-1, 13, 3), np.float64)

    return lift


def by_ridge(weights: Array) -> Lift:
    """The same by ridge regression."""

    def lift(pixels: Array, seen: Array) -> Array:
        x = person_features(pixels, seen, SIZE).astype(np.float64)
        return np.asarray((np.concatenate([x, np.ones((len(x), 1))], 1) @ weights).reshape(-1, 13, 3))

    return lift


def measures(captures: Captures, lift: Lift, seed: int, bones: bool = False) -> dict[str, Any]:
    """Errors on the held-out subjects in millimetres, and the error of every sequence."""
    every: dict[str, list[Array]] = {name: [] for name in ("mpjpe", "p_mpjpe", "n_mpjpe", "velocity")}
    each = []
    for number in np.flatnonzero(~captures.train):
        space, pixels, seen = seen_by(np.random.default_rng((seed, 1_000_000, int(number))), captures.sequences[number])
        made = lift(pixels, seen)
        made = constant_bones(made) if bones else made
        made = made - made[:, HIPS].mean(1, keepdims=True)
        scale = (made * space).sum((1, 2), keepdims=True) / (made * made).sum((1, 2), keepdims=True)
        found = {
            "mpjpe": joint_errors(made, space), "p_mpjpe": joint_errors(aligned(made, space), space),
            "n_mpjpe": joint_errors(scale * made, space),
            "velocity": joint_errors(np.diff(made, axis=0), np.diff(space, axis=0)),
        }  # fmt: skip
        for name, values in found.items():
            every[name].append(1000 * values.mean(-1))
        each.append(round(float(every["mpjpe"][-1].mean()), 2))
    return {name: round(float(np.concatenate(values).mean()), 2) for name, values in every.items()} | {"each": each}


def learned(seed: int, protocol: dict[str, Any]) -> dict[str, Any]:
    """Errors of what is learned here, with the cameras of one seed."""
    captures, found = hdm05(), {}
    for name, widths in NETWORKS.items():
        found[name] = measures(captures, by_network(learn(captures, widths, seed, protocol)), seed)
    found[RIDGE] = measures(captures, by_ridge(ridge(captures, seed, protocol)), seed)
    return {"found": found}


def zero_shot(seed: int) -> dict[str, Any]:
    """Errors of the shipped network, with the same cameras."""
    with Temporal().load() as session:

        def lift(pixels: Array, seen: Array) -> Array:
            kept = np.where(seen[..., None], pixels, np.nan)
            return np.asarray(session.lift(kept, seen.astype(np.float32), COMMON, SIZE).keypoints3d, np.float64)

        captures = hdm05()
        bones = measures(captures, lift, seed, bones=True)
        return {SHIPPED: measures(captures, lift, seed), f"{SHIPPED}, constant bones": bones}


def difference(runs: list[dict[str, Any]], one: str, other: str) -> list[float]:
    """Mean and 95 % interval of the error of one less that of another, over held-out sequences drawn with
    replacement (errors of a sequence are averaged over the seeds first)."""
    apart = np.mean([np.subtract(run["found"][one]["each"], run["found"][other]["each"]) for run in runs], 0)
    draws = np.random.default_rng(0).integers(len(apart), size=(2000, len(apart)))
    return [round(float(v), 2) for v in (apart.mean(), *np.percentile(apart[draws].mean(1), (2.5, 97.5)))]


def overlay(names: tuple[str, ...], coords: Array, scores: Array) -> tuple[Array, Array]:
    """The poses of a camera as the overlay `cpu` fuses them: (T, 13, 2) pixels and scores (T, 13)."""
    used = [n for n in names if n != "mediapipe"]
    rows = [names.index(n) for n in used]
    own = {n: registry.create("experts", n).score_calibration for n in used}
    calibration = ScoreCalibration({n: built_in().curves[c] for n, c in own.items() if c in built_in().curves})
    given = calibration.apply(coords[rows], scores[rows], COMMON, used)[1]
    fused = registry.create("fusion", "consensus", {}).fuse(coords[rows], given, COMMON)
    return np.asarray(fused.coords, np.float64), np.asarray(fused.scores)


def views(frames: int) -> dict[str, Array]:
    """What the experts saw in each camera, and mediapipe's world landmarks; kept, since they take minutes."""
    folder = SHARED / "videos" / "pose2sim_single"
    kept, world = (WORK / f"lift_{part}_{frames}.npz" for part in ("views", "world"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_file():
        names, seen = look(folder, frames)
        arrays: dict[str, Array] = {"names": np.array(names)}
        for camera, (coords, scores) in seen.items():
            arrays |= {f"{camera} coords": coords, f"{camera} scores": scores}
        np.savez_compressed(kept, allow_pickle=False, **arrays)
    if not world.is_file():
        videos = [str(folder / f"{camera}.mp4") for camera in OFFSETS]
        worker = script_command(Path(__file__).with_name("mediapipe_world.py"))
        subprocess.run([*worker, str(frames), str(world), *videos], check=True)
    with np.load(kept, allow_pickle=False) as file, np.load(world, allow_pickle=False) as other:
        return dict(file) | {f"{name} world": other[name] for name in other.files}


def four_cameras(frames: int) -> dict[str, Any]:
    """Millimetres from the triangulated joints, by way of lifting: root at the hips in the camera's axes, after a rigid
    fit, and after one with scale."""
    saw = views(frames)
    rig = cameras(SHARED / "videos" / "pose2sim_single" / "Calib.qca.txt")
    names = tuple(str(n) for n in saw["names"])
    fused = {camera: overlay(names, saw[f"{camera} coords"], saw[f"{camera} scores"]) for camera in OFFSETS}
    truth = triangulated([(rig[camera], fused[camera][0]) for camera in OFFSETS])
    every: dict[str, list[Array]] = {}
    for camera, (pixels, scores) in fused.items():
        true = truth @ rig[camera].rotation.T
        size = (1920, 1080) if np.nanmax(pixels[..., 0]) > np.nanmax(pixels[..., 1]) else (1080, 1920)
        last = names.index("mediapipe")
        own = saw[f"{camera} coords"][last], saw[f"{camera} scores"][last]
        made = {"mediapipe's world landmarks": convert(saw[f"{camera} world"], None, "blazepose33", COMMON)[0] * 1000}
        for bones in (False, True):
            with Temporal(constant_bones=bones).load() as session:
                called = "lifted, constant bones" if bones else "lifted"
                made[called] = 1000 * session.lift(pixels, scores, COMMON, size).keypoints3d
                if not bones:
                    made["lifted from mediapipe's joints"] = 1000 * session.lift(*own, COMMON, size).keypoints3d
        for name, poses in made.items():
            at, to = poses[:, BODY].astype(np.float64), true[:, BODY]
            known = np.isfinite(at).all((1, 2)) & np.isfinite(to).all((1, 2))
            at, to = at[known], to[known]
            at, to = (each - each[:, 6:8].mean(1, keepdims=True) for each in (at, to))
            for kind, fitted in (
                ("", at), (", rigid fit", aligned(at, to, scale=False)), (", fit with scale", aligned(at, to)),
            ):  # fmt: skip
                every.setdefault(f"{name}{kind}", []).append(joint_errors(fitted, to).mean(-1))
    return {name: summary(errors) for name, errors in every.items()}


def summary(errors: list[Array]) -> dict[str, Any]:
    """Mean over frames of all cameras, its 95 % interval over runs of ten frames, and the mean of each camera."""
    blocks = np.array([run.mean() for one in errors for run in np.array_split(one, max(len(one) // 10, 1))])
    draws = np.random.default_rng(0).integers(len(blocks), size=(1000, len(blocks)))
    low, high = np.percentile(blocks[draws].mean(1), (2.5, 97.5))
    return {
        "mean": round(float(np.concatenate(errors).mean()), 1), "low": round(float(low), 1),
        "high": round(float(high), 1), "cameras": [round(float(one.mean()), 1) for one in errors],
        "frames": int(sum(map(len, errors))),
    }  # fmt: skip


def run(quick: bool) -> dict[str, Any]:
    """Errors of lifted joints: held-out subjects of HDM05 before random cameras, and four cameras."""
    protocol = {**PROTOCOL, "steps": 40} if quick else PROTOCOL
    shipped = next(iter(Temporal().weights().values()))[:12]
    numbers = range(1 if quick else 3)
    runs = seeds("lift", protocol, numbers, lambda seed, _: learned(seed, protocol))
    runs = [{"found": {**zero_shot(seed), **one["found"]}} for seed, one in zip(numbers, runs)]
    table = {
        name: {
            key: spread([{key: run["found"][name][key]} for run in runs], key)
            for key in ("mpjpe", "p_mpjpe", "n_mpjpe", "velocity")
        }
        for name in runs[0]["found"]
    }
    ours = "temporal network"
    against = {name: difference(runs, ours, name) for name in table if name != ours}
    real = four_cameras(20 if quick else 100)
    best = {name: row["mpjpe"]["mean"] for name, row in table.items()}
    lifted, theirs = (real[f"{name}, rigid fit"]["mean"] for name in ("lifted", "mediapipe's world landmarks"))
    return {
        "name": "lift",
        "value": {"learned": best[ours], "shipped": best[SHIPPED], "four_cameras": lifted},
        "unit": "mm, mean per-joint position error; four cameras: after a rigid fit",
        "goal": "learned: below both baselines, the interval of the difference too; four cameras: below mediapipe's",
        "holds": bool(all(against[n][2] < 0 for n in (RIDGE, "single-frame network")) and lifted < theirs),
        "baselines": {f"{name} {key}": v for name in table for key, v in (("mpjpe", best[name]),)}
        | {"mediapipe's world landmarks, rigid fit": theirs},
        "n": len(runs),
        "spread": {"learned less": against},
        "data": "HDM05 subset, subjects mm and tr held out, random cameras; pose2sim_single, 4 cameras, 100 frames",
        "details": {"hdm05": table, "four_cameras": real, "protocol": protocol, "shipped": shipped},
    }


if __name__ == "__main__":
    main(run)
