"""Refusal of requests before they reach the app: of foreign hosts, pages, paths and people, and of large bodies."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import posixpath
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from avatar_bench.plugins.app.passwords import Passwords

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MAX_QUESTION_BYTES = 2**20  # of a request that holds no image
_MAX_CHECKS = 8  # passwords that wait for their turn; one is checked at a time
# what the page asks for; gradio has further routes, which serve files, call other servers or change the app
_PATHS = re.compile(
    r"/(?:$|config/?$|theme\.css$|favicon\.ico$|(?:assets|static|svelte)/[\w./@~+-]+$|api/(?:predict|health)$"
    r"|gradio_api/(?:upload|upload_progress|queue/(?:join|data)|heartbeat/\w+|startup-events|cancel|reset|app_id"
    r"|theme\.css)/?$)"
)
_UPLOADS = ("/api/predict", "/gradio_api/upload")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_FORWARDED = (b"forwarded", b"x-forwarded-", b"x-original-", b"x-direct-")  # gradio trusts them


class _TooLargeError(Exception):
    """A body that is larger than allowed."""


class RequestGuard:
    """ASGI app around another one that answers admitted requests only.

    `hosts` are the names by which it is reached; with `any_address`, IP addresses too. `limits` are the largest bodies
    in bytes, by path. At most `max_uploads` requests with images run at once, and each must be complete in `seconds`.
    """

    def __init__(
        self,
        app: App,
        hosts: Collection[str],
        any_address: bool,
        passwords: Passwords | None,
        limits: dict[str, int],
        max_uploads: int,
        seconds: float,
    ) -> None:
        self.app, self.hosts, self.any_address = app, {host.lower() for host in hosts}, any_address
        self.passwords, self.limits, self.seconds, self.max_uploads = passwords, limits, seconds, max_uploads
        self._uploads = self._checks = 0
        self._checking = asyncio.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                kept = [pair for pair in message.get("headers", []) if not _is_replaced(pair[0])]
                safe = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*kept, *safe]}
            await send(message)

        fault = await self._find_fault(scope)
        if fault is not None:
            return await _refuse(send_safely, *fault)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if not pair[0].startswith(_FORWARDED)]}
        is_upload = scope["path"].rstrip("/") in _UPLOADS
        self._uploads += is_upload
        try:
            await self.app(scope, self._limit_body(scope, receive), send_safely)
        except (_TooLargeError, TimeoutError) as error:
            if not started:
                known = (413, "The request is too large.") if isinstance(error, _TooLargeError) else (408, "Too slow.")
                await _refuse(send_safely, *known)
        finally:
            self._uploads -= is_upload
        return None

    async def _find_fault(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        headers = _read_headers(scope)
        host = headers.get("host", "")
        if not self._is_own(host) or "," in host:
            return 421, "This app does not answer to that Host."
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or urlsplit(origin).netloc.lower() != host.lower()):
            return 403, "Requests from another Origin are refused."
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "Requests from another site are refused."
        if self.passwords is not None and (refused := await self._find_stranger(headers.get("authorization", ""))):
            return refused
        path = scope["path"]
        if not _PATHS.match(path) or ".." in path or posixpath.normpath(path) != (path.rstrip("/") or "/"):
            return 404, "There is no such page."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._find_limit(path):
            return 413, "The request is too large."
        if path.rstrip("/") in _UPLOADS and self._uploads >= self.max_uploads:
            return 503, "Too many requests at once. Try again."
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            urlsplit(f"//{host}").port  # noqa: B018  # raises ValueError for one that is no number
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address

    async def _find_stranger(self, authorization: str) -> tuple[int, str] | None:
        assert self.passwords is not None
        scheme, _, encoded = authorization.partition(" ")
        try:
            text = base64.b64decode(encoded, validate=True).decode() if scheme.lower() == "basic" else ""
        except ValueError:
            text = ""
        name, colon, password = text.partition(":")
        if not colon:
            return 401, "A name and a password are needed."
        if self.passwords.is_verified(name, password):
            return None
        if self._checks >= _MAX_CHECKS:
            return 503, "Too many passwords at once. Try again."
        self._checks += 1
        try:
            async with self._checking:
                is_correct = await asyncio.to_thread(self.passwords.verify, name, password)
        finally:
            self._checks -= 1
        return None if is_correct else (401, "The name or the password is incorrect.")

    def _find_limit(self, path: str) -> int:
        return self.limits.get(path.rstrip("/"), _MAX_QUESTION_BYTES)

    def _limit_body(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """Return `receive` that raises _TooLargeError for a large body, and TimeoutError for a slow one."""
        left, is_complete = self._find_limit(scope["path"]), False
        end = asyncio.get_running_loop().time() + self.seconds

        async def receive_within() -> Message:
            nonlocal left, is_complete
            if is_complete:  # what follows is the end of the connection, which may take long
                return await receive()
            async with asyncio.timeout_at(end):
                message = await receive()
            left -= len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if left < 0:
                raise _TooLargeError
            return message

        return receive_within


def _read_headers(scope: MutableMapping[str, Any]) -> dict[str, str]:
    """Return the headers by name; those that occur twice are joined by a comma."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _is_replaced(name: bytes) -> bool:
    lower = name.decode("latin-1").lower()
    return lower in _HEADERS or lower.startswith("access-control-")


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="avatar-bench", charset="UTF-8"'))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
