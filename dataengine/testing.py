"""The promises of each kind of component as checks, for the tests of this package and of packages that add components.

    from dataengine import testing

    def test_my_expert() -> None:
        testing.check_expert(MyExpert())

Each function raises `AssertionError` with one sentence about the first promise that is broken. Nothing here needs a
test framework.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.component import (
    Component,
    Detector,
    Expert,
    ExpertSession,
    Features,
    Filter,
    Fusion,
    Lifter,
    Session,
    Source,
    Student,
    Tracker,
)
from dataengine.core.describe import summary
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import COMMON, convert, positions, skeleton
from dataengine.core.types import CLIP_FIELDS, SPLITS, Clip, Float, Frames, LabelledFrame, Poses, Sample

SIZES = ((0, 64, 64), (1, 1, 1), (2, 300, 1), (2, 1, 300), (2, 121, 83))
"""(T, H, W) of frames that every expert and detector must take."""


def require(condition: object, message: str) -> None:
    """Raise where a promise is broken."""
    if not condition:
        raise AssertionError(message)


def check_component(component: Component) -> None:
    """What every component promises: a frozen, documented configuration that pickles and compares by its fields."""
    name = type(component).__name__
    require(isinstance(component, Component), f"{name} is no Component")
    require(len(summary(type(component))) > 20, f"{name} has no docstring that says what it is")
    fields = registry.config(component)
    again = type(component)(**fields)
    require(again == component, f"{name} made of its own fields is not equal to itself")
    require(registry.config(again) == fields, f"{name} changes its fields when it is made")
    sent = pickle.loads(pickle.dumps(component))  # noqa: S301, bytes of our own making
    require(sent == component and registry.config(sent) == fields, f"{name} does not pickle")
    hidden = [f.name for f in dataclasses.fields(component) if not f.init]  # type: ignore[arg-type]
    require(not hidden, f"{name} keeps {hidden} beside its options: what runs belongs to a session")
    try:
        component.anything = 1  # type: ignore[attr-defined]
    except AttributeError:
        pass
    else:
        raise AssertionError(f"{name} is not frozen")
    require(all(isinstance(file, str) for file in component.needs()), f"{name}.needs() are names of files")


def check_weights(component: Component) -> None:
    """Hashes of weights are blake3 or sha256, and their names say nothing of this machine."""
    for file, digest in component.weights().items():
        require(re.fullmatch(r"[0-9a-f]{64}", digest), f"weights {file!r} have no hash of 64 hexadecimal digits")
        require(not file.startswith("/"), f"the name of weights {file!r} is a path of this machine")


def check_session(session: Session) -> None:
    """A session closes any number of times, and `close` ends it."""
    session.close()
    session.close()
    require(session.closed, f"{type(session).__name__} is not closed by close()")


def check_poses(poses: Sequence[Poses], num_frames: int, num_joints: int) -> None:
    """The rules of poses: one per frame, shapes, dtypes, scores in [0, 1], and NaN exactly where the score is 0."""
    require(len(poses) == num_frames, f"{len(poses)} poses for {num_frames} frames")
    for pose in poses:
        m = len(pose)
        shapes = (pose.coords.shape, pose.scores.shape, pose.boxes.shape)
        wanted = ((m, num_joints, 2), (m, num_joints), (m, 5))
        require(shapes == wanted, f"shapes of coords, scores and boxes are {shapes}, not {wanted}")
        kinds = {str(a.dtype) for a in (pose.coords, pose.scores, pose.boxes)}
        require(kinds == {"float32"}, f"poses are {sorted(kinds)}, not float32")
        missing = np.isnan(pose.coords)
        require(np.array_equal(missing.any(-1), missing.all(-1)), "a joint has one coordinate without the other")
        require(np.array_equal(missing.any(-1), pose.scores == 0), "a joint is NaN exactly where its score is 0")
        require(((pose.scores >= 0) & (pose.scores <= 1)).all(), "scores lie in [0, 1]")
        require(np.isfinite(pose.boxes).all(), "boxes are finite")
        require((pose.boxes[:, 2:4] >= pose.boxes[:, :2]).all(), "boxes are x0, y0, x1, y1, score")


def same_poses(a: Sequence[Poses], b: Sequence[Poses], atol: float = 0.0) -> bool:
    """Whether two lists of poses are the same, within `atol` pixels (and a hundredth of that in scores)."""

    def same(x: Float, y: Float, most: float) -> bool:
        return x.shape == y.shape and np.allclose(x, y, rtol=0, atol=most, equal_nan=True)

    return len(a) == len(b) and all(
        same(p.coords, q.coords, atol) and same(p.scores, q.scores, atol / 100) and same(p.boxes, q.boxes, atol)
        for p, q in zip(a, b)
    )


def example_frames(shape: tuple[int, int, int] = (4, 96, 128), seed: int = 0) -> Frames:
    """(T, H, W, 3) uint8: noise around a bright block."""
    frames = np.random.default_rng(seed).integers(0, 120, (*shape, 3), dtype=np.uint8)
    frames[:, shape[1] // 4 : 3 * shape[1] // 4, shape[2] // 3 : 2 * shape[2] // 3] += 100
    return frames


def whole_boxes(frames: Frames) -> list[Float]:
    """One box around each whole frame."""
    return [np.array([[0, 0, frames.shape[2], frames.shape[1], 1]], np.float32)] * len(frames)


def predict(
    expert: Expert, session: ExpertSession, frames: Frames, boxes: Sequence[Float] | None = None
) -> list[Poses]:
    """The poses of an expert in a clip of its own; top-down experts get whole frames where no boxes are given."""
    session.start_clip()
    return session.predict(frames, (boxes or whole_boxes(frames)) if expert.needs_boxes else None)


def check_expert(expert: Expert, frames: Frames | None = None, device: str = "cpu") -> None:
    """What every expert promises, except those that look up saved poses.

    Args:
        frames: (T, H, W, 3) uint8 frames to predict on, T at least 2.
    """
    check_component(expert)
    check_weights(expert)
    joints = skeleton(expert.skeleton).num_joints
    require(isinstance(expert.needs_boxes, bool), "needs_boxes is True or False")
    given = example_frames() if frames is None else frames
    before = given.copy()
    with expert.load(device) as session:
        first = predict(expert, session, given)
        check_poses(first, len(given), joints)
        require(np.array_equal(given, before), "the frames were changed")
        require(same_poses(first, predict(expert, session, given)), "the same frames give other poses")
        given.flags.writeable = False
        mirrored = given[:, :, ::-1]
        require(
            same_poses(
                predict(expert, session, mirrored), predict(expert, session, np.ascontiguousarray(mirrored)), 0.0
            ),
            "poses depend on the memory order of frames",
        )
        check_batches(expert, session, given)
        for shape in SIZES:
            for some in (example_frames(shape), np.zeros((*shape, 3), np.uint8)):
                check_poses(predict(expert, session, some), len(some), joints)
        if expert.needs_boxes:
            odd = [
                np.zeros((0, 5), np.float32),
                np.array([[-50, -50, 20, 20, 0.5], [4000, 300, 5000, 400, 0.5]], np.float32),
            ]
            poses = session.predict(given[:2], odd)
            check_poses(poses, 2, joints)
            require(len(poses[0]) == 0, "there are poses without boxes")
    check_session(session)
    with expert.load(device) as second:
        require(same_poses(first, predict(expert, second, given)), "another session gives other poses")


def check_batches(expert: Expert, session: ExpertSession, frames: Frames) -> None:
    """How a clip is split into batches changes nothing, apart from the order of sums."""
    whole = predict(expert, session, frames)
    parts = predict(expert, session, frames[:1])
    boxes = whole_boxes(frames)
    parts += session.predict(frames[1:], boxes[1:] if expert.needs_boxes else None)
    require(same_poses(whole, parts, 0.1), "poses depend on how a clip is split into batches")


def example_labels(count: int = 3, seed: int = 0) -> list[LabelledFrame]:
    """Pictures of different sizes with none, one or two labelled people; one joint of a person has no label."""
    made = []
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        image = example_frames((1, 96 + 8 * n, 128), seed + n)[0]
        people = (n + 1) % 3
        points = rng.uniform((30, 20), (90, 80), (people, 13, 2)).astype(np.float32)
        scores = rng.uniform(0.5, 1, (people, 13)).astype(np.float32)
        points[:, 3], scores[:, 3] = np.nan, 0
        low, high = np.nanmin(points, 1), np.nanmax(points, 1)
        room = 0.05 * (high - low)
        made.append(
            LabelledFrame(f"clip:{n}", image, points, scores, np.concatenate([low - room, high + room], -1), COMMON)
        )
    return made


def check_student(student: Student, folder: Path, device: str = "cpu") -> None:
    """What every student promises.

    Args:
        folder: for the weights that are written.
    """
    import torch

    check_component(student)
    check_weights(student)
    joints = skeleton(student.skeleton).num_joints
    frames = example_labels()

    def one_step() -> bytes:
        path = folder / f"weights{student.suffix}"
        with student.start(device, seed=3) as session:
            torch.manual_seed(5)
            groups = [{"params": list(group["params"])} for group in session.parameters()]
            require(any(group["params"] for group in groups), "nothing is trained")
            optimizer = torch.optim.SGD(groups, lr=1e-4)
            loss = session.loss(frames, np.random.default_rng(0), train=True)["loss"]
            require(loss.ndim == 0 and bool(torch.isfinite(loss)), "the loss is one finite number")
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                held = [float(session.loss(frames, np.random.default_rng(n), False)["loss"]) for n in (1, 2)]
            require(held[0] == held[1], "a validation loss depends on what is drawn")
            session.save(path)
        check_session(session)
        return path.read_bytes()

    first = one_step()
    require(first == one_step(), "the same step gives other weights")
    path = folder / f"weights{student.suffix}"
    with student.start(device, 3, path) as session:
        session.save(again := folder / f"again{student.suffix}")
    require(again.read_bytes() == first, "weights that are read and written are other weights")
    for checkpoint in (None, path):
        expert = student.expert(checkpoint)
        require(expert.skeleton == student.skeleton, "student and expert have different layouts")
        given = example_frames((2, 96, 128))
        with expert.load(device) as predicting:
            check_poses(predict(expert, predicting, given), len(given), joints)


def check_detector(detector: Detector, frames: Frames | None = None, device: str = "cpu") -> None:
    """What every person detector promises."""
    check_component(detector)
    check_weights(detector)
    given = example_frames() if frames is None else frames
    with detector.load(device) as session:
        for some in (given, *(np.zeros((*shape, 3), np.uint8) for shape in SIZES)):
            found = session.detect(some)
            require(len(found) == len(some), "one array of boxes per frame")
            for boxes in found:
                require(boxes.shape[1:] == (5,) and boxes.dtype == np.float32, "boxes are (M, 5) float32")
                require(np.isfinite(boxes).all(), "boxes are finite")
                require((boxes[:, 2:4] > boxes[:, :2]).all(), "boxes are x0, y0, x1, y1, score")
                require((np.diff(boxes[:, 4]) <= 0).all(), "boxes come best first")
        again = session.detect(given)
        require(
            all(np.array_equal(a, b) for a, b in zip(session.detect(given), again)), "the same frames give other boxes"
        )
    check_session(session)


def check_features(features: Features, device: str = "cpu") -> None:
    """What every pair of a video and a text encoder promises."""
    check_component(features)
    check_weights(features)
    clip = example_frames((20, 36, 48))
    indices = features.sample_indices(len(clip))
    require(indices == sorted(indices) and indices[0] >= 0 and indices[-1] < len(clip), "indices ascend in the clip")
    with features.load(device) as session:
        video, text = session.encode_video([clip, clip[::-1]]), session.encode_text(["walking", "yoga"])
        for found in (video, text):
            require(found.shape == (2, features.dim) and found.dtype == np.float32, "embeddings are (N, D) float32")
            require(np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3), "embeddings have unit length")
        require(np.array_equal(session.encode_video([clip])[0], video[0]), "an embedding depends on other clips")
        require(np.array_equal(session.encode_text(["yoga"])[0], text[1]), "an embedding depends on other strings")
        require(
            np.array_equal(session.encode_video([features.prepare(clip)])[0], video[0]),
            "what `prepare` gives has another embedding",
        )
        require(session.encode_video([]).shape == (0, features.dim), "no clips give (0, D)")
        require(session.encode_text([]).shape == (0, features.dim), "no strings give (0, D)")
    check_session(session)


def example_tracks(experts: int = 3, frames: int = 40, seed: int = 0) -> tuple[Float, Float]:
    """Coords (E, T, 13, 2) and scores (E, T, 13) of a walking person as experts might give them, some joints
    missing."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 1, (1, frames, 1, 2)), 1) + rng.uniform(100, 200, (1, 1, 13, 2))
    coords = (walk + rng.normal(0, 2, (experts, frames, 13, 2))).astype(np.float32)
    scores = rng.uniform(0.2, 1, (experts, frames, 13)).astype(np.float32)
    gone = rng.random(scores.shape) < 0.1
    coords[gone], scores[gone] = np.nan, 0
    return coords, scores


