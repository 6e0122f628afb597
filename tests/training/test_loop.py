"""The loop: killed and resumed runs are the same run, two processes are one, and what goes wrong is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.backbones.base import Backbone
from training.data.loader import DataLoader
from training.distributed import GlobalBatchNorm, synchronise
from training.engine import checkpoint
from training.engine.loop import fabric_of, fit
from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

ROOT = Path(__file__).parents[2]
PREPROCESS = Preprocess("body13")
TMOR = {
    "video": "video",
    "video_width": 6,
    "queue": {"size": 24, "momentum": 0.9},
    "projector": {"hidden": 16, "width": 8},
}


def make(name="tmor", seed=0, workers=0, batch=8, **options):
    torch.manual_seed(seed)
    backbone = create_backbone(
        "stgcn", 4 if name == "supervised" else 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1)
    )
    method = create_method(name, backbone=backbone, **{**(TMOR if name == "tmor" else {}), **options})
    loader = DataLoader(
        Motions(40, 1, video=6),
        method.sample_transform(PREPROCESS, View(16, "weak", "body13")),
        batch,
        seed=5,
        workers=workers,
    )
    return method, loader


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(folder: Path) -> list[float]:
    return [
        entry["loss"] for entry in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "loss" in entry
    ]


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(epochs=2, optim=OptimSettings(lr=0.05), log_every=1),
        TrainSettings(epochs=3, optim=OptimSettings(lr=0.001, optimizer="adamw"), log_every=1, accumulate=2),
    ],
)
def test_stopped_anywhere_and_gone_on_is_the_same_run(tmp_path, settings):
    whole, loader = make()
    fit(whole, loader, settings, tmp_path / "whole")
    total = settings.epochs * (5 // settings.accumulate)
    for stop in (1, total - 1):
        folder = tmp_path / f"stopped{stop}"
        method, loader = make()
        assert fit(method, loader, settings, folder, stop_after=stop).steps == stop
        method, loader = make(seed=9, workers=stop == 1)  # drawn anew: everything comes from the checkpoint
        fit(method, loader, settings, folder)
        assert same(method.state_dict(), whole.state_dict())
        assert losses(folder) == losses(tmp_path / "whole") and len(losses(folder)) == total


CHILD = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from tests.training.test_loop import make
from training.engine.loop import fabric_of, fit
from training.engine.settings import OptimSettings, TrainSettings
method, loader = make(workers={workers})
optim = OptimSettings(lr=0.05)
fit(method, loader, TrainSettings(epochs={epochs}, optim=optim, log_every=1, save_every=0.0), {folder!r})
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_is_the_same_run(tmp_path):
    """SIGKILL with checkpoints after every step, twice; then a run to the end."""
    code = CHILD.format(paths=[str(ROOT)], workers=1, epochs=4, folder=str(tmp_path / "run"))
    rng = np.random.default_rng(0)
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        begun, path = time.monotonic(), tmp_path / "run" / "log.jsonl"
        seen = len(path.read_text().splitlines()) if path.exists() else 0
        while time.monotonic() < begun + 120 and (
            not path.exists() or len(path.read_text().splitlines()) < min(seen + 4, 16)
        ):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    method, loader = make()
    fit(
        method,
        loader,
        TrainSettings(epochs=4, optim=OptimSettings(lr=0.05), log_every=1, save_every=0.0),
        tmp_path / "run",
    )
    whole, loader = make()
    fit(whole, loader, TrainSettings(epochs=4, optim=OptimSettings(lr=0.05), log_every=1), tmp_path / "whole")
    assert same(method.state_dict(), whole.state_dict()) and losses(tmp_path / "run") == losses(tmp_path / "whole")


def epoch(name, fabric, world, folder):
    """An epoch of a method in double precision, as one of `world` processes."""
    torch.manual_seed(0)
    classes = 4 if name == "supervised" else 0
    backbone = create_backbone("stgcn", classes, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
    options = {
        "tmor": TMOR,
        "mcc": {"decoder_width": 8, "playback": {"frames": 8}, "queue": {"size": 24}},
        "supervised": {},
        "segment": {"num_classes": 4},
    }[name]
    method = create_method(name, backbone=backbone, **options).double()
    draw = method.sample_transform(PREPROCESS, View(16, "weak", "body13"))
    loader = DataLoader(Motions(24, 1, video=6), draw, 8 // world, seed=5, shard=(fabric.global_rank, world))
    fit(
        method,
        loader,
        TrainSettings(epochs=1, optim=OptimSettings(lr=0.05), log_every=1, grad_clip=None, precision="64-true"),
        f"{folder}/{name}{world}",
        fabric,
    )


PROCESSES = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from lightning_fabric import Fabric
from tests.training.test_loop import epoch

def main(fabric):
    for name in ("supervised", "tmor", "mcc", "segment"):
        epoch(name, fabric, 2, {folder!r})

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, precision="64-true", strategy="ddp_spawn").launch(main)
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Losses, weights, queues and norms' statistics after an epoch, in double precision; batch norm over both."""
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.format(paths=[str(ROOT)], folder=str(tmp_path)))
    other = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    for name in ("supervised", "tmor", "mcc", "segment"):
        epoch(name, fabric_of("64-true"), 1, tmp_path)
    assert other.wait(250) == 0, other.stderr.read()
    for name in ("supervised", "tmor", "mcc", "segment"):
        assert losses(tmp_path / f"{name}2") == pytest.approx(losses(tmp_path / f"{name}1"), rel=1e-6)
        one, two = (checkpoint.read(tmp_path / f"{name}{world}" / "last.safetensors")[0] for world in (1, 2))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-7, atol=1e-9, msg=key)


