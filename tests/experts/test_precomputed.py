"""Saved output of other programs as an expert: every format as it is written, damage, and which frame is which."""

from __future__ import annotations

import json
import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import experts
from dataengine.core.component import ClipFrames
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Clip, Poses
from dataengine.experts.isolation.isolated import Isolated
from dataengine.experts.precomputed import Precomputed, openpose
from dataengine.experts.precomputed.saved import Saved, person

FPS = Fraction(25)


def expert(folder: Path, **options: Any) -> Precomputed:
    made = experts.create("precomputed", folder=str(folder), **options)
    assert isinstance(made, Precomputed)
    return made


def clip(name: str = "a-v1-0-2", **more: Any) -> Clip:
    return Clip(**{"clip_id": name, "source": "a", "video_id": "v1", "media": "videos/some.mp4", **more})


def lookup(made: Precomputed, frames: int = 4, which: Clip | None = None, first: int = 0) -> list[Poses]:
    indices = np.arange(first, first + frames)
    return made.load().lookup(which or clip(), indices, indices / 25, FPS)


def people(num: int = 2, joints: int = 17, frames: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coords (T, M, V, 2) and scores (T, M, V); joint 3 of the first person is never seen."""
    rng = np.random.default_rng(seed)
    coords = rng.uniform(10, 600, (frames, num, joints, 2)).round(3)
    scores = rng.uniform(0.3, 1, (frames, num, joints)).round(3)
    coords[:, 0, 3], scores[:, 0, 3] = 0, 0
    return coords, scores


def check(poses: list[Poses], coords: np.ndarray, scores: np.ndarray | float) -> None:
    assert len(poses) == len(coords)
    for t, pose in enumerate(poses):
        seen = (coords[t] != 0).any(-1)
        assert pose.coords.dtype == pose.scores.dtype == pose.boxes.dtype == np.float32
        np.testing.assert_allclose(pose.coords, np.where(seen[..., None], coords[t], np.nan), rtol=1e-6)
        np.testing.assert_allclose(
            pose.scores, np.where(seen, scores[t] if isinstance(scores, np.ndarray) else scores, 0), rtol=1e-6
        )
        np.testing.assert_allclose(pose.boxes[:, :2], np.nanmin(pose.coords, 1), rtol=1e-5)
        np.testing.assert_allclose(pose.boxes[:, 4], pose.scores.mean(1), rtol=1e-5)


def triplets(coords: np.ndarray, scores: np.ndarray) -> list[float]:
    return np.concatenate([coords, scores[:, None]], -1).reshape(-1).tolist()


def write_openpose(
    folder: Path, prefix: str, coords: np.ndarray, scores: np.ndarray, key: str = "pose_keypoints_2d", first: int = 0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t in range(len(coords)):
        found = [
            {"person_id": [-1], key: triplets(c, s), "face_keypoints_2d": [], "hand_left_keypoints_2d": []}
            for c, s in zip(coords[t], scores[t])
        ]
        text = json.dumps({"version": 1.3, "people": found})
        (folder / f"{prefix}_{first + t:012d}_keypoints.json").write_text(text)


@pytest.mark.parametrize(("joints", "layout"), [(25, "openpose25"), (18, "openpose18")])
@pytest.mark.parametrize("own_folder", [True, False])
def test_openpose(tmp_path: Path, joints: int, layout: str, own_folder: bool) -> None:
    coords, scores = people(joints=joints)
    write_openpose(
        tmp_path / clip().clip_id if own_folder else tmp_path, "walk" if own_folder else clip().clip_id, coords, scores
    )
    made = expert(tmp_path)
    assert made.kind == "openpose" and made.skeleton == layout
    check(lookup(made), coords, scores)
    assert [len(p) for p in lookup(made, frames=6)] == [2, 2, 2, 2, 0, 0]


def test_openpose_of_old_versions_and_empty_frames(tmp_path: Path) -> None:
    coords, scores = people(joints=18)
    folder = tmp_path / clip().clip_id
    write_openpose(folder, "x", coords, scores, key="pose_keypoints")
    (folder / "x_000000000002_keypoints.json").write_text('{"version": 1.0, "people": []}')
    assert [len(p) for p in lookup(expert(tmp_path))] == [2, 2, 0, 2]


def alphapose(coords: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "image_id": f"{t}.jpg", "category_id": 1, "keypoints": triplets(c, s), "score": 2.9,
            "box": [*c[c.any(-1)].min(0), *np.ptp(c[c.any(-1)], 0)], "idx": m,
        }
        for t in range(len(coords)) for m, (c, s) in enumerate(zip(coords[t], scores[t]))
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["{}.json", "{}/alphapose-results.json"])
@pytest.mark.parametrize("joints", [17, 26])
def test_alphapose(tmp_path: Path, place: str, joints: int) -> None:
    coords, scores = people(joints=joints)
    path = tmp_path / place.format(clip().clip_id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(alphapose(coords, scores)))
    made = expert(tmp_path)
    assert made.skeleton == {17: "coco17", 26: "halpe26"}[joints]
    poses = lookup(made)
    check(poses, coords, scores)
    last = coords[0, 0][coords[0, 0].any(-1)]
    np.testing.assert_allclose(poses[0].boxes[0, :4], [*last.min(0), *last.max(0)], rtol=1e-5)


def test_coco_results_with_frame_numbers(tmp_path: Path) -> None:
    coords, scores = people()
    listed = [dict(row, image_id=int(row["image_id"][:-4])) for row in alphapose(coords, scores)]
    listed += [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.9}]
    (tmp_path / f"{clip().clip_id}.json").write_text(json.dumps(listed))
    made = expert(tmp_path)
    assert made.kind == "coco"
    check(lookup(made), coords, scores)


def test_coco_with_its_images_in_the_file(tmp_path: Path) -> None:
    coords, scores = people()
    images = [{"id": 700 + t, "file_name": f"frames/{t:06d}.jpg"} for t in range(6)]
    rows = [dict(row, image_id=700 + int(row["image_id"][:-4])) for row in alphapose(coords, scores)]
    (tmp_path / f"{clip().clip_id}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    check(lookup(expert(tmp_path)), coords, scores)
    rows[0]["image_id"] = 5
    (tmp_path / f"{clip().clip_id}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    with pytest.raises(ExpertError, match="image_id 5 is none of its images"):
        lookup(expert(tmp_path, layout="coco17"))


def test_coco_results_of_all_clips(tmp_path: Path) -> None:
    both = {name: people(seed=n) for n, name in enumerate(("one", "two"))}
    images, rows = [], []
    for name, (coords, scores) in both.items():
        known = {t: 100 * len(images) + t for t in range(4)}
        images += [{"id": known[t], "file_name": f"val/{name}/{t:06d}.jpg"} for t in range(4)]
        rows += [dict(row, image_id=known[int(row["image_id"][:-4])]) for row in alphapose(coords, scores)]
    (tmp_path / "images.json").write_text(json.dumps({"images": images}))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    made = expert(tmp_path)
    assert made.kind == "coco" and made.skeleton == "coco17"
    for name, (coords, scores) in both.items():
        check(lookup(made, which=clip(name)), coords, scores)
    with pytest.raises(ExpertError, match=r"holds nothing for three: no image of 'three'"):
        lookup(made, which=clip("three"))


def test_lcr(tmp_path: Path) -> None:
    coords, _ = people(joints=13)
    frames = [
        [{"pose2d": c.T.reshape(-1).tolist(), "pose3d": [0.0] * 39, "cumscore": 1.7 - m} for m, c in enumerate(some)]
        for some in coords
    ]
    (tmp_path / f"{clip().clip_id}.json").write_text(json.dumps({"K": 10, "njts": 13, "frames": frames}))
    made = expert(tmp_path)
    assert made.kind == "lcr" and made.skeleton == "lcr13"
    check(lookup(made), coords, np.tile(np.array([1.0, 0.7])[:, None], (4, 1, 13)))


@pytest.mark.parametrize("form", ["kpts", "pyskl", "positions_2d", "three columns"])
def test_arrays(tmp_path: Path, form: str) -> None:
    one = form in ("kpts", "three columns")
    coords, scores = people(num=1 if one else 2)
    saved: dict[str, np.ndarray] = {
        "kpts": {"kpts": coords[:, 0].astype(np.float32)},
        "pyskl": {
            "keypoint": coords.transpose(1, 0, 2, 3),
            "keypoint_score": scores.transpose(1, 0, 2),
            "label": np.array(3),
        },
        "positions_2d": {"positions_2d": coords.transpose(1, 0, 2, 3)},
        "three columns": {"keypoints": np.concatenate([coords[:, 0], scores[:, 0, :, None]], -1)},
    }[form]
    np.savez(tmp_path / f"{clip().clip_id}.npz", **saved)
    made = expert(tmp_path)
    assert made.kind == "npz" and made.skeleton == "coco17"
    check(lookup(made), coords, scores if form in ("pyskl", "three columns") else 1.0)


def test_python_objects_are_not_read(tmp_path: Path) -> None:
    """VideoPose3D's own files: a dictionary inside an array of objects."""
    positions = np.empty((), object)
    positions[()] = {"S1": {"Walking": [np.zeros((4, 17, 2))]}}
    np.savez(tmp_path / f"{clip().clip_id}.npz", positions_2d=positions, metadata={"a": 1})
    with pytest.raises(ExpertError, match=r"holds Python objects, which run code when read; save plain arrays"):
        lookup(expert(tmp_path, layout="coco17"))


# which frame is which


def numbered(folder: Path, name: str, frames: int) -> None:
    """Saved poses whose first joint says its frame's number."""
    coords = np.full((frames, 17, 2), 50.0)
    coords[:, 0, 0] = 1000 + np.arange(frames)
    np.savez(folder / f"{name}.npz", kpts=coords)


def first_joints(poses: list[Poses]) -> list[int]:
    return [int(p.coords[0, 0, 0]) - 1000 for p in poses]


def test_frames_of_a_clip(tmp_path: Path) -> None:
    numbered(tmp_path, clip().clip_id, 100)
    made = expert(tmp_path)
    assert first_joints(lookup(made)) == [0, 1, 2, 3]
    assert first_joints(lookup(made, first=7)) == [7, 8, 9, 10]
    thinned = np.array([0, 5, 10])
    assert first_joints(made.load().lookup(clip(), thinned, thinned / 25, FPS)) == [0, 5, 10]
    assert first_joints(lookup(expert(tmp_path, offset=1))) == [1, 2, 3, 4]
    assert first_joints(lookup(made, which=clip(span_start=2.0))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("start", "fps", "first"),
    [(2.0, Fraction(25), 50), (1.001, Fraction(30000, 1001), 30), (0.033, Fraction(30), 1), (0.5, Fraction(25), 13)],
)
def test_frames_of_a_whole_video(tmp_path: Path, start: float, fps: Fraction, first: int) -> None:
    numbered(tmp_path, "some", 100)
    made = expert(tmp_path, pattern="{stem}", start="media")
    indices = np.arange(4)
    poses = made.load().lookup(clip(span_start=start), indices, indices / float(fps), fps)
    assert first_joints(poses) == [first, first + 1, first + 2, first + 3]


def test_the_program_ran_at_another_rate(tmp_path: Path) -> None:
    numbered(tmp_path, "some", 100)
    made = expert(tmp_path, pattern="{stem}", start="media", fps=10)
    assert first_joints(lookup(made, frames=6, which=clip(span_start=2.0))) == [20, 20, 21, 21, 22, 22]


@pytest.mark.parametrize("pattern", ["{video_id}", "{source}_{stem}", "{clip_id}"])
def test_names(tmp_path: Path, pattern: str) -> None:
    numbered(tmp_path, {"{video_id}": "v1", "{source}_{stem}": "a_some", "{clip_id}": "a-v1-0-2"}[pattern], 4)
    assert first_joints(lookup(expert(tmp_path, pattern=pattern))) == [0, 1, 2, 3]


def test_output_that_ends_before_the_clip(tmp_path: Path) -> None:
    numbered(tmp_path, "some", 10)
    made = expert(tmp_path, pattern="{stem}", start="media")
    with pytest.raises(ExpertError, match="ends at frame 9, before the clip's first, 50"):
        lookup(made, which=clip(span_start=2.0))
    assert [len(p) for p in lookup(made, frames=12)] == [1] * 10 + [0] * 2


# damage


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"image_id": "0.jpg", "keypoints": [1, 2', "is torn or no JSON"),
        ("", "is torn or no JSON"),
        ("3", "is not a list of people"),
        ('[{"image_id": "0.jpg", "keypoints": [1, 2]}]', "wanted x, y, score of every joint"),
        ('[{"image_id": "0.jpg", "keypoints": ["a", "b", "c"]}]', "are no numbers"),
        ('[{"image_id": "first.jpg", "keypoints": [1, 2, 1]}]', "names no frame"),
        ('[{"keypoints": [1, 2, 1]}]', "has no image_id"),
        (
            '[{"image_id": 0, "keypoints": [1, 2, 1]}, {"image_id": 1, "keypoints": [1, 2, 1, 1, 2, 1]}]',
            "people of 1 and of 2 joints",
        ),
        ('[{"image_id": 0, "keypoints": [1, 2, 1]}]', "has 1 joints, coco17 has 17"),
        ("[" * 100_000, "is torn or no JSON"),
    ],
)
def test_damaged_lists(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / f"{clip().clip_id}.json"
    path.write_text(text)
    with pytest.raises(ExpertError, match=says) as told:
        lookup(expert(tmp_path, format="alphapose", layout="coco17"))
    assert told.value.kind == "expert_failed" and not told.value.retryable
    assert path.name in str(told.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "no keypoints", "shape", "scores"])
