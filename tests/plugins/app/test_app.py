import io
import os
import re
import signal
import subprocess
import sys

import pytest

from avatar_bench.cli.app import main

# runs the command with all sockets but loopback refused, and writes down each attempt
GUARDED = """
import socket, sys
connect, find = socket.socket.connect, socket.getaddrinfo
def is_own(host):
    return str(host) in ("127.0.0.1", "localhost", "::1")
def refuse(what):
    print("ATTEMPT", what, file=sys.stderr, flush=True)
    raise OSError("refused by the test")
def connect_home(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not is_own(address[0]):
        refuse(address)
    return connect(self, address)
def find_home(host, *rest, **more):
    if host is not None and not is_own(host):
        refuse(host)
    return find(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect_home, find_home
from avatar_bench.cli.app import main
sys.exit(main())
"""


def test_hash_prints_a_line_for_auth(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    assert main(["app", "hash=anna"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("anna:scrypt$")
    assert "horse" not in printed


def test_an_unsafe_password_file_is_refused_before_anything_is_loaded(tiny_run, tmp_path, capsys):
    pytest.importorskip("fastapi")
    file = tmp_path / "people.txt"
    file.write_text("anna:hunter2\n")
    for mode, reason in ((0o644, "other users"), (0o600, "line 1")):
        file.chmod(mode)
        assert main(["app", f"ckpt={tiny_run}", f"auth={file}"]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "hunter2" not in error


@pytest.mark.slow
def test_the_app_runs_calls_nobody_and_ends_on_ctrl_c(tiny_run, images, tmp_path):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    content = next((images / "blind" / "real").rglob("*.*")).read_bytes()
    with (tmp_path / "errors.txt").open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", GUARDED, "app", f"ckpt={tiny_run}", "port=0", "threads=1"],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http://127.0.0.1:"))
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.post("/api/predict", files={"file": ("a.png", content)}).json()["status"] == "ok"
            assert client.get("/").status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
    finally:
        process.kill()
    errors = (tmp_path / "errors.txt").read_text()
    assert "ATTEMPT" not in errors
    loading = re.compile(r"Loading .* \.\.\.")  # what takes long on a busy machine says so
    assert [line for line in errors.splitlines() if not loading.fullmatch(line)] in ([], ["interrupted"])
    assert list(tmp_path.glob("avatar-bench-*")) == []
