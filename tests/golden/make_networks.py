"""Outputs of published networks on weights drawn from the names of their tensors.

    python -m tests.golden.make_networks --upstream CHECKOUT [NAME ...] [--write]

CHECKOUT is a clone of the repository that NAME.json names, at the commit that it names. The published program is
imported from there and run; nothing of it is copied. Without names, every golden of that repository is made. The
stored arrays are compared with what comes out, and replaced with --write.

A tensor's weight is drawn by `tests.support.drawn_networks.drawn` from its published name, the input from the seed in
NAME.json. All runs are in evaluation mode on one thread.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.golden.stored import GOLDEN, keep
from tests.support.drawn_networks import drawn

Facts = dict[str, Any]
Network = tuple[nn.Module, Callable[..., Any]]
LONG = 100_000
"""Inputs with more numbers are stored by their seed and their first eight numbers."""


def package(name: str, folder: Path | None = None, **members: Any) -> None:
    """A stand-in for a package whose own file imports what is not installed."""
    module = types.ModuleType(name)
    module.__path__ = [] if folder is None else [str(folder)]  # type: ignore[attr-defined]
    module.__dict__.update(members)
    sys.modules[name] = module


def plain(facts: Facts, upstream: Path) -> Network:
    """The class in the file that the facts name, called with one tensor."""
    module = importlib.import_module(facts["file"].removesuffix(".py").replace("/", "."))
    network = getattr(module, facts["class"])(**facts["arguments"])
    return network, network


def as_gcn(facts: Facts, upstream: Path) -> Network:
    network, _ = plain(facts, upstream)
    dtype = {"input": torch.float32}

    def more(seed: int, *shape: int) -> torch.Tensor:
        numbers = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)
        return torch.from_numpy(numbers).to(dtype["input"])

    def run(x: torch.Tensor) -> Any:
        dtype["input"] = x.dtype
        links = np.abs(np.random.Generator(np.random.PCG64(324)).standard_normal((2, 2, 25, 25))) * 0.02
        scores, predicted, target = network(
            x,
            more(322, 1, 3, 10, 25, 2),
            more(323, 1, 3, 1, 25, 2),
            torch.from_numpy(links.astype(np.float32)).to(x),
            0.5,
        )
        return scores, predicted, target

    return network, run


def as_gcn_links(facts: Facts, upstream: Path) -> Network:
    """Gumbel noise is left out: the hard choice is the arg-max of the logits."""
    network, _ = plain(facts, upstream)
    module = sys.modules[type(network).__module__]
    module.gumbel_softmax = lambda logits, **_: nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)

    def run(x: torch.Tensor) -> Any:
        links = network(x)[0]
        return links, network.prob, network.outputs

    return network, run


class Recognizer(nn.Module):
    """pyskl's backbone with its head restated: mean over joints, frames and people, and a linear layer."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, nn.Module()
        self.cls_head.fc_cls = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.backbone(x).mean((3, 4)).mean(1)
        return self.cls_head.fc_cls(features), features


def pyskl(facts: Facts, upstream: Path) -> Network:
    for name in ("pyskl", "pyskl.models", "pyskl.models.gcns"):
        package(name, upstream / name.replace(".", "/"))
    package("mmcv")
    package("mmcv.runner", load_checkpoint=None)
    package(
        "mmcv.cnn",
        build_norm_layer=lambda cfg, size: ("bn", nn.BatchNorm2d(size)),
        build_activation_layer=lambda cfg: nn.ReLU(),
    )
    package("mmcv.utils", _BatchNorm=nn.modules.batchnorm._BatchNorm)
    package("pyskl.models.builder", BACKBONES=types.SimpleNamespace(register_module=lambda: lambda cls: cls))
    package("pyskl.utils", upstream / "pyskl" / "utils", cache_checkpoint=None)
    sys.modules["pyskl.utils"].Graph = importlib.import_module("pyskl.utils.graph").Graph
    arguments = {k: v for k, v in facts["arguments"].items() if k != "num_classes"}
    backbone = importlib.import_module("pyskl.models.gcns.stgcn").STGCN(**arguments)
    network = Recognizer(backbone, facts["arguments"]["num_classes"])
    return network, network


