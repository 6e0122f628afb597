"""Several hosts on one machine: network namespaces that a bridge connects, as Linux gives them to root.

Each host has an address, and a network cable that can be pulled. What runs there may have mounts of its own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NUMBERS = itertools.count()
"""The kernel takes a while to forget the names of interfaces, so none is used twice."""


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def why_not() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "unshare", "nsenter", "mount", "hostname") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    name = f"de{os.getpid()}x"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
        run("ip", "link", "add", f"{name}b", "type", "bridge")
        run("ip", "link", "del", f"{name}b")
        run("unshare", "-m", "true")
    except OSError as error:
        return f"the kernel makes no namespaces: {error}"
    return None


@dataclass(frozen=True)
class Host:
    """A network namespace.

    Attributes:
        name: of the namespace. called: what the host calls itself.
        address: its IPv4 address. cable: the end of its cable at the bridge.
    """

    name: str
    called: str
    address: str
    cable: str

    def prefix(self, *hidden: Path) -> list[str]:
        """What to put before a command to run it there, with empty folders mounted over `hidden` for it alone."""
        command = ["ip", "netns", "exec", self.name, "unshare", "-m", "-u", "--"]
        command += ["sh", "-c", 'hostname "$0" && exec "$@"', self.called]
        for folder in hidden:
            command += ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
        return command

    def pull_cable(self) -> None:
        run("ip", "link", "set", self.cable, "down")

    def plug_cable(self) -> None:
        run("ip", "link", "set", self.cable, "up")


def mount_over(pid: int, folder: Path) -> None:
    """Mount an empty folder over `folder`, in the mounts of a process alone."""
    run("nsenter", "-m", "-t", str(pid), "mount", "-t", "tmpfs", "none", str(folder))


@contextmanager
def hosts(names: Sequence[str]) -> Iterator[tuple[str, list[Host]]]:
    """The address of this machine on a bridge, and a host for each name that is connected to it."""
    number = os.getpid() * 10 + next(_NUMBERS) % 10
    tag, net = f"de{number % 10**7}x", f"10.77.{number % 250}"
    bridge, made = f"{tag}b", list[Host]()
    run("ip", "link", "add", bridge, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{net}.1/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for n, name in enumerate(names):
            host = Host(f"{tag}{name}", name, f"{net}.{n + 2}", f"{tag}{n}")
            run("ip", "netns", "add", host.name)
            made.append(host)
            run("ip", "link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run("ip", "link", "set", host.cable, "master", bridge, "up")
            inside = ["ip", "netns", "exec", host.name, "ip"]
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
        yield f"{net}.1", made
    finally:
        for host in made:
            subprocess.run(["ip", "link", "del", host.cable], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)