def check_fusion(fusion: Fusion) -> None:
    """What every fusion promises."""
    check_component(fusion)
    for experts in (1, 3):
        coords, scores = example_tracks(experts)
        before = coords.copy()
        fused = fusion.fuse(coords, scores, COMMON, [1.0] * experts)
        again = fusion.fuse(coords, scores, COMMON, [1.0] * experts)
        frames = coords.shape[1]
        require(np.array_equal(coords, before, equal_nan=True), "the coordinates given were changed")
        shapes = {
            "coords": ((frames, 13, 2), np.float32), "scores": ((frames, 13), np.float32),
            "confidence": ((frames,), np.float32), "support": ((frames,), np.int32),
            "kept": ((frames,), np.bool_), "winner": ((frames, 13), np.int8),
        }  # fmt: skip
        for name, (shape, dtype) in shapes.items():
            found = getattr(fused, name)
            require(found.shape == shape and found.dtype == dtype, f"{name} is {found.shape} {found.dtype}")
            require(np.array_equal(found, getattr(again, name), equal_nan=name == "coords"), f"{name} differs per call")
        require(((fused.scores >= 0) & (fused.scores <= 1)).all(), "scores lie in [0, 1]")
        require(((fused.confidence >= 0) & (fused.confidence <= 1)).all(), "confidence lies in [0, 1]")
        require((fused.winner < experts).all(), "a winner is an expert, -1 or -2")
    nothing = fusion.fuse(np.full((2, 5, 13, 2), np.nan, np.float32), None, COMMON)
    require(np.isnan(nothing.coords).all() and (nothing.confidence == 0).all(), "nothing seen gives NaN and C = 0")


