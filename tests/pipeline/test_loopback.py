"""The local cluster takes no orders from other users of the host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from dataengine.pipeline import loopback
from dataengine.pipeline.engine import Engine

OUTSIDER = """
import os, sys
from pathlib import Path
from distributed import Client
from dataengine.pipeline import loopback

for attempt in sys.argv[2:]:
    name, address, secret = attempt.split("=")
    os.environ[loopback.SECRET] = secret
    mark = Path(sys.argv[1]) / name
    try:
        with Client(address, timeout=2) as client:
            client.run_on_scheduler(lambda: mark.touch())
    except Exception as error:
        print(name, repr(error))
"""


def test_a_process_without_the_secret_cannot_have_anything_run(tmp_path: Path) -> None:
    with Engine(workers=1).open() as dispatcher:
        assert dispatcher.cluster is not None
        address = dispatcher.cluster.client.scheduler.address
        assert address.startswith("loopback://127.0.0.1:")
        (secret,) = loopback.own_secret().values()
        attempts = [
            f"plain={address.replace('loopback', 'tcp')}={secret}",
            f"wrong={address}={'00' * 32}",
            f"none={address}=",
            f"right={address}={secret}",
        ]
        command = [sys.executable, "-c", OUTSIDER, str(tmp_path), *attempts]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        assert [path.name for path in tmp_path.iterdir()] == ["right"]
        for worker in dispatcher.cluster.workers():
            assert worker.startswith("loopback://127.0.0.1:")
            host, port = worker.removeprefix("loopback://").split(":")
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                assert len(connection.recv(1024)) == loopback.NONCE, "a challenge and nothing else"
                connection.sendall(b"x" * 2 * loopback.NONCE)
                assert connection.recv(1024) == b""


def test_without_a_dashboard_the_servers_tell_nothing() -> None:
    with Engine(workers=1).open() as dispatcher:
        assert dispatcher.cluster is not None
        port = dispatcher.cluster.client.scheduler_info()["services"]["dashboard"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            assert connection.recv(1024).split()[1] == b"404"


def test_one_that_listens_in_the_place_of_a_worker_learns_nothing_of_the_secret() -> None:
    """Answers are bound to both challenges and to the side that gives them."""
    secret = os.environ.get(loopback.SECRET) or loopback.own_secret()[loopback.SECRET]
    given, asked = b"g" * loopback.NONCE, b"a" * loopback.NONCE
    sent = {loopback.proof(side, one, two) for side in (b"connects", b"listens") for one, two in ((asked, given),)}
    assert len(sent) == 2 and bytes.fromhex(secret) not in sent
    assert loopback.proof(b"connects", given, asked) not in sent
