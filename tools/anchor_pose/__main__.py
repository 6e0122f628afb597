"""`python -m tools.anchor_pose`: train the network of anchor poses on labelled pictures or on rendered people.

Labels are joints: a data set in COCO's format for keypoints (a JSON file and its folder of pictures, any number of
them), people that `dataengine.rendering` draws, or both. Anchor poses are clustered from the labels and lie in the file
of weights. A run is a function of its arguments; one that was stopped goes on where it was.

    python -m tools.anchor_pose base.safetensors --coco person_keypoints_train2017.json train2017 \\
        --backbone resnet50 --width 800 --height 608 --initial keypointrcnn_resnet50_fpn_coco-fc266e95.pth

The built-in weights come of

    python -m tools.anchor_pose anchor_pose.safetensors --rendered 300 --backbone tiny --width 192 --height 144 \\
        --initial dataengine/experts/weights/synthetic_bottomup.onnx --heads --hidden 96 --proposals 32 --regions 32 \\
        --epochs 6 --batch 16 --rate 3e-3 --half
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dataengine.core.errors import DatasetError
from dataengine.core.types import LabelledFrame
from dataengine.experts.anchor_classes import cluster
from dataengine.experts.anchor_pose import load_network
from dataengine.experts.anchor_pose_spec import Backbone, NetworkSpec
from dataengine.io.storage import write_durably
from dataengine.refine.anchor_pose import AnchorPoseSession, AnchorPoseStudent, fresh_session
from dataengine.refine.loop import FitSettings, fit
from tools.anchor_pose.data import FRAMES_PER_CLIP, CocoPeople, normalised_poses, rendered
from tools.anchor_pose.initial import read

FIRST_SEED = 20_000_000
"""Seeds of rendered people; benchmarks and tests use smaller ones."""
VALIDATION_SHARE = 0.1
log = logging.getLogger(__name__)


class Joined(Sequence[LabelledFrame]):
    """Some frames of several sequences, by (sequence, number)."""

    def __init__(self, parts: Sequence[Sequence[LabelledFrame]], which: Sequence[tuple[int, int]]) -> None:
        self._parts, self._which = parts, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        part, number = self._which[index]
        return self._parts[part][number]


def split(parts: Sequence[Sequence[LabelledFrame]], grouped: Sequence[int], seed: int) -> tuple[Joined, Joined]:
    """Training and validation frames: a tenth of the groups of each part, which are runs of `grouped` frames."""
    rng = np.random.default_rng([seed, 1])
    chosen: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for k, (part, run) in enumerate(zip(parts, grouped, strict=True)):
        groups = -(-len(part) // run)
        held = set(rng.permutation(groups)[: max(1, round(VALIDATION_SHARE * groups))].tolist())
        for n in range(len(part)):
            chosen[n // run in held].append((k, n))
    return Joined(parts, chosen[0]), Joined(parts, chosen[1])


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parts: list[Sequence[LabelledFrame]] = [
        CocoPeople(Path(annotations), Path(pictures), given.skeleton) for annotations, pictures in given.coco
    ]
    runs = [1] * len(parts)
    if given.rendered:
        parts.append(rendered(FIRST_SEED + 1000 * given.seed, given.rendered, given.condition, given.skeleton))
        runs.append(FRAMES_PER_CLIP)
    if not parts:
        raise DatasetError("nothing to learn from: give --coco JSON PICTURES, --rendered CLIPS, or both")
    train, validation = split(parts, runs, given.seed)
    session = _session(given, train)
    settings = FitSettings(
        given.epochs, given.batch, given.rate, 0.05, "adamw", 0.02, 5.0, given.epochs, given.seed, given.threads
    )
    log.info("%d pictures to learn from, %d to validate with", len(train), len(validation))
    folder = given.out.with_suffix(".run")
    fitted = fit(session, train, validation, settings, folder, name="anchor_pose")
    for row in fitted.history:
        log.info("%s", row)
    write(session, given.out, given.half)
    return 0


def write(session: AnchorPoseSession, path: Path, half: bool) -> None:
    """Write the weights; in half precision they take half the space and lose nothing that counts."""
    import torch
    from safetensors.torch import save

    from dataengine.experts.anchor_pose_network import state_of

    state = state_of(session.network)
    if half:
        state = {name: t if name == "anchors" else t.to(torch.float16) for name, t in state.items()}
    write_durably(path, save(state, session.network.spec.metadata()))


def _session(given: argparse.Namespace, train: Sequence[LabelledFrame]) -> AnchorPoseSession:
    student = AnchorPoseStudent(losses="full", regions=given.regions, flip=given.flip, augment=given.augment)
    if given.base is not None:
        return AnchorPoseSession(student, load_network(given.base, "--base").to(given.device), heads=given.heads)
    spec = NetworkSpec(given.backbone, given.width, given.height, given.skeleton, given.hidden, given.proposals)
    anchors = cluster(normalised_poses(train), given.anchors, given.seed)
    initial = None if given.initial is None else read(given.initial)
    return fresh_session(student, spec, anchors, given.seed, given.device, initial, given.heads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.anchor_pose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="file of weights to write, .safetensors")
    parser.add_argument("--coco", nargs=2, action="append", default=[], metavar=("JSON", "PICTURES"))
    parser.add_argument("--rendered", type=int, default=0, help=f"rendered clips of {FRAMES_PER_CLIP} frames")
    parser.add_argument("--condition", default="mixed", help="of rendered clips")
    parser.add_argument("--skeleton", default="body13", help="layout of the joints")
    parser.add_argument("--backbone", choices=get_args(Backbone), default="resnet50")
    parser.add_argument("--width", type=int, default=800)
    parser.add_argument("--height", type=int, default=608)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--anchors", type=int, default=20)
    parser.add_argument("--regions", type=int, default=512, help="most regions per picture in a step")
    parser.add_argument("--initial", type=Path, help="weights of torchvision, or synthetic_bottomup.onnx for tiny")
    parser.add_argument("--base", type=Path, help="weights of this network to go on from; it says what it looks like")
    parser.add_argument("--heads", action="store_true", help="the backbone stays as it is")
    parser.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    parser.add_argument("--augment", type=float, default=0.6, help="share of pictures that are changed")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="write the weights in half precision")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
