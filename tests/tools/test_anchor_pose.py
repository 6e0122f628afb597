"""Base training of anchor poses: what is read, what is begun with, and that a run is a function of its arguments."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from dataengine.core import registry
from dataengine.core.errors import DatasetError, WeightsError
from dataengine.core.skeletons import convert, skeleton
from dataengine.experts.anchor_pose_network import MEAN, STD, TinyBackbone
from dataengine.experts.anchor_pose_spec import read_spec
from dataengine.experts.synthetic import weights_folder
from dataengine.rendering import render_clip
from tools.anchor_pose.__main__ import main, split
from tools.anchor_pose.data import CocoPeople, cut, rendered
from tools.anchor_pose.initial import read

BOTTOMUP = weights_folder() / "synthetic_bottomup.onnx"


def coco(folder: Path, name: str = "a.png") -> CocoPeople:
    """Two people in one picture, one of them with three joints, and a crowd."""
    cv2.imwrite(str(folder / "a.png"), np.full((40, 60, 3), 9, np.uint8))
    person = [v for k in range(17) for v in (10 + k, 5 + k, 2)]
    few = [1, 1, 1] * 3 + [0, 0, 0] * 14
    told = {
        "images": [{"id": 7, "file_name": name}],
        "annotations": [
            {"image_id": 7, "keypoints": person, "num_keypoints": 17},
            {"image_id": 7, "keypoints": few, "num_keypoints": 3},
            {"image_id": 7, "keypoints": person, "num_keypoints": 17, "iscrowd": 1},
        ],
    }
    (folder / "people.json").write_text(json.dumps(told))
    return CocoPeople(folder / "people.json", folder)


def test_pictures_of_coco(tmp_path: Path) -> None:
    frames = coco(tmp_path)
    frame = frames[0]
    assert (len(frames), len(frame), frame.skeleton, frame.image.shape) == (1, 1, "body13", (40, 60, 3))
    assert frame.keypoints[0, 0].tolist() == [10, 5]
    low, high = frame.keypoints[0].min(0), frame.keypoints[0].max(0)
    assert frame.boxes[0] == pytest.approx([*(low - 0.05 * (high - low)), *(high + 0.05 * (high - low))])


def test_names_of_pictures_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DatasetError, match="outside"):
        coco(tmp_path / "in", "../secret.png")[0]


@pytest.mark.parametrize("content", ["[]", "{", '{"images": [], "annotations": []}'])
def test_files_that_are_no_coco_are_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DatasetError, match=r"x\.json"):
        CocoPeople(tmp_path / "x.json", tmp_path)


def test_the_trunk_of_the_bottom_up_expert_gives_the_same_maps() -> None:
    """With the last layer of joints on top, the backbone answers as the shipped file does."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    backbone = TinyBackbone().eval()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in read(BOTTOMUP).items()}, strict=False)
    image = render_clip(5, 1, size=(192, 144)).frames
    x = torch.from_numpy(((image - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    held = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(BOTTOMUP)).graph.initializer}
    weight, bias = (
        torch.from_numpy(held.get(f"net.joint_head.1.{n}_half", held.get(f"net.joint_head.1.{n}")).astype(np.float32))
        for n in ("weight", "bias")
    )
    with torch.inference_mode():
        maps = torch.nn.functional.conv2d(backbone(x)["joints"][:, 64:], weight, bias).numpy()
    wanted = runtime.InferenceSession(str(BOTTOMUP)).run(None, {"image": image})[0][:, : maps.shape[1]]
    assert np.abs(maps - wanted).max() < 5e-3


def test_what_is_no_network_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(WeightsError, match=r"a\.onnx"):
        read(tmp_path / "a.onnx")


def test_rendered_people_are_equal_for_equal_seeds_and_cut_ones_reach_out_of_the_picture() -> None:
    first, again = rendered(5, 2), rendered(5, 2)
    assert all(a.image.tobytes() == b.image.tobytes() and a.key == b.key for a, b in zip(first, again, strict=True))
    clip = render_clip(3, 1, size=(160, 120), condition="clean", num_people=1)
    frames, joints = cut(clip, np.random.default_rng(0))
    assert frames.shape == clip.frames.shape
    outside = ((joints[0, 0] < 0) | (joints[0, 0] >= (160, 120))).any(-1)
    assert 0 < outside.sum() < 14


def test_frames_of_one_clip_are_on_one_side() -> None:
    frames = rendered(5, 5)
    train, validation = split([frames], [4], 0)
    names = [{frame.key.split(":")[0] for frame in part[:]} for part in (train, validation)]
    assert not names[0] & names[1]
    assert len(train) + len(validation) == len(frames)


@pytest.mark.slow
def test_a_run_is_a_function_of_its_arguments(tmp_path: Path) -> None:
    sizes = {"width": 64, "height": 64, "hidden": 16, "proposals": 8, "regions": 8, "anchors": 3, "epochs": 1}
    shape = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    shape += ["--backbone", "tiny"]
    for name in ("a", "b"):
        assert main([str(tmp_path / f"{name}.safetensors"), "--rendered", "4", *shape]) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(DatasetError, match="--coco"):
        main([str(tmp_path / "c.safetensors")])
    further = ["--base", str(tmp_path / "a.safetensors"), "--rendered", "4", "--epochs", "1", "--regions", "8"]
    assert main([str(tmp_path / "d.safetensors"), *further]) == 0
    first, second = read_spec(tmp_path / "a.safetensors"), read_spec(tmp_path / "d.safetensors")
    assert first == second
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "d.safetensors").read_bytes()


