"""unik: the arrays of UNIK, 2s-AGCN and their kin.

Format: SPLIT_data_joint.npy, float32 (N, C, T, V, M), and SPLIT_label.pkl, a pickle of (names, labels) (Posetics as
UNIK's feeder reads it).
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, ClassVar, Literal

import numpy as np
from pydantic import Field

from dataengine.core.errors import EnvironmentFailure
from dataengine.core.types import Float
from dataengine.exports.base import ExportedClip, ExportJob, LayoutExport
from dataengine.exports.layouts import zeroed
from dataengine.exports.pickle_writer import BEGIN, encoded

PADDED = 0.75
"""Share of padding from which a note says so."""


@dataclass(frozen=True)
class Unik(LayoutExport):
    """UNIK's arrays: `SPLIT_data_joint.npy` (N, C, T, V, M) and `SPLIT_label.pkl` (names, labels).

    Clips shorter than T, and people that a clip does not have, are zeros. A joint that is not seen is zero, too. A clip
    without a label has the label -1. `clips.csv` holds the facts of the clips, in the order of the arrays.

    Attributes:
        layout: layout of the joints; 'own' is that of the dataset.
        frames: T; longer clips keep their first so many frames. 0 is the longest clip, so that none is cut.
        people: M; further people of a clip are left out.
        normalise: "screen" is UNIK's own unit, x / width * 2 - 1 and (y / width * 2) - height / width; "pixels" leaves
            pixels.
        coordinates: "xy", or "xys" with the score as third channel.
    """

    facts_beside: ClassVar[bool] = True

    layout: str = "posetics17"
    frames: Annotated[int, Field(ge=0)] = 0
    people: Annotated[int, Field(ge=1)] = 2
    normalise: Literal["screen", "pixels"] = "screen"
    coordinates: Literal["xy", "xys"] = "xy"

    def write(self, place: Path, job: ExportJob) -> None:
        frames = self.frames or job.longest
        shape = (len(self.coordinates), frames, job.skeleton.num_joints, self.people)
        clips = sum(one.clips for one in job.splits.values())
        needed, free = 4 * math.prod(shape) * clips, shutil.disk_usage(place).free
        if needed > free:
            raise EnvironmentFailure(
                "disk_full",
                f"arrays of {clips} clips of {frames} frames and {self.people} people take {needed / 1e9:,.1f} GB, "
                f"{free / 1e9:,.1f} GB are free at {place.parent.parent}; fewer --set frames=... take less",
            )
        used = sum(one.poses for one in job.splits.values()) / (frames * self.people * clips)
        if used < 1 - PADDED:
            job.notes.append(
                f"{1 - used:.0%} of the arrays is padding to {frames} frames and {self.people} people; "
                "--set frames=300 makes T that of Posetics"
            )
        cut = 0
        for split, facts in job.splits.items():
            with (place / f"{split}_data_joint.npy").open("wb") as file:
                _write_header(file, (facts.clips, *shape))
                for clip in job.clips(split):
                    file.write(self.array(clip, frames).tobytes())
                    cut += clip.keypoints.shape[1] > frames or clip.keypoints.shape[0] > self.people
            _write_labels(place / f"{split}_label.pkl", job, split)
        if cut:
            job.notes.append(f"{cut} clips were cut to {frames} frames and {self.people} people")

    def array(self, clip: ExportedClip, frames: int) -> Float:
        """One clip as (C, T, V, M) float32."""
        keypoints, scores = clip.keypoints[: self.people, :frames], clip.scores[: self.people, :frames]
        if self.normalise == "screen":
            width, height = float(clip.facts["width"]), float(clip.facts["height"])
            keypoints = (keypoints * (2 / width) - np.array([1, height / width])).astype(np.float32)
        channels = zeroed(keypoints)
        if self.coordinates == "xys":
            channels = np.concatenate([channels, scores[..., None]], -1)
        made = np.zeros((len(self.coordinates), frames, channels.shape[2], self.people), np.float32)
        made[:, : channels.shape[1], :, : len(channels)] = channels.transpose(3, 1, 2, 0)
        return made


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The header of an npy file of float32 in C order."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _write_labels(path: Path, job: ExportJob, split: str) -> None:
    """The pickle of (names, labels) of a split."""
    names: list[str] = []
    labels: list[int] = []
    for rows in job.index(("clip_id", "label_id"), split):
        names += rows["clip_id"].to_list()
        labels += rows["label_id"].fill_null(-1).to_list()
    path.write_bytes(BEGIN + encoded((names, labels)) + b".")
