"""Training of the built-in lifter: material follows from seeds, a stopped run goes on, the file is the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import SourceError, WeightsError
from dataengine.lift.inputs import CHANNELS, person_features
from dataengine.lift.temporal import PADDING, open_network
from dataengine.rendering.body import Body
from tools.lifter import captures, material
from tools.lifter.captures import POINTS
from tools.lifter.ship import LIMIT, make_network, ship, to_onnx
from tools.lifter.train import Training, from_pool, rate_at, train

ASF = """:units
  length 0.45
:root
   order TX TY TZ RX RY RZ
:bonedata
{bones}:hierarchy
  begin
{tree}  end
"""
CHAIN = {
    "root": ("lhipjoint", "rhipjoint", "lowerback"), "lhipjoint": ("lfemur",), "lfemur": ("ltibia",),
    "rhipjoint": ("rfemur",), "rfemur": ("rtibia",), "lowerback": ("head", "lclavicle", "rclavicle"),
    "lclavicle": ("lhumerus",), "lhumerus": ("lwrist",), "rclavicle": ("rhumerus",), "rhumerus": ("rwrist",),
}  # fmt: skip
TO = {
    "lhipjoint": (1, 0, 0), "rhipjoint": (-1, 0, 0), "lowerback": (0, 1, 0), "head": (0, 1, 0), "lclavicle": (1, 0, 0),
    "rclavicle": (-1, 0, 0), "lhumerus": (1, 0, 0), "rhumerus": (-1, 0, 0), "lwrist": (1, 0, 0), "rwrist": (-1, 0, 0),
}  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A folder like one of the CMU database: one subject, who bends one knee and turns as a whole."""
    children = [child for some in CHAIN.values() for child in some]
    bones = "".join(
        "  begin\n     name {}\n     direction {} {} {}\n     length 7\n     axis 0 0 20 XYZ\n{}  end\n".format(
            name, *TO.get(name, (0, -1, 0)), "    dof rx\n" if name == "ltibia" else ""
        )
        for name in children
    )
    tree = "".join(f"    {parent} {' '.join(some)}\n" for parent, some in CHAIN.items())
    (tmp_path / "07.asf").write_text(ASF.format(bones=bones, tree=tree))
    frames = "".join(f"{n + 1}\nroot 0 10 0 0 {2 * n} 0\nltibia {n}\n" for n in range(9))
    (tmp_path / "07_01.amc").write_text(f":FULLY-SPECIFIED\n:DEGREES\n{frames}")
    return tmp_path


def test_acclaim_files_are_read(database: Path) -> None:
    ((name, points),) = captures.read(database, 60.0)
    assert name == "07_01" and points.shape == (5, 14, 3)
    at = {joint: points[:, n] for n, joint in enumerate(POINTS)}
    thigh, shin = at["left_knee"] - at["left_hip"], at["left_ankle"] - at["left_knee"]
    unit = 7 * captures.UNIT
    assert np.allclose(np.linalg.norm(thigh, axis=1), unit) and np.allclose(np.linalg.norm(shin, axis=1), unit)
    angle = np.degrees(np.arccos(np.clip((thigh * shin).sum(1) / unit**2, -1, 1)))
    # the knee turns about an axis that is itself turned by 20 degrees about z
    wanted = [np.degrees(np.arccos(np.sin(np.radians(20)) ** 2 + np.cos(np.radians(20)) ** 2 * np.cos(np.radians(a))))
              for a in (0, 2, 4, 6, 8)]  # fmt: skip
    assert np.allclose(angle, wanted, atol=1e-4)
    across = at["left_hip"] - at["right_hip"]
    assert np.allclose(np.degrees(np.arctan2(-across[:, 2], across[:, 0])), [0, 4, 8, 12, 16])
    with pytest.raises(SourceError, match=r"no \.amc or \.txt motions"):
        list(captures.read(database / "none"))


