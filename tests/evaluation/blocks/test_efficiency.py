"""Tests of the block efficiency: on the tiny run for its structure, on made-up timings for its figures."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.config.schema import PredictConfig
from avatar_bench.data.dataset import list_files
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.blocks.efficiency import Efficiency, figures
from avatar_bench.evaluation.blocks.efficiency import latency as timing
from avatar_bench.i18n import LANGUAGES, use_language
from avatar_bench.inference import autotune
from avatar_bench.inference.autotune import count_workers
from avatar_bench.inference.runtimes import find_missing_package
from avatar_bench.models import profiling
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from avatar_bench.runs.file_predictor import ComputeOptions
from avatar_bench.runs.run import Run
from tests.models.small import count_macs

FAST: dict[str, Any] = {
    "batches": [1, 4],
    "threads": [1],
    "rounds": 3,
    "seconds": 0.05,
    "passes": 2,
    "pass_seconds": 0.0,
    "resamples": 100,
    "workers": [],
}


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return the function that times predict in a process, and replace it: its start takes seconds."""
    passes = pd.DataFrame({"round": [0, 1], "images": [128, 128], "seconds": [0.5, 0.54]})
    passes = passes.assign(command="predict", runtime="onnx", precision="32", threads=2, workers=2, batch=64)
    real = timing.time_predict
    monkeypatch.setattr(timing, "time_predict", lambda *given: passes[[*timing.SETTING, *timing.PASS_COLUMNS]])
    return real