def test_damaged_arrays(tmp_path: Path, damage: str) -> None:
    path = tmp_path / f"{clip().clip_id}.npz"
    coords, scores = people(frames=200)
    arrays = {"keypoint": coords.transpose(1, 0, 2, 3), "keypoint_score": scores.transpose(1, 0, 2)}
    if damage == "no keypoints":
        arrays = {"positions_3d": coords}
    if damage == "shape":
        arrays["keypoint"] = arrays["keypoint"][0, 0]
    if damage == "scores":
        arrays["keypoint_score"] = arrays["keypoint_score"][:, 1:]
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "flipped":
        content[2000:2100] = b"\0" * 100
        path.write_bytes(content)
    with pytest.raises(ExpertError, match=r"torn|wanted|but scores") as told:
        lookup(expert(tmp_path, layout="coco17"))
    assert path.name in str(told.value)


def test_a_damaged_frame_of_openpose(tmp_path: Path) -> None:
    coords, scores = people(joints=25)
    write_openpose(tmp_path / clip().clip_id, "x", coords, scores)
    (tmp_path / clip().clip_id / "x_000000000003_keypoints.json").write_text('{"version": 1.3, "peo')
    with pytest.raises(ExpertError, match=r"x_000000000003_keypoints\.json: is torn"):
        lookup(expert(tmp_path, layout="openpose25"))