def test_rotations_of_exponential_maps() -> None:
    maps = np.random.default_rng(0).normal(size=(20, 3))
    turned = captures.turns(maps)
    assert np.allclose(turned @ np.swapaxes(turned, 1, 2), np.eye(3)) and np.allclose(np.linalg.det(turned), 1)
    assert np.allclose(np.einsum("nij,nj->ni", turned, maps), maps)
    assert np.allclose(captures.turns(np.array([[0, 0, np.pi / 2]]))[0] @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(captures.turns(np.zeros((1, 3))), np.eye(3))


def test_a_table_at_rest_stands_upright() -> None:
    points = captures.upright(captures.table(np.zeros((4, 117))))
    at = {joint: points[0, n] for n, joint in enumerate(POINTS)}
    assert at["head"][1] > at["left_shoulder"][1] > at["left_hip"][1] > at["left_knee"][1] > at["left_ankle"][1]
    assert at["left_wrist"][0] > at["left_shoulder"][0] > 0 > at["right_shoulder"][0]
    assert 1.2 < at["head"][1] - at["left_ankle"][1] < 1.9


def test_captures_take_the_lengths_of_a_body() -> None:
    rng = np.random.default_rng(0)
    points, body = material.rendered(rng, 20), Body.draw(np.random.default_rng(9))
    made = material.retargeted(points, body)
    index = {name: n for n, name in enumerate(POINTS)}
    for a, b, length in (("hip", "knee", body.thigh), ("knee", "ankle", body.shin), ("elbow", "wrist", body.forearm)):
        for side in ("left", "right"):
            bone = made[:, index[f"{side}_{b}"]] - made[:, index[f"{side}_{a}"]]
            assert np.allclose(np.linalg.norm(bone, axis=1), length)


@pytest.fixture(scope="module")
def sequences() -> np.ndarray:
    return np.asarray(material.bank(material.Pool.open(None), 1, 24))


def test_cameras_mirror_nobody_and_project_what_they_show(sequences: np.ndarray) -> None:
    def volume(joints: np.ndarray) -> np.ndarray:
        a, b, c = (joints[..., n, :] - joints[..., 1, :] for n in (2, 7, 9))
        return np.asarray((np.cross(a, b) * c).sum(-1))

    seen = material.views(np.random.default_rng(0), sequences.astype(np.float64))
    body = np.concatenate([sequences[:, :, :1], sequences[:, :, 2:]], 2)
    assert np.allclose(volume(body), volume(seen.space), atol=1e-5)
    far = seen.space[..., 2] > 0.4
    ray = (seen.pixels - seen.sizes[:, None, None] / 2)[..., 1] / seen.space[..., 1] * seen.space[..., 2]
    assert all(np.allclose(one[ok], np.median(one[ok]), rtol=1e-6) for one, ok in zip(ray, far))


def test_features_of_many_are_those_of_each(sequences: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    seen = material.views(rng, sequences.astype(np.float64))
    pixels, given = material.observed(rng, seen)
    made = material.features(pixels, given, seen.sizes)
    for n, size in enumerate(seen.sizes.astype(int)):
        wanted = person_features(pixels[n], given[n], (int(size[0]), int(size[1])))
        assert np.allclose(made[n], wanted, atol=1e-6)


def test_a_step_learns_from_its_seed_alone(sequences: np.ndarray) -> None:
    one, other = (material.batch(np.random.default_rng((3, 4)), sequences, 30) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert one[0].shape == (30, material.WINDOW, CHANNELS) and one[1].shape == (30, 39)
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in one)
    assert np.abs(one[1].reshape(-1, 13, 3)[:, 7:9].sum(1)).max() < 1e-6
    assert material.WINDOW == 2 * PADDING + 1 == make_network(8).receptive_field


def test_a_run_that_is_stopped_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, clock = Training(steps=5, windows=4, warm=2, channels=8, sequences=4), [0.0]
    inner = from_pool(material.Pool.open(None), settings)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        clock[0] += 1
        return inner(rng)

    monkeypatch.setattr("tools.lifter.train.time.monotonic", lambda: 60 * clock[0])
    whole = train(settings, draw)
    assert train(settings, draw, tmp_path / "a.pt", minutes=1.5) is None
    again = train(settings, draw, tmp_path / "a.pt")
    assert clock[0] == 10 and whole is not None and again is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_it_learns() -> None:
    settings = Training(steps=80, windows=64, warm=5, channels=16, average=0.9, rate=1e-2, sequences=8)
    drawn = from_pool(material.Pool.open(None), settings)(np.random.default_rng(0))
    network = train(settings, lambda _: drawn)
    assert network is not None
    with torch.inference_mode():
        made = network(torch.as_tensor(drawn[0]))[:, 0].numpy()
    assert np.abs(made - drawn[1]).mean() < 0.6 * np.abs(drawn[1]).mean()
    assert rate_at(settings, 0) < rate_at(settings, 5) == settings.rate > rate_at(settings, 79) > 0


def test_the_file_is_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_network(16)
    network.train()
    network(torch.randn(4, 60, CHANNELS))
    network.eval()
    features = torch.randn(1, 50, CHANNELS)
    assert ship(network, tmp_path, {"data": "none"}) < LIMIT
    content = (tmp_path / "temporal.onnx").read_bytes()
    assert content == to_onnx(network)
    made = open_network(content).run(None, {"features": features.numpy().transpose(0, 2, 1)})[0].transpose(0, 2, 1)
    with torch.inference_mode():
        assert np.abs(made - network(features).numpy()).max() < 5e-3
    assert made.shape == (1, 50 - 2 * PADDING, 39)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="make it smaller"):
        ship(make_network(600).eval(), tmp_path, {})
    assert not list(tmp_path.iterdir())
