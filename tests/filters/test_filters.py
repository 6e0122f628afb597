"""Laws of the filters' measures, thresholds, and planted defects that must be found."""

from __future__ import annotations

import dataclasses
import itertools
import math

import cv2
import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.component import Filter
from dataengine.core.errors import ComponentError
from dataengine.core.reasons import REASONS
from dataengine.core.skeletons import SKELETONS, convert
from dataengine.core.types import Float, Sample
from dataengine.filters.base import Between
from dataengine.filters.bone_variation import bone_variation
from dataengine.filters.camera_cut import camera_cut
from dataengine.filters.jitter import jitter
from dataengine.filters.motion import motion
from dataengine.rendering import render_clip

NAMES = registry.names("filters")
MEASURES = {"jitter": jitter, "motion": motion, "bone_variation": bone_variation}
STANDING = np.array(
    [
        [0, -95], [-18, -75], [18, -75], [-24, -45], [24, -45], [-26, -18], [26, -18],
        [-11, -4], [11, -4], [-12, 42], [12, 42], [-12, 88], [12, 88],
    ],
    np.float64,
)  # fmt: skip
"""body13, about 180 px tall, around the middle of the hips."""


def person(frames: int = 90, fps: float = 30.0, swing: float = 0.6, noise: float = 0.0, seed: int = 0) -> Float:
    """(T, 13, 2): a body that swings its arms once a second, at 300, 250."""
    time = np.arange(frames) / fps
    points = np.broadcast_to(STANDING, (frames, 13, 2)).copy()
    angle = swing * np.sin(2 * np.pi * time)
    for shoulder, elbow, wrist, side in ((1, 3, 5, 1), (2, 4, 6, -1)):
        for joint, length in ((elbow, 32), (wrist, 59)):
            points[:, joint] = points[:, shoulder] + length * np.stack([np.sin(side * angle), np.cos(angle)], -1)
    return points + [300, 250] + np.random.default_rng(seed).normal(0, noise, points.shape) * (noise > 0)


def ones(coords: Float) -> Float:
    return np.isfinite(coords).all(-1).astype(np.float32)


