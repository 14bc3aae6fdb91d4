"""report, as a user types it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from avatar_bench.results.result import Metric, Result


@pytest.fixture
def runs(tmp_path):
    """Return a folder of one evaluated run."""
    folder = tmp_path / "my runs, [1]" / "a"
    folder.mkdir(parents=True)
    record = {"status": "finished", "experiment": "a", "checkpoint_sha256": "0" * 64, "seed": 1}
    (folder / "run.json").write_text(json.dumps(record))
    metrics = {"accuracy": Metric(0.75, 90, 0.7, 0.8, "wilson")}
    origin = {"checkpoint_sha256": "0" * 64, "data_fingerprint": "f"}
    Result("blind_test", "test", 90, ("a", "b"), metrics, provenance=origin).save(folder / "evaluation/test/blind_test")
    return folder.parent


def test_one_line_says_what_was_written_and_what_it_shows_where_it_is_asked_to(runs, tmp_path, command):
    (line,) = command("report", f"runs={runs}", f"out={tmp_path / 'x' / 'my page.html'}", "lang=ru").out.splitlines()
    assert {file.name for file in (tmp_path / "x").iterdir()} == {"my page.html", "my page.md"}
    assert '<html lang="ru">' in (tmp_path / "x" / "my page.html").read_text()
    (line,) = command("report", f"runs={runs}").out.splitlines()
    assert line.startswith(f"{runs / 'report.html'}: ")
    assert line.endswith("a on test: accuracy 0.750 [0.700, 0.800].")
    assert {file.name for file in runs.iterdir()} == {"a", "report.html", "report.md"}


def test_a_page_that_is_no_report_is_not_replaced(runs, command):
    page, text = runs / "index.html", "<p>avatar_bench 1.0 is what I use</p>"
    page.write_text(text)
    err = command("report", f"runs={runs}", f"out={page}", code=3).err
    assert f"out={page}: {page}, which is no report, would be overwritten." in err
    assert page.read_text() == text
    assert not page.with_suffix(".md").exists()
    page.unlink()
    for _ in range(2):  # the second replaces the first
        command("report", f"runs={runs}", f"out={page}")
    assert "cannot be written" in command("report", f"runs={runs}", f"out={page / 'page.html'}", code=5).err
    (runs / "report.html").mkdir()
    assert "is a folder" in command("report", f"runs={runs}", code=5).err


def test_a_disk_that_fills_leaves_the_earlier_page_and_its_markdown(runs, monkeypatch, command):
    command("report", f"runs={runs}")
    before = {file: file.read_bytes() for file in runs.glob("report.*")}
    write_text = Path.write_text

    def fill(file, text, *args, **options):
        if file.name.startswith("report.html"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(file, text, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill)
        assert "No space left on device" in command("report", f"runs={runs}", "lang=ru", code=5).err
    assert {file: file.read_bytes() for file in runs.glob("report.*")} == before


@pytest.mark.parametrize(
    ("kind", "outside"),
    [("figures", "../../../../secret"), ("figures", "{root}/secret"), ("files", "a/../../secret.csv")],
)
def test_a_result_names_only_files_in_its_folder(kind, outside, runs, tmp_path, command):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    (tmp_path / "secret.csv").write_text("source,accuracy\nsecret,1\n")
    file, name = runs / "a/evaluation/test/blind_test/metrics.json", outside.format(root=tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {kind: [name]}))
    err = command("report", f"runs={runs}", code=3).err  # the only result is damaged
    assert f"{name!r} is not the name of a file in its folder" in err
    assert not (runs / "report.html").exists()


def test_torch_is_not_loaded(runs):
    code = (
        "import sys; from avatar_bench.cli.app import main; "
        f"assert main(['report', {f'runs={runs}'!r}]) == 0; "
        "assert not {'torch', 'timm', 'cv2', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=120)
