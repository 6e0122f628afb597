"""UNIK: equal to the published network, to the plain way of writing it, and strict about what it is given."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from tests.support.drawn_networks import drawn_state, golden
from training import create_backbone
from training.backbones import joints, temporal
from training.backbones.base import resolve
from training.backbones.unik import UNIK

GOLDENS = ("unik_tau1_h3", "unik_tau1_oddT", "unik_tau1_h12", "unik_tau3_h3", "unik_classifier")
NINE = Skeleton("nine", tuple(f"point{k}" for k in range(9)), tuple((k, k + 1) for k in range(8)))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain_network(*arguments, **options):
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "unik_plain.py"
    spec = importlib.util.spec_from_file_location("unik_plain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Plain(*arguments, **options)


def published(facts: dict) -> UNIK:
    given = facts["arguments"]
    options = {"heads": given.get("num_heads", 3), "tau": given.get("tau", 1), "people": given["num_person"]}
    return UNIK(given["num_class"], "posetics17", given["in_channels"], **options)


def drawn_small(**options) -> UNIK:
    """A small network whose every weight and statistic matters."""
    network = UNIK(5, **({"skeleton": "body13", "channels": 2, "channels_base": 8} | options))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, dtype=torch.float64).to(tensor.dtype)
                norm = "running_var" in name or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(
                    1 + 0.2 * noise.abs() if norm else noise / max(tensor[0].numel() if tensor.ndim else 1, 1) ** 0.5
                )
    return network


@pytest.mark.parametrize("name", GOLDENS)
def test_published_network(name: str) -> None:
    arrays, facts = golden(name)
    network = published(facts)
    assert sum(p.numel() for p in network.parameters()) == facts["parameters"]
    network.load_weights(drawn_state(arrays))
    x = torch.from_numpy(arrays["input"])
    largest = np.abs(arrays["output"]).max()
    with torch.no_grad():
        assert np.abs(network.eval()(x).numpy() - arrays["output"]).max() < 1e-5 * largest
        if "output_float64" in arrays:
            assert np.abs(network.double()(x.double()).numpy() - arrays["output_float64"]).max() < 1e-9 * largest


def test_published_sizes_and_keys() -> None:
    network = create_backbone("unik", 31, "posetics17", 2)
    assert sum(p.numel() for p in network.parameters()) == 3_451_631
    assert (
        sum(p.numel() for p in create_backbone("unik", 31, "posetics17", 2, unused_bias=False).parameters())
        == 3_451_461
    )
    arrays, _ = golden("unik_tau1_h3")
    assert list(network.state_dict()) == [str(key) for key in arrays["keys"]]
    assert not network.l1.s_unit.bias.requires_grad


@pytest.mark.parametrize("taps", [3, 9])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("frames", [1, 7, 37, 70])
def test_spectral_convolution_is_the_convolution(frames: int, dilation: int, stride: int, taps: int) -> None:
    x = torch.randn(frames, 6, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, taps, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reach, total = dilation * (taps - 1) // 2, temporal.steps(frames, stride)
    plain = functional.conv2d(x.permute(2, 0, 1)[None], weight, bias, (stride, 1), (reach, 0), (dilation, 1))[
        0
    ].permute(1, 2, 0)
    above = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, (x, weight, bias), above)
    for count in {1, min(2, total), min(5, total)}:
        matrices = temporal.transform_matrices(frames, taps, stride, dilation, count, x.dtype)
        y = temporal.SpectralConvolution.apply(x, weight[..., 0], bias, matrices, total)
        assert (y - plain).abs().max() < 1e-12
        for found, right in zip(torch.autograd.grad(y, (x, weight, bias), above), wanted):
            assert (found - right).abs().max() < 1e-10


def test_spectral_pieces_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(20, 101, 8, dtype=torch.float64), torch.randn(8, 8, 9, 1, dtype=torch.float64)
    x.requires_grad_(), weight.requires_grad_()
    found = []
    for piece in (2**30, 1):
        monkeypatch.setattr(temporal, "PIECE", piece)
        y = temporal.convolve(x, weight, torch.ones(8, dtype=torch.float64))
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, weight))))
    for a, b in zip(*found):
        assert (a - b).abs().max() < 1e-10


def test_convolution_is_spectral_only_where_that_is_less_work() -> None:
    assert temporal.best_tile_count(32, 9, 1, 1, 416, 64, 64) >= 1
    assert temporal.best_tile_count(150, 9, 1, 1, 416, 64, 64) > 1
    assert temporal.best_tile_count(4, 9, 1, 1, 1, 64, 64) == 0
    x, weight, bias = torch.randn(8, 1, 4), torch.randn(4, 4, 9, 1), torch.randn(4)
    plain = functional.conv1d(x.permute(1, 2, 0), weight[..., 0], bias, padding=4).permute(2, 0, 1)
    assert (temporal.convolve(x, weight, bias) - plain).abs().max() < 1e-5


@pytest.mark.parametrize("piece", [1, 2**30])
def test_mixing_by_hand_is_the_plain_product(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joints, "PIECE", piece)
    shapes = {
        "x": (6, 3, 5, 4),
        "projection": (2 * 2 * 3, 4),
        "shift": (12,),
        "learnt": (2, 5, 5),
        "weight": (7, 8),
        "bias": (7,),
    }
    given = {name: torch.randn(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}

    def run() -> list:
        x = given["x"]
        attention = torch.softmax(joints.scores(x, given["projection"], given["shift"], 2), -1)
        mixing = (attention + given["learnt"]).transpose(1, 2).flatten(1, 2)
        y = joints.mix(x, mixing, given["weight"], given["bias"])
        return [y, *torch.autograd.grad(y.sin().sum(), list(given.values()))]

    by_hand = run()
    monkeypatch.setattr(joints, "plain_cpu", lambda x: False)
    for a, b in zip(by_hand, run()):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("people", [1, 2])
def test_gradients_are_those_of_the_plain_network(people: int) -> None:
    network = drawn_small(people=people, unused_bias=False).double()
    plain = plain_network(5, 13, 2, people, 8).double()
    plain.load_state_dict(network.state_dict())
    x = torch.randn(6, 2, 21, 13, people, dtype=torch.float64)
    for one in (network, plain):
        functional.cross_entropy(one(x), torch.arange(6) % 5).backward()
    wanted = dict(plain.named_parameters())
    largest = max(p.grad.abs().max() for p in wanted.values())
    for name, parameter in network.named_parameters():
        assert (parameter.grad - wanted[name].grad).abs().max() < 1e-10 * largest, name
    for (name, a), b in zip(network.named_buffers(), plain.buffers()):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12), name
    with torch.no_grad():
        assert (network.eval()(x) - plain.eval()(x)).abs().max() < 1e-10 * plain(x).abs().max()


@pytest.mark.parametrize("options", [{"tau": 3}, {"dilation": "paper"}, {"heads": 4}])
def test_plain_operations_give_the_same(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU, under autocast and in exports, against what runs on a CPU."""
    network, x = drawn_small(**options).double(), torch.randn(3, 2, 19, 13, 2, dtype=torch.float64)
    state = {key: value.clone() for key, value in network.state_dict().items()}

    def run() -> list:
        network.load_state_dict(state)
        return [network.train()(x), network.eval()(x)]

    by_hand = run()
    for module in (temporal, joints):
        monkeypatch.setattr(module, "plain_cpu", lambda x: False)
    for a, b in zip(by_hand, run()):
        assert (a - b).abs().max() < 1e-9 * b.abs().max()


