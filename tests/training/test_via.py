"""ViA: the two codes, its losses against plain computations, runs that others begin with, and what goes wrong."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

from dataengine.core.errors import TrainingError
from tests.support.commands import dataengine_train as call
from tests.support.motions import Motions
from training import config, create_backbone, create_method
from training.data.loader import DataLoader
from training.engine import checkpoint
from training.methods.lac_retarget import pairs
from training.methods.via import ViA
from training.methods.view_generator import ViewGenerator, statistics_kept
from training.runs.example import write_example
from training.runs.run import load_run
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

SMALL = {"directions": 4, "dropout": 0.0, "queue": {"size": 16, "momentum": 0.9}}
SMALL |= {"projector": {"hidden": 8, "width": 8}}


def method(channels: int = 2, people: int = 1, **options) -> ViA:
    torch.manual_seed(0)
    backbone = create_backbone("stgcn", 0, "body13", channels, people=people, channels_base=4, blocks=(1, 1))
    return create_method("via", backbone=backbone, **{**SMALL, **options})


def batch(made: ViA, people: int = 1, space: bool = False, count: int = 8, view: str = "weak") -> dict:
    draw = made.sample_transform(Preprocess("body13", people=people), View(16, view, "body13"))
    return next(iter(DataLoader(Motions(count, 1, space=space), draw, count)))


def test_the_motion_is_what_the_static_directions_leave():
    made = method()
    code = torch.randn(3, made.backbone.width, 5)
    moving, static = made.generator.split(code)
    basis = torch.linalg.qr(made.generator.static)[0]
    torch.testing.assert_close(basis.T @ basis, torch.eye(4))
    torch.testing.assert_close(moving.mean(-1) @ basis, torch.zeros(3, 4), atol=1e-5, rtol=0)
    held = code.mean(-1) @ basis @ basis.T
    torch.testing.assert_close(moving + held[:, :, None], code)
    assert static.shape == (3, 4)
    torch.testing.assert_close(made.generator.without_static(code.mean(-1)), moving.mean(-1))


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_the_decoder_reaches_the_length_of_any_stride(stride):
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
    backbone.stride = stride
    generator = ViewGenerator(backbone, 4, 0.0)
    for frames in (1, 7, 32):
        code = torch.randn(2, backbone.width, -(-frames // stride))
        assert generator.decode(*generator.split(code), frames).shape == (2, 28, frames)


def test_losses_are_those_of_a_plain_computation():
    made = method(losses={"contrast": 0.0})
    given = batch(made)
    found = made.loss(given).parts
    generator, joints = made.generator, given["motion"][..., 0].permute(0, 2, 3, 1)
    moving, static = generator.split(made.backbone.sequence(given["motion"]))
    partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    target = generator.standardised(joints)
    own = generator.decode(moving, static, 16)
    hips = joints[:, :1, [joint for joint, name in enumerate(made.skeleton.joints) if name.endswith("hip")]].mean(2)
    made_of = generator.joints_of(generator.decode(moving, static[partner], 16)) + hips[:, :, None]
    again, placed = generator.split(made.backbone.sequence(made_of.permute(0, 3, 1, 2)[..., None]))
    cycle = generator.decode(again, placed[partner], 16)

    def error(one):
        return functional.mse_loss(one, target)

    def speed(one):
        return functional.mse_loss(one[..., 1:] - one[..., :-1], target[..., 1:] - target[..., :-1])

    wanted = {"own": error(own), "cycle": error(cycle), "velocity_own": speed(own), "velocity_cycle": speed(cycle)}
    flat = moving.flatten(1)
    wanted["triplet_motion"] = functional.triplet_margin_loss(flat, again.flatten(1), flat[partner])
    wanted["triplet_static"] = functional.triplet_margin_loss(static[partner], placed, static)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_truths_come_from_clips_in_space():
    for axes in (2, 3):
        made = method(axes, supervised=True, axes=axes)
        given = batch(made, space=True)
        parts = made.loss(given).parts
        assert {"cross", "velocity_cross", "contrast"} <= parts.keys()
        people = made._people(given)
        made.generator.decoder = _Perfect(made.generator.standardised(people.truth))
        assert float(made.loss(given).parts["cross"]) < 1e-9
    assert method(2, supervised=True).embed(torch.randn(2, 3, 16, 13, 1)).shape == (2, made.backbone.width)


def test_keys_of_clips_in_space_are_truths_of_a_second_view():
    losses = {"own": 0.0, "cross": 0.0, "cycle": 0.0, "triplet": 0.0}
    made = method(3, supervised=True, axes=3, losses=losses, contrast={"positives": 2})
    given, seen = batch(made, space=True), []
    made.key_encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    made.loss(given)
    second = [given["key"].permute(0, 4, 2, 3, 1)[:, 0], given["key_camera"], given["key_bones"], made]
    one, other = pairs(*second), pairs(*second, torch.tensor([2, 3, 4, 5, 6, 7, 0, 1]))
    wanted = [made._centred(each).permute(0, 3, 1, 2)[..., None] for each in (one.truth, other.truth, one.seen)]
    torch.testing.assert_close(seen, wanted)
    alone = method(3, supervised=True, axes=3, contrast={"random_view": False})
    given = batch(alone, space=True)
    assert "key" not in given and alone.loss(given).loss.isfinite()


def test_what_is_generated_is_compared_with_joints_without_noise():
    made = method(losses={"contrast": 0.0, "cycle": 0.0, "triplet": 0.0})
    given = batch(made, view="strong")
    assert not torch.equal(given["motion"], given["clean"])
    made.loss(given)  # measures the channels
    clean = given["clean"][..., 0].permute(0, 2, 3, 1)
    made.generator.decoder = _Perfect(made.generator.standardised(clean))
    assert float(made.loss(given).parts["own"]) < 1e-9


class _Perfect(nn.Module):
    """A decoder that knows the answer."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return self.answer