def person_keypoints(folder: Path, clips: int) -> tuple[Path, Path]:
    """A file as COCO's person_keypoints_*.json has them, with all of its tables, and a folder of its pictures."""
    (folder / "train2017").mkdir()
    images, annotations = [], []
    for number, frame in enumerate(rendered(21, clips)[::4]):
        name = f"{number:012d}.jpg"
        cv2.imwrite(str(folder / "train2017" / name), frame.image[..., ::-1])
        height, width = frame.image.shape[:2]
        images.append({"id": 100 + number, "file_name": name, "height": height, "width": width, "license": 1})
        points, _ = convert(frame.keypoints, None, frame.skeleton, "coco17")
        for person, box in zip(points, frame.boxes):
            seen = np.isfinite(person).all(-1)
            rows = np.concatenate([np.nan_to_num(person), np.where(seen, 2, 0)[:, None]], 1).round().astype(int)
            x0, y0, x1, y1 = box.tolist()
            annotations.append(
                {"id": len(annotations), "image_id": 100 + number, "category_id": 1, "iscrowd": 0,
                 "keypoints": rows.ravel().tolist(), "num_keypoints": int(seen.sum()), "area": (x1 - x0) * (y1 - y0),
                 "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [[x0, y0, x1, y0, x1, y1]]}
            )  # fmt: skip
    crowd = {"id": 10_000, "image_id": 100, "category_id": 1, "iscrowd": 1, "keypoints": [0] * 51, "num_keypoints": 0,
             "area": 9.0, "bbox": [0, 0, 3, 3], "segmentation": {"counts": [1, 8], "size": [3, 3]}}  # fmt: skip
    told = {
        "info": {"year": 2017}, "licenses": [{"id": 1, "name": "x"}], "images": images,
        "annotations": [*annotations, crowd, {**crowd, "id": 10_001, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton("coco17").joints), "skeleton": []}],
    }  # fmt: skip
    (folder / "person_keypoints_train2017.json").write_text(json.dumps(told))
    return folder / "person_keypoints_train2017.json", folder / "train2017"


@pytest.mark.slow
def test_base_training_on_a_file_of_coco_gives_a_base_that_a_student_starts_from(tmp_path: Path) -> None:
    annotations, pictures = person_keypoints(tmp_path, 6)
    sizes = {"width": 64, "height": 64, "hidden": 16, "proposals": 8, "regions": 8, "anchors": 3, "epochs": 2}
    shape = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    base = tmp_path / "base.safetensors"
    assert main([str(base), "--coco", str(annotations), str(pictures), "--flip", "--backbone", "tiny", *shape]) == 0
    student = registry.create("students", "anchor_pose", {"base": str(base)})
    with student.start() as session:
        loss = session.loss(CocoPeople(annotations, pictures)[:4], np.random.default_rng(0), True)["loss"]
        loss.backward()
        assert torch.isfinite(loss) and any(p.grad is not None for g in session.parameters() for p in g["params"])
        session.save(tmp_path / "generation.safetensors")
    with student.expert(tmp_path / "generation.safetensors").load() as expert:
        (poses,) = expert.predict(CocoPeople(annotations, pictures)[0].image[None])
        assert poses.coords.shape[1:] == (13, 2)
