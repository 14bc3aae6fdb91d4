"""The command as a user types it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from avatar_bench.cli.app import main
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


def test_one_line_says_what_was_written_and_what_it_found(runs, capsys):
    assert main(["report", f"runs={runs}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{runs / 'report.html'}: ")
    assert line.endswith("a on test: accuracy 0.750 [0.700, 0.800].")
    assert {file.name for file in runs.iterdir()} == {"a", "report.html", "report.md"}


def test_the_page_goes_where_it_is_asked(runs, tmp_path, capsys):
    assert main(["report", f"runs={runs}", f"out={tmp_path / 'x' / 'my page.html'}", "lang=ru"]) == 0
    assert {file.name for file in (tmp_path / "x").iterdir()} == {"my page.html", "my page.md"}
    assert '<html lang="ru">' in (tmp_path / "x" / "my page.html").read_text()
    assert not (runs / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["runs=nowhere"], 3, "there is no such folder"),
        (["lang=de"], 2, "lang=de: expected en or ru"),
        (["out=page.pdf"], 2, "out=page.pdf: expected a file that ends in .html or .htm"),
        (["runs="], 2, "runs= is empty"),
        (["nosuch=1"], 2, "nosuch"),
    ],
)
def test_mistakes_are_told_in_few_lines(words, code, told, runs, capsys):
    given = words if words[0].startswith("runs") else [f"runs={runs}", *words]
    assert main(["report", *given]) == code
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) <= 3


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert main(["report", f"runs={tmp_path}"]) == 3
    assert "contains no run" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told(runs, capsys):
    (runs / "file").write_text("")
    assert main(["report", f"runs={runs}", f"out={runs / 'file' / 'page.html'}"]) == 5
    assert "cannot be written" in capsys.readouterr().err
    (runs / "report.html").mkdir()
    assert main(["report", f"runs={runs}"]) == 5
    assert "is a folder" in capsys.readouterr().err


def test_a_page_that_is_no_report_is_not_replaced(runs, capsys):
    page = runs / "index.html"
    page.write_text("<p>avatar_bench 1.0 is what I use</p>")
    assert main(["report", f"runs={runs}", f"out={page}"]) == 3
    assert f"out={page}: {page}, which is no report, would be overwritten." in capsys.readouterr().err
    assert page.read_text() == "<p>avatar_bench 1.0 is what I use</p>"
    assert not page.with_suffix(".md").exists()
    page.unlink()
    for _ in range(2):  # the second replaces the first
        assert main(["report", f"runs={runs}", f"out={page}"]) == 0


def test_a_disk_that_fills_leaves_the_earlier_page_and_its_markdown(runs, monkeypatch, capsys):
    assert main(["report", f"runs={runs}"]) == 0
    before = {file: file.read_bytes() for file in runs.glob("report.*")}
    write_text = Path.write_text

    def fill(file, text, *args, **options):
        if file.name.startswith("report.html"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(file, text, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill)
        assert main(["report", f"runs={runs}", "lang=ru"]) == 5
    assert "No space left on device" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in runs.glob("report.*")} == before


@pytest.mark.parametrize(
    ("kind", "outside"),
    [("figures", "../../../../secret"), ("figures", "{root}/secret"), ("files", "a/../../secret.csv")],
)
def test_a_result_names_only_files_in_its_folder(kind, outside, runs, tmp_path, capsys):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    (tmp_path / "secret.csv").write_text("source,accuracy\nsecret,1\n")
    file = runs / "a/evaluation/test/blind_test/metrics.json"
    saved = json.loads(file.read_text())
    saved[kind] = [outside.format(root=tmp_path)]
    file.write_text(json.dumps(saved))
    assert main(["report", f"runs={runs}"]) == 3  # the only result is damaged
    assert f"{saved[kind][0]!r} is not the name of a file in its folder" in capsys.readouterr().err
    assert not (runs / "report.html").exists()


def test_torch_is_not_loaded(runs):
    code = (
        "import sys; from avatar_bench.cli.app import main; "
        f"assert main(['report', {f'runs={runs}'!r}]) == 0; "
        "assert not {'torch', 'timm', 'cv2', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=120)
