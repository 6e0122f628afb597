"""Slow R50 gives what the published program gave."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.drawn_graphs import away, drawn_weights, golden, golden_input
from training import create_method
from training.backbones.slow_r50 import SlowR50
from training.engine.optimizer import make_optimizer
from training.engine.settings import OptimSettings, TrainSettings


def network(arrays: dict):
    model = SlowR50(400)
    model.load_weights(drawn_weights(arrays))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"),
    [(torch.float32, "", 1e-5), pytest.param(torch.float64, "_float64", 1e-9, marks=pytest.mark.slow)],
)
def test_features_of_every_stage_as_published(dtype, suffix: str, tolerance: float) -> None:
    arrays, facts = golden("slow_r50_112")
    model, x = network(arrays).to(dtype), golden_input(arrays).to(dtype)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    found = [y.mean((2, 3, 4)) for y in model.stages(x)]
    for number, y in enumerate(found[:-1], start=1):
        assert away(y, arrays[f"output_{number}{suffix}"]) < tolerance, number
    assert away(found[-1], arrays[f"output{suffix}"]) < tolerance
    assert away(model.features(x), arrays[f"output{suffix}"]) < tolerance


@pytest.mark.slow
def test_class_scores_as_published() -> None:
    arrays, _ = golden("slow_r50_224")
    assert away(network(arrays)(golden_input(arrays)), arrays["output"]) < 1e-5


def test_small_network_over_pictures() -> None:
    model = SlowR50(3, channels_base=4, depths=(1, 1, 1, 1))
    x = torch.randn(2, 3, 5, 40, 33, requires_grad=True)
    assert model.features(x).shape == (2, model.width) == (2, 128)
    assert model.sequence(x).shape == (2, 128, 5)
    model(x).sum().backward()
    assert torch.isfinite(x.grad).all() and all(torch.isfinite(p.grad).all() for p in model.parameters())
    torch.testing.assert_close(model.eval()(x), model.classify(model.features(x)))
    bare = SlowR50(0, channels_base=4, depths=(1, 1, 1, 1)).eval()
    bare.load_weights(model.state_dict())
    torch.testing.assert_close(bare(x), model.features(x))


def test_frozen_it_learns_its_classifier_alone() -> None:
    method = create_method("supervised", backbone=SlowR50(3, channels_base=2, depths=(1, 1, 1, 1)))
    optimizer = make_optimizer(method, TrainSettings(optim=OptimSettings(backbone_scale=0.0)))
    learnt = {id(p) for table in optimizer.param_groups for p in table["params"]}
    assert {name for name, p in method.backbone.named_parameters() if id(p) in learnt} == {
        "blocks.5.proj.weight",
        "blocks.5.proj.bias",
    }


def test_what_it_refuses() -> None:
    model = SlowR50(3, channels_base=4, depths=(1, 1, 1, 1))
    with pytest.raises(TrainingError, match="takes images"):
        model(torch.randn(2, 2, 5, 40, 40))
    with pytest.raises(TrainingError, match="four depths"):
        SlowR50(3, depths=(1, 1))
