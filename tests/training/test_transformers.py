"""Transformers over motions: their input, their attention and what they promise."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch.profiler import ProfilerActivity, profile

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.attention import SelfAttention, positions
from training.backbones.graph import adjacency
from training.backbones.mmp_transformer import GraphBottleneck, MMPTransformer
from training.backbones.st_transformer import STTransformer, dilated_differences

CHAIN = Skeleton("chain22", tuple(f"j{i}" for i in range(22)), tuple((i, i + 1) for i in range(21)))


def test_dilated_differences_against_a_loop() -> None:
    n, step, t = 2, 3, 11
    x = torch.randn(2, 3, t, 4, 2, dtype=torch.float64)
    found = dilated_differences(x, n, step).view(2, 2 * n + 1, 3, t, 4, 2)

    def frame(j: int):
        return x[:, :, min(max(j, 0), t - 1)]

    for j in range(t):
        for place, k in enumerate(range(-n, n + 1)):
            wanted = frame(j) if k == 0 else math.copysign(1, k) * (frame(j + k * step) - frame(j))
            assert torch.equal(found[:, place, :, j], wanted)
    assert torch.equal(dilated_differences(x, 0, 1), x)


def test_attention_against_the_formula() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, 0.0).double().eval()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    q, k, v = (y.view(2, 7, 3, 4).transpose(1, 2) for y in layer.qkv(x).chunk(3, -1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(4), -1)
    wanted = layer.out((weights @ v).transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)


def test_positions() -> None:
    found = positions(9, 8, torch.zeros((), dtype=torch.float64))
    assert found.shape == (9, 8)
    assert float(found[5, 2]) == pytest.approx(math.sin(5 / 10_000 ** (2 / 8)), abs=1e-12)
    assert float(found[5, 3]) == pytest.approx(math.cos(5 / 10_000 ** (2 / 8)), abs=1e-12)


def test_memory_does_not_grow_with_the_square_of_the_length() -> None:
    """One matrix of attention weights would be 9 * 2 * T^2 numbers, 74 MB; nothing allocated comes near."""
    t = 1024
    model = STTransformer(0, Skeleton("nine", tuple("abcdefghi"), ()), 2, width=16, depth=1, heads=2).eval()
    x = torch.randn(1, 2, t, 9, 1)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        model(x)
    largest = max(event.self_cpu_memory_usage for event in measured.events())
    assert 0 < largest < 9 * 2 * t**2 * 4 / 10


def test_st_transformer_tells_joints_and_times_apart() -> None:
    torch.manual_seed(0)
    model = STTransformer(0, "coco17", 2, width=16, depth=2, heads=2).eval()
    x = torch.randn(1, 2, 20, 17, 1)
    swapped = x[:, :, :, [1, 0, *range(2, 17)]]
    assert not torch.allclose(model(x), model(swapped), atol=1e-5)
    changed = x.clone()
    changed[:, :, 19] += 1
    away = (model.sequence(changed) - model.sequence(x)).abs().sum(1)[0]
    assert away[0] > 1e-7, "the first frame hears of the last"
    assert away[19] > away[0]


def test_mmp_transformer_of_the_paper() -> None:
    model = MMPTransformer(0, CHAIN, 6)
    assert (model.embed.in_features, model.width, len(model.layers), model.layers[0].mlp[0].out_features) == (
        132,
        768,
        10,
        1024,
    )
    assert model.bottleneck.inward.out_features == 22 * 32
    assert model.bottleneck_after == 4


def small(**options):
    torch.manual_seed(0)
    return MMPTransformer(
        3,
        CHAIN,
        6,
        **{"width": 16, "depth": 3, "heads": 2, "hidden": 24, "bottleneck_after": 2, "joint_width": 4} | options,
    ).eval()


def test_bottleneck_passes_on_along_bones_only() -> None:
    torch.manual_seed(0)
    layer = GraphBottleneck(CHAIN, 8, 4).double()
    bones = adjacency(CHAIN, "binary")[0]
    linked = layer.links.numpy() > 0
    assert ((bones + torch.eye(22).numpy() > 0) == linked).all()
    inner = torch.randn(1, 1, 22, 4, dtype=torch.float64, requires_grad=True)
    mixed = torch.nn.functional.gelu(layer.links @ layer.mix(inner))
    for joint in (0, 5, 21):
        (given,) = torch.autograd.grad(mixed[0, 0, joint].sum(), inner, retain_graph=True)
        assert set(given[0, 0].abs().sum(-1).nonzero().flatten().tolist()) == {j for j in range(22) if linked[joint, j]}


def test_the_motion_token_and_filled_frames() -> None:
    model = small()
    x = torch.randn(2, 6, 9, 22, 2)
    tokens = model.tokens(x)
    assert tokens.shape == (2, 2, 10, 16)
    torch.testing.assert_close(model.features(x), tokens[:, :, 0].mean(1))
    torch.testing.assert_close(model.sequence(x), tokens[:, :, 1:].mean(1).transpose(1, 2))
    valid = torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(model.tokens(x, valid), tokens)
    valid[1, 6:] = False
    marked = model.tokens(x, valid)
    assert torch.equal(marked[0], tokens[0]) and not torch.allclose(marked[1], tokens[1], atol=1e-4)
    with pytest.raises(TrainingError, match="valid must be"):
        model.tokens(x, valid[:, :4])
    assert not torch.allclose(small(bottleneck_after=0)(x), model(x))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: STTransformer(3, "coco17", 2, width=10, heads=4), "multiple of twice"),
        (lambda: STTransformer(3, "coco17", 2, dilation=0), "dilation"),
        (lambda: MMPTransformer(3, "coco17", 2, depth=0), "depth"),
        (lambda: MMPTransformer(3, "coco17", 2, depth=3), "bottleneck_after"),
        (lambda: MMPTransformer(3, "coco17", 2, dropout=1.0), "dropout"),
    ],
)
def test_options_that_cannot_be(make, match: str) -> None:
    with pytest.raises(TrainingError, match=match):
        make()
