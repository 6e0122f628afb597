"""Worker processes of experts: start, ask with a deadline, restart, end.

The host half is here, the worker half in `dataengine.experts.isolation.workers.serving`. Frames lie in anonymous shared
memory (a file descriptor without a name, so that no crash of either side can leave anything behind);
requests and answers travel over pipes. Every request has a deadline; a crash, a hang or rubbish costs
one restart and one more try, then an `ExpertError`.
"""

from __future__ import annotations

import logging
import mmap
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dataengine.core.errors import ExpertError
from dataengine.core.types import Float, Frames
from dataengine.experts.isolation.workers import serving
from dataengine.experts.isolation.workers.serving import Arrays, Header

_T = TypeVar("_T")
LOG = logging.getLogger(__name__)
TAIL = 4096
"""Bytes kept of what a worker last wrote to its standard error."""
SETUP_SECONDS = 900.0
"""Limit for making a worker's environment, which may download wheels once."""


class _BrokenWorker(Exception):
    """The worker gave no answer; `kind` is a reason of `dataengine.core.reasons.REASONS`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class IsolatedProcess:
    """A worker process that answers requests about frames.

    Not for several threads at once. It starts with the first request, and ends with `close`, with
    this object, or when the host dies in whatever way.

    Args:
        name: what messages call it.
        command: the arguments to start it with, or a function that returns them (and may take its time).
        options: handed to the worker at the start, as JSON.
        deadline: seconds a request may take.
        start_deadline: seconds from the start of the process to its being ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | Callable[[], Sequence[str]],
        options: Header | None = None,
        deadline: float = 60.0,
        start_deadline: float = 120.0,
    ) -> None:
        self.name = name
        self.starts = 0
        self.info: Header = {}
        self._command = command
        self._options = options or {}
        self._deadline = deadline
        self._start_deadline = start_deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._shared = -1
        self._memory: mmap.mmap | bytes = b""
        self._tail = b""
        self._count = 0

    @property
    def last_words(self) -> str:
        """The end of what the worker wrote to its standard error."""
        return self._tail.decode(errors="replace").strip()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the worker and wait until it is ready. Does nothing when it runs.

        Raises:
            ExpertError: it cannot be started, twice, or refuses its options.
        """
        self._try(lambda: None)

    def ask(self, header: Header, arrays: Sequence[Float] = (), frames: Frames | None = None) -> tuple[Header, Arrays]:
        """Send a request and wait for its answer.

        Args:
            header: JSON values by name.
            arrays: sent with the header.
            frames: (T, H, W, 3) uint8, handed over in shared memory.

        Returns:
            Header and arrays of the answer.

        Raises:
            ExpertError: `expert_crashed` or `expert_timeout` after the second try, `out_of_memory` when
                the worker said so, `expert_failed` when it refused the request.
        """
        return self._try(lambda: self._request(header, arrays, frames))

    def close(self) -> None:
        """End the worker. A later request starts it again."""
        self._end()
        self._process, self._memory = None, b""

    def _try(self, act: Callable[[], _T]) -> _T:
        for attempt in (1, 2):
            try:
                self._ensure()
                return act()
            except _BrokenWorker as broken:
                self.close()
                LOG.warning("expert %r, try %d: %s\n%s", self.name, attempt, broken, self.last_words)
                final = ExpertError(broken.kind, f"expert {self.name!r}, started and asked twice: {broken}")
                final.add_note(f"its last words: {self.last_words}")
        raise final

    def _ensure(self) -> None:
        if self._process is not None:
            return
        command = self._command() if callable(self._command) else self._command
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._shared, self._tail = _anonymous_file(), b""
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                pass_fds=(self._shared,),
                start_new_session=True,  # one group to kill, and Ctrl-C stays ours
            )
        except OSError as error:
            os.close(self._shared)
            raise ExpertError(
                "expert_failed", f"expert {self.name!r} cannot be started: {error}", retryable=False
            ) from error
        self._process = process
        self._end = weakref.finalize(self, _end, process, self._shared)
        self.starts += 1
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        try:
            self.info, _ = self._converse({"frames": self._shared, "options": self._options}, (), self._start_deadline)
        except ExpertError:
            self.close()
            raise

    def _request(self, header: Header, arrays: Sequence[Float], frames: Frames | None) -> tuple[Header, Arrays]:
        if frames is not None:
            self._share(frames)
            header = {**header, "shape": list(frames.shape)}
        return self._converse(header, arrays, self._deadline)

    def _share(self, frames: Frames) -> None:
        if not frames.size:
            return
        if frames.nbytes > len(self._memory):
            os.ftruncate(self._shared, frames.nbytes)
            self._memory = mmap.mmap(self._shared, frames.nbytes)
        np.copyto(np.ndarray(frames.shape, np.uint8, self._memory), frames)

    def _converse(self, header: Header, arrays: Sequence[Float], seconds: float) -> tuple[Header, Arrays]:
        self._count += 1
        answer, parts = self._exchange(serving.pack({**header, "id": self._count}, arrays), seconds)
        if answer.get("id") != self._count:
            raise _BrokenWorker("expert_crashed", "its process answered another question")
        if "error" in answer:
            memory = bool(answer.get("memory"))
            raise ExpertError(
                "out_of_memory" if memory else "expert_failed",
                f"expert {self.name!r}: {answer['error']}",
                retryable=memory,
            )
        return answer, parts

    def _exchange(self, message: bytes, seconds: float) -> tuple[Header, Arrays]:
        """Write `message` and read one answer, never waiting past the deadline; keep the end of stderr."""
        process = self._process
        assert process is not None and process.stdin and process.stdout and process.stderr
        unsent, answer, wanted = memoryview(message), bytearray(), serving.PREFIX.size
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while len(answer) < wanted:
                left = end - time.monotonic()
                if left <= 0:
                    raise _BrokenWorker("expert_timeout", f"no answer within {seconds:g} s")
                for key, _ in selector.select(left):
                    if key.fileobj is process.stdin:
                        unsent = _send(process.stdin.fileno(), unsent)
                        if not unsent:
                            selector.unregister(process.stdin)
                        continue
                    part = os.read(key.fd, 1 << 16)
                    if key.fileobj is process.stderr:
                        self._tail = (self._tail + part)[-TAIL:]
                        if not part:
                            selector.unregister(process.stderr)
                    elif not part:
                        raise _BrokenWorker("expert_crashed", f"its process ended {_how_ended(process)}")
                    else:
                        answer += part
                if wanted == serving.PREFIX.size and len(answer) >= wanted:
                    wanted = _checked(serving.length, bytes(answer[:wanted]))
        if len(answer) > wanted:
            raise _BrokenWorker("expert_crashed", "its process said more than one answer")
        return _checked(serving.unpack, bytes(answer))


def _checked(parse: Callable[[bytes], _T], data: bytes) -> _T:
    try:
        return parse(data)
    except serving.ProtocolError as error:
        raise _BrokenWorker("expert_crashed", f"its process sent {error}") from error


def _send(descriptor: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(descriptor, unsent) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[len(unsent) :]  # the worker is gone; the end of its answers will say how


def _how_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return "its answers but lives on"
    return f"with exit status {code}" if code >= 0 else f"with {signal.Signals(-code).name}"


def _end(process: subprocess.Popen[bytes], shared: int) -> None:
    """Kill a worker and whatever it started, and give back its pipes and memory."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    os.close(shared)


