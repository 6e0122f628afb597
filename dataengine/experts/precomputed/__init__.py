"""Saved output of any pose estimator as an expert: OpenPose, AlphaPose, COCO's results, LCR-Net, arrays.

Nothing is computed: for each frame of a clip the saved people are looked up. So a build can use networks
that no longer run, ran elsewhere, or may not be had.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Clip, Float, Frames, Int, Poses
from dataengine.experts.precomputed import arrays, lcr, openpose, results
from dataengine.experts.precomputed.saved import LAYOUTS, Person, Saved, boxes_of, read_json, refused
from dataengine.experts.preprocess import poses_of

Format = Literal["auto", "openpose", "alphapose", "coco", "lcr", "npz"]
KEPT = 8
"""Clips whose saved people stay in memory: those under way at once in one process."""
FIELDS = ("clip_id", "video_id", "stem", "source")
"""What a pattern may name of a clip; stem is the media file's name without its ending."""
FAR = 1e9
"""A picture so large that every joint lies in it: sizes are not known here, and nothing is cut off."""


@dataclass
class _Live:
    lock: Any = field(default_factory=threading.RLock)
    clips: OrderedDict[str, Saved] = field(default_factory=OrderedDict)
    whole: dict[str, Saved] | None = None
    kind: str | None = None
    layout: str | None = None


