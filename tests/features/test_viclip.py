"""ViCLIP: towers and tokens equal to the published code, preprocessing as published, checkpoints read strictly."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from dataengine import features
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.features import inference, viclip_towers
from dataengine.features.component import sample_indices
from dataengine.features.viclip import PUBLISHED, SIZES, ViCLIP, ViCLIPSession, random_weights
from dataengine.io import weights
from tests.support.drawn_towers import away, drawn_state, shapes_of, tower_pair, video_input

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def tiny() -> ViCLIP:
    return ViCLIP("tiny")


def clip(seed=0, frames=20, height=36, width=48):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def check_towers(name: str, folder: Path, dtype=torch.float32, tolerance=1e-5, key="output") -> None:
    model, video, text = tower_pair(name, folder, dtype)
    with torch.inference_mode():
        seen = model.vision_encoder(torch.from_numpy(video_input(video)).to(dtype))
        read = model.text_encoder(torch.from_numpy(text["tokens"]).long())
    assert away(seen, video[key]) < tolerance
    assert away(read, text[key]) < tolerance
    unit = [torch.nn.functional.normalize(x.double(), dim=-1).numpy() for x in (seen, read)]
    np.testing.assert_allclose(unit[0] @ unit[1].T, text["cosine"], atol=1e-5)


@pytest.mark.parametrize(
    "dtype, tolerance, key", [(torch.float32, 1e-5, "output"), (torch.float64, 1e-9, "output_float64")]
)
def test_small_towers_equal_the_published_code(dtype, tolerance, key):
    check_towers("small", GOLDEN, dtype, tolerance, key)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    "dtype, tolerance, key", [(torch.float32, 1e-5, "output"), (torch.float64, 1e-9, "output_float64")]
)
def test_b16_towers_equal_the_published_code(shared_data, dtype, tolerance, key):
    check_towers("b16", shared_data / "parity", dtype, tolerance, key)


@pytest.mark.slow
@pytest.mark.data
def test_l14_towers_equal_the_published_code(shared_data):
    check_towers("l14", shared_data / "parity")


@pytest.mark.parametrize("size, golden", [("L/14", "viclip_keys_l"), ("B/16", "viclip_keys_b")])
def test_tensors_are_those_of_the_published_checkpoints(size, golden):
    wanted = shapes_of(np.load(GOLDEN / f"{golden}.npz", allow_pickle=False))
    model = viclip_towers.build(SIZES[size], 8)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == wanted


def test_token_ids_equal_the_published_tokenizer():
    golden = np.load(GOLDEN / "viclip_tokens.npz", allow_pickle=False)
    texts = [str(text) for text in golden["texts"]]
    for context in (32, 77):
        np.testing.assert_array_equal(viclip_towers.tokens(texts, context).numpy(), golden[f"tokens_{context}"])


def published_input(frames: np.ndarray) -> np.ndarray:
    """The published steps from pictures to the network's input, one after the other."""
    step = len(frames) // 8
    chosen = [frames[n] for n in range(0, len(frames), step)][:8]
    steps = []
    for picture in chosen:
        small = cv2.resize(picture, (224, 224))
        steps.append((small / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]))
    return np.stack(steps).transpose(0, 3, 1, 2).astype(np.float32)


def test_pictures_reach_the_network_exactly_as_published():
    component, seen = ViCLIP("B/16"), []

    class Recorder:
        @staticmethod
        def vision_encoder(pixels):
            seen.append(pixels.numpy())
            return torch.ones(len(pixels), 512)

    session = ViCLIPSession(component, Recorder, torch.float32, "cpu")
    given = [clip(1, 21), clip(2, 8, 300, 250), clip(3, 40)]
    session.encode_video(given)
    for pixels, frames in zip(seen, given, strict=True):
        np.testing.assert_array_equal(pixels[0], published_input(frames))