def check_lifter(lifter: Lifter, skeleton_name: str = "posetics17", device: str = "cpu") -> None:
    """What every lifter promises.

    Args:
        skeleton_name: a layout that the lifter takes.
    """
    check_component(lifter)
    check_weights(lifter)
    require(lifter.serves(skeleton_name), f"serves({skeleton_name!r}) is not True")
    tracks, told = example_tracks(1, 40)
    coords, scores = convert(tracks[0], told[0], COMMON, skeleton_name)
    coords[10, 6] = np.nan
    scores[10, 6] = 0
    before = coords.copy(), scores.copy()
    frames, joints = scores.shape
    with lifter.load(device) as session:
        first = session.lift(coords, scores, skeleton_name, (320, 240))
        again = session.lift(coords, scores, skeleton_name, (320, 240))
        nothing = session.lift(np.full_like(coords, np.nan), np.zeros_like(scores), skeleton_name, (320, 240))
        one = session.lift(coords[:1], scores[:1], skeleton_name, (320, 240))
        none = session.lift(coords[:0], scores[:0], skeleton_name, (320, 240))
        for joints_given, told_given, size in (
            (coords[:, :3], scores, (320, 240)), (coords, scores[:3], (320, 240)), (coords, scores, (0, 240)),
        ):  # fmt: skip
            try:
                session.lift(joints_given, told_given, skeleton_name, size)
            except ComponentError as error:
                require("\n" not in str(error), "an error is one line")
            else:
                raise AssertionError("lift takes arrays of wrong shape or an impossible size")
        check_session(session)
    require(np.array_equal(coords, before[0], equal_nan=True), "the keypoints given were changed")
    require(np.array_equal(scores, before[1]), "the scores given were changed")
    for made, count in ((first, frames), (nothing, frames), (one, 1), (none, 0)):
        shapes = (made.keypoints3d.shape, made.reprojection_error.shape)
        require(shapes == ((count, joints, 3), (count,)), f"keypoints3d and reprojection_error are {shapes}")
        kinds = {str(made.keypoints3d.dtype), str(made.reprojection_error.dtype)}
        require(kinds == {"float32"}, f"lifted poses are {sorted(kinds)}, not float32")
    require(np.array_equal(first.keypoints3d, again.keypoints3d, equal_nan=True), "lifting again gives other poses")
    require(np.isnan(nothing.keypoints3d).all(), "nothing seen gives NaN")
    require(np.isnan(nothing.reprojection_error).all(), "nothing seen has no reprojection error")
    hips = positions(first.keypoints3d, skeleton_name, ("mid_hip",))
    require(np.abs(hips).max() < 1e-4, "the middle of the hips is the origin")
    body = positions(first.keypoints3d, skeleton_name, skeleton(COMMON).joints)
    require(np.isfinite(body[10]).all(), "a joint that is not seen in one frame is filled")
    require((first.reprojection_error >= 0).all(), "reprojection errors are not negative")


