"""Our MoveNet on torch: the published weights give what the published graph gives, and other files are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine import experts
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Frames
from dataengine.experts.heads import open_heads
from dataengine.experts.movenet import SIZES, decode
from dataengine.io import weights
from tests.support.movenet_files import random_movenet
from tests.support.onnx_files import random_network

torch = pytest.importorskip("torch")
from dataengine.experts.movenet_network import MoveNetModule, as_heads, load_network, open_graph_file

VARIANTS = tuple(SIZES)
GOLDEN = Path(__file__).parents[1] / "golden"


def published(variant: str) -> Path:
    if not weights.names_of(f"movenet_{variant}") or not weights.present(f"movenet_{variant}"):
        pytest.skip(f"weights movenet_{variant} are not here")
    return weights.locate(f"movenet_{variant}")


def figure(variant: str) -> Frames:
    size = SIZES[variant]
    return np.ascontiguousarray(cv2.imread(str(GOLDEN / f"figure_{size}x{size}.png"))[None, ..., ::-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_weights_give_what_their_graph_and_the_original_runtime_give(variant: str) -> None:
    network, _ = load_network(published(variant), variant)
    image = figure(variant)
    crops = np.concatenate([image, image[:, ::-1, ::-1]])
    with torch.no_grad():
        found = as_heads(network(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))))
    wanted = open_heads(published(variant))(crops)
    for name, maps in wanted.items():  # stored as float16, computed in float32 by both
        np.testing.assert_allclose(found[name], maps, atol=1e-3, err_msg=name)
    golden = np.load(GOLDEN / f"tfjs_movenet-{variant}.npz", allow_pickle=False)["Identity"][0, 0]
    joints = decode(found)[0]
    # the original of lightning divides by 48 in half precision: up to 0.05 pixels
    np.testing.assert_allclose(joints[:, :2], golden[:, 1::-1] * SIZES[variant], atol=0.06)
    np.testing.assert_allclose(joints[:, 2], golden[:, 2], atol=1e-4)


def test_a_written_graph_is_read_as_it_was_and_runs_without_torch(tmp_path: Path) -> None:
    path = random_movenet(tmp_path / "a.onnx", "lightning")
    network, file = load_network(path, "lightning")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    written = tmp_path / "b.onnx"
    written.write_bytes(file.with_weights(network))
    again, file_again = load_network(written, "lightning")
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert file_again.with_weights(again) == written.read_bytes()
    crops = np.random.default_rng(0).integers(0, 256, (2, 192, 192, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = as_heads(network(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))))
    for name, maps in open_heads(written)(crops).items():
        np.testing.assert_allclose(wanted[name], maps, atol=1e-3, err_msg=name)


def test_parts_that_are_frozen_change_nothing_but_gradients() -> None:
    network = MoveNetModule("lightning")
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    plain, frozen = network(crops), network(crops, 3)
    for name, maps in plain.items():
        torch.testing.assert_close(maps, frozen[name])
    sum(maps.sum() for maps in frozen.values()).backward()
    learned = [part.parameters().__next__().grad is not None for part in network.backbone_parts()]
    assert learned == [False] * 3 + [True] * 6


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    other = random_network(tmp_path / "other.onnx", {"heatmap": [8, 8, 17]}, (192, 192))
    with pytest.raises(WeightsError, match="are not of MoveNet"):
        open_graph_file(other)
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x08\xff\xff")
    with pytest.raises(WeightsError, match=r"torn\.onnx cannot be read as ONNX"):
        open_graph_file(tmp_path / "torn.onnx")
    with pytest.raises(WeightsError, match="are MoveNet lightning, not thunder"):
        load_network(random_movenet(tmp_path / "small.onnx", "lightning"), "thunder")
    with pytest.raises(WeightsError, match="not finite"):
        load_network(random_movenet(tmp_path / "nan.onnx", "lightning", fill=np.nan), "lightning")


def test_the_expert_takes_a_checkpoint_in_place_of_the_published_weights(tmp_path: Path) -> None:
    path = random_movenet(tmp_path / "mine.onnx", "lightning")
    expert = experts.create("movenet", variant="lightning", checkpoint=str(path))
    assert expert.weights() == {"mine.onnx": weights.digest(path)}
    assert expert.needs() == []
    assert expert.score_calibration == "movenet_lightning"
    with expert.load() as session:
        frames = np.zeros((1, 96, 96, 3), np.uint8)
        assert len(session.predict(frames, [np.array([[0, 0, 96, 96, 1]], np.float32)])) == 1
    with pytest.raises(WeightsError, match="neither a file here"):
        experts.create("movenet", checkpoint=str(tmp_path / "gone.onnx")).weights()
    with pytest.raises(ComponentError, match="keep one"):
        experts.create("movenet", checkpoint="a.onnx", model="b.onnx")
    with pytest.raises(ComponentError, match="192 x 192"):
        experts.create("movenet", variant="thunder", checkpoint=str(path)).load()