def _anonymous_file() -> int:
    """A descriptor of memory that has no name anywhere and ends with its last holder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dataengine-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def script_command(script: Path) -> list[str]:
    """The command that runs a worker script in the environment its PEP 723 header describes.

    The environment is made by uv in uv's cache; the first time this downloads the wheels the header
    names, later no index is asked. The worker is then started without uv in between, so that killing
    it kills it.

    Raises:
        ExpertError: uv is missing or cannot make the environment.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise ExpertError(
            "expert_failed",
            f"{script.stem} runs in an environment of its own, which the program uv makes: install it with  pip "
            "install uv",
            retryable=False,
        )
    sync = [uv, "sync", "--quiet", "--script", str(script)]
    made = _run([*sync, "--offline"])
    if made.returncode:
        made = _run(sync)
    found = _run([uv, "python", "find", "--script", str(script)])
    if made.returncode or found.returncode:
        reason = " ".join((made.stderr or found.stderr).split())[-400:]
        raise ExpertError(
            "expert_failed", f"uv could not make the environment of {script.stem}: {reason}", retryable=False
        )
    # -E and -s: no packages of the host's environment may leak into the worker's.
    return [found.stdout.strip(), "-E", "-s", str(script)]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # Without this uv would look on the network for an interpreter it lacks.
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SETUP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExpertError("expert_failed", f"{command[0]} does not run: {error}", retryable=False) from error
