"""mmpose's networks: the same joints as mmpose's own pipeline finds with the same weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mmengine")

from dataengine.experts.mmpose import NETWORKS, empty_network
from dataengine.experts.mmpose_shims import mmpose_importable
from tests.support.torch_setup import BOXES, one_thread, random_weights, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_thread()
    return tmp_path_factory.mktemp("mmpose")


def reference(expert: Any, picture: np.ndarray, boxes: np.ndarray | None) -> Any:
    """What mmpose's own inference says of a picture (RGB), unmirrored."""
    import mmpose
    import torch
    from mmengine import Config
    from mmengine.dataset import Compose, pseudo_collate

    network = NETWORKS[expert.model]
    config = Config.fromfile(Path(mmpose.__file__).parent / ".mim/configs/body_2d_keypoint" / f"{network.config}.py")
    with mmpose_importable("the test"):
        import mmpose.datasets
        from mmpose.registry import TRANSFORMS

        model = empty_network(expert.model).eval()
        model.load_state_dict(torch.load(expert.checkpoint, weights_only=True)["state_dict"])
        model.test_cfg["flip_test"] = False
        if network.kind == "rtmo":
            model.head.test_cfg = {**model.test_cfg, "score_thr": expert.threshold, "nms_thr": expert.overlap}
            model.test_cfg.update(score_thr=expert.threshold, nms_thr=expert.overlap)
        steps = [TRANSFORMS.build({**step, "_scope_": "mmpose"}) for step in config.val_dataloader.dataset.pipeline[1:]]
        sample: dict[str, Any] = {
            "img": picture[..., ::-1].copy(),
            "img_shape": picture.shape[:2],
            "ori_shape": picture.shape[:2],
        }
        sample |= {"id": 0, "img_id": 0, "img_path": "", "flip_indices": list(range(17))}
        rows = [None] if boxes is None else boxes
        data = []
        for box in rows:
            more = {} if box is None else {"bbox": box[None].astype(np.float32), "bbox_score": np.ones(1, np.float32)}
            data.append(Compose(steps)({**sample, **more}))
        with torch.inference_mode():
            return [one.pred_instances for one in model.test_step(pseudo_collate(data))]


@pytest.mark.parametrize(
    "model",
    [
        "rtmpose-t",
        "hrnet-w32",
        *(
            pytest.param(m, marks=pytest.mark.slow)
            for m in ("rtmpose-s", "rtmpose-m", "rtmpose-x", "hrnet-w48", "rtmpose-m-384")
        ),
    ],
)
def test_topdown_as_mmpose(model: str, folder: Path) -> None:
    expert = random_weights.mmpose(folder, model, min_score=0.0, min_mean=0.0)
    picture = scene()
    session = expert.load()
    inputs = session.preprocess(picture[None], [BOXES])
    mine = np.stack(session.infer(inputs.pixels))
    coords = np.stack([inputs.to_frame(n, one[:, :2]) for n, one in enumerate(mine)])
    found = reference(expert, picture, BOXES)
    theirs, scores = np.concatenate([f.keypoints for f in found]), np.concatenate([f.keypoint_scores for f in found])
    np.testing.assert_allclose(
        np.where(scores > 0, mine[..., 2], 0), np.where(scores > 0, scores, 0), atol=2e-3 * scores.max()
    )
    away = np.linalg.norm(coords - theirs, axis=-1)[scores > 0]
    # random maps have near ties: the median tells of the geometry, the share of the peaks
    assert np.median(away) < 0.01
    assert np.mean(away < 0.05) > 0.9


@pytest.mark.parametrize(
    "model", ["rtmo-t", *(pytest.param(m, marks=pytest.mark.slow) for m in ("rtmo-s", "rtmo-m", "rtmo-l"))]
)
def test_rtmo_as_mmpose(model: str, folder: Path) -> None:
    side = NETWORKS[model].size[0]
    expert = random_weights.mmpose(folder, model, min_score=0.0, min_mean=0.0, threshold=0.02, max_people=20)
    # a picture of the network's size, so that both see the same pixels
    picture = scene(side, side)
    got = expert.load().infer(picture[None])[0]
    (theirs,) = reference(expert, picture, None)
    assert len(got) > 3
    num = len(got)
    np.testing.assert_allclose(got[:, 4], theirs.bbox_scores[:num], atol=1e-4)
    np.testing.assert_allclose(got[:, :4], theirs.bboxes[:num], atol=0.05)
    joints = got[:, 5:].reshape(num, 17, 3)
    np.testing.assert_allclose(joints[..., :2], theirs.keypoints[:num], atol=0.1)
    np.testing.assert_allclose(joints[..., 2], theirs.keypoint_scores[:num], atol=1e-4)


def test_stand_ins_are_gone_afterwards() -> None:
    with mmpose_importable("the test"):
        import mmpose.models  # noqa: F401
    left = [
        name
        for name in sys.modules
        if name.partition(".")[0] in ("mmdet", "xtcocotools") or name.startswith("mmcv.ops")
    ]
    assert left == []
    with pytest.raises(ImportError):
        import mmdet  # noqa: F401
