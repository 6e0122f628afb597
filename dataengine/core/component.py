"""Components are configuration; `load(device)` returns a session that owns what runs.

A component is a frozen dataclass. Its fields are its whole configuration: two components with equal
fields are equal, pickle, and enter fingerprints as they are. Nothing that runs is kept in a component.

A session is what `load` returns. It owns the network, the lock or the process, and is closed once:

    with experts.create("vitpose").load("cuda") as session:
        poses = session.predict(frames, boxes)

Each kind of component has a base class. What it does not have to say has a default here, so that
callers ask the base class and never whether a method is there.
"""

from __future__ import annotations

import atexit
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, cast

import numpy as np

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import COMMON, gives
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Clip, Float, Frames, Fused, Int, LabelledFrame, Lifted, Poses, Sample, Track

if TYPE_CHECKING:
    from torch import Tensor, nn

S = TypeVar("S", bound="Session")


class Component:
    """The base of all components: pure configuration.

    Attributes:
        extra: the extra of the package whose libraries the component needs; None: the core is enough.
        title: how messages name the component, for example "[experts.vitpose]".
        programs: modules that run in a process of their own, so that no import names them. Results depend on them as
            on the component's own code.
    """

    extra: ClassVar[str | None] = None
    title: ClassVar[str] = ""
    programs: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raise what would fail every clip, before any work: a missing program, folder or key. Default: nothing."""

    def needs(self) -> list[str]:
        """Names of files of the manifest of weights that must lie on this machine. Default: none."""
        return []

    def weights(self) -> dict[str, str]:
        """Weight files by name, with their sha256 or blake3; part of every fingerprint. Default: none.

        Raises:
            WeightsError: a file is not here, or is another one.
        """
        return {}


class Session:
    """What runs: owns a network, a lock, a process or threads until it is closed. A context manager.

    Subclasses give back what they own in `release`, which is called once.

    Attributes:
        concurrent: whether several threads may use the session at the same time.
        upload: brings frames (T, H, W, 3) to the accelerator of the session, which takes what it returns in place of
            frames. Callers upload frames once for all sessions. None: the session takes frames of the host.
    """

    concurrent: ClassVar[bool] = False
    upload: Callable[[Frames], Any] | None = None
    _closed: bool = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Give back what the session owns. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            self.release()

    def release(self) -> None:
        """Give back what the session owns; called once, by `close`. Default: nothing."""

    def require_open(self) -> None:
        """Raise where the session was closed.

        Raises:
            ComponentError: the session is closed.
        """
        if self._closed:
            raise ComponentError(f"{type(self).__name__} is closed: load the component again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SessionCache:
    """Sessions that one process keeps: opened once for a purpose, closed when another is wanted and at exit.

    A worker runs many units with one recipe. The session of a purpose (for example the pose pass) stays
    open from unit to unit; a new key, as of another recipe or device, closes it and opens the next.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Session]] = {}

    def get(self, purpose: str, key: object, load: Callable[[], S]) -> S:
        """The open session of a purpose; `load` opens it where there is none under this key."""
        known, session = self._kept.get(purpose, (None, None))
        if session is not None and not session.closed and known == key:
            return cast(S, session)
        if session is not None:
            del self._kept[purpose]
            session.close()
        opened = load()
        self._kept[purpose] = key, opened
        return opened

    def close(self) -> None:
        """Close every session."""
        while self._kept:
            _, (_, session) = self._kept.popitem()
            session.close()


SESSIONS = SessionCache()
"""The sessions of this process."""
atexit.register(SESSIONS.close)


@dataclass(frozen=True)
class ClipFrames:
    """Consecutive frames of one clip.

    Attributes:
        clip: the clip.
        frames: (T, H, W, 3) uint8 RGB; for sessions that upload frames, what their `upload` made of them.
        indices: (T,) int64, numbers of the frames within the clip's span, from 0.
        timestamps: (T,) float64 seconds from the span's start.
        fps: frames per second of the video.
    """

    clip: Clip
    frames: Frames
    indices: Int
    timestamps: Float
    fps: Fraction

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> ClipFrames:
        return ClipFrames(self.clip, self.frames[part], self.indices[part], self.timestamps[part], self.fps)