def example_sample(frames: int = 30, seed: int = 0) -> Sample:
    """A clip of one walking person as filters get it."""
    coords, scores = example_tracks(1, frames, seed)
    unknown, one = np.full((1, frames, 13), np.nan), np.ones((1, frames))
    return Sample(
        320, 240, 25.0, COMMON, coords, scores, one.astype(np.float32), (13 * one).astype(np.int32), unknown,
        np.ones(frames, np.int32), np.zeros(frames, np.float32),
    )  # fmt: skip


def check_filter(found: Filter) -> None:
    """What every filter promises."""
    check_component(found)
    require(re.fullmatch(r"[a-z0-9_]+", found.reason), f"reason {found.reason!r} is a word of small letters")
    require(found.measured_in, "`measured_in` says what the value counts")
    sample = example_sample()
    before = pickle.dumps(dataclasses.astuple(sample))
    value = found.measure(sample)
    require(isinstance(value, float), f"measure gives {type(value).__name__}, not float")
    require(pickle.dumps(dataclasses.astuple(sample)) == before, "the sample was changed")
    require(value == found.measure(sample) or math.isnan(value), "the same sample gives another value")
    require(isinstance(found.measure(dataclasses.replace(sample, fps=50.0)), float), "any frame rate is measured")
    require(found.keep(value) == (found.missed(value) is None), "a value is kept where it misses no threshold")
    require(found.keep(math.nan), "a clip without anything to measure is kept")


