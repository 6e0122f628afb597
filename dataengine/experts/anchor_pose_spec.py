"""What a file of anchor-pose weights says of its network, beside the tensors: read without torch."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from dataengine.core.errors import ComponentError, WeightsError, suggestion
from dataengine.core.skeletons import skeleton as layout_of

Backbone = Literal["tiny", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50"]
"""tiny is this package's own, for small pictures on a CPU; the others are torchvision's with a feature pyramid."""
KEY = "anchor_pose"
"""The one entry of the metadata; several would be written in any order."""
LONGEST_HEADER = 1 << 24


@dataclass(frozen=True)
class NetworkSpec:
    """What a network looks like.

    Attributes:
        backbone: what makes maps of images.
        width, height: pixels that frames are fitted into, multiples of 16 (tiny) or 32.
        skeleton: layout of the joints.
        hidden: width of the layers between a region and its class.
        proposals: most regions per image.
    """

    backbone: Backbone = "resnet50"
    width: int = 800
    height: int = 608
    skeleton: str = "body13"
    hidden: int = 1024
    proposals: int = 300

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            known = get_args(Backbone)
            raise ComponentError(f"anchor_pose backbone {self.backbone!r}{suggestion(self.backbone, known)}")
        layout_of(self.skeleton)
        step = 16 if self.backbone == "tiny" else 32
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 2 * step or value % step or value > 4096:
                raise ComponentError(f"anchor_pose {name} = {value}: a multiple of {step}, {2 * step} to 4096")
        if not 1 <= self.proposals <= 4000 or not 8 <= self.hidden <= 8192:
            raise ComponentError(
                f"anchor_pose proposals = {self.proposals}, hidden = {self.hidden}: 1 to 4000, and 8 to 8192"
            )

    def metadata(self) -> dict[str, str]:
        """The metadata of a file of weights."""
        return {KEY: json.dumps(asdict(self), sort_keys=True)}


def read_spec(path: Path) -> NetworkSpec:
    """What a file of weights says of its network.

    Raises:
        WeightsError: it is not a file of this kind.
    """
    state = path.stat()
    return _read_spec(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_spec(path: Path, size: int, changed: int) -> NetworkSpec:
    del size, changed
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(file.read(length))
        told = json.loads(header["__metadata__"][KEY])
        if set(told) != {f.name for f in fields(NetworkSpec)}:
            raise ValueError(f"its metadata have {', '.join(sorted(told))}")
        return NetworkSpec(**told)
    except (OSError, ValueError, KeyError, TypeError, struct.error, ComponentError) as error:
        raise WeightsError(
            f"weights {path} are no safetensors file of anchor_pose ({type(error).__name__}: {error}); "
            "give one that tools.anchor_pose or a refinement with the student anchor_pose wrote"
        ) from error