def test_a_clip_without_saved_output(tmp_path: Path) -> None:
    numbered(tmp_path, "other", 4)
    with pytest.raises(ExpertError, match=r"a-v1-0-2\.npz: there is nothing for a-v1-0-2"):
        lookup(expert(tmp_path))
    write_openpose(tmp_path / "b" / "other", "x", *people(joints=25))
    with pytest.raises(ExpertError, match=r"holds no file \*_keypoints\.json"):
        lookup(expert(tmp_path / "b"))


def test_a_damaged_first_file_does_not_hide_the_others(tmp_path: Path) -> None:
    coords, scores = people()
    for n in range(2):
        (tmp_path / f"{n}.json").write_text(json.dumps(alphapose(coords, scores)))
    (tmp_path / "0.json").write_text("[{")
    made = expert(tmp_path)
    made.check()
    assert (made.kind, made.skeleton) == ("coco", "coco17")
    check(lookup(made, which=clip("1")), coords, scores)
    with pytest.raises(ExpertError, match="is torn"):
        lookup(made, which=clip("0"))
    (tmp_path / "1.json").write_text("")
    with pytest.raises(ComponentError, match="give format"):
        expert(tmp_path).check()


def test_wrong_options(tmp_path: Path) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ComponentError, match=match):
            expert(**{"folder": tmp_path, **options}).check()

    refused("is no folder", folder=tmp_path / "nowhere")
    refused("holds no saved poses", folder=tmp_path)
    numbered(tmp_path, "x", 4)
    refused("use {clip_id}, {video_id}, {stem}, {source}", pattern="{id}")
    refused("unknown skeleton", layout="coco71")
    refused("fps = 0", fps=0)
    refused("min_score", min_score=2)
    refused("format", format="openpos")
    np.savez(tmp_path / "x.npz", kpts=np.ones((4, 19, 2)))
    refused("has 19 joints: give layout")
    np.savez(tmp_path / "x.npz", kpts=np.zeros((4, 17, 2)))
    refused("nobody is found in the first files")
    with pytest.raises(ExpertError, match="observe"):
        expert(tmp_path, layout="coco17").load().predict(np.zeros((1, 8, 8, 3), np.uint8))


