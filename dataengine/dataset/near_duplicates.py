"""Near-duplicate clips: the same pictures at other sizes, codecs and cuts, found without comparing all pairs.

The signature of a clip is one 64-bit hash of the picture and one normalised pose per half second. Two clips are
near-duplicates when, at some offset, most pictures have hashes that differ in few bits, and the poses agree. Pictures
alone cannot tell two takes of a fixed camera apart; poses can.
"""

from __future__ import annotations

from collections.abc import Iterable
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

    @staticmethod
    def of_tables(tables: Iterable[Any]) -> Signatures:
        """Join the columns `hashes` (lists of uint64) and `words` (binary) of Arrow tables, read one by one."""
        hashes, words, lengths = [np.zeros(0, np.uint64)], list[NDArray[np.int8]](), [np.zeros(1, np.int64)]
        for table in tables:
            for batch in table.to_batches():
                lists = batch.column(batch.schema.get_field_index("hashes"))
                lengths.append(np.diff(lists.offsets.to_numpy()).astype(np.int64))
                hashes.append(lists.flatten().to_numpy(zero_copy_only=False).astype(np.uint64))
                words.append(
                    np.frombuffer(b"".join(batch.column(batch.schema.get_field_index("words")).to_pylist()), np.int8)
                )
        flat = np.concatenate(hashes)
        poses, filled = np.empty(sum(map(len, words)), np.int8), 0
        words.reverse()
        while words:  # each part is freed once it is copied
            part = words.pop()
            poses[filled : filled + len(part)] = part
            filled += len(part)
        return Signatures(
            flat, poses.reshape(len(flat), -1) if len(flat) else poses.reshape(0, 1), np.cumsum(np.concatenate(lengths))
        )


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
    kind = np.dtype([("a", np.int64), ("b", np.int64), ("offset", np.int32), ("share", np.float32)])
    lengths = np.diff(found.start)
    # narrow types, and nothing kept that is not needed: there are twenty entries a clip, of a million clips
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    position = (np.arange(len(owner)) - found.start[owner]).astype(np.int32)
    textured = np.flatnonzero(found.hashes != 0).astype(np.int32)
    candidates = [np.zeros((0, 3), np.int64)]
    for shift, width in _BANDS:
        places, edges = _buckets(found.hashes, textured, shift, width)
        candidates.append(np.unique(_similar(found.hashes, owner, position, places, edges, _CROWD), axis=0))
    rows: dict[tuple[int, int], tuple[float, int]] = {}
    for a, b, offset in np.unique(np.concatenate(candidates), axis=0).tolist():
        part, over = _compare(found.hashes, found.words, found.start, a, b, offset, FEW_BITS, SAME_POSE / WORD)
        shorter = int(min(lengths[a], lengths[b]))
        if (
            over >= max(min(entries, shorter), (shorter + 1) // 2)
            and part >= share
            and part > rows.get((a, b), (0.0, 0))[0]
        ):
            rows[a, b] = (part, offset)
    return np.array([(a, b, offset, part) for (a, b), (part, offset) in sorted(rows.items())], kind)


def _buckets(
    hashes: NDArray[np.uint64], chosen: NDArray[np.int32], shift: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Chosen places of hashes ordered by `width` bits of them, and where runs of equal bits begin and end."""
    keys = hashes[chosen]
    keys >>= np.uint64(shift)
    keys &= np.uint64((1 << width) - 1)
    narrow = keys.astype(np.uint32)
    del keys
    rank = np.argsort(narrow, kind="stable")
    ordered = narrow[rank]
    del narrow
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    ends = [0, *([len(ordered)] if len(ordered) else [])]
    edges = np.concatenate([ends[:1], changes, ends[1:]]).astype(np.int64)
    return chosen[rank], edges


@compiled
def _bits(x: Any) -> int:
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _similar(hashes: Any, owner: Any, position: Any, order: Any, edges: Any, crowd: int) -> Any:
    """Rows (a, b, offset) of clips with similar hashes in one bucket; buckets are runs of `order` between `edges`."""
    out = np.empty((0, 3), np.int64)
    for counting in (True, False):
        count = 0
        for n in range(len(edges) - 1):
            low, high = edges[n], edges[n + 1]
            if high - low < 2 or high - low > crowd:
                continue
            for i in range(low, high):
                for j in range(i + 1, high):
                    one, two = order[i], order[j]
                    if owner[one] != owner[two] and _bits(hashes[one] ^ hashes[two]) <= 6:
                        if not counting:
                            if owner[one] > owner[two]:
                                one, two = two, one
                            out[count, 0], out[count, 1] = owner[one], owner[two]
                            out[count, 2] = position[one] - position[two]
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
