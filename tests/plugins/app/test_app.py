from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_hash_prints_a_line_for_auth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    assert main(["app", "hash=anna"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("anna:scrypt$")
    assert "horse" not in printed


def test_an_unsafe_password_file_is_refused_before_anything_is_loaded(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    file = tmp_path / "people.txt"
    file.write_text("anna:hunter2\n")
    for mode, reason in ((0o644, "other users"), (0o600, "line 1")):
        file.chmod(mode)
        assert main(["app", f"ckpt={tiny_run}", f"auth={file}"]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "hunter2" not in error


@pytest.mark.parametrize(
    ("words", "code"),
    [(["port=70000"], 2), (["limits.image_mb=300"], 2), (["limits.queue=0"], 2), (["ckpt=none"], 4)],
)
def test_invalid_options_are_refused(words: list[str], code: int) -> None:
    pytest.importorskip("fastapi")
    assert main(["app", *words]) == code


def start_app(run: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command, whose temporary files and errors.txt are in a folder; return it and the address it prints."""
    with (folder / "errors.txt").open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", GUARDED, "app", f"ckpt={run}", "port=0", "threads=1"],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    assert process.stdout is not None
    return process, next(word for word in process.stdout.readline().split() if word.startswith("http://127.0.0.1:"))


@pytest.mark.slow
def test_the_app_runs_calls_nobody_and_ends_on_ctrl_c(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    file = next((images / "blind" / "real").rglob("*.*"))
    killed, url = start_app(tiny_run, tmp_path)
    many = [("files", (f"{number}.png", file.read_bytes())) for number in range(300)]
    with httpx.stream("POST", f"{url}page/batch", files=many, timeout=60) as answer:
        next(answer.iter_lines())
        killed.kill()
    killed.wait()
    assert list(tmp_path.rglob("299.png"))
    process, url = start_app(tiny_run, tmp_path)
    try:
        assert not list(tmp_path.rglob("299.png"))
        with httpx.Client(base_url=url, timeout=60) as client:
            found = client.post("/api/predict", files={"file": ("a.png", file.read_bytes())})
            assert found.json()["status"] == "ok"
            assert client.get("/").status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
    finally:
        process.kill()
    errors = (tmp_path / "errors.txt").read_text()
    assert "ATTEMPT" not in errors
    assert len(errors.splitlines()) <= 1  # that probabilities are not calibrated
    assert list(tmp_path.glob("avatar-bench-*")) == []
