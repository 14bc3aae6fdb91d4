"""Lines for the terminal: what a stranger named is shown, not obeyed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.error_messages import explain
from avatar_bench.console.terminal import escape_control_characters, format_count, hide_credentials
from avatar_bench.errors import DataError

OBEYED = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\u2028\r\n\t\x00\udcff"


def is_shown(text):
    return not set(text) & set(OBEYED.replace("\n", "").replace("]", "").replace("[", "")) - set("0;owned2J31m")


def test_every_character_that_a_terminal_obeys_is_written_out_and_any_other_stays():
    written = r"\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\u2028\r\n\t\x00\udcff"
    assert escape_control_characters(OBEYED) == written
    for text in ("кот.png", "a b", "日本", "é\u0301", r"C:\x1b", "👩‍🎨"):
        assert escape_control_characters(text) == text


def test_an_error_is_shown_in_three_lines_whatever_it_quotes():
    lines, code = explain(DataError(f"{OBEYED.replace(chr(10), '')} is broken."))
    assert (code, len(lines)) == (3, 1)
    assert is_shown(lines[0])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("proxy http://me:tweet@host:8080/ failed", "proxy http://***@host:8080/ failed"),
        ("https://tweet@host.org/a.git", "https://***@host.org/a.git"),
        ("https://host.org/@me and a@b.org", "https://host.org/@me and a@b.org"),
    ],
)
def test_no_password_of_an_address_is_shown(text, shown):
    assert hide_credentials(text) == shown
    assert explain(DataError(text))[0] == (shown,)


def test_the_table_of_runs_shows_hostile_names(tmp_path, capfd):
    run = tmp_path / "run\x1b[2J\u202e\nx"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "fin\x1b[31mished", "model": "\x9b5m"}))
    assert main(["list", "runs", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert len(out.splitlines()) == 2
    assert is_shown(out)
    assert r"run\x1b[2J\u202e\nx" in out


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_cannot_write_end_no_command(encoding, tmp_path):
    run = os.fsencode(tmp_path) + b"/\xff\xd0\xba"
    os.mkdir(run)
    Path(os.fsdecode(run), "run.json").write_text('{"status": "кот"}', encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C"}
    words = [sys.executable, "-m", "avatar_bench", "list", "runs", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\udcff" in done.stdout
    words = [*words[:3], "report", b"runs=" + run + b"\xfe"]
    missing = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert missing.returncode in (2, 3, 4)
    assert b"Traceback" not in missing.stderr
    assert len(missing.stderr.splitlines()) <= 3


def test_one_thing_is_no_plural():
    counted = [format_count(number, "such pair") for number in (0, 1, 2)]
    assert counted == ["0 such pairs", "1 such pair", "2 such pairs"]
