from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("fastapi")
import httpx

from avatar_bench.cli.app import main
from avatar_bench.config.schema import find_schema
from avatar_bench.errors import OutputError

IMAGE_BYTES, BATCH_BYTES, MOST, CONNECTIONS = 300_000, 500_000, 40, 64
NAME = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def server(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The app on a port of this machine: client, service and the folders of its files."""
    folder = tmp_path_factory.mktemp("app")
    folders = {name: folder / name for name in ("uploads", "overlays")}
    for place in folders.values():
        place.mkdir()
    from avatar_bench.plugins.app import web_server
    from avatar_bench.plugins.app.image_service import ImageService
    from avatar_bench.plugins.app.uploads import Uploads
    from avatar_bench.runs.file_predictor import open_file_predictor

    settings: Any = find_schema("predict")(input="-", output="-", workers=0, batch_size=1, threads=1, precision="32")
    settings.evidence.enabled = True
    predictor, _ = open_file_predictor(tiny_run, settings, 1)
    service = ImageService(predictor, folders["overlays"], queue=32, seconds=60)
    listener = web_server.open_socket("127.0.0.1", 0)
    app = web_server.build_app(service, Uploads(folders["uploads"], IMAGE_BYTES), MOST, "en")
    guarded = web_server.guard_app(app, listener, [], None, IMAGE_BYTES, BATCH_BYTES, service)
    running = web_server.build_server(guarded, CONNECTIONS)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    url = web_server.format_address(listener)
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(600):
            if running.started:
                break
            time.sleep(0.05)
        yield SimpleNamespace(client=client, service=service, folder=folder, url=url, listener=listener)
        running.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def find_left(server: SimpleNamespace) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(server.folder) for name in names]


def send(server: SimpleNamespace, data: bytes, name: str = "a.png", **given: Any) -> httpx.Response:
    return server.client.post("/api/predict", files={"file": (name, data)}, **given)  # type: ignore[no-any-return]


def predict(run: Path, file: Path, folder: Path) -> dict[str, Any]:
    """Return the row that predict writes for a file."""
    output = folder / "rows.jsonl"
    words = [f"ckpt={run}", f"input={file}", f"output={output}", "evidence=true", "threads=1", "precision=32"]
    main(["predict", *words])
    return json.loads(output.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_a_score_that_is_not_finite_is_an_error_of_its_image_alone(
    server: SimpleNamespace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = next((images / "blind" / "real").rglob("*.png")).read_bytes()
    network = server.service.predictor.run.predictor
    monkeypatch.setattr(network, "compute_logits", lambda images, precision: np.full((1, 3), np.nan))
    answer = server.client.post("/api/predict", files={"file": ("a.png", content)}).json()
    assert answer["status"] == "error"
    assert answer["reason"] == "the network returned a score that is not finite"
    monkeypatch.undo()
    assert server.client.post("/api/predict", files={"file": ("a.png", content)}).json()["status"] == "ok"


def test_a_row_is_that_of_predict(server: SimpleNamespace, tiny_run: Path, images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n rest")
    files = [next((images / "blind" / name).rglob("*.*")) for name in ("drawing", "generated", "real")]
    for file in [*files, broken]:
        found = send(server, file.read_bytes(), file.name)
        assert found.status_code == 200
        expected = predict(tiny_run, file, tmp_path)
        assert list(found.json().items()) == list((expected | {"path": file.name}).items())
    assert found.json()["status"] == "error"
    assert find_left(server) == []


def test_the_health_names_run_and_classes(server: SimpleNamespace) -> None:
    found = server.client.get("/api/health").json()
    assert found["status"] == "ok"
    assert found["classes"] == ["drawing", "generated", "real"]


@pytest.mark.parametrize("is_local", [True, False])
def test_the_page_says_where_images_go_how_accurate_the_model_is_and_whether_it_is_calibrated(
    server: SimpleNamespace, is_local: bool
) -> None:
    from avatar_bench.plugins.app.image_service import ImageAnswer
    from avatar_bench.plugins.app.upload_page import UploadPage

    page = UploadPage(server.service, "en", MOST, is_local)
    shown = page.render()
    assert ("Images stay on this machine" in shown) == is_local
    assert ("Images are sent to the machine on which the app runs" in shown) == (not is_local)
    for words in ("Accuracy of this model", "does not prove its origin", "far less accurate", "can be forged"):
        assert words in shown
    row = {"path": "a.png", "status": "ok", "prediction": "real", "confidence": 0.595, "prob_drawing": 0.2}
    row |= {"prob_generated": 0.205, "prob_real": 0.595}
    card = page._render_cards([ImageAnswer(row)])
    assert "Not sure, perhaps: a real photo" in card
    assert ("Probabilities, not calibrated" in card) == (server.service.predictor.run.temperature == 1)
    abstained = {"decision": "abstain", "decision_reason": "unsure", "prediction_set": "real"}
    assert "Likeliest class, without enough certainty" in page._render_cards([ImageAnswer(row | abstained)])


def test_a_batch_has_thumbnails_and_the_page_for_review(server: SimpleNamespace, images: Path, tmp_path: Path) -> None:
    from avatar_bench.plugins.app.upload_page import UploadPage

    contents = {"a.png": next((images / "blind" / "real").rglob("*.png")).read_bytes(), "b.png": b"none"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    async def answer() -> str:
        page = UploadPage(server.service, "ru", MOST, True)
        *_, shown = [each async for each in page.answer_batch([tmp_path / name for name in contents])]
        return shown

    shown = asyncio.run(answer())
    assert shown.count('class="ab-thumb"') == 1
    review = base64.b64decode(re.findall(r"data:text/html;charset=utf-8;base64,([^\"]*)", shown)[0]).decode()
    digest = hashlib.sha256(contents["a.png"]).hexdigest()
    assert f'data-start="a.png,{digest}"' in review
    assert "Файлы, которых нет на этой странице: 1" in review
    assert str(server.folder) not in review
    assert find_left(server) == []


def encode(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, "PNG")
    return stream.getvalue()


def write_text_bomb() -> bytes:
    """Return a PNG with a compressed text of 100 MB."""
    plain = encode(8)
    body = b"zTXtbomb\0\0" + zlib.compress(bytes(10**8), 9)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return plain[:33] + chunk + plain[33:]


def write_zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**8))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: encode(7800), "million pixels"),  # 60.8 million in 8 kB
        (write_text_bomb, ""),
        (write_zip_bomb, "ZIP is not supported"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported"),
        (lambda: b"", "empty file"),
    ],
)
def test_a_bomb_costs_its_row_alone(make: Callable[[], bytes], reason: str, server: SimpleNamespace) -> None:
    begun = time.monotonic()
    found = send(server, make())
    assert found.status_code == 200
    assert time.monotonic() - begun < 20
    if reason:
        assert found.json()["status"] == "error"
        assert reason in found.json()["reason"]
    assert find_left(server) == []


def test_a_large_image_and_other_bodies_are_refused(server: SimpleNamespace) -> None:
    assert send(server, bytes(IMAGE_BYTES + 1)).status_code == 413
    assert send(server, bytes(10 * IMAGE_BYTES)).status_code == 413
    post = server.client.post
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    unstated = (part for part in [head, *[bytes(10**5)] * 10])  # without a Content-Length
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert post("/api/predict", content=unstated, headers=form).status_code == 413
    assert post("/api/predict", content=b"x").status_code == 422
    assert post("/api/predict", files={"other": ("a.png", b"x")}).status_code == 422
    assert post("/api/predict", files=[("file", ("a", b"x")), ("file", ("b", b"x"))]).status_code == 400
    assert post("/api/predict", data={"file": "text"}, files={"x": b""}).status_code == 400
    assert post("/page/batch", files=[("files", (f"{n}", b"x")) for n in range(MOST + 1)]).status_code == 400
    assert server.client.get("/api/predict").status_code in (404, 405)
    assert find_left(server) == []


def test_foreign_hosts_origins_and_paths_are_refused(server: SimpleNamespace) -> None:
    get = server.client.get
    assert get("/", headers={"host": "evil.example"}).status_code == 421
    assert get("/", headers={"origin": "http://evil.example"}).status_code == 403
    for path in ("file=/etc/passwd", "file=../../etc/passwd", "proxy=https://evil.example/", "info", "vibe-code"):
        assert get(f"/gradio_api/{path}").status_code == 404
    page = get("/")
    assert page.status_code == 200
    assert "https://fonts" not in page.text


def drop(server: SimpleNamespace, data: bytes, name: str = "a.png", tab: str = "images") -> str:
    """Drop an image on a tab of the page; return what the tab shows in the end."""
    answer = server.client.post(f"/page/{tab}", files={"files": (name, data)})
    assert answer.status_code == 200
    return str(json.loads(answer.text.splitlines()[-1]))


def test_the_page_answers_with_a_name_as_text(server: SimpleNamespace, images: Path) -> None:
    shown = drop(server, next((images / "blind" / "real").rglob("*.*")).read_bytes(), NAME)
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in shown
    assert "<img src=x" not in shown
    assert shown.count("data:image/webp;base64,") == 2  # the image and its Grad-CAM
    assert find_left(server) == []


@pytest.mark.parametrize("path", ["../../../etc/passwd", "http://127.0.0.1:9/a.png", "{folder}/own.png"])
@pytest.mark.parametrize("tab", ["images", "batch"])
def test_the_page_reads_no_file_but_an_upload(path: str, tab: str, server: SimpleNamespace, images: Path) -> None:
    folder = server.folder / "own.png"
    folder.write_bytes(next((images / "blind" / "real").rglob("*.png")).read_bytes())
    asked = path.format(folder=server.folder)
    assert server.client.post(f"/page/{tab}", json={"files": [asked]}).status_code == 422
    assert server.client.post(f"/page/{tab}", data={"files": asked}, files={"x": b""}).status_code == 400
    assert "webp" not in drop(server, b"", asked, tab)
    folder.unlink()
    assert find_left(server) == []


def test_a_page_that_is_left_early_leaves_nothing(server: SimpleNamespace, images: Path) -> None:
    data = next((images / "blind" / "real").rglob("*.*")).read_bytes()
    files = [("files", (f"{number}.png", data)) for number in range(MOST)]
    with server.client.stream("POST", "/page/batch", files=files) as answer:
        next(answer.iter_lines())
    for _ in range(100):
        if not find_left(server):
            break
        time.sleep(0.1)
    assert find_left(server) == []


def test_connections_that_ask_nothing_make_room_for_others(server: SimpleNamespace) -> None:
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(socket.create_connection(server.listener.getsockname()))
        assert httpx.get(server.url + "api/health", timeout=10).status_code == 200
        assert server.client.get("/api/health").status_code == 200


def test_an_upload_that_ends_half_way_leaves_nothing(server: SimpleNamespace) -> None:
    head = "POST /page/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 250000\r\n"
    body = 'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="files"; '
    with socket.create_connection(server.listener.getsockname()) as client:
        client.sendall(f'{head}{body}filename="a.png"\r\n\r\n'.encode() + bytes(200_000))
    assert server.client.get("/api/health").status_code == 200
    assert find_left(server) == []


def test_the_folder_of_a_killed_app_is_deleted_by_the_next_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avatar_bench.plugins.app.uploads import open_app_folder

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal; from avatar_bench.plugins.app.uploads import open_app_folder\n"
        "with open_app_folder() as folder:\n"
        "    (folder / 'upload.png').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    with open_app_folder() as living:
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
        assert len(list(tmp_path.rglob("upload.png"))) == 1
        with open_app_folder() as app_folder:
            assert set(tmp_path.iterdir()) == {living, app_folder}
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_a_batch_is_safe_for_a_spreadsheet(server: SimpleNamespace, images: Path) -> None:
    data = next((images / "blind" / "real").rglob("*.*")).read_bytes()
    shown = drop(server, data, "=cmd|calc.png", "batch")
    start = "data:text/csv;charset=utf-8;base64,"

    text = base64.b64decode(shown.partition(start)[2].partition('"')[0]).decode()
    assert text.splitlines()[1].startswith("'=cmd|calc.png,ok,")
    assert list(pd.read_csv(io.StringIO(text)))[:2] == ["path", "status"]


def test_many_clients_at_once_get_their_own_rows(server: SimpleNamespace, images: Path) -> None:
    files = sorted((images / "blind").rglob("*.png"))[:8]
    alone = {file: send(server, file.read_bytes(), file.name).text for file in files}
    with ThreadPoolExecutor(12) as pool:
        asked = files * 4
        found = list(pool.map(lambda file: send(server, file.read_bytes(), file.name), asked))
    assert [one.text for one in found] == [alone[file] for file in asked]
    assert find_left(server) == []


def test_what_would_wait_too_long_is_refused(server: SimpleNamespace, images: Path) -> None:
    from avatar_bench.plugins.app.image_service import BusyError, ImageService

    file = next((images / "blind" / "real").rglob("*.*"))

    async def ask(queue: int, seconds: float, free: bool) -> list[Any]:
        service, gate = ImageService(server.service.predictor, None, queue, seconds), threading.Event()
        if not free:  # the network works on something else until all have been refused
            service._worker.submit(gate.wait)
        try:
            asked = (service.predict(file, "a") for _ in range(4))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            gate.set()
            service.close()

    refused = [isinstance(one, BusyError) for one in asyncio.run(ask(2, 60, free=True))]
    assert refused == [False, False, True, True]
    assert all(isinstance(one, BusyError) for one in asyncio.run(ask(9, 0.01, free=False)))


@pytest.mark.parametrize("name", ["../../evil.png", "..\\..\\evil.png", "\0", "..", "я" * 300])
def test_a_name_leads_nowhere_else(name: str, server: SimpleNamespace) -> None:
    from avatar_bench.plugins.app.uploads import make_name

    folder = server.folder / "uploads" / "own" / make_name(name)
    folder.parent.mkdir()
    folder.write_bytes(b"x")
    assert folder.resolve().parent == folder.parent.resolve()
    shutil.rmtree(folder.parent)


def test_a_taken_port_is_refused_in_one_sentence(server: SimpleNamespace) -> None:
    from avatar_bench.plugins.app.web_server import open_socket

    with pytest.raises(OutputError, match="cannot be listened on"):
        open_socket("127.0.0.1", server.listener.getsockname()[1])


@pytest.mark.slow
def test_memory_does_not_grow_under_load(server: SimpleNamespace) -> None:
    rng, before = np.random.default_rng(0), 0.0
    for number in range(60):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(stream, "PNG")
        assert send(server, stream.getvalue()).json()["status"] == "ok"
        if number == 20:
            before = read_memory()
    assert read_memory() - before < 50


def read_memory() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1400, "light")])
def test_axe_finds_no_serious_violation(
    server: SimpleNamespace, images: Path, axe: str, chromium: Any, width: int, theme: str
) -> None:
    files = [str(file) for file in sorted((images / "blind" / "real").rglob("*.png"))[:2]]
    page = chromium.new_page(viewport={"width": width, "height": 1060}, color_scheme=theme)
    page.goto(server.url)
    page.evaluate(f"() => {{ {axe}\n }}")
    for number, answered in enumerate((".ab-card", ".ab-table")):
        page.get_by_role("tab").nth(number).click()
        page.locator("input[type=file]").nth(number).set_input_files(files)
        page.locator(answered).first.wait_for()
        violations = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []
    page.close()


@pytest.mark.slow
def test_two_people_drop_images_in_a_browser(server: SimpleNamespace, images: Path, chromium: Any) -> None:
    file = next((images / "blind" / "real").rglob("*.png"))
    contents = {
        NAME: file.read_bytes(),
        "broken.png": b"\x89PNG\r\n\x1a\n",
        "large.png": encode(7800),
        "a.svg": b"<svg/>",
    }
    dropped = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in contents.items()]
    many = [{**dropped[0], "name": f"{number}.png"} for number in range(MOST)]
    pages, asked, dialogs = [chromium.new_page(viewport={"width": 390, "height": 800}) for _ in range(2)], [], []
    for page in pages:
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        page.goto(server.url)
        page.wait_for_selector("input[type=file]", state="attached")
    for page in pages:
        page.locator("input[type=file]").first.set_input_files(dropped)
    for page in pages:
        page.locator(".ab-card").nth(3).wait_for()
        assert page.locator(".ab-card .ab-error").count() == 3
        assert page.locator(".ab-card .ab-name").first.inner_text().startswith("<img src=x")
        page.get_by_role("tab").nth(1).click()
        page.locator("input[type=file]").nth(1).set_input_files(many)
    for page in pages:
        page.wait_for_selector(".ab-download")
        assert page.locator(".ab-table tbody tr").count() == MOST
        page.locator(".ab-table thead button").first.click()
        page.locator(".ab-table thead button").first.click()
        assert page.locator(".ab-table tbody th").first.inner_text() == f"{MOST - 1}.png"
        with page.expect_download() as saved:
            page.locator(".ab-download").last.click()
        assert Path(saved.value.path()).read_text(encoding="utf-8").count('<li class="card"') == MOST
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()
    assert dialogs == []
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert find_left(server) == []
