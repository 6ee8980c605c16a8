"""One request to a server: JSON there, bytes back, no more than were expected."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping

from gfopt import checks
from gfopt.types import JsonObject

MOST_OF_REASON = 1000  # bytes of what a server says of a request that it refuses


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the headers, and the key, elsewhere."""

    def redirect_request(self, *_: object) -> None:
        """Returns nothing, so that the answer is an error."""


_OPENER = urllib.request.build_opener(_Stay)


def check_address(url: str, headers: Mapping[str, str]) -> None:
    """Refuses another kind of address, and headers that are more than a line.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one that is refused.
    """
    checks.instance("url", url, str, "an address")
    if not url.startswith(("http://", "https://")):
        raise ValueError(
            f"url must begin with http:// or https://; got {checks.shown(url)}"
        )
    checks.instance("headers", headers, Mapping, "a dict of strings")
    for name, value in headers.items():
        if not isinstance(value, str) or "\n" in value or "\r" in value:
            # which is not shown: it may be a key
            raise ValueError(f"headers must be texts of one line; {name!r} is not")


def answer_of(
    url: str,
    asked: JsonObject | None,
    headers: Mapping[str, str],
    timeout: float,
    most: int,
) -> bytes:
    """Returns what a server answers, ``most`` bytes and one more at most.

    Args:
        url: of the endpoint.
        asked: what is posted; None for a GET.
        headers: of the request.
        timeout: seconds to wait.
        most: bytes that are expected.

    Raises:
        OSError: where the server can't be reached, refuses, or sends elsewhere: another
            host is not given the headers.
    """
    body = None if asked is None else json.dumps(asked).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, body, headers)
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            found: bytes = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            text = error.read(MOST_OF_REASON).decode(errors="replace")
        error.msg += f": {checks.shown(text)}" if text else ""
        raise
    return found
