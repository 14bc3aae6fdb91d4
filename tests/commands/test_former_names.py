"""Blocks that are now called otherwise, or part of another one: they are run, compared and reported by both names."""

import json
import shutil

import pytest

from avatar_bench.cli.app import main
from avatar_bench.results.result import Result

BLOCK = '''"""How many images there are."""

from dataclasses import dataclass
from typing import ClassVar

from avatar_bench.config.options import Options, option
from avatar_bench.results.result import Metric, Result


@dataclass(kw_only=True)
class Count(Options):
    """Number of images."""

    version: ClassVar[int] = 1

    add: int = option(0, help="added to the number")

    def evaluate(self, run, dataset):
        """Count the images."""
        result = Result("count", dataset.name, len(dataset), run.classes)
        result.metrics["number"] = Metric(float(len(dataset) + self.add), len(dataset))
        return result
'''
ABOUT = "title: Count of the images\nsummary: the number of images\nformer_names: [sum_of_images, tally]\n"


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "my" / "block" / "count"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(BLOCK, encoding="utf-8")
    (folder / "about.yaml").write_text(ABOUT, encoding="utf-8")
    return str(tmp_path / "my")


def evaluate(run, own, *words):
    return main(["evaluate", "-cd", own, f"ckpt={run}", "data.workers=0", *words])


@pytest.mark.parametrize("value", ["tally", "[tally, count,sum_of_images]"])
def test_a_former_name_runs_the_block_once_and_names_it(value, run_copy, own, capsys):
    assert evaluate(run_copy, own, f"block={value}", "block.count.add=2") == 0
    err = [line for line in capsys.readouterr().err.splitlines() if "is now" in line]
    assert err[0] == "warning: block 'tally' is now 'count'"
    assert len(err) == value.count("tally") + value.count("sum_of")
    assert [folder.name for folder in (run_copy / "evaluation/test").iterdir()] == ["count"]


def test_an_option_under_a_former_name_is_refused_with_the_name_of_now(run_copy, own, capsys):
    assert evaluate(run_copy, own, "block=tally", "block.tally.add=2") == 2
    assert capsys.readouterr().err.splitlines() == [
        "warning: block 'tally' is now 'count'",
        "block.tally.add: block 'tally' is now 'count'",
        "its options: avatar-bench evaluate block=count --help",
    ]


def test_a_result_under_a_former_name_is_reported_and_compared(run_copy, own, tmp_path, capsys):
    assert evaluate(run_copy, own, "block=count") == 0
    other = tmp_path / "other"
    shutil.copytree(run_copy, other)
    saved = (run_copy / "evaluation/test/count").rename(run_copy / "evaluation/test/tally") / "metrics.json"
    saved.write_text(json.dumps(json.loads(saved.read_text(encoding="utf-8")) | {"block": "tally"}), encoding="utf-8")
    assert main(["report", "-cd", own, f"runs={run_copy}", f"out={tmp_path / 'report.html'}"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Count of the images" in page
    assert "This block is not installed here" not in page
    capsys.readouterr()
    assert evaluate(other, own, "block=count", "block.count.add=3", f"against={run_copy}") == 0
    differences = Result.load(other / "evaluation/test/against").tables["differences"]
    assert differences.loc[0, ["block", "metric", "difference"]].tolist() == ["count", "number", 3.0]
