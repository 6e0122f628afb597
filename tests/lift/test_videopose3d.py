"""VideoPose3D written anew: equal to the published program on drawn weights, and what a file may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.skeletons import skeleton
from dataengine.lift.checkpoints import network_of, read_state
from dataengine.lift.inputs import screen
from dataengine.lift.network import TemporalNetwork
from dataengine.lift.videopose3d import VideoPose3D, VideoPose3DSession, network_input
from dataengine.testing import check_lifter
from tests.support.drawn_networks import drawn_state, golden


def published(name: str) -> tuple[TemporalNetwork, dict[str, Any]]:
    """The network of a golden in float64, and its arrays."""
    arrays, facts = golden(f"videopose3d_{name}")
    return network_of(drawn_state(arrays), name, bool(facts["arguments"].get("causal"))).double(), arrays


@pytest.fixture(scope="module")
def small() -> tuple[TemporalNetwork, dict[str, Any]]:
    return published("c128")


def far(made: Any, stored: Any) -> float:
    """The largest difference, as a share of the largest number of the golden."""
    return float(np.abs(np.asarray(made) - stored).max() / np.abs(stored).max())


def run(network: TemporalNetwork, given: Any, one_frame: bool = False) -> Any:
    with torch.inference_mode():
        flat = torch.as_tensor(np.asarray(given, np.float64)).flatten(2)
        made = network.one_frame(flat) if one_frame else network(flat)
    return made.reshape(*made.shape[:2], -1, 3).numpy()


@pytest.mark.parametrize("name", ["c128", "c128_causal", "c1024"])
def test_the_network_is_that_of_the_published_program(name: str) -> None:
    network, arrays = published(name)
    assert network.receptive_field == 243
    assert far(run(network, arrays["input"]), arrays["output_float64"]) < 1e-9


def test_strides_give_what_dilations_give() -> None:
    network, arrays = published("c128_strided")
    assert far(run(network, arrays["input"], one_frame=True), arrays["output_float64"]) < 1e-9
    assert far(run(network, arrays["input"]), arrays["output_float64"]) < 1e-9


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("widths", [(3,), (3, 3, 3), (3, 3, 3, 3), (1, 3, 5)])
def test_strides_and_padding_for_every_receptive_field(widths: tuple[int, ...], causal: bool) -> None:
    torch.manual_seed(0)
    network = TemporalNetwork(6, 9, widths, 8, causal=causal).double().eval()
    field, (before, after) = network.receptive_field, network.padding
    assert field == np.prod(widths) and before + after == field - 1 and (not causal or after == 0)
    sequence = torch.randn(2, field + 4, 6, dtype=torch.float64)
    whole = network(sequence)
    assert whole.shape == (2, 5, 9)
    for frame in range(5):
        assert torch.allclose(network.one_frame(sequence[:, frame : frame + field])[:, 0], whole[:, frame], atol=1e-12)


def test_only_odd_widths_make_a_network() -> None:
    with pytest.raises(ComponentError, match="give odd numbers"):
        TemporalNetwork(2, 3, (3, 2))


@pytest.mark.parametrize("name", ["c128", "c128_causal"])
def test_sequences_are_padded_and_mirrored_as_published(name: str) -> None:
    network, arrays = published(name)
    flip, out = skeleton("coco17").flip, skeleton("h36m17").flip
    assert [flip[n] for n in arrays["keypoints_left"]] == list(arrays["keypoints_right"])
    assert [out[n] for n in arrays["joints_left"]] == list(arrays["joints_right"])
    for kind, wanted in ((False, "padded"), (True, "padded_flip_average")):
        session = VideoPose3DSession(VideoPose3D(checkpoint="x", flip=kind), network.float())
        assert far(session.joints(arrays["input"][0]), arrays[wanted]) < 1e-5


def as_published(small: tuple[TemporalNetwork, dict[str, Any]]) -> dict[str, Any]:
    return {
        "epoch": 80, "lr": 1e-5, "random_state": np.random.RandomState(3).get_state(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.999)}]},
        "model_pos": drawn_state(small[1]), "model_traj": None, "random_state_semi": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def file(small: tuple[TemporalNetwork, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "pretrained_h36m_detectron_coco.bin"
    torch.save(as_published(small), path)
    return path


def test_a_checkpoint_of_its_authors_is_read(file: Path, small: tuple[TemporalNetwork, dict[str, Any]]) -> None:
    state = read_state(file)
    assert set(state) == set(small[0].state_dict())
    assert far(run(network_of(state, "x").double(), small[1]["input"]), small[1]["output_float64"]) < 1e-9
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, file.with_name("parallel.bin"))
    assert set(read_state(file.with_name("parallel.bin"))) == set(state)
    from safetensors.torch import save_file

    save_file(state, file.with_name("a.safetensors"))
    assert set(read_state(file.with_name("a.safetensors"))) == set(state)


def test_the_lifter_keeps_its_promises_with_a_checkpoint(file: Path) -> None:
    for layout in ("posetics17", "coco17", "h36m17"):
        check_lifter(VideoPose3D(checkpoint=str(file)), layout)
    check_lifter(VideoPose3D(checkpoint=str(file), joints="h36m17", flip=False, constant_bones=True))


class Harmful:
    """What a file must not run."""

    def __reduce__(self) -> Any:
        return (Path("harmed").write_text, ("x",))


def test_files_that_are_no_checkpoints_are_one_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = read_state(file)
    bad = {
        "empty": {}, "list": [1, 2], "strange": {**state, "other.weight": torch.zeros(1)},
        "lacking": {k: v for k, v in state.items() if k != "expand_bn.bias"},
        "misshaped": {**state, "shrink.bias": torch.zeros(3)}, "harmful": {"model_pos": Harmful()},
    }  # fmt: skip
    for name, content in bad.items():
        torch.save(content, tmp_path / f"{name}.bin")
    (tmp_path / "text.bin").write_text("weights")
    (tmp_path / "pickle.bin").write_bytes(pickle.dumps({"model_pos": Harmful()}))
    (tmp_path / "text.safetensors").write_text("weights")
    for path in sorted([*tmp_path.glob("*.bin"), *tmp_path.glob("*.safetensors")]):
        with pytest.raises(WeightsError, match="weights") as caught:
            network_of(read_state(path), path.name)
        assert "\n" not in str(caught.value), path
    assert not (tmp_path / "harmed").exists()


def test_options_that_do_not_fit_are_one_line(file: Path) -> None:
    with pytest.raises(ComponentError, match="checkpoint is missing"):
        registry.create("lifters", "videopose3d").load()
    with pytest.raises(WeightsError):
        VideoPose3D(checkpoint="/nowhere/x.bin").load()
    other = file.with_name("other.bin")
    torch.save(TemporalNetwork(26, 39, (3, 3), 8).state_dict(), other)
    with pytest.raises(WeightsError, match="take 26 numbers per frame"):
        VideoPose3D(checkpoint=str(other)).load()


def test_the_true_size_of_the_picture_counts() -> None:
    points = np.array([[0.0, 0.0], [1280.0, 720.0], [640.0, 360.0]])
    assert np.allclose(screen(points, (1280, 720)), [[-1, -0.5625], [1, 0.5625], [0, 0]])


def test_missing_joints_are_interpolated_in_time() -> None:
    rng = np.random.default_rng(0)
    start, end = rng.uniform(100, 500, (2, 17, 2))
    whole = start + (end - start) * np.linspace(0, 1, 9)[:, None, None]
    seen = np.ones((9, 17), np.bool_)
    seen[3:5, 7] = seen[:, 10] = False
    given = np.where(seen[..., None], whole, np.nan).astype(np.float32)
    made = network_input(given, seen, "coco17", "coco17", (640, 480))
    wanted = screen(whole, (640, 480))
    known = np.arange(17) != 10
    assert np.abs(made[:, known] - wanted[:, known]).max() < 1e-5
    assert np.abs(made[0, 10] - wanted[0, known].mean(0)).max() < 1e-5  # never seen: the middle of the others
    human = network_input(given, np.ones_like(seen), "coco17", "h36m17", (640, 480))
    nose, neck, top = (skeleton("h36m17").index(name) for name in ("nose", "neck", "head_top"))
    assert np.allclose(human[0, top], human[0, nose] * 1.5 - human[0, neck] * 0.5, atol=1e-5)
