"""Near-duplicate clips: the same pictures at other sizes, codecs and cuts, found without comparing all pairs.

The signature of a clip is one 64-bit hash of the picture and one normalised pose per half second. Two clips are
near-duplicates when, at some offset, most pictures have hashes that differ in few bits, and the poses agree. Pictures
alone cannot tell two takes of a fixed camera apart; poses can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.jit import compiled
from dataengine.core.types import Int
from dataengine.dataset.signatures import WORD

FEW_BITS = 10
"""Most bits, of 64, in which hashes of the same picture differ."""

SAME_POSE = 0.2
"""Highest mean distance of joints between two equal poses, relative to the size of the body."""

_BANDS = ((0, 21), (21, 21), (42, 22))
"""First bit and number of the bits that a bucket shares: hashes that differ in up to two bits share one of three
buckets."""

_CROWD = 128
"""Most hashes of a bucket. Larger buckets hold logos and fades, and are skipped."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Signatures:
    """Signatures of many clips, one after another.

    Attributes:
        hashes: (K,) uint64, 0 where the picture is flat.
        words: (K, 2 V) int8, see `pose_words`.
        start: (clips + 1,) int64; clip n has the entries start[n] to start[n + 1].
    """

    hashes: Hashes
    words: NDArray[np.int8]
    start: Int

    @staticmethod
    def of(hashes: list[Any], words: list[Any], width: int) -> Signatures:
        """Join signatures given clip by clip: lists of hashes, and arrays of words."""
        lengths = np.array([0, *map(len, hashes)], np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *(np.asarray(h, np.uint64) for h in hashes)])
        poses = np.concatenate([np.zeros(0, np.int8), *(np.asarray(w, np.int8).ravel() for w in words)]).reshape(
            -1, width
        )
        return Signatures(flat, poses, np.cumsum(lengths))


class _Filled:
    """One array that grows by parts, in place where the allocator can."""

    def __init__(self, kind: type) -> None:
        self._array: NDArray[Any] = np.empty(1 << 12, kind)
        self._length = 0

    def add(self, part: NDArray[Any]) -> None:
        """Append a part."""
        if self._length + len(part) > len(self._array):
            self._array.resize(max(len(self._array) * 9 // 8, self._length + len(part)), refcheck=False)
        self._array[self._length : self._length + len(part)] = part
        self._length += len(part)

    def array(self) -> NDArray[Any]:
        """All parts; nothing is appended any more."""
        self._array.resize(self._length, refcheck=False)
        return self._array


def near_pairs_of(hashes: Iterable[Any], words: Callable[[Int], Iterable[Any]], share: float = 0.7) -> NDArray[Any]:
    """Pairs of clips of Arrow tables that are near-duplicates, as `near_pairs` gives them.

    The words of poses are three quarters of a signature, and few clips have a picture in common with another: words are
    read of these alone.

    Args:
        hashes: tables with a column `hashes` (lists of uint64), a row for each clip.
        words: gives tables with a column `words` (binary) of some clips, by their ascending numbers (N,).
    """
    flat, lengths = _Filled(np.uint64), _Filled(np.int64)
    lengths.add(np.zeros(1, np.int64))
    for column in _columns(hashes, "hashes"):
        lengths.add(np.diff(column.offsets.to_numpy()))
        flat.add(column.flatten().to_numpy(zero_copy_only=False))
    every, start = flat.array(), np.cumsum(lengths.array())
    found = _candidates(every, start)
    clips = np.unique(found[:, :2])
    poses = _Filled(np.int8)
    for column in _columns(words(clips), "words") if len(clips) else ():
        poses.add(np.frombuffer(b"".join(column.to_pylist()), np.int8))
    counts = start[clips + 1] - start[clips]
    own = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    entries = np.repeat(start[clips] - own[:-1], counts) + np.arange(own[-1])
    flat_words = poses.array()
    some = Signatures(every[entries], flat_words.reshape(len(entries), -1 if len(entries) else 1), own)
    found[:, :2] = np.searchsorted(clips, found[:, :2])
    pairs = _pairs(some, found, share)
    pairs["a"], pairs["b"] = clips[pairs["a"]], clips[pairs["b"]]
    return pairs


def _columns(tables: Iterable[Any], name: str) -> Iterator[Any]:
    """A column of tables, batch by batch."""
    for table in tables:
        for batch in table.to_batches():
            yield batch.column(batch.schema.get_field_index(name))


def near_pairs(found: Signatures, share: float = 0.7, entries: int = 3) -> NDArray[Any]:
    """Pairs of clips that are near-duplicates.

    Args:
        found: signatures of the clips.
        share: least share of similar hashes among the overlapping entries.
        entries: least number of overlapping entries; at least half of the shorter clip must overlap, too.

    Returns:
        Structured array with fields a, b (indices of clips, a < b), offset (entries that b starts after a) and share;
        one row per pair, sorted. The time is linear in the number of entries, as buckets are bounded.
    """
    return _pairs(found, _candidates(found.hashes, found.start), share, entries)


def _candidates(hashes: Hashes, start: Int) -> Int:
    """Rows (a, b, offset), sorted, of clips that have a similar picture."""
    # narrow types, and nothing kept that is not needed: there are twenty entries a clip, of a million clips
    owner = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))
    found = [np.zeros((0, 3), np.int64)]
    for shift, width in _BANDS:
        ordered = _ordered(hashes, np.uint64(shift), np.uint64((1 << width) - 1))
        ordered.sort()
        found.append(np.unique(_similar(hashes, owner, start, ordered, _CROWD), axis=0))
        del ordered
    candidates: Int = np.unique(np.concatenate(found), axis=0)
    return candidates


