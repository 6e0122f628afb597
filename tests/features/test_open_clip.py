"""Image models of open_clip on video: equal to open_clip itself, and the mean over frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import save_file

torch = pytest.importorskip("torch")
library = pytest.importorskip("open_clip")

from PIL import Image

from dataengine import features
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.features.open_clip import CONFIG, OpenClip

SETTINGS = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3], "resize_mode": "squash"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as open_clip's repositories lay it out, with random weights."""
    path = tmp_path_factory.mktemp("model")
    (path / CONFIG).write_text(json.dumps(SETTINGS))
    torch.manual_seed(0)
    save_file(library.CLIP(**SETTINGS["model_cfg"]).state_dict(), path / "open_clip_model.safetensors")
    return path


def clip(seed=0, frames=20):
    return np.random.default_rng(seed).integers(0, 256, (frames, 36, 48, 3), dtype=np.uint8)


def test_is_the_mean_of_open_clips_own_features(folder):
    component = features.create("open_clip", model=str(folder), num_frames=4)
    model, _, prepare = library.create_model_and_transforms(f"local-dir:{folder}")
    frames = [clip(0), clip(1, 9)]
    found, wanted = component.encode_video(frames), []
    with torch.inference_mode():
        for one in frames:
            pictures = torch.stack([prepare(Image.fromarray(one[n])) for n in component.sample_indices(len(one))])
            mean = model.eval().encode_image(pictures, normalize=True).mean(0)
            wanted.append(torch.nn.functional.normalize(mean, dim=0).numpy())
        words = model.encode_text(
            library.get_tokenizer(f"local-dir:{folder}")(["yoga", "archery"]), normalize=True
        ).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(component.encode_text(["yoga", "archery"]), words, atol=1e-6)
    assert component.dim == 16 == found.shape[1] and isinstance(component, features.Features)


def test_the_order_of_frames_does_not_matter(folder):
    component = OpenClip(str(folder))
    frames = clip(2, 8)
    np.testing.assert_allclose(component.encode_video(frames), component.encode_video(frames[::-1].copy()), atol=1e-6)


def test_weights_and_settings_of_a_folder_are_hashed(folder, tmp_path):
    assert sorted(OpenClip(str(folder)).weights()) == [CONFIG, "open_clip_model.safetensors"]
    (tmp_path / CONFIG).write_text(json.dumps(SETTINGS))
    with pytest.raises(WeightsError, match="no weights in that folder"):
        OpenClip(str(tmp_path)).weights()


def test_weights_of_another_model_are_refused(folder, tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps(SETTINGS))
    save_file({"visual.proj": torch.zeros(3)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="cannot be read as"):
        OpenClip(str(tmp_path)).load()


def test_messages_say_what_there_is(monkeypatch, tmp_path):
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    for options, error, message in (
        ({"model": "ViT-B-23"}, ComponentError, "did you mean 'ViT-B-32'"),
        ({"model": "ViT-B-16", "pretrained": "laion"}, ComponentError, "pretrained = 'laion' of ViT-B-16"),
        ({"model": "ViT-B-16", "pretrained": "openai"}, WeightsError, "download its weights from https://"),
        ({}, WeightsError, "licence MIT.*or give a file of yours"),
        ({"checkpoint": "nowhere.bin"}, WeightsError, "nowhere.bin"),
    ):
        with pytest.raises(error, match=message):
            features.create("open_clip", **options).load()
    with pytest.raises(ComponentError, match="batch = 0"):
        features.create("open_clip", batch=0)
