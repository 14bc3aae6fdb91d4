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


def test_tables_of_a_paper_state_what_their_numbers_speak_for(runs, tmp_path, command):
    folder = runs / "a" / "evaluation/blind/blind_test"
    both = {"value": 0.5, "low": 0.25, "high": 0.75, "unit": "group", "units": 80}
    metrics = {
        "accuracy": Metric(
            0.62, 90, 0.4, 0.8, "logit by source", units=9, population="new sources", these_sources=both
        ),
        "recall/b": Metric(0.7, 45, 0.3, 0.9, "logit by source", units=5, population="new sources"),
    }
    origin = {"checkpoint_sha256": "0" * 64, "data_fingerprint": "g", "options": {"level": 0.9}}
    Result("blind_test", "blind", 90, ("a", "b"), metrics, provenance=origin).save(folder)
    (line,) = command("report", f"runs={runs}", "format=latex").out.splitlines()
    assert line == f"{runs / 'report.tex'}: 2 tables, 1 run, nothing missing"
    blind, test = (runs / "report.tex").read_text().split("\\end{tabular}\n")[:2]
    assert "% blind: 90 images, fingerprint g\n% seed: 1\n" in blind
    assert "% accuracy: for new sources: within each class, sources weigh alike; intervals of 90 %" in blind
    assert "a & 1 & 0.620 [0.400, 0.800] \\\\" in blind
    assert "0.750 [0.700, 0.800]" in test
    words = ("format=latex", "metrics=[accuracy,recall/b]", "population=these_sources", f"out={tmp_path / 'x.tex'}")
    command("report", f"runs={runs}", *words)
    text = (tmp_path / "x.tex").read_text()
    assert "metrics=[accuracy,recall/b]" in text.splitlines()[0]
    assert "a & 1 & 0.500 [0.250, 0.750] \\\\" in text  # recall has no number for them
    assert "% accuracy: for new images of these sources; intervals of 90 %" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["metrics=[acuracy]"], 2, "metrics=acuracy: no result has it; did you mean accuracy?"),
        (["population=new_sources"], 3, "no set has a number for new sources"),
        (["out=page.html"], 2, "out=page.html does not fit format=latex"),
        (["out=mine.tex"], 3, "out=mine.tex is no table of a report, and would be overwritten"),
        (["out=folder.tex"], 5, "out=folder.tex is a folder"),
    ],
)
def test_tables_are_refused_by_name(words, code, message, runs, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("mine.tex").write_text("mine")
    Path("folder.tex").mkdir()
    assert message in command("report", f"runs={runs}", "format=latex", *words, code=code).err
    assert not (runs / "report.tex").exists()
    assert Path("mine.tex").read_text() == "mine"


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
    assert f"{kind}.0 is {ascii(name)[:80]}; expected the name of a file in its folder" in err
    assert not (runs / "report.html").exists()


def test_torch_is_not_loaded(runs):
    code = (
        "import sys; from avatar_bench.cli.app import main; "
        f"assert main(['report', {f'runs={runs}'!r}]) == 0; "
        "assert not {'torch', 'timm', 'cv2', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=120)
