"""Several networks of a method: rates and schedules of their own, frozen ones, and what a finished run leaves."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from dataengine.core.errors import RecipeError, TrainingError
from tests.support.motions import Motions
from training import config as configs
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.engine import checkpoint
from training.engine.loop import fit
from training.engine.optimizer import make_optimizer
from training.engine.schedules import SCHEDULES
from training.engine.settings import GroupSettings, OptimSettings, TrainSettings
from training.methods.base import LossOutput, Method
from training.runs.train import train_settings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

PREPROCESS = Preprocess("body13")


class Autoencoder(Method):
    """Joints of features: an encoder, a decoder, and a scale that belongs to neither."""

    def __init__(self, backbone) -> None:
        super().__init__(backbone)
        self.decoder = nn.Sequential(nn.Linear(backbone.width, 16), nn.BatchNorm1d(16), nn.Linear(16, 26))
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def networks(self):
        return {**super().networks, "decoder": self.decoder}

    def loss(self, batch):
        features = self.backbone.features(batch["motion"])
        wanted = batch["motion"].mean((2, 4)).flatten(1)
        return LossOutput((self.scale * self.decoder(features) - wanted).square().mean(), features=features)


def made(seed: int = 0):
    torch.manual_seed(seed)
    method = Autoencoder(create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1)))
    loader = DataLoader(Motions(24, 1), method.sample_transform(PREPROCESS, View(16, "weak", "body13")), 8, seed=3)
    return method, loader


def settings(*groups: GroupSettings, **more) -> TrainSettings:
    return TrainSettings(epochs=2, optim=OptimSettings(**{"lr": 0.05, "groups": groups, **more}), log_every=1)


def changed(before, method) -> set[str]:
    after = method.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def copied(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


@pytest.mark.parametrize("frozen", ["backbone", "decoder", "heads"])
def test_a_network_of_rate_zero_is_frozen_with_its_statistics(frozen):
    method, loader = made()
    before = copied(method)
    fit(method, loader, settings(GroupSettings(frozen, lr=0.0)))
    of = {"backbone": "backbone", "decoder": "decoder", "heads": "scale"}
    assert changed(before, method) == set(of.values()) - {of[frozen]}


def test_a_method_may_freeze_a_network_itself():
    method, loader = made()
    assert Method.freeze(method.decoder) is method.decoder
    before = copied(method)
    fit(method, loader, settings())
    assert changed(before, method) == {"backbone", "scale"}


def test_each_network_may_have_its_own_rate_schedule_and_decay():
    own = GroupSettings("decoder", lr=0.01, schedule="constant", weight_decay=0.0)
    method, loader = made()
    history = fit(method, loader, settings(own, warmup=1, backbone_scale=0.5))
    first, last = history.log[0], history.log[-1]
    assert first["lr"] == 0 and first["lr_decoder"] == pytest.approx(0) and last["lr_decoder"] == 0.01
    groups = {group["name"]: group for group in make_optimizer(method, settings(own)).param_groups}
    assert groups["decoder"]["weight_decay"] == 0 and groups[""]["weight_decay"] == 1e-4
    assert {id(p) for p in groups["decoder"]["params"]} == {id(p) for p in method.decoder.parameters()}


def test_without_groups_nothing_is_another():
    one, two = made(), made()
    fit(*one, settings())
    fit(*two, settings(GroupSettings("decoder", lr=0.05)))
    assert all(torch.equal(a, b) for a, b in zip(one[0].state_dict().values(), two[0].state_dict().values()))


def test_stopped_and_gone_on_with_groups_is_the_same_run(tmp_path):
    given = settings(GroupSettings("decoder", lr=0.01, schedule="warm_restarts", restart_every=0.5))
    whole, loader = made()
    fit(whole, loader, given, tmp_path / "whole")
    fit(*made(), given, tmp_path / "run", stop_after=3)
    method, loader = made(9)
    fit(method, loader, given, tmp_path / "run")
    assert changed(copied(whole), method) == set()
    for name in ("model.safetensors", "decoder.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert checkpoint.read(tmp_path / "run" / "decoder.safetensors")[0].keys() == whole.decoder.state_dict().keys()
    with pytest.raises(TrainingError, match=r"another optim.groups"):
        fit(*made(), settings(), tmp_path / "run")


def test_a_network_that_is_not_there_is_told():
    with pytest.raises(TrainingError, match=r"optim.groups.decodr: Autoencoder has no such network.*'decoder'"):
        fit(*made(), settings(GroupSettings("decodr", lr=0.1)))


def test_mcc_has_its_decoder_as_a_network():
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
    assert list(create_method("mcc", backbone=backbone, queue={"size": 8}).networks) == ["backbone", "decoder"]
    assert list(create_method("mcc", backbone=backbone, queue={"size": 8}, interpolation=0).networks) == ["backbone"]


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        ("constant", {}, [1, 1, 1, 1, 1]),
        ("linear", {"min_lr": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ("exponential", {"gamma": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ("step", {"milestones": (2, 3)}, [1, 1, 0.1, 0.01, 0.01]),
        ("cosine", {}, [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 0]),
        ("warm_restarts", {"restart_every": 2, "min_lr": 0.5}, [1, 0.75, 1, 0.75, 1]),
        ("warm_restarts", {"restart_every": 1, "restart_factor": 2}, [1, 1, 0.5, 1, 0.8535533905932737]),
    ],
)
def test_schedules_by_name(name, options, rates):
    optim = OptimSettings(lr=1.0, schedule=name, **options)
    assert [optim.rate(epoch, 4) for epoch in range(5)] == pytest.approx(rates)
    warm = OptimSettings(lr=1.0, schedule=name, warmup=2.0, **options)
    assert warm.rate(1, 6) == 0.5
    if name != "step":  # milestones count from the beginning
        assert [warm.rate(2 + epoch, 6) for epoch in range(5)] == pytest.approx(rates)


def test_every_schedule_gives_rates_all_the_time():
    for name in SCHEDULES:
        optim = OptimSettings(lr=0.1, schedule=name, warmup=0.5)
        assert all(0 <= optim.rate(k / 10, 5) <= 0.1 for k in range(51))


def test_configurations_name_groups_and_schedules():
    config = configs.load(
        "unik", ["optim.groups.backbone.lr=0.01", "optim.groups.heads={schedule='step', milestones=[3]}"]
    )
    again = configs.validate(config.to_toml(), "again")
    assert again == config
    optim = train_settings(config).optim
    assert optim.of("backbone").lr == 0.01 and optim.of("heads").milestones == (3,) and optim.of("other") is optim
    with pytest.raises(RecipeError, match=r"schedule.*did you mean 'cosine'"):
        configs.load("unik", ["optim.schedule='cosin'"])
    with pytest.raises(RecipeError, match="rate"):
        configs.load("unik", ["optim.groups.backbone.rate=0.01"])
    with pytest.raises(TrainingError, match="unknown schedule 'x'"):
        OptimSettings(schedule="x")