class Batcher(Protocol):
    """Runs a network on many images in batches (see `dataengine.experts.batching`)."""

    def run(self, network: Any, pixels: Any) -> list[Any]:
        """One answer per image of (N, h, w, 3) uint8 `pixels`, on the host or on a device."""
        ...


class ExpertSession(Session, ABC):
    """A pose estimator that is ready to predict."""

    @abstractmethod
    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Find people and their joints.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            boxes: one (M, 4 or 5) array of person boxes per frame, xyxy pixels and score; only top-down experts
                look at them.

        Returns:
            One `Poses` per frame.

        Raises:
            ExpertError: the frames cannot be processed.
        """

    def start_clip(self) -> None:
        """Begin a new clip. Experts that remember earlier frames forget them. Default: nothing."""

    def observe(self, batch: ClipFrames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses in the next frames of a clip, as `predict`. Experts that look up saved poses need the clip itself."""
        return self.predict(batch.frames, boxes)

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with other sessions from now on. Default: nothing, for experts that do not work in batches."""


class Expert(Component, ABC):
    """A pose estimator (frozen dataclass; its fields are its whole configuration).

    Attributes:
        remembers_frames: whether the poses of a frame depend on earlier frames of the clip.
        looks_up: whether poses are looked up by clip and frame number instead of predicted from pixels.
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None
    remembers_frames: ClassVar[bool] = False
    looks_up: ClassVar[bool] = False

    @property
    @abstractmethod
    def skeleton(self) -> str:
        """Name of the layout of its joints (`dataengine.core.skeletons`)."""

    @property
    def needs_boxes(self) -> bool:
        """Whether the expert is top-down: it looks inside given person boxes."""
        return False

    @property
    def score_calibration(self) -> str | None:
        """Name of the built-in calibration of its scores (`dataengine.fusion.score_calibration`); None: without one,
        scores are used as the expert gives them."""
        return None

    @abstractmethod
    def load(self, device: str = "cpu") -> ExpertSession:
        """Open a session on a device such as 'cpu', 'cuda' or 'cuda:1'.

        Raises:
            MissingExtraError: a library is not installed.
            WeightsError: the weights are not here, or are of another network.
            ComponentError: there is no such device.
        """


class StudentSession(Session, ABC):
    """The network of a student while it learns.

    The loop (`dataengine.refine.loop`) owns what surrounds it: order of frames, optimiser, early stopping, checkpoints.
    What a session does depends on its weights and on its arguments alone, so that a run that was killed goes on as if
    nothing had happened: it keeps no count of steps, and draws random numbers from `rng`, or from torch's generator,
    which the loop seeds before each step.

    Attributes:
        network: the network, on the device of the session. Its `state_dict` is all that learning changes.
    """

    network: nn.Module

    @abstractmethod
    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Tensor]:
        """The loss of a batch of pictures, which may be of any sizes and hold any number of people, also none.

        Args:
            frames: pictures with labels in any layout (`LabelledFrame.skeleton`).
            rng: for augmentation and sampling.
            train: False asks for a validation loss: no augmentation, no gradient, nothing drawn.

        Returns:
            Scalars by name. "loss" is minimised; the others are parts of it, for the learning curve.
        """

    @abstractmethod
    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """What is trained, as groups of an optimiser: "params", a list, and where a group learns at another rate
        "scale", a factor of the rate. Parameters that are named nowhere stay as they are."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write what `Student.expert` loads; the same weights are the same bytes."""


