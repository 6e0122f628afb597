"""A trained autoencoder that makes motions for another method: loaded from its file, and motions composed by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import read_weights
from training.backbones.skeleton_autoencoder import SkeletonAutoencoder
from training.transforms import bodies

WEIGHTS = "model.safetensors"
"""The network of a finished run, in its folder."""
BLOCK = 8
"""Clips of a batch that lend each other motions and bodies. Batches of whole blocks give the same with any number of
processes."""


def generator_file(path: str | Path, recipe: str = "lac_retarget_small") -> Path:
    """The file of weights that a run's folder, or the file itself, stands for.

    Args:
        path: of either.
        recipe: that makes such a run, for the message.

    Raises:
        TrainingError: there is none.
    """
    place = Path(path)
    file = place / WEIGHTS if place.is_dir() else place
    if not str(path) or not file.is_file():
        what = f"{path}: there is no finished run and no file of weights" if str(path) else "no autoencoder is named"
        raise TrainingError(
            f"{what}; train one with `dataengine-train train {recipe}` on motion capture, and give its "
            "folder as method.generator"
        )
    return file


def load_generator(path: str | Path, skeleton: Skeleton) -> SkeletonAutoencoder:
    """The autoencoder of a run of lac_retarget or of a published file, without gradients, in evaluation mode.

    Args:
        path: a finished run's folder, its model.safetensors, or a published file, whose joints are taken to be those of
            `skeleton`.
        skeleton: the joints that it shall take.

    Raises:
        TrainingError: no such file, another network, or other joints.
    """
    file = generator_file(path)
    weights = read_weights(file)
    facts = run_facts(file)
    if facts:
        options = dict(facts["backbone"])
        name = options.pop("name")
        if name != "skeleton_autoencoder":
            raise TrainingError(f"{file}: its network is {name}; a generator is a skeleton_autoencoder")
        layout = facts["skeleton"]
        if tuple(layout["joints"]) != skeleton.joints:
            raise TrainingError(
                f"{file} moves joints of {layout['name']!r}, and these clips have {skeleton.name!r}: train both with "
                "one data.skeleton"
            )
        options["widths"] = tuple(options["widths"])
        network = SkeletonAutoencoder(0, skeleton, int(facts["channels"]), **options)
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    else:
        two = "mot_encoder.v" not in weights
        network = SkeletonAutoencoder(0, skeleton, 2, layout="two_encoder" if two else "dictionary")
    network.load_weights(weights, name=str(file))
    return network.eval().requires_grad_(False)


def run_facts(file: Path) -> Mapping[str, Any]:
    """What a run wrote into the header of its weights; nothing for files of other programs."""
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, "pt") as opened:
            held: Mapping[str, Any] = json.loads((opened.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    return held


def ring(number: int, offset: int, device: torch.device | str = "cpu") -> Tensor:
    """(N,) int64: for each clip of a batch the one `offset` places on in its block of `BLOCK`, round in a circle."""
    index = torch.arange(number, device=device)
    first = index - index % BLOCK
    length = (number - first).clamp(max=BLOCK)
    return first + (index - first + offset) % length


@torch.no_grad()
def composed(network: SkeletonAutoencoder, motion: Tensor, motions: int, positives: int) -> tuple[Tensor, list[Tensor]]:
    """Composed motions of a batch on several bodies (equation 4.5).

    The motion code of each clip is the mean over it and the `motions - 1` clips after it in its block. It is decoded
    with the clip's own static code, and with those of the `positives` clips after it. People keep their place and size
    of the clip; then a clip is normalised as `normalise.body` does. Absent people, all zeros, stay absent.

    Args:
        network: the autoencoder.
        motion: (N, C, T, V, M) joints, C of the network's `axes`.
        motions: how many motions are composed, 1 or more.
        positives: P.

    Returns:
        The composed motion on the clip's own body, and on P other bodies, each (N, C, T, V, M).
    """
    count, axes, frames, _, people = motion.shape
    joints = network.images(motion)
    present = joints.flatten(1).abs().amax(1) > 0
    sizes = bodies.size(joints, network.skeleton)
    origin = bodies.centre(joints, network.skeleton)[:, 0]
    code, static = network.encode(joints)
    code = code.unflatten(0, (count, people))
    static = static.unflatten(0, (count, people))
    code = torch.stack([code[ring(count, k, motion.device)] for k in range(motions)]).mean(0).flatten(0, 1)

    def on(offset: int) -> Tensor:
        body = static[ring(count, offset, motion.device)].flatten(0, 1)
        made = network.generate(code, body, frames) * sizes[:, None, None, None] + origin[:, None, None]
        return _normalised(made * present[:, None, None, None], present, people, axes)

    return on(0), [on(1 + number) for number in range(positives)]


def _normalised(joints: Tensor, present: Tensor, people: int, axes: int) -> Tensor:
    """(N, C, T, V, M) of joints (N M, T, V, C): the mean joint of the first person 0, and the root mean square of its
    coordinates 1; upright again in space."""
    clips: Tensor = joints.unflatten(0, (-1, people))
    first = clips[:, 0].flatten(1, 2)
    middle = first.mean(1)
    size = (first - middle[:, None]).square().mean((1, 2)).sqrt()
    size = torch.where(size > 0, size, torch.ones_like(size))
    clips = (clips - middle[:, None, None, None]) / size[:, None, None, None, None]
    clips = clips * present.unflatten(0, (-1, people))[:, :, None, None, None]
    if axes == 3:
        clips = clips * torch.tensor([1.0, -1.0, 1.0], dtype=clips.dtype, device=clips.device)
    return clips.permute(0, 4, 2, 3, 1).contiguous()
