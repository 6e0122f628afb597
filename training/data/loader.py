"""Datasets -> batches (N, C, T, V, M), epoch after epoch.

    loader = DataLoader(open_datasets("builds/posecap", split="train"), PadOrCrop(frames=64), batch_size=128, workers=4)
    for batch in loader:  # one epoch, or the rest of it after load_state_dict
        batch["motion"], batch["label"]

Which clips make batch i of an epoch, and the random numbers of each clip, are pure functions of (seed, epoch, position
in the epoch). They depend neither on the number of workers nor on the number of processes. A run that was killed goes
on with the very batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dataengine.core.errors import DataEngineError, TrainingError
from training.data.batch import Batch, BatchMaker, PadOrCrop
from training.data.partners import Partner, PartnerDraw
from training.data.sampler import (
    BatchSpec,
    SampleOrder,
    apportion,
    batch_specs,
    groups_of,
    joined_labels,
    shard_of,
)
from training.data.types import SampleTransform, SkeletonDataset


class _Specs:
    """The sampler of torch's DataLoader: the batches of the epoch that begins."""

    def __init__(self) -> None:
        self.specs: Iterable[BatchSpec] = ()

    def __iter__(self) -> Iterator[BatchSpec]:
        return iter(self.specs)


def _identity(batch: Any) -> Any:
    return batch