class Student(Component, ABC):
    """A pose estimator that learns from the poses of a build (frozen dataclass; its fields are its configuration).

    Its weights are a generation: a file that `StudentSession.save` wrote and that is never changed.

    Attributes:
        licence: of its code and base weights, where it is not this package's own.
        suffix: of the file of a generation, ".safetensors" or ".onnx".
    """

    licence: ClassVar[str | None] = None
    extra: ClassVar[str | None] = "torch"
    suffix: ClassVar[str] = ".safetensors"

    @property
    @abstractmethod
    def skeleton(self) -> str:
        """Name of the layout of the joints that it predicts (`dataengine.core.skeletons`)."""

    @abstractmethod
    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> StudentSession:
        """Open a session that learns.

        Args:
            device: such as 'cpu', 'cuda' or 'cuda:1'.
            seed: of weights that are drawn.
            checkpoint: weights of an earlier generation; None begins with the base weights.

        Raises:
            MissingExtraError: a library is not installed.
            WeightsError: the weights are not here, or are of another network.
        """

    @abstractmethod
    def expert(self, checkpoint: Path | None) -> Expert:
        """The expert that predicts with the weights of a generation; None: with the base weights, before learning."""


class DetectorSession(Session, ABC):
    """A person detector that is ready to detect."""

    @abstractmethod
    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score per frame of (T, H, W, 3) uint8 RGB, best first."""

    def use_batcher(self, batcher: Batcher) -> None:
        """Share batches with other sessions from now on. Default: nothing."""


class Detector(Component, ABC):
    """A person detector (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    @abstractmethod
    def load(self, device: str = "cpu") -> DetectorSession:
        """Open a session on a device; raises as `Expert.load`."""


class FaceDetector(Component, ABC):
    """A detector of faces, for blurring them (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its code and weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    @abstractmethod
    def load(self, device: str = "cpu") -> DetectorSession:
        """Open a session on a device, whose boxes are of faces; raises as `Expert.load`."""


class FeaturesSession(Session, ABC):
    """A video and a text encoder with one embedding space, ready to encode."""

    @abstractmethod
    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """One embedding per clip.

        Args:
            frames: clips of (T, H, W, 3) uint8 RGB, of any length and size each; or one such array. Either all
                frames of a clip, of which those of the view are taken, or just those of the view.
            view: number of the temporal view.

        Returns:
            (N, D) float32 of unit length.

        Raises:
            ComponentError: frames of another shape or type.
        """

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Float:
        """(N, D) float32 of unit length, one embedding per string.

        Raises:
            ComponentError: something else than strings.
        """


class Features(Component, ABC):
    """A video and a text encoder with one embedding space (frozen dataclass; its fields are its configuration)."""

    views: int
    """Temporal views of a clip that are embedded; view 0 is the encoder's own sampling, the others are shifted in
    time."""
    batch: int
    """Most clips that are encoded at once on an accelerator."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the length of an embedding."""

    @abstractmethod
    def sample_indices(self, num_frames_total: int, view: int = 0) -> list[int]:
        """Numbers of the frames that a view uses of a clip of so many frames, ascending. Only these need decoding."""

    @abstractmethod
    def prepare(self, frames: Frames, view: int = 0) -> Frames:
        """What `encode_video` uses of a clip, as small as possible; encoding the result gives the same embedding."""

    @abstractmethod
    def load(self, device: str = "cpu") -> FeaturesSession:
        """Open a session on a device; raises as `Expert.load`."""

    def _session(self) -> FeaturesSession:
        return SESSIONS.get(f"features {self!r}", self.weights(), self.load)

    def encode_video(self, frames: Sequence[Frames] | Frames, view: int = 0) -> Float:
        """As `FeaturesSession.encode_video`, on the CPU. The session is opened once and kept by this process."""
        return self._session().encode_video(frames, view)

    def encode_text(self, texts: Sequence[str]) -> Float:
        """As `FeaturesSession.encode_text`, on the CPU. The session is opened once and kept by this process."""
        return self._session().encode_text(texts)


class Source(Component, ABC):
    """A source of clips (frozen dataclass; its fields are its whole configuration).

    Attributes:
        makes_media: whether the source makes its own media with `prepare`.
        own_ids: whether video ids are of this source alone, such as names of files, so that no published list of
            videos can name them.
        brings_poses: whether its clips are poses that somebody saved, in place of videos.
    """

    makes_media: ClassVar[bool] = False
    own_ids: ClassVar[bool] = False
    brings_poses: ClassVar[bool] = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes by number, where the source numbers its classes. Default: none."""
        return ()

    @abstractmethod
    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield every planned clip in an order that depends on the files alone.

        A row that cannot be read becomes a clip with a `reason`. A row whose media file is absent becomes a
        clip with `media` ''.

        Raises:
            SourceError: nothing under `root` can be used at all.
        """

    def remarks(self, root: Path) -> Iterator[str]:
        """What a user should know of the files under `root` beside the clips, one line each.

        Raises:
            SourceError: as `discover`.
        """
        return iter(())

    def prepare(self, cache: Path) -> Path:
        """Make the media of a source that makes its own, under a folder for caches.

        Returns:
            The root to give to `discover`.

        Raises:
            ComponentError: the source makes no media.
        """
        raise ComponentError(f"{type(self).__name__} makes no media of its own: say where they lie, NAME=PATH")


class Tracker(Component, ABC):
    """Links poses of single frames to tracks of people."""

    @abstractmethod
    def track(self, frames: Sequence[Sequence[Poses]], timestamps: Any, experts: Sequence[str]) -> list[Track]:
        """The tracks of one clip.

        Args:
            frames: for every frame the `Poses` of each expert, in the layout of that expert.
            timestamps: (T,) seconds, increasing.
            experts: name of each expert's layout.

        Returns:
            Tracks in the common layout, best first.
        """


class Fusion(Component, ABC):
    """Makes one pose sequence of several experts' sequences of one person.

    Attributes:
        combines_scores: whether the score of a joint is the probability that not every expert is wrong, their errors
            taken as independent; else it is the score of the chosen expert.
    """

    combines_scores: ClassVar[bool] = False

    @abstractmethod
    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) float in [0, 1], or None.
            skeleton: layout of the joints, or None.
            expert_weights: weight of each expert, or None for equal weights.
        """


class LifterSession(Session, ABC):
    """A lifter that is ready to lift."""

    @abstractmethod
    def lift(self, keypoints: Float, scores: Float, skeleton: str, size: tuple[int, int]) -> Lifted:
        """Bring one person's poses from the picture into space.

        Args:
            keypoints: (T, V, 2) float pixels, NaN where unseen.
            scores: (T, V) float in [0, 1], 0 where unseen.
            skeleton: layout of the joints; `Lifter.serves` says whether the lifter takes it.
            size: width and height of the picture in pixels.

        Returns:
            The poses in the same layout. Joints that are not seen are filled; frames that lie too far from any frame
            with enough joints are NaN.

        Raises:
            ComponentError: arrays of other shapes, a layout that the lifter does not take, or an impossible size.
        """


class Lifter(Component, ABC):
    """Brings poses from the picture into space (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    def serves(self, skeleton: str) -> bool:
        """Whether the lifter takes poses of a layout. Default: layouts with a head point and the twelve body joints."""
        return gives(skeleton, layout_of(COMMON).joints)

    @abstractmethod
    def load(self, device: str = "cpu") -> LifterSession:
        """Open a session on a device; raises as `Expert.load`."""


class Filter(Component, ABC):
    """Measures a clip; thresholds (its `min` and `max`) decide whether the clip is kept.

    Attributes:
        reason: what a clip is rejected with: a key of `dataengine.core.reasons.REASONS`, or a word of the filter's own.
        meaning: what the reason means, in a few words; needed for a reason that is not built in.
        measured_in: what the value counts, for tables and axes.
        needs_lift: whether it measures poses in space, which only recipes with a lifter make.
    """

    reason: ClassVar[str]
    meaning: ClassVar[str] = ""
    measured_in: ClassVar[str]
    needs_lift: ClassVar[bool] = False

    def check(self) -> None:
        super().check()
        for name in ("reason", "measured_in"):
            if not isinstance(getattr(type(self), name, None), str):
                raise ComponentError(f"filter {type(self).__name__} has no {name}: give it `{name}: ClassVar[str]`")

    @abstractmethod
    def measure(self, sample: Sample) -> float:
        """The value of a clip, NaN where it is undefined."""

    @abstractmethod
    def keep(self, value: float) -> bool:
        """Whether `value` misses no threshold."""

    @abstractmethod
    def missed(self, value: float) -> float | None:
        """The threshold that `value` misses, None when the clip is kept."""
