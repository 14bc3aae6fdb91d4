import asyncio
import base64
import hashlib
import io
import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("fastapi")
import httpx

from avatar_bench.cli.app import main
from avatar_bench.config.schema import find_schema
from avatar_bench.errors import OutputError
from avatar_bench.plugins.app import web_server
from avatar_bench.plugins.app.image_service import BusyError, ImageAnswer, ImageService
from avatar_bench.plugins.app.upload_page import UploadPage
from avatar_bench.plugins.app.uploads import make_name, open_app_folder
from avatar_bench.runs.file_predictor import open_file_predictor
from tests.builders.archives import write_zip
from tests.builders.pixels import encode, make_noise
from tests.data.image_writers import chunk

IMAGE_BYTES, BATCH_BYTES, MOST, CONNECTIONS = 300_000, 500_000, 40, 64
NAME = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def server(tiny_run, tmp_path_factory):
    """The app on a port of this machine: client, service and the folders of its files."""
    folder = tmp_path_factory.mktemp("app")
    folders = {name: folder / name for name in ("uploads", "overlays")}
    for subfolder in folders.values():
        subfolder.mkdir()
    settings = find_schema("predict")(input="-", output="-", workers=0, batch_size=1, threads=1, precision="32")
    settings.evidence.enabled = settings.stability = True
    predictor, _ = open_file_predictor(tiny_run, settings, 1)
    service = ImageService(predictor, folders["overlays"], queue=32, seconds=60)
    listener = web_server.open_socket("127.0.0.1", 0)
    options = find_schema("app")()
    options.limits.image_mb, options.limits.batch_mb = IMAGE_BYTES / 1e6, BATCH_BYTES / 1e6
    options.limits.batch_images = MOST
    app = web_server.build_app(service, folders["uploads"], listener, options, None)
    running = web_server.build_server(app, CONNECTIONS)
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
        service.close()
    assert not thread.is_alive()


def find_left(server):
    return [Path(folder, name) for folder, _, names in os.walk(server.folder) for name in names]


@pytest.fixture(autouse=True)
def _nothing_is_left(server):
    """Check after each test that no uploaded file is left."""
    yield
    assert find_left(server) == []


def send(server, data, name="a.png"):
    return server.client.post("/api/predict", files={"file": (name, data)})


@pytest.fixture(scope="module")
def content(images):
    """The bytes of an image."""
    return next((images / "blind" / "real").rglob("*.png")).read_bytes()


def test_a_score_that_is_not_finite_is_an_error_of_its_image_alone(server, content, monkeypatch):
    network = server.service.predictor.run.predictor
    monkeypatch.setattr(network, "compute_logits", lambda images, precision: np.full((1, 3), np.nan))
    row = send(server, content).json()
    assert (row["status"], row["reason"]) == ("error", "the network returned a score that is not finite")
    monkeypatch.undo()
    assert send(server, content).json()["status"] == "ok"


def test_a_row_is_that_of_predict(server, tiny_run, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rest")
    files = [next((images / "blind" / name).rglob("*.*")) for name in ("drawing", "generated", "real")]
    files.append(tmp_path / "broken.png")
    (tmp_path / "files.txt").write_text("".join(f"{file}\n" for file in files))
    output = tmp_path / "rows.jsonl"
    words = [f"ckpt={tiny_run}", f"input=@{tmp_path / 'files.txt'}", f"output={output}", "evidence=true"]
    assert main(["predict", *words, "stability=true", "threads=1", "precision=32", "batch_size=1"]) == 3
    expected = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    rows = [send(server, file.read_bytes(), file.name).json() for file in files]
    assert rows == [row | {"path": file.name} for row, file in zip(expected, files, strict=True)]
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert rows[-1]["status"] == "error"


@pytest.mark.parametrize("is_local", [True, False])
def test_the_page_says_where_images_go_how_accurate_the_model_is_and_whether_it_is_calibrated(server, is_local):
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
    changed = {"decision": "abstain", "decision_reason": "unstable", "stability": 0.5, "flips_on": "jpeg|mirror"}
    card = page._render_cards([ImageAnswer(row | changed)])
    assert "The answer changes when the image is slightly changed." in card
    assert "<dd>another: re-encoded, mirrored</dd>" in card
    confident = {"decision": "real", "decision_reason": "confident"}
    assert "at most" not in page._render_cards([ImageAnswer(row | confident)])


def test_a_batch_has_thumbnails_and_the_page_for_review(server, content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "b.png").write_bytes(b"none")

    async def answer():
        page = UploadPage(server.service, "ru", MOST, True)
        *_, shown = [part async for part in page.answer_batch({tmp_path / "a.png": "", tmp_path / "b.png": ""})]
        return shown

    shown = asyncio.run(answer())
    assert shown.count('class="ab-thumb"') == 1
    review = base64.b64decode(re.findall(r"data:text/html;charset=utf-8;base64,([^\"]*)", shown)[0]).decode()
    digest = hashlib.sha256(content).hexdigest()
    assert f'data-start="a.png,{digest}"' in review
    assert "Файлы, которых нет на этой странице: 1" in review
    assert str(server.folder) not in review


def write_large_image():
    """Return a PNG of 8 kB with 60.8 million pixels."""
    return encode(Image.new("1", (7800, 7800)))


def write_text_bomb():
    """Return a PNG with a compressed text of 100 MB."""
    plain = encode(Image.new("1", (8, 8)))
    return plain[:33] + chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(10**8), 9)) + plain[33:]