def test_bfloat16_is_near() -> None:
    network, x = drawn_small(channels_base=4).eval(), torch.randn(2, 2, 8, 13, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = network(x).float()
    with torch.no_grad():
        assert (low - network(x)).abs().max() < 0.1 * network(x).abs().max()


def test_absent_people_are_computed_once() -> None:
    network = drawn_small(people=2).double().eval()
    x = torch.randn(6, 2, 12, 13, 2, dtype=torch.float64)
    x[[0, 2, 3, 5], ..., 1] = 0
    x[3, ..., 0] = 0
    work, outputs = {}, {}
    for skip in (True, False):
        network.skip_empty = skip
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            outputs[skip] = network(x)
        work[skip] = counter.get_total_flops()
    assert (outputs[True] - outputs[False]).abs().max() < 1e-12 * outputs[False].abs().max()
    assert work[True] == pytest.approx(work[False] * 9 / 12, rel=0.1)
    network.skip_empty = True
    alone = network(x[[0], ..., :1])
    assert (alone - outputs[False][0]).abs().max() < 1e-12 * outputs[False].abs().max()
    network.train()
    assert torch.equal(network(x), network(x))


def test_one_person_costs_half() -> None:
    work = []
    for people in (1, 2):
        network = drawn_small(people=people)
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(32, 2, 16, 13, people)).sum().backward()
        work.append(counter.get_total_flops())
    assert work[0] == pytest.approx(work[1] / 2, rel=0.05)


def test_three_outputs_agree() -> None:
    network, x = drawn_small().eval(), torch.randn(2, 2, 37, 13, 2)
    sequence, features = network.sequence(x), network.features(x)
    assert sequence.shape == (2, 32, 10) and network.width == 32 and network.stride == 4
    assert torch.allclose(sequence.mean(-1), features)
    assert torch.allclose(network.fc(features), network(x))
    bare = UNIK(0, "body13", 2, channels_base=8)
    assert not hasattr(bare, "fc") and bare(x).shape == (2, 32)


