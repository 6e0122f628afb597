"""Motions on other bodies: how near a trained autoencoder comes to the truth, and pictures of what it learnt.

report = retarget(load_run("runs/lac_retarget_small"), train, test)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from training.backbones.joint_channels import JointChannels, Retargeter
from training.data.types import SkeletonDataset
from training.evaluate import retargeting
from training.evaluate.confidence_intervals import bootstrap
from training.evaluate.result import Result
from training.runs import splits
from training.runs.features import WHOLE_CLIP, extract_features, workers_for
from training.runs.report import Report
from training.runs.retarget_plots import body_plot, composition_plot, direction_plot, video
from training.runs.run import Run, method_of

PITCH = 10.0
"""Degrees that the cameras of a measurement look up or down by at most, as in training."""
MOST_TRAINING = 400
"""Training clips that a nearest neighbour is sought among at most."""
RANDOM_NETWORKS = 3
FEW = 5
"""People in the clips below which an interval is over clips: resampling so few people says nothing."""
SHOWN_BODIES, SHOWN_DIRECTIONS = 5, 6
"""Bodies and motion directions in pictures."""
AMOUNTS = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
"""Deviations of a magnitude over test clips that are walked along a direction. A pose is made of many directions, so
one alone must go far to be seen."""


def retargeter_of(run: Run) -> Retargeter:
    """What of a run carries motions to other bodies: the autoencoder of LAC, or ViA's network with its generator.

    Raises:
        TrainingError: neither is there.
    """
    for one in (run.backbone, run.method):
        if isinstance(one, Retargeter):
            return one
    raise TrainingError(
        f"{run.folder} trained {type(run.backbone).__name__}, which generates no motions; give a run of lac_retarget "
        "or via, such as of the configuration lac_retarget_small"
    )


@torch.no_grad()
def clips_in_space(run: Run, datasets: Sequence[SkeletonDataset]) -> Tensor:
    """The first person of every whole clip, resampled to the frames of the run, (N, T, V, 3).

    Raises:
        TrainingError: the run takes joints in images, or scores.
    """
    axes, scores = run.data_channels - run.preprocess.score, " and their scores" if run.preprocess.score else ""
    if axes != 3 or scores:
        raise TrainingError(
            f"{run.folder} takes joints of {axes} coordinates{scores}: the truth of a motion on another body needs x, "
            "y and z alone; train on clips in space"
        )
    rows, _ = extract_features(
        lambda motion: motion[..., 0].flatten(1),
        datasets,
        run.preprocess,
        run.frames,
        WHOLE_CLIP,
        workers=workers_for(datasets, run.config.run.workers),
    )
    joints = torch.from_numpy(rows)
    return joints.view(len(joints), axes, run.frames, -1).permute(0, 2, 3, 1).contiguous()


def draw_pairs(groups: Sequence[str], rng: np.random.Generator) -> list[int]:
    """For each clip another one, of another body where there are several.

    Raises:
        TrainingError: there is one clip only.
    """
    if len(groups) < 2:
        raise TrainingError("retargeting is measured on pairs of clips; the data hold one")
    found = []
    for number, group in enumerate(groups):
        others = [k for k, one in enumerate(groups) if one != group] or [k for k in range(len(groups)) if k != number]
        found.append(others[int(rng.integers(len(others)))])
    return found


def draw_cameras(count: int, yaw: float, rng: np.random.Generator) -> Tensor:
    """Yaw and pitch in radians of two cameras for each of `count` pairs, (count, 2, 2) float32."""
    angles = rng.uniform(-1, 1, (count, 2, 2)) * np.deg2rad([yaw, PITCH])
    return torch.from_numpy(angles.astype(np.float32))


@dataclass(frozen=True)
class Carry:
    """Motions on bodies by a network: the motion code of one clip and the static code of the other."""

    network: Retargeter

    @torch.no_grad()
    def __call__(self, motion: Tensor, static: Tensor) -> Tensor:
        """Joints (N, T, V, C)."""
        moving, _ = self.network.encode(motion)
        _, standing = self.network.encode(static)
        return self.network.generate(moving, standing, motion.shape[1])


def random_network(run: Run, seed: int) -> Retargeter:
    """Networks of the same shapes and statistics of the input with weights that learnt nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = method_of(run.facts, str(run.folder))
    for new, old in zip(drawn.modules(), run.method.modules()):
        if isinstance(new, JointChannels) and isinstance(old, JointChannels):
            for name in ("mean", "deviation", "measured"):
                getattr(new, name).copy_(getattr(old, name))
    return retargeter_of(dataclasses.replace(run, method=drawn.eval()))