def write_zip_bomb():
    return write_zip(io.BytesIO(), {"a.png": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED).getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (write_large_image, "million pixels"),
        (write_text_bomb, ""),
        (write_zip_bomb, "ZIP is not supported"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported"),
        (lambda: b"", "empty file"),
    ],
)
def test_a_bomb_costs_its_row_alone(make, reason, server):
    begun = time.monotonic()
    answer = send(server, make())
    assert answer.status_code == 200
    assert time.monotonic() - begun < 20
    if reason:
        assert answer.json()["status"] == "error"
        assert reason in answer.json()["reason"]


def test_a_large_image_and_other_bodies_are_refused(server):
    assert send(server, bytes(IMAGE_BYTES + 1)).status_code == 413
    post = server.client.post
    assert post("/api/predict", content=b"x").status_code == 422
    assert post("/api/predict", files={"other": ("a.png", b"x")}).status_code == 422
    assert post("/api/predict", files=[("file", ("a", b"x")), ("file", ("b", b"x"))]).status_code == 400
    assert post("/api/predict", data={"file": "text"}, files={"x": b""}).status_code == 400
    assert post("/page/batch", files=[("files", (f"{n}", b"x")) for n in range(MOST + 1)]).status_code == 400
    assert server.client.get("/api/predict").status_code in (404, 405)


def test_the_health_is_answered_and_foreign_hosts_origins_and_paths_are_refused(server):
    get = server.client.get
    assert get("/api/health").json().items() >= {"status": "ok", "classes": ["drawing", "generated", "real"]}.items()
    assert get("/", headers={"host": "evil.example"}).status_code == 421
    assert get("/", headers={"origin": "http://evil.example"}).status_code == 403
    for path in (
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/gradio_api/file=/etc/passwd",
        "/proxy=https://evil.example/",
        "/static/../../../etc/passwd",
        "/docs",
        "/openapi.json",
    ):
        assert get(path).status_code == 404, path
    seen = get("/", headers={"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"})
    assert (seen.status_code, "access-control-allow-origin" in seen.headers) == (200, False)
    with start_upload(server, "/", 0, 0, "Connection: upgrade\r\nUpgrade: websocket\r\n") as client:
        client.settimeout(5)
        assert not client.recv(99).startswith(b"HTTP/1.1 101")
    assert "https://fonts" not in get("/").text


def drop(server, data, name="a.png", tab="images"):
    """Drop an image on a tab of the page; return what the tab shows in the end."""
    answer = server.client.post(f"/page/{tab}", files={"files": (name, data)})
    assert answer.status_code == 200
    return str(json.loads(answer.text.splitlines()[-1]))


def test_the_page_answers_with_a_name_as_text(server, content):
    shown = drop(server, content, NAME)
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in shown
    assert "<img src=x" not in shown
    assert shown.count("data:image/webp;base64,") == 2  # the image and its Grad-CAM


@pytest.mark.parametrize("path", ["../../../etc/passwd", "http://127.0.0.1:9/a.png", "{folder}/own.png"])
@pytest.mark.parametrize("tab", ["images", "batch"])
def test_the_page_reads_no_file_but_an_upload(path, tab, server, content):
    (server.folder / "own.png").write_bytes(content)
    path = path.format(folder=server.folder)
    assert server.client.post(f"/page/{tab}", json={"files": [path]}).status_code == 422
    assert server.client.post(f"/page/{tab}", data={"files": path}, files={"x": b""}).status_code == 400
    assert "webp" not in drop(server, b"", path, tab)
    (server.folder / "own.png").unlink()


