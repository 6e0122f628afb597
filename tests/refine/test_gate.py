"""The gate: what is better or as good passes, and every way to be worse is refused and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataengine.core.skeletons import COMMON, skeleton
from dataengine.refine import measures
from dataengine.refine.gate import Limits, Margins, PairedValues, compare, judge, middle_expert
from dataengine.refine.measures import JudgedClip, aligned, breakdown, sides, taken


def body(seed: int, frames: int = 40, people: int = 1) -> np.ndarray:
    """(M, T, 13, 2) people who walk: a head at 0, the sides 40 pixels apart."""
    rng = np.random.default_rng(seed)
    layout = skeleton(COMMON)
    base = np.zeros((13, 2))
    for n, joint in enumerate(layout.joints):
        base[n] = (-20 if joint.startswith("left_") else 20 if joint.startswith("right_") else 0, 15 * n)
    walk = np.cumsum(rng.normal(0, 0.3, (people, frames, 1, 2)), 1) + 100 + 200 * np.arange(people)[:, None, None, None]
    return (walk + base).astype(np.float32)


def clip(n: int, before: float = 4.0, after: float = 3.0) -> JudgedClip:
    fused = body(n)
    rng = np.random.default_rng(1000 + n)
    noise = rng.normal(0, 1, fused.shape).astype(np.float32)
    scores = rng.uniform(0.2, 1, fused.shape[:-1]).astype(np.float32)
    return JudgedClip(
        f"clip{n}", f"video{n // 2}", 25.0, fused, scores, scores > 0.3, fused + before * noise, fused + after * noise
    )


CLIPS = [clip(n) for n in range(8)]


def changed(change: object) -> list[JudgedClip]:
    return [replace(one, after=change(one.after.copy(), n)) for n, one in enumerate(CLIPS)]  # type: ignore[operator]


def swapped(poses: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Left and right of some frames exchanged."""
    chosen = np.random.default_rng(seed).random(poses.shape[1]) < share
    poses[:, chosen] = poses[:, chosen][:, :, list(skeleton(COMMON).flip)]
    return poses


def test_a_better_student_and_an_equal_one_pass() -> None:
    verdict = judge(CLIPS, Margins())
    assert verdict.published and verdict.reasons == [] and verdict.clips == 8
    assert judge([replace(one, after=one.before) for one in CLIPS], Margins()).published


def far(poses: np.ndarray, n: int) -> np.ndarray:
    return poses + np.random.default_rng(n).normal(0, 30, (*poses.shape[:1], 1, *poses.shape[2:])).astype(np.float32)


def lacking(poses: np.ndarray, n: int) -> np.ndarray:
    poses[:, :, 5:8] = np.nan
    return poses


def trembling(poses: np.ndarray, n: int) -> np.ndarray:
    return poses + np.random.default_rng(n).normal(0, 6, poses.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (far, {"agreement"}),
        (lacking, {"agreement", "missing"}),
        (trembling, {"jitter"}),
        (lambda poses, n: swapped(poses, 1.0, n), {"agreement", "exchanged"}),
        (lambda poses, n: swapped(poses, 0.2, n), {"exchanged", "flips"}),
    ],
)
def test_every_way_to_be_worse_is_refused_and_named(change: object, named: set[str]) -> None:
    verdict = judge(changed(change), Margins())
    assert not verdict.published
    assert named <= {line.split()[0] for line in verdict.reasons}, verdict.reasons
    assert all("\n" not in line for line in verdict.reasons)


def test_too_little_to_see_is_not_enough() -> None:
    mixed = [replace(one, after=far(one.after, n) if n % 4 == 0 else one.fused) for n, one in enumerate(CLIPS)]
    values = [measures.agreement(one.after, one) - measures.agreement(one.before, one) for one in mixed]
    few = judge(mixed[:4], Margins(agreement=0.0))
    assert min(values) < 0 < max(values)
    assert any(line.startswith("agreement") for line in few.reasons)


def test_a_student_that_stood_still_may_begin_to_move() -> None:
    still = [replace(one, before=np.broadcast_to(one.fused.mean(1, keepdims=True), one.fused.shape)) for one in CLIPS]
    close = [replace(one, after=one.fused + 0.05 * (one.after - one.fused)) for one in still]
    verdict = judge(close, Margins())
    against = {one.against: one for one in verdict.comparisons if one.name == "jitter"}
    assert not against["before"].passes and against["fused"].before is not None
    assert verdict.published == against["fused"].passes


