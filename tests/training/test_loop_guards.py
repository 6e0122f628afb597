"""What a loop and its checkpoints never do: keep a number that is none, move what is frozen, forget a part of a run."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.training.test_loop import TMOR, make, same
from training import create_backbone, create_method
from training.engine import checkpoint
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.methods.losses import batch_info_nce, queue_info_nce, triplet, two_view_info_nce

STEP = OptimSettings(lr=0.05)


def breaks(method, at):
    """The method, whose loss is no number from a step on."""
    whole, seen = method.loss, []

    def loss(batch):
        output = whole(batch)
        seen.append(1)
        if len(seen) >= at:
            output.loss = output.loss * float("nan")
        return output

    method.loss = loss
    return method


def test_a_loss_that_is_no_number_is_never_saved_and_the_checkpoint_before_stays(tmp_path):
    method, loader = make()
    settings = TrainSettings(epochs=4, optim=STEP, log_every=1000, save_every=0.0)
    with pytest.raises(TrainingError, match=r"step 7 .*no number.*step 6 .*stays.*lower optim.lr"):
        fit(breaks(method, 7), loader, settings, tmp_path)
    for name, step in (("last", 6), ("previous", 5)):
        tensors, facts = checkpoint.read(tmp_path / f"{name}.safetensors")
        assert facts["step"] == step and all(torch.isfinite(value).all() for value in tensors.values())
    settings = TrainSettings(epochs=4, optim=STEP, log_every=1000, save_every=1000.0)
    method, loader = make()
    with pytest.raises(TrainingError, match="no number"):  # the last of all: nothing is saved by the clock
        fit(breaks(method, 3), loader, settings, tmp_path, stop_after=9)
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 6


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    method, loader = make("supervised")
    fit(method, loader, TrainSettings(epochs=1, optim=STEP), tmp_path, stop_after=2)
    method, loader = make("supervised")
    after = method.after_step

    def spoil(progress):
        after(progress)
        next(method.parameters()).data.fill_(float("inf"))

    method.after_step = spoil
    with pytest.raises(TrainingError, match=r"backbone.*no number.*step 2 .*stays"):
        fit(method, loader, TrainSettings(epochs=1, optim=STEP), tmp_path, stop_after=3)
    assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 2


def test_a_torn_checkpoint_costs_what_was_learnt_since_the_one_before(tmp_path):
    settings = TrainSettings(epochs=2, optim=STEP, save_every=0.0)
    whole, loader = make()
    fit(whole, loader, settings, tmp_path / "whole")
    fit(*make(), settings, tmp_path / "run", stop_after=4)
    path = tmp_path / "run" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    method, loader = make(seed=3)
    with pytest.warns(UserWarning, match=r"last\.safetensors: not a whole checkpoint.*taken is previous"):
        fit(method, loader, settings, tmp_path / "run")
    assert same(method.state_dict(), whole.state_dict())
    path.unlink()  # lost: the one before is taken, too
    method, loader = make(seed=3)
    with pytest.warns(UserWarning, match="taken is previous"):
        fit(method, loader, settings, tmp_path / "run")
    assert same(method.state_dict(), whole.state_dict())


def test_equal_runs_are_equal_bytes(tmp_path):
    for name in "abcdef":
        checkpoint.write(tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(2, 2)}, {"one": 1, "two": [2]})
    assert len({(tmp_path / name).read_bytes() for name in "abcdef"}) == 1
    from safetensors import safe_open

    with safe_open(str(tmp_path / "a"), framework="pt") as file:
        assert set(file.metadata()) == {"format", "version", "facts"} and set(file.keys()) == {"x", "y"}
    assert checkpoint.read(tmp_path / "a")[1] == {"one": 1, "two": [2]}


def test_a_frozen_network_keeps_the_statistics_of_its_norms():
    method, loader = make("supervised")
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    fit(method, loader, TrainSettings(epochs=1, optim=OptimSettings(lr=0.1, backbone_scale=0.0)))
    after = method.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("fcn") for name in moved)
    method.train()
    assert not any(module.training for module in method.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d))
    other = make()[0].train()  # the momentum copy is no frozen network
    assert all(module.training for module in other.keys.modules())


def test_the_momentum_of_the_key_encoder_is_annealed_in_long_runs_alone():
    for given, steps, last in (("auto", 200, 0.9), ("auto", 100_000, 1.0), (True, 200, 1.0), (False, 100_000, 0.9)):
        method = make(queue={"size": 24, "momentum": 0.9, "anneal": given})[0]
        method.total_steps = steps
        with torch.no_grad():
            for old in method.keys.parameters():
                old.zero_()
        method.after_step(1.0)
        online, target = method._pairs[0]
        for new, old in zip(online.parameters(), target.parameters()):
            torch.testing.assert_close(old, new.detach() * (1 - last))
    method, loader = make()
    fit(method, loader, TrainSettings(epochs=2, optim=STEP), stop_after=1)
    assert method.total_steps == 10


def test_a_loss_that_rises_in_the_second_half_is_told():
    method, loader = make("supervised")
    whole, seen = method.loss, []

    def loss(batch):
        output = whole(batch)
        seen.append(1)
        output.loss = output.loss * 0 + (5 - len(seen) * 0.1 if len(seen) < 20 else 3 + len(seen) * 0.1)
        return output

    method.loss = loss
    with pytest.warns(UserWarning, match=r"the loss rose in the second half.*from .* to .*lower optim.lr"):
        fit(method, loader, TrainSettings(epochs=8, optim=STEP, log_every=1))


def test_the_scale_of_gradients_of_half_precision_is_part_of_a_checkpoint(tmp_path):
    import lightning_fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    def fabric():
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        return lightning_fabric.Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    settings = TrainSettings(epochs=1, optim=STEP, precision="16-mixed")
    whole, loader = make("supervised")
    fit(whole, loader, settings, tmp_path / "whole", fabric())
    fit(*make("supervised"), settings, tmp_path / "run", fabric(), stop_after=3)
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["scaler"]["scale"] == 8.0
    method, loader = make("supervised", seed=4)
    fit(method, loader, settings, tmp_path / "run", fabric())
    one, two = (checkpoint.read(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert one[1]["scaler"] == two[1]["scaler"] and same(one[0], two[0])


def test_what_is_called_is_what_is_compiled(monkeypatch):
    """MCC calls `sequence`, others `features`: both go through the compiled one."""
    made = []

    def compiled(function):
        def call(*arguments):
            made.append(function.__name__)
            return function(*arguments)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    method, loader = make("mcc", decoder_width=8, playback={"frames": 8}, queue={"size": 24})
    fit(method, loader, TrainSettings(epochs=1, optim=STEP, compile=True), stop_after=1)
    assert made.count("sequence") >= 3
    made.clear()
    fit(*make(), TrainSettings(epochs=1, optim=STEP, compile=True), stop_after=1)
    assert made.count("sequence") == 2  # the network and its momentum copy


def test_similarities_are_of_full_precision():
    """Under autocast to bfloat16 the losses are those of full precision."""
    torch.manual_seed(0)
    a, b, queue = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1) for n in (16, 16, 200))
    functions = {
        "queue": lambda: queue_info_nce(a, b, queue, 0.07),
        "batch": lambda: torch.cat(batch_info_nce(a, b, 0.07)),
        "views": lambda: two_view_info_nce(a, b, 0.07),
        "triplet": lambda: triplet(a, b, b.flip(0), 0.1),
    }
    torch.testing.assert_close(  # what a network under autocast gives
        queue_info_nce(a.bfloat16(), b.bfloat16(), queue, 0.07),
        queue_info_nce(a.bfloat16().float(), b.bfloat16().float(), queue, 0.07),
        rtol=1e-6,
        atol=1e-6,
    )
    for name, function in functions.items():
        exact = function()
        with torch.autocast("cpu", torch.bfloat16):
            found = function()
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6, msg=name)


def test_a_whole_method_compares_in_full_precision():
    torch.manual_seed(0)
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
    method = create_method("tmor", backbone=backbone, text=np.eye(4, 8, dtype=np.float32), **TMOR)
    batch = next(iter(make()[1]))
    with torch.autocast("cpu", torch.bfloat16):
        features = method.backbone.features(batch["motion"])
        anchor = method.project(features)
        assert anchor.dtype == torch.float32
        torch.testing.assert_close(anchor.norm(dim=1), torch.ones(len(anchor)), rtol=1e-5, atol=1e-5)
        loss = method._text_loss(method.texts, anchor, batch["label"])
    logits = anchor @ method.embed_text(method.texts).T / method.temperature
    assert (
        loss.dtype == torch.float32
        and abs(float(loss) - float(torch.nn.functional.cross_entropy(logits, batch["label"]))) < 0.02
    )


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = TrainSettings(epochs=2, optim=STEP, log_every=1, tensorboard=True, save_every=1000.0)
    fit(*make("supervised"), settings, tmp_path, stop_after=3)
    keep = (tmp_path / "last.safetensors").read_bytes()
    fit(*make("supervised"), settings, tmp_path, stop_after=6)
    (tmp_path / "last.safetensors").write_bytes(keep)  # as if killed before the next checkpoint
    fit(*make("supervised"), settings, tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == list(range(1, 11))


def test_networks_are_kept_by_epoch_and_the_best_by_validation(tmp_path):
    values = iter((0.2, 0.6, 0.5, 0.6))
    settings = TrainSettings(epochs=4, optim=STEP, probe_every=1, keep_every=2, keep_best=True)
    fit(*make(), settings, tmp_path, probe=lambda method: {"knn": next(values)}, stop_after=10)
    fit(*make(), settings, tmp_path, probe=lambda method: {"knn": next(values)})
    assert sorted(path.name for path in tmp_path.glob("epoch*")) == ["epoch2.safetensors", "epoch4.safetensors"]
    facts = checkpoint.read(tmp_path / "best.safetensors")[1]
    assert facts["step"] == 10 and facts["chosen_by"] == {"probe_knn": 0.6, "epoch": 2}
    assert "chosen_by" not in checkpoint.read(tmp_path / "epoch2.safetensors")[1]
