"""Batches: which clips, in which order, with which random numbers, and that a run goes on where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import DatasetError, TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from tests.support.tiny_dataset import LABELS, build
from training.data.batch import PadOrCrop, stack
from training.data.entries import Motion
from training.data.formats import open_datasets
from training.data.loader import DataLoader
from training.data.sampler import SampleOrder, SampleRng, apportion, philox
from training.data.types import SkeletonDataset, SkeletonSequence

ROOT = Path(__file__).resolve().parents[2]


class Numbered(SkeletonDataset):
    """Clips in memory; clip k is filled with the number k."""

    def __init__(
        self, count: int, name: str = "numbered", labels: tuple[str, ...] = ("a", "b", "c"), joints: str = "coco17"
    ) -> None:
        self.name, self.labels, self.skeleton = name, labels, SKELETONS[joints]
        self.fingerprint = f"{name} of {count}"
        self.keys = [f"{name}{k}" for k in range(count)]
        self.label_ids = np.arange(count) % len(labels) if labels else np.full(count, -1)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Any) -> list[SkeletonSequence]:
        shape = (1, 4, self.skeleton.num_joints, 2)
        return [
            SkeletonSequence(self.keys[k], np.full(shape, k, np.float32), None, int(self.label_ids[k])) for k in indices
        ]


@dataclass(frozen=True)
class Noise:
    """A random draw of two entries."""

    def __call__(self, clip: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        return {"motion": rng.normal(size=(2, 3, 5, 2)).astype(np.float32), "jitter": rng.random(3), "key": clip.key}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder, clips=40, per_shard=7)
    return folder


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def places(loader: Any) -> list[int]:
    return [place for batch in loader for place in batch["index"].tolist()]


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


def all_equal(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    return len(some) == len(others) > 0 and all(map(equal, some, others))


def test_a_batch_is_what_the_slow_version_gives(dataset: Path) -> None:
    datasets = open_datasets(dataset)
    for batch in DataLoader(datasets, PadOrCrop(frames=6, people=2, channels=2), batch_size=5):
        motion = batch["motion"]
        assert motion.shape == (5, 2, 6, 17, 2) and motion.dtype == torch.float32 and motion.is_contiguous()
        assert batch["label"].dtype == batch["index"].dtype == batch["position"].dtype == torch.int64
        for n, clip in enumerate(datasets[0].read(batch["index"].tolist())):
            assert int(batch["label"][n]) == clip.label
            wanted = np.zeros((2, 6, 17, 2), np.float32)
            people, frames = min(2, len(clip.keypoints)), min(6, clip.keypoints.shape[1])
            for c, t, v, m in np.ndindex(2, frames, 17, people):
                value = clip.keypoints[m, t, v, c]
                wanted[c, t, v, m] = 0 if np.isnan(value) else value
            assert np.array_equal(motion[n].numpy(), wanted)


def test_pad_or_crop_adds_scores_as_the_last_channel() -> None:
    rng = np.random.default_rng(0)
    clip = SkeletonSequence("x", rng.random((2, 5, 17, 2), np.float32), rng.random((2, 5, 17), np.float32))
    motion = PadOrCrop(5, 2, 3)(clip, rng)["motion"].array
    assert np.array_equal(motion[..., :2], clip.keypoints) and np.array_equal(motion[..., 2], clip.scores)
    with pytest.raises(TrainingError, match="x: channels=4 of a clip with 2 coordinates"):
        PadOrCrop(5, 2, 4)(clip, rng)
    with pytest.raises(TrainingError, match="PadOrCrop: frames=0; allowed: 1 and more"):
        PadOrCrop(0)


@pytest.mark.parametrize("coordinates", [2, 3])
def test_pad_or_crop_takes_the_coordinates_that_a_clip_has(coordinates: int) -> None:
    rng = np.random.default_rng(0)
    clip = SkeletonSequence("x", rng.random((2, 5, 17, coordinates), np.float32))
    assert np.array_equal(PadOrCrop(5)(clip, rng)["motion"].array, clip.keypoints)


def test_stack_turns_motions_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.random((2, 7, 5, 3)) for _ in range(4)]
    turned = stack("motion", list(map(Motion, arrays)))["motion"]
    assert turned.dtype == torch.float32 and turned.is_contiguous()
    assert np.array_equal(turned.numpy(), np.stack(arrays).transpose(0, 4, 2, 3, 1).astype(np.float32))
    contiguous = [Motion(np.ascontiguousarray(a.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)) for a in arrays]
    assert torch.equal(turned, stack("motion", contiguous)["motion"])
    assert stack("grid", arrays)["grid"].shape == (4, 2, 7, 5, 3), "axes say nothing of what an array is"
    assert stack("length", [3, 4])["length"].tolist() == [3, 4]
    assert stack("mask", [np.array([True]), np.array([False])])["mask"].dtype == torch.bool
    assert stack("text", ["a", "b"]) == {"text": ["a", "b"]}
    with pytest.raises(TrainingError, match=r"gives 'x' of different shapes, such as \(2,\) and \(3,\)"):
        stack("x", [np.zeros(2), np.zeros(3)])


def test_every_clip_comes_once_an_epoch_in_another_order() -> None:
    loader = DataLoader(Numbered(50), PadOrCrop(4), batch_size=8, seed=5, drop_last=False)
    epochs = [places(loader) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = DataLoader(Numbered(50), PadOrCrop(4), batch_size=8, seed=5, drop_last=False)
    again.set_epoch(2)
    assert places(again) == epochs[2]
    assert places(DataLoader(Numbered(50), PadOrCrop(4), batch_size=8, seed=6, drop_last=False)) != epochs[0]
    plain = DataLoader(Numbered(50), PadOrCrop(4), batch_size=8, shuffle=False)
    assert places(plain) == list(range(50)) and len(plain) == 7 and plain.epoch == 1


def test_random_numbers_are_each_clips_own() -> None:
    dice = SampleRng(3)
    first = dice(1, 4).normal(size=5)
    dice(2, 9).random(3)
    assert np.array_equal(dice(1, 4).normal(size=5), first)
    assert np.array_equal(philox(3, 3, 1, 4).normal(size=5), first)
    drawn = {tuple(dice(epoch, position).integers(1 << 60, size=2)) for epoch in range(5) for position in range(50)}
    assert len(drawn) == 250
    assert tuple(SampleRng(4)(1, 4).normal(size=5)) != tuple(first)
    half = dice(1, 4)
    half.integers(0, 10, dtype=np.uint32)  # leaves half a word behind
    assert np.array_equal(dice(1, 4).normal(size=5), first)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset: Path, workers: int) -> None:
    alone, many = (DataLoader(open_datasets(dataset), Noise(), batch_size=6, seed=1, workers=w) for w in (0, workers))
    for _ in range(2):
        assert all_equal(list(alone), list(many))


@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_the_batches_of_one(dataset: Path, drop_last: bool) -> None:
    options = {"seed": 2, "drop_last": drop_last}
    whole = list(DataLoader(open_datasets(dataset), Noise(), batch_size=12, **options))
    halves = [
        list(DataLoader(open_datasets(dataset), Noise(), batch_size=6, shard=(rank, 2), **options)) for rank in range(2)
    ]
    thirds = [
        list(DataLoader(open_datasets(dataset), Noise(), batch_size=4, shard=(rank, 3), **options)) for rank in range(3)
    ]
    assert len(whole) == (3 if drop_last else 4)
    for parts in (halves, thirds):
        for batch, *shared in zip(whole, *parts, strict=True):
            for name in ("motion", "jitter", "index", "label", "position"):
                assert torch.equal(torch.cat([part[name] for part in shared]), batch[name])


def test_weights_are_kept_exactly_and_no_clip_is_left_behind() -> None:
    datasets = [Numbered(30, "large"), Numbered(4, "small")]
    loader = DataLoader(datasets, PadOrCrop(4), batch_size=10, weights=[3, 1], epoch_size=40)
    seen: Counter[int] = Counter()
    for _ in range(4):
        drawn = places(loader)
        assert sum(k >= 30 for k in drawn) == 10 and len(drawn) == 40
        assert any(k >= 30 for k in drawn[:20]) and any(k < 30 for k in drawn[-20:])
        seen.update(drawn)
    assert [seen[k] for k in range(30)] == [4] * 30 and [seen[k] for k in range(30, 34)] == [10] * 4
    named = DataLoader(datasets, PadOrCrop(4), batch_size=10, weights={"small": 1, "large": 3}, epoch_size=40)
    assert indices(named) == indices(DataLoader(datasets, PadOrCrop(4), batch_size=10, weights=[3, 1], epoch_size=40))
    assert apportion([1, 1, 1], 10) == (4, 3, 3)


def test_balance_draws_classes_equally_often() -> None:
    dataset = Numbered(60)
    dataset.label_ids = np.array([0] * 50 + [1] * 8 + [-1] * 2)
    loader = DataLoader(dataset, PadOrCrop(4), batch_size=10, balance=True, drop_last=False)
    assert Counter(torch.cat([batch["label"] for batch in loader]).tolist()) == {0: 29, 1: 29}
    both = DataLoader(dataset, PadOrCrop(4), batch_size=10, balance=True, epoch_size=80)
    assert Counter(torch.cat([batch["label"] for batch in both]).tolist()) == {0: 40, 1: 40}


def test_an_epoch_may_be_shorter_and_the_next_goes_on() -> None:
    loader = DataLoader(Numbered(20), PadOrCrop(4), batch_size=5, epoch_size=10)
    halves = [places(loader) for _ in range(4)]
    assert sorted(halves[0] + halves[1]) == sorted(halves[2] + halves[3]) == list(range(20))


def test_classes_of_one_name_are_one_class() -> None:
    datasets = [Numbered(6, "one", ("wave", "jump")), Numbered(6, "two", ("jump", "clap")), Numbered(2, "none", ())]
    loader = DataLoader(datasets, PadOrCrop(4), batch_size=14, shuffle=False)
    assert loader.labels == ("wave", "jump", "clap")
    assert next(iter(loader))["label"].tolist() == [0, 1, 0, 1, 0, 1, 1, 2, 1, 2, 1, 2, -1, -1]
    assert loader.label_ids.tolist() == [0, 1, 0, 1, 0, 1, 1, 2, 1, 2, 1, 2, -1, -1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_the_place_behind_the_last_batch_handed_out(dataset: Path, workers: int) -> None:
    def loader() -> DataLoader:
        return DataLoader(open_datasets(dataset), Noise(), batch_size=6, seed=9, workers=workers)

    whole = loader()
    epochs = [list(whole), list(whole)]
    begun = loader()
    states = [begun.state_dict()]
    for _ in range(2):
        for _ in begun:
            states.append(begun.state_dict())
    for number in (0, 1, 4, 6, 7, 11) if not workers else (3, 8):
        state = json.loads(json.dumps(states[number]))
        resumed = loader()
        resumed.load_state_dict(state)
        if number % 6 or number == 0:
            assert (resumed.epoch, resumed.step) == divmod(number, 6)
        left = list(resumed)
        if not left:  # the state of an epoch's last batch: the epoch's end comes first
            left = list(resumed)
        epoch = resumed.epoch - 1
        assert all_equal(left, epochs[epoch][len(epochs[epoch]) - len(left) :])
        assert len(left) == 6 - number % 6


def test_a_state_fits_any_number_of_processes(dataset: Path) -> None:
    whole = DataLoader(open_datasets(dataset), Noise(), batch_size=4, seed=9)
    batches = iter(whole)
    for _ in range(4):
        next(batches)
    state = whole.state_dict()
    rest = torch.cat([batch["motion"] for batch in batches])
    parts = [DataLoader(open_datasets(dataset), Noise(), batch_size=4, seed=9, shard=(rank, 2)) for rank in range(2)]
    for part in parts:
        part.load_state_dict(state)
    shared = [torch.cat([a["motion"], b["motion"]]) for a, b in zip(*parts)]
    assert torch.equal(torch.cat(shared), rest)
    odd = DataLoader(open_datasets(dataset), Noise(), batch_size=5, seed=9)
    with pytest.raises(TrainingError, match="16 clips into the epoch, which no number of batches of 5 makes"):
        odd.load_state_dict(state)


def test_a_state_of_something_else_is_refused(dataset: Path, tmp_path: Path) -> None:
    state = DataLoader(open_datasets(dataset), Noise(), batch_size=4).state_dict()
    other = build(tmp_path, clips=40, seed=1)
    for loader, message in (
        (
            DataLoader(open_datasets(other), Noise(), batch_size=4),
            "the state is of other data: datasets .*; resume with the data it began with",
        ),
        (
            DataLoader(open_datasets(dataset, split="train"), Noise(), batch_size=4),
            "the state is of other data: dataset .*dataset; resume",
        ),
        (DataLoader(open_datasets(dataset), Noise(), batch_size=4, seed=3), "the state has seed 0, this loader 3"),
        (DataLoader(open_datasets(dataset), Noise(), batch_size=4, balance=True), "the state has mixture"),
    ):
        with pytest.raises(TrainingError, match=message) as raised:
            loader.load_state_dict(state)
        assert "\n" not in str(raised.value)
    with pytest.raises(TrainingError, match="no state of a loader: it lacks epoch, mixture"):
        DataLoader(open_datasets(dataset), Noise(), batch_size=4).load_state_dict(
            {"seed": 0, "position": 0, "datasets": {}}
        )


KILLED = """
import json, sys
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.training.test_data import DataLoader, Noise, open_datasets
place = Path({place!r})
loader = DataLoader(open_datasets({dataset!r}), Noise(), batch_size=4, seed=7, workers=2)
while True:
    for batch in loader:
        part = place.with_suffix(".new")
        part.write_text(json.dumps(loader.state_dict()))
        part.replace(place)
