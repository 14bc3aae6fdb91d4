"""Tables of images as Parquet: training, evaluation and report as a user types them."""

import shutil

import pandas as pd
import pytest

from avatar_bench.results.result import Result
from tests.builders.commands import read_result


@pytest.mark.slow
def test_results_and_report_from_parquet_are_those_from_csv(images, train, tmp_path, command):
    shutil.copytree(images, tmp_path / "images")
    manifest = tmp_path / "images" / "all.csv"
    pd.read_csv(manifest, dtype=str).to_parquet(manifest.with_suffix(".parquet"), index=False)
    manifest.unlink()
    run = train(
        tmp_path / "run", "tables=parquet", "data.limit=96", f"data.manifest={manifest.with_suffix('.parquet')}"
    )
    assert not (run / "split.csv").exists()
    results = []
    for kind in ("csv", "parquet"):
        copy = shutil.copytree(run, tmp_path / "runs" / kind)
        command("evaluate", f"ckpt={copy}", "block=blind_test", "block.blind_test.resamples=100", f"tables={kind}")
        folder = copy / "evaluation" / "test" / "blind_test"
        assert (folder / f"predictions.{kind}").is_file()
        assert f"predictions.{kind}" in read_result(copy, "test")["files"]
        results.append(Result.load(folder))
    ours, theirs = results
    assert ours.metrics == theirs.metrics
    for name, table in ours.tables.items():
        pd.testing.assert_frame_equal(table, theirs.tables[name], check_dtype=False)
    assert "already there" in command("evaluate", f"ckpt={copy}", "block.blind_test.resamples=100").out
    command("report", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'report.html'}")
    assert "parquet/split.parquet" in (tmp_path / "report.html").read_text(encoding="utf-8")