# what enters fingerprints


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    numbered(tmp_path, "x", 4)
    before, listed = expert(tmp_path).weights(), expert(tmp_path, content=False).weights()
    assert before == expert(tmp_path).weights() and before != listed
    os.utime(tmp_path / "x.npz", (0, 0))
    assert expert(tmp_path).weights() == before
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[-100] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    assert expert(tmp_path).weights() != before
    assert expert(tmp_path, content=False).weights() == listed
    assert expert(tmp_path, content=False, version="2").weights() != listed
    (tmp_path / "x.npz").rename(tmp_path / "y.npz")
    assert expert(tmp_path, content=False).weights() != listed


def test_saved_files_are_read_once_however_often_a_build_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(5):
        numbered(tmp_path, f"c{n}", 4)
    read, before = list[Path](), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or before(path))
    found = [expert(tmp_path).weights() for _ in range(4)]  # as the check, the fingerprint and the lock of a build do
    assert len(read) == 5 and all(weights == found[0] for weights in found)
    numbered(tmp_path, "c5", 4)
    assert expert(tmp_path).weights() != found[0]


def test_it_travels_and_forgets_old_clips(tmp_path: Path) -> None:
    for n in range(20):
        numbered(tmp_path, f"c{n}", 4 + n)
    made = pickle.loads(pickle.dumps(expert(tmp_path)))  # noqa: S301, bytes of our own making
    with made.load() as session:
        for n in [*range(20), 0]:
            indices = np.arange(4 + n)
            assert len(session.lookup(clip(f"c{n}"), indices, indices / 25, FPS)) == 4 + n
        assert session.num_kept <= 8
    assert skeleton(made.skeleton).num_joints == 17


