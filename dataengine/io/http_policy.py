"""How HTTP is used, and what the answers of a server mean."""

from __future__ import annotations

import http.cookiejar
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from dataengine.core.errors import MediaError, RecipeError
from dataengine.io.addresses import PUBLIC, AllowedHosts


@dataclass(frozen=True)
class HttpPolicy:
    """How HTTP is used.

    Attributes:
        connections: transfers at once in a process.
        rate: requests per second of all processes together, redirects and retries included; None is no limit.
        retries: tries of one file after the first.
        timeout: seconds without an answer, or nearly without bytes.
        bandwidth: bytes per second of all processes together; None is no limit.
        proxy: url of a proxy; without one HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold.
        cookies: path of a cookie file in Netscape form.
        pause: seconds before the first retry; doubled with each, and drawn at random between half and all of it.
        hosts: which hosts may be asked, redirects included.
    """

    connections: int = 4
    rate: float | None = 4.0
    retries: int = 5
    timeout: float = 60.0
    bandwidth: float | None = None
    proxy: str | None = None
    cookies: str | None = None
    pause: float = 1.0
    hosts: AllowedHosts = PUBLIC

    def __post_init__(self) -> None:
        if self.proxy is not None:
            parts = urlsplit(self.proxy)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise RecipeError("[fetch] proxy: give http://HOST:PORT or https://HOST:PORT")
            if parts.username or parts.password:
                raise RecipeError(
                    "[fetch] proxy: recipes are kept and shown, so give a proxy with a password in HTTPS_PROXY instead"
                )

    def jar(self) -> http.cookiejar.MozillaCookieJar | None:
        """The cookies of the cookie file."""
        if self.cookies is None:
            return None
        jar = http.cookiejar.MozillaCookieJar(self.cookies)
        try:
            jar.load(ignore_discard=True, ignore_expires=True)
        except (OSError, http.cookiejar.LoadError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"[fetch] cookies: {self.cookies} is no cookie file in Netscape form ({error})"
            ) from error
        for cookie in jar:
            if cookie.expires == 0:  # how browsers' cookie files write a cookie without an end
                cookie.expires = None
        return jar


class LaterError(MediaError):
    """A failure whose `value` is the seconds that the server asks to wait."""


class FinalError(Exception):
    """A failure that may pass in a later build, but is not tried again in this one."""

    def __init__(self, error: MediaError) -> None:
        super().__init__(str(error))
        self.error = error


def refusal(status: int, name: str, later: float | None = None) -> MediaError:
    """What a status that is no success means."""
    detail = f"{name}: the server answers {status}"
    if status in (404, 410):
        return MediaError("gone", detail)
    if status in (401, 403):
        return MediaError("private", detail)
    if status == 451:
        return MediaError("geo_blocked", detail)
    if status in (408, 425, 429) or status >= 500:
        return LaterError("unavailable", detail, True, later)
    return MediaError("unavailable", detail)


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
