"""Association across experts and linking over time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import convert, skeleton
from dataengine.core.types import Poses, Track
from dataengine.tracking import OksTracker, associate, next_boxes, rank
from tests.support.bodies import BODY


def body(x, y=100.0, size=20.0, swing=0.0):
    pose = BODY * size + [x, y]
    pose[[5, 9, 12], 0] += swing * size
    pose[[6, 10, 11], 0] -= swing * size
    return pose


def poses(people, score=0.8, noise=0.0, seed=0):
    """`people`: list of (13, 2) arrays or (array, score) pairs."""
    if not people:
        return Poses.empty(13)
    rng = np.random.default_rng(seed)
    scores = [p[1] if isinstance(p, tuple) else score for p in people]
    coords = (
        np.stack([p[0] if isinstance(p, tuple) else p for p in people]) + rng.normal(0, 1, (len(people), 13, 2)) * noise
    )
    seen = np.isfinite(coords[..., 0])
    boxes = np.concatenate([np.nanmin(coords, 1) - 4, np.nanmax(coords, 1) + 4, np.ones((len(people), 1))], 1)
    return Poses(
        coords.astype(np.float32), (seen * np.array(scores)[:, None]).astype(np.float32), boxes.astype(np.float32)
    )


def scene(walkers, frames=40, experts=3, noise=1.0, extra=None, order=None):
    """`walkers`: functions t -> x or None when out of sight. People come in an order shuffled per expert and frame."""
    rng = np.random.default_rng(5)
    out = []
    for t in range(frames):
        here = [body(w(t), swing=0.5 * np.sin(t / 3 + i)) for i, w in enumerate(walkers) if w(t) is not None]
        row = []
        for e in range(experts):
            people = [here[i] for i in rng.permutation(len(here))] + (extra(t, e) if extra else [])
            row.append(poses(people, noise=noise, seed=100 * t + e))
        out.append([row[e] for e in order] if order else row)
    return out


def track(frames, fps=25.0, layouts=None, **options):
    return OksTracker(**options).track(frames, np.arange(len(frames)) / fps, layouts or ["body13"] * len(frames[0]))


def path(found):
    """(T,) x of the middle of the hips by the median expert, NaN where unseen."""
    hips = found.coords[:, :, [7, 8], 0].mean(-1)
    return np.array([np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else np.nan for x in hips.T])


def test_one_person_three_experts():
    (found,) = track(scene([lambda t: 100 + 3 * t]))
    assert found.track_id == 0 and found.coords.shape == (3, 40, 13, 2) and found.coords.dtype == np.float32
    assert found.scores.shape == (3, 40, 13) and found.scores.dtype == np.float32 and found.boxes.shape == (40, 4)
    assert np.isfinite(found.coords).all() and (found.scores == np.float32(0.8)).all()
    np.testing.assert_allclose(path(found), 100 + 3 * np.arange(40), atol=3)
    assert (found.boxes[:, 0] < found.coords[:, :, :, 0].min((0, 2)) + 3).all()


@pytest.mark.parametrize("speed", [4, 8, 15])
def test_people_who_cross_keep_their_identity(speed):
    frames = scene([lambda t: 100 + speed * t, lambda t: 100 + speed * 39 - speed * t], noise=1.5)
    found = track(frames)
    assert len(found) == 2
    expected = [100 + speed * np.arange(40), 100 + speed * 39 - speed * np.arange(40)]
    first = 0 if abs(path(found[0])[0] - 100) < 20 else 1
    for one, x in zip(found, expected[:: 1 if first == 0 else -1], strict=True):
        np.testing.assert_allclose(path(one), x, atol=6)


def test_a_gap_is_bridged_and_a_long_absence_is_not():
    def walk(hidden):
        return lambda t: None if 15 <= t < 15 + hidden else 100 + 5 * t

    (found,) = track(scene([walk(10)]))
    assert (
        np.isnan(found.coords[:, 15:25]).all()
        and np.isnan(found.boxes[15:25]).all()
        and (found.scores[:, 15:25] == 0).all()
    )
    assert np.isfinite(found.coords[:, 25:]).all()
    assert len(track(scene([walk(10)]), max_gap=0.2)) == 2
    assert len(track(scene([walk(10)]), fps=5)) == 2  # the same frames are two seconds apart
    assert len(track(scene([lambda t: None]))) == 0


def test_experts_that_miss_the_person():
    frames = scene([lambda t: 100 + 2 * t])
    for t, row in enumerate(frames):
        row[t % 3] = Poses.empty(13)
    (found,) = track(frames)
    seen = np.isfinite(found.coords).all((2, 3))
    np.testing.assert_array_equal(seen, np.arange(40) % 3 != np.arange(3)[:, None])


def ghost(t, e):
    rng = np.random.default_rng(1000 * t + e)
    pose = np.full((13, 2), np.nan)
    pose[rng.choice(13, 4, replace=False)] = rng.uniform(0, 600, 2) + rng.normal(0, 20, (4, 2))
    return [(pose, 0.2)] if e == 1 else []


def test_ghosts_of_one_expert_make_no_track():
    frames = scene([lambda t: 100 + 2 * t], extra=ghost)
    (found,) = track(frames)
    np.testing.assert_allclose(path(found), 100 + 2 * np.arange(40), atol=4)
    assert len(track(frames, min_score=0.0, min_joints=0, min_frames=1)) > 1  # what the thresholds are for


def test_a_ghost_that_stays_makes_no_track_and_a_strong_lone_sight_does():
    def still(score):
        return lambda t, e: [(body(500), score)] if e == 1 else []

    assert len(track(scene([lambda t: 100], extra=still(0.1)))) == 1
    assert len(track(scene([lambda t: 100], extra=still(0.7)))) == 2


def test_a_second_sight_of_the_same_person_makes_no_track():
    frames = scene([lambda t: 100 + 2 * t], extra=lambda t, e: [(body(104 + 2 * t), 0.6)] if e == 2 else [])
    assert len(track(frames)) == 1


def test_short_tracks_are_dropped_but_not_of_short_clips():
    frames = scene([lambda t: 100, lambda t: 400 if t < 3 else None])
    assert len(track(frames)) == 1 and len(track(frames, min_frames=3)) == 2
    assert len(track(frames[:1])) == 2 and len(track(frames[:3])) == 2


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
def test_order_of_experts_does_not_matter(order):
    walkers = [lambda t: 100 + 6 * t, lambda t: 330 - 6 * t, lambda t: 600 if t % 5 else None]
    base, other = track(scene(walkers, noise=2)), track(scene(walkers, noise=2, order=order))
    assert len(base) == len(other) == 3
    for a, b in zip(base, other, strict=True):
        np.testing.assert_array_equal(a.coords[order], b.coords)
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_the_same_input_gives_the_same_bytes():
    frames = scene([lambda t: 100 + 6 * t, lambda t: 330 - 6 * t], extra=ghost)
    for a, b in zip(track(frames), track(frames), strict=True):
        assert (
            a.coords.tobytes() == b.coords.tobytes()
            and a.boxes.tobytes() == b.boxes.tobytes()
            and a.track_id == b.track_id
        )


def test_every_expert_in_its_own_layout():
    frames = scene([lambda t: 100 + 2 * t], noise=0)
    layouts = ["body14", "coco17", "body13"]
    changed = []
    for row in frames:
        other = []
        for seen, layout in zip(row, layouts, strict=True):
            coords, scores = convert(seen.coords, seen.scores, "body13", layout)
            other.append(Poses(coords, scores, seen.boxes))
        changed.append(other)
    (a,), (b,) = track(frames), track(changed, layouts=layouts)
    np.testing.assert_allclose(a.coords, b.coords)


def test_people_are_ranked_by_score_and_length():
    frames = scene([lambda t: 100 if t < 15 else None, lambda t: 400, lambda t: 700 if t >= 10 else None])
    assert [round(np.nanmean(path(f)), -2) for f in track(frames)] == [400, 700, 100]


def test_associate_groups_people_and_leaves_the_rest_alone():
    a, b, c = body(100), body(160), body(400)
    found = associate([poses([a, b]), poses([c, b, a], noise=2), Poses.empty(13)])
    assert sorted(map(tuple, found.tolist())) == [(-1, 0, -1), (0, 2, -1), (1, 1, -1)]
    assert associate([Poses.empty(13), Poses.empty(13)]).shape == (0, 2)
    weak = np.full((13, 2), np.nan)
    weak[:3] = c[:3]
    crowd = [poses([a]), poses([a, (weak, 0.2)])]
    assert len(associate(crowd)) == 2
    assert associate(crowd, min_joints=6).tolist() == associate(crowd, min_score=0.3).tolist() == [[0, 0]]


def test_associate_sees_through_left_and_right_mixed_up():
    a, b = body(100, swing=1.0), body(150, swing=-1.0)
    flip = list(skeleton("body13").flip)
    assert sorted(map(tuple, associate([poses([a, b]), poses([b[flip], a[flip]])]).tolist())) == [(0, 1), (1, 0)]


def test_associate_never_puts_two_people_of_one_expert_together():
    rng = np.random.default_rng(0)
    for _ in range(50):
        crowd = [poses([body(x) for x in rng.uniform(0, 300, rng.integers(0, 5))], noise=3, seed=e) for e in range(4)]
        found = associate(crowd)
        for e, seen in enumerate(crowd):
            assert sorted(found[found[:, e] >= 0, e]) == list(range(len(seen)))


def test_who_was_weak_before_is_the_same_person():
    def fewer(t, e):
        pose = body(100 + 3 * t)
        if t < 12:
            pose[4:] = np.nan
        return [(pose, 0.8)] if e == 0 else []

    (found,) = track(scene([lambda t: None], extra=fewer))
    assert np.isfinite(found.boxes[:, 0]).all()
    assert (
        track(scene([lambda t: None], extra=lambda t, e: [(pose, s) for pose, s in fewer(min(t, 11), e)])) == []
    )  # never sure: nobody


def test_a_person_who_is_wholly_hidden_comes_back_as_the_same():
    """Two people walk past each other while one is out of sight."""
    frames = scene([lambda t: 100 + 6 * t, lambda t: None if 12 <= t < 26 else 340 - 6 * t], noise=1.5)
    found = track(frames)
    assert len(found) == 2
    for one in found:
        x = path(one)
        start = x[np.isfinite(x)][0]
        np.testing.assert_allclose(x[-1], 334 if abs(start - 100) < 20 else 106, atol=6)


def boxed(x, y=100.0):
    pose = body(x, y)
    pad = 0.12 * np.ptp(pose, 0).max()
    return np.float32([[*(pose.min(0) - pad), *(pose.max(0) + pad), 0.9]])


def test_boxes_follow_a_person_who_walks():
    boxes, before = boxed(100), None
    for t in range(40):
        here = poses([body(100 + 12 * t)], noise=1.0, seed=t)
        assert (boxes[0, :2] < here.coords[0].min(0)).all() and (boxes[0, 2:4] > here.coords[0].max(0)).all()
        boxes, before = next_boxes(here, boxes, before), here
    np.testing.assert_allclose(boxes[0, :4], boxed(100 + 12 * 40)[0, :4], atol=6)
    assert boxes.dtype == np.float32 and boxes[0, 4] == np.float32(0.9)


def test_boxes_stay_for_a_while_where_nobody_is_found_and_do_not_jump():
    lone = boxed(100)
    less_sure = lone * np.float32([1, 1, 1, 1, 0.5])
    np.testing.assert_array_equal(next_boxes(Poses.empty(13), lone), less_sure)
    np.testing.assert_array_equal(next_boxes(Poses.empty(13), lone[:, :4]), lone[:, :4])
    np.testing.assert_array_equal(next_boxes(poses([body(900)]), lone), less_sure)
    np.testing.assert_array_equal(next_boxes(poses([(body(110), 0.05)]), lone), less_sure)
    assert next_boxes(Poses.empty(13), lone * np.float32([1, 1, 1, 1, 0.2])).shape == (0, 5)
    wild = body(100)
    wild[3] += 2000
    moved = next_boxes(poses([wild]), lone)
    assert np.abs(moved - lone)[:, :4].max() <= 0.25 * np.ptp(lone[0, [1, 3]]) + 1e-3


def test_two_boxes_on_one_person_become_one_and_crossing_people_keep_theirs():
    two = np.concatenate([boxed(100), boxed(104)])
    two[1, 4] = 0.5
    assert next_boxes(poses([body(100)]), two).tolist() == next_boxes(poses([body(100)]), two[:1]).tolist()
    left, right = boxed(100), boxed(160, 115)
    boxes, before = np.concatenate([left, right]), None
    for t in range(10):
        here = poses([body(160 - 3 * t, 115), body(100 + 3 * t)])
        boxes, before = next_boxes(here, boxes, before), here
    assert len(boxes) == 2
    assert next_boxes(poses([body(100)]), np.zeros((0, 5))).shape == (0, 5)


def flat(track_id, x, frames=10):
    boxes = np.tile(np.float32([x, 0, x + 10, 20]), (frames, 1))
    return Track(track_id, np.zeros((1, frames, 13, 2), np.float32), np.ones((1, frames, 13), np.float32), boxes)


def test_the_actor_comes_first():
    tracks = [flat(0, 0), flat(1, 100), flat(2, 200)]
    times = np.arange(10) / 10
    keys = [[0.0, 98, 0, 108, 20], [0.5, 102, 0, 112, 20]]
    assert [t.boxes[0, 0] for t in rank(tracks, keys, times)] == [100, 0, 200]
    assert [t.track_id for t in rank(tracks, keys, times)] == [0, 1, 2]
    assert [t.boxes[0, 0] for t in rank(tracks)] == [0, 100, 200]
    assert [t.boxes[0, 0] for t in rank(tracks, [[0.0, 900, 0, 910, 20]], times)] == [0, 100, 200]
    moving = [[0.0, 0, 0, 10, 20], [0.9, 200, 0, 210, 20]]  # passes all three, longest near none: interpolated
    assert rank(tracks, moving, times)[0].boxes[0, 0] in (0, 100, 200)
    assert rank([], keys, times) == []


def test_absent_frames_count_against_the_actor():
    short, long = flat(0, 100), flat(1, 103)
    short.boxes[3:] = np.nan
    assert (
        rank([short, long], [[0.0, 100, 0, 110, 20], [0.9, 100, 0, 110, 20]], np.arange(10) / 10)[0].boxes[0, 0] == 103
    )


def test_user_mistakes_are_told():
    with pytest.raises(ComponentError, match="timestamp per frame"):
        OksTracker().track(scene([lambda t: 100]), [0.0], ["body13"] * 3)
    with pytest.raises(ComponentError, match="2 experts"):
        OksTracker().track(scene([lambda t: 100]), np.arange(40), ["body13"] * 2)
    with pytest.raises(ComponentError, match="unknown skeleton"):
        OksTracker().track(scene([lambda t: 100]), np.arange(40), ["body13", "body13", "body"])
    with pytest.raises(ComponentError, match="convert them first"):
        associate([Poses.empty(17)])
    with pytest.raises(ComponentError, match="boxes \\(M, 4 or 5\\)"):
        next_boxes(Poses.empty(13), np.zeros(4))
    with pytest.raises(ComponentError, match="one layout"):
        next_boxes(Poses.empty(13), np.zeros((0, 5)), Poses.empty(17))
    with pytest.raises(ComponentError, match="rank takes"):
        rank([flat(0, 0)], [[0.0, 1, 2, 3, 4]])
    with pytest.raises(ComponentError, match="no option 'gap'"):
        registry.create("trackers", "oks", {"gap": 3})
    with pytest.raises(ComponentError, match="max_gap"):
        registry.create("trackers", "oks", {"max_gap": -1})


def test_fast_enough():
    """0.3 ms of CPU a frame for two people and three experts on an idle machine, and ten times that on a busy one."""
    frames = scene([lambda t: 100 + t, lambda t: 500 - t], frames=200)
    track(frames)
    spent = []
    for _ in range(3):
        begun = time.process_time()
        track(frames)
        spent.append((time.process_time() - begun) / len(frames))
    assert min(spent) < 0.003


@pytest.mark.data
def test_real_crowds_keep_their_identities(shared_data):
    """Annotated visible joints of 15 street and sport scenes as the sights of one expert; identity switches are
    counted."""
    data = np.load(shared_data / "tracks" / "bonn_posetrack.npz")
    joints = list(data["joint_names"])
    points = np.where((data["state"] == 2)[..., None], data["points"], np.nan)
    head = (points[:, joints.index("upper_neck")] + points[:, joints.index("head_top")]) / 2
    limbs = [
        points[:, joints.index(f"{side}_{j}")]
        for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in "lr"
    ]
    people = np.stack([head, *limbs], 1).astype(np.float32)
    switches = sights = found_in = 0
    for video in np.flatnonzero(~data["video_train"])[::2]:
        rows = np.flatnonzero((data["video_index"] == video) & (np.isfinite(people[..., 0]).sum(1) >= 4))
        by_frame = [rows[data["frame"][rows] == t] for t in range(data["video_frames"][video])]
        frames = [[poses(list(people[r]))] for r in by_frame]
        tracks = track(frames, min_frames=3)
        last: dict[int, int] = {}
        for t, here in enumerate(by_frame):
            for r in here:
                owner = [k.track_id for k in tracks if np.nansum(k.coords[0, t]) == np.nansum(people[r])]
                person, sights = int(data["track_id"][r]), sights + 1
                if owner:
                    found_in += 1
                    switches += last.get(person, owner[0]) != owner[0]
                    last[person] = owner[0]
    assert sights > 3000
    assert found_in / sights > 0.98
    assert switches <= 5
