"""Methods: every one learns, queues and shadows move as they should, and no wrong loss is the default."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.distributed import unit
from training.engine.loop import fit
from training.engine.settings import OptimSettings, TrainSettings
from training.methods.base import Method, RandomViews
from training.methods.mcc import play
from training.methods.queue import Queue
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

GOLDEN = Path(__file__).parents[1] / "golden" / "infonce.npz"
PREPROCESS = Preprocess("body13", normalise="body")
TEXTS = np.eye(4, 6, dtype=np.float32)


@pytest.fixture(scope="module")
def sides():
    return Motions(64, 1, video=6), Motions(64, 2, video=6)


def network(num_classes: int = 0, name: str = "stgcn") -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, num_classes, "body13", 2, people=1, channels_base=8, blocks=(1, 1))


def trained(method: Method, dataset, view: str = "weak", epochs: int = 12, lr: float = 0.02, batch: int = 16) -> Method:
    loader = DataLoader(dataset, method.sample_transform(PREPROCESS, View(24, view, "body13")), batch, seed=3)
    fit(method, loader, TrainSettings(epochs=epochs, optim=OptimSettings(lr=lr, warmup=2), grad_clip=1.0))
    return method


@torch.no_grad()
def embedded(method: Method, dataset, what: str = "embed") -> tuple[np.ndarray, np.ndarray]:
    method.eval()
    loader = DataLoader(dataset, RandomViews(PREPROCESS, {"motion": View(24, "none")}), 64, shuffle=False)
    rows = [(getattr(method, what)(batch["motion"]), batch["label"]) for batch in loader]
    return tuple(torch.cat(column).numpy() for column in zip(*rows))


def test_tmor_names_classes_it_was_told(sides):
    options = {
        "text": TEXTS,
        "video": "video",
        "video_width": 6,
        "queue": {"size": 64, "momentum": 0.9},
        "projector": {"hidden": 64, "width": 16},
    }
    method = trained(create_method("tmor", backbone=network(), **options), sides[0], epochs=25)
    motions, labels = embedded(method, sides[1], "embed_motion")
    texts = method.embed_text(torch.from_numpy(TEXTS)).detach().numpy()
    assert ((motions @ texts.T).argmax(1) == labels).mean() > 0.85
    videos = torch.from_numpy(np.stack([clip.features["video"][0] for clip in sides[1].clips]))
    assert ((motions @ method.embed_video(videos).detach().numpy().T).argmax(1) % 4 == labels).mean() > 0.5


def test_tmor_may_have_one_projector_for_video_and_text(sides):
    options = {
        "video": "video",
        "video_width": 6,
        "shared": True,
        "queue": {"size": 16},
        "projector": {"hidden": 8, "width": 8},
    }
    method = create_method("tmor", backbone=network(), text=TEXTS, **options)
    rows = torch.from_numpy(TEXTS)
    torch.testing.assert_close(method.embed_text(rows), method.embed_video(rows))
    assert not any("project_text" in key for key in method.state_dict())
    batch = next(iter(DataLoader(sides[0], method.sample_transform(PREPROCESS, View(24, "none")), 8)))
    outcome = method.loss(batch)
    assert set(outcome.parts) == {"mm", "mv", "mt"}
    outcome.parts["mt"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.project_video.parameters())
    for wrong in ({"text": TEXTS[:, :5]}, {"text": TEXTS, "video": None}):
        with pytest.raises(TrainingError, match="are not in one space"):
            create_method("tmor", backbone=network(), **{**options, **wrong})


def test_classes_are_looked_for_where_their_videos_would_lie(sides):
    """Of a linear phi: phi(text - mean text); motions and videos have the means of the queues."""
    options = {
        "video": "video",
        "video_width": 6,
        "queue": {"size": 64, "momentum": 0.9},
        "projector": {"hidden": 8, "width": 8, "layers": 1},
    }
    method = create_method("tmor", backbone=network(), text=TEXTS, shared=True, **options)
    trained(method, sides[0], epochs=25)
    rows = torch.from_numpy(TEXTS)
    with torch.no_grad():
        classes, middle = method.classes_by_video(rows)
        torch.testing.assert_close(classes, (rows - rows.mean(0)) @ method.project_video[0].weight.T)
    motions, labels = embedded(method, sides[1], "embed_motion")
    assert torch.equal(method.motions.owners, method.videos.owners) and method.motions.owners.min() >= 0
    torch.testing.assert_close(middle, method.motions.keys.mean(0))
    assert (((motions - middle.numpy()) @ classes.numpy().T).argmax(1) == labels).mean() > 0.85
    without = create_method("tmor", backbone=network(), **options)
    torch.testing.assert_close(without.classes_by_video(rows, rows[:2])[1], torch.zeros(8))
    assert not create_method("tmor", backbone=network(), text=TEXTS, **options).has_classes_by_video
    with pytest.raises(TrainingError, match="classes by video need a T-MOR with motion"):
        create_method("tmor", backbone=network(), text=TEXTS, video=None).classes_by_video(rows)


def test_what_a_method_was_not_trained_for_is_said(sides):
    method = create_method("tmor", backbone=network(), video=None)
    with pytest.raises(TrainingError, match="trained without texts"):
        method.embed_text(torch.zeros(1, 6))
    with pytest.raises(TrainingError, match="trained without videos"):
        method.embed_video(torch.zeros(1, 6))
    with pytest.raises(TrainingError, match=r"has no option 'temprature'.*did you mean 'temperature'"):
        create_method("tmor", backbone=network(), temprature=1)
    with pytest.raises(TrainingError, match="did you mean 'mcc'"):
        create_method("mmc", backbone=network())
    with pytest.raises(TrainingError, match="needs a network with a classifier"):
        create_method("supervised", backbone=network())
    wide = create_method("tmor", backbone=network(), video="video", video_width=9, queue={"size": 8})
    with pytest.raises(TrainingError, match="video has 6 numbers; the method was made for 9"):
        next(iter(DataLoader(sides[0], wide.sample_transform(PREPROCESS, View(24, "none")), 4)))


def test_queued_videos_are_seen_by_phi_as_it_is_now(sides):
    """Keys that phi made before it moved would say when they were made; loss and gradient are those of all videos seen
    now."""
    options = {
        "motion": False,
        "video": "video",
        "video_width": 6,
        "queue": {"size": 16},
        "projector": {"hidden": 8, "width": 4},
    }
    method = create_method("tmor", backbone=network(), **options)
    first, second = itertools.islice(DataLoader(sides[0], method.sample_transform(PREPROCESS, View(24, "none")), 8), 2)
    method.loss(first)
    with torch.no_grad():
        for parameter in method.project_video.parameters():
            parameter.normal_()
    weight = method.project_video[0].weight
    loss = method.loss(second).loss
    (told,) = torch.autograd.grad(loss, weight)
    anchor, own, others = (
        method.embed_motion(second["motion"]),
        method.embed_video(second["video"]),
        method.embed_video(first["video"]),
    )
    logits = torch.cat([(anchor * own).sum(1, keepdim=True), anchor @ others.T], 1) / 0.1
    plain = torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(told, torch.autograd.grad(plain, weight)[0])


def test_clips_without_video_or_label_do_not_count(sides):
    method = create_method(
        "tmor", backbone=network(), text=TEXTS, motion=False, video="video", video_width=6, queue={"size": 8}
    )
    bare = Motions(8, 5)
    batch = next(iter(DataLoader(bare, method.sample_transform(PREPROCESS, View(24, "none")), 8)))
    outcome = method.loss(batch | {"label": torch.full((8,), -1)})
    assert float(outcome.loss) == 0 and (method.videos.owners == Queue.EMPTY).all()


def test_the_queue_is_a_ring_as_in_the_golden_states():
    with np.load(GOLDEN, allow_pickle=False) as golden:
        queue = Queue(8, 3).double()
        queue.keys.copy_(torch.from_numpy(golden["ring_start"]))
        for keys, state, pointer in zip(golden["ring_keys"], golden["ring_states"], golden["ring_pointers"]):
            queue.enqueue(torch.from_numpy(keys), torch.arange(2), torch.zeros(2, dtype=torch.long))
            assert (queue.keys.numpy() == state).all() and int(queue.pointer) == pointer


def test_the_queue_knows_its_own_clips_and_classes():
    queue = Queue(6, 2)
    queue.enqueue(unit(torch.randn(4, 2)), torch.tensor([7, 8, 7, 9]), torch.tensor([0, 1, 0, -1]))
    known = queue.not_negative_mask(torch.tensor([7, 5]))
    assert known.tolist() == [[True, False, True, False, True, True], [False] * 4 + [True] * 2]
    by_label = queue.not_negative_mask(torch.tensor([5, 5]), torch.tensor([1, -1]))
    assert by_label.tolist() == [[False, True, False, False, True, True], [False] * 4 + [True] * 2]
    queue.enqueue(torch.ones(9, 2), torch.arange(9), torch.zeros(9, dtype=torch.long))
    assert sorted(queue.owners.tolist()) == [3, 4, 5, 6, 7, 8]


def test_shadows_follow_as_in_the_golden_states():
    with np.load(GOLDEN, allow_pickle=False) as golden:
        online = nn.Linear(5, 4, bias=False).double()
        method = Method(network(), momentum=0.999)
        with torch.no_grad():
            online.weight.copy_(torch.from_numpy(golden["momentum_start"]))
        target = method.momentum_copy(online)
        assert not any(parameter.requires_grad for parameter in target.parameters())
        for step, state in enumerate(golden["momentum_states"]):
            with torch.no_grad():
                online.weight.copy_(torch.from_numpy(golden["momentum_online"]) * (step + 1))
            method.after_step(step / 3)
            np.testing.assert_allclose(target.weight.detach().numpy(), state, rtol=1e-12)
    annealed = Method(network(), momentum=0.9, anneal=True)
    dataset = nn.Linear(1, 1)
    momentum_copy = annealed.momentum_copy(dataset)
    before = momentum_copy.weight.clone()
    with torch.no_grad():
        dataset.weight.add_(1)
    annealed.after_step(1.0)
    assert torch.equal(momentum_copy.weight, before), "at the end of the run the momentum is 1"


def test_clips_are_played_at_speeds_and_between_frames():
    array = np.arange(10, dtype=np.float32)[None, :, None, None].repeat(2, 3)
    assert play(array, 1, 2, 4)[0, :, 0, 0].tolist() == [1, 3, 5, 7]
    assert play(array, 8, 1, 4)[0, :, 0, 0].tolist() == [8, 9, 0, 1]
    assert play(array, 1, 0.5, 4)[0, :, 0, 0].tolist() == [1, 1.5, 2, 2.5]


def test_mcc_draws_what_the_paper_says(sides):
    method = create_method("mcc", backbone=network(), playback={"frames": 16}, queue={"size": 8})
    draw = method.sample_transform(PREPROCESS, View(16, "none"))
    for k in range(20):
        drawn = {name: motion.array for name, motion in draw(sides[0].clips[k], np.random.default_rng(k)).items()}
        array = PREPROCESS(sides[0].clips[k])

        def speed(name, drawn=drawn, array=array):
            at = [int(np.abs(array[0] - frame).sum((1, 2)).argmin()) for frame in drawn[name][0]]
            steps = np.diff(at) % array.shape[1]
            return np.bincount(steps).argmax(), set(steps.tolist())

        anchor, positive = speed("anchor"), speed("positive")
        assert (
            len(anchor[1]) == len(positive[1]) == 1
            and anchor[0] != positive[0]
            and {anchor[0], positive[0]} <= {1, 2, 4, 8}
        )
        assert len(speed("negative")[1]) > 1
        between = drawn["anchor_target"]
        assert between.shape[1] == 32
        if anchor[0] == 1:
            assert np.array_equal(between[:, :16], between[:, 16:])
        else:
            assert np.array_equal(between[:, ::2], drawn["anchor"])


def test_mcc_sees_each_clip_in_a_view_of_its_own(sides):
    half, mirror = {"name": "scale", "range": 0.4}, {"name": "flip", "chance": 0.5}
    view = View(16, [{"name": "crop", "min": 0.2}, mirror, half], PREPROCESS.layout)
    options = {"frames": 16, "vary_speed": False}
    draws = {}
    for spatial in (False, True):
        playback = {**options, "spatial": spatial}
        draws[spatial] = create_method(
            "mcc", backbone=network(), playback=playback, queue={"size": 8}
        ).sample_transform(PREPROCESS, view)
    clip = sides[0].clips[0]
    array = PREPROCESS(clip)

    def factor(motion):
        """How much larger each frame is than the frame of the clip at the same place, up to mirroring."""
        size = np.linalg.norm(motion.array, axis=(2, 3))
        return size.max() / np.linalg.norm(array, axis=(2, 3)).max()

    seen = {name: factor(motion) for name, motion in draws[True](clip, np.random.default_rng(3)).items()}
    assert len({round(float(seen[name]), 3) for name in ("anchor", "positive", "negative")}) == 3
    for name in ("anchor", "positive"):
        assert abs(seen[f"{name}_target"] - seen[name]) < 0.1 * seen[name]
    plain = draws[False](clip, np.random.default_rng(3))
    assert all(np.isin(np.round(m.array, 5), np.round(array, 5)).all() for n, m in plain.items() if "target" not in n)
    with pytest.raises(TrainingError, match=r"playback.spatial takes the steps of a view"):
        method = create_method("mcc", backbone=network(), playback={"spatial": True}, queue={"size": 8})
        method.sample_transform(PREPROCESS, lambda joints, rng: joints)


def test_mcc_as_printed_drives_positives_apart(sides):
    """Equations 1 and 2: both printed terms fall when the positive moves away; the default rises."""
    for variant, sign in (("standard", 1), ("paper", -1)):
        torch.manual_seed(0)
        method = create_method(
            "mcc",
            backbone=network(),
            interpolation=0,
            triplet=0,
            variant=variant,
            playback={"frames": 16},
            queue={"size": 8},
        )
        method.eval()
        method.queue.enqueue(unit(torch.randn(8, 128)), torch.arange(100, 108), torch.zeros(8, dtype=torch.long))
        batch = next(iter(DataLoader(sides[0], method.sample_transform(PREPROCESS, View(16, "none")), 8)))
        near = method.loss(batch | {"positive": batch["anchor"]}).loss
        far = method.loss(batch | {"positive": batch["negative"].flip(0)}).loss
        assert sign * float(far - near) > 0, variant