def sample(
    coords: Float | None = None, change: Float | None = None, people: int = 1, layout: str = "posetics17"
) -> Sample:
    """A clip of 640 x 480 with the given person in body13, or nobody."""
    frames = 90 if coords is None else len(coords)
    if coords is None:
        keypoints, scores = np.zeros((0, frames, 17, 2), np.float32), np.zeros((0, frames, 17), np.float32)
    else:
        one, seen = convert(coords.astype(np.float32), ones(coords), "body13", layout)
        keypoints, scores = one[None], seen[None]
    present = (scores > 0).sum(-1).astype(np.int32)
    return Sample(
        width=640,
        height=480,
        fps=30.0,
        skeleton=layout,
        keypoints=keypoints,
        scores=scores,
        confidence=(present > 0) * np.float32(0.7),
        support=present,
        disagreement=np.full(scores.shape, np.nan),
        people=np.full(frames, people if coords is not None else 0, np.int32),
        change=np.zeros(frames, np.float32) if change is None else change,
        reprojection=np.full(len(keypoints), 0.02),
    )


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_a_filter(name: str) -> None:
    made = registry.create("filters", name)
    assert isinstance(made, Filter)
    assert made.reason == name
    assert made.reason in REASONS
    assert made.measured_in
    assert dataclasses.is_dataclass(made) and type(made).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert (made.min, made.max) != (None, None), "a default filter must be able to reject"
    value = made.measure(sample(person()))
    assert isinstance(value, float) and math.isfinite(value)
    assert made.keep(value), f"a clean clip is kept, not thrown out at {value}"
    assert made.keep(float("nan"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frames", [0, 1, 2, 90])
def test_nobody_and_short_clips_are_measured(name: str, frames: int) -> None:
    nobody, blank = sample(), sample(np.full((frames, 13, 2), np.nan))
    short = sample(person()[:frames], np.zeros(frames, np.float32))
    with np.errstate(all="raise"):
        for clip in (nobody, blank, short):
            assert isinstance(registry.create("filters", name).measure(clip), float)


def test_nobody_is_covered_by_nothing() -> None:
    assert registry.create("filters", "pose_coverage").measure(sample()) == 0.0
    assert registry.create("filters", "body_visible").measure(sample()) == 0.0
    for name in ("confidence", "truncation", "jitter", "bone_variation", "motion"):
        assert math.isnan(registry.create("filters", name).measure(sample()))


def test_thresholds_are_inclusive_and_told() -> None:
    made = registry.create("filters", "length", {"min": 16, "max": 300})
    assert [made.keep(v) for v in (15, 16, 300, 301)] == [False, True, True, False]
    assert [made.missed(v) for v in (15, 16, 301)] == [16, None, 300]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("length", {"min": 20, "max": 10}, "swap them"),
        ("length", {"min": float("nan")}, "finite"),
        ("body_visible", {"joints": 13}, "12 joints"),
        ("truncation", {"margin": 0.7}, "shorter edge"),
        ("motion", {"minimum": 1}, "did you mean 'min'"),
    ],
)
def test_wrong_options_are_explained(name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(ComponentError, match=says) as caught:
        registry.create("filters", name, options)
    assert "Value error" not in str(caught.value) and str(caught.value).startswith(f"[filters.{name}] ")


def test_a_filter_needs_a_reason_and_what_it_measures() -> None:
    @dataclasses.dataclass(frozen=True)
    class Nameless(Between):
        """Says nothing of itself."""

        def measure(self, sample: Sample) -> float:
            return 0.0

    with pytest.raises(ComponentError, match="filter Nameless has no reason"):
        Nameless().check()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_place_size_mirror_and_layout_change_nothing(name: str, noise: float) -> None:
    measure, coords = MEASURES[name], person(noise=noise)
    value = measure(coords, ones(coords), "body13", 30)
    for other in (coords + np.array([1000, -700]), coords * 3.7, coords * [-1, 1] + [640, 0]):
        assert measure(other, ones(other), "body13", 30) == pytest.approx(value, rel=1e-6, abs=1e-9)
    for layout in SKELETONS:
        if layout != "mpii16":  # its neck is another point than the head point given here, and shares no face
            moved, scores = convert(coords, ones(coords), "body13", layout)
            assert measure(moved, scores, layout, 30) == pytest.approx(value, rel=1e-6, abs=1e-9), layout


@pytest.mark.parametrize("name", ["jitter", "bone_variation"])
def test_more_noise_measures_more(name: str) -> None:
    values = [MEASURES[name](c, ones(c), "body13", 30) for c in (person(noise=n) for n in (0, 0.5, 1, 2, 4, 8))]
    assert all(b > a * 1.2 for a, b in itertools.pairwise(values))


def test_jitter_is_the_stated_function_of_noise_and_keeps_its_value_at_60_fps() -> None:
    height = 180 / 0.98
    for fps in (30, 60):
        still = person(600, fps, swing=0, noise=1.0)
        assert jitter(still, ones(still), "body13", fps) == pytest.approx(3.07 / height, rel=0.08)
    smooth = [
        jitter(c, ones(c), "body13", fps) for fps, c in ((f, person(10 * f, f)) for f in (24, 25, 30, 50, 60, 120))
    ]
    assert max(smooth) < 1.05 * min(smooth)


def test_motion_tells_a_statue_from_somebody() -> None:
    clip = registry.create("filters", "motion")
    moving, waving, statue = person(), person(swing=0.0), person(swing=0.0, noise=1.5)
    waving[:, [4, 6]] += 25 * np.sin(np.arange(90) / 5)[:, None, None]
    waving[:, 5] += 20 * np.sin(np.arange(90) / 5)[:, None]
    assert clip.keep(clip.measure(sample(moving))) and clip.keep(clip.measure(sample(waving)))
    assert not clip.keep(clip.measure(sample(statue)))
    panned = statue + np.linspace(0, 300, 90)[:, None, None] * [1.0, 0.2]
    zoomed = (statue - [300, 250]) * np.linspace(1, 2.5, 90)[:, None, None] + [300, 250]
    assert not clip.keep(clip.measure(sample(panned)))
    assert not clip.keep(clip.measure(sample(zoomed)))


def test_bones_of_a_zoomed_body_do_not_vary_and_those_of_a_jumble_do() -> None:
    still = person(swing=0.0)
    zoomed = still * np.linspace(1, 3, 90)[:, None, None]
    assert bone_variation(zoomed, ones(zoomed), "body13", 30) < 0.03
    jumble = np.random.default_rng(0).uniform(0, 400, (90, 13, 2))
    made = registry.create("filters", "bone_variation")
    assert not made.keep(made.measure(sample(jumble)))


def test_jumps_to_another_person_are_jitter() -> None:
    coords = person(noise=1.0)
    made = registry.create("filters", "jitter")
    assert made.keep(made.measure(sample(coords)))
    coords[::6] += [220, 0]
    assert not made.keep(made.measure(sample(coords)))


def test_coverage_and_visibility_count_frames() -> None:
    coords = person(80)
    coords[60:] = np.nan
    coords[40:60, 1:8] = np.nan
    assert registry.create("filters", "pose_coverage").measure(sample(coords)) == pytest.approx(0.75)
    assert registry.create("filters", "body_visible").measure(sample(coords)) == pytest.approx(0.5)
    assert registry.create("filters", "body_visible", {"joints": 5}).measure(sample(coords)) == pytest.approx(0.75)


def test_a_body_squeezed_onto_the_edge_is_not_visible_and_truncated() -> None:
    coords = np.clip(person() + np.array([0, 320]), 0, [639, 479])
    assert not registry.create("filters", "truncation").keep(
        registry.create("filters", "truncation").measure(sample(coords))
    )
    outside = person() + np.array([0, 320])
    assert registry.create("filters", "body_visible").measure(sample(outside)) == 0.0
    assert registry.create("filters", "truncation").measure(sample(person())) == 0.0


def test_confidence_is_the_mean_where_a_pose_is() -> None:
    coords = person()
    coords[45:] = np.nan
    assert registry.create("filters", "confidence").measure(sample(coords)) == pytest.approx(0.7)


def test_people_are_counted_by_the_median() -> None:
    made = registry.create("filters", "num_people", {"min": 1, "max": 2})
    crowd = dataclasses.replace(sample(person()), people=np.array([9] * 50 + [1] * 40))
    assert made.measure(crowd) == 9 and not made.keep(9)


def frame_changes(frames: list[Float]) -> Float:
    """Mean absolute difference of grey thumbnails, as poses are stored with."""
    small = [cv2.resize(f.astype(np.uint8), (64, 48), interpolation=cv2.INTER_AREA) for f in frames]
    return np.array([0.0] + [cv2.absdiff(a, b).mean() / 255 for a, b in itertools.pairwise(small)], np.float32)


def scene(seed: int, size: int = 700) -> Float:
    texture = cv2.GaussianBlur(np.random.default_rng(seed).uniform(0, 255, (size, size)), (0, 0), 12)
    return np.asarray(cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX))


