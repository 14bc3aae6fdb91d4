"""Secrets of the environment: absent from run files, reports and messages."""

import pytest

from avatar_bench.cli.app import main

CANARY = "tweet7f3a"
VARIABLES = {
    **dict.fromkeys(("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "MY_PASSWORD"), CANARY),
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://me:{CANARY}@127.0.0.1:9"),
    **dict.fromkeys(("PIP_INDEX_URL", "PIP_PROXY"), f"http://me:{CANARY}@127.0.0.1:9/simple"),
}


@pytest.fixture
def secrets(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def find_canary(folder):
    return [file for file in folder.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]


def test_a_run_its_figures_and_its_report_hold_no_secret(secrets, train, tmp_path, capfd):
    run = train(tmp_path / "runs" / "one", "logger=csv", "trainer=debug")
    words = ["block=blind_test", "block.blind_test.resamples=100", "data.workers=0", "accelerator=cpu"]
    assert main(["evaluate", f"ckpt={run}", *words]) == 0
    assert main(["report", f"runs={tmp_path / 'runs'}"]) == 0
    printed = capfd.readouterr()
    assert find_canary(tmp_path) == []
    assert CANARY not in printed.out + printed.err


@pytest.mark.parametrize(
    ("kind", "word"), [("urls", "list=list.txt"), ("archive", "url=http://127.0.0.1:9/a.zip"), ("tabler", "")]
)
def test_a_source_that_cannot_be_had_tells_no_secret(kind, word, secrets, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/a.png\n")
    options = [f"source.{kind}.{text}" for text in (word, "label=x", "licence=x", "author=x") if word]
    assert main(["prepare", f"source={kind}", *options, "out=set"]) in (2, 3)
    printed = capfd.readouterr()
    assert printed.err
    assert CANARY not in printed.out + printed.err
    assert find_canary(tmp_path) == []