def test_batch_norm_with_one_process_is_torchs_own():
    torch.manual_seed(0)
    own = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    made = synchronise(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)))
    made.load_state_dict(own.state_dict())
    assert isinstance(made[1], GlobalBatchNorm)
    x = torch.randn(4, 2, 5, 6)
    assert torch.equal(own(x), made(x)) and same(own.state_dict(), made.state_dict())


def test_a_folder_of_another_run_is_refused(tmp_path):
    method, loader = make()
    fit(method, loader, TrainSettings(epochs=2, optim=OptimSettings(lr=0.05)), tmp_path, stop_after=3)
    method, loader = make()
    with pytest.raises(TrainingError, match=r"holds a run with another optim.lr \(0.05 there, 0.06 here\)"):
        fit(method, loader, TrainSettings(epochs=2, optim=OptimSettings(lr=0.06)), tmp_path)
    method, _ = make()
    other = DataLoader(
        Motions(44, 2, "others", video=6), method.sample_transform(PREPROCESS, View(16, "weak", "body13")), 8, seed=5
    )
    with pytest.raises(TrainingError, match="holds a run with another data"):
        fit(method, other, TrainSettings(epochs=2, optim=OptimSettings(lr=0.05)), tmp_path)
    method, loader = make()
    fit(
        method, loader, TrainSettings(epochs=2, optim=OptimSettings(lr=0.05), log_every=3), tmp_path
    )  # how often it logs is nobody's business


def test_more_epochs_go_on_and_are_told(tmp_path):
    def train(epochs, **more):
        return fit(*make(), TrainSettings(epochs=epochs, optim=OptimSettings(lr=0.05)), tmp_path, **more)

    steps = train(1).steps
    with pytest.warns(UserWarning, match="begun with run.epochs 1 and goes on to 2: from epoch 1 on, schedules"):
        assert train(2).steps == 2 * steps
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["extended"] == [{"step": steps, "epochs": 1}]
    with pytest.raises(TrainingError, match=r"another run.epochs \(2 there, 1 here\) and is 2 epochs old"):
        train(1)
    assert train(2).steps == 2 * steps  # the same again: nothing is said, and nothing is left to do


