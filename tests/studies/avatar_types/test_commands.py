"""The study's folder as a user takes it: -cd adds its block to evaluate, list and report, in both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config.entries import FOLDERS_VARIABLE, use_folders
from avatar_bench.config.options import iterate_options
from avatar_bench.evaluation.block import build_block
from avatar_bench.i18n import load_catalogue
from avatar_bench.results.result import Result
from tests.builders.commands import copy_run
from tests.commands.test_languages import find_english
from tests.i18n.test_translations import list_calls, list_texts, places


@pytest.fixture(scope="module")
def runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "runs"
    copy_run(tiny_run, folder / "first", folder / "second")
    return folder


@pytest.fixture(autouse=True)
def use_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to -cd."""
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)


def test_the_block_is_known_with_the_folder_alone(runs: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "blocks"]) == 0
    assert "transformers" not in capsys.readouterr().out
    assert main(["list", "blocks", "-cd", str(study)]) == 0
    assert "transformers" in capsys.readouterr().out
    assert main(["evaluate", f"ckpt={runs}", "block=transformers"]) == 2
    assert "block=transformers: this is of studies/avatar_types of the repository: add -cd" in capsys.readouterr().err
    words = ["-cd", str(study), "transformers.power=2", "block=transformers"]
    assert main(["evaluate", f"ckpt={runs}", *words]) == 2
    assert "did you mean block.transformers.power?" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_evaluated_and_reported_with_the_folder_and_still_reported_without(
    runs: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"ckpt={runs}", "block=transformers", "block.transformers.resamples=100", "data.workers=0"]
    assert main(["evaluate", "-cd", str(study), *words]) == 0
    folder = runs / "evaluation" / "test" / "transformers"
    found = Result.load_if_complete(folder)
    assert found is not None
    assert found.metrics["significant_pairs"].n == 0
    tables = ("recipes", "protocol", "history", "study")
    assert [name for name in tables if not (folder / f"{name}.csv").is_file()] == []
    capsys.readouterr()
    assert main(["evaluate", "-cd", str(study), *words, "lang=ru"]) == 0
    assert "already there" in capsys.readouterr().out
    drawn = [sorted(file.name for file in at.glob("*.svg")) for at in (folder, folder / "ru")]
    assert drawn[0] == drawn[1] != []
    assert main(["report", "-cd", str(study), f"runs={runs}", "lang=ru"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "Трансформеры, SAM и предобучение" in page
    published = (study / "block" / "transformers" / f"{name}.csv" for name in ("history", "study"))
    assert [text for text in find_english(runs, *published) if "efficiency" not in text] == []  # not evaluated here
    assert main(["report", f"runs={runs}"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "This block is not installed here: add its folder, -cd DIR." in page
    assert "significant_pairs" in page


def test_its_catalogue_has_every_text_that_the_package_lacks_and_no_other(study: Path) -> None:
    block, known = study / "block" / "transformers", load_catalogue("ru").texts
    texts = {text for file in block.glob("*.py") for text in list_calls(file)}
    texts |= set(list_texts(yaml.safe_load((block / "about.yaml").read_text(encoding="utf-8"))))
    catalogue = yaml.safe_load((block / "ru.yaml").read_text(encoding="utf-8"))
    assert sorted(catalogue) == sorted(texts - set(known)) == list(catalogue)
    for text, translated in catalogue.items():
        for form in [translated] if isinstance(translated, str) else translated:
            assert places(form) == places(text), text


def test_its_page_names_every_option(study: Path) -> None:
    page = (study.parents[1] / "docs" / "studies" / "transformers.md").read_text(encoding="utf-8")
    with use_folders([study]):
        options = [each.name for each, __ in iterate_options(type(build_block("transformers")))]
    assert [option for option in options if f"`{option}`" not in page] == []