def test_nothing_learned_and_nothing_to_look_at_are_refused() -> None:
    assert judge(CLIPS, Margins(), best_epoch=0).reasons[0].startswith("nothing was learned")
    assert judge([], Margins()).reasons[0] == "no held-out clip could be looked at"


def test_a_student_that_never_was_any_good_is_refused() -> None:
    nobody = [replace(one, before=one.fused * np.nan, after=one.fused * np.nan) for one in CLIPS]
    assert judge(nobody, Margins()).reasons == ["agreement 0 misses the limit 0.85", "missing 1 misses the limit 0.3"]
    assert judge(nobody, Margins(), limits=Limits(missing=1.0, agreement=0.0)).published


def of_experts(*spreads: float, student: float) -> list[JudgedClip]:
    """Clips whose experts and student lie as far from the fused poses as is given."""
    found = []
    for n, one in enumerate(CLIPS):
        rng = np.random.default_rng(n)
        noise = rng.normal(0, 1, (len(spreads) + 1, *one.fused.shape)).astype(np.float32)
        experts = np.stack([one.fused + spread * noise[k] for k, spread in enumerate(spreads)])
        after = one.fused + student * noise[-1]
        found.append(replace(one, before=after, after=after, experts=experts))
    return found


def test_a_student_confirms_what_the_middle_expert_does() -> None:
    assert judge(of_experts(2, 5, 40, student=4.8), Margins()).published
    (reason,) = judge(of_experts(2, 5, 40, student=9), Margins()).reasons
    assert reason.startswith("agreement") and "(against middle expert)" in reason
    assert judge(of_experts(2, 5, 40, student=9), Margins(), limits=Limits(agreement=0.3)).published, "an override"
    lone = middle_expert(of_experts(2, 9, student=5))
    least = [measures.agreement(one.experts[1], one) for one in of_experts(2, 9, student=5)]  # type: ignore[index]
    assert lone is not None and lone.tolist() == least, "the lower one of two"
    assert middle_expert(of_experts(2, student=5)) is None and middle_expert(CLIPS) is None
    assert judge(of_experts(2, student=9), Margins()).reasons[0].endswith("misses the limit 0.85")


def with_exact(fused: float, before: float, after: float) -> list[JudgedClip]:
    """Rendered clips: fused poses, and those of two generations, as far from the exact joints as is given."""
    found = []
    for n, one in enumerate(CLIPS):
        noise = np.random.default_rng(n).normal(0, 1, (3, *one.fused.shape)).astype(np.float32)
        poses = [one.fused + spread * part for spread, part in zip((fused, before, after), noise)]
        heads = np.full(one.fused.shape[:2], 15.0)
        found.append(
            replace(one, fused=poses[0], before=poses[1], after=poses[2], exact=one.fused, exact_heads=heads,
                    experts=poses[0][None].repeat(3, 0))
        )  # fmt: skip
    return found


def test_exact_joints_decide_where_they_are_known() -> None:
    """A student that differs from poor fused poses passes where it is nearer to the exact joints, and only there."""
    good = with_exact(6, 3, 1)
    assert judge(good, Margins()).published
    unknown = [replace(one, exact=None, exact_heads=None) for one in good]
    assert any("middle expert" in reason for reason in judge(unknown, Margins()).reasons)
    assert any("middle expert" in reason for reason in judge([*good, *unknown], Margins()).reasons)
    worse = judge(with_exact(1, 6, 5), Margins()).reasons
    assert any(reason.startswith("exact ") and "(against fused)" in reason for reason in worse), worse
    assert measures.exact(good[0].after, unknown[0]) != measures.exact(good[0].after, unknown[0]), "not known"


def test_annotations_decide_too() -> None:
    names = [f"picture{n}" for n in range(30)]
    good, bad = np.linspace(0.6, 0.9, 30), np.linspace(0.5, 0.8, 30)
    assert judge(CLIPS, Margins(), {"oks": PairedValues(bad, good, names)}).published
    assert not judge(CLIPS, Margins(), {"oks": PairedValues(good, bad, names)}).published
    verdict = judge(CLIPS, Margins(), {"oks": PairedValues(bad, good, names)}, {"oks": PairedValues(good, bad, names)})
    assert [line for line in verdict.reasons if "against fused" in line] == verdict.reasons != []


