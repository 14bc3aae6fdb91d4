from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("httpx")
import httpx

from avatar_bench.plugins.app.passwords import Passwords, hash_password
from avatar_bench.plugins.app.request_guard import RequestGuard

HOST = "http://127.0.0.1:7860"
LIMIT = 1000


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the size of the body, and state which headers arrive."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    names = b",".join(name for name, _ in scope["headers"])
    headers = [(b"x-seen", names), (b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(path: str = "/", method: str = "GET", any_address: bool = False, **given: Any) -> httpx.Response:
    passwords, url = given.pop("passwords", None), given.pop("url", HOST)
    guard = RequestGuard(app, ["127.0.0.1", "localhost", "avatars.example"], any_address, passwords, LIMITS, 2, 0.3)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(guard)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            return await client.request(method, path, **given)

    return asyncio.run(send())


LIMITS = {"/api/predict": LIMIT}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("127.0.0.1:7860", "LOCALHOST:1", "avatars.example")),
        *(
            (host, 421)
            for host in ("127.0.0.1.evil.example", "192.0.2.1", "", "127.0.0.1:x", "localhost, evil.example")
        ),
    ],
)
def test_own_hosts_are_answered_and_foreign_ones_refused(host: str, status: int) -> None:
    assert ask(headers={"host": host}).status_code == status


def test_an_app_for_all_machines_answers_to_addresses_but_to_no_foreign_name() -> None:
    for host in ("192.0.2.1:7860", "[2001:db8::1]:7860"):
        assert ask(headers={"host": host}, any_address=True).status_code == 200
    assert ask(headers={"host": "evil.example"}, any_address=True).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://127.0.0.1:7860", 200),  # behind a proxy that speaks TLS
        ("http://127.0.0.1:7861", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:7860@evil.example", 403),
    ],
)
def test_pages_of_another_origin_are_refused(origin: str, status: int) -> None:
    found = ask("/api/predict", "POST", headers={"origin": origin}, content=b"x")
    assert found.status_code == status
    assert "access-control-allow-origin" not in found.headers


def test_a_form_of_another_site_is_refused() -> None:
    assert ask("/api/predict", "POST", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/gradio_api/file=https://evil.example/x.png",
        "/proxy=https://evil.example/",
        "/static/../../../etc/passwd",
        "//etc/passwd",
        "/docs",
    ],
)
def test_what_the_page_does_not_need_is_refused(path: str) -> None:
    assert ask(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/predict", "/page/images", "/page/batch"])
def test_what_the_page_needs_is_answered(path: str) -> None:
    found = ask(path)
    assert found.status_code == 200
    assert "frame-ancestors 'none'" in found.headers["content-security-policy"]


def test_large_bodies_are_refused_stated_or_not() -> None:
    async def stream(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 100):
            yield b"x" * 100

    assert ask("/api/predict", "POST", content=b"x" * LIMIT).text == str(LIMIT)
    assert ask("/api/predict", "POST", content=stream(LIMIT)).text == str(LIMIT)
    assert ask("/api/predict", "POST", content=b"x" * (LIMIT + 1)).status_code == 413
    assert ask("/api/predict", "POST", content=stream(LIMIT + 100)).status_code == 413
    assert ask("/api/predict", "POST", headers={"content-length": "-1"}).status_code == 413


def test_a_slow_body_is_refused() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(1)
        yield b"x"

    assert ask("/api/predict", "POST", content=trickle()).status_code == 408


def test_what_a_proxy_would_state_is_not_believed() -> None:
    seen = ask(headers={"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}).headers["x-seen"]
    assert "forwarded" not in seen


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Passwords:
    file = tmp_path_factory.mktemp("people") / "people"
    file.write_text(hash_password("anna", "длинный пароль") + "\n")
    file.chmod(0o600)
    return Passwords.read(file)


@pytest.mark.parametrize("stated", [None, "Basic !!!", "Bearer x", b"anna", b"anna:wrong", b"\xff:\xff"])
def test_a_wrong_password_is_refused_everywhere(stated: str | bytes | None, passwords: Passwords) -> None:
    text = f"Basic {base64.b64encode(stated).decode()}" if isinstance(stated, bytes) else stated
    for path in ("/", "/api/health", "/gradio_api/file=/etc/passwd"):
        found = ask(path, passwords=passwords, headers={"authorization": text} if text else {})
        assert found.status_code == 401
        assert found.headers["www-authenticate"].startswith("Basic ")


def test_the_correct_password_is_accepted(passwords: Passwords) -> None:
    stated = "Basic " + base64.b64encode("anna:длинный пароль".encode()).decode()
    for _ in range(2):
        assert ask(passwords=passwords, headers={"authorization": stated}).status_code == 200


def test_at_most_so_many_uploads_run_at_once() -> None:
    release = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await app(scope, receive, send)

    async def send_three() -> list[int]:
        guard = RequestGuard(wait, ["127.0.0.1"], False, None, LIMITS, 2, 5)
        transport = httpx.ASGITransport(guard)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            asked = [asyncio.create_task(client.post("/api/predict", content=b"x")) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await client.post("/api/predict", content=b"x")
            release.set()
            return [refused.status_code, *[(await one).status_code for one in asked]]

    assert asyncio.run(send_three()) == [503, 200, 200]


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    guard = RequestGuard(app, ["127.0.0.1"], False, None, LIMITS, 2, 5)
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, None, keep))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]
