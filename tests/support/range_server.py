"""A folder served over HTTP by byte ranges on the loopback interface; it notes requests and fails on demand."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Server:
    """What the server was asked, and how it is to answer.

    Attributes:
        url: of the folder.
        asked: (path, first byte, last byte) of every range asked for.
        failures: how many requests to break off from now on.
        most: requests that were under way at once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, int, int]] = []
        self.failures = self.most = self.running = 0
        self.pause = 0.0
        self.lock = threading.Lock()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files by range; HEAD gives length and an ETag of time and length."""

    protocol_version = "HTTP/1.1"
    server_facts: Server

    def _file(self) -> Path | None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            return path
        self.send_error(404)
        return None

    def do_HEAD(self) -> None:
        if path := self._file():
            status = path.stat()
            self.send_response(200)
            self.send_header("Content-Length", str(status.st_size))
            self.send_header("ETag", f'"{status.st_mtime_ns}-{status.st_size}"')
            self.end_headers()

    def do_GET(self) -> None:
        facts = self.server_facts
        if not (path := self._file()):
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.send_response(200)
        else:
            start, stop = int(wanted.group(1)), int(wanted.group(2)) + 1 if wanted.group(2) else len(data)
            with facts.lock:
                facts.asked.append((self.path, start, stop))
                facts.running += 1
                facts.most = max(facts.most, facts.running)
                failing = facts.failures > 0
                facts.failures -= failing
            time.sleep(facts.pause)
            with facts.lock:
                facts.running -= 1
            if failing:
                self.close_connection = True
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}")
            data = data[start:stop]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve `folder` while the block runs."""
    facts = Server("")
    kind = type("Serving", (Handler,), {"server_facts": facts})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder))) as server:
        server.daemon_threads = True
        facts.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield facts
        server.shutdown()