@pytest.mark.data
def test_the_three_estimators_of_sstas_demo(shared_data: Path, tmp_path: Path) -> None:
    """One clip; LCR-Net is a frame short, OpenPose misses most joints, written as zeros."""
    name = "WatchTV_p02_r03_v05_c05"
    found = {}
    for who in ("Alphapose2d", "LCRNet2d", "OP2d"):
        made = expert(shared_data / "fusion" / "ssta_demo", pattern=f"{{clip_id}}_{who}")
        found[who] = lookup(made, 1380, clip(name))
    missing = {
        who: np.mean([np.isnan(p.coords).any(-1).mean() if len(p) else 1.0 for p in poses])
        for who, poses in found.items()
    }
    assert [len(p) for p in found["LCRNet2d"]] == [1] * 1379 + [0]
    assert missing["Alphapose2d"] == 0
    assert 0.5 < missing["OP2d"] < 0.7
    given = np.load(shared_data / "fusion" / "ssta_demo" / f"{name}_Alphapose2d.npz")["kpts"]
    np.testing.assert_array_equal(np.stack([p.coords[0] for p in found["Alphapose2d"]]), given)


def test_it_needs_no_process_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="only looks up what was saved"):
        Isolated("precomputed", {"folder": str(tmp_path)})


@pytest.mark.parametrize("name", ["a", "a[1]", "what?", "*"])
def test_a_clip_of_openpose_is_found_by_its_whole_name(tmp_path: Path, name: str) -> None:
    """The files of all clips lie in one folder, and some names begin as others do."""
    stems = ("a", "a_b", "a[1]", "a1", "what?", "whats", "*", "a_1")
    for number, stem in enumerate(stems, 1):
        coords = np.full((2, 1, 25, 2), 10.0 * number, np.float32)
        write_openpose(tmp_path, stem, coords, np.full((2, 1, 25), 0.9, np.float32))
    found = openpose.read(tmp_path / name)
    assert sorted(found.people) == [0, 1]
    shown = {float(person.coords[0, 0]) for people in found.people.values() for person in people}
    assert shown == {10.0 * (stems.index(name) + 1)}


@pytest.mark.parametrize(("low", "unit"), [(0.0, 1.0), (-1.0, 2.0)])
def test_coordinates_from_0_to_1_are_scaled_to_the_picture(tmp_path: Path, low: float, unit: float) -> None:
    pixels = np.random.default_rng(0).uniform(1, 99, (4, 1, 25, 2)) * np.array([3.0, 2.0])
    pixels[0, 0, 0] = 3.0, 2.0  # so that [-1, 1] holds something below 0
    scores = np.full((4, 1, 25), 0.9, np.float32)
    write_openpose(tmp_path / clip().clip_id, "x", low + unit * pixels / np.array([300.0, 200.0]), scores)
    frames = np.zeros((4, 200, 300, 3), np.uint8)
    batch = ClipFrames(clip(), frames, np.arange(4), np.arange(4) / 25, FPS)
    with expert(tmp_path).load() as session:
        for frame, poses in enumerate(session.observe(batch)):
            np.testing.assert_allclose(poses.coords, pixels[frame], atol=1e-2)
            assert poses.boxes[0, 2] > 100


def test_coordinates_in_pixels_are_left_alone(tmp_path: Path) -> None:
    saved = Saved("x", {0: [person(np.full((17, 2), 0.5)), person(np.full((17, 2), 1.5))]})
    assert saved.in_pixels(300, 200) is saved
