"""Leases: one process at a time works on a folder; others are told in one line who does, and since when.

A lease NAME of a folder is two files in its folder `.leases`: `NAME.json` says who holds it, `NAME.lock` is locked by
the holder for as long as its process lives, however it ends. Where the file system cannot lock, or locks on one machine
only, the time stamp of `NAME.json` counts: the holder renews it, and a lease of another machine that was not renewed
for `EXPIRES` seconds is taken over. The holder notices with `Lease.check`. Ages are measured by the clock of the file
system, so clocks of machines may differ.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from dataengine.core.errors import LeaseError
from dataengine.io.storage import fsync_folder, staged

FOLDER = ".leases"
"""Folder of the leases, inside the folder that they are for."""
RENEWED = 10.0
"""Seconds between two signs of life of a holder."""
EXPIRES = 120.0
"""Seconds without a sign of life after which a lease of another machine is taken over."""
_POLL = 0.05
"""Seconds between two tries to get a lease that somebody else holds."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system answers that cannot lock files."""

_HELD: ContextVar[Mapping[str, Lease]] = ContextVar("leases of this thread of control")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        boot: id of the machine since it was started; processes of one boot share its file locks.
        started: when the process started, in ticks since then; tells processes of one pid apart.
        since: UTC, to the second.
        token: of this lease alone.
    """

    host: str
    boot: str
    pid: int
    started: int
    purpose: str
    since: str
    token: str

    @staticmethod
    def myself(purpose: str) -> Holder:
        """This process."""
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        pid = os.getpid()
        return Holder(
            socket.gethostname(), _boot(), pid, process_started(pid) or 0, purpose, since, secrets.token_hex(8)
        )

    def lives_here(self) -> bool:
        """Whether its process runs on this machine."""
        return self.boot == _boot() and process_started(self.pid) == self.started


@dataclass
class Lease:
    """A lease that is held.

    Attributes:
        path: the file that says so.
    """

    path: Path
    holder: Holder
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    def check(self) -> None:
        """Raise if somebody took the lease over, because this process gave no sign of life for too long.

        Raises:
            LeaseError: naming who.
        """
        now = _read(self.path)
        if now is None or now.token != self.holder.token:
            who = "nobody" if now is None else f"{now.purpose} by process {now.pid} on {now.host}"
            raise LeaseError(
                f"{self.path.parent.parent}: this {self.holder.purpose} was taken for dead after {EXPIRES:.0f} s "
                f"without a sign of life, and {who} holds the folder now; run the command again"
            )

    def renew(self) -> None:
        """Give signs of life until the lease is over."""
        while not self._over.wait(RENEWED):
            with contextlib.suppress(OSError):
                now = _read(self.path)
                if now is not None and now.token == self.holder.token:
                    os.utime(self.path)

    def end(self) -> None:
        """Give it back."""
        self._over.set()
        with contextlib.suppress(OSError):
            now = _read(self.path)
            if now is not None and now.token == self.holder.token:
                self.path.unlink()


@contextlib.contextmanager
def lease(folder: Path, name: str, purpose: str, wait: float = 0.0) -> Iterator[Lease]:
    """Hold the lease `name` of a folder. Who holds it already, in the same thread of control, goes on holding it.

    Args:
        purpose: what for, as others are told: 'build'.
        wait: seconds to wait for somebody else before giving up.

    Raises:
        LeaseError: somebody else holds it, or the folder cannot be written to.
    """
    place = folder.absolute() / FOLDER
    path, held = place / f"{name}.json", _HELD.get({})
    if (mine := held.get(str(path))) is not None:
        yield mine
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = (place / f"{name}.lock").open("a")
    except OSError as error:
        raise LeaseError(f"{folder} cannot be written to: {error.strerror}; give a folder to write into") from error
    with file:
        try:
            taken = _take(file, path, purpose, time.monotonic() + wait)
        except OSError as error:
            raise LeaseError(f"{path} cannot be written: {error.strerror}; mend that, then run again") from error
        before = _HELD.set({**held, str(path): taken})
        threading.Thread(target=taken.renew, name=f"lease {name}", daemon=True).start()
        try:
            yield taken
        finally:
            _HELD.reset(before)
            taken.end()


def _take(file: IO[str], path: Path, purpose: str, until: float) -> Lease:
    """Take the lease as soon as nobody else has it, but not later than `until` (monotonic seconds)."""
    while True:
        locks = _lock(file)
        mine = Holder.myself(purpose)
        if locks is not False and _claim(path, mine, locks is True):
            return Lease(path, mine)
        if time.monotonic() >= until:
            raise LeaseError(_refusal(path, _age(path)))
        if locks:
            fcntl.flock(file, fcntl.LOCK_UN)
        time.sleep(_POLL)


def _lock(file: IO[str]) -> bool | None:
    """Lock the file: True if it is locked now, False if somebody else has it, None where files cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _claim(path: Path, mine: Holder, locked: bool) -> bool:
    """Write oneself down as the holder, where there is none, or none that lives."""
    for _ in range(2):
        with contextlib.suppress(FileExistsError), staged(path, replace=False) as partial:
            partial.write_text(json.dumps(asdict(mine), indent=1) + "\n", encoding="utf-8")
            return True
        known = _read(path)
        if known is not None and _lives(path, known, locked):
            return False
        _remove(path, known)
    return False


def _lives(path: Path, known: Holder, locked: bool) -> bool:
    """Whether a holder may be at work. One of this machine is not, if its lock could be had (`locked`)."""
    if known.boot == _boot():
        return not locked and known.lives_here()
    return _age(path) < EXPIRES


def _remove(path: Path, known: Holder | None) -> None:
    """Remove the file of a dead holder, unless another process was quicker and wrote its own."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.dead")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        now = _read(aside)
        if now is not None and (known is None or now.token != known.token):
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(aside)
        aside.unlink()
        fsync_folder(path.parent)


def _age(path: Path) -> float:
    """Seconds since a holder gave a sign of life, by the clock of the file system."""
    now = path.with_suffix(".lock")
    os.utime(now)
    try:
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path) -> Holder | None:
    """Who holds a lease, or None where nobody does or a writer was killed."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _refusal(path: Path, age: float) -> str:
    folder, known = path.parent.parent, _read(path)
    if known is None:
        return f"{folder} is in use by another process that is just starting or ending; run the command again"
    text = f"{folder} is in use: {known.purpose} by process {known.pid} on {known.host} since {known.since}"
    if known.boot == _boot():
        return f"{text}; wait for it or stop it, then run the command again"
    return (
        f"{text}, last sign of life {max(age, 0):.0f} s ago; wait for it or stop it, then run the command again (a "
        f"lease without a sign of life for {EXPIRES:.0f} s is taken over)"
    )


def _boot() -> str:
    """An id of this machine since it was started; its name where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def process_started(pid: int) -> int | None:
    """When a process of this machine started, in ticks; 0 where the system does not tell, None without a process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0
