"""Web server of the app: its page, its HTTP API, and the sockets that they are reached by."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import gradio
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

import avatar_bench
from avatar_bench.errors import OutputError
from avatar_bench.inference.prediction_writer import format_json
from avatar_bench.plugins.app.image_service import BusyError, ImageService
from avatar_bench.plugins.app.passwords import Passwords
from avatar_bench.plugins.app.request_guard import RequestGuard
from avatar_bench.plugins.app.upload_page import UploadPage
from avatar_bench.plugins.app.uploads import KEPT_SECONDS, Uploads

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OVERHEAD = 2**16  # bytes of a multipart body beside its files
_SHUTDOWN_SECONDS = 2
_TEMPLATES = Path(__file__).parent / "templates" / "app"
_HEAD = '<script>document.documentElement.lang = "{}";</script><script>{}</script>'


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise OutputError if it cannot. Port 0 is any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise OutputError(
            f"host={host} port={port} cannot be listened on: {error.strerror or error}.", "Choose another: port=0"
        ) from error
    return listener


def format_address(listener: socket.socket) -> str:
    """Return the address that a browser opens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def build_app(service: ImageService, uploads: Uploads, batch: int, language: str, is_local: bool = True) -> FastAPI:
    """Return the page and the API, without the guard; a batch has at most `batch` images.

    `is_local` states that only this machine reaches it.
    """

    @asynccontextmanager
    async def delete_old_uploads(app: FastAPI) -> AsyncIterator[None]:
        async def delete_now_and_then() -> None:
            while True:
                await asyncio.sleep(KEPT_SECONDS / 10)
                uploads.delete_old()

        task = asyncio.create_task(delete_now_and_then())
        yield
        task.cancel()
        service.close()

    app = FastAPI(openapi_url=None, lifespan=delete_old_uploads)  # the pages of its documentation load from a CDN

    @app.get("/api/health")
    async def show_health() -> dict[str, object]:
        run = service.predictor.run
        return {"status": "ok", "version": avatar_bench.__version__, "run": run.name, "classes": run.classes}

    @app.post("/api/predict")
    async def predict(request: Request) -> Response:
        (place,) = await uploads.save(request, "file", most=1)
        try:
            answer = await service.predict(place, place.name)
        except BusyError:
            raise HTTPException(503, "Too many requests at once. Try again.", {"retry-after": "1"}) from None
        finally:
            uploads.delete(place)
        return Response(f"{format_json(answer.row)}\n", media_type="application/json")

    # in place of gradio's own, which saves one file for all who upload the same image
    @app.post("/gradio_api/upload")
    async def upload(request: Request) -> list[str]:
        return [str(place) for place in await uploads.save(request, "files", most=batch)]

    @app.get("/gradio_api/upload_progress")
    async def show_progress() -> Response:
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    page = UploadPage(service, uploads, language, batch, is_local).build(service.queue)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=(_TEMPLATES / "app.css").read_text(encoding="utf-8"),
        head=_HEAD.format(language, (_TEMPLATES / "sort.js").read_text(encoding="utf-8")),
    )
    return app


def guard_app(
    app: FastAPI,
    listener: socket.socket,
    names: Sequence[str],
    passwords: Passwords | None,
    image_bytes: int,
    batch_bytes: int,
    service: ImageService,
) -> RequestGuard:
    """Return the app behind its guard; it is reached by the socket's address and by `names`."""
    limits = {"/api/predict": image_bytes + _OVERHEAD, "/gradio_api/upload": batch_bytes + _OVERHEAD}
    any_address = not is_loopback(listener)
    return RequestGuard(app, [*_LOOPBACK, *names], any_address, passwords, limits, service.queue, service.seconds)


class _YieldingConnection(H11Protocol):
    """Connection that, where it is one too many, closes those that wait for a request: uvicorn keeps them for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            for other in self.connections - {self}:
                if isinstance(other, H11Protocol) and (other.cycle is None or other.cycle.response_complete):
                    other.transport.close()


def build_server(app: RequestGuard, connections: int = 512) -> uvicorn.Server:
    """Return the server of the app, which has at most so many connections."""
    config = uvicorn.Config(
        app,
        http=_YieldingConnection,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        limit_concurrency=connections,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