def retarget(
    run: Run,
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    seed: int = 0,
    draw: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Measure retargeting on clips in space that were not learnt from.

    Every test clip is paired with one of another body, each seen by a random camera. The value is the mean squared
    error, relative to the middle of the hips, of the motion on the other body and from the other view, in squared sizes
    of the body (see `bodies.size`). Beside it: the motion as it is, the other clip standing still, moments, a nearest
    neighbour among the training clips, and random networks.

    Args:
        run: of lac_retarget or via.
        train: clips that it learnt from, for the nearest neighbour.
        test: clips to measure on.
        seed: chooses pairs and cameras.
        draw: whether pictures and a video are made.
        progress: what tells how far the work is.

    Raises:
        TrainingError: another network, joints in images, or one clip only.
    """
    network = retargeter_of(run)
    run.method.eval()
    report = Report("retarget", run, test, train)
    joints = clips_in_space(run, test)
    known = clips_in_space(run, train)
    rng = np.random.default_rng(seed)
    if len(known) > MOST_TRAINING:
        known = known[torch.from_numpy(np.sort(rng.choice(len(known), MOST_TRAINING, replace=False)))]
    groups = splits.groups_of(test) or [str(number) for number in range(len(joints))]
    partner = draw_pairs(groups, rng)
    camera_options = getattr(run.method, "camera", None)
    yaw = 90.0 if camera_options is None else float(camera_options.yaw)
    cameras = draw_cameras(len(joints), yaw, rng)
    task = retargeting.make_task(joints, joints[partner], cameras, run.skeleton, network.axes)
    others: dict[str, retargeting.Retarget] = {
        "as it is": retargeting.as_it_is,
        "standing still": retargeting.stands_still,
        "moments": retargeting.Moments(run.skeleton),
        "nearest neighbour": retargeting.NearestNeighbour(known, run.skeleton, network.axes),
    }
    with (progress or Progress()).step("retarget", len(others) + RANDOM_NETWORKS + 1) as advance:
        own = retargeting.errors(Carry(network)(task.motion, task.static), task)
        advance(1)
        baselines = {}
        for name, function in others.items():
            baselines[name] = float(retargeting.errors(function(task.motion, task.static), task).mean())
            advance(1)
        drawn = []
        for number in range(RANDOM_NETWORKS):
            made = Carry(random_network(run, number))(task.motion, task.static)
            drawn.append(float(retargeting.errors(made, task).mean()))
            advance(1)
    baselines["random network"] = float(np.mean(drawn))
    itself = float(retargeting.errors(Carry(network)(task.static, task.static), _own_task(task)).mean())
    report.results.append(
        Result(
            "retargeting",
            "mean squared error",
            float(own.mean()),
            interval=bootstrap(own.numpy(), groups=groups if len(set(groups)) >= FEW else None),
            baselines=baselines,
            details={"reconstruction": itself, "pairs": len(joints), "seed": seed, "random networks": drawn},
            unit="squared sizes",
        )
    )
    if draw:
        report.folder.mkdir(parents=True, exist_ok=True)
        report.plots += pictures(network, task, report.folder)
    return report


def _own_task(task: retargeting.RetargetingTask) -> retargeting.RetargetingTask:
    """Reconstruction of the other clip, as a task."""
    return retargeting.RetargetingTask(task.static, task.static, task.static, task.layout)


@torch.no_grad()
def pictures(network: Retargeter, task: retargeting.RetargetingTask, folder: Path) -> list[Path]:
    """Pictures of the pairs that move most: composition, one motion on several bodies, single directions, a video."""
    layout, frames = task.layout, task.motion.shape[1]
    moving = retargeting.relative(task.motion, layout).std(1).mean((1, 2))
    first = int(moving.argmax())
    different = retargeting.relative(task.static, layout).std(1).mean((1, 2))
    motion, static = network.encode(task.motion)
    other_motion, other_static = network.encode(task.static)
    both = int((moving * different).argmax())
    half = (motion[both : both + 1] + other_motion[both : both + 1]) / 2
    rows = {
        "motion and body of A": task.motion[both],
        "motion and body of B": task.static[both],
        "both motions on A": network.generate(half, static[both : both + 1], frames)[0],
        "both motions on B": network.generate(half, other_static[both : both + 1], frames)[0],
    }
    paths = [composition_plot(rows, layout, folder / "composition.png")]
    order = moving.argsort(descending=True)[1 : SHOWN_BODIES + 1].tolist()
    carried = {"the motion": task.motion[first]}
    for number, k in enumerate(order):
        made = network.generate(motion[first : first + 1], static[k : k + 1], frames)[0]
        carried[f"on body {number + 1}"] = made
    paths.append(body_plot(carried, layout, folder / "bodies.png"))
    walked = directions(network, motion, static[first : first + 1], frames)
    paths.append(direction_plot(walked, layout, folder / "directions.png", [f"{one:+.0f} sd" for one in AMOUNTS]))
    made = Carry(network)(task.motion[both : both + 1], task.static[both : both + 1])[0]
    shown = {"motion": task.motion[both], "body": task.static[both], "made": made, "truth": task.truth[both]}
    paths.append(video(shown, layout, folder / "retarget.mp4"))
    return paths


def directions(network: Retargeter, motion: Tensor, static: Tensor, frames: int) -> dict[str, Tensor]:
    """Poses (K, V, C) along the motion directions that change a pose most, all other magnitudes 0, by name.

    Args:
        network: the autoencoder.
        motion: (N, J, T') magnitudes of clips, which say how far a direction goes.
        static: (1, K) of the body that is drawn.
        frames: of a clip, whose middle frame is drawn.
    """
    spread = motion.std((0, 2))
    far = torch.diag(spread * AMOUNTS[-1])[:, :, None].expand(-1, -1, motion.shape[2])
    ends = [network.generate(sign * far, static.expand(len(far), -1), frames)[:, frames // 2] for sign in (-1, 1)]
    strongest = (ends[1] - ends[0]).square().mean((1, 2)).argsort(descending=True)[:SHOWN_DIRECTIONS].tolist()
    walked = {}
    for number in strongest:
        amounts = torch.tensor(AMOUNTS, dtype=motion.dtype, device=motion.device)
        single = torch.zeros(len(amounts), *motion.shape[1:], dtype=motion.dtype, device=motion.device)
        single[:, number] = (amounts * spread[number])[:, None]
        poses = network.generate(single, static.expand(len(amounts), -1), frames)
        walked[f"direction {number + 1}"] = poses[:, frames // 2]
    return walked
