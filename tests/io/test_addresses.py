"""Hosts are held to a list, hop by hop, and names to what they resolve to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dataengine.core.errors import MediaError, RecipeError
from dataengine.io.addresses import PUBLIC, AllowedHosts, parse
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy
from tests.support.faulty_server import Server, redirect, serving

QUICK = HttpPolicy(rate=None, retries=1, timeout=5.0, pause=0.01)


@pytest.fixture()
def server() -> Iterator[Server]:
    with serving() as running:
        running.files["a.bin"] = b"inside"
        yield running


def port_of(server: Server) -> int:
    return int(server.server_address[1])


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str, name: str = "mirror.example") -> None:
    """Let a name resolve to one address after the other."""
    real, left = socket.getaddrinfo, list(answers)

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != name:
            return real(host, port, *args, **options)
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def refusal(policy: HttpPolicy, url: str) -> str:
    client = HttpClient(policy)
    with pytest.raises(MediaError) as caught:
        client.text(url)
    client.close()
    assert caught.value.kind == "host_refused" and not caught.value.retryable and "\n" not in str(caught.value)
    return caught.value.detail


def only(*configured: str, urls: tuple[str, ...] = ()) -> HttpPolicy:
    return replace(QUICK, hosts=AllowedHosts.of(configured, urls))


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("media.example", "https://media.example/a", True),
        ("media.example", "https://MEDIA.example./a", True),
        ("media.example", "https://media.example:8443/a", True),
        ("media.example", "http://media.example/a", False),
        ("http://media.example", "http://media.example/a", True),
        ("http://media.example", "https://media.example/a", True),
        ("media.example:8443", "https://media.example/a", False),
        ("media.example:8443", "https://media.example:8443/a", True),
        ("media.example", "https://media.example.evil.example/a", False),
        ("media.example", "https://evil.example/media.example", False),
        ("media.example", "https://media.example@evil.example/a", False),
        ("media.example", "https://evil.example#media.example", False),
        ("media.example", "https://evil.example\\@media.example/a", False),
        ("media.example", "https://a.media.example/a", False),
        ("*.media.example", "https://a.b.media.example/a", True),
        ("*.media.example", "https://media.example/a", False),
        ("*.media.example", "https://evilmedia.example/a", False),
        ("media.example", "file:///etc/passwd", False),
        ("media.example", "ftp://media.example/a", False),
        ("media.example", "//media.example/a", False),
        ("media.example", "https://media.example:port/a", False),
    ],
)
def test_a_host_is_asked_only_where_an_entry_names_it(entry: str, url: str, allowed: bool) -> None:
    hosts = AllowedHosts.of([entry], [])
    if allowed:
        hosts.check_url(url, url)
    else:
        with pytest.raises(MediaError, match="host_refused"):
            hosts.check_url(url, url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "192.0.2.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_public_internet_are_refused(address: str) -> None:
    hosts = AllowedHosts.of(["*.media.example", "other.example"], ["https://media.example/"])
    with pytest.raises(MediaError, match=r'add "media.example" to \[fetch\] hosts'):
        hosts.check_address("media.example", address, "https://media.example/")
    with pytest.raises(MediaError, match="not followed"):
        PUBLIC.check_address("inside.example", address, "https://media.example/")
    PUBLIC.check_address("inside.example", address, "https://inside.example/")
    AllowedHosts.of(["media.example"], []).check_address("media.example", address, "https://media.example/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_fine(address: str) -> None:
    AllowedHosts.of([], ["https://media.example/"]).check_address("media.example", address, "https://media.example/")
    PUBLIC.check_address("other.example", address, "https://media.example/")


@pytest.mark.parametrize(
    "entry", ["", "https://a.example/path", "a b", "file://a", "a.example:x", "*", "user@a.example"]
)
def test_an_entry_that_is_no_host_is_named(entry: str) -> None:
    with pytest.raises(RecipeError, match=r"\[fetch\] hosts: .* is no host; give HOST"):
        parse(entry)


def test_no_request_reaches_a_host_that_is_not_named(server: Server) -> None:
    detail = refusal(only(urls=("https://mirror.example/",)), f"{server.base}a.bin")
    assert f'add "http://127.0.0.1:{port_of(server)}" to [fetch] hosts' in detail
    assert not server.log
    named = only(f"http://127.0.0.1:{port_of(server)}")
    assert HttpClient(named).text(f"{server.base}a.bin") == "inside"
    assert HttpClient(only(urls=(server.base,))).text(f"{server.base}a.bin") == "inside"


@pytest.mark.parametrize("hops", [1, 3])
def test_every_hop_of_a_redirect_is_held_to_the_list(server: Server, hops: int) -> None:
    with serving() as inside:
        inside.files["secret"] = b"inside"
        for hop in range(hops - 1):
            server.always[f"{hop}"] = redirect(f"/{hop + 1}")
        server.always[f"{hops - 1}"] = redirect(f"{inside.base}secret")
        detail = refusal(only(urls=(server.base,)), f"{server.base}0")
        assert "127.0.0.1" in detail and not inside.log
        assert len(server.log) == hops


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.1", "0x7f.0.0.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_redirect_from_a_public_host_into_the_own_network_is_not_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with serving() as inside:
        inside.files["secret"] = b"inside"
        server.always["a"] = redirect(f"http://{name}:{port_of(inside)}/secret")
        assert "private address" in refusal(QUICK, f"{server.base}a")
        assert not inside.log


def test_a_listed_name_that_resolves_to_a_private_address_is_asked_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.1")
    url = f"http://mirror.example:{port_of(server)}/a.bin"
    detail = refusal(only(urls=(url,)), url)
    assert 'mirror.example has the private address 127.0.0.1; to allow it add "mirror.example"' in detail
    assert not server.log
    assert HttpClient(only("http://mirror.example")).text(url) == "inside"


def test_a_name_that_changes_its_address_is_refused_where_it_connects(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked is the address that was reached, so that a second answer of the name server gains nothing."""
    url = f"http://mirror.example:{port_of(server)}/a.bin"
    resolving(monkeypatch, "93.184.215.14", "127.0.0.1")
    assert socket.getaddrinfo("mirror.example", 80)[0][4][0] == "93.184.215.14"
    refusal(only(urls=(url,)), url)
    assert not server.log


def test_https_is_not_left_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="from https to http is not followed"):
        PUBLIC.check_url("http://media.example/a", "https://media.example/a")
    PUBLIC.check_url("https://media.example/a", "http://media.example/a")


def test_a_proxy_may_have_a_private_address(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = b"through the proxy"
    policy = replace(only("http://media.example"), proxy=server.base.rstrip("/"))
    assert HttpClient(policy).text("http://media.example/a.bin") == "through the proxy"
    assert urlsplit(server.base).hostname == "127.0.0.1"
    refusal(policy, "http://169.254.169.254/a.bin")
