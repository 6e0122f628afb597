"""AS-GCN gives what the published program gave: classes, prediction and inferred links."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.drawn_graphs import away, drawn_weights, golden, golden_input
from training.backbones.action_links import ActionLinks, sampled
from training.backbones.asgcn import ASGCN


def small(**options):
    torch.manual_seed(0)
    return ASGCN(5, "coco17", 2, **{"channels_base": 8, "link_width": 16, "hops": 2, "dropout": 0.0} | options)


@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"),
    [(torch.float32, "", 1e-5), pytest.param(torch.float64, "_float64", 1e-9, marks=pytest.mark.slow)],
)
def test_network_as_published(dtype, suffix: str, tolerance: float) -> None:
    arrays, facts = golden("asgcn_ntu25")
    model = ASGCN(60, "nturgbd25", 3, variant="published")
    model.load_weights(drawn_weights(arrays))
    model.eval().requires_grad_(False)
    np.testing.assert_array_equal(model.A.numpy(), arrays["graph_A"])
    links = sum(p.numel() for p in model.links.parameters())
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"] + links
    model = model.to(dtype)
    x, last, inferred = (torch.from_numpy(arrays[k]).to(dtype) for k in ("input", "last", "action_links"))
    pooled = model.encode(x, inferred).mean((2, 3)).view(1, 2, -1).mean(1)
    assert away(model.classify(pooled), arrays["output" + suffix]) < tolerance
    assert away(model.predict(x, last, inferred)[..., 0], arrays["output_1" + suffix]) < tolerance


def test_links_as_published() -> None:
    arrays, facts = golden("asgcn_links")
    links = ActionLinks(25, 3)
    links.load_state_dict(drawn_weights(arrays))
    links.eval().requires_grad_(False)
    assert sum(p.numel() for p in links.parameters()) == facts["parameters"]
    x = golden_input(arrays)
    edges, probability = links.edges(x)
    assert away(links(x), arrays["output"]) < 1e-5
    assert away(probability, arrays["output_1"]) < 1e-5
    assert away(links.decode(x, edges), arrays["output_2"]) < 1e-5


def test_sampled_frames() -> None:
    assert sampled(100, 50) == list(range(0, 100, 2))
    assert sampled(3, 6) == [0, 0, 1, 1, 2, 2]


def test_a_standing_body_is_predicted_to_stand() -> None:
    """What differs from the published order of coordinates: with no differences the last frame is repeated."""
    x = torch.randn(2, 2, 1, 17, 2).expand(2, 2, 13, 17, 2)
    for variant, repeated in (("standard", True), ("published", False)):
        model = small(variant=variant).eval()
        torch.nn.init.zeros_(model.recon_layer_6.tcn_recon[3].weight)
        torch.nn.init.zeros_(model.recon_layer_6.tcn_recon[3].bias)
        found = model.predict(x)
        assert found.shape == (2, 2, 10, 17, 2)
        assert torch.equal(found, x[:, :, :1].expand_as(found)) is repeated


@pytest.mark.parametrize("frames", [11, 33, 260, 400])
def test_prediction_at_any_length(frames: int) -> None:
    model = small().eval()
    assert model.predict(torch.randn(1, 2, frames, 17, 1)).shape == (1, 2, 10, 17, 1)


def test_the_classification_leaves_the_links_alone_and_the_auxiliary_loss_trains_them() -> None:
    model, x = small(), torch.randn(2, 2, 24, 17, 2)
    model(x).square().sum().backward()
    assert all(p.grad is None for p in model.links.parameters())
    model.zero_grad()
    model.auxiliary_loss(x).backward()
    grads = {k: p.grad for k, p in model.named_parameters() if k.startswith(("links.", "recon_layer_"))}
    # message layers of the type `no link` carry nothing
    idle = {k for k, g in grads.items() if g is None}
    assert idle == {f"links.decoder.msg_fc{n}.0.{w}" for n in (1, 2) for w in ("weight", "bias")}
    assert all(torch.isfinite(g).all() for g in grads.values() if g is not None)


def test_links_are_learnt() -> None:
    """Joints whose motion follows another's: the loss falls well below that of the start."""
    torch.manual_seed(1)
    links = ActionLinks(5, 2, frames=8, hidden=8)
    optimizer = torch.optim.Adam(links.parameters(), 1e-2)
    walk = torch.randn(16, 2, 1, 5, 1).mul(0.05) * torch.arange(8).view(1, 1, 8, 1, 1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = links.loss(walk)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_without_a_prediction_branch(tmp_path) -> None:
    whole, bare = small().eval(), small(predicted_frames=0).eval()
    assert not any("recon" in key for key in bare.state_dict())
    bare.load_weights(whole.state_dict())
    x = torch.randn(1, 2, 20, 17, 2)
    torch.testing.assert_close(bare(x), whole(x))
    with pytest.raises(TrainingError, match="predicted_frames=0"):
        bare.predict(x)
    torch.save(whole.links.state_dict(), tmp_path / "links.pt")
    bare.load_links(tmp_path / "links.pt")
    with pytest.raises(TrainingError, match=r"links\.pt does not fit"):
        small(link_width=24).load_links(tmp_path / "links.pt")
    with pytest.raises(TrainingError, match="variant"):
        small(variant="paper")
    with pytest.raises(TrainingError, match="must be longer"):
        small().auxiliary_loss(torch.randn(1, 2, 10, 17, 1))
