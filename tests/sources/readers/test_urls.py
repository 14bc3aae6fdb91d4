"""Tests of downloads from a local server that stalls, cuts, lies and answers errors."""

import hashlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from avatar_bench import __version__
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources import download
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.archive import Archive
from avatar_bench.sources.readers.urls import Urls, expand_pattern
from tests.builders.archives import write_zip

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Answer as the path says; the first number in it is how many times it misbehaves."""

    def do_GET(self):
        server, (kind, *_) = self.server, self.path.strip("/").split("?")[0].split("/")
        with server.lock:
            server.seen[self.path] += 1
            server.requests.append((self.path, dict(self.headers), time.monotonic()))
            first = server.seen[self.path] == 1
        answer = ANSWERS.get(kind) or getattr(Handler, kind.rstrip(":"))
        answer(self, first)

    def say(self, status=200, body=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self, first):
        server = self.server
        with server.lock:
            server.open += 1
            server.most = max(server.most, server.open)
        time.sleep(server.delay)
        with server.lock:  # before the answer, which lets the next request begin
            server.open -= 1
        self.say(body=self.path.encode())

    http = good  # a proxy is sent whole addresses

    def stalls(self, first):
        if first:
            self.server.release.wait(5)
        self.say(body=b"awake")

    def cut(self, first):
        """Send half and hang up; serve the rest as a range."""
        tag = '"one"' if "changed" not in self.path or first else '"two"'
        begun = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.headers.get("If-Range") == tag else 0
        if first:
            return self.say(body=BODY[:5000], length=len(BODY), ETag=tag)
        if begun:
            span = f"bytes {begun}-{len(BODY) - 1}/{len(BODY)}"
            return self.say(206, BODY[begun:], ETag=tag, Content_Range=span)
        return self.say(body=BODY, ETag=tag)

    def wrongrange(self, first):
        """Answer a range with another one."""
        if first:
            return self.say(body=BODY[:5000], length=len(BODY), ETag='"x"')
        if "Range" in self.headers:
            return self.say(206, BODY[10:], ETag='"x"', Content_Range=f"bytes 10-{len(BODY) - 1}/{len(BODY)}")
        return self.say(body=BODY)

    def endless(self, first):
        self.send_response(200)
        self.end_headers()
        with pytest.raises(OSError):  # noqa: PT011, PT012, the client hangs up
            while not self.server.release.is_set():
                self.wfile.write(bytes(2**16))

    def log_message(self, *args):
        pass


ANSWERS = {
    "content": lambda handler, first: handler.say(body=handler.server.content),
    "hangs": lambda handler, first: handler.server.release.wait(30),
    "missing": lambda handler, first: handler.say(404),
    "busy": lambda handler, first: handler.say(429, Retry_After="0.4") if first else handler.say(body=b"at last"),
    "closed": lambda handler, first: handler.say(503, Retry_After="86400"),
    "broken": lambda handler, first: handler.say(500) if first else handler.say(body=b"mended"),
    "lies": lambda handler, first: handler.say(body=b"short", length=100),
    "huge": lambda handler, first: handler.say(length=2**40),
    "moved": lambda handler, first: handler.say(302, Location="/good/moved"),
    "tofile": lambda handler, first: handler.say(302, Location="file:///etc/passwd"),
    "circle": lambda handler, first: handler.say(302, Location=handler.path),
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.02)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.seen, made.requests, made.lock, made.release = Counter(), [], threading.Lock(), threading.Event()
    made.open, made.most, made.delay = 0, 0, 0.0
    made.base = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.release.set()
    made.shutdown()
    made.server_close()


def job(tmp_path, done=()):
    return SourceJob("web", {"label": "real", "homepage": "https://example.org"}, tmp_path / "place", done)


def read(tmp_path, done=(), **options):
    made = job(tmp_path, done)
    return list(Urls(**{"pause": 0, "timeout": 5, **options}).read(made)), made.quarantine


def test_braces_stand_for_names_which_give_boxes_and_groups(tmp_path, server):
    for pattern, names in (
        ("a.jpg", ["a.jpg"]),
        ("{female,male}/{0..1}.jpg", ["female/0.jpg", "female/1.jpg", "male/0.jpg", "male/1.jpg"]),
        ("{08..11}.png", ["08.png", "09.png", "10.png", "11.png"]),
        ("{a}-{}.png", ["{a}-{}.png"]),
    ):
        assert expand_pattern(pattern) == names
    names = {"good/{a-1,a-2}.jpg": [0.5, 0, 0.5], "good/b.jpg": None}
    images, _ = read(tmp_path, base=server.base, names=names, group="^(.)-")
    assert [(image.box, image.group) for image in images] == [((0.5, 0, 0.5), "a"), ((0.5, 0, 0.5), "a"), (None, "")]
    assert {image.group for image in read(tmp_path, base=server.base, names=names, group="all")[0]} == {"all"}


def test_images_come_in_the_order_of_their_names_however_the_downloads_end(tmp_path, server):
    names = ["stalls/a.jpg", "good/{0..9}.jpg", "broken/z.jpg"]
    threading.Timer(0.3, server.release.set).start()
    images, quarantine = read(tmp_path, base=server.base, names=names)
    assert [image.name for image in images] == ["stalls/a.jpg", *(f"good/{n}.jpg" for n in range(10)), "broken/z.jpg"]
    assert (images[3].content.read_bytes(), images[0].content.suffix) == (b"/good/2.jpg", ".jpg")
    assert quarantine == []


def test_it_says_honestly_who_asks_by_a_proxy_of_the_environment_but_where_it_shall_not(tmp_path, server, monkeypatch):
    read(tmp_path, urls=[f"{server.base}/good/1"])
    agent = f"avatar_bench/{__version__} (research data set; source https://example.org)"
    assert server.requests[0][1]["User-Agent"] == agent
    monkeypatch.setenv("http_proxy", server.base)
    (image,), _ = read(tmp_path, urls=["http://images.example/1.jpg"])
    assert image.content.read_bytes() == b"http://images.example/1.jpg"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (image,), _ = read(tmp_path, urls=[f"{server.base}/good/1"])
    assert image.content.read_bytes() == b"/good/1"


@pytest.mark.parametrize(
    ("path", "options", "attempts", "reason"),
    [
        ("/missing/1", {}, 1, "HTTP 404 Not Found"),
        ("/closed/1", {}, 1, ".*asks to wait 86400 s.*"),
        ("/lies/1", {"retries": 1}, 2, "cut off after 5 bytes, 2 attempts"),
        ("/huge/1", {"max_mib": 0.5}, 1, r"larger than 0\.5 MiB"),
        ("/endless/1", {"max_mib": 0.5}, 1, r"larger than 0\.5 MiB"),
        ("/tofile/1", {}, 1, "redirects to something that is not an http or https URL"),
        ("/circle/1", {}, None, ".*redirect.*"),
    ],
)
def test_what_cannot_be_had_is_quarantined(tmp_path, server, path, options, attempts, reason):
    images, quarantine = read(tmp_path, base=server.base, names=[path[1:], "good/1"], **options)
    assert [image.name for image in images] == ["good/1"]
    assert quarantine[0][0] == path[1:]
    assert re.fullmatch(reason, quarantine[0][1])
    assert attempts in (None, server.seen[path])
    assert sum(file.stat().st_size for file in (tmp_path / "place").iterdir()) < 2**20


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("busy/1", b"at last"),
        ("broken/1", b"mended"),
        ("stalls/1", b"awake"),
        ("moved/1", b"/good/moved"),
        ("cut/1", BODY),
        ("cut/changed", BODY),
        ("wrongrange/1", BODY),
    ],
)
def test_a_server_that_fails_once_is_asked_again(tmp_path, server, path, content):
    (image,), quarantine = read(tmp_path, urls=[f"{server.base}/{path}"], timeout=0.2)
    assert (image.content.read_bytes(), quarantine) == (content, [])
    (_, _, begun), (_, headers, again) = server.requests[:2]
    assert again - begun >= (0.4 if path == "busy/1" else 0)  # it asked to be left alone that long
    if path == "cut/1":  # goes on where it stopped
        assert (headers["Range"], headers["If-Range"]) == ("bytes=5000-", '"one"')


def test_a_server_that_asks_to_wait_is_left_alone_by_all_requests(tmp_path, server):
    server.delay = 0.05
    read(tmp_path, base=server.base, names=["busy/1", "good/{0..5}"], parallel=2)
    times = [at for _, _, at in server.requests]
    assert sum(at - times[0] >= 0.4 for at in times) >= 5  # of 8, the others were under way


def test_one_that_was_interrupted_goes_on_in_the_next_run(tmp_path, server):
    with pytest.raises(DataError, match="cut off after 5000 bytes"):
        read(tmp_path, urls=[f"{server.base}/cut/1"], retries=0)
    (image,), _ = read(tmp_path, urls=[f"{server.base}/cut/1"], retries=0)
    assert image.content.read_bytes() == BODY
    assert server.requests[1][1]["Range"] == "bytes=5000-"


def test_other_schemes_and_options_that_do_not_fit_are_refused(tmp_path):
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/a.jpg", "data:,x", "nonsense", "http://[x", "http:///a"):
        with pytest.raises(DataError, match="not an http or https URL"):
            read(tmp_path, urls=[url])
    for options, message in (
        ({"base": "http://x"}, r"needs source\.web\.names"),
        ({"urls": ["http://x"], "names": ["a"]}, r"needs source\.web\.base"),
        ({"urls": ["http://x"], "parallel": 0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Urls(**options).check("web", {})


def test_the_sha256_is_checked_of_files_and_of_archives_which_are_unpacked(tmp_path, server):
    right = hashlib.sha256(b"/good/1").hexdigest()
    urls = {f"{server.base}/good/1": right, f"{server.base}/good/2": right}
    images, ((_, reason),) = read(tmp_path, urls=urls)
    assert [image.content.read_bytes() for image in images] == [b"/good/1"]
    assert reason.endswith(f"expected {right}")
    server.content = write_zip(tmp_path / "set.zip", {"real/a.jpg": b"a"}).read_bytes()
    url, digest = f"{server.base}/content/set.zip", hashlib.sha256(server.content).hexdigest()
    packed = SourceJob("packed", {"label": ""}, tmp_path)
    (image,) = Archive(url=url, sha256=digest).read(packed)
    assert (image.name, image.label, image.content.read_bytes()) == ("real/a.jpg", "real", b"a")
    with pytest.raises(DataError, match="could not be downloaded: its sha256 is"):
        list(Archive(url=url, sha256="0" * 64).read(packed))


def test_what_is_finished_or_stored_is_not_asked_for_again_and_all_the_rest_may_fail(tmp_path, server):
    read(tmp_path, base=server.base, names=["good/{0..2}"])
    images, _ = read(tmp_path, {"good/0", "good/4"}, base=server.base, names=["good/{0..4}"])
    assert [image.name for image in images] == ["good/1", "good/2", "good/3"]
    assert server.seen == {f"/good/{n}": 1 for n in range(4)}
    images, quarantine = read(tmp_path, {"good/1"}, base=server.base, names=["good/1", "missing/1"])
    assert (images, len(quarantine)) == ([], 1)


def test_requests_keep_their_distance_and_are_as_many_at_once_as_is_polite(tmp_path, server):
    read(tmp_path, base=server.base, names=["good/{0..4}"], pause=0.1)
    times = sorted(at for _, _, at in server.requests)
    assert all(later - earlier > 0.07 for earlier, later in itertools.pairwise(times))
    server.delay = 0.05
    read(tmp_path, base=server.base, names=["good/{0..11}"], parallel=8, per_host=2)
    assert server.most == 2


def test_a_host_that_cannot_be_reached_is_told_once_and_not_asked_for_every_image(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.05)
    requests, request = [], download.Downloader._request
    monkeypatch.setattr(
        download.Downloader, "_request", lambda self, *words: requests.append(words) or request(self, *words)
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Urls(base=f"http://127.0.0.1:{port}", names=["{0..199}.jpg"], parallel=2, retries=2, pause=0, timeout=5)
    made = job(tmp_path)
    with pytest.raises(DataError, match=r"nothing could be downloaded.*\n.*Connection refused"):
        list(source.read(made))
    assert len(made.quarantine) == 200
    assert len(requests) <= 2 * (1 + 2)  # of two at once, each tried three times


def test_a_list_gives_addresses_with_all_that_is_known_and_a_state_or_an_error(tmp_path, server):
    table, host = tmp_path / "list.csv", server.base[7:]
    rows = f"{server.base}/good/1?x=2,,drawing,anna,test\n{server.base}/good/2,b.jpg,,,\n"
    table.write_text(f"url,name,label,group,split\n{rows}")
    assert [
        (image.name, image.label, image.shared_group, image.split) for image in read(tmp_path, list=str(table))[0]
    ] == [(f"{host}/x=2/good/1", "drawing", "anna", "test"), ("b.jpg", "", "", "")]
    table.write_text(f"url,name\n{server.base}/good/1,a\n{server.base}/good/1,b\n{server.base}/good/2,a\n")
    assert [image.name for image in read(tmp_path, list=str(table))[0]] == ["a"]
    table.write_text(f"{server.base}/good/1\n\n{server.base}/good/1\n# not this\n")
    assert [image.name for image in read(tmp_path, list=str(table))[0]] == [f"{host}/good/1"]
    table.write_text("http://a/1")
    before = Urls(list=str(table)).hash_state()
    table.write_text("http://a/2")
    assert before != Urls(list=str(table)).hash_state()
    assert Urls(urls=["http://a/1"]).hash_state() == ""
    with pytest.raises(DataError, match="none"):
        read(tmp_path, list=str(tmp_path / "none"))
    table.write_text("address\nhttp://x\n")
    with pytest.raises(DataError, match="no column url"):
        read(tmp_path, list=str(table))


def test_ctrl_c_ends_it_promptly_though_the_server_hangs(tmp_path, server):
    code = (
        "import signal, sys; from pathlib import Path; from avatar_bench.sources.reader import SourceJob\n"
        "from avatar_bench.sources.readers.urls import Urls\n"
        f"source = Urls(urls=['{server.base}/hangs/{{0..7}}'], timeout=60)\n"
        # a job in the background of a shell is started deaf to it
        "signal.signal(signal.SIGINT, signal.default_int_handler); print('ready', flush=True)\n"
        "list(source.read(SourceJob('web', {'label': 'real'}, Path(sys.argv[1]))))"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.readline()
    while not server.requests:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    _, stderr = run.communicate(timeout=30)  # half of what the server may take
    assert b"KeyboardInterrupt" in stderr