def slow_r50(facts: Facts, upstream: Path) -> Network:
    """pytorchvideo needs the packages fvcore and iopath."""
    network = importlib.import_module("pytorchvideo.models.resnet").create_resnet(**facts["arguments"])

    def run(x: torch.Tensor) -> Any:
        if "224" in facts["name"]:
            return network(x)
        outs = []
        for block in network.blocks[:5]:
            x = block(x)
            outs.append(x.mean((2, 3, 4)))
        return outs[-1], *outs[:-1]

    return network, run


FAMILIES: dict[str, Callable[[Facts, Path], Network]] = {
    "asgcn_ntu25": as_gcn, "asgcn_links": as_gcn_links,
    "stgcn_pyskl_coco17": pyskl, "stgcnpp_coco17": pyskl, "stgcnpp_ntu25": pyskl,
    "slow_r50_112": slow_r50, "slow_r50_224": slow_r50,
    **dict.fromkeys(("stgcn_ntu25", "stgcn_openpose18", "agcn_ntu25", "agcn_kinetics18"), plain),
    **dict.fromkeys(("unik_tau1_h3", "unik_tau1_h12", "unik_tau1_oddT", "unik_tau3_h3", "unik_classifier"), plain),
}  # fmt: skip


SINGLE = ("asgcn_links", "slow_r50_224", "unik_classifier")
"""Runs in float32 only."""


def graph_of(network: nn.Module) -> np.ndarray | None:
    """The adjacency that the published constructor builds, (K, V, V)."""
    for module in network.modules():
        graph = getattr(module, "A", None)
        if torch.is_tensor(graph):
            return graph.detach().numpy().copy()
    return None


def make(facts: Facts, upstream: Path) -> dict[str, np.ndarray]:
    """The arrays of one golden."""
    network, run = FAMILIES[facts["name"]](facts, upstream)
    graph = graph_of(network)
    state, arrays = network.state_dict(), {}
    learnt = dict(network.named_parameters())
    for key, tensor in state.items():
        is_graph = key.rpartition(".")[2] == "A"
        if key.endswith("num_batches_tracked") or (is_graph and key not in learnt):
            continue
        state[key] = torch.from_numpy(drawn(key, tuple(tensor.shape), tensor.numpy() if is_graph else None))
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    arrays |= {"keys": np.array(list(state)), "weight_first": np.array([float(t.flatten()[0]) for t in state.values()])}
    arrays["shapes"] = np.array([",".join(map(str, t.shape)) for t in state.values()])
    if graph is not None:
        arrays["graph_A"] = graph
    seed, shape = facts["input"]["seed"], tuple(facts["input"]["shape"])
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)
    arrays |= {"input_seed": np.array(seed), "input_shape": np.array(shape)}
    arrays |= {"input": x} if x.size < LONG else {"input_first8": x.ravel()[:8]}
    for dtype, ending in ((torch.float32, ""), (torch.float64, "_float64")):
        if ending and facts["name"] in SINGLE:
            continue
        network.to(dtype)
        for module in network.modules():  # constants outside the state dict
            if torch.is_tensor(getattr(module, "A", None)) and "A" not in dict(module.named_parameters(recurse=False)):
                module.A = module.A.to(dtype)
        outputs = run(torch.from_numpy(x).to(dtype))
        for n, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
            arrays[f"output{f'_{n}' if n else ''}{ending}"] = output.numpy()
    return arrays


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--upstream", type=Path, required=True, help="a checkout of the published program")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    sys.path.insert(0, str(told.upstream))
    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign, assignment]  # some forwards call for a GPU
    known = {name: json.loads((GOLDEN / f"{name}.json").read_text()) for name in FAMILIES}
    names = told.names or [n for n, f in known.items() if (told.upstream / f["file"]).is_file()]
    failed = 0
    for name in names:
        failed += not keep(name, make(known[name], told.upstream), told.write)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