@dataclass(frozen=True)
class Precomputed:
    """Poses that another program saved.

    A clip without saved output, or with a torn or foreign file, fails with `expert_failed` and the place that was
    looked at. A frame that the output does not list has nobody in it.

    Attributes:
        folder: where the saved files lie.
        format: auto tells it from what lies there. One JSON or .npz file a clip, FOLDER/NAME.json; OpenPose: a folder a
            clip, FOLDER/NAME/*_keypoints.json, or all in one; AlphaPose: also FOLDER/NAME/alphapose-results.json; COCO:
            also one FOLDER/results.json for all clips, with FOLDER/images.json.
        pattern: NAME of a clip, made of {clip_id}, {video_id}, {stem} (of the media file) and {source}.
        start: whether saved frames are counted from the clip's first frame or from the media file's.
        offset: number of the first frame in the saved files.
        fps: rate the program was run at where it was not every frame of the video; None: every frame.
        layout: skeleton of the saved joints; auto tells it from their number.
        content: whether the fingerprint is made from the files' content; else from names and sizes alone, fast in
            folders of millions of files, but a file rewritten in its length goes unnoticed: then change `version`.
        version: any text; another one makes another fingerprint.
        min_score: joints below this are not given.
        min_mean: nor people whose mean score is below this.
    """

    folder: str = ""
    format: Format = "auto"
    pattern: str = "{clip_id}"
    start: Literal["clip", "media"] = "clip"
    offset: int = 0
    fps: float | None = None
    layout: str = "auto"
    content: bool = True
    version: str = ""
    min_score: float = 0.05
    min_mean: float = 0.0
    _live: Any = field(default_factory=_Live, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.layout != "auto":
            layout_of(self.layout)
        for name in ("min_score", "min_mean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ComponentError(f"[experts.precomputed] {name} = {getattr(self, name)}: lies in [0, 1]")
        if self.fps is not None and not self.fps > 0:
            raise ComponentError(f"[experts.precomputed] fps = {self.fps}: frames a second, above 0")
        try:
            self.pattern.format(**dict.fromkeys(FIELDS, "x"))
        except (KeyError, IndexError, ValueError) as error:
            allowed = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ComponentError(
                f"[experts.precomputed] pattern = {self.pattern!r}: use {allowed} ({error})"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def needs_boxes(self) -> bool:
        return False

    @property
    def skeleton(self) -> str:
        """The given layout, else that of the number of joints in the first saved file with people."""
        if self.layout != "auto":
            return self.layout
        with self._live.lock:
            if self._live.layout is None:
                self._live.layout = self._found_layout()
            return str(self._live.layout)

    def check(self) -> None:
        """Raise what would fail every clip.

        Raises:
            ComponentError: the folder does not exist, or its format or layout cannot be told.
        """
        _ = self.kind, self.skeleton

    def weights(self) -> dict[str, str]:
        """One hash over the saved files, see `content`.

        Raises:
            ComponentError: the folder does not exist.
        """
        hasher = blake3(self.version.encode() + b"\0")
        for path in self._files():
            hasher.update(f"{path.relative_to(self._root).as_posix()}\0{path.stat().st_size}\0".encode())
            if self.content:
                hasher.update(blake3(path.read_bytes()).digest())
        return {"saved poses": hasher.hexdigest()}

    def load(self, device: str = "cpu") -> None:
        """Check that there is something to read; saved files need no device."""
        del device
        self.check()

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Pictures do not tell which clip they are of.

        Raises:
            ExpertError: always; `recall` is what answers.
        """
        raise ExpertError(
            "expert_failed",
            "saved poses are looked up by clip: call recall(clip, indices, timestamps, fps)",
            retryable=False,
        )

    def recall(self, clip: Clip, indices: Int, timestamps: Float, fps: Fraction) -> list[Poses]:
        """What is saved for some frames of a clip; in any thread.

        Args:
            clip: the clip. indices: (T,) places of the frames within its span. timestamps: (T,) seconds from the span's
                start. fps: of the video.

        Returns:
            One `Poses` a frame.

        Raises:
            ExpertError: nothing is saved for the clip, or it cannot be read.
        """
        saved = self._saved(clip)
        wanted = self.numbers(clip, indices, timestamps, fps)
        if saved.last is not None and len(indices) and indices[0] == 0 and wanted[0] > saved.last:
            raise refused(saved.where, f"ends at frame {saved.last}, before the clip's first, {wanted[0]}")
        return [self._poses(saved.people.get(int(n), [])) for n in wanted]

    def numbers(self, clip: Clip, indices: Int, timestamps: Float, fps: Fraction) -> Int:
        """The numbers (T,) that frames of a clip have in its saved output."""
        begin = (clip.span_start or 0.0) if self.start == "media" else 0.0
        if self.fps is not None:
            return np.asarray(np.round((timestamps + begin) * self.fps).astype(np.int64) + self.offset)
        # the first frame at or after the span's start, which the decoder takes to the millisecond
        first = max(0, math.ceil((begin - 0.001) * fps))
        return np.asarray(np.asarray(indices, np.int64) + first + self.offset)

    @property
    def kind(self) -> str:
        """The format, given or told by what lies in the folder.

        Raises:
            ComponentError: there is no folder, or nothing in it that is known.
        """
        if self.format != "auto":
            return self.format
        with self._live.lock:
            if self._live.kind is None:
                self._live.kind = self._found_kind(self._root)
            return str(self._live.kind)

    def _found_kind(self, root: Path) -> str:
        if openpose.has(root):
            return "openpose"
        if any(root.glob(f"*/{results.ALPHAPOSE}")):
            return "alphapose"
        if (root / results.IMAGES).is_file() and (root / results.ALL).is_file():
            return "coco"
        if any(root.glob("*.npz")):
            return "npz"
        files = sorted(root.glob("*.json"))
        if not files:
            raise ComponentError(f"[experts.precomputed] {root} holds no saved poses: no .json or .npz file")
        for file in files[:KEPT]:
            with suppress(ExpertError):
                content = read_json(file)
                return "lcr" if isinstance(content, dict) and "frames" in content else "coco"
        raise ComponentError(f"[experts.precomputed] the first files of {root} are torn or no JSON: give format")

    @property
    def _root(self) -> Path:
        root = Path(self.folder).expanduser()
        if not self.folder or not root.is_dir():
            raise ComponentError(
                f"[experts.precomputed] folder = {self.folder!r} is no folder: say where the saved poses lie"
            )
        return root

    def _files(self) -> list[Path]:
        return sorted(p for p in self._root.rglob("*") if p.suffix in (".json", ".npz") and p.is_file())

    def _found_layout(self) -> str:
        for saved in self._samples():
            if saved.num_joints is not None:
                if saved.num_joints not in LAYOUTS:
                    raise ComponentError(
                        f"[experts.precomputed] {saved.where} has {saved.num_joints} joints: give layout"
                    )
                return LAYOUTS[saved.num_joints]
        raise ComponentError(f"[experts.precomputed] nobody is found in the first files of {self.folder}: give layout")

    def _samples(self) -> Iterator[Saved]:
        """What can be read of the first files, to look at."""
        kind, root = self.kind, self._root
        if kind == "coco" and (root / results.IMAGES).is_file():
            yield from self._all().values()
            return
        places = sorted({p.parent for p in self._files()}) if kind == "openpose" else self._files()
        for place in places[:KEPT]:
            with suppress(ExpertError):  # a damaged file fails its own clip
                yield openpose.read(place) if kind == "openpose" else self._read(kind, place)

    def _all(self) -> dict[str, Saved]:
        with self._live.lock:
            if self._live.whole is None:
                self._live.whole = results.read_all(self._root)
            return dict(self._live.whole)

    def _saved(self, clip: Clip) -> Saved:
        with self._live.lock:
            saved: Saved | None = self._live.clips.get(clip.clip_id)
            if saved is None:
                saved = self._live.clips[clip.clip_id] = self._open(clip)
                joints = layout_of(self.skeleton).num_joints
                if saved.num_joints not in (None, joints):
                    raise refused(
                        saved.where, f"has {saved.num_joints} joints, {self.skeleton} has {joints}: give layout"
                    )
                if len(self._live.clips) > KEPT:
                    self._live.clips.popitem(last=False)
            return saved

    def _open(self, clip: Clip) -> Saved:
        kind, root = self.kind, self._root
        values = {name: getattr(clip, name, "") for name in FIELDS} | {"stem": PurePosixPath(clip.media).stem}
        name = self.pattern.format(**values)
        if kind == "coco" and (root / results.IMAGES).is_file():
            if name not in self._all():
                raise refused(root / results.ALL, f"holds nothing for {clip.clip_id}: no image of {name!r}")
            return self._all()[name]
        if kind == "openpose":
            return openpose.read(root / name)
        places = [root / f"{name}.npz"] if kind == "npz" else [root / f"{name}.json"]
        places += [root / name / results.ALPHAPOSE] if kind in ("alphapose", "coco") else []
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise refused(" or ".join(map(str, places)), f"there is nothing for {clip.clip_id}")
        return self._read(kind, found)

    @staticmethod
    def _read(kind: str, path: Path) -> Saved:
        return {"alphapose": results.read, "coco": results.read, "lcr": lcr.read, "npz": arrays.read}[kind](path)

    def _poses(self, people: Sequence[Person]) -> Poses:
        if not people:
            return Poses.empty(layout_of(self.skeleton).num_joints)
        coords, scores = np.stack([p.coords for p in people]), np.stack([p.scores for p in people])
        return poses_of(coords, scores, boxes_of(people), int(FAR), int(FAR), self.min_score, self.min_mean)
