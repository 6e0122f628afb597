"""Byte ranges of many files: local ones mapped into memory, remote ones through a bounded folder on disk.

A remote file is kept as a sparse file of its own length in which those blocks are filled that somebody asked for,
beside a list of their CRC-32 (0: not there). A block is believed only when its CRC holds, so processes that fill, read
and clear one folder at once, and machines that stop in between, cost at most another request.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3 as Hasher

from dataengine.core.errors import DatasetError, TrainingError
from dataengine.io import remote, storage
from training.data.types import remark

BLOCK = 1 << 16
"""Bytes of a block, the least that is requested or cached: about one clip."""
GAP, SPAN = 1 << 18, 1 << 24
"""Missing blocks at most GAP bytes apart share one request of at most SPAN bytes."""
REQUESTS = 8
"""Requests at once from one process."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds before another try of a request that broke, where it is not over HTTP: that client tries again itself."""


def cache_folder() -> Path:
    """Where pieces of remote datasets lie: `$DATAENGINE_CACHE`, else `~/.cache/dataengine/feed`."""
    configured = os.environ.get("DATAENGINE_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "dataengine" / "feed"


def is_url(path: str) -> bool:
    """Whether a path is read over a network, or through fsspec."""
    return "://" in path


class Ranges:
    """Reads byte ranges of a fixed list of files. Can be pickled; maps and connections are each process's own.

    Args:
        files: paths or urls.
        sizes: bytes of each, as the index or listing says.
        tag: changes when the content of the files does; kept pieces of another tag are not used.
        cache: folder for pieces of remote files, `cache_folder()` by default.
        cache_gb: what the folder may hold in total, in 10^9 bytes; the pieces used longest ago go first.

    Raises:
        TrainingError: `cache_gb` is not positive.
        DatasetError: a local file is absent or has another size.
    """

    def __init__(
        self,
        files: Sequence[str],
        sizes: Sequence[int],
        tag: str = "",
        cache: str | os.PathLike[str] | None = None,
        cache_gb: float = 20.0,
    ) -> None:
        if not cache_gb > 0:
            raise TrainingError(
                f"cache_gb={cache_gb!r}: the cache of remote files needs a positive number of gigabytes"
            )
        self.files, self.sizes = list(files), list(sizes)
        self.remote = any(map(is_url, self.files))
        for file, size in zip(() if self.remote else self.files, self.sizes):
            if (actual := size_of(file)) != size:
                raise torn(file, actual, size)
        self._cache = Cache(Path(cache) if cache else cache_folder(), int(cache_gb * 1e9), tag)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = 512 if soft < 0 else max(32, min(512, soft // 4))
        self._maps: dict[int, memoryview] = {}
        self._pool: tuple[int, ThreadPoolExecutor | None] = (0, None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}, "_pool": (0, None)}

    def pieces(self, files: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> list[tuple[memoryview, int]]:
        """For each range of a file (by its number): bytes that contain it, and their offset in the file.

        Raises:
            DatasetError: a file cannot be read, or ends before `stop`.
        """
        for file, stop in zip(files, stops):
            if stop > self.sizes[file]:
                raise DatasetError(f"{self.files[file]}: torn: it ends at byte {self.sizes[file]}, {stop} are wanted")
        if self.remote:
            return self._fetch(list(zip(files, starts, stops)))
        maps = self._maps
        return [(maps[file] if file in maps else self._map(file), 0) for file in files]

    def _map(self, file: int) -> memoryview:
        while len(self._maps) >= self._most:
            del self._maps[next(iter(self._maps))]
        mapped = storage.mapped(self.files[file])
        if len(mapped) != self.sizes[file]:
            raise torn(self.files[file], len(mapped), self.sizes[file])
        self._maps[file] = mapped
        return mapped

    def _fetch(self, requested: list[tuple[int, int, int]]) -> list[tuple[memoryview, int]]:
        blocks: dict[int, set[int]] = defaultdict(set)
        for file, start, stop in requested:
            blocks[file].update(range(start // BLOCK, -(-stop // BLOCK)))
        have = {file: self._cache.load(self.files[file], sorted(numbers)) for file, numbers in blocks.items()}
        runs = [(file, *run) for file, numbers in blocks.items() for run in _runs(sorted(numbers - have[file].keys()))]
        for (file, first, _), data in zip(runs, self._executor().map(self._request, runs)):
            new = {first + k: data[k * BLOCK : (k + 1) * BLOCK] for k in range(-(-len(data) // BLOCK))}
            self._cache.store(self.files[file], new)
            have[file] |= new
        pieces = []
        for file, start, stop in requested:
            numbers = range(start // BLOCK, -(-stop // BLOCK))
            pieces.append((memoryview(b"".join(have[file][number] for number in numbers)), numbers.start * BLOCK))
        return pieces

    def _request(self, run: tuple[int, int, int]) -> bytes:
        """Blocks [first, last) of a file in one request; the file's end cuts the last one short."""
        file, first, last = run
        start, stop = first * BLOCK, min(last * BLOCK, self.sizes[file])
        over_http = self.files[file].startswith(("http://", "https://"))  # whose client tries again by itself
        for pause in () if over_http else PAUSES:
            try:
                return remote.read_range(self.files[file], start, stop - start)
            except DatasetError as error:
                if error.__cause__ is None or isinstance(error, remote.MissingFileError):
                    raise
            time.sleep(pause)
        return remote.read_range(self.files[file], start, stop - start)

    def _executor(self) -> ThreadPoolExecutor:
        owner, pool = self._pool
        if pool is None or owner != os.getpid():
            pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="ranges")
            self._pool = (os.getpid(), pool)
        return pool


def torn(file: str, actual: int, expected: int) -> DatasetError:
    """The error of a file that is not as long as it was written."""
    return DatasetError(
        f"{file}: torn: it has {actual} bytes, {expected} were written; copy it again, or build it again"
    )


def _runs(missing: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted block numbers as ranges [first, last) that are worth a request each."""
    runs: list[tuple[int, int]] = []
    for number in missing:
        if runs and (number - runs[-1][1]) * BLOCK <= GAP and (number + 1 - runs[-1][0]) * BLOCK <= SPAN:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


class Cache:
    """Blocks of remote files in a folder that many processes may share (see the module's text).

    Args:
        folder: created by the first `store`.
        limit: bytes it may hold; a single store beyond it is not kept at all.
        tag: kept blocks of another tag are not used.
    """

    def __init__(self, folder: Path, limit: int, tag: str) -> None:
        self.folder, self.limit, self.tag = folder, limit, tag

    def _paths(self, file: str) -> tuple[Path, Path]:
        name = Hasher(f"{self.tag}\n{file}".encode()).hexdigest()[:32]
        return self.folder / f"{name}.data", self.folder / f"{name}.crc"

    def load(self, file: str, numbers: Sequence[int]) -> dict[int, bytes]:
        """Those of these blocks of a file that are kept whole."""
        data, marks = self._paths(file)
        blocks_read: dict[int, bytes] = {}
        try:
            with data.open("rb") as content, marks.open("rb") as sums:
                for number in numbers:
                    mark = os.pread(sums.fileno(), 4, 4 * number)
                    if any(mark):
                        block = os.pread(content.fileno(), BLOCK, BLOCK * number)
                        if _mark(block) == mark:
                            blocks_read[number] = block
            if blocks_read:
                os.utime(data)
        except OSError:  # nothing is kept, or nothing that may be read
            pass
        return blocks_read

    def store(self, file: str, blocks: dict[int, bytes]) -> None:
        """Keep blocks of a file; of a file's last block its true length. Where that cannot be, a note says so once."""
        added = sum(map(len, blocks.values()))
        if added > self.limit:
            return
        try:
            self._store(file, blocks, added)
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            remark(f"what is read of remote data is not kept in {self.folder} ({why}), and read again each time")

    def _store(self, file: str, blocks: dict[int, bytes], added: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear(self.limit - added)
        data, marks = self._paths(file)
        for path in (data, marks):
            path.touch()
        with contextlib.suppress(FileNotFoundError), data.open("rb+") as content, marks.open("rb+") as sums:
            for number, block in blocks.items():
                os.pwrite(content.fileno(), block, BLOCK * number)
                os.pwrite(sums.fileno(), _mark(block), 4 * number)

    def _clear(self, most: int) -> None:
        """Remove what was used longest ago until at most `most` bytes are left."""
        kept = []
        for path in self.folder.glob("*.data"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                kept.append((status.st_mtime_ns, 512 * status.st_blocks, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= most:
                break
            path.unlink(missing_ok=True)
            path.with_suffix(".crc").unlink(missing_ok=True)
            total -= size


def _mark(block: bytes) -> bytes:
    """A block's CRC-32 in four bytes, never zero."""
    return (zlib.crc32(block) or 1).to_bytes(4, "little")


def size_of(file: str) -> int:
    """Bytes of a local file.

    Raises:
        DatasetError: there is none.
    """
    try:
        return Path(file).stat().st_size
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
