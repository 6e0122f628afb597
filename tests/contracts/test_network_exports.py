"""What every registered network over motions promises when it is exported: its file gives the network's outputs.

File and network are both compared with the network in double precision. Their norms have statistics of data: with
made-up ones a network amplifies rounding, and how much two right programs differ depends on the processor.
A new network is one line of `SMALL`; one without a line fails by its name.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import dataengine
from dataengine.core.errors import TrainingError
from tests.support.exported import lively, says
from tests.support.motions import CLASSES
from training import create_backbone, registry
from training.runs.export import export, metadata
from training.runs.trained_network import BareNetwork

GRAPH: dict[str, Any] = {"channels_base": 4, "blocks": (1, 1)}
SMALL: dict[str, dict[str, Any] | None] = {
    "unik": {"channels_base": 4},
    "stgcn": GRAPH,
    "stgcn_pyskl": GRAPH,
    "stgcnpp": {"channels_base": 6, "blocks": (1, 1)},
    "agcn": GRAPH,
    "asgcn": {"channels_base": 4, "blocks": (1, 1, 1), "link_width": 4},
    "st_transformer": {"width": 8, "depth": 1, "heads": 2},
    "mmp_transformer": {"width": 8, "depth": 2, "heads": 2, "hidden": 8, "bottleneck_after": 1, "joint_width": 2},
    "skeleton_autoencoder": {"widths": (8, 12, 16), "directions": 12},
    "slow_r50": None,
}
"""Options of a small network; None where it takes no motions and is not exported."""
FIXED_TIME = {"asgcn", "skeleton_autoencoder"}
"""Networks that pick or repeat frames by number, whose files take one length only."""
FRAMES = 8
BOUND = 1e-5
"""Of file and network from double precision, in parts of the largest number: single precision rounds at 6e-8."""


def network(name: str):
    options = SMALL[name]
    torch.manual_seed(0)
    model = lively(create_backbone(name, 4, "body13", 2, **(options or {})))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(16, 2, 12, 13, 2))
    return model


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", registry.names("backbones"))
def test_a_file_gives_what_the_network_gives(name: str, format: str, tmp_path: Path) -> None:
    if name not in SMALL:
        pytest.fail(f"the network {name!r} is registered and has no case here")
    if SMALL[name] is None:
        with pytest.raises(TrainingError, match="does not take motions"):
            export(create_backbone(name, channels=3, channels_base=2, depths=(1, 1, 1, 1)), tmp_path / "m", format)
        return
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    learnt = [parameter.requires_grad for parameter in model.parameters()]
    run = BareNetwork(model, labels=CLASSES, facts={"data": "f00"})
    done = export(run, tmp_path / "model", format, frames=FRAMES, licence="CC0")
    assert done.difference <= 1e-5 and done.spread > 1e-3 and "batch" in done.dynamic
    assert ("time" in done.dynamic) == (name not in FIXED_TIME)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == learnt
    file, exact = says(done.path, format), copy.deepcopy(model).eval().double()
    for clips, frames in ((5, FRAMES), (1, FRAMES), (2, 13), (1, 3)):
        motion = torch.randn(clips, 2, frames, 13, 2)
        motion[0, ..., 1] = 0
        if frames != FRAMES and "time" not in done.dynamic:
            with pytest.raises(Exception, match=r"(?s)any size|Got invalid dimensions"):
                file(motion)
            continue
        with torch.no_grad():
            wanted = exact(motion.double())
            assert float((file(motion).double() - wanted).abs().max()) <= BOUND * float(wanted.abs().max())
    with pytest.raises(Exception, match=r"(?s)any size|Got invalid dimensions"):
        file(torch.zeros(1, 2, FRAMES, 13, 1))
    note = metadata(done.path)
    assert note["joints"] == list(model.skeleton.joints) and note["labels"] == list(CLASSES) and note["data"] == "f00"
    assert (note["channels"], note["frames"], note["people"], note["width"]) == (2, FRAMES, 2, model.width)
    assert note["licence"] == "CC0" and note["dynamic"] == list(done.dynamic)
    assert note["dataengine"] == dataengine.__version__
