"""Refusal of requests before they reach the app: of foreign hosts, pages, paths and people, and of large bodies."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatar_bench.plugins.app.passwords import Passwords

PATHS = ("/", "/api/health", "/api/predict", "/page/images", "/page/batch")
_MAX_CHECKS = 8  # passwords that wait for their turn; one is checked at a time
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # the page itself allows its own script alone
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RequestGuard:
    """ASGI app around another one that answers admitted requests only.

    `hosts` are the names by which it is reached; with `any_address`, IP addresses too. `limits` are the largest bodies
    in bytes, by path: others have none. At most `max_uploads` requests with images run at once, and each must be
    complete in `seconds`.
    """

    def __init__(
        self,
        app: ASGIApp,
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                del headers["access-control-allow-origin"]
            await send(message)

        is_upload = scope["path"] in self.limits
        try:
            await self._refuse_foreign(scope, Headers(scope=scope))
            headers = [pair for pair in scope["headers"] if b"forwarded" not in pair[0]]  # what a proxy would state
            self._uploads += is_upload
            try:
                await self.app({**scope, "headers": headers}, self._limit_body(scope["path"], receive), send_safely)
            finally:
                self._uploads -= is_upload
        except HTTPException as error:
            if not started:
                response = PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
                response.headers["connection"] = "close"
                await response(scope, receive, send_safely)

    async def _refuse_foreign(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_own(host):
            raise HTTPException(421, "This app does not answer to that Host.")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise HTTPException(403, "Requests from another Origin are refused.")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(403, "Requests from another site are refused.")
        if self.passwords is not None:
            await self._refuse_stranger(self.passwords, headers.get("authorization", ""))
        if scope["path"] not in PATHS:
            raise HTTPException(404, "There is no such page.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limits.get(scope["path"], 0):
            raise HTTPException(413, "The request is too large.")
        if scope["path"] in self.limits and self._uploads >= self.max_uploads:
            raise HTTPException(503, "Too many requests at once. Try again.", {"retry-after": "1"})

    def _is_own(self, host: str) -> bool:
        try:
            address = urlsplit(f"//{host}")
            assert address.port is None or address.port >= 0  # raises ValueError for one that is no number
            name = address.hostname or ""
            return name in self.hosts or (self.any_address and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    async def _refuse_stranger(self, passwords: Passwords, authorization: str) -> None:
        scheme, _, encoded = authorization.partition(" ")
        try:
            text = base64.b64decode(encoded, validate=True).decode() if scheme.lower() == "basic" else ""
        except ValueError:
            text = ""
        name, colon, password = text.partition(":")
        challenge = {"www-authenticate": 'Basic realm="avatar-bench", charset="UTF-8"'}
        if not colon:
            raise HTTPException(401, "A name and a password are needed.", challenge)
        if passwords.is_verified(name, password):
            return
        if self._checks >= _MAX_CHECKS:
            raise HTTPException(503, "Too many passwords at once. Try again.", {"retry-after": "1"})
        self._checks += 1
        try:
            async with self._checking:
                is_correct = await asyncio.to_thread(passwords.verify, name, password)
        finally:
            self._checks -= 1
        if not is_correct:
            raise HTTPException(401, "The name or the password is incorrect.", challenge)

    def _limit_body(self, path: str, receive: Receive) -> Receive:
        """Return `receive` that raises HTTPException for a large body, and for a slow one."""
        left, is_complete = self.limits.get(path, 0), False
        end = asyncio.get_running_loop().time() + self.seconds

        async def receive_within() -> Message:
            nonlocal left, is_complete
            if is_complete:  # what follows is the end of the connection, which may take long
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "Too slow.") from None
            left -= len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if left < 0:
                raise HTTPException(413, "The request is too large.")
            return message

        return receive_within