def test_an_absent_person_counts_nowhere():
    made = method(people=2, losses={"contrast": 0.0}).eval()
    given = batch(made, people=2)
    assert not given["motion"][..., 1].any()
    one = made.loss(given).parts
    assert all(torch.isfinite(value) for value in one.values())
    people = made._people(given)
    assert people.present.tolist() == [True, False] * 8 and people.together.tolist() == [True, False] * 8
    assert not people.motions(people.joints + 1)[..., 1].any()


def test_generated_clips_leave_the_statistics_of_norms_alone():
    norm = nn.BatchNorm1d(3)
    with statistics_kept(norm):
        norm(torch.randn(8, 3) + 5)
    assert not norm.running_mean.any() and norm.momentum == 0.1


def test_a_network_with_a_published_basis_is_loaded(tmp_path):
    made, other = method(), method()
    state = {f"module.{key}": torch.randn_like(value) if value.is_floating_point() else value
             for key, value in other.backbone.state_dict().items()}  # fmt: skip
    state["module.v"] = torch.randn(made.backbone.width, 4)
    torch.save(state, tmp_path / "unik.pth")
    made.load_published(tmp_path / "unik.pth")
    assert torch.equal(made.generator.static, state["module.v"])
    key = next(iter(other.backbone.state_dict()))
    assert torch.equal(made.backbone.state_dict()[key], state[f"module.{key}"])
    state["module.v"] = torch.randn(made.backbone.width, 5)
    torch.save(state, tmp_path / "unik.pth")
    with pytest.raises(TrainingError, match=r"static bases \['module.v \(8, 5\)'\]; allowed: one, v \(8, 4\)"):
        made.load_published(tmp_path / "unik.pth")


