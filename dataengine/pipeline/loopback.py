"""Connections of the local cluster: TCP on loopback, where both ends first prove that they know a secret.

Dask runs whatever an end of a connection sends it, and every user of a host can connect to its loopback. The secret is
made anew by each driver and travels in the environment of its own processes, which other users cannot read. It never
goes over a connection: each end answers a random challenge with an HMAC-SHA-256 (RFC 2104) under the secret.
Nothing is unpickled before that. What passes over loopback afterwards only root could read, so it is not encrypted.

Importing this module makes the scheme `loopback://` known to Dask; workers do it by Dask's setting of preloads.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from typing import Any

from distributed.comm.core import CommClosedError
from distributed.comm.registry import backends
from distributed.comm.tcp import TCPBackend, TCPConnector, TCPListener
from tornado.iostream import IOStream, StreamClosedError

SECRET = "DATAENGINE_LOOPBACK_SECRET"
"""Variable of the environment that holds the secret, in hexadecimal digits."""

PREFIX = "loopback://"

NONCE = 32
"""Bytes of a challenge and of an answer."""

PATIENCE = 20.0
"""Seconds that the other end may take for its answer."""


def own_secret() -> dict[str, str]:
    """The secret of this process, made at the first call, as the environment that its workers need."""
    return {SECRET: os.environ.setdefault(SECRET, secrets.token_hex(32))}


def proof(side: bytes, asked: bytes, given: bytes) -> bytes:
    """What the end called `side` sends to prove that it knows the secret, after the challenges of both ends."""
    return hmac.digest(bytes.fromhex(os.environ.get(SECRET, "")), side + asked + given, hashlib.sha256)


async def _accepted(stream: IOStream) -> bool:
    """As the listening end: whether the other end knows the secret."""
    asked = secrets.token_bytes(NONCE)
    await stream.write(asked)
    answer = await stream.read_bytes(2 * NONCE)
    given = answer[:NONCE]
    if not os.environ.get(SECRET) or not hmac.compare_digest(answer[NONCE:], proof(b"connects", asked, given)):
        return False
    await stream.write(proof(b"listens", asked, given))
    return True


async def _introduced(stream: IOStream) -> bool:
    """As the connecting end: prove that we know the secret; whether the other end does."""
    given = secrets.token_bytes(NONCE)
    asked = await stream.read_bytes(NONCE)
    await stream.write(given + proof(b"connects", asked, given))
    return hmac.compare_digest(await stream.read_bytes(NONCE), proof(b"listens", asked, given))


class LoopbackListener(TCPListener):  # type: ignore[misc]
    prefix = PREFIX

    async def _prepare_stream(self, stream: IOStream, address: str) -> IOStream | None:
        try:
            if await asyncio.wait_for(_accepted(stream), PATIENCE):
                return stream
        except (StreamClosedError, TimeoutError):
            pass
        stream.close()
        return None


class LoopbackConnector(TCPConnector):  # type: ignore[misc]
    prefix = PREFIX

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Any:
        """A connection whose other end knows the secret.

        Raises:
            CommClosedError: it does not, or answers nothing.
        """
        comm = await super().connect(address, deserialize, **connection_args)
        try:
            if await asyncio.wait_for(_introduced(comm.stream), PATIENCE):
                return comm
        except (StreamClosedError, TimeoutError):
            pass
        comm.abort()
        raise CommClosedError(f"what listens at {address} does not know the secret of this cluster")


class LoopbackBackend(TCPBackend):  # type: ignore[misc]
    _connector_class = LoopbackConnector
    _listener_class = LoopbackListener


backends["loopback"] = LoopbackBackend()