def test_one_image_that_is_too_large_costs_its_row_and_is_named(server, content):
    sent = [("files", (name, data)) for name, data in (("a.png", content), ("big.png", bytes(IMAGE_BYTES + 1)))]
    for tab, shown in (("images", "<img"), ("batch", 'class="ab-thumb"')):
        answer = server.client.post(f"/page/{tab}", files=[*sent, ("files", ("c.png", content))])
        text = str(json.loads(answer.text.splitlines()[-1]))
        assert answer.status_code == 200
        assert text.count(shown) >= 2
        assert "larger than 0.3 MB" in text
    rows = pd.read_csv(
        io.StringIO(base64.b64decode(re.findall(r"text/csv;charset=utf-8;base64,([^\"]*)", text)[0]).decode())
    )
    assert list(rows["status"]) == ["ok", "error", "ok"]
    assert tuple(rows.loc[1, ["path", "reason"]]) == ("big.png", "larger than 0.3 MB")


def start_upload(server, path="/api/predict", size=250_000, sent=200_000, more=""):
    """Return a connection that has sent the first bytes of an upload."""
    client = socket.create_connection(server.listener.getsockname())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n{more}"
    field = "file" if path == "/api/predict" else "files"
    body = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="a.png"\r\n\r\n'
    client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n{body}".encode())
    client.sendall(bytes(sent))
    return client


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_goes_away_leaves_no_file_and_no_traceback(server, content, caplog, monkeypatch, is_reset):
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)

    def leave(client):
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n"
    for path in ("/api/predict", "/page/images", "/page/batch"):
        leave(start_upload(server, path))
        leave(start_upload(server, path, size=IMAGE_BYTES + BATCH_BYTES + 10**6))  # one that is refused
    body = part * MOST + b"--x--\r\n"
    for seconds in (0, 0.1):  # in the midst of the answer
        client = start_upload(server, "/page/batch", len(body) + 90, 2)
        client.sendall(body)
        time.sleep(seconds)
        leave(client)
    files = [("files", (f"{number}.png", content)) for number in range(MOST)]
    with server.client.stream("POST", "/page/batch", files=files) as answer:
        next(answer.iter_lines())
    for _ in range(100):
        if not find_left(server) and not server.service._waiting:
            break
        time.sleep(0.1)
    assert server.client.get("/api/health").status_code == 200
    assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
def test_the_answer_to_a_large_body_is_read_after_all_of_it_is_sent(server, more):
    for path in ("/api/predict", "/page/batch", "/"):
        with start_upload(server, path, 20_000_000, 19_990_000, more) as client:
            client.sendall(bytes(9_000))
            client.settimeout(10)
            answer = client.recv(2**16).decode()
        assert answer.startswith("HTTP/1.1 413 ")
        assert answer.endswith('\r\n\r\n{"detail":"The request is too large."}')
    with pytest.raises(urllib.error.HTTPError) as caught:  # which closes the connection
        urllib.request.urlopen(server.url + "api/predict", data=bytes(20_000_000))
    assert (caught.value.code, json.load(caught.value)) == (413, {"detail": "The request is too large."})

    def stream():
        yield from (b"x" * 2**16 for _ in range(100))

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert server.client.post("/api/predict", content=stream(), headers=headers).status_code in (400, 413)


@pytest.mark.slow
def test_half_sent_uploads_of_one_client_keep_others_waiting_for_a_second(server, content):
    with ExitStack() as stack:
        clients = [stack.enter_context(start_upload(server)) for _ in range(server.service.queue)]
        begun = time.monotonic()
        assert send(server, content).status_code == 200
        assert time.monotonic() - begun < 5
        for client in clients[1:]:
            client.sendall(bytes(1))  # so slow is no better
        time.sleep(1.2)
        with ThreadPoolExecutor(8) as pool:
            begun = time.monotonic()
            assert {answer.status_code for answer in pool.map(lambda _: send(server, content), range(8))} == {200}
            assert time.monotonic() - begun < 5
        clients[0].settimeout(5)
        assert clients[0].recv(99).startswith(b"HTTP/1.1 408 ")
    time.sleep(0.5)


