"""A worker that does what it is told, good or bad; run by test_isolated.py."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# As workers in an environment of their own find it: by its file name, without the package.
sys.path.insert(0, str(Path(__file__).parents[2] / "dataengine" / "experts" / "isolation" / "workers"))
import serving


def _once(marker: str | None) -> bool:
    """Whether to misbehave: always without a marker file, else only as long as it does not exist."""
    if marker is None:
        return True
    if Path(marker).exists():
        return False
    Path(marker).touch()
    return True


def handle(header: dict[str, Any], arrays: list[np.ndarray], frames: np.ndarray | None) -> serving.Answer:
    what = header.get("do") if _once(header.get("marker")) else None
    if what == "crash":
        sys.stderr.write("about to go\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(7)
    elif what == "hang":
        time.sleep(1000)
    elif what == "hang holding the lock":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "print":
        print("a library says hello")
        os.write(1, b"native code says hello\n" * 1000)
    elif what == "chatter":
        os.write(2, b"warning: nothing\n" * 100_000)
    elif what == "raise":
        raise ValueError("these frames are no good")
    elif what == "allocate":
        np.empty(1 << 60, np.uint8)
    elif what == "write frames":
        assert frames is not None
        with contextlib.suppress(ValueError):
            frames[:] = 0
    elif what == "nothing":
        return {}, []
    elif what == "pid":
        return {"pid": os.getpid()}, []
    sums = [] if frames is None else [int(f.sum()) for f in frames]
    return {"sums": sums, "shape": None if frames is None else list(frames.shape)}, arrays


def make(options: dict[str, Any]) -> tuple[dict[str, Any], serving.Handler]:
    if options.get("refuse"):
        raise ValueError("these weights are no good")
    if options.get("hang at start"):
        time.sleep(1000)
    return {"hello": "world"}, handle


def rubbish(kind: str) -> None:
    """Shake hands, then answer every request with something that is no answer."""
    answers = {
        "text": b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        "huge": serving.PREFIX.pack(serving.MAGIC, 10, 0xFFFFFFF0),
        "damaged": serving.PREFIX.pack(serving.MAGIC, 12, 0) + b"{not JSON at",
        "pickle": serving.PREFIX.pack(serving.MAGIC, 20, 20) + b'{"id":2,"arrays": 1}' + b"\x80\x04\x95" + b"0" * 17,
        "another": serving.pack({"id": 99}),
        "twice": serving.pack({"id": 2}) * 2,
    }
    os.read(0, 1 << 16)
    os.write(1, serving.pack({"id": int(sys.argv[2])}))
    while os.read(0, 1 << 16):
        os.write(1, answers[kind])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        rubbish(sys.argv[1])
    else:
        serving.serve(make)
