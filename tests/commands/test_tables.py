"""Tables of images as Parquet: training, evaluation and report as a user types them."""

import json
import shutil

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.results.result import Result


@pytest.fixture(scope="module")
def run(images, train, tmp_path_factory):
    """Return a run whose manifest and split are Parquet files."""
    folder = tmp_path_factory.mktemp("tables")
    shutil.copytree(images, folder / "images")
    manifest = folder / "images" / "all.csv"
    pd.read_csv(manifest, dtype=str).to_parquet(manifest.with_suffix(".parquet"), index=False)
    manifest.unlink()
    return train(folder / "run", "tables=parquet", f"data.manifest={manifest.with_suffix('.parquet')}")


def test_results_and_report_from_parquet_are_those_from_csv(run, tmp_path, capsys):
    assert not (run / "split.csv").exists()
    collected = {}
    for kind in ("csv", "parquet"):
        place = shutil.copytree(run, tmp_path / "runs" / kind)
        assert main(["evaluate", f"ckpt={place}", "block=blind_test", f"tables={kind}"]) == 0
        folder = next((place / "evaluation").rglob("metrics.json")).parent
        assert (folder / f"predictions.{kind}").is_file()
        assert f"predictions.{kind}" in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["files"]
        collected[kind] = Result.load_if_complete(folder)
    ours, theirs = collected.values()
    assert ours is not None
    assert theirs is not None
    assert ours.metrics == theirs.metrics
    for name, table in ours.tables.items():
        pd.testing.assert_frame_equal(table, theirs.tables[name], check_dtype=False)
    capsys.readouterr()
    assert main(["evaluate", f"ckpt={tmp_path / 'runs' / 'parquet'}", "block=blind_test"]) == 0
    assert "already there" in capsys.readouterr().out
    assert main(["report", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'report.html'}"]) == 0
    assert "parquet/split.parquet" in (tmp_path / "report.html").read_text(encoding="utf-8")
