"""CAP: vipy scenes of several versions, actors, namesakes and malformed members."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dataengine.core import registry
from dataengine.core.errors import SourceError
from dataengine.core.types import Clip

KEY = "<class 'vipy.video.Scene'>"


def clips(root: Path) -> list[Clip]:
    found = list(registry.create("sources", "cap").discover(root))
    assert len({clip.clip_id for clip in found}) == len(found)
    return found


def scene(**more: Any) -> dict[str, Any]:
    boxes = [{"xmin": 10.0 * i, "ymin": 5.0, "xmax": 10.0 * i + 20, "ymax": 65.0} for i in range(7)]
    made = {
        "filename": "videos/person_sits_down/v1_0.mp4",
        "url": None,
        "framerate": 30.0,
        "attributes": {"video_id": "v1", "subject_ids": ["s9"]},
        "startframe": None,
        "endframe": None,
        "tracks": {
            "t0": {"framerate": 30.0, "keyframes": [0, 15, 30, 45, 60, 75, 90], "keyboxes": boxes},
            "t1": {"framerate": 30.0, "keyframes": [0], "keyboxes": [{"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}]},
        },
        "activities": {
            "a0": {
                "startframe": 20,
                "endframe": 50,
                "framerate": 30.0,
                "label": "person_sits_down",
                "trackid": ["t1", "t0"],
                "actorid": "t0",
            }
        },
    }
    return made | more


def write(root: Path, name: str, *scenes: Any) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(scenes)))


def media(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_an_activity_becomes_a_clip(tmp_path: Path) -> None:
    write(tmp_path, "annotations/val.json", {KEY: scene()})
    media(tmp_path, "videos/person_sits_down/v1_0.mp4", "videos/other/v1_0.mp4")
    (clip,) = clips(tmp_path)
    assert clip.clip_id == "cap-v1-667-1667" and clip.video_id == "v1" and clip.label == "person_sits_down"
    assert (clip.span_start, clip.span_end) == (pytest.approx(20 / 30), pytest.approx(50 / 30))
    assert clip.media == "videos/person_sits_down/v1_0.mp4"
    assert (clip.split, clip.subject, clip.licence) == ("val", "s9", "CC BY 4.0") and "consent" in (clip.consent or "")
    # From the key box before the span to the one behind it.
    assert json.loads(clip.actor or "") == [[0.5 * i, 10.0 * i, 5.0, 10.0 * i + 20, 65.0] for i in range(1, 5)]


def underscored(value: Any, names: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key if names else f"_{key}": underscored(member, key in ("tracks", "activities"))
            for key, member in value.items()
        }
    return [underscored(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["single", "underscored", "text", "text_tracks", "bare"])
def test_older_and_other_forms_say_the_same(tmp_path: Path, form: str) -> None:
    plain = scene()
    write(tmp_path / "new", "train.json", {KEY: plain})
    other: Any = [{KEY: plain}]
    if form == "single":
        other = {KEY: plain}
    elif form == "underscored":
        old = underscored(plain)
        old["_attributes"] = plain["attributes"]
        other = [{KEY: old}]
    elif form == "text":
        other = [{KEY: json.dumps(plain)}]
    elif form == "text_tracks":
        changed = copy.deepcopy(plain)
        changed["tracks"]["t0"] = json.dumps(plain["tracks"]["t0"])
        other = [{KEY: changed}]
    elif form == "bare":
        other = ["<class 'vipy.video.Scene'>", plain]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train.json").write_text(json.dumps(other))
    found = clips(tmp_path / "old")
    assert [clip for clip in found if clip.reason is None] == clips(tmp_path / "new")


def test_frames_count_from_where_the_scene_starts_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, "train.json", {KEY: scene(startframe=60)})
    (clip,) = clips(tmp_path)
    assert clip.span_start == pytest.approx(80 / 30)
    assert json.loads(clip.actor or "")[0][0] == pytest.approx(2.5)


def test_two_activities_of_one_span_and_repeated_scenes(tmp_path: Path) -> None:
    both = scene()
    both["activities"]["a1"] = both["activities"]["a0"] | {"label": "person_talks"}
    other = scene(filename="videos/person_sits_down/v1_1.mp4")
    write(tmp_path, "train/all.json", {KEY: both}, {KEY: other})
    write(tmp_path, "train/again.json", {KEY: both})
    write(tmp_path, "val/conflict.json", {KEY: other})
    found = clips(tmp_path)
    assert [clip.label for clip in found] == ["person_sits_down", "person_talks", "person_sits_down", None]
    assert found[0].clip_id == "cap-v1-667-1667"
    assert all(clip.clip_id.startswith("cap-v1-") and clip.clip_id.endswith("-667-1667") for clip in found[:3])
    assert found[3].reason == "duplicate_id" and found[3].video_id == "v1"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"framerate": 0}, None),
        ({"activities": {}}, "no activities"),
        ({"activities": None}, "no activities"),
        ({"activities": {"a": {"startframe": 5, "endframe": 5, "framerate": 30, "label": "x"}}}, "spans"),
        ({"activities": {"a": {"startframe": "5", "endframe": 9, "framerate": 30, "label": "x"}}}, "startframe is '5'"),
        (
            {"activities": {"a": {"startframe": 5, "endframe": float("nan"), "framerate": 30, "label": "x"}}},
            "endframe is nan",
        ),
        ({"activities": {"a": {"startframe": 5, "endframe": 9, "framerate": -30, "label": "x"}}}, "not positive"),
        ({"activities": {"a": {"startframe": 5, "endframe": 9, "framerate": 30}}}, "no 'label'"),
        ({"activities": {"a": ["startframe"]}}, "not a vipy scene"),
        ({"tracks": {"t0": {"framerate": 30, "keyframes": [1, 2], "keyboxes": []}}}, "2 key frames and 0 key boxes"),
        ({"filename": None, "attributes": None}, "neither a filename nor a video_id"),
    ],
)
def test_a_malformed_scene_costs_itself_only(tmp_path: Path, change: dict[str, Any], says: str | None) -> None:
    good = scene(attributes={"video_id": "good"})
    write(tmp_path, "train.json", {KEY: scene(**change)}, {KEY: good})
    first, last = clips(tmp_path)
    assert last.video_id == "good" and last.reason is None
    if says is None:
        assert first.reason is None
    else:
        assert (
            first.reason == "bad_row" and "train.json entry 1" in (first.detail or "") and says in (first.detail or "")
        )


def test_members_of_other_types_and_a_file_that_breaks_off(tmp_path: Path) -> None:
    text = json.dumps([3, None, "x", {}, {KEY: scene()}, {KEY: scene(filename="b.mp4")}])
    (tmp_path / "train.json").write_text(text[:-40])
    found = clips(tmp_path)
    assert [clip.reason for clip in found] == ["bad_row"] * 4 + [None, "bad_row"]


def test_names_never_become_paths(tmp_path: Path) -> None:
    root = tmp_path / "root"
    media(tmp_path, "secret.mp4")
    media(root, "videos/a/v1.mp4", "videos/b/v1.mp4")
    names = [
        "../secret.mp4",
        "/etc/passwd.mp4",
        str(tmp_path / "secret.mp4"),
        "x/v1.mp4",
        "/data/b/v1.mp4",
        "..\\b\\v1.mp4",
    ]
    write(
        root,
        "train.json",
        *({KEY: scene(filename=name, attributes={"video_id": f"v{i}"})} for i, name in enumerate(names)),
    )
    found = clips(root)
    assert [clip.media for clip in found] == ["", "", "", "", "videos/b/v1.mp4", "videos/b/v1.mp4"]
    assert found[3].reason == "bad_row" and "may mean 2 files" in (found[3].detail or "")


def test_nothing_to_use(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"coco": []}')
    with pytest.raises(SourceError, match="no vipy JSON"):
        clips(tmp_path)


@pytest.mark.data
def test_a_real_annotation(shared_data: Path) -> None:
    found = clips(shared_data / "labels" / "cap")
    real = [clip for clip in found if clip.video_id == "example0"]
    assert len(real) == 7 and len(found) == 8 and not any(clip.reason for clip in found)
    assert real[0].clip_id == "cap-example0-0-4000" and real[0].subject == "subject0"
    boxes = json.loads(real[0].actor or "")
    assert boxes[0] == [0.0, 189.7, 266.3, 318.2, 644.2] and boxes[-1][0] == 4.0
    synthetic = next(clip for clip in found if clip.video_id == "synthetic0")
    assert (synthetic.start, synthetic.end, synthetic.label) == (0.5, 2.5, "person_sits_down")