def _pairs(found: Signatures, candidates: Int, share: float, entries: int = 3) -> NDArray[Any]:
    """The candidates (a, b, offset) that are near-duplicates, as `near_pairs` gives them."""
    kind = np.dtype([("a", np.int64), ("b", np.int64), ("offset", np.int32), ("share", np.float32)])
    lengths = np.diff(found.start)
    rows: dict[tuple[int, int], tuple[float, int]] = {}
    for a, b, offset in candidates.tolist():
        part, over = _compare(found.hashes, found.words, found.start, a, b, offset, FEW_BITS, SAME_POSE / WORD)
        shorter = int(min(lengths[a], lengths[b]))
        if (
            over >= max(min(entries, shorter), (shorter + 1) // 2)
            and part >= share
            and part > rows.get((a, b), (0.0, 0))[0]
        ):
            rows[a, b] = (part, offset)
    return np.array([(a, b, offset, part) for (a, b), (part, offset) in sorted(rows.items())], kind)


@compiled
def _ordered(hashes: Any, shift: Any, mask: Any) -> Any:
    """(entries that are not flat,) uint64: the bits of a bucket above, the place of the entry in the lower 32 bits."""
    count = 0
    for n in range(len(hashes)):
        count += hashes[n] != np.uint64(0)
    out, filled = np.empty(count, np.uint64), 0
    for n in range(len(hashes)):
        if hashes[n] != np.uint64(0):
            out[filled] = (((hashes[n] >> shift) & mask) << np.uint64(32)) | np.uint64(n)
            filled += 1
    return out


@compiled
def _bits(x: Any) -> int:
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _similar(hashes: Any, owner: Any, start: Any, ordered: Any, crowd: int) -> Any:
    """Rows (a, b, offset) of clips with similar hashes in one bucket; `ordered` is what `_ordered` gives, sorted."""
    out, low32 = np.empty((0, 3), np.int64), np.uint64(0xFFFFFFFF)
    for counting in (True, False):
        count, high = 0, 0
        while high < len(ordered):
            low = high
            while high < len(ordered) and ordered[high] >> np.uint64(32) == ordered[low] >> np.uint64(32):
                high += 1
            if high - low < 2 or high - low > crowd:
                continue
            for i in range(low, high):
                for j in range(i + 1, high):
                    one, two = np.int64(ordered[i] & low32), np.int64(ordered[j] & low32)
                    if owner[one] != owner[two] and _bits(hashes[one] ^ hashes[two]) <= 6:
                        if not counting:
                            if owner[one] > owner[two]:
                                one, two = two, one
                            out[count, 0], out[count, 1] = owner[one], owner[two]
                            out[count, 2] = (one - start[owner[one]]) - (two - start[owner[two]])
                        count += 1
        if counting:
            out = np.empty((count, 3), np.int64)
    return out


@compiled
def _compare(hashes: Any, words: Any, start: Any, a: int, b: int, offset: int, few: int, far: float) -> Any:
    """Share of similar entries of clips a and b, where b starts at the entry `offset` of a; and the number of
    overlapping entries.

    Flat pictures do not count. The share is 0 where most poses, of entries with two poses, are farther apart than `far`
    steps of a word.
    """
    first, last = max(start[a], start[a] + offset), min(start[a + 1], start[a] + offset + start[b + 1] - start[b])
    over, like, posed, same = 0, 0, 0, 0
    width = words.shape[1]
    for i in range(first, last):
        j = start[b] + i - start[a] - offset
        if hashes[i] == 0 or hashes[j] == 0:
            continue
        over += 1
        if _bits(hashes[i] ^ hashes[j]) <= few:
            like += 1
        total, joints = 0.0, 0
        for v in range(0, width, 2):
            if words[i, v] != -128 and words[j, v] != -128:
                dx, dy = float(words[i, v]) - float(words[j, v]), float(words[i, v + 1]) - float(words[j, v + 1])
                total += np.sqrt(dx * dx + dy * dy)
                joints += 1
        if joints >= 5:
            posed += 1
            if total / joints <= far:
                same += 1
    if over == 0 or (posed > 0 and same < 0.7 * posed):
        return 0.0, over
    return like / over, over
