"""A pass by unit: it decodes every clip, adds a column, and has a reason of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from dataengine.core.types import Clip, Reject
from dataengine.media.decode import read_frames
from dataengine.passes.base import Column
from dataengine.passes.unit_pass import Unit, UnitPass


@dataclass(frozen=True)
class Brightness(UnitPass):
    """Mean brightness of a clip's first frame, 0 to 1; clips that are too dark are left out.

    Attributes:
        min: least brightness of a clip that is kept.
    """

    min: float = 0.05

    version = 1
    after = ("poses",)
    schema = pa.schema([("clip_id", pa.string()), ("brightness", pa.float32())])
    columns = (Column("brightness", pa.float32(), description="mean brightness of the first frame, 0 to 1"),)
    reasons: ClassVar[Mapping[str, str]] = {"too_dark": "the clip is too dark"}

    def examine(self, unit: Unit, clip: Clip) -> Mapping[str, Any] | Reject:
        value = float(np.mean(read_frames(unit.plan.media(clip), range(1))) / 255)
        if value < self.min:
            return Reject(clip.clip_id, "too_dark", value, self.min)
        return {"brightness": value}
