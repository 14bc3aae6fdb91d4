"""Web server of the app: its page, its HTTP API, and the sockets that they are reached by."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

import avatar_bench
from avatar_bench.errors import OutputError
from avatar_bench.inference.prediction_writer import format_json
from avatar_bench.plugins.app.image_service import BusyError, ImageService
from avatar_bench.plugins.app.passwords import Passwords
from avatar_bench.plugins.app.request_guard import RequestGuard
from avatar_bench.plugins.app.upload_page import UploadPage
from avatar_bench.plugins.app.uploads import receive_uploads

if TYPE_CHECKING:
    from avatar_bench.plugins.app.command.app import AppConfig

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OVERHEAD = 2**16  # bytes of a multipart body beside its files
_SHUTDOWN_SECONDS = 2


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


def build_app(
    service: ImageService, folder: Path, listener: socket.socket, settings: AppConfig, passwords: Passwords | None
) -> RequestGuard:
    """Return the page and the API behind their guard; `folder` is for uploads until they are answered."""
    limits, is_local = settings.limits, is_loopback(listener)
    image_bytes, batch_bytes = (int(size * 10**6) for size in (limits.image_mb, limits.batch_mb))
    app = FastAPI(openapi_url=None)  # the pages of its documentation load from a CDN
    page = UploadPage(service, settings.lang, limits.batch_images, is_local and not settings.names)
    shown = page.render()

    async def receive_files(request: Request) -> AsyncIterator[dict[Path, str]]:
        async with receive_uploads(request, "files", limits.batch_images, folder, image_bytes) as files:
            yield files  # until the response is complete

    def stream(parts: AsyncIterator[str]) -> StreamingResponse:
        async def list_lines() -> AsyncIterator[str]:
            try:
                async for part in parts:
                    yield f"{json.dumps(part)}\n"
            except BusyError:
                yield f"{json.dumps(page.render_part('busy'))}\n"

        return StreamingResponse(list_lines(), media_type="application/jsonl")

    @app.get("/")
    async def show_page() -> HTMLResponse:
        return HTMLResponse(shown)

    @app.get("/api/health")
    async def show_health() -> dict[str, object]:
        run = service.predictor.run
        return {"status": "ok", "version": avatar_bench.__version__, "run": run.short_name, "classes": run.classes}

    @app.post("/api/predict")
    async def predict(request: Request) -> Response:
        async with receive_uploads(request, "file", 1, folder, image_bytes) as files:
            ((file, refusal),) = files.items()
            if refusal:
                raise HTTPException(413, f"The image is {refusal}.")
            try:
                answer = await service.predict(file, file.name)
            except BusyError:
                raise HTTPException(503, "Too many requests at once. Try again.", {"retry-after": "1"}) from None
        return Response(f"{format_json(answer.row)}\n", media_type="application/json")

    @app.post("/page/images")
    async def show_images(files: dict[Path, str] = Depends(receive_files)) -> StreamingResponse:  # noqa: B008
        return stream(page.answer_each(files))

    @app.post("/page/batch")
    async def show_batch(files: dict[Path, str] = Depends(receive_files)) -> StreamingResponse:  # noqa: B008
        return stream(page.answer_batch(files))

    sizes = {"/api/predict": image_bytes, "/page/images": batch_bytes, "/page/batch": batch_bytes}
    bodies = {path: size + _OVERHEAD for path, size in sizes.items()}
    return RequestGuard(
        app, [*_LOOPBACK, *settings.names], not is_local, passwords, bodies, service.queue, service.seconds
    )


class _YieldingConnection(H11Protocol):
    """Connection that, where it is one too many, closes those that wait for a request, or go on after an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            for other in self.connections - {self}:
                cycle = other.cycle if isinstance(other, H11Protocol) else None
                if cycle is None or cycle.response_complete or (cycle.response_started and cycle.more_body):
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
        lifespan="off",
        ws="none",
        limit_concurrency=connections,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)