def check_tracker(tracker: Tracker) -> None:
    """What every tracker promises."""
    check_component(tracker)
    coords, scores = example_tracks(2, 12)
    frames = [[_one_person(coords[e, t], scores[e, t]) for e in range(2)] for t in range(12)]
    tracks = tracker.track(frames, np.arange(12) / 25, [COMMON, COMMON])
    require(len(tracks) >= 1, "the only person of a clip is found")
    for track in tracks:
        require(track.coords.shape == (2, 12, 13, 2), f"coords of a track are (E, T, V, 2), given {track.coords.shape}")
        require(track.scores.shape == (2, 12, 13), "scores of a track are (E, T, V)")
        require(track.boxes.shape == (12, 4), "boxes of a track are (T, 4)")
    require([t.track_id for t in tracks] == list(range(len(tracks))), "track ids count from 0")
    empty = [[Poses.empty(13), Poses.empty(13)]] * 3
    require(tracker.track(empty, np.arange(3) / 25, [COMMON, COMMON]) == [], "nobody gives no track")
    require(tracker.track([], np.zeros(0), [COMMON, COMMON]) == [], "no frames give no track")


def _one_person(coords: Float, scores: Float) -> Poses:
    box = np.array([[*np.nanmin(coords, 0), *np.nanmax(coords, 0), 0.9]], np.float32)
    return Poses(coords[None], scores[None], box)


def check_source(source: Source, root: Path) -> list[Clip]:
    """What every source promises about the clips that it finds under `root`; gives them."""
    check_component(source)
    clips = list(source.discover(root))
    require(clips == list(source.discover(root)), "the same files give other clips")
    ids = [clip.clip_id for clip in clips if clip.reason is None]
    require(len(set(ids)) == len(ids), "clip ids are unique")
    for clip in clips:
        require(
            re.fullmatch(r"[A-Za-z0-9_-]+", clip.clip_id), f"clip id {clip.clip_id!r} has other signs than A-Za-z0-9_-"
        )
        require(clip.split in SPLITS, f"split {clip.split!r} is one of {', '.join(SPLITS)}")
        require(not clip.media.startswith("/"), f"media {clip.media!r} is relative to the root")
        require(set(vars(clip)) == set(CLIP_FIELDS), "a clip has the fields of Clip")
        require((root / clip.media).is_file() or not clip.media, f"media {clip.media!r} is no file")
    return clips


def check_decoder(decoder: Any, path: Path, num_frames: int) -> None:
    """What every decoder promises about a sound video of a known number of frames."""
    check_component(decoder)
    with decoder.open(path) as stream:
        batches = list(stream)
        require(stream.num_frames == num_frames, f"{stream.num_frames} frames of {num_frames}")
        require(stream.num_damaged == 0, "a sound video has no damaged frames")
    indices, times = (np.concatenate([getattr(b, n) for b in batches]) for n in ("indices", "timestamps"))
    require(np.array_equal(indices, np.arange(num_frames)), "indices count from 0")
    require((np.diff(times) > 0).all(), "timestamps increase")
    for batch in batches:
        require(batch.frames.dtype == np.uint8 and batch.frames.shape[3:] == (3,), "frames are (B, H, W, 3) uint8")
        require(len(batch) <= decoder.batch, "a batch is no larger than `batch`")
