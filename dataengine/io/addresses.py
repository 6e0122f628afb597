"""Which addresses may be asked for over HTTP: hosts by name, and what these names may resolve to.

A list of a mirror, a redirect or a row of annotations may name any host, also one inside the network of whoever builds.
So each hop is held to a list of hosts, and each connection to the address that was really reached, before a byte is
sent: a name that resolves to a private address is refused whenever it does so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dataengine.core.errors import MediaError, RecipeError

_ENTRY = re.compile(r"(?:(https?)://)?(\*\.)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?/?")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class _Entry:
    http: bool
    below: bool
    host: str
    port: int | None

    def allows(self, scheme: str, host: str, port: int) -> bool:
        named = host.endswith(f".{self.host}") if self.below else host == self.host
        return named and (scheme == "https" or self.http) and self.port in (None, port)


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts that may be asked.

    Attributes:
        entries: HOST, *.HOST (every host below) or http://HOST, each with :PORT where only one port is meant. Without
            http:// only https is asked. None allows the host of the url that was asked for, and redirects to any host
            with a public address.
        private: hosts that may have a private address (loopback, link-local, of a local network).
    """

    entries: tuple[str, ...] | None = None
    private: frozenset[str] = frozenset()

    @classmethod
    def of(cls, configured: Iterable[str], urls: Iterable[str]) -> AllowedHosts:
        """What `[fetch] hosts` names, which may have private addresses, and the hosts of urls of a configuration.

        An address that a url of the configuration states as such, like http://127.0.0.1, may be private, too.
        """
        named = [entry.rstrip("/") for entry in configured]
        for entry in named:
            parse(entry)
        origins = {f"{url.scheme}://{url.netloc.rpartition('@')[2]}" for url in map(urlsplit, urls) if url.hostname}
        exact = {parse(entry).host for entry in named if not parse(entry).below}
        literal = {host for origin in origins if _literal(host := parse(origin).host) or host == "localhost"}
        return cls((*named, *sorted(origins)), frozenset(exact | literal))

    def also(self, *entries: str) -> AllowedHosts:
        """These and further hosts; with `entries` None, itself."""
        return self if self.entries is None else AllowedHosts((*self.entries, *entries), self.private)

    def check_url(self, url: str, given: str) -> None:
        """Refuse a url whose scheme or host is not allowed.

        Args:
            url: of this hop.
            given: the url that was asked for first.

        Raises:
            MediaError: host_refused; the message says how to allow it.
        """
        parts, first = urlsplit(url), urlsplit(given)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower().rstrip(".")
        if scheme not in _PORTS or not host:
            raise _refused(f"{scheme or 'no scheme'}: is not asked for; only http and https are")
        if re.search(r"[\\\s\x00-\x1f\x7f]", url):
            raise _refused(f"the url of {host} holds a backslash, white space or a control character")
        if self.entries is None:
            if scheme == "http" and first.scheme.lower() == "https":
                raise _refused(f"{host}: a redirect from https to http is not followed")
        else:
            try:
                port = parts.port or _PORTS[scheme]
            except ValueError:
                raise _refused(f"{host}: its port is no number") from None
            if not any(parse(entry).allows(scheme, host, port) for entry in self.entries):
                entry = (f"{scheme}://" if scheme == "http" else "") + (parts.netloc.rpartition("@")[2] or host)
                raise _refused(
                    f"the host {host} ({scheme}) is not one of the mirror list or the recipe; "
                    f'to allow it add "{entry}" to [fetch] hosts'
                )
        if address := _literal(host):
            self.check_address(host, str(address), given)

    def check_address(self, host: str, address: str, given: str) -> None:
        """Refuse a private address, unless the host may have one.

        Args:
            host: its name.
            address: what the name was resolved to.
            given: the url that was asked for first.

        Raises:
            MediaError: host_refused; the message says how to allow it.
        """
        host = host.lower().rstrip(".")
        if _public(address):
            return
        if self.entries is None:
            if host == (urlsplit(given).hostname or "").lower().rstrip("."):
                return
            raise _refused(f"a redirect leads to {host}, which has the private address {address}: not followed")
        if host not in self.private:
            raise _refused(f'{host} has the private address {address}; to allow it add "{host}" to [fetch] hosts')


PUBLIC = AllowedHosts()
"""The host that was asked for first, and redirects to public addresses."""


def parse(entry: str) -> _Entry:
    """An entry of a list of hosts.

    Raises:
        RecipeError: it is none.
    """
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise RecipeError(
            f"[fetch] hosts: {entry!r} is no host; give HOST, *.HOST or http://HOST, with :PORT where one is meant"
        )
    scheme, below, host, port = match.groups()
    return _Entry(
        scheme == "http", below is not None, host.strip("[]").lower().rstrip("."), int(port) if port else None
    )


def watch(hosts: AllowedHosts, host: str, given: str) -> Callable[[str, Any], None]:
    """What an HTTP client calls while it connects (httpx's extension `trace`): refuses the address that was reached.

    A connection to a proxy is left alone: the user chose it, and it resolves the names.
    """
    reached: list[str] = []

    def trace(event: str, info: Any) -> None:
        if event == "connection.connect_tcp.started":
            reached[:] = [str(info["host"]).strip("[]")]
        elif event == "connection.connect_tcp.complete" and reached == [host.strip("[]")]:
            stream = info["return_value"]
            try:
                hosts.check_address(host, str(stream.get_extra_info("server_addr")[0]), given)
            except MediaError:
                stream.close()
                raise

    return trace


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _public(address: str) -> bool:
    """Whether an address belongs to the public internet, also one that is written inside another."""
    found = _literal(address)
    if found is None:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if any(one is not None and not _public(str(one)) for one in inner):
            return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast


def _refused(detail: str) -> MediaError:
    return MediaError("host_refused", detail)
