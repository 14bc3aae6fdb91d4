"""Results have no language: another one draws again and computes nothing, and the report is in one language."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import list_blocks
from avatar_bench.evaluation.runner import BlockRunner
from avatar_bench.models.classifier import Classifier
from avatar_bench.results.declaration import declare_block
from tests.commands.test_all_blocks import QUICK, QUICK_COMPARISONS, asking

CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]{3,}")
DIGEST = re.compile(r"\b[0-9a-f]{12,}\b")
# names of methods, formats, options and units that Russian keeps
_KEPT = """
APS AUPR AURC AUROC AVIF Avatar BatchNorm Bouldin Brier CAM CPU CSV Calinski Carlo Cohen Davies ECE EXIF FLOPs FOLDER
FPR GELU GPU Git Grad HTML Harabasz Holm ImageNet IoU JFT JPEG JSON LAC LayerNorm MAC MCC MSP Mahalanobis
Markdown Matthews McNemar MiB NLL ONNX OpenVINO PCA PNG Pareto Pearson PyTorch ReLU SAM SHA SNE SVG Spearman
UMAP WebP Wilson accuracy audit aurc avatar balanced bench block calibration ckpt config contribution corrected
correlation coverage csv decision double drop end energy estimated evaluate excitation fault flagged gain json kNN kappa
knn latency logit macro mahalanobis max metrics msp nats npz overlays patches png precision raw recall run sanity seed
slice spearman split squeeze svg test timm top torch train unbias val worst yaml
"""
KEPT = set(_KEPT.split())


class Texts(HTMLParser):
    """Visible texts of a page, and its alternative texts; without code, scripts and styles."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag in ("code", "script", "style", "svg"):
            self._hidden.append(tag)
        self.found += [value for name, value in attrs if name == "alt" and value]

    def handle_endtag(self, tag):
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()

    def handle_data(self, data):
        if not self._hidden and data.strip():
            self.found.append(data.strip())


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A run evaluated by every block in English, and compared with its copy; and the commands that did so."""
    runs = tmp_path_factory.mktemp("languages") / "runs"
    shutil.copytree(tiny_run, runs / "first", ignore=shutil.ignore_patterns("evaluation"))
    words = ["evaluate", "data.workers=0", *QUICK, *QUICK_COMPARISONS, "block.ensemble.soup=false"]
    alone = [*words, f"ckpt={runs / 'first'}", "block=all"]
    both = [*asking(["blind_test", *list_blocks(("comparison",))], words), f"ckpt={runs}", "skip_unusable=true"]
    assert main(alone) == 0
    shutil.copytree(runs / "first", runs / "second")
    assert main(both) == 0
    return runs, [alone, both]


@pytest.mark.slow
def test_another_language_computes_nothing_and_the_report_is_in_it(evaluated, monkeypatch, capsys):
    def refuse(*_):
        pytest.fail("something was computed again")

    def try_block(self, name, block):
        run_block(self, name, block)  # a block that cannot be used here is tried again, and raises BlockError
        refuse()

    runs, commands = evaluated
    run_block = BlockRunner._run_block
    files = [file for ending in ("json", "csv") for file in runs.rglob(f"evaluation/**/*.{ending}")]
    assert files
    assert [file for file in files if CYRILLIC.search(file.read_text(encoding="utf-8"))] == []  # numbers have none
    before = {file: file.read_bytes() for file in runs.rglob("metrics.json")}
    monkeypatch.setattr(Classifier, "embed", refuse)
    monkeypatch.setattr(BlockRunner, "_run_block", try_block)
    for words in commands:
        assert main([*words, "lang=ru"]) == 0
    assert {file: file.read_bytes() for file in runs.rglob("metrics.json")} == before
    kept = [file for file in before if "second" not in file.parts or file.parent.name == "blind_test"]
    assert capsys.readouterr().out.count("already there: ") >= len(kept)
    for file in kept:
        if "evaluation" in file.parts:
            names = json.loads(file.read_text(encoding="utf-8"))["figures"]
            assert [name for name in names if not (file.parent / "ru" / f"{name}.svg").is_file()] == []
    shutil.copytree(runs / "first" / "evaluation", runs / "second" / "evaluation", dirs_exist_ok=True)
    assert main(["report", f"runs={runs}", "lang=ru"]) == 0
    assert find_english(runs) == {}


def find_english(runs, *tables):
    """Return the texts of a Russian report with the words in them that are English and no names, also in `tables`."""
    page = Texts()
    page.feed((runs / "report.html").read_text(encoding="utf-8").replace("<wbr>", ""))
    names = dict.fromkeys(sorted(collect_names(runs, *tables), key=len, reverse=True))
    collected: dict[str, list[str]] = {}
    for text in page.found:
        if text in names or "/" in text.split(" ")[0]:
            continue
        plain = DIGEST.sub(" ", text)
        for name in (name for name in names if name in text):
            plain = re.sub(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", " ", plain)
        words = [word for word in WORD.findall(plain) if word not in KEPT]
        if words:
            collected[text] = words
    return collected


def collect_names(runs, *tables):
    """Return the names in the results: of runs, sets, classes, blocks, metrics, columns, files and values in tables."""
    names = [runs.name, "first", "second", "drawing", "generated", "real", "main", "blind"]
    names += [*declare_block("overview").figures, *(folder.parent.name for folder in runs.rglob("ensemble.json"))]
    for file in runs.rglob("metrics.json"):
        saved = json.loads(file.read_text(encoding="utf-8"))
        if "metrics" in saved:
            names += [saved["block"], *saved["metrics"], *saved["files"], *(f"{name}.png" for name in saved["figures"])]
            names += [run["label"] for run in saved["provenance"].get("compared", ())]
    names += re.findall(r"[\w.]+", (runs / "first" / "config.yaml").read_text(encoding="utf-8"))
    saved_tables = [*runs.rglob("split.csv"), *runs.rglob("evaluation/**/*.csv")]
    names += [cell for file in saved_tables for cell in read_cells(file) if " " not in cell]
    names += [cell for file in tables for cell in read_cells(file)]
    return [name for name in set(names) if len(name) > 2]


def read_cells(file):
    with file.open(encoding="utf-8", newline="") as rows:
        return [cell for row in list(csv.reader(rows))[1:] for cell in row]
