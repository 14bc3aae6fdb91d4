"""No command of an installation with all extras connects to anything but the machine itself."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.commands.test_all_blocks import QUICK

RUN = """
import json, sys
from avatar_bench.cli.app import main
for words in json.load(sys.stdin):
    assert main(words) == 0, words
"""
OWN = re.compile(r"127\.0\.0\.1|::1\"|::ffff:127\.")


def find_foreign(trace):
    """Return the connections and datagrams to internet addresses other than the machine's own."""
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if "sa_family=AF_INET" in line and not OWN.search(line)]


def watch(code, text, trace):
    """Run code, which reads a text, in a process whose system calls are watched, with those it starts."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    watched = [strace, "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(trace), sys.executable, "-c", code]
    done = subprocess.run(watched, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return find_foreign(trace)


@pytest.mark.slow
def test_an_attempt_would_be_seen(tmp_path):
    address = "http://192.0.2.1:9/a.csv"  # an address that leads nowhere (RFC 5737)
    code = f"import urllib.request as r\ntry: r.urlopen('{address}', timeout=1)\nexcept OSError: pass"
    assert len(watch(code, "", tmp_path / "trace")) == 1


@pytest.mark.slow
def test_no_command_connects_anywhere(tiny_run, images, small, tmp_path):
    run, folder, file = tmp_path / "run", images / "blind", next((images / "blind" / "real").rglob("*.png"))
    shutil.copytree(tiny_run, run)
    at, quick = f"ckpt={run}", ["resamples=100", "folds=2", "label_errors=false"]
    blocks = [
        *("block=[blind_test,gradcam,efficiency]", "block.blind_test.resamples=100", "block.efficiency.resamples=100"),
        *(word for word in QUICK if word.startswith(("block.gradcam.", "block.efficiency."))),
    ]
    commands = [
        ["list", "models"],
        ["prepare", "source=folder", f"source.folder.root={folder}", f"out={tmp_path / 'data'}"]
        + [f"block.data_audit.{option}" for option in quick],
        ["train", *[word for word in small if word != "logger=none"], "logger=tensorboard", f"out={tmp_path / 'new'}"],
        ["evaluate", at, *dict.fromkeys(blocks), "split=blind", "data.workers=0"],
        ["report", f"runs={tmp_path}", f"out={tmp_path / 'report.html'}"],
        ["calibrate", at, "split=val", "workers=0"],
        *(
            ["predict", at, f"input={file.parent}", f"output={tmp_path / name}", *words]
            for name, *words in (
                ("a.csv", "workers=0", "runtime=openvino", "evidence=true"),
                ("b.html", "workers=0", "lang=ru", f"explain={tmp_path / 'cam'}"),
                ("c.parquet", "engine=ray", "engine.actors=1"),
            )
        ),
        ["export", at, f"out={tmp_path / 'net.onnx'}"],
        ["import", "kind=onnx", f"file={tmp_path / 'net.onnx'}", f"out={tmp_path / 'imported'}"],
        ["vary", at, "split=blind", f"out={tmp_path / 'varied'}"]
        + [f"block.robustness.{option}" for option in ("severities=[3]", "corruptions=[noise]")],
        ["predict", f"ckpt={tmp_path / 'imported'}", str(file)],
    ]
    assert watch(RUN, json.dumps(commands), tmp_path / "trace") == []
