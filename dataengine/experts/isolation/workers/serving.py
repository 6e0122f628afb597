"""The worker's half of an isolated expert: messages, and the loop that answers them.

A message is 4 bytes of magic, the lengths of a JSON header and of a body (little-endian uint32),
the header, and the body: `header["arrays"]` npy files in a row. Nothing is ever unpickled. Frames do
not travel in messages: they lie in memory shared with the host, at the start of the file descriptor
that the first message names.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import select
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAGIC = b"DEX1"
PREFIX = struct.Struct("<4sII")
MAX_MESSAGE = 64 << 20
"""Bytes; a longer message is rubbish."""

Header: TypeAlias = dict[str, Any]
Arrays: TypeAlias = list[NDArray[Any]]
Answer: TypeAlias = tuple[Header, Sequence[NDArray[Any]]]
Handler: TypeAlias = Callable[[Header, Arrays, "NDArray[np.uint8] | None"], Answer]


class ProtocolError(Exception):
    """Bytes that are not a message."""


def pack(header: Header, arrays: Sequence[NDArray[Any]] = ()) -> bytes:
    """One message of a header and arrays."""
    body = io.BytesIO()
    for array in arrays:
        np.save(body, array, allow_pickle=False)
    text = json.dumps({**header, "arrays": len(arrays)}, allow_nan=False).encode()
    return PREFIX.pack(MAGIC, len(text), body.tell()) + text + body.getvalue()


def length(start: bytes) -> int:
    """Bytes of the whole message that begins with the `PREFIX.size` bytes of `start`.

    Raises:
        ProtocolError: no message begins so.
    """
    magic, header, body = PREFIX.unpack(start)
    if magic != MAGIC or header + body > MAX_MESSAGE:
        raise ProtocolError(f"bytes that are no message: {start!r}")
    return int(PREFIX.size + header + body)


def unpack(message: bytes) -> tuple[Header, Arrays]:
    """Header and arrays of one whole message.

    Raises:
        ProtocolError: the message is damaged.
    """
    _, header, _ = PREFIX.unpack_from(message)
    try:
        parsed = json.loads(message[PREFIX.size : PREFIX.size + header])
        body = io.BytesIO(message[PREFIX.size + header :])
        return parsed, [np.lib.format.read_array(body, allow_pickle=False) for _ in range(parsed["arrays"])]
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ProtocolError(f"a damaged message: {error}") from error


def serve(make: Callable[[Header], tuple[Header, Handler]]) -> None:
    """Answer the host's requests until it closes its end.

    Args:
        make: gets the options of the first message and returns facts for the host and the function
            that answers requests: (header, arrays, frames) to (header, arrays). `frames` is a
            read-only (T, H, W, 3) uint8 view of shared memory, or None. What it raises is reported
            to the host, and the worker goes on.
    """
    # Native code prints: the protocol keeps private copies of the pipes, and descriptor 1 becomes stderr.
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    _guard(requests)
    handler: Handler | None = None
    shared: mmap.mmap | bytes = b""
    descriptor = -1
    while True:
        message = _read(requests)
        if message is None:
            return
        header, arrays = unpack(message)
        reply: Header
        payload: Sequence[NDArray[Any]] = ()
        try:
            if handler is None:
                descriptor = header["frames"]
                reply, handler = make(header["options"])
            else:
                frames = None
                if "shape" in header:
                    shape, size = header["shape"], math.prod(header["shape"])
                    if len(shared) < size:
                        shared = mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=mmap.ACCESS_READ)
                    frames = np.frombuffer(shared, np.uint8, size).reshape(shape)
                reply, payload = handler(header, arrays, frames)
        except Exception as error:  # whatever goes wrong inside is the answer, not the end
            reply, payload = {"error": f"{type(error).__name__}: {error}", "memory": _is_memory(error)}, ()
        _write(answers, pack({**reply, "id": header["id"]}, payload))


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out, told by an exception or by the host's typed one."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or getattr(error, "kind", "") == "out_of_memory"
    )


def _guard(requests: int) -> None:
    """Fork a guardian that kills this process when the host's end of the request pipe is gone.

    The worker may hang in native code and never read its pipe again, and the kernel's parent-death
    signal is tied to the host's *thread*, which may end long before the host does.
    """
    worker = os.getpid()
    if os.fork():
        return
    os.closerange(0, requests)  # above all the answer pipe, or the host would wait for its end for ever
    os.closerange(requests + 1, 1024)
    poll = select.poll()
    poll.register(requests, 0)
    poll.poll()
    if os.getppid() == worker:
        os.kill(worker, signal.SIGKILL)
    os._exit(0)


def _read(descriptor: int) -> bytes | None:
    """The next whole message, or None at the end of the pipe."""
    message = bytearray()
    wanted = PREFIX.size
    while len(message) < wanted:
        part = os.read(descriptor, wanted - len(message))
        if not part:
            return None
        message += part
        if len(message) == PREFIX.size:
            wanted = length(bytes(message))
    return bytes(message)


def _write(descriptor: int, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(descriptor, view) :]
