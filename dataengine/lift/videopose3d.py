"""A user's own checkpoint of VideoPose3D (Pavllo et al. 2019) as a lifter.

The published checkpoints are CC BY-NC 4.0: they are neither part of the package nor downloaded. They were trained at 50
frames per second. `pretrained_h36m_detectron_coco.bin` takes the joints of COCO and is the one for videos of any kind;
`pretrained_h36m_cpn.bin` takes the joints of Human3.6M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dataengine.core.component import LifterSession
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.extras import require
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float
from dataengine.io import weights
from dataengine.lift.base import NetworkLifter, NetworkLifterSession
from dataengine.lift.inputs import over_gaps, padded, screen

OUT = "h36m17"
"""Layout of the joints that the network gives."""
CHUNK = 1000
"""Frames at once; bounds memory, not results."""
CROWN = 0.5
"""The top of the head lies so far beyond the nose, as a share of the way from neck to nose; for layouts without it."""


@dataclass(frozen=True)
class VideoPose3D(NetworkLifter):
    """A checkpoint of VideoPose3D, on torch: the published ones are not for commercial use and not downloaded.

    Joints that are not seen are interpolated in time; one that is never seen takes the place of the middle of those
    that are.

    Attributes:
        checkpoint: path of a file of VideoPose3D, .bin or .safetensors.
        joints: layout of the joints that the network takes.
        causal: the network was trained to look at earlier frames alone.
        flip: lift the mirrored sequence too and take the mean of both.
        constant_bones: give every bone its median length of the clip, the same on the left and on the right.
        max_gap: most frames to the nearest frame with at least four seen joints; frames beyond are not lifted.
        min_score: joints with a lower score count as unseen.
    """

    checkpoint: str = ""
    joints: Literal["coco17", "h36m17"] = "coco17"
    causal: bool = False

    extra: ClassVar[str | None] = "torch"
    title: ClassVar[str] = "[lifters.videopose3d]"
    licence: ClassVar[str | None] = "CC BY-NC 4.0 (published weights; not downloaded)"

    def check(self) -> None:
        """Raise where no checkpoint is named."""
        super().check()
        if not self.checkpoint:
            raise ComponentError(f"{self.title} checkpoint is missing: give the path of a file of VideoPose3D")

    def weights(self) -> dict[str, str]:
        """The checkpoint with its hash.

        Raises:
            WeightsError: it is not here.
        """
        return weights.hashes(self.checkpoint) if self.checkpoint else {}

    def load(self, device: str = "cpu") -> LifterSession:
        """Open the checkpoint on a device; raises as `Expert.load`."""
        self.check()
        require([(self.title, self)])
        from dataengine.lift.checkpoints import network_of, read_state

        path = weights.locate(self.checkpoint)
        network = network_of(read_state(path), path.name, self.causal)
        sizes = network.expand_conv.in_channels, network.shrink.out_channels
        wanted = 2 * layout_of(self.joints).num_joints, 3 * layout_of(OUT).num_joints
        if sizes != wanted:
            raise WeightsError(
                f"weights {path.name} take {sizes[0]} numbers per frame and give {sizes[1]}; "
                f"{self.joints} to {OUT} is {wanted[0]} and {wanted[1]}"
            )
        return VideoPose3DSession(self, network.to(on(device)))


def network_input(keypoints: Float, seen: Bool, skeleton: str, joints: str, size: tuple[int, int]) -> Float:
    """What a network of VideoPose3D is given.

    Args:
        keypoints: (T, V, 2) pixels, NaN where unseen. seen: (T, V).
        skeleton: layout of the keypoints. joints: layout that the network takes.
        size: width and height of the picture in pixels.

    Returns:
        (T, joints, 2) float32 in the unit of `screen`, with nothing missing.
    """
    given, scores = convert(keypoints, seen.astype(np.float32), skeleton, joints)
    layout = layout_of(joints)
    if "head_top" in layout.joints and not (scores[:, layout.index("head_top")] > 0).any():
        top, nose, neck = (layout.index(name) for name in ("head_top", "nose", "neck"))
        given[:, top] = given[:, nose] + CROWN * (given[:, nose] - given[:, neck])
        scores[:, top] = np.minimum(scores[:, nose], scores[:, neck])
    known = scores > 0
    points = np.where(known[..., None], screen(given.astype(np.float64), size), 0.0)
    middle = over_gaps(points.sum(1) / np.maximum(known.sum(1), 1)[:, None], np.asarray(known.any(1)))
    whole = [over_gaps(points[:, n], known[:, n]) if known[:, n].any() else middle for n in range(points.shape[1])]
    return np.stack(whole, 1).astype(np.float32)


class VideoPose3DSession(NetworkLifterSession):
    """The open network."""

    def __init__(self, options: VideoPose3D, network: Any) -> None:
        super().__init__(options)
        self.options: VideoPose3D = options
        self.network = network

    def release(self) -> None:
        self.network = None

    def body(self, keypoints: Float, seen: Bool, skeleton: str, size: tuple[int, int]) -> Float:
        """As `NetworkLifterSession.body`."""
        given = network_input(keypoints, seen, skeleton, self.options.joints, size)
        return convert(self.joints(given), None, OUT, COMMON)[0]

    def joints(self, given: Float) -> Float:
        """(T, joints, 2) in the unit of `screen` -> (T, 17, 3) float32 in the layout h36m17; the mirrored sequence is
        lifted too and turned back where `flip` says so."""
        poses = self._run(given)
        if self.options.flip:
            mirrored = given[:, list(layout_of(self.options.joints).flip)] * np.array([-1, 1], np.float32)
            turned = self._run(mirrored)[:, list(layout_of(OUT).flip)] * np.array([-1, 1, 1], np.float32)
            poses = (poses + turned) / np.float32(2)
        return poses

    def _run(self, given: Float) -> Float:
        import torch

        before, after = self.network.padding
        whole, parts = padded(given.reshape(len(given), -1), before, after), []
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            for start in range(0, len(given), CHUNK):
                part = whole[start : min(start + CHUNK, len(given)) + before + after]
                made = self.network(torch.as_tensor(part[None], device=device))[0]
                parts.append(made.cpu().numpy())
        return np.concatenate(parts).reshape(len(given), -1, 3)


def on(device: str) -> Any:
    """The torch device of that name.

    Raises:
        ComponentError: there is none.
    """
    import torch

    try:
        return torch.zeros((), device=device).device
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines()[0]
        raise ComponentError(f"[lifters.videopose3d] no device {device!r} here: {told}") from error
