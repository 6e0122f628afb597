"""The students `rtmpose` and `vitpose`: they learn with the networks of the experts, and write what these read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine import testing
from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import LabelledFrame
from dataengine.experts.rtmpose import SIMCC_BINS, decode_simcc
from dataengine.experts.vitpose import HEIGHT, WIDTH, decode
from dataengine.refine.person_crops import Augmentation
from dataengine.refine.person_student import TorchPersonStudent
from dataengine.refine.rtmpose import RtmPoseStudent, smoothed
from dataengine.refine.vitpose import VitPoseStudent, gaussians
from tests.support.torch_setup import BOXES, one_thread, random_weights, scene

MODELS = [("rtmpose", "t"), pytest.param("vitpose", "plus-small", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_thread()
    return tmp_path_factory.mktemp("students")


def opened(name: str, model: str, folder: Path, **options: Any) -> tuple[TorchPersonStudent, Path]:
    """A student and a file of random weights of its network."""
    if name == "vitpose":
        pytest.importorskip("transformers")
    expert = getattr(random_weights, name)(folder, model)
    return registry.create("students", name, {"model": model, **options}), Path(expert.file)


def labelled() -> LabelledFrame:
    """The scene with a person in a box, whose joints lie inside of it."""
    rng = np.random.default_rng(0)
    points = rng.uniform((70, 40), (170, 200), (1, 13, 2)).astype(np.float32)
    return LabelledFrame("a:0", scene(), points, np.full((1, 13), 0.9, np.float32), BOXES[:1], "body13")


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_the_network_that_learns_says_what_the_expert_says(name: str, model: str, folder: Path) -> None:
    student, file = opened(name, model, folder)
    crops = student.rule.cut([labelled()], None, Augmentation())
    expert = student.expert(file)
    with expert.load() as predicting:
        batch = predicting.preprocess(scene()[None], [np.append(BOXES[:1], [[1.0]], 1)])
        np.testing.assert_array_equal(batch.pixels, crops.pixels)
        wanted = np.stack(predicting.infer(batch.pixels))
    with student.start(checkpoint=file) as session, torch.no_grad():
        images = session.runtime.images(torch.from_numpy(crops.pixels), *student.colours)
        found = student.maps(session.network.eval(), images)
        decoded = decode_simcc(*found) if name == "rtmpose" else decode(found[0], (WIDTH, HEIGHT))
    np.testing.assert_allclose(decoded[..., 2], wanted[..., 2], atol=1e-4)
    np.testing.assert_allclose(decoded[..., :2], wanted[..., :2], atol=0.51 if name == "rtmpose" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), MODELS)
def test_it_learns_and_keeps_its_promises(name: str, model: str, folder: Path, monkeypatch: Any) -> None:
    student, file = opened(name, model, folder)
    with student.start(checkpoint=file) as session:
        optimizer = torch.optim.AdamW([dict(group) for group in session.parameters()], lr=1e-3)
        first = float(session.loss([labelled()], np.random.default_rng(0), False)["loss"])
        for step in range(12):
            optimizer.zero_grad()
            session.loss([labelled()], np.random.default_rng(step), True)["loss"].backward()
            optimizer.step()
        assert float(session.loss([labelled()], np.random.default_rng(0), False)["loss"]) < 0.8 * first
    monkeypatch.setattr(type(student), "weights", lambda self: {})
    started = type(student).start
    monkeypatch.setattr(
        type(student),
        "start",
        lambda self, device="cpu", seed=0, checkpoint=None: started(self, device, seed, checkpoint or file),
    )
    published = type(student).expert
    monkeypatch.setattr(type(student), "expert", lambda s, c: published(s, c or file))
    testing.check_student(student, folder)


def test_a_frozen_backbone_is_not_trained(folder: Path) -> None:
    student, file = opened("rtmpose", "t", folder, frozen=True)
    with student.start(checkpoint=file) as session:
        learned = {id(p) for group in session.parameters() for p in group["params"]}
        assert learned == {id(p) for n, p in session.network.named_parameters() if not n.startswith("backbone.")}


def test_labels_become_bins_and_maps_that_decode_to_them() -> None:
    points = torch.tensor([[[30.3, 200.9], [150.25, 17.0]]])
    bins = [smoothed(points[..., axis], int(side * SIMCC_BINS), side) for axis, side in enumerate((192, 256))]
    np.testing.assert_allclose(decode_simcc(*bins)[..., :2], points, atol=0.26)
    found = decode(gaussians(points, 64, 48), (WIDTH, HEIGHT))
    np.testing.assert_allclose(found[..., :2], points, atol=0.1)


@pytest.mark.parametrize(
    ("student", "shapes"), [(RtmPoseStudent(model="t"), [(384,), (512,)]), (VitPoseStudent(), [(64, 48)])]
)
def test_labels_pull_where_they_are_and_the_rest_stays(student: Any, shapes: list[tuple[int, ...]]) -> None:
    rng = torch.Generator().manual_seed(0)
    old = tuple(torch.rand((1, 17, *shape), generator=rng) for shape in shapes)
    points, known = torch.full((1, 17, 2), 90.0), torch.ones((1, 17), dtype=torch.bool)
    known[:, 5:] = False
    same = student.crop_loss(old, old, points, known)
    assert same.shape == (1, 17)
    assert (same[:, 5:].abs() < 1e-4).all() and (same[:, :5] > 1e-2).all()
    wanted = (
        (gaussians(points, *shapes[0]),)
        if len(shapes) == 1
        else tuple(smoothed(points[..., a], s[0], side) for a, (s, side) in enumerate(zip(shapes, (192, 256))))
    )
    assert (student.crop_loss(wanted, old, points, known)[:, :5].abs() < 1e-4).all()


def test_weights_of_another_network_and_wrong_options_are_one_line(folder: Path) -> None:
    _, file = opened("rtmpose", "t", folder)
    with pytest.raises(WeightsError, match="RTMPose s") as caught:
        RtmPoseStudent(model="s").start(checkpoint=file)
    assert "\n" not in str(caught.value)
    for wrong in ({"keep": -1.0}, {"scale": (1.2, 1.0)}, {"rotation": float("nan")}, {"model": "xxl"}):
        with pytest.raises(ComponentError, match=next(iter(wrong))):
            registry.create("students", "rtmpose", wrong)