def test_the_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0.5, 0.1, 400), rng.normal(0.5, 0.1, 400)
    found = compare("x", PairedValues(before, after, [str(n) for n in range(400)]), 0.02, True)
    loss = before - after
    expected = loss.mean() + 1.645 * loss.std() / 20
    assert found.worst is not None and abs(found.worst - expected) < 2e-3 and found.count == found.groups == 400
    one = compare("x", PairedValues(before, after, ["same"] * 400), 0.02, True)
    assert one.groups == 1 and one.worst is None and not one.passes and "picture alone" in one.line()
    none = compare("x", PairedValues(before * np.nan, after, ["same"] * 400), 0.02, True)
    assert none.before is None and none.line() == "x: not measured"


def test_people_whom_nobody_found_are_counted_and_refused() -> None:
    people = body(5, people=3)
    assert measures.extra(people, people) == 0 and measures.extra(people[:0], people) == 0
    twice = np.concatenate([people, people[:1] + 3])
    assert measures.extra(twice, people) == pytest.approx(1 / 3)
    twice[3, 10:] = np.nan
    assert measures.extra(twice, people) == pytest.approx(1 / 12), "in a quarter of the frames"
    (reason,) = judge([replace(one, extra=(0.0, 0.2)) for one in CLIPS], Margins()).reasons
    assert reason.startswith("extra 0 -> 0.2 (against before)")
    doubled = [replace(one, extra=(1.0, 0.9)) for one in CLIPS]
    assert judge(doubled, Margins()).reasons == ["extra 0.9 misses the limit 0.3"]
    assert judge(doubled, Margins(), limits=Limits(extra=1.0)).published


def test_one_video_alone_publishes_nothing() -> None:
    verdict = judge([replace(one, video="the same") for one in CLIPS], Margins())
    (reason,) = verdict.reasons
    assert reason.startswith("one held-out video alone") and not verdict.published


def test_measures_of_a_perfect_student() -> None:
    one = CLIPS[0]
    assert measures.agreement(one.fused, one) == 1 and measures.missing(one.fused, one) == 0
    assert measures.exchanged(one.fused, one) == measures.flips(one.fused, one) == 0
    assert measures.exchanged(swapped(one.fused.copy(), 1.0, 0), one) == 1
    assert measures.flips(swapped(one.fused.copy(), 1.0, 0), one) == 0
    gone = np.full_like(one.fused, np.nan)
    assert measures.agreement(gone, one) == 0 and measures.missing(gone, one) == 1
    assert np.isnan(measures.jitter(gone, one)) and np.isnan(measures.flips(gone, one))


def test_people_are_found_again_in_any_order() -> None:
    people = body(3, people=3)
    order = np.array([2, 0, 1])
    other = people[order] + 2
    other[0, 10:30] = np.nan
    assert aligned(people, other).tolist() == [1, 2, 0]
    assert aligned(people, other[:1]).tolist() == [-1, -1, 0]
    assert aligned(people, other[:0]).tolist() == [-1, -1, -1]
    chosen = taken(other[:1], aligned(people, other[:1]))
    assert chosen.shape == people.shape and np.isnan(chosen[:2]).all() and np.nanmax(abs(chosen[2] - people[2])) < 3
    assert np.isnan(taken(other[:0], np.array([-1]))).all()


def test_the_breakdown_counts_every_sure_joint_once() -> None:
    found = breakdown(CLIPS)
    total = sum(int(one.sure.sum()) for one in CLIPS)
    assert {kind: sum(int(row["joints"]) for row in rows) for kind, rows in found.items()} == {
        "joint": total, "score": total, "height": total,
    }  # fmt: skip
    assert [row["name"] for row in found["joint"]] == list(skeleton(COMMON).joints)
    assert all(row["after"] >= row["before"] - 0.05 for row in found["joint"])


def test_sides_are_pairs_of_the_layout() -> None:
    left, right = sides()
    joints = skeleton(COMMON).joints
    assert [joints[n].removeprefix("left_") for n in left] == [joints[n].removeprefix("right_") for n in right]
    assert len(left) == 6
