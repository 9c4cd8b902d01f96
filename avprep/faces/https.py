"""Reading an https URL."""

from __future__ import annotations

import urllib.request
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol

from avprep import __version__

TIMEOUT = 30.0
"""Seconds without a response before a download is given up."""


class Response(Protocol):
    """The part of an open download that is used here."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


def open_url(url: str) -> AbstractContextManager[Response]:
    """Open an https URL and refuse redirects to any other scheme; OSError if it cannot be reached."""
    _require_https(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"avprep/{__version__}"})  # noqa: S310 - checked
        response: AbstractContextManager[Response] = urllib.request.build_opener(_HttpsOnly()).open(
            request, timeout=TIMEOUT
        )
    except ValueError as error:  # for example from the URL of a redirect
        raise OSError(f"an address on the way is none ({error})") from error
    return response


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise OSError(f"{url} is not an https address")