"""


def test_a_killed_run_goes_on_to_the_bit(dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "state.json"
    code = KILLED.format(root=str(ROOT), place=str(place), dataset=str(dataset))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=environment)
    limit = time.monotonic() + 120
    while not place.exists() or json.loads(place.read_text())["epoch"] < 1:
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.005)
    time.sleep(np.random.default_rng().uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    state = json.loads(place.read_text())
    resumed = DataLoader(open_datasets(dataset), Noise(), batch_size=4, seed=7, workers=2)
    resumed.load_state_dict(state)
    alone = DataLoader(open_datasets(dataset), Noise(), batch_size=4, seed=7)
    done = state["epoch"] * len(alone) + state["step"]

    def following(loader: DataLoader, count: int) -> list[dict[str, Any]]:
        batches: list[dict[str, Any]] = []
        while len(batches) < count:
            batches += loader
        return batches[:count]

    assert all_equal(following(resumed, 100), following(alone, done + 100)[done:])


def test_loading_leaves_the_runs_random_numbers_alone(dataset: Path) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what is looked at
    wanted = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    list(DataLoader(open_datasets(dataset), Noise(), batch_size=8, workers=1))
    list(DataLoader(open_datasets(dataset), Noise(), batch_size=8))
    assert torch.equal(torch.rand(3), wanted[0]) and np.array_equal(np.random.random(3), wanted[1])  # noqa: NPY002


def _remote_make(made: bytes, token: Any) -> Any:
    return pickle.loads(made)[token]  # noqa: S301 - our own


@pytest.mark.slow
def test_what_makes_batches_can_be_sent_to_a_fresh_process(dataset: Path) -> None:
    loader = DataLoader(open_datasets(dataset), PadOrCrop(5), batch_size=4)
    token = next(loader._upcoming())
    here = loader._maker[token]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert equal(pool.apply(_remote_make, (pickle.dumps(loader._maker), token)), here)


def test_an_iterator_left_behind_says_so() -> None:
    loader = DataLoader(Numbered(40), PadOrCrop(4), batch_size=4)
    first = iter(loader)
    next(first)
    assert len(list(loader)) == 9
    with pytest.raises(TrainingError, match="iterated anew"):
        next(first)
    loader.set_epoch(5)
    going = iter(loader)
    next(going)
    loader.set_epoch(5)
    assert loader.step == 1 and len(list(going)) == 9
    assert (loader.epoch, loader.step) == (6, 0)


class Refusing:
    """A draw that one clip does not suit."""

    def __call__(self, clip: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        raise TrainingError(f"{clip.key}: not this one")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_worker_are_those_of_the_caller(dataset: Path, workers: int) -> None:
    with pytest.raises(TrainingError) as raised:
        next(iter(DataLoader(open_datasets(dataset), Refusing(), batch_size=4, workers=workers)))
    assert str(raised.value).endswith(": not this one") and "\n" not in str(raised.value)


def test_a_shard_torn_while_training_is_told(dataset: Path, tmp_path: Path) -> None:
    root = build(tmp_path, clips=12)
    datasets = open_datasets(root)
    shard = sorted((root / "shards" / "pose").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="torn") as raised:
        list(DataLoader(datasets, PadOrCrop(4), batch_size=4, workers=1))
    assert "\n" not in str(raised.value)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size=0; allowed: 1 and more"),
    ({"batch_size": 64}, "50 clips an epoch fill no batch of 64 .batch_size 64 x world 1.; use a smaller batch_size"),
    ({"seed": -1}, "seed=-1; allowed: 0"),
    ({"shard": (2, 2)}, r"shard=\(2, 2\); allowed: .* a rank from 0 to world - 1"),
    ({"workers": -1}, "workers=-1; allowed"),
    ({"epoch_size": 0}, "epoch_size=0; allowed"),
    ({"weights": [0.0]}, r"weights=\[0.0\] of 1 datasets; allowed: one positive number a dataset"),
    ({"weights": [float("nan")]}, "allowed: one positive number a dataset"),
    ({"weights": [1.0, 2.0]}, "of 1 datasets; allowed: one positive"),
    ({"weights": {"numbers": 1}}, "weights of 'numbers'; allowed: one each of numbered"),
    ({"weights": [1.0], "shuffle": False}, "need shuffle=True"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_wrong_arguments_are_told_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as raised:
        DataLoader(Numbered(50), **options)
    assert "\n" not in str(raised.value)


def test_sources_that_do_not_fit_are_told() -> None:
    with pytest.raises(
        TrainingError, match="different skeletons: a has coco17, b has posetics17; open them with one skeleton="
    ):
        DataLoader([Numbered(9, "a"), Numbered(9, "b", joints="posetics17")])
    with pytest.raises(TrainingError, match="nothing: it holds no clips"):
        DataLoader(Numbered(0, "nothing"))
    with pytest.raises(TrainingError, match="no dataset was given"):
        DataLoader([])
    with pytest.raises(TrainingError, match="'x' is no dataset; open it"):
        DataLoader(["x"])  # type: ignore[list-item]
    with pytest.raises(TrainingError, match="balance=True needs labels"):
        DataLoader(Numbered(9, labels=()), balance=True)
    custom = Numbered(8)
    custom.skeleton = Skeleton("custom3", ("a", "b", "c"), ())
    assert next(iter(DataLoader(custom, PadOrCrop(4, 1), batch_size=2)))["motion"].shape == (2, 2, 4, 3, 1)


@pytest.mark.parametrize(
    ("entry", "message"), [("label", "gives 'label', which the loader itself fills"), ("index", "'index'")]
)
def test_a_draw_may_not_take_the_feeds_names(entry: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        next(iter(DataLoader(Numbered(8), lambda clip, rng: {entry: 1}, batch_size=2)))


def test_several_sources_are_opened_together(dataset: Path) -> None:
    both = open_datasets([dataset, Numbered(3, joints="posetics17", labels=LABELS)], split="val")
    assert [len(dataset) for dataset in both] == [20, 3]
    with pytest.raises(TrainingError, match="no dataset was given"):
        open_datasets([])


def test_an_order_holds_a_class_of_one_clip_many_times() -> None:
    order = SampleOrder((np.array([7]), np.arange(5)), (6, 4), 0, True)
    assert Counter(order.epoch(3).tolist())[7] == 6
