"""A real HTTP server on loopback that serves files, and misbehaves on request."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler", bytes], None]
"""Answers one request in place of the server; the bytes are those of the whole file."""


class Server(ThreadingHTTPServer):
    """Serves `files`; each entry of `faults[path]` answers one request for the path, `always[path]` every other."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.ranges = True
        self.log: list[tuple[float, str, str, str | None]] = []
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def asked(self, path: str) -> int:
        return sum(entry[2] == path for entry in self.log)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        server = self.server
        with server.lock:
            server.log.append((time.time(), self.command, path, self.headers.get("Range")))
            queue = server.faults[path]
            fault = queue.pop(0) if queue else server.always.get(path)
        body = server.files.get(path)
        if fault is not None:
            fault(self, body or b"")
        elif body is None:
            status(404)(self, b"")
        else:
            serve(self, body)

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with self.server.lock:
                self.server.sent[unquote(urlsplit(self.path).path).lstrip("/")] += len(body)
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def serve(handler: Handler, body: bytes) -> None:
    """As a good server does: ETag, Range, If-Range."""
    headers = {
        "ETag": etag(body),
        "Accept-Ranges": "bytes",
        "Content-Type": "video/mp4" if handler.path.endswith(".mp4") else "application/octet-stream",
    }
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
    if asked is None or not handler.server.ranges or handler.headers.get("If-Range") not in (None, etag(body)):
        handler.send(200, body, headers)
        return
    start, end = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    if start >= len(body):
        handler.send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
    else:
        handler.send(206, body[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(body)}"})


def status(code: int, **headers: str) -> Fault:
    return lambda handler, body: handler.send(
        code, b"no", {name.replace("_", "-"): value for name, value in headers.items()}
    )


def redirect(url: str, code: int = 302) -> Fault:
    return lambda handler, body: handler.send(code, b"", {"Location": url})


def cut(after: int) -> Fault:
    """Promise everything (of the range asked for), close after some bytes."""

    def fault(handler: Handler, body: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        headers = {"ETag": etag(body)} | (
            {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if asked else {}
        )
        handler.send(206 if asked else 200, body[start : start + after], headers, length=len(body) - start)
        handler.close_connection = True

    return fault


def stall(after: int) -> Fault:
    """Send some bytes, then nothing."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.send(200, body[:after], {"ETag": etag(body)}, length=len(body))
        handler.server.closing.wait(30)
        handler.close_connection = True

    return fault


def trickle(handler: Handler, body: bytes) -> None:
    """A byte now and then, for ever: no read ever times out."""
    handler.send(200, b"", length=len(body))
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.closing.wait(0.05):
            break
    handler.close_connection = True


def corrupt(handler: Handler, body: bytes) -> None:
    """The right length, wrong bytes, and no word of it."""
    middle = len(body) // 2
    serve(handler, body[:middle] + bytes(255 - byte for byte in body[middle : middle + 64]) + body[middle + 64 :])


def claim(extra: int) -> Fault:
    """Lie about the length: so many bytes more (or less) than there are."""

    def fault(handler: Handler, body: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if asked and int(asked[1]) >= len(body):
            handler.send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        else:
            handler.send(200, body[: len(body) + min(extra, 0)], {"ETag": etag(body)}, length=len(body) + extra)
        handler.close_connection = True

    return fault


def reset(handler: Handler, body: bytes) -> None:
    """Close without a word."""
    handler.close_connection = True


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
