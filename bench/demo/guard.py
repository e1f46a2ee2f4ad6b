"""A guard in front of the page's server: it lets through what the page itself asks for, and nothing else.

Any site that the user visits can send requests to 127.0.0.1, by a form or a name of its own that it points there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

ANSWERS = "/component_server"
"""The end of the one path that the page posts to: it calls the Python function of the drawing board."""


class Guard:
    """Starlette middleware that refuses foreign hosts and origins, all writing but the page's own, and large bodies."""

    def __init__(self, app: ASGIApp, *, port: int, largest: int) -> None:
        """Guard ``app``, which listens at ``port``, from bodies of more than ``largest`` bytes."""
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the status that says why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope) if scope["type"] == "http" else 403
        app = self._app if refusal is None else PlainTextResponse("not for this page", refusal)
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> int | None:
        """Return the HTTP status that a request is refused with, or None."""
        headers = Headers(scope=scope)
        if headers.get("host") not in self._hosts:
            return 421
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return 403
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST" or not scope["path"].rstrip("/").endswith(ANSWERS):
            return 403
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return 415
        length = headers.get("content-length", "")  # the server reads no more than it says
        return None if length.isdigit() and int(length) <= self._largest else 413
