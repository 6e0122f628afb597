"""Graph networks give what the published programs gave, with weights drawn from the published names."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from tests.support.drawn_graphs import away, drawn_weights, golden, golden_input
from training.backbones.agcn import AGCN
from training.backbones.stgcn import STGCN, STGCNPyskl
from training.backbones.stgcnpp import STGCNpp

PUBLISHED = {
    "stgcn_ntu25": (STGCN, "nturgbd25"),
    "stgcn_openpose18": (STGCN, "openpose18"),
    "stgcn_pyskl_coco17": (STGCNPyskl, "coco17"),
    "stgcnpp_coco17": (STGCNpp, "coco17"),
    "stgcnpp_ntu25": (STGCNpp, "nturgbd25"),
    "agcn_ntu25": (AGCN, "nturgbd25"),
    "agcn_kinetics18": (AGCN, "openpose18"),
}
OWN = Skeleton(
    "nine",
    ("hip", "belly", "head", "left_hand", "right_hand", "left_foot", "right_foot", "tail", "hat"),
    ((0, 1), (1, 2), (1, 3), (1, 4), (0, 5), (0, 6), (0, 7)),
)


def network(name: str, arrays: dict):
    cls, skeleton = PUBLISHED[name]
    model = cls(arrays["output"].shape[1], skeleton, 3)
    model.load_weights(drawn_weights(arrays))
    return model.eval().requires_grad_(False)


def motions(name: str, arrays: dict):
    x = golden_input(arrays)
    return (
        x if PUBLISHED[name][0] in (STGCN, AGCN) else x.permute(0, 4, 2, 3, 1).contiguous()
    )  # pyskl takes (N, M, T, V, C)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published(name: str) -> None:
    arrays, facts = golden(name)
    model, x = network(name, arrays), motions(name, arrays)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert len(model.state_dict()) == facts["state_dict_tensors"]
    assert away(model(x), arrays["output"]) < 1e-5
    model, x = model.double(), x.double()
    assert away(model(x), arrays["output_float64"]) < 1e-9
    if "output_1_float64" in arrays:
        assert away(model.features(x), arrays["output_1_float64"]) < 1e-9
    if "feature_time_joint_mean" in arrays:
        assert away(model.dense(x).mean((2, 3)), arrays["feature_time_joint_mean"]) < 1e-5


@pytest.mark.parametrize("name", ["stgcn_ntu25", "stgcn_pyskl_coco17", "agcn_kinetics18", "stgcnpp_coco17"])
def test_own_graph_is_the_published_one(name: str) -> None:
    arrays, _ = golden(name)
    cls, skeleton = PUBLISHED[name]
    model = cls(3, skeleton, 3, channels_base=8)
    own = {"STGCN": lambda: model.A, "AGCN": lambda: model.l1.gcn1.A}.get(cls.__name__, lambda: model.gcn[0].gcn.A)()
    np.testing.assert_array_equal(own.detach().numpy(), arrays["graph_A"].astype(np.float32))


@pytest.mark.parametrize("cls", [STGCN, STGCNPyskl, STGCNpp, AGCN])
def test_weights_of_another_layout_are_refused(cls) -> None:
    state = cls(5, "coco17", 3, channels_base=8).state_dict()
    with pytest.raises(TrainingError, match="data_bn"):
        cls(5, OWN, 3, channels_base=8).load_weights(state)
    model = cls(7, "coco17", 3, channels_base=8)
    with pytest.raises(TrainingError, match="classifier=False"):
        model.load_weights(state)
    model.load_weights(state, classifier=False)
    assert torch.equal(model.data_bn.weight, state["data_bn.weight"])


def test_weights_of_self_supervised_programs() -> None:
    peer = STGCN(4, "nturgbd25", 3, channels_base=16, feature_width=256)
    assert peer.width == 256 and sum(p.numel() for p in peer.parameters()) < 1_000_000
    query = {f"encoder_q.{k}": v for k, v in peer.state_dict().items() if not k.startswith("fcn.")}
    query |= {
        "encoder_q.fc.0.weight": torch.zeros(256, 256),
        "encoder_k.A": peer.A,
        "queue": {"size": torch.zeros(128, 8)},
    }
    model = STGCN(0, "nturgbd25", 3, channels_base=16, feature_width=256)
    model.load_weights(query)
    x = torch.randn(2, 3, 20, 25, 2)
    torch.testing.assert_close(model.eval().features(x), peer.eval().features(x))
    linear = {
        **{k: v for k, v in peer.state_dict().items() if not k.startswith("fcn.")},
        "fc.weight": torch.ones(4, 256),
        "fc.bias": torch.zeros(4),
    }
    peer.load_weights(linear)
    torch.testing.assert_close(peer(x), peer.features(x).sum(1, keepdim=True).expand(2, 4), rtol=1e-4, atol=1e-4)


def test_an_absent_second_person_counts_as_published_in_agcn() -> None:
    model = AGCN(3, "coco17", 2, channels_base=8).eval()
    x = torch.randn(2, 2, 9, 17, 1)
    torch.testing.assert_close(model(x), model(torch.nn.functional.pad(x, (0, 1))))


@pytest.mark.parametrize("cls", [STGCN, STGCNPyskl, STGCNpp, AGCN])
def test_options_that_cannot_be(cls) -> None:
    with pytest.raises(TrainingError, match="channels_base"):
        cls(3, "coco17", 2, channels_base=0)
    with pytest.raises(TrainingError, match="spatial"):
        cls(3, "coco17", 2, channels_base=8, strategy="spacial")
    with pytest.raises(TrainingError, match="hops"):
        cls(3, "coco17", 2, channels_base=8, hops=0)
