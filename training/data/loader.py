"""Sources -> batches: the only place where the order of axes changes, from (M, T, V, C) to (N, C, T, V, M).

    feed = Feed(open_sources("builds/posecap", split="train"), draw=Fixed(frames=64), batch_size=128, workers=4)
    for batch in feed:  # one epoch, or the rest of it after load_state_dict
        batch["motion"], batch["label"]

Which clips make batch i of an epoch, and the random numbers each clip is drawn with, are pure functions of (seed, epoch,
position in the epoch). So they depend neither on the number of workers nor on that of processes, and a run that was killed
goes on with the very batches it would have had.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from dataengine.core.errors import DataEngineError, TrainingError
from dataengine.core.jit import compiled
from training.data.formats import open_source
from training.data.sampler import Dice, Order, Token, groups_of, joined_labels, share_of, shares_of, tokens
from training.data.types import Clip, Draw, Numbers, Source

Batch: TypeAlias = dict[str, Any]

RESERVED = ("label", "index", "position")


def _place(poses: Any, out: Any) -> None:
    # a joint that is not seen is the only number unequal to itself
    people, frames, joints, channels = poses.shape
    most, wanted = out.shape[3], out.shape[1]
    length = min(frames, wanted) * joints
    flat, target = poses.reshape(people, frames * joints * channels), out.reshape(out.shape[0], wanted * joints * most)
    for c in range(out.shape[0]):
        for m in range(most):
            if m < people:
                for i in range(length):
                    value = flat[m, i * channels + c]
                    target[c, i * most + m] = value if value == value else np.float32(0)
                for i in range(length, wanted * joints):
                    target[c, i * most + m] = np.float32(0)
            else:
                for i in range(wanted * joints):
                    target[c, i * most + m] = np.float32(0)


_placed = compiled(_place)


@dataclass(frozen=True)
class Fixed:
    """The plainest draw: the first people and frames of a clip as they are; what is missing or not seen is 0.

    Attributes:
        frames: of the result.
        people: of the result, the first of the clip.
        channels: coordinates of the result; one more than the clip has adds its scores.
    """

    frames: int = 300
    people: int = 2
    channels: int = 2

    def __post_init__(self) -> None:
        for name in ("frames", "people", "channels"):
            if getattr(self, name) < 1:
                raise TrainingError(f"Fixed: {name}={getattr(self, name)!r}; allowed: 1 and more")

    def __call__(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        """motion, (people, frames, V, channels) float32."""
        poses = clip.keypoints
        if self.channels == poses.shape[3] + 1:
            scores = np.isfinite(poses).all(-1, keepdims=True) if clip.scores is None else clip.scores[..., None]
            poses = np.concatenate([poses, scores], -1, dtype=np.float32)
        if self.channels > poses.shape[3]:
            raise TrainingError(f"{clip.key}: channels={self.channels} of a clip with {poses.shape[3]} coordinates")
        # laid out as the batch will be, which is then one copy
        out = np.empty((self.channels, self.frames, poses.shape[2], self.people), np.float32)
        _placed(np.ascontiguousarray(poses, np.float32), out)
        return {"motion": out.transpose(3, 1, 2, 0)}


def open_sources(dataset: Any, split: str | None = None, where: str | None = None, **options: Any) -> list[Source]:
    """One or several sources, opened.

    Args:
        dataset: a path or url, an open source, or a list of these; a list of tar files alone is one source.
        split, where, options: see `training.data.formats.open_source`; for sources that are not open yet.

    Raises:
        TrainingError: one cannot be opened.
    """
    if isinstance(dataset, Source):
        return [dataset]
    if isinstance(dataset, str | os.PathLike):
        return [open_source(dataset, split, where, **options)]
    parts = list(dataset)
    if not parts:
        raise TrainingError("no dataset was given; name at least one path, url or open source")
    if all(isinstance(part, str | os.PathLike) and os.fspath(part).endswith(".tar") for part in parts):
        return [open_source(parts, split, where, **options)]
    return [source for part in parts for source in open_sources(part, split, where, **options)]


def stack(name: str, values: Sequence[Any]) -> Any:
    """One entry of a batch from what the draw gave for each clip.

    Args:
        name: the entry's, for messages.
        values: arrays or numbers of one shape, or texts.

    Returns:
        Motions (M, T, V, C) as a tensor (N, C, T, V, M) float32, contiguous; other arrays as a tensor (N, ...) of their
        dtype; texts as a list.

    Raises:
        TrainingError: the shapes differ.
    """
    if isinstance(values[0], str):
        return list(values)
    arrays: list[NDArray[Any]] = [np.asarray(value) for value in values]
    shape = arrays[0].shape
    if any(array.shape != shape for array in arrays):
        shapes = sorted({array.shape for array in arrays})
        raise TrainingError(
            f"the draw gives {name!r} of different shapes, such as {shapes[0]} and {shapes[-1]}; all clips need the same"
        )
    if len(shape) != 4:
        return torch.from_numpy(np.stack(arrays))
    people, frames, joints, channels = shape
    out = np.empty((len(arrays), channels, frames, joints, people), np.float32)
    for target, array in zip(out, arrays):
        turned = array.transpose(3, 1, 2, 0)
        if turned.flags.c_contiguous:
            target[...] = turned
        else:  # plane by plane: NumPy's own transposed copy walks along the shortest axis
            for c in range(channels):
                for m in range(people):
                    target[c, :, :, m] = array[m, :, :, c]
    return torch.from_numpy(out)


class Maker(Dataset[Any]):
    """Makes the batch of a token, in whichever process. Errors of ours are returned, to be raised where the batch was asked for."""

    def __init__(self, sources: Sequence[Source], starts: Numbers, labels: Numbers, draw: Draw, seed: int) -> None:
        self._sources, self._starts, self._labels, self._draw, self._seed = sources, starts, labels, draw, seed
        self._dice: Dice | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_dice": None}

    def __getitem__(self, token: Token) -> Batch | DataEngineError:
        try:
            return self._make(*token)
        except DataEngineError as error:
            return error

    def _make(self, epoch: int, first: int, places: Numbers) -> Batch:
        if self._dice is None:
            self._dice = Dice(self._seed)
        dice, draw = self._dice, self._draw
        drawn = [draw(clip, dice(epoch, first + k)) for k, clip in enumerate(self._read(places))]
        names = drawn[0].keys()
        if any(one.keys() != names for one in drawn):
            raise TrainingError(
                f"the draw gives {sorted(names)} for some clips and others for others; all need the same entries"
            )
        if clash := sorted(names & set(RESERVED)):
            raise TrainingError(f"the draw gives {clash[0]!r}, which the feed itself fills; give it another name")
        batch = {name: stack(name, [one[name] for one in drawn]) for name in names}
        batch["label"] = torch.from_numpy(self._labels[places])
        batch["index"] = torch.from_numpy(places.copy())
        batch["position"] = torch.arange(first, first + len(places))
        return batch

    def _read(self, places: Numbers) -> list[Clip]:
        if len(self._sources) == 1:
            return self._sources[0].read(places.tolist())
        clips: dict[int, Clip] = {}
        owners = np.searchsorted(self._starts, places, "right") - 1
        for owner in np.unique(owners).tolist():
            slots = np.flatnonzero(owners == owner)
            clips.update(zip(slots.tolist(), self._sources[owner].read((places[slots] - self._starts[owner]).tolist())))
        return [clips[slot] for slot in range(len(places))]


class _Tokens:
    """What DataLoader asks for the tokens of the epoch that begins."""

    def __init__(self) -> None:
        self.tokens: Iterable[Token] = ()

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)


def _as_it_is(batch: Any) -> Any:
    return batch


class Feed:
    """Batches of one or several sources, epoch after epoch.

    Iterating gives the rest of the epoch: all of it at first, what is left of it after `load_state_dict` or a `break`; at
    its end the next epoch's turn comes. A batch is a dict of the draw's entries (see `stack`), label (N,) int64 (an index
    into `labels`, -1 for none), index (N,) int64 (the clip's place in all sources one after the other) and position (N,)
    int64 (in the epoch).

    Args:
        sources: one or several, of one skeleton; see `open_sources`.
        draw: what is taken of a clip (see `training.data.types.Draw`); by default `Fixed()`.
        batch_size: clips a batch and process.
        seed: of order and draws.
        shuffle: a new random order each epoch; without, the sources' own.
        weights: how often each source's clips are drawn, in any unit: a number a source, or a dict by name; without, each
            clip equally often.
        balance: draw every class equally often (within each source where there are weights); clips without a label not at all.
        drop_last: leave out the clips at the epoch's end that fill no batch; by default where shuffled.
        rank, world: this process and how many; batch i of all together is batch i of one with `world` times the batch size.
        workers: processes that make batches ahead; 0: made when asked for.
        epoch_size: clips an epoch; by default as many as the sources have.
        pin_memory: put batches into memory that a GPU copies from directly, where there is one.

    Attributes:
        sources, skeleton, labels: names of classes of all sources, in order of appearance.
        label_ids: (all clips,) int64, indices into `labels`.
        epoch, step: the batch that comes next.
        fingerprint: of sources and their mixture.

    Raises:
        TrainingError: an argument is wrong, sources differ in skeleton, or not one batch can be filled.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        draw: Draw | None = None,
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = True,
        weights: Sequence[float] | Mapping[str, float] | None = None,
        balance: bool = False,
        drop_last: bool | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        epoch_size: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.sources = [sources] if isinstance(sources, Source) else list(sources)
        _check(self.sources, batch_size, seed, rank, world, workers, epoch_size)
        if not shuffle and (weights is not None or balance or epoch_size is not None):
            raise TrainingError("weights, balance and epoch_size choose at random and need shuffle=True")
        self.skeleton = self.sources[0].skeleton
        self.labels, self.label_ids = joined_labels(self.sources)
        self.batch_size, self.seed, self.rank, self.world, self.workers = batch_size, seed, rank, world, workers
        self.drop_last = shuffle if drop_last is None else drop_last
        sizes = [len(source) for source in self.sources]
        groups, shares = groups_of(self.sources, self.label_ids, weights, balance)
        total = epoch_size or sum(map(len, groups))
        self._order = Order(groups, shares_of(shares, total), seed, shuffle)
        if self.drop_last and total < batch_size * world:
            raise TrainingError(
                f"{total} clips an epoch fill no batch of {batch_size * world} (batch_size {batch_size} x world {world}); "
                "use a smaller batch_size or drop_last=False"
            )
        self._mixture = {"shares": list(self._order.shares), "shuffle": shuffle, "balance": balance}
        self.epoch = self.step = self._turn = 0
        starts = np.cumsum([0, *sizes[:-1]])
        self._maker = Maker(self.sources, starts, self.label_ids, Fixed() if draw is None else draw, seed)
        self._pin = pin_memory and torch.cuda.is_available()
        self._tokens = _Tokens()
        self._loader: DataLoader[Any] | None = None

    @property
    def fingerprint(self) -> str:
        return " ".join(source.fingerprint for source in self.sources)

    def __len__(self) -> int:
        """Batches an epoch that this process gets."""
        whole, rest = divmod(len(self._order), self.batch_size * self.world)
        return whole + (not self.drop_last and len(share_of(rest, self.batch_size, self.rank, self.world)) > 0)

    def _upcoming(self) -> Iterator[Token]:
        # made of plain values: a generator of this object would keep it, and the workers, in a circle of references
        return tokens(self._order, self.epoch, range(self.step, len(self)), self.batch_size, self.rank, self.world)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `step` to the epoch's end."""
        self._turn += 1
        return self._batches(self._turn)

    def _batches(self, turn: int) -> Iterator[Batch]:
        for batch in self._worked() if self.workers else map(self._maker.__getitem__, self._upcoming()):
            if turn != self._turn:
                raise TrainingError(
                    "the feed was iterated anew, or its place was changed; go on with the newer iterator"
                )
            if isinstance(batch, DataEngineError):
                self._loader = None  # ends the workers now rather than whenever the error is forgotten
                try:
                    raise batch
                finally:
                    del batch  # or the error and this frame keep each other alive
            if self._pin and not self.workers:
                batch = {
                    name: value.pin_memory() if isinstance(value, torch.Tensor) else value
                    for name, value in batch.items()
                }
            self.step += 1
            yield batch
        if turn == self._turn:
            self.epoch, self.step = self.epoch + 1, 0

    def _worked(self) -> Iterator[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                self._maker,
                batch_size=None,
                sampler=self._tokens,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                persistent_workers=True,
                pin_memory=self._pin,
                # of its own, so that loading draws nothing from the run's random numbers
                generator=torch.Generator(),
            )
        self._tokens.tokens = self._upcoming()
        return iter(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; where it is this one, stay at the place in it."""
        if epoch < 0:
            raise TrainingError(f"epoch={epoch}; allowed: 0 and more")
        if epoch != self.epoch:
            self.epoch, self.step, self._turn = epoch, 0, self._turn + 1

    def state_dict(self) -> dict[str, Any]:
        """The place behind the last batch that was handed out, whatever workers have made ahead; plain numbers and texts."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "position": self.step * self.batch_size * self.world,
            "seed": self.seed,
            "sources": {source.name: source.fingerprint for source in self.sources},
            "mixture": self._mixture,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place of a state; batch size and number of processes may differ where the place is between two batches.

        Raises:
            TrainingError: the state is of other sources, another mixture or seed.
        """
        missing = {"epoch", "position", "seed", "sources", "mixture"} - state.keys()
        if missing:
            raise TrainingError(f"no state of a feed: it lacks {', '.join(sorted(missing))}")
        own = self.state_dict()
        changed = [
            f"source {name}"
            for name, known in own["sources"].items()
            if name in state["sources"] and state["sources"][name] != known
        ]
        if list(state["sources"].values()) != list(own["sources"].values()):
            what = (
                ", ".join(changed) or f"sources {', '.join(own['sources'])} in place of {', '.join(state['sources'])}"
            )
            raise TrainingError(
                f"the state is of other data: {what}; resume with the data it began with, or start anew"
            )
        for name in ("seed", "mixture"):
            if state[name] != own[name]:
                raise TrainingError(
                    f"the state has {name} {state[name]}, this feed {own[name]}; resume with what the run began with"
                )
        step, rest = divmod(int(state["position"]), self.batch_size * self.world)
        if rest:
            raise TrainingError(
                f"the state lies {state['position']} clips into the epoch, which no number of batches of {self.batch_size * self.world} makes; "
                "resume with the batch size and number of processes it had"
            )
        self.epoch, self.step, self._turn = int(state["epoch"]), step, self._turn + 1


def _check(
    sources: Sequence[Any], batch_size: int, seed: int, rank: int, world: int, workers: int, epoch_size: int | None
) -> None:
    if not sources:
        raise TrainingError("no source was given; open at least one with open_sources")
    for source in sources:
        if not isinstance(source, Source):
            raise TrainingError(f"{source!r} is no source; open it with open_sources")
        if not len(source):
            raise TrainingError(f"{source.name}: it holds no clips")
        if source.skeleton.joints != sources[0].skeleton.joints:
            names = f"{sources[0].name} has {sources[0].skeleton.name}, {source.name} has {source.skeleton.name}"
            raise TrainingError(f"sources of different skeletons: {names}; open them with one skeleton=")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("world", world, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise TrainingError(f"{name}={value}; allowed: {least} and more")
    if seed >= 1 << 64 or not 0 <= rank < world:
        raise TrainingError(
            f"seed={seed}, rank={rank}, world={world}; allowed: a seed below 2^64 and a rank from 0 to world - 1"
        )
    if epoch_size is not None and epoch_size < 1:
        raise TrainingError(f"epoch_size={epoch_size}; allowed: 1 and more, or None for all clips")
