"""RTMPose: the published tensors' names, and the bins and joints of mmpose's network with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import WeightsError
from dataengine.experts.rtmpose import NETWORKS, RtmPose, decode_simcc, empty_network
from tests.support.torch_setup import BOXES, one_thread, random_weights, scene

MODELS = ["t", *(pytest.param(m, marks=pytest.mark.slow) for m in ("s", "m", "l", "m-384", "x"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_thread()
    return tmp_path_factory.mktemp("rtmpose")


@pytest.mark.parametrize("model", MODELS)
def test_bins_as_mmpose(model: str, folder: Path) -> None:
    pytest.importorskip("mmengine")
    from dataengine.experts import mmpose
    from dataengine.experts.mmpose_shims import mmpose_importable

    expert = random_weights.rtmpose(folder, model)
    state = torch.load(expert.checkpoint, weights_only=True)["state_dict"]
    with mmpose_importable("the test"):
        theirs = mmpose.empty_network("rtmpose-x" if model == "x" else f"rtmpose-{model}").eval()
        # every tensor has its place under its own name
        theirs.load_state_dict(state)
    ours = empty_network(model).eval()
    ours.load_state_dict(state)
    width, height = NETWORKS[model].size
    x = torch.randn((2, 3, height, width), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, got = theirs.head(theirs.backbone(x)), ours(x)
        ours.fold()
        folded = ours(x)
    for want, given, fast in zip(expected, got, folded, strict=True):
        assert want.std() > 0.05
        torch.testing.assert_close(given, want, atol=1e-4, rtol=0)
        torch.testing.assert_close(fast, want, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_joints_as_the_expert_mmpose(folder: Path) -> None:
    pytest.importorskip("mmengine")
    from dataengine import experts

    options = {"min_score": 0.0, "min_mean": 0.0}
    ours = random_weights.rtmpose(folder, "t", **options)
    theirs = experts.create("mmpose", model="rtmpose-t", checkpoint=ours.checkpoint, **options)
    with ours.load() as own, theirs.load() as other:
        (got,), (expected,) = own.predict(scene()[None], [BOXES]), other.predict(scene()[None], [BOXES])
    assert len(got) == len(expected) == len(BOXES)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-3)
    away = np.linalg.norm(got.coords - expected.coords, axis=-1)
    np.testing.assert_array_equal(np.isnan(away), got.scores == 0)
    assert np.nanmax(away) < 0.01


def test_answers_depend_on_the_picture_and_spread_over_the_crop(folder: Path) -> None:
    expert = random_weights.rtmpose(folder, "t")
    with expert.load() as session:
        inputs = session.preprocess(np.stack([scene(), scene()[:, ::-1]]), [BOXES, BOXES])
        joints = np.stack(session.infer(inputs.pixels))
    assert joints.shape == (6, 17, 3)
    assert np.nanstd(joints[..., 0]) > 20 and np.nanstd(joints[..., 1]) > 20
    assert not np.allclose(joints[0], joints[3], equal_nan=True)
    assert (joints[..., 2] > 0).mean() > 0.9


def test_peaks_become_joints_and_no_peak_becomes_none() -> None:
    across, down = torch.full((1, 2, 8), -1.0), torch.full((1, 2, 10), -1.0)
    across[0, 0, 3], down[0, 0, 6] = 0.9, 0.5
    (joints,) = decode_simcc(across, down)
    np.testing.assert_allclose(joints[0], [1.5, 3.0, 0.5])
    assert np.isnan(joints[1, :2]).all() and joints[1, 2] == 0


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    small = random_weights.rtmpose(folder, "t")
    with pytest.raises(WeightsError, match=r"are not of RTMPose s: tensors .* of another shape"):
        RtmPose(model="s", checkpoint=small.checkpoint).load()


@pytest.mark.slow
def test_joints_as_the_expert_onnx_with_the_network_exported(folder: Path) -> None:
    """The recipes' former expert, on the form of file that is published: two outputs, one per axis."""
    pytest.importorskip("onnx")
    from dataengine import experts

    options = {"min_score": 0.0, "min_mean": 0.0}
    ours = random_weights.rtmpose(folder, "t", **options)
    network = empty_network("t").eval()
    network.load_state_dict(torch.load(ours.checkpoint, weights_only=True)["state_dict"])
    path, names = folder / "end2end.onnx", ["simcc_x", "simcc_y"]
    free = {name: {0: "batch"} for name in ("input", *names)}
    torch.onnx.export(
        network, (torch.zeros(1, 3, 256, 192),), str(path), dynamo=False, input_names=["input"], output_names=names,
        dynamic_axes=free, opset_version=17,
    )  # fmt: skip
    theirs = experts.create("onnx", model=str(path), **options)
    with ours.load() as own, theirs.load() as other:
        (got,), (expected,) = own.predict(scene()[None], [BOXES]), other.predict(scene()[None], [BOXES])
    assert len(got) == len(expected) == len(BOXES)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(got.coords, expected.coords, atol=0.01)
