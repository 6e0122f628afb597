"""Pages of videos, and which hosts are asked on the way from a page to its stream."""

from __future__ import annotations

import re
import socket
import urllib.request
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from dataengine.core.errors import MediaError
from dataengine.core.types import Clip
from dataengine.io.addresses import AllowedHosts

HOSTS = (
    "youtube.com",
    "*.youtube.com",
    "youtu.be",
    "*.youtube-nocookie.com",
    "*.googlevideo.com",
    "*.ytimg.com",
)
"""Hosts of YouTube's pages and streams."""


def page_of(clip: Clip, template: str | None = None) -> str:
    """The url of a clip's video page: of the template, else the one its annotation names.

    A page of YouTube is made anew of the id that the url holds, so that it is a page of a video and nothing else.

    Raises:
        MediaError: gone, where a url of YouTube names no video.
    """
    if template is not None:
        return template.format(video_id=quote(clip.video_id, safe=""))
    url = str(clip.url)
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host != "youtu.be" and host.removeprefix("www.").removeprefix("m.") != "youtube.com":
        return url
    last = parts.path.rpartition("/")[2]
    named = parse_qs(parts.query).get("v", [""])[0] if last == "watch" else last
    if not re.fullmatch(r"[A-Za-z0-9_-]{11}", named):
        raise MediaError("gone", "the url of the annotation names no video of YouTube")
    return f"https://www.youtube.com/watch?v={named}"


def origin(url: str) -> str:
    """The scheme and host of a url."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Guard(urllib.request.BaseHandler):
    """Checks every request, also those of redirects, before it is sent."""

    handler_order = 100

    def __init__(self, hosts: AllowedHosts, given: str) -> None:
        self.hosts, self.given = hosts, given

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Called by urllib for each hop."""
        from yt_dlp.networking.exceptions import RequestError

        host = (urlsplit(request.full_url).hostname or "").lower()
        try:
            self.hosts.check_url(request.full_url, self.given)
            if not request.has_proxy():
                for *_, address in _resolved(host):
                    self.hosts.check_address(host, str(address[0]), self.given)
        except MediaError as error:
            raise RequestError(str(error), cause=error) from error
        return request

    https_request = http_request


def _resolved(host: str) -> list[Any]:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # the request will say so