@pytest.mark.parametrize("total", [8, 9, 15, 16, 17, 100, 301])
def test_view_0_is_the_published_sampling_and_the_others_are_shifted_within_the_clip(total):
    assert sample_indices(total) == list(range(0, total, total // 8))[:8]
    room = total - 7 * (total // 8)
    views = [sample_indices(total, view=view) for view in range(8)]
    assert all(indices[-1] < total and np.ptp(np.diff(indices)) == 0 for indices in views)
    assert len({view[0] for view in views}) == min(room, 8) or room < 8
    assert len({view[0] for view in views[:2]}) == min(room, 2)


def test_short_clips_repeat_frames():
    assert sample_indices(1) == [0] * 8
    assert sample_indices(3) == [0, 0, 0, 1, 1, 1, 2, 2] == sample_indices(3, view=5)
    with pytest.raises(ComponentError, match="at least one frame"):
        sample_indices(0)


def test_features_are_of_unit_length_and_depend_on_nothing_but_their_clip(tiny):
    clips = [clip(n, 8 + n, 30 + n) for n in range(4)]
    together = tiny.encode_video(clips)
    assert together.shape == (4, tiny.dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for n in range(4):
        assert tiny.encode_video(clips[n]).tobytes() == together[n : n + 1].tobytes()
    assert np.ptp(together @ together.T) > 0.05
    assert tiny.encode_video([]).shape == (0, tiny.dim) and tiny.encode_text([]).shape == (0, tiny.dim)


def test_only_the_frames_of_a_view_are_needed(tiny):
    frames = clip(5, 50)
    for view in range(3):
        chosen = frames[tiny.sample_indices(50, view)]
        assert tiny.encode_video(tiny.prepare(frames, view)).tobytes() == tiny.encode_video(frames, view).tobytes()
        assert tiny.encode_video(chosen, view).tobytes() == tiny.encode_video(frames, view).tobytes()
    assert not np.array_equal(tiny.encode_video(frames), tiny.encode_video(frames, 1))


def test_the_order_of_frames_matters(tiny):
    frames = clip(6, 8)
    assert not np.allclose(tiny.encode_video(frames), tiny.encode_video(frames[::-1].copy()), atol=1e-4)


def test_a_string_is_encoded_once(tiny, monkeypatch):
    first = tiny.encode_text(["jumping jacks", "yoga", "jumping jacks"])
    assert first.shape == (3, tiny.dim) and np.array_equal(first[0], first[2]) and not np.allclose(first[0], first[1])
    monkeypatch.setattr(viclip_towers, "tokens", lambda *_: pytest.fail("a known string was encoded again"))
    np.testing.assert_array_equal(tiny.encode_text(["yoga", "jumping jacks"]), first[[1, 0]])


def test_half_precision_is_close(tiny):
    for precision, tolerance in (("float16", 5e-3), ("bfloat16", 5e-2)):
        other = ViCLIP("tiny", precision=precision)
        np.testing.assert_allclose(other.encode_video(clip(7)), tiny.encode_video(clip(7)), atol=tolerance)
        np.testing.assert_allclose(other.encode_text(["yoga"]), tiny.encode_text(["yoga"]), atol=tolerance)
    assert inference.dtype("auto", "cpu") is torch.float32


def test_the_device_decides_the_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert inference.dtype("auto", "cuda:0") is torch.float16 and inference.dtype("float32", "cuda:0") is torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ComponentError, match="no CUDA device"):
        ViCLIP("tiny").load("cuda")


def test_memory_that_runs_out_halves_the_batch(monkeypatch):
    sizes = []

    def run(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return torch.tensor([[float(x), 1.0] for x in part])

    found = inference.batched(run, list(range(8)), 8, "cuda", 2)
    assert sizes == [8, 4, 2, 2, 2, 2]
    np.testing.assert_allclose(found[:, 0] / found[:, 1], range(8), rtol=1e-6)

    def never(part):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        inference.batched(never, [1, 2], 2, "cuda", 2)


@pytest.fixture(scope="module")
def small_state():
    return {
        key: torch.from_numpy(w)
        for key, w in drawn_state(np.load(GOLDEN / "viclip_small_video.npz", allow_pickle=False)).items()
    }


@pytest.fixture(scope="module")
def tiny_state():
    shapes = {key: tuple(v.shape) for key, v in viclip_towers.build(SIZES["tiny"], 8).state_dict().items()}
    return {key: torch.from_numpy(w) for key, w in random_weights(shapes).items()}


def test_pth_and_safetensors_give_the_same_tensors(small_state, tmp_path):
    torch.save({"model": small_state}, tmp_path / "zip.pth")
    torch.save({"model": small_state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(small_state, tmp_path / "bare.pth")
    save_file(small_state, tmp_path / "x.safetensors")
    for file in sorted(tmp_path.iterdir()):
        found = viclip_towers.read(file)
        assert found.keys() == small_state.keys() and all(torch.equal(found[k], small_state[k]) for k in found), (
            file.name
        )


class Surprise:
    def __reduce__(self):
        return (pytest.fail, ("code of a weight file was run",))


def test_unusable_files_are_told_apart_and_run_no_code(tmp_path, small_state):
    torch.save({"model": small_state, "config": Surprise()}, tmp_path / "objects.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights at all")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no weights at all")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, message in (
        ("objects.pth", "Python objects"),
        ("damaged.pth", "damaged"),
        ("damaged.safetensors", "cannot be read"),
        ("empty.pth", "no tensors"),
    ):
        with pytest.raises(WeightsError, match=message):
            viclip_towers.read(tmp_path / name)


def test_wrong_tensors_are_named(tiny_state):
    model = viclip_towers.build(SIZES["tiny"], 8)
    wrong = {k: v for k, v in tiny_state.items() if k != "vision_encoder.proj"} | {"extra.weight": torch.zeros(1)}
    wrong["temp"] = torch.zeros(2)
    with pytest.raises(
        WeightsError,
        match=r"1 missing: vision_encoder\.proj; 1 not expected: extra\.weight; 1 of another shape: temp \(2,\)",
    ):
        viclip_towers.fill(model, wrong, "x.pth")
    with pytest.raises(WeightsError, match=r"temporal_positional_embedding \(1, 8, 64\), wanted \(1, 4, 64\)"):
        viclip_towers.fill(viclip_towers.build(SIZES["tiny"], 4), tiny_state, "x.pth")
    like_b16 = tiny_state | {"vision_encoder.proj": torch.empty(768, 512)}
    with pytest.raises(WeightsError, match="its sizes are those of 'B/16'"):
        viclip_towers.fill(model, like_b16, "x.pth")


def test_a_checkpoint_that_is_not_here_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    for size, name in PUBLISHED.items():
        component = features.create("viclip", size=size)
        assert component.needs() == [name]
        for step in (component.weights, component.load):
            with pytest.raises(WeightsError) as caught:
                step()
            entry = weights.manifest()[name]
            assert (
                entry.url in str(caught.value) and entry.licence in str(caught.value) and "\n" not in str(caught.value)
            )
            assert "checkpoint" in str(caught.value)
    with pytest.raises(WeightsError, match="nowhere"):
        ViCLIP("B/16", "nowhere.pth").weights()


def test_options_are_strict():
    assert registry_names() >= {"viclip", "open_clip"}
    for options, message in (
        ({"size": "L-14"}, "did you mean 'L/14'"),
        ({"views": 0}, "views = 0: at least 1"),
        ({"precision": "half"}, "precision = 'half'"),
        ({"size": "tiny", "checkpoint": "x"}, "takes no checkpoint"),
        ({"sise": "tiny"}, "did you mean 'size'"),
    ):
        with pytest.raises(ComponentError, match=message):
            features.create("viclip", **options)


def registry_names() -> set[str]:
    from dataengine.core import registry

    return set(registry.names("features"))


@pytest.mark.parametrize(
    "wrong", [[np.zeros((8, 4, 4), np.uint8)], np.zeros((8, 4, 4, 3)), [np.zeros((0, 4, 4, 3), np.uint8)], [[1]]]
)
def test_other_things_than_clips_are_refused(tiny, wrong):
    with pytest.raises(ComponentError, match=r"\(T, H, W, 3\) uint8"):
        tiny.encode_video(wrong)


@pytest.mark.parametrize("wrong", ["yoga", [1], [None]])
def test_other_things_than_strings_are_refused(tiny, wrong):
    with pytest.raises(ComponentError, match="list of strings"):
        tiny.encode_text(wrong)


def test_travels_between_processes_without_its_networks(tiny):
    sent = pickle.dumps(tiny)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301
    assert again == tiny and again.weights() == {} and again.needs() == []
    assert again.encode_text(["yoga"]).tobytes() == tiny.encode_text(["yoga"]).tobytes()
    assert isinstance(tiny, features.Features)


def run_alone(code: str) -> str:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_creating_imports_neither_torch_nor_open_clip():
    code = (
        "import sys\n"
        "from dataengine import features\n"
        "c = features.create('viclip', size='tiny')\n"
        "c.dim, c.sample_indices(30), c.weights(), c.needs()\n"
        "features.create('open_clip').sample_indices(30)\n"
        "print(sorted({'torch', 'open_clip'} & set(sys.modules)))\n"
    )
    assert run_alone(code) == "[]"


@pytest.mark.slow
def test_encoding_asks_for_no_network():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('the network was asked for')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "import torch; torch.set_num_threads(1)\n"
        "from dataengine import features\n"
        "print(features.create('viclip', size='tiny').encode_text(['yoga']).shape)\n"
    )
    assert run_alone(code) == "(1, 32)"