def shot(kind: str, seed: int = 1, frames: int = 40) -> list[Float]:
    """One take of 320 x 240: a camera that stands, pans or shakes, a body that jumps about, a flash, repeated
    frames."""
    world, rng, out = scene(seed), np.random.default_rng(seed), []
    for t in range(frames):
        x, y = {
            "pan": (8 * t, 3 * t),
            "whip": (0 if t < 20 else min(14 * (t - 19), 280), 0),
            "shake": tuple(rng.integers(0, 12, 2)),
        }.get(kind, (60, 60))
        if kind == "repeats":
            x = 8 * (t // 2)
        view = world[y : y + 240, x : x + 320].copy()
        if kind == "jumps":
            cv2.circle(view, (int(160 + 120 * np.sin(t)), int(120 + 80 * np.cos(1.7 * t))), 45, 255, -1)
        if kind == "flash" and t == 20:
            view = np.minimum(view + 140, 255)
        out.append(view)
    return out


@pytest.mark.parametrize("kind", ["stands", "pan", "whip", "shake", "jumps", "flash", "repeats"])
def test_only_a_cut_is_a_cut(kind: str) -> None:
    made = registry.create("filters", "camera_cut")
    calm = camera_cut(frame_changes(shot(kind)))
    assert made.keep(calm), f"{kind} measures {calm}"
    cut = camera_cut(frame_changes(shot(kind, 1) + shot("stands", 2)))
    assert not made.keep(cut), f"a cut out of {kind} measures {cut}"


def test_rendered_people_are_kept_and_joined_takes_are_cuts() -> None:
    makes = {name: registry.create("filters", name) for name in ("camera_cut", "motion", "jitter", "bone_variation")}
    takes = []
    for seed in range(6):
        clip = render_clip(seed, 40, condition="clean", camera_motion=bool(seed % 2))
        grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in clip.frames]
        coords, _ = convert(clip.joints[:, 0], None, "body14", "body13")
        values = {name: made.measure(sample(coords, frame_changes(grey))) for name, made in makes.items()}
        assert all(makes[name].keep(value) for name, value in values.items()), (seed, clip.motions, values)
        takes.append(grey)
    for first, second in itertools.combinations(takes, 2):
        assert not makes["camera_cut"].keep(camera_cut(frame_changes(first + second)))


@pytest.mark.data
def test_real_cuts_are_found_and_real_pans_are_not(shared_data) -> None:  # type: ignore[no-untyped-def]
    made = registry.create("filters", "camera_cut")
    values = {}
    for name in ("R6llTwEh07w.mp4", "SOX5yA1l24A.mp4", "skateboarding.mp4", "clean_and_jerk.mp4"):
        grey: list[Float] = []
        with registry.create("decoders", "pyav").open(shared_data / "videos" / name, None, None) as stream:
            for batch in stream:
                grey += [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in batch.frames]
        values[name] = made.measure(sample(None, frame_changes(grey)))
    assert not made.keep(values["SOX5yA1l24A.mp4"]), values
    assert all(made.keep(value) for name, value in values.items() if name != "SOX5yA1l24A.mp4"), values