@pytest.fixture(scope="module")
def saved(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Result of the tiny run, saved by the command; two settings of threads, workers 0."""
    out = tmp_path_factory.mktemp("efficiency")
    words = [f"block.efficiency.{name}={value}".replace(" ", "") for name, value in FAST.items()]
    words += ["block.efficiency.threads=[1,2]", "block.efficiency.tolerance=1000", "data.workers=0"]
    assert main(["evaluate", f"ckpt={tiny_run}", "block=efficiency", f"out={out}", *words]) == 0
    return out / "evaluation" / "test" / "efficiency"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    said = json.loads((folder / "metrics.json").read_text())
    return said, {file.stem: pd.read_csv(file) for file in folder.glob("*.csv")}


def test_the_metrics_are_those_of_the_contract(saved: Path) -> None:
    said, tables = read(saved)
    kinds = ("latency_ms", "latency_ms_p95", "images_per_second")
    names = {f"{kind}/b{batch}" for kind in kinds for batch in (1, 4)}
    names |= {"params_m", "macs_g", "weights_mb", "peak_memory_mb", "noise", "end_to_end_images_per_second"}
    names |= {"processor_share", "torch/end_to_end_images_per_second"}
    assert set(said["metrics"]) == names
    assert next(iter(said["metrics"])) == "end_to_end_images_per_second"
    for name, metric in said["metrics"].items():
        assert metric["higher_is_better"] is ("images_per_second" in name or name == "processor_share")
    assert set(tables) == {"latency", "end_to_end", "samples", "passes", "layers", "memory"}
    assert (saved / "latency.png").is_file()
    assert said["provenance"]["machine"]["torch"] == torch.__version__


def test_every_time_can_be_recomputed_from_the_saved_calls(saved: Path) -> None:
    said, tables = read(saved)
    first = tables["samples"].query("network == 'run' and threads == 1")
    for batch in (1, 4):
        seconds = first.loc[first["batch"] == batch, "seconds"]
        median, high = np.median(seconds), np.quantile(seconds, 0.95)
        expected = {"latency_ms": 1000 * median, "latency_ms_p95": 1000 * high, "images_per_second": batch / median}
        for kind, value in expected.items():
            metric = said["metrics"][f"{kind}/b{batch}"]
            assert metric["value"] == pytest.approx(value, rel=1e-6)
            assert metric["n"] == 3
            assert metric["low"] <= metric["value"] <= metric["high"]
    for command, prefix in (("predict", ""), ("evaluate", "torch/")):
        passes = tables["passes"].query("command == @command")
        rates = passes["images"] / passes["seconds"]
        found = said["metrics"][f"{prefix}end_to_end_images_per_second"]["value"]
        assert found == pytest.approx(np.median(rates), rel=1e-6)
        noise = tables["end_to_end"].set_index("command").loc[command, "noise"]
        assert noise == pytest.approx(rates.max() / rates.min() - 1, rel=1e-6)


def test_noise_can_be_recomputed_from_the_saved_calls(saved: Path) -> None:
    said, tables = read(saved)
    first = tables["samples"].query("threads == 1")
    medians = first.groupby(["batch", "network"])["seconds"].median().unstack()
    assert set(medians) == {"copy", "run"}
    expected = medians.max(axis=1) / medians.min(axis=1) - 1
    table = tables["latency"].query("network == 'run' and threads == 1").set_index("batch")
    np.testing.assert_allclose(table["noise"], expected, rtol=1e-9)
    assert said["metrics"]["noise"]["value"] == pytest.approx(expected.max(), rel=1e-9)
    assert tables["latency"].query("threads == 2")["noise"].isna().all()


def test_the_counts_are_those_of_the_network(saved: Path, tiny_run: Path) -> None:
    said = read(saved)[0]["metrics"]
    weights = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    learnt = [value.numel() for name, value in weights.items() if name.endswith(("weight", "bias"))]
    assert said["params_m"]["value"] == pytest.approx(sum(learnt) / 1e6)
    net = [value for name, value in weights.items() if name.startswith("net.")]
    assert said["weights_mb"]["value"] == pytest.approx(sum(v.numel() * v.element_size() for v in net) / 1e6)
    run = Run.open(tiny_run)
    assert said["macs_g"]["value"] == pytest.approx(count_macs(run.predictor.module.net, 32) / 1e9)
    assert said["peak_memory_mb"]["value"] > said["weights_mb"]["value"] + 4 * 3 * 32 * 32 / 1e6


def test_the_counts_can_be_recomputed_from_the_saved_layers_and_operations(saved: Path) -> None:
    said, tables = read(saved)
    expected = tables["layers"][["params", "macs", "bytes"]].sum()
    assert said["metrics"]["params_m"]["value"] == pytest.approx(expected["params"] / 1e6, rel=1e-6)
    assert said["metrics"]["macs_g"]["value"] == pytest.approx(expected["macs"] / 1e9, rel=1e-6)
    assert said["metrics"]["weights_mb"]["value"] == pytest.approx(expected["bytes"] / 1e6, rel=1e-6)
    assert said["metrics"]["peak_memory_mb"]["value"] == pytest.approx(tables["memory"]["bytes"].max() / 1e6, rel=1e-6)


def test_one_image_is_always_among_the_batches() -> None:
    assert Efficiency(batches=[8]).batches == [1, 8]
    assert Efficiency(batches=[]).batches == [1]
    assert Efficiency(batches=[32, 1, 8, 8]).batches == [1, 8, 32]


def test_torch_has_as_many_threads_as_before(tiny_run: Path) -> None:
    run, before = Run.open(tiny_run, workers=0), torch.get_num_threads()
    Efficiency(**FAST | {"threads": [before + 1]}).evaluate(run, run.dataset("test"))
    assert torch.get_num_threads() == before
    assert run.predictor.workers == 0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Callable[..., Result]:
    """Return the Result of made-up times: 10 ms an image, 1 + `slower` times that for the copy.

    Passes over files take 1 second, and 1 + `late`; the processor works for a `share` of the time.
    """

    def give(slower: float, late: float = 0.05, share: float = 0.95, **options: Any) -> Result:
        cases = [(1, "run"), (4, "run"), (1, "copy"), (4, "copy")]
        rows = [
            ("torch", batch, 1, network, number, 0.01 * batch * (1 + slower * (network == "copy")))
            for batch, network in cases
            for number in range(5)
        ]
        columns = ["runtime", "batch", "threads", "network", "round", "seconds"]
        samples = pd.DataFrame(rows, columns=columns)
        samples["processor_seconds"] = share * samples["seconds"]
        monkeypatch.setattr(timing, "time_network", lambda *given: samples)
        passes = pd.DataFrame({"workers": [2, 2], "round": [0, 1], "images": [100, 100], "seconds": [1.0, 1 + late]})
        monkeypatch.setattr(timing, "time_files", lambda *given: passes)
        run = Run.open(tiny_run)
        return Efficiency(**FAST | options).evaluate(run, run.dataset("test"))

    return give


def test_steady_times_are_taken_as_they_are(measured: Callable[..., Result]) -> None:
    result = measured(slower=0.05)
    assert result.metrics["latency_ms/b4"].value == pytest.approx(40)
    assert result.metrics["images_per_second/b1"].value == pytest.approx(100)
    assert result.metrics["torch/end_to_end_images_per_second"].value == pytest.approx((100 + 100 / 1.05) / 2)
    assert result.metrics["end_to_end_images_per_second"].value == pytest.approx((256 + 256 / 1.08) / 2)
    assert result.metrics["end_to_end_images_per_second"].reason is None
    assert result.metrics["noise"].value == pytest.approx(0.05)
    assert result.warnings == []
    assert result.tables["latency"]["steady"].all()
    assert result.tables["end_to_end"]["steady"].all()


def test_passes_that_differ_are_told_in_warning_metric_and_table(measured: Callable[..., Result]) -> None:
    result = measured(slower=0.0, late=2.0)
    assert [format_reason(warning, "efficiency") for warning in result.warnings] == [
        "End-to-end timing (torch, workers: 2) is too noisy: passes differ by 200% (10% allowed)."
    ]
    assert result.metrics["torch/end_to_end_images_per_second"].reason == Reason("noisy_passes")
    assert result.metrics["end_to_end_images_per_second"].reason is None
    assert result.metrics["latency_ms/b1"].value == pytest.approx(10)
    assert result.metrics["latency_ms/b1"].reason != Reason("noisy_passes")
    assert result.tables["end_to_end"]["noise"].tolist() == pytest.approx([0.08, 2.0])
    assert result.tables["end_to_end"]["steady"].tolist() == [True, False]
    assert result.tables["latency"]["steady"].all()


@pytest.mark.parametrize("slower", [0.2, -0.2])
def test_a_noisy_machine_is_told_in_warning_metrics_and_table(measured: Callable[..., Result], slower: float) -> None:
    result = measured(slower)
    noise = max(1 + slower, 1 / (1 + slower)) - 1
    assert result.metrics["noise"].value == pytest.approx(noise)
    assert result.warnings == [Reason("noisy_machine", noise=pytest.approx(noise), tolerance=0.1)]
    timed = [name for name in result.metrics if "latency" in name or "images_per_second" in name]
    assert {result.metrics[name].reason for name in timed} == {Reason("noisy_timings")}
    assert result.metrics["params_m"].reason is None
    assert not result.tables["latency"]["steady"].any()
    assert measured(slower, tolerance=0.3).warnings == []


def test_a_busy_machine_is_told_in_warning_metrics_and_tables(measured: Callable[..., Result]) -> None:
    result = measured(slower=0.0, share=0.5)
    (told,) = [format_reason(warning, "efficiency") for warning in result.warnings]
    assert told.startswith("The machine is busy: the network had a processor for 50% of its time (90% needed)")
    assert result.metrics["processor_share"].value == pytest.approx(0.5)
    timed = [name for name in result.metrics if "latency" in name or "images_per_second" in name]
    assert {result.metrics[name].reason for name in timed} == {Reason("busy_timings")}
    assert not result.tables["latency"]["steady"].any()
    assert not result.tables["end_to_end"]["steady"].any()


@pytest.mark.slow
def test_a_machine_that_computes_something_else_is_busy(tiny_run: Path, tmp_path: Path) -> None:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    words = [f"block.efficiency.{name}={value}".replace(" ", "") for name, value in FAST.items()]
    try:
        words += ["block.efficiency.rounds=5", "block.efficiency.seconds=.3", "data.workers=0", f"out={tmp_path}"]
        assert main(["evaluate", f"ckpt={tiny_run}", "block=efficiency", *words]) == 0
    finally:
        for other in others:
            other.kill()
    assert "busy_machine" in [warning.code for warning in Result.load(tmp_path / "evaluation/test/efficiency").warnings]


def test_the_main_figure_is_that_of_predict_and_torch_stands_beside(saved: Path) -> None:
    said, tables = read(saved)
    deployed, by_torch = (row for _, row in tables["end_to_end"].iterrows())
    values = {name: metric["value"] for name, metric in said["metrics"].items()}
    assert values["end_to_end_images_per_second"] == pytest.approx(deployed["images_per_second"])
    assert (deployed["command"], deployed["batch"], deployed["workers"]) == ("predict", 64, count_workers())
    assert said["metrics"]["torch/end_to_end_images_per_second"]["value"] == pytest.approx(
        by_torch["images_per_second"]
    )
    assert (by_torch["command"], by_torch["runtime"], by_torch["workers"]) == ("evaluate", "torch", 0)


def test_the_options_timed_are_the_defaults_of_predict() -> None:
    defaults = {each.name: each.default for each in fields(PredictConfig)}
    assert vars(ComputeOptions()) == {name: defaults[name] for name in vars(ComputeOptions())} | {"allow": ()}


@pytest.mark.skipif(bool(find_missing_package("onnx")), reason="the extra export is not installed")
@pytest.mark.slow
def test_the_runtime_timed_is_the_kept_one_and_a_trial_for_it_is_not_kept(
    no_process: Callable[..., Any], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    run = Run.open(tiny_run, accelerator="cpu")
    files = np.array([str(file) for file in list_files(run.dataset("test"))])

    def time_it() -> str:
        passes = no_process(run, files, 3, 0.0, 100.0)
        assert list(passes.columns) == [*timing.SETTING, *timing.PASS_COLUMNS]
        assert passes["images"].tolist() == [64 * max(2, count_workers())] * 3
        return str(passes["runtime"].iat[0])

    def list_trials() -> list[Path]:
        return [file for file in (tmp_path / "trials").glob("*.json") if "seen" in file.read_text()]

    time_it()
    assert list_trials() == []
    monkeypatch.setattr(autotune, "FEWEST_FILES", 1)
    words = [f"input={files[0]}", f"output={tmp_path / 'one.csv'}"]
    assert main(["predict", f"ckpt={tiny_run}", *words]) == 0
    (trial,) = list_trials()
    trial.write_text(json.dumps(json.loads(trial.read_text()) | {"runtime": "onnx", "precision": "32"}))
    assert time_it() == "onnx"


@pytest.mark.parametrize(
    ("script", "status"), [("kill -9 $$", "-9"), ("exit 3", "3"), ("exec sleep 60", "TimeoutExpired")]
)
def test_a_process_that_dies_costs_the_main_figure_alone(
    script: str,
    status: str,
    no_process: Callable[..., Any],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(timing, "MAX_PREDICT_SECONDS", 2)
    monkeypatch.setattr(timing, "time_predict", no_process)
    words = [f"block.efficiency.{name}={value}".replace(" ", "") for name, value in FAST.items()]
    words += ["data.workers=0", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", f"ckpt={tiny_run}", "block=efficiency", *words]) == 0
    assert f"`predict` could not be timed: its process ended with {status}." in capsys.readouterr().err
    result = Result.load(tmp_path / "out/evaluation/test/efficiency")
    deployed = result.metrics["end_to_end_images_per_second"]
    assert deployed.value is None
    assert deployed.reason is not None
    assert deployed.reason.code == "predict_failed"
    assert result.metrics["torch/end_to_end_images_per_second"].value
    assert set(result.tables["end_to_end"]["command"]) == {"evaluate"}


@pytest.mark.skipif(bool(find_missing_package("onnx")), reason="the extra export is not installed")
def test_another_runtime_stands_beside_torch_under_its_name(tiny_run: Path) -> None:
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    runtimes = ["torch", "onnx", *(["openvino"] if not find_missing_package("openvino") else [])]
    result = Efficiency(**FAST | {"runtimes": runtimes}).evaluate(run, run.dataset("test"))
    assert [name for name in runtimes[1:] if f"{name}/latency_ms/b1" not in result.metrics] == []
    assert {"latency_ms/b1", "onnx/latency_ms/b1", "onnx/images_per_second/b4"} <= set(result.metrics)
    assert not any(warning.code == "runtime_differs" for warning in result.warnings)


def test_a_runtime_that_answers_otherwise_is_not_timed(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = timing.prepare_engine

    def prepare(runtime: str, classifier: Any, size: int) -> Any:
        built = right("torch", classifier, size)
        return built if runtime == "torch" else lambda threads: lambda images: built(threads)(images) + 0.01

    monkeypatch.setattr(timing, "prepare_engine", prepare)
    run = Run.open(tiny_run, workers=0)
    result = Efficiency(**FAST | {"runtimes": ["torch", "contiguous"]}).evaluate(run, run.dataset("test"))
    assert (result.warnings[0].code, result.warnings[0].values["runtime"]) == ("runtime_differs", "contiguous")
    assert set(result.tables["latency"]["runtime"]) == {"torch"}


def test_beside_a_gpu_the_cpu_is_timed_as_well(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    network, size, noise = run.predictor.module, run.preprocessing.size, timing.create_noise_images(run, 4)
    stand_in: Any = SimpleNamespace(
        predictor=SimpleNamespace(device="cuda", module=network), preprocessing=SimpleNamespace(size=size)
    )
    monkeypatch.setattr(timing, "create_noise_images", lambda run, count: noise[:count])
    factories, distances = timing.prepare_runtimes(stand_in, ["torch"])
    assert distances == {"torch": 0.0, "cpu": pytest.approx(0.0, abs=1e-5)}
    turns = {"rounds": 2, "seconds": 0.0, "seed": 0}
    samples = timing.time_network(stand_in, factories, [1, 4], [1, 2], turns)
    own = torch.get_num_threads()
    settings = set(samples[["runtime", "threads", "network"]].itertuples(index=False, name=None))
    assert settings == {("torch", own, "run"), ("torch", own, "copy"), ("cpu", 1, "run"), ("cpu", 2, "run")}
    block = Efficiency(**FAST)
    latency = block._tabulate_latency(samples)
    found = block._build_metrics(
        latency.assign(noise=0.0),
        pd.DataFrame([{"command": "predict", "images_per_second": 1.0, "steady": True, "passes": 2}]).assign(
            images_per_second_low=0.9, images_per_second_high=1.1
        ),
        is_busy=False,
    )
    assert {
        f"{before}{name}/b{batch}"
        for before in ("", "cpu/")
        for name in ("latency_ms", "latency_ms_p95", "images_per_second")
        for batch in (1, 4)
    } <= set(found)
    first = samples.query("runtime == 'cpu' and threads == 1 and batch == 4")["seconds"]
    assert found["cpu/latency_ms/b4"].value == pytest.approx(1000 * np.median(first))


def test_a_runtime_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(ConfigError, match="onnxscript") as caught:
        registry.build_block("efficiency", {"runtimes": ["torch", "onnx"]})
    assert "avatar-bench[export]" in str(caught.value)


@pytest.fixture
def passes_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return what `time_files` measures on 7 files in batches of 8, and the files asked for by workers.

    A batch takes 2 seconds, but 60 the first, and next to nothing those that workers have ready at the end.
    """
    files = [tmp_path / f"{row}.png" for row in range(7)]
    for file in files:
        file.write_bytes(b"")

    def give(workers: list[int], passes: int, seconds: float) -> tuple[pd.DataFrame, list[tuple[int, list[str]]]]:
        now, asked = [0.0], []

        class Stub(SimpleNamespace):
            def predict_files(self, paths: list[str]) -> Any:
                asked.append((self.workers, paths))
                for start in range(0, len(paths), self.batch_size):
                    ready = start >= len(paths) - 2 * self.workers * self.batch_size
                    now[0] += 60.0 if start == 0 else 0.1 if ready else 2.0
                    yield paths[start : start + self.batch_size]

        monkeypatch.setattr(timing, "time_batches", lambda batches: profiling.time_batches(batches, lambda: now[0]))
        run: Any = SimpleNamespace(batch_size=8, predictor=Stub(batch_size=8, workers=3))
        return timing.time_files(run, np.array([str(file) for file in files]), workers, passes, seconds), asked

    return give


def test_files_are_timed_after_workers_have_started_and_before_they_are_done(passes_of: Callable[..., Any]) -> None:
    table, asked = passes_of([2, 0], passes=2, seconds=0.0)
    assert table["workers"].tolist() == [2, 0, 2, 0]
    assert table["round"].tolist() == [0, 0, 1, 1]
    assert table["images"].tolist() == [8 * timing.MIN_TIMED_BATCHES] * 4
    assert table["seconds"].tolist() == pytest.approx([2.0 * timing.MIN_TIMED_BATCHES] * 4)
    turn = [(2, 8 * (3 + timing.MIN_TIMED_BATCHES + 4)), (0, 8 * (1 + timing.MIN_TIMED_BATCHES))]
    assert [(workers, len(files)) for workers, files in asked] == turn * 2  # at 0 seconds without a trial before


def test_a_pass_lasts_as_long_as_it_is_told_to(passes_of: Callable[..., Any]) -> None:
    table, _ = passes_of([1, 0], passes=3, seconds=25.0)
    assert table["seconds"].tolist() == pytest.approx([26.0] * 6)
    assert table["images"].tolist() == [8 * 13] * 6


def test_passes_that_are_long_by_themselves_are_fewer_but_three(passes_of: Callable[..., Any]) -> None:
    assert len(passes_of([1, 0], passes=9, seconds=0.1)[0]) == 3 * 2
    assert len(passes_of([1, 0], passes=2, seconds=0.1)[0]) == 2 * 2
    assert len(passes_of([1, 0], passes=9, seconds=8.0)[0]) == 9 * 2


def test_every_pass_begins_with_the_same_files(passes_of: Callable[..., Any]) -> None:
    _, asked = passes_of([2, 0], passes=2, seconds=25.0)
    longest = max((files for _, files in asked), key=len)
    assert all(files == longest[: len(files)] for _, files in asked)
    assert len(set(longest)) == 7


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_legend_stays_inside_the_figure(language: str) -> None:
    times = {"latency_ms": 1.0, "latency_ms_p95": 2.0}
    rate = {"images_per_second": 5.0, "images_per_second_low": 4.0, "images_per_second_high": 6.0}
    kind = {"runtime": "openvino", "precision": "bf16", "threads": 16, "command": "predict"}
    settings = [("torch", 1, "run"), ("torch", 16, "run"), ("contiguous", 16, "run"), ("torch", 16, "copy")]
    rows = [
        {"runtime": runtime, "threads": threads, "network": network, "batch": batch, "device": "cpu"} | times | rate
        for runtime, threads, network in settings
        for batch in (1, 8)
    ]
    end_to_end = [kind | {"workers": workers, "batch": 32} | rate for workers in (16, 0)]
    tables = {"latency": pd.DataFrame(rows), "end_to_end": pd.DataFrame(end_to_end)}
    with use_language(language):
        figure = figures.draw(Result("efficiency", "blind", 0, ("real",), tables=tables))["latency"]
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= legend.y0


def test_a_set_whose_images_are_gone_is_refused(
    train: Callable[..., Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    run = train(tmp_path / "run", f"data.manifest={tmp_path / 'images' / 'all.csv'}")
    shutil.rmtree(tmp_path / "images")
    capsys.readouterr()
    assert main(["evaluate", f"ckpt={run}", "block=efficiency"]) == 3
    said = capsys.readouterr().err
    assert re.fullmatch(rf"{tmp_path}/images/\S+: cannot be read: No such file or directory\.\n", said)


def test_a_set_without_images_is_refused(dataset_of: Any, make_predictions: Any) -> None:
    empty = dataset_of(make_predictions([], np.zeros((0, 3))), name="empty")
    with pytest.raises(BlockError, match="empty has no images"):
        Efficiency().evaluate(SimpleNamespace(), empty)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batches": [1, 0]}, "numbers of 1 or more"),
        ({"threads": []}, "one number or more"),
        ({"threads": [-1]}, "0 or more"),
        ({"runtimes": ["onnx"]}, "torch first"),
        ({"runtimes": ["torch", "tvm"]}, "contiguous, compile, onnx"),
        ({"rounds": 1}, "2 or more"),
        ({"seconds": -1}, "0 or more"),
        ({"tolerance": 0}, "above 0"),
        ({"passes": 1}, "2 or more"),
        ({"pass_seconds": -1}, "pass_seconds"),
        ({"workers": [-1]}, "workers"),
        ({"level": 95}, "level"),
        ({"batch": [1]}, "did you mean batches?"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build_block("efficiency", options)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
