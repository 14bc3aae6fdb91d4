"""Refusal of requests before they reach the app: of foreign hosts, pages, paths and people, and of large bodies."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Collection
from contextlib import suppress
from math import inf
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatar_bench.plugins.app.passwords import Passwords

_MAX_CHECKS = 8  # passwords that wait for their turn; one is checked at a time
_STANDSTILL, _PART = 1.0, 2**14  # an upload of which fewer bytes come in so many seconds gives way to others
_STEP, _MAX_STEPS = 0.1, 20  # seconds, and how many of them an upload waits for a place
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
    in bytes, by path: others have none. At most `max_uploads` requests with images run at once; the body of each must
    be complete in `seconds`, and go on where others wait.
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
        self._uploads: dict[asyncio.Timeout, float] = {}  # when the last part of the body came; inf: complete
        self._checks = 0
        self._checking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers, deadline, is_held = Headers(scope=scope), asyncio.timeout(self.seconds), False
        may_hold = "expect" not in headers  # such a client asks before it sends its body

        async def send_safely(message: Message) -> None:
            nonlocal is_held
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            elif may_hold and not message.get("more_body") and self._uploads.get(deadline) != inf:
                is_held, message = True, {**message, "more_body": True}
            await send(message)

        try:
            await self._refuse_foreign(scope, headers)
            await self._wait_for_place(scope["path"])
            async with deadline:
                await self.app(scope, self._limit_body(scope["path"], receive, deadline), send_safely)
        except ClientDisconnect:
            is_held = False
        except (HTTPException, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                error, may_hold = HTTPException(408, "Too slow."), False
            response = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
            response.headers["connection"] = "close"
            await response(scope, receive, send_safely)
        finally:
            self._uploads.pop(deadline, None)
        if is_held:  # many clients read the answer only after they have sent all, and a closed connection loses it
            with suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    while (await receive()).get("more_body"):
                        pass
            await send({"type": "http.response.body"})

    async def _wait_for_place(self, path: str) -> None:
        """Return once there is a place for an upload: that which stands still for longest gives up its own."""
        loop = asyncio.get_running_loop()
        for _ in range(_MAX_STEPS):
            if path not in self.limits or len(self._uploads) < self.max_uploads:
                return
            slowest = min(self._uploads, key=self._uploads.__getitem__)
            if loop.time() - self._uploads[slowest] > _STANDSTILL:
                del self._uploads[slowest]
                slowest.reschedule(loop.time())
                return
            await asyncio.sleep(_STEP)
        raise HTTPException(503, "Too many requests at once. Try again.", {"retry-after": "1"})

    async def _refuse_foreign(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_own(host):
            raise HTTPException(421, "This app does not answer to that Host.")
        if headers.get("origin", f"://{host}").partition("://")[2].lower() != host.lower():
            raise HTTPException(403, "Requests from another Origin are refused.")
        if self.passwords is not None:
            await self._refuse_stranger(self.passwords, headers.get("authorization", ""))
        length, most = headers.get("content-length", "0"), self.limits.get(scope["path"], 0)
        if not length.isdigit() or int(length) > most:
            raise HTTPException(413, "The request is too large.")

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

    def _limit_body(self, path: str, receive: Receive, deadline: asyncio.Timeout) -> Receive:
        """Return `receive` that raises HTTPException for a large body, and lifts the deadline once it is complete."""
        loop = asyncio.get_running_loop()
        left = seen = self.limits.get(path, 0)
        if path in self.limits:
            self._uploads[deadline] = loop.time()

        async def receive_within() -> Message:
            nonlocal left, seen
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "The request is too large.")
            if not message.get("more_body"):
                self._uploads[deadline] = inf
                deadline.reschedule(None)
            elif seen - left >= _PART:
                self._uploads[deadline], seen = loop.time(), left
            return message

        return receive_within