def test_initial_weights() -> None:
    bounds = {"released": 1 / 17, "paper": 1 / 17**0.5}
    for w_init, bound in bounds.items():
        learnt = UNIK(31, "posetics17", 2, channels_base=8, w_init=w_init).l4.s_unit.DepM
        assert 0.95 * bound < learnt.abs().max() <= bound
    network = UNIK(31, "posetics17", 2)
    assert (network.l3.s_unit.bn.weight == 1e-6).all() and (network.l3.t_unit.bn.weight == 1).all()
    assert network.fc.weight.std().item() == pytest.approx((2 / 31) ** 0.5, rel=0.05)
    assert network.l7.s_unit.conv_d[1].weight.std().item() == pytest.approx((2 / (128 * 128 * 3)) ** 0.5, rel=0.05)
    assert UNIK(31, "posetics17", 2, dilation="paper").l3.t_unit.conv.dilation == (3, 1)


def test_own_joints_are_learnt() -> None:
    """Nine made-up joints: two kinds of motion are told apart after a few steps."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (64, 1, 1, 9, 1))
    label = np.arange(64) % 2
    clock = np.arange(16).reshape(1, 1, 16, 1, 1)
    x = torch.tensor(
        np.sin(clock * np.where(label, 0.4, 0.8).reshape(-1, 1, 1, 1, 1) + phase), dtype=torch.float32
    ).repeat(1, 2, 1, 1, 1)
    y = torch.tensor(label)
    network = create_backbone("unik", 2, NINE, 2, channels_base=8, people=1)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(network(x[:48]), y[:48]).backward()
        optimizer.step()
    assert (network.eval()(x[48:]).argmax(1) == y[48:]).float().mean() > 0.9


def test_published_files_are_read(tmp_path: Path) -> None:
    network = drawn_small().eval()
    x = torch.randn(2, 2, 12, 13, 2)
    state = network.state_dict()
    files = {
        "wrapped.pt": {f"module.model_action.{key}": value for key, value in state.items()},
        "bare.pt": {key: value for key, value in state.items() if not key.endswith("s_unit.bias")},
        "nested.pt": {"state_dict": state, "epoch": 3},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        for unused in (True, False):
            other = UNIK(5, "body13", 2, channels_base=8, unused_bias=unused).eval()
            other.load_published(tmp_path / name)
            assert torch.equal(other(x), network(x))
    bare = UNIK(0, "body13", 2, channels_base=8).eval()
    bare.load_published(tmp_path / "wrapped.pt")
    assert torch.equal(bare(x), network.features(x))
    more = UNIK(7, "body13", 2, channels_base=8).eval()
    more.load_published(tmp_path / "wrapped.pt", classifier=False)
    assert torch.equal(more.features(x), network.features(x))
    with pytest.raises(TrainingError, match=re.escape("fc.weight is (5, 32), here (7, 32)")):
        more.load_published(tmp_path / "wrapped.pt")
    with pytest.raises(TrainingError, match=r"data_bn.weight is \(52,\), here \(26,\)"):
        UNIK(5, "body13", 2, channels_base=8, people=1).load_published(tmp_path / "wrapped.pt")


def test_files_that_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    network = drawn_small()
    for name in ("module.pt", "text.pt", "list.pt", "absent.pt"):
        with pytest.raises(TrainingError, match=name):
            network.load_published(tmp_path / name)


def test_wrong_use_is_explained() -> None:
    with pytest.raises(TrainingError, match="body13"):
        create_backbone("unik", 5, "body31")
    with pytest.raises(TrainingError, match="did you mean 'heads'"):
        create_backbone("unik", 5, "body13", 2, head=4)
    with pytest.raises(TrainingError, match="all different"):
        resolve(Skeleton("twice", ("a", "a"), ()))
    with pytest.raises(TrainingError, match="pairs of two"):
        resolve(Skeleton("far", ("a", "b"), ((0, 2),)))
    for wrong in ({"tau": 2}, {"heads": 0}, {"channels_base": 6}, {"dilation": "3"}, {"people": 0}):
        with pytest.raises(TrainingError, match="given"):
            UNIK(5, "body13", 2, **wrong)
    network = drawn_small()
    for shape in ((2, 3, 8, 13, 2), (2, 2, 8, 17, 2), (2, 2, 8, 13, 3), (2, 2, 8, 13)):
        with pytest.raises(TrainingError, match="given"):
            network(torch.zeros(shape))


@torch.no_grad()
def with_statistics_of_data(network: UNIK) -> UNIK:
    """The network with its norms' statistics measured on motions.

    A network whose norms have made-up statistics amplifies rounding: two correct programs then differ by 1e-5 to 1e-4
    of the largest number, and by how much depends on the order of their sums.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    network.train()(torch.randn(16, 2, 12, 13, 2))
    return network.eval()


def test_export_gives_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network, x = with_statistics_of_data(drawn_small()), torch.randn(2, 2, 12, 13, 2)
    path = tmp_path / "unik.onnx"
    torch.onnx.export(network, (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    more = torch.randn(5, 2, 12, 13, 2)
    more[3, ..., 1] = 0
    with torch.no_grad():
        exact = network.double()(more.double()).numpy()
    assert np.abs(session.run(None, {"x": more.numpy()})[0] - exact).max() < 1e-5 * np.abs(exact).max()
