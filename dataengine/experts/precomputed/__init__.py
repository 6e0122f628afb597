"""Saved output of any pose estimator as an expert: OpenPose, AlphaPose, COCO's results, LCR-Net, arrays.

Nothing is computed: the saved people are looked up for each frame of a clip. So a build can use networks
that no longer run, ran elsewhere, or are not available.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
from blake3 import blake3

from dataengine.core.component import ClipFrames, Expert, ExpertSession
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Clip, Float, Frames, Int, Poses
from dataengine.experts.options import check_ranges
from dataengine.experts.precomputed import arrays, lcr, openpose, results
from dataengine.experts.precomputed.saved import LAYOUTS, Person, Saved, boxes_of, read_json, refused
from dataengine.experts.preprocess import poses_of

Format = Literal["auto", "openpose", "alphapose", "coco", "lcr", "npz"]
KEPT = 8
"""Clips whose saved people stay in memory: those that one process works on at once."""
FIELDS = ("clip_id", "video_id", "stem", "source")
"""Fields of a clip that a pattern may name; stem is the media file's name without its extension."""
FAR = 1e9
"""Side of a frame so large that every joint lies in it: sizes are not known here, and no joint is left out for them."""


@dataclass(frozen=True)
class Precomputed(Expert):
    """Poses that another program saved.

    A clip without saved output, or with a torn or foreign file, fails with `expert_failed`; the message names the
    place. A frame that the output does not list has no people.

    Attributes:
        folder: where the saved files lie.
        format: auto tells it from what lies there. One JSON or .npz file per clip, FOLDER/NAME.json; OpenPose: one
            folder per clip, FOLDER/NAME/*_keypoints.json, or one folder for all; AlphaPose: also
            FOLDER/NAME/alphapose-results.json; COCO: also one FOLDER/results.json for all clips, with
            FOLDER/images.json.
        pattern: NAME of a clip, made of {clip_id}, {video_id}, {stem} (of the media file) and {source}.
        start: whether saved frames are counted from the clip's first frame or from the media file's.
        offset: number of the first frame in the saved files.
        fps: rate the program was run at where it was not every frame of the video; None: every frame.
        layout: skeleton of the saved joints; auto tells it from their number.
        content: whether the fingerprint is made from the content of the files. Otherwise it is made from names and
            sizes alone, which is fast in folders of millions of files; a file rewritten at the same length goes
            unnoticed, so change `version` then.
        version: any text; another text makes another fingerprint.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    title: ClassVar[str] = "[experts.precomputed]"
    looks_up: ClassVar[bool] = True

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

    def __post_init__(self) -> None:
        if self.layout != "auto":
            layout_of(self.layout)
        check_ranges(self)
        if self.fps is not None and not self.fps > 0:
            raise ComponentError(f"[experts.precomputed] fps = {self.fps}: frames per second, above 0")
        try:
            self.pattern.format(**dict.fromkeys(FIELDS, "x"))
        except (KeyError, IndexError, ValueError) as error:
            allowed = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ComponentError(
                f"[experts.precomputed] pattern = {self.pattern!r}: use {allowed} ({error})"
            ) from error

    @property
    def skeleton(self) -> str:
        """The given layout, else that of the number of joints in the first saved file with people.

        Raises:
            ComponentError: the layout cannot be told.
        """
        if self.layout != "auto":
            return self.layout
        for saved in self._samples():
            if saved.num_joints is not None:
                if saved.num_joints not in LAYOUTS:
                    raise ComponentError(
                        f"[experts.precomputed] {saved.where} has {saved.num_joints} joints: give layout"
                    )
                return LAYOUTS[saved.num_joints]
        raise ComponentError(f"[experts.precomputed] nobody is found in the first files of {self.folder}: give layout")

    @property
    def kind(self) -> str:
        """The format, given or told by what lies in the folder.

        Raises:
            ComponentError: there is no folder, or nothing in it that is known.
        """
        return self._found_kind(self.root) if self.format == "auto" else self.format

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
        root, hasher, stamp = self.root, blake3(self.version.encode() + b"\0"), blake3()
        names: list[bytes] = []
        for path in self._files():
            state = path.stat()
            names.append(f"{path.relative_to(root).as_posix()}\0{state.st_size}\0".encode())
            stamp.update(names[-1] + f"{state.st_mtime_ns}\0".encode())
        content = _contents(root.absolute(), stamp.hexdigest()) if self.content else b""
        for number, name in enumerate(names):
            hasher.update(name + content[32 * number : 32 * (number + 1)])
        return {"saved poses": hasher.hexdigest()}

    def load(self, device: str = "cpu") -> PrecomputedSession:
        """Open the folder; saved files need no device.

        Raises:
            ComponentError: as `check`.
        """
        return PrecomputedSession(self)

    def numbers(self, clip: Clip, indices: Int, timestamps: Float, fps: Fraction) -> Int:
        """The numbers (T,) that frames of a clip have in its saved output."""
        begin = (clip.span_start or 0.0) if self.start == "media" else 0.0
        if self.fps is not None:
            return np.asarray(np.round((timestamps + begin) * self.fps).astype(np.int64) + self.offset)
        # the first frame at or after the span's start, which the decoder takes to the millisecond
        first = max(0, math.ceil((begin - 0.001) * fps))
        return np.asarray(np.asarray(indices, np.int64) + first + self.offset)

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
    def root(self) -> Path:
        """The folder.

        Raises:
            ComponentError: it does not exist.
        """
        root = Path(self.folder).expanduser()
        if not self.folder or not root.is_dir():
            raise ComponentError(
                f"[experts.precomputed] folder = {self.folder!r} is no folder: say where the saved poses lie"
            )
        return root

    def _files(self) -> list[Path]:
        return _saved_files(self.root)

    def _samples(self) -> Iterator[Saved]:
        """What can be read of the first files."""
        kind, root = self.kind, self.root
        if kind == "coco" and (root / results.IMAGES).is_file():
            yield from results.read_all(root).values()
            return
        places = sorted({p.parent for p in self._files()}) if kind == "openpose" else self._files()
        for place in places[:KEPT]:
            with suppress(ExpertError):  # a damaged file fails its own clip
                yield openpose.read(place) if kind == "openpose" else read_file(kind, place)


def _saved_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.suffix in (".json", ".npz") and p.is_file())


@lru_cache(maxsize=4)
def _contents(root: Path, stamp: str) -> bytes:
    """Hashes of 32 bytes of the saved files, in order. A build asks several times: files are read again only when
    names, lengths or times of change, which `stamp` stands for, are others."""
    del stamp
    return b"".join(blake3(path.read_bytes()).digest() for path in _saved_files(root))


def read_file(kind: str, path: Path) -> Saved:
    """The saved people in one file of a format.

    Raises:
        ExpertError: torn, or of another form.
    """
    return {"alphapose": results.read, "coco": results.read, "lcr": lcr.read, "npz": arrays.read}[kind](path)


class PrecomputedSession(ExpertSession):
    """Saved poses, ready to be looked up by any number of threads.

    Raises:
        ComponentError: as `Precomputed.check`.
    """

    concurrent: ClassVar[bool] = True

    def __init__(self, options: Precomputed) -> None:
        self.options = options
        self.root = options.root
        self.kind = options.kind
        self.skeleton = options.skeleton
        self._lock = threading.RLock()
        self._clips: OrderedDict[str, Saved] = OrderedDict()
        self._whole: dict[str, Saved] | None = None

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Images do not tell which clip they are of.

        Raises:
            ExpertError: always; `observe` looks up.
        """
        raise ExpertError(
            "expert_failed",
            "saved poses are looked up by clip: call observe(ClipFrames(...)), or lookup",
            retryable=False,
        )

    def observe(self, batch: ClipFrames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """What is saved for the frames of a batch; raises as `lookup`."""
        height, width = batch.frames.shape[1:3]
        return self.lookup(batch.clip, batch.indices, batch.timestamps, batch.fps, (width, height))

    def lookup(
        self, clip: Clip, indices: Int, timestamps: Float, fps: Fraction, size: tuple[int, int] | None = None
    ) -> list[Poses]:
        """What is saved for some frames of a clip.

        Args:
            clip: the clip.
            indices: (T,) numbers of the frames within its span.
            timestamps: (T,) seconds from the start of the span.
            fps: frames per second of the video.
            size: width and height of its pictures, by which coordinates from 0 to 1 are told and scaled; None takes
                all coordinates for pixels.

        Returns:
            One `Poses` per frame.

        Raises:
            ExpertError: nothing is saved for the clip, or it cannot be read.
        """
        self.require_open()
        saved = self._saved(clip, size)
        wanted = self.options.numbers(clip, indices, timestamps, fps)
        if saved.last is not None and len(indices) and indices[0] == 0 and wanted[0] > saved.last:
            raise refused(saved.where, f"ends at frame {saved.last}, before the clip's first, {wanted[0]}")
        return [self._poses(saved.people.get(int(n), [])) for n in wanted]

    @property
    def num_kept(self) -> int:
        """Clips whose saved people are in memory."""
        return len(self._clips)

    def release(self) -> None:
        """Forget what was read."""
        with self._lock:
            self._clips.clear()
            self._whole = None

    def _all(self) -> dict[str, Saved]:
        """Every clip of one file of results for all clips."""
        with self._lock:
            if self._whole is None:
                self._whole = results.read_all(self.root)
            return self._whole

    def _saved(self, clip: Clip, size: tuple[int, int] | None) -> Saved:
        with self._lock:
            saved = self._clips.get(clip.clip_id)
            if saved is None:
                saved = self._open(clip)
                saved = self._clips[clip.clip_id] = saved if size is None else saved.in_pixels(*size)
                joints = layout_of(self.skeleton).num_joints
                if saved.num_joints not in (None, joints):
                    raise refused(
                        saved.where, f"has {saved.num_joints} joints, {self.skeleton} has {joints}: give layout"
                    )
                if len(self._clips) > KEPT:
                    self._clips.popitem(last=False)
            return saved

    def _open(self, clip: Clip) -> Saved:
        kind, root = self.kind, self.root
        values = {
            "clip_id": clip.clip_id,
            "video_id": clip.video_id,
            "source": clip.source,
            "stem": PurePosixPath(clip.media).stem,
        }
        name = self.options.pattern.format(**values)
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
        return read_file(kind, found)

    def _poses(self, people: Sequence[Person]) -> Poses:
        if not people:
            return Poses.empty(layout_of(self.skeleton).num_joints)
        coords, scores = np.stack([p.coords for p in people]), np.stack([p.scores for p in people])
        least = self.options.min_score, self.options.min_mean
        return poses_of(coords, scores, boxes_of(people), int(FAR), int(FAR), *least)