def test_connections_that_ask_nothing_make_room_for_others(server):
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(socket.create_connection(server.listener.getsockname()))
        assert httpx.get(server.url + "api/health", timeout=10).status_code == 200
        assert server.client.get("/api/health").status_code == 200


def test_the_folder_of_a_killed_app_is_deleted_by_the_next_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
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


def test_the_table_of_a_batch_is_safe_for_a_spreadsheet(server, content):
    shown, start = drop(server, content, "=cmd|calc.png", "batch"), "data:text/csv;charset=utf-8;base64,"
    text = base64.b64decode(shown.partition(start)[2].partition('"')[0]).decode()
    assert text.splitlines()[1].startswith("./=cmd|calc.png,ok,")
    assert list(pd.read_csv(io.StringIO(text)))[:2] == ["path", "status"]


def test_many_clients_at_once_get_their_own_rows(server, images):
    files = sorted((images / "blind").rglob("*.png"))[:8]
    alone = {file: send(server, file.read_bytes(), file.name).text for file in files}
    with ThreadPoolExecutor(12) as pool:
        rows = list(pool.map(lambda file: send(server, file.read_bytes(), file.name).text, files * 4))
    assert rows == [alone[file] for file in files * 4]


def test_what_would_wait_too_long_is_refused(server, content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)

    async def ask(queue, seconds, free):
        service, gate = ImageService(server.service.predictor, None, queue, seconds), threading.Event()
        if not free:  # the network works on something else until all have been refused
            service._worker.submit(gate.wait)
        try:
            requests = (service.predict(tmp_path / "a.png", "a") for _ in range(4))
            return await asyncio.gather(*requests, return_exceptions=True)
        finally:
            gate.set()
            service.close()

    answers = asyncio.run(ask(2, 60, free=True))
    assert [isinstance(answer, BusyError) for answer in answers] == [False, False, True, True]
    assert all(isinstance(answer, BusyError) for answer in asyncio.run(ask(9, 0.01, free=False)))


@pytest.mark.parametrize("name", ["../../evil.png", "..\\..\\evil.png", "\0", "..", "я" * 300])
def test_a_name_leads_nowhere_else(name, tmp_path):
    (tmp_path / make_name(name)).write_bytes(b"x")
    assert (tmp_path / make_name(name)).resolve().parent == tmp_path.resolve()


def test_a_taken_port_is_refused_in_one_sentence(server):
    with pytest.raises(OutputError, match="cannot be listened on"):
        web_server.open_socket("127.0.0.1", server.listener.getsockname()[1])


@pytest.mark.slow
def test_memory_does_not_grow_under_load(server):
    before = 0.0
    for number in range(60):
        assert send(server, encode(make_noise(number, 256, 256))).json()["status"] == "ok"
        if number == 20:
            before = read_memory()
    assert read_memory() - before < 50


def read_memory():
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1400, "light")])
def test_axe_finds_no_serious_violation(server, images, axe, chromium, width, theme):
    files = [str(file) for file in sorted((images / "blind" / "real").rglob("*.png"))[:2]]
    page = chromium.new_page(viewport={"width": width, "height": 1060}, color_scheme=theme)
    page.goto(server.url)
    page.evaluate(f"() => {{ {axe}\n }}")
    for number, answered in enumerate((".ab-card", ".ab-table")):
        page.get_by_role("tab").nth(number).click()
        page.locator("input[type=file]").nth(number).set_input_files(files)
        page.locator(answered).first.wait_for()
        violations = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [violation["id"] for violation in violations if violation["impact"] in ("serious", "critical")] == []
    page.close()


@pytest.mark.slow
def test_two_people_drop_images_in_a_browser(server, content, chromium):
    contents = {NAME: content, "broken.png": b"\x89PNG\r\n\x1a\n", "large.png": write_large_image(), "a.svg": b"<svg/>"}
    dropped = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in contents.items()]
    many = [{**dropped[0], "name": f"{number}.png"} for number in range(MOST)]
    pages = [chromium.new_page(viewport={"width": 390, "height": 800}) for _ in range(2)]
    addresses, dialogs = [], []
    for page in pages:
        page.on("request", lambda request: addresses.append(request.url))
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
    assert [url for url in addresses if not url.startswith((server.url, "data:", "blob:"))] == []
