"""LAC: the autoencoder and its published layouts, bodies and cameras, composition, contrast, and what goes wrong."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.backbones.skeleton_autoencoder import SkeletonAutoencoder
from training.data.loader import DataLoader
from training.distributed import unit
from training.engine import checkpoint
from training.evaluate import retargeting
from training.methods.generator import composed, load_generator, ring
from training.methods.lac import positives_info_nce
from training.methods.lac_retarget import pairs, partners
from training.transforms import bodies
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

MIXAMO = SKELETONS["mixamo15"]
SMALL = {"widths": (8, 12, 16), "directions": 12, "dropout": 0.0}


def poses(count: int = 3, frames: int = 16, axes: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, frames, 15, axes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(channels: int = 2, **options) -> SkeletonAutoencoder:
    torch.manual_seed(0)
    return create_backbone("skeleton_autoencoder", 0, MIXAMO, channels, **{**SMALL, **options}).eval()


def saved(folder: Path, skeleton: Skeleton = MIXAMO) -> Path:
    made = create_backbone("skeleton_autoencoder", 0, skeleton, 2, **SMALL)
    layout = {"name": skeleton.name, "joints": skeleton.joints, "bones": skeleton.bones}
    facts = {"backbone": {"name": "skeleton_autoencoder", **SMALL}, "channels": 2, "skeleton": layout}
    checkpoint.write(folder / "model.safetensors", made.state_dict(), facts)
    return folder


def published(layout: str) -> nn.ModuleDict:
    """The layers of the published programs under their own names: encoders, decoder, and the dictionary `v`."""
    motion: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((30, 64, 96, 128 if layout == "two_encoder" else 160)):
        motion += [nn.ReflectionPad1d(3), nn.Conv1d(inputs, outputs, 8, 2), nn.LeakyReLU(0.2)]
    still: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((28, 64, 96, 128, 32)):
        still += [nn.ReflectionPad1d(3), nn.Conv1d(inputs, outputs, 7), nn.LeakyReLU(0.2), nn.AvgPool1d(2)]
    up: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise((160, 128, 64, 30))):
        up += [nn.Upsample(scale_factor=2), nn.ReflectionPad1d(3), nn.Conv1d(inputs, outputs, 7)]
        up += [nn.Dropout(0.2), nn.LeakyReLU(0.2)] if number < 2 else []
    made = nn.ModuleDict({"mot_encoder": nn.Module(), "decoder": nn.Module()})
    made["mot_encoder"].model, made["decoder"].model = nn.Sequential(*motion), nn.Sequential(*up)
    if layout == "two_encoder":
        made["static_encoder"] = nn.Module()
        made["static_encoder"].model = nn.Sequential(*still)
    else:
        made["mot_encoder"].v = nn.Parameter(torch.randn(160, 160))
    return made.double().eval()


@pytest.mark.parametrize(("layout", "parameters"), [("dictionary", 427_678), ("two_encoder", 548_030)])
def test_published_layouts_are_loaded_and_give_what_their_layers_give(layout, parameters, tmp_path):
    torch.manual_seed(1)
    theirs = published(layout)
    assert sum(one.numel() for one in theirs.parameters()) == parameters
    torch.save(theirs.state_dict(), tmp_path / "generator.pth")
    own = SkeletonAutoencoder(0, MIXAMO, 2, layout=layout).double().eval()
    own.load_published(tmp_path / "generator.pth")
    values = torch.randn(2, 30, 64, dtype=torch.float64)
    code = theirs["mot_encoder"].model(values)
    if layout == "two_encoder":
        still = theirs["static_encoder"].model(values[:, :28]).mean(-1, keepdim=True)
        wanted = theirs["decoder"].model(torch.cat([code, still.expand(-1, -1, 8)], 1))
    else:
        q, _ = torch.linalg.qr(theirs["mot_encoder"].v)
        motion = torch.einsum("nwt,wj,vj->nvt", code, q[:, :128], q[:, :128])
        still = code.mean(-1) @ q[:, 128:] @ q[:, 128:].T
        wanted = theirs["decoder"].model(motion + still[:, :, None])
    torch.testing.assert_close(own.decode(*own.codes(values), 64), wanted, rtol=1e-9, atol=1e-9)
    assert load_generator(tmp_path / "generator.pth", MIXAMO).layout == layout


def test_published_statistics_are_read_and_others_refused(tmp_path):
    own = network()
    np.save(tmp_path / "mean.npy", np.arange(30.0).reshape(15, 2))
    np.save(tmp_path / "std.npy", np.ones((15, 2)))
    own.load_statistics(tmp_path / "mean.npy", tmp_path / "std.npy")
    assert own.mean.tolist() == list(range(30)) and bool(own.measured)
    np.save(tmp_path / "std.npy", np.ones((14, 2)))
    with pytest.raises(TrainingError, match=r"it is float64 \(14, 2\); allowed: floats \(15, 2\)"):
        own.load_statistics(tmp_path / "mean.npy", tmp_path / "std.npy")


def test_the_basis_is_orthogonal_and_its_signs_are_settled():
    own = network().double()
    basis = own.basis()
    torch.testing.assert_close(basis.T @ basis, torch.eye(16, dtype=torch.float64))
    flipped = network().double()
    with torch.no_grad():
        flipped.dictionary.copy_(own.dictionary @ torch.diag(torch.tensor([2.0, *[1.0] * 15], dtype=torch.float64)))
    torch.testing.assert_close(flipped.basis(), basis)


def test_codes_do_not_see_size_and_place_and_channels_are_undone():
    own = network().double()
    joints = poses(axes=2)
    own.measure(own.channels_of(joints))
    back = own.joints_of(own.standardised(joints))
    torch.testing.assert_close(back, joints - joints[:, :1, [MIXAMO.index("mid_hip")]])
    one, other = own.encode(joints), own.encode(joints * 7 + 3)
    assert all(torch.allclose(a, b) for a, b in zip(one, other))
    for frames in (1, 7, 16, 33):
        motion, static = own.encode(poses(2, frames, 2))
        assert motion.shape == (2, 12, math.ceil(frames / 8)) and static.shape == (2, 4)
        assert own.generate(motion, static, frames).shape == (2, frames, 15, 2)


def test_bodies_change_the_length_of_bones_and_nothing_else():
    joints = poses()
    lengths = bodies.bone_lengths(joints, MIXAMO)
    factors = torch.rand(3, 14, dtype=torch.float64) + 0.5
    moved = bodies.on_body(joints, factors, MIXAMO)
    torch.testing.assert_close(bodies.bone_lengths(moved, MIXAMO), lengths * factors)
    torch.testing.assert_close(bodies.on_body(moved, 1 / factors, MIXAMO), joints)
    _, edges = bodies.tree(MIXAMO)
    for parent, child in edges:
        one, other = (unit(part[:, :, child] - part[:, :, parent]) for part in (joints, moved))
        torch.testing.assert_close(one, other)
    with pytest.raises(TrainingError, match="its bones do not reach b"):
        bodies.tree(Skeleton("two", ("a", "b"), ()))


def test_cameras_turn_look_down_and_point_y_downwards():
    joint = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    angle = torch.tensor([math.pi / 2])
    torch.testing.assert_close(bodies.project(joint, angle * 0, angle * 0)[0, 0, 0], torch.tensor([1.0, -2.0]))
    turned = bodies.project(joint, angle, angle * 0, 3)[0, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([3.0, -2.0, -1.0]))
    above = bodies.project(joint, angle * 0, angle, 3)[0, 0, 0]
    torch.testing.assert_close(above, torch.tensor([1.0, 3.0, 2.0]))


def test_truths_are_the_partners_body_and_camera():
    own = network(3)
    joints = poses(4).float()
    camera = torch.tensor([[0.3, 0.1, 1.2], [-0.5, 0.0, 0.8], [0.1, 0.1, 1.0], [0.9, -0.1, 0.7]])
    bones = torch.rand(4, 14) * 0.2 + 0.9
    made = pairs(joints, camera, bones, own)
    assert made.partner.tolist() == [1, 0, 3, 2] and partners(3).tolist() == [1, 0, 1] and partners(1).tolist() == [0]
    again = pairs(joints[[0, 0]], camera[[0, 1]], bones[[0, 0]], own)  # one clip from two cameras
    torch.testing.assert_close(again.truth[0], again.seen[1])
    torch.testing.assert_close(again.truth[1], again.seen[0])
    same = bodies.size(made.seen, MIXAMO)
    torch.testing.assert_close(same, camera[:, 2])


def test_blocks_lend_each_other_motions_whatever_the_number_of_processes():
    assert ring(11, 1).tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 8]
    assert torch.equal(ring(16, 3)[8:] - 8, ring(8, 3))
    own = network()
    motion = poses(16, 16, 2).float().permute(0, 3, 1, 2)[..., None]
    motion = torch.cat([motion, torch.zeros_like(motion)], -1)  # an absent second person
    query, keys = composed(own, motion, 2, 3)
    half, other = composed(own, motion[8:], 2, 3)
    torch.testing.assert_close(query[8:], half)
    torch.testing.assert_close(keys[2][8:], other[2])
    assert not query[..., 1].any() and len(keys) == 3 and query.shape == motion.shape
    first = query[..., 0].flatten(2)
    torch.testing.assert_close(first.mean(2), torch.zeros(16, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.square().mean((1, 2)).sqrt(), torch.ones(16))


def test_several_positives_share_their_negatives():
    rng = torch.Generator().manual_seed(0)
    query, queue = (unit(torch.randn(*shape, generator=rng).double()) for shape in ((3, 5), (7, 5)))
    keys = unit(torch.randn(3, 2, 5, generator=rng).double())
    excluded = torch.zeros(3, 7, dtype=torch.bool)
    excluded[1, 2] = True
    for form in ("sum", "paper"):
        found = positives_info_nce(query, keys, queue, 0.1, excluded, form)
        for n in range(3):
            near = sum(math.exp(float(query[n] @ keys[n, p]) / 0.1) for p in range(2))
            far = sum(math.exp(float(query[n] @ queue[k]) / 0.1) for k in range(7) if not excluded[n, k])
            wanted = -math.log(near / (far + (near if form == "sum" else 0)))
            assert float(found[n]) == pytest.approx(wanted, rel=1e-9)


def test_a_nearest_neighbour_finds_what_it_holds():
    joints = poses(4).float()
    still = torch.zeros(4, 2, 2)
    task = retargeting.make_task(joints, joints[[1, 0, 3, 2]], still, MIXAMO)
    found = retargeting.NearestNeighbour(joints, MIXAMO)(task.motion, task.static)
    assert float(retargeting.errors(found, task).max()) < 1e-10
    assert float(retargeting.errors(retargeting.as_it_is(task.motion, task.static), task).min()) > 1e-3
    alone = retargeting.make_task(joints, joints, still, MIXAMO)
    for function in (retargeting.as_it_is, retargeting.Moments(MIXAMO)):
        assert float(retargeting.errors(function(alone.motion, alone.static), alone).max()) < 1e-8


def test_a_changed_autoencoder_does_not_go_on(tmp_path):
    saved(tmp_path, SKELETONS["body13"])
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1,))
    options = {"steps": 4, "positives": 1, "queue": {"size": 8}, "projector": {"hidden": 8, "width": 4}}
    method = create_method("lac", backbone=backbone, generator=str(tmp_path), **options)
    transform = method.sample_transform(Preprocess("body13"), View(16, "none", "body13"))
    batch = next(iter(DataLoader(Motions(8, 1), transform, 8)))
    method.loss(batch)
    method.load_state_dict({**method.state_dict(), "generator_hash": torch.full((32,), 7, dtype=torch.uint8)})
    method._same_generator = False
    with pytest.raises(TrainingError, match="is not the one that this run began with"):
        method.loss(batch)


def test_what_does_not_go_together_is_said(tmp_path):
    space = create_backbone("skeleton_autoencoder", 0, "body13", 3, **SMALL)
    for options, backbone, words in (
        ({}, create_backbone("stgcn", 0, "body13", 3, people=1, channels_base=4, blocks=(1,)), "trains an autoencoder"),
        ({}, create_backbone("skeleton_autoencoder", 0, "body13", 2, **SMALL), "to other bodies in space"),
        ({"camera": {"yaw": 200.0}}, space, "camera yaw 200"),
        ({"triplet": -1.0}, space, "triplet -1"),
    ):
        with pytest.raises(TrainingError, match=words):
            create_method("lac_retarget", backbone=backbone, **options)
    for options, words in (
        ({"directions": 16}, "directions 16"),
        ({"widths": (8, 16)}, "widths"),
        ({"axes": 3}, "axes 3"),
    ):
        with pytest.raises(TrainingError, match=words):
            create_backbone("skeleton_autoencoder", 0, "body13", 2, **{**SMALL, **options})
    backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1,))
    view = View(16, "none", "body13")
    for path, words in (("", "no autoencoder is named"), (str(tmp_path / "absent"), "no finished run")):
        with pytest.raises(TrainingError, match=words):
            create_method("lac", backbone=backbone, generator=path).sample_transform(Preprocess("body13"), view)
    with pytest.raises(TrainingError, match="moves joints of 'mixamo15', and these clips have 'body13'"):
        load_generator(saved(tmp_path), SKELETONS["body13"])
    with pytest.raises(TrainingError, match="set frame_weight to 0"):
        create_method("lac", backbone=backbone, motions=0)
