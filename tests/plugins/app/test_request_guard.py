import asyncio
import base64

import pytest

pytest.importorskip("httpx")
import httpx

from avatar_bench.plugins.app.passwords import Passwords, hash_password
from avatar_bench.plugins.app.request_guard import RequestGuard

HOST = "http://127.0.0.1:7860"
LIMIT = 1000


async def app(scope, receive, send):
    """Answer with the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(path="/", method="GET", any_address=False, passwords=None, **options):
    guard = RequestGuard(app, ["127.0.0.1", "localhost", "avatars.example"], any_address, passwords, LIMITS, 2, 0.3)

    async def send():
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


LIMITS = {"/api/predict": LIMIT}
FOREIGN_HOSTS = ("127.0.0.1.evil.example", "", "127.0.0.1:x", "localhost, evil.example", "evil.example")


@pytest.mark.parametrize(
    ("hosts", "any_address", "status"),
    [
        (("127.0.0.1:7860", "LOCALHOST:1", "avatars.example"), False, 200),
        ((*FOREIGN_HOSTS, "192.0.2.1"), False, 421),
        (("192.0.2.1:7860", "[2001:db8::1]:7860"), True, 200),  # an app for all machines
        (FOREIGN_HOSTS[-1:], True, 421),
    ],
)
def test_own_hosts_are_answered_and_foreign_ones_refused(hosts, any_address, status):
    for host in hosts:
        assert ask(headers={"host": host}, any_address=any_address).status_code == status, host


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://127.0.0.1:7860", 200),  # behind a proxy that speaks TLS
        ("http://127.0.0.1:7861", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:7860@evil.example", 403),
        ("http://[", 403),
        ("http://[::1", 403),
        ("127.0.0.1:7860", 403),
        ("", 403),
    ],
)
def test_pages_and_forms_of_another_origin_are_refused(origin, status):
    answer = ask("/api/predict", "POST", headers={"origin": origin}, content=b"x")
    assert answer.status_code == status


def test_an_answer_has_the_headers_that_keep_it_apart_from_other_pages():
    answer = ask("/")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_large_bodies_are_refused_stated_or_not_and_slow_ones():
    async def stream(size):
        for _ in range(size // 100):
            yield b"x" * 100

    async def trickle():
        yield b"x"
        await asyncio.sleep(1)
        yield b"x"

    assert ask("/api/predict", "POST", content=b"x" * LIMIT).text == str(LIMIT)
    assert ask("/api/predict", "POST", content=stream(LIMIT)).text == str(LIMIT)
    assert ask("/api/predict", "POST", content=b"x" * (LIMIT + 1)).status_code == 413
    assert ask("/api/predict", "POST", content=stream(LIMIT + 100)).status_code == 413
    assert ask("/api/predict", "POST", headers={"content-length": "-1"}).status_code == 413
    assert ask("/api/predict", "POST", content=trickle()).status_code == 408
    assert ask("/api/predict", "POST", content=b"x" * (LIMIT + 1)).json() == {"detail": "The request is too large."}


@pytest.fixture(scope="module")
def passwords(tmp_path_factory):
    file = tmp_path_factory.mktemp("people") / "people"
    file.write_text(hash_password("anna", "длинный пароль") + "\n")
    file.chmod(0o600)
    return Passwords.read(file)


def test_the_correct_password_alone_is_accepted(passwords):
    for stated in (None, "Basic !!!", "Bearer x", b"anna", b"anna:wrong", b"\xff:\xff"):
        text = f"Basic {base64.b64encode(stated).decode()}" if isinstance(stated, bytes) else stated
        for path in ("/", "/api/health", "/gradio_api/file=/etc/passwd"):
            answer = ask(path, passwords=passwords, headers={"authorization": text} if text else {})
            assert answer.status_code == 401, stated
            assert answer.headers["www-authenticate"].startswith("Basic ")
    correct = "Basic " + base64.b64encode("anna:длинный пароль".encode()).decode()
    for _ in range(2):
        assert ask(passwords=passwords, headers={"authorization": correct}).status_code == 200


def test_at_most_so_many_uploads_run_at_once():
    release = asyncio.Event()

    async def wait(scope, receive, send):
        while (message := await receive())["more_body"]:
            pass
        await release.wait()
        await app(scope, lambda: asyncio.sleep(0, message), send)

    async def send_three():
        guard = RequestGuard(wait, ["127.0.0.1"], False, None, LIMITS, 2, 5)
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            accepted = [asyncio.create_task(client.post("/api/predict", content=b"x")) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await client.post("/api/predict", content=b"x")
            release.set()
            return [refused.status_code, *[(await answer).status_code for answer in accepted]]

    assert asyncio.run(send_three()) == [503, 200, 200]