class DataLoader:
    """Batches of one or several datasets, epoch after epoch.

    Iterating gives the rest of the epoch: all of it at first, what is left of it after `load_state_dict` or a `break`.
    At its end the next epoch begins. A batch is a dict of the entries of the sample transform (see
    `training.data.batch.stack`), label (N,) int64 (an index into `labels`, -1 for none), index (N,) int64 (number of
    the clip, counted over all datasets) and position (N,) int64 (in the epoch). Of each partner NAME it has NAME_index
    (N,) int64, number of the clip, -1 for none, and NAME_group (N,) int64, see `training.data.partners.PartnerDraw`.

    Args:
        datasets: one or several, of one skeleton; see `training.data.formats.open_datasets`.
        transform: what is taken of a clip, see `training.data.types.SampleTransform`. Default: `PadOrCrop()`.
        batch_size: clips per batch and process.
        seed: of the order and of the random numbers of clips.
        shuffle: whether each epoch has a new random order; otherwise clips keep the order of the datasets.
        weights: how often clips of each dataset are drawn, in any unit: a number per dataset, or a dict by name.
            Default: each clip equally often.
        balance: whether every class is drawn equally often (within each dataset where there are weights); clips without
            a label are not drawn.
        drop_last: whether clips at the end of the epoch that fill no batch are left out. Default: as `shuffle`.
        shard: (rank, world): number of this process, and number of processes that share every batch. Batch i of all
            processes together is batch i of one process with `world` times the batch size.
        workers: processes that prefetch batches; 0: the caller makes each batch when it is needed.
        epoch_size: clips per epoch. Default: all clips.
        pin_memory: whether batches are put into memory that a GPU copies from directly.
        partners: clips that are drawn beside each clip, by name; see `training.data.partners`.

    Attributes:
        datasets: those of the constructor.
        skeleton: of all datasets.
        labels: class names of all datasets, in order of appearance.
        label_ids: (all clips,) int64, indices into `labels`.
        epoch, step: the batch that comes next.

    Raises:
        TrainingError: an argument is wrong, datasets differ in skeleton, or not one batch can be filled.
    """

    def __init__(
        self,
        datasets: SkeletonDataset | Sequence[SkeletonDataset],
        transform: SampleTransform | None = None,
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = True,
        weights: Sequence[float] | Mapping[str, float] | None = None,
        balance: bool = False,
        drop_last: bool | None = None,
        shard: tuple[int, int] = (0, 1),
        workers: int = 0,
        epoch_size: int | None = None,
        pin_memory: bool = False,
        partners: Mapping[str, Partner] = MappingProxyType({}),
    ) -> None:
        self.datasets = [datasets] if isinstance(datasets, SkeletonDataset) else list(datasets)
        self.rank, self.world = shard
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        _check_datasets(self.datasets)
        self._check_numbers(epoch_size)
        if not shuffle and (weights is not None or balance or epoch_size is not None):
            raise TrainingError("weights, balance and epoch_size choose at random and need shuffle=True")
        self.skeleton = self.datasets[0].skeleton
        self.labels, self.label_ids = joined_labels(self.datasets)
        self.drop_last = shuffle if drop_last is None else drop_last
        groups, shares = groups_of(self.datasets, self.label_ids, weights, balance)
        total = epoch_size or sum(map(len, groups))
        self._order = SampleOrder(groups, apportion(shares, total), seed, shuffle)
        if self.drop_last and total < batch_size * self.world:
            raise TrainingError(
                f"{total} clips an epoch fill no batch of {batch_size * self.world} "
                f"(batch_size {batch_size} x world {self.world}); use a smaller batch_size or drop_last=False"
            )
        self._mixture = {"counts": list(self._order.counts), "shuffle": shuffle, "balance": balance}
        self.epoch = self.step = self._turn = 0
        starts = np.cumsum([0, *(len(dataset) for dataset in self.datasets[:-1])])
        transform = PadOrCrop() if transform is None else transform
        draw = PartnerDraw(self.datasets, partners) if partners else None
        self._maker = BatchMaker(self.datasets, starts, self.label_ids, transform, seed, draw)
        self._pin = pin_memory and torch.cuda.is_available()
        self._specs = _Specs()
        self._workers_loader: TorchDataLoader[Any] | None = None

    def _check_numbers(self, epoch_size: int | None) -> None:
        """Raises TrainingError where a number is out of range."""
        least = {"batch_size": 1, "seed": 0, "world": 1, "workers": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise TrainingError(f"{name}={getattr(self, name)}; allowed: {lowest} and more")
        if self.seed >= 1 << 64 or not 0 <= self.rank < self.world:
            raise TrainingError(
                f"seed={self.seed}, shard=({self.rank}, {self.world}); "
                "allowed: a seed below 2^64 and a rank from 0 to world - 1"
            )
        if epoch_size is not None and epoch_size < 1:
            raise TrainingError(f"epoch_size={epoch_size}; allowed: 1 and more, or None for all clips")

    @property
    def fingerprint(self) -> str:
        """Of all datasets."""
        return " ".join(dataset.fingerprint for dataset in self.datasets)

    def __len__(self) -> int:
        """Batches per epoch of this process."""
        whole, rest = divmod(len(self._order), self.batch_size * self.world)
        return whole + (not self.drop_last and len(shard_of(rest, self.batch_size, self.rank, self.world)) > 0)

    def _upcoming(self) -> Iterator[BatchSpec]:
        # made of plain values: a generator of this object would keep it, and the workers, in a circle of references
        return batch_specs(self._order, self.epoch, range(self.step, len(self)), self.batch_size, self.rank, self.world)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `step` to the end of the epoch."""
        self._turn += 1
        return self._batches(self._turn)

    def _batches(self, turn: int) -> Iterator[Batch]:
        for batch in self._from_workers() if self.workers else map(self._maker.__getitem__, self._upcoming()):
            if turn != self._turn:
                raise TrainingError(
                    "the loader was iterated anew, or its position was changed; go on with the newer iterator"
                )
            if isinstance(batch, DataEngineError):
                self._workers_loader = None  # ends the workers now rather than whenever the error is forgotten
                try:
                    raise batch
                finally:
                    del batch  # or the error and this frame keep each other alive
            if self._pin and not self.workers:
                batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            self.step += 1
            yield batch
        if turn == self._turn:
            self.epoch, self.step = self.epoch + 1, 0

    def _from_workers(self) -> Iterator[Any]:
        if self._workers_loader is None:
            self._workers_loader = TorchDataLoader(
                self._maker,
                batch_size=None,
                sampler=self._specs,
                num_workers=self.workers,
                collate_fn=_identity,
                persistent_workers=True,
                pin_memory=self._pin,
                # a generator of its own, so that loading draws nothing from the random numbers of the run
                generator=torch.Generator(),
            )
        self._specs.specs = self._upcoming()
        return iter(self._workers_loader)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; if it is this epoch, stay at the position in it."""
        if epoch < 0:
            raise TrainingError(f"epoch={epoch}; allowed: 0 and more")
        if epoch != self.epoch:
            self.epoch, self.step, self._turn = epoch, 0, self._turn + 1

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was returned, whatever workers have prefetched; plain numbers and
        texts."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "position": self.step * self.batch_size * self.world,
            "seed": self.seed,
            "datasets": {dataset.name: dataset.fingerprint for dataset in self.datasets},
            "mixture": self._mixture,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position of a state; batch size and number of processes may differ if it is between two batches.

        Raises:
            TrainingError: the state is of other datasets, another mixture or seed.
        """
        missing = {"epoch", "position", "seed", "datasets", "mixture"} - state.keys()
        if missing:
            raise TrainingError(f"no state of a loader: it lacks {', '.join(sorted(missing))}")
        own = self.state_dict()
        if list(state["datasets"].values()) != list(own["datasets"].values()):
            changed = [
                f"dataset {name}"
                for name, fingerprint in own["datasets"].items()
                if name in state["datasets"] and state["datasets"][name] != fingerprint
            ]
            others = f"datasets {', '.join(own['datasets'])} in place of {', '.join(state['datasets'])}"
            raise TrainingError(
                f"the state is of other data: {', '.join(changed) or others}; "
                "resume with the data it began with, or start anew"
            )
        for name in ("seed", "mixture"):
            if state[name] != own[name]:
                raise TrainingError(
                    f"the state has {name} {state[name]}, this loader {own[name]}; resume with what the run began with"
                )
        step, rest = divmod(int(state["position"]), self.batch_size * self.world)
        if rest:
            raise TrainingError(
                f"the state lies {state['position']} clips into the epoch, which no number of batches of "
                f"{self.batch_size * self.world} makes; resume with the batch size and number of processes it had"
            )
        self.epoch, self.step, self._turn = int(state["epoch"]), step, self._turn + 1


def _check_datasets(datasets: Sequence[Any]) -> None:
    """Raises TrainingError where something is no dataset, holds nothing, or has another skeleton."""
    if not datasets:
        raise TrainingError("no dataset was given; open at least one with open_datasets")
    for dataset in datasets:
        if not isinstance(dataset, SkeletonDataset):
            raise TrainingError(f"{dataset!r} is no dataset; open it with open_datasets")
        if not len(dataset):
            raise TrainingError(f"{dataset.name}: it holds no clips")
        first = datasets[0]
        if dataset.skeleton.joints != first.skeleton.joints:
            names = f"{first.name} has {first.skeleton.name}, {dataset.name} has {dataset.skeleton.name}"
            raise TrainingError(f"datasets of different skeletons: {names}; open them with one skeleton=")