def test_a_run_goes_on_from_another(tmp_path):
    made, other = method(), method()
    with torch.no_grad():
        for parameter in [*made.parameters()]:
            parameter.add_(0.1)
    facts = {"skeleton": {"name": "body13", "joints": made.skeleton.joints, "bones": made.skeleton.bones}}
    checkpoint.write(tmp_path / "model.safetensors", made.backbone.state_dict(), facts)
    with pytest.raises(TrainingError, match=r"there is no generator.safetensors"):
        other.load_run(tmp_path)
    checkpoint.write(tmp_path / "generator.safetensors", made.generator.state_dict(), facts)
    other.load_run(tmp_path)
    for one, two in ((made.backbone, other.backbone), (made.generator, other.generator)):
        assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    with pytest.raises(TrainingError, match="other sizes than those of this run"):
        method(directions=3).load_run(tmp_path)
    facts["skeleton"]["joints"] = ["a"]
    checkpoint.write(tmp_path / "model.safetensors", made.backbone.state_dict(), facts)
    with pytest.raises(TrainingError, match=r"train both with one data\.skeleton"):
        other.load_run(tmp_path)
    with pytest.raises(TrainingError, match="via_small"):
        other.load_run(tmp_path / "absent")


def test_what_does_not_go_together_is_said():
    for options, words in (
        ({"directions": 8}, "directions 8, axes 2, dropout 0.0; allowed: 1 to 7"),
        ({"losses": {"own": -1.0}}, "allowed: 0 and more"),
        ({"losses": {"own": 0.0, "cycle": 0.0, "triplet": 0.0, "contrast": 0.0}}, "nothing is learnt"),
        ({"contrast": {"positives": 0, "random_view": False}}, "at least one positive"),
        ({"contrast": {"positives": 7}}, "positives 7"),
        ({"supervised": True, "axes": 3}, "sees 3 coordinates"),
    ):
        with pytest.raises(TrainingError, match=words):
            method(**options)
    with pytest.raises(TrainingError, match="given joints of 2 coordinates"):
        ViA.input_channels({"supervised": True}, 2)
    with pytest.raises(TrainingError, match=r"set preprocess\.stream to joint"):
        method().sample_transform(Preprocess("body13", stream="motion"), View(16, "weak", "body13"))


@pytest.mark.parametrize("name", ["via", "via_small"])
def test_committed_configurations_are_complete(name):
    given = config.load(name)
    assert given.run.name == name and given.run.batch % 8 == 0


@pytest.mark.slow
def test_from_truths_to_clips_without_them_from_the_command_line(tmp_path):
    bodies = write_example(tmp_path / "bodies.npz", 80, space=True)
    pictures = write_example(tmp_path / "pictures.npz", 80)
    first, second = tmp_path / "first", tmp_path / "second"
    small = ["run.workers=0", "run.tensorboard=false", "run.epochs=1", "run.batch=16", "view.frames=16"]
    small += ["backbone.channels_base=4", "method.directions=4", "run.probe_every=0"]
    space = ["method.supervised=true", 'preprocess.normalise="view"', 'view.steps="none"']
    code, _, err = call("train", "via_small", "--data", str(bodies), "--out", str(first), *_sets(small + space))
    assert code == 0, err
    assert (first / "generator.safetensors").exists() and load_run(first).channels == 2
    code, out, err = call("retarget", str(first), "--json")
    assert code == 0, err
    assert code == 0
    report = json.loads(out)
    assert report["results"][0]["baselines"]["random network"] > 0 and len(report["plots"]) == 4
    code, _, err = call("probe", str(first), "--knn", "--json")
    assert code == 0, err
    given = [*small, f'method.generator="{first}"']
    code, _, err = call("train", "via_small", "--data", str(pictures), "--out", str(second), *_sets(given))
    assert code == 0, err
    (first / "generator.safetensors").unlink()
    assert load_run(second).done  # needs the first no more


def _sets(options: list[str]) -> list[str]:
    return [part for one in options for part in ("--set", one)]