def test_torn_and_foreign_checkpoints_are_refused(tmp_path):
    method, loader = make()
    fit(method, loader, TrainSettings(epochs=1, optim=OptimSettings(lr=0.05)), tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrainingError, match="not a whole checkpoint"):
        fit(*make(), TrainSettings(epochs=1, optim=OptimSettings(lr=0.05)), tmp_path)
    with pytest.raises(TrainingError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(TrainingError, match="no checkpoint of version"):
        checkpoint.read(tmp_path / "plain.safetensors")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    method, loader = make("supervised")
    with torch.no_grad():
        next(method.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 .*lower optim.lr"):
        fit(method, loader, TrainSettings(epochs=1), tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_rates_follow_their_schedule():
    cosine = TrainSettings(epochs=10, optim=OptimSettings(lr=1.0, warmup=2, min_lr=0.1))
    assert [cosine.rate(epoch) for epoch in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1.0, 0.55, 0.1])
    steps = TrainSettings(epochs=10, optim=OptimSettings(lr=1.0, schedule="step", milestones=(3, 6), gamma=0.1))
    assert [steps.rate(epoch) for epoch in (0, 2.9, 3, 5.9, 6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    logs = []
    for batch, accumulate in ((16, 1), (8, 2)):
        method, loader = make("supervised", batch=batch)
        method.eval()
        method.train = lambda mode=True, method=method: method  # batch statistics differ by batch; compare without
        fit(
            method,
            loader,
            TrainSettings(epochs=2, optim=OptimSettings(lr=0.05), accumulate=accumulate, log_every=1),
            tmp_path / str(batch),
        )
        logs.append(losses(tmp_path / str(batch)))
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_the_log_tells_times_collapse_and_probes(tmp_path):
    method, loader = make()
    history = fit(
        method,
        loader,
        TrainSettings(epochs=2, optim=OptimSettings(lr=0.05), log_every=1, probe_every=1, tensorboard=True),
        tmp_path,
        probe=lambda method: {"knn": 0.5},
    )
    entry = history.log[0]
    assert {
        "loss",
        "part_mm",
        "part_mv",
        "lr",
        "gradient",
        "spread",
        "effective_rank",
        "data_s",
        "compute_s",
        "clips_per_s",
    } <= entry.keys()
    assert [line["epoch"] for line in history.log if "probe_knn" in line] == [1, 2]
    assert list((tmp_path / "tensorboard").iterdir())
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == history.log


def test_a_frozen_network_stays_as_it_is():
    method, loader = make("supervised")
    before = {name: value.clone() for name, value in method.backbone.named_parameters()}
    fit(method, loader, TrainSettings(epochs=1, optim=OptimSettings(lr=0.1, backbone_scale=0.0)))
    moved = {name for name, value in method.backbone.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("fcn") for name in moved)


class Small(Backbone):
    """Two layers over all joints of a frame: soon compiled."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, "body13", 2, width=8, stride=1, people=1)
        self.inner, self.fc = torch.nn.Linear(26, 8), torch.nn.Linear(8, max(num_classes, 1))

    def sequence(self, x):
        return torch.tanh(self.inner(x.permute(0, 2, 1, 3, 4).flatten(2))).transpose(1, 2)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    from torch._dynamo.utils import counters

    told = {}
    for compiled in (False, True):
        counters.clear()
        torch.manual_seed(0)
        method = create_method("tmor", backbone=Small(0), **TMOR)
        loader = DataLoader(
            Motions(16, 1, video=6), method.sample_transform(PREPROCESS, View(16, "weak", "body13")), 8, seed=5
        )
        told[compiled] = fit(
            method, loader, TrainSettings(epochs=2, optim=OptimSettings(lr=0.05), compile=compiled)
        ).losses
        assert (counters["stats"]["unique_graphs"] > 0) == compiled
    np.testing.assert_allclose(told[True], told[False], rtol=1e-4)
