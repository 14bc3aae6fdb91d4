"""Tests of efficiency: on the tiny run for its structure, on made-up timings for its numbers."""

import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from avatar_bench.data.dataset import list_files
from avatar_bench.evaluation.blocks.efficiency import Efficiency
from avatar_bench.evaluation.blocks.efficiency import latency as timing
from avatar_bench.inference.autotune import count_workers
from avatar_bench.inference.runtimes import find_missing_package
from avatar_bench.models import profiling
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.builders.commands import change_record, read_record, run_undrawn
from tests.models.small import count_macs

FAST = {"batches": [1, 4], "threads": [1], "rounds": 3, "seconds": 0.05, "passes": 2, "pass_seconds": 0.0}
FAST |= {"resamples": 100, "workers": []}
needs_onnx = pytest.mark.skipif(bool(find_missing_package("onnx")), reason="the extra export is not installed")


@pytest.fixture(autouse=True)
def time_predict(monkeypatch):
    """Return the function that times predict in a process, and replace it: its start takes seconds."""
    passes = pd.DataFrame({"round": [0, 1], "images": [128, 128], "seconds": [0.5, 0.54]})
    passes = passes.assign(command="predict", runtime="onnx", precision="32", threads=2, workers=2, batch=64)
    real = timing.time_predict
    monkeypatch.setattr(timing, "time_predict", lambda *_args: passes[[*timing.SETTING, *timing.PASS_COLUMNS]])
    return real


def evaluate(run, out, **options):
    """Run the block by the command, and return its saved Result."""
    words = [f"block.efficiency.{name}={value}".replace(" ", "") for name, value in (FAST | options).items()]
    assert run_undrawn(["evaluate", f"ckpt={run}", "block=efficiency", f"out={out}", "data.workers=0", *words]) == 0
    return Result.load(out / "evaluation" / "test" / "efficiency")


@pytest.fixture(scope="module")
def saved(tiny_run, tmp_path_factory):
    """The saved Result of the tiny run; two settings of threads."""
    return evaluate(tiny_run, tmp_path_factory.mktemp("efficiency"), threads=[1, 2], tolerance=1000)


def test_metrics_are_those_of_the_contract_and_counts_those_of_the_network(saved, tiny_run):
    kinds = ("latency_ms", "latency_ms_p95", "images_per_second")
    assert next(iter(saved.metrics)) == "end_to_end_images_per_second"
    assert set(saved.metrics) == {
        *(f"{kind}/b{batch}" for kind in kinds for batch in (1, 4)),
        *("params_m", "macs_g", "weights_mb", "peak_memory_mb", "noise", "end_to_end_images_per_second"),
        *("processor_share", "torch/end_to_end_images_per_second"),
    }
    for name, metric in saved.metrics.items():
        assert metric.higher_is_better is ("images_per_second" in name or name == "processor_share")
    assert set(saved.tables) == {"latency", "end_to_end", "samples", "passes", "layers", "memory"}
    assert saved.folder
    assert (saved.folder / "latency.png").is_file()
    assert saved.provenance["machine"]["torch"] == torch.__version__
    assert saved.provenance["load"] >= 0
    value = {name: metric.value for name, metric in saved.metrics.items()}
    weights = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    net = [tensor.numel() * tensor.element_size() for name, tensor in weights.items() if name.startswith("net.")]
    assert value["params_m"] == pytest.approx(saved.tables["layers"]["params"].sum() / 1e6)
    assert value["weights_mb"] == pytest.approx(sum(net) / 1e6)
    assert value["macs_g"] == pytest.approx(count_macs(Run.open(tiny_run).predictor.module.net, 32) / 1e9)
    assert value["peak_memory_mb"] > value["weights_mb"] + 4 * 3 * 32 * 32 / 1e6


def test_every_time_can_be_recomputed_from_the_saved_calls(saved):
    samples = saved.tables["samples"].query("network == 'run' and threads == 1")
    for batch in (1, 4):
        seconds = samples.loc[samples["batch"] == batch, "seconds"]
        median, high = np.median(seconds), np.quantile(seconds, 0.95)
        expected = {"latency_ms": 1000 * median, "latency_ms_p95": 1000 * high, "images_per_second": batch / median}
        for kind, value in expected.items():
            metric = saved.metrics[f"{kind}/b{batch}"]
            assert (metric.value, metric.n) == (pytest.approx(value, rel=1e-6), 3)
            assert metric.low <= metric.value <= metric.high
    for command, prefix in (("predict", ""), ("evaluate", "torch/")):
        passes = saved.tables["passes"].query("command == @command")
        rates = passes["images"] / passes["seconds"]
        value = saved.metrics[f"{prefix}end_to_end_images_per_second"].value
        assert value == pytest.approx(np.median(rates), rel=1e-6)
        noise = saved.tables["end_to_end"].set_index("command").loc[command, "noise"]
        assert noise == pytest.approx(rates.max() / rates.min() - 1, rel=1e-6)


@pytest.fixture
def measure(monkeypatch, tiny_run):
    """Return the Result of made-up times: 10 ms an image, 1 + `slower` times that for the copy.

    Passes over files take 1 second, and 1.05; the processor works for a `share` of the time.
    """

    def build(slower, share=0.95, **options):
        factor = {"run": 1, "copy": 1 + slower}
        calls = product(factor, (1, 4), range(5))
        rows = [("torch", batch, 1, name, number, 0.01 * batch * factor[name]) for name, batch, number in calls]
        samples = pd.DataFrame(rows, columns=["runtime", "batch", "threads", "network", "round", "seconds"])
        samples["processor_seconds"] = share * samples["seconds"]
        passes = pd.DataFrame({"workers": [2, 2], "round": [0, 1], "images": [100, 100], "seconds": [1.0, 1.05]})
        monkeypatch.setattr(timing, "time_network", lambda *_args: samples)
        monkeypatch.setattr(timing, "time_files", lambda *_args: passes)
        run = Run.open(tiny_run)
        return Efficiency(**FAST | options).evaluate(run, run.dataset("test"))

    return build


def list_timed(result):
    return [name for name in result.metrics if "latency" in name or "images_per_second" in name]


def test_steady_times_are_taken_as_they_are(measure):
    result = measure(slower=0.05)
    expected = {"latency_ms/b4": 40, "images_per_second/b1": 100, "noise": 0.05}
    expected |= {"torch/end_to_end_images_per_second": (100 + 100 / 1.05) / 2}
    expected |= {"end_to_end_images_per_second": (256 + 256 / 1.08) / 2}
    assert {name: result.metrics[name].value for name in expected} == pytest.approx(expected)
    assert result.metrics["end_to_end_images_per_second"].reason is None
    assert result.warnings == []
    assert result.tables["latency"]["steady"].all()
    assert result.tables["end_to_end"]["steady"].all()


@pytest.mark.parametrize("slower", [0.2, -0.2])
def test_a_noisy_or_busy_machine_is_named_in_warning_metrics_and_tables(measure, slower):
    result, busy = measure(slower), measure(slower=0.0, share=0.5)
    noise = max(1 + slower, 1 / (1 + slower)) - 1
    assert result.metrics["noise"].value == pytest.approx(noise)
    assert result.warnings == [Reason("noisy_machine", noise=pytest.approx(noise), tolerance=0.1)]
    assert {result.metrics[name].reason for name in list_timed(result)} == {Reason("noisy_timings")}
    assert result.metrics["params_m"].reason is None
    assert not result.tables["latency"]["steady"].any()
    assert measure(slower, tolerance=0.3).warnings == []
    (text,) = [format_reason(warning, "efficiency") for warning in busy.warnings]
    assert text.startswith("The machine is busy: the network had a processor for 50% of its time (90% needed)")
    assert busy.metrics["processor_share"].value == pytest.approx(0.5)
    assert {busy.metrics[name].reason for name in list_timed(busy)} == {Reason("busy_timings")}
    assert not pd.concat([busy.tables["latency"]["steady"], busy.tables["end_to_end"]["steady"]]).any()


@needs_onnx
@pytest.mark.slow
def test_a_trial_of_runtimes_for_the_timing_is_not_kept(time_predict, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    run = Run.open(tiny_run, accelerator="cpu")
    files = np.array([str(file) for file in list_files(run.dataset("test"))])
    passes = time_predict(run, files, 2, 0.0, 100.0)
    assert list(passes.columns) == [*timing.SETTING, *timing.PASS_COLUMNS]
    assert passes["images"].tolist() == [64 * max(2, count_workers())] * 2
    assert [file for file in (tmp_path / "trials").glob("*.json") if "seen" in file.read_text()] == []


@pytest.mark.parametrize(("script", "status"), [("kill -9 $$", "-9"), ("exec sleep 60", "TimeoutExpired")])
def test_a_process_that_dies_costs_the_main_metric_alone(script, status, time_predict, tiny_run, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(timing, "MAX_PREDICT_SECONDS", 1)
    monkeypatch.setattr(timing, "time_predict", time_predict)
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    result = Efficiency(**FAST).evaluate(run, run.dataset("test"))
    lines = [format_reason(warning, "efficiency") for warning in result.warnings]
    assert f"`predict` could not be timed: its process ended with {status}." in lines
    deployed = result.metrics["end_to_end_images_per_second"]
    assert (deployed.value, deployed.reason.code) == (None, "predict_failed")
    assert result.metrics["torch/end_to_end_images_per_second"].value
    assert set(result.tables["end_to_end"]["command"]) == {"evaluate"}


@needs_onnx
@pytest.mark.slow
def test_another_runtime_stands_beside_torch_under_its_name(tiny_run):
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    result = Efficiency(**FAST | {"runtimes": ["torch", "onnx"]}).evaluate(run, run.dataset("test"))
    assert {"latency_ms/b1", "onnx/latency_ms/b1", "onnx/images_per_second/b4"} <= set(result.metrics)
    assert not any(warning.code == "runtime_differs" for warning in result.warnings)


def test_the_cpu_is_timed_beside_a_gpu_and_no_runtime_with_other_outputs(tiny_run, monkeypatch):
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    noise, network = timing.create_noise_images(run, 4), run.predictor.module
    on_gpu = SimpleNamespace(device="cuda", module=network)
    stand_in = SimpleNamespace(predictor=on_gpu, preprocessing=SimpleNamespace(size=run.preprocessing.size))
    monkeypatch.setattr(timing, "create_noise_images", lambda run, count: noise[:count])
    factories, distances = timing.prepare_runtimes(stand_in, ["torch"])
    assert distances == {"torch": 0.0, "cpu": pytest.approx(0.0, abs=1e-5)}
    samples = timing.time_network(stand_in, factories, [1, 4], [1, 2], {"rounds": 2, "seconds": 0.0, "seed": 0})
    n = torch.get_num_threads()
    settings = set(samples[["runtime", "threads", "network"]].itertuples(index=False, name=None))
    assert settings == {("torch", n, "run"), ("torch", n, "copy"), ("cpu", 1, "run"), ("cpu", 2, "run")}
    right = timing.prepare_engine

    def prepare(runtime, classifier, size):
        built = right("torch", classifier, size)
        return built if runtime == "torch" else lambda threads: lambda images: built(threads)(images) + 0.01

    monkeypatch.setattr(timing, "prepare_engine", prepare)
    run = Run.open(tiny_run, workers=0)
    result = Efficiency(**FAST | {"runtimes": ["torch", "contiguous"]}).evaluate(run, run.dataset("test"))
    assert (result.warnings[0].code, result.warnings[0].values["runtime"]) == ("runtime_differs", "contiguous")
    assert set(result.tables["latency"]["runtime"]) == {"torch"}


def test_files_are_timed_after_workers_have_started_and_before_they_are_done(tmp_path, monkeypatch):
    """A batch takes 2 seconds, but 60 the first, and next to nothing those that workers have ready at the end."""
    files = np.array([str(tmp_path / f"{row}.png") for row in range(7)])
    for file in files:
        Path(file).touch()
    now, passes = [0.0], []

    class Predictor(SimpleNamespace):
        def predict_files(self, paths):
            passes.append((self.workers, len(paths)))
            for start in range(0, len(paths), self.batch_size):
                is_ready = start >= len(paths) - 2 * self.workers * self.batch_size
                now[0] += 60.0 if start == 0 else 0.1 if is_ready else 2.0
                yield paths[start : start + self.batch_size]

    monkeypatch.setattr(timing, "time_batches", lambda batches: profiling.time_batches(batches, lambda: now[0]))
    run = SimpleNamespace(batch_size=8, predictor=Predictor(batch_size=8, workers=3))
    table = timing.time_files(run, files, [2, 0], passes=2, seconds=0.0)
    n = timing.MIN_TIMED_BATCHES
    assert table[["workers", "round", "images"]].to_numpy().tolist() == [
        [workers, number, 8 * n] for number in (0, 1) for workers in (2, 0)
    ]
    assert table["seconds"].tolist() == pytest.approx([2.0 * n] * 4)
    assert passes == [(2, 8 * (3 + n + 4)), (0, 8 * (1 + n))] * 2  # at 0 seconds without a trial before


def test_the_figure_is_drawn_inside_the_page_in_both_languages(drawn_whole, tmp_path):
    rate = {"images_per_second": 5.0, "images_per_second_low": 4.0, "images_per_second_high": 6.0}
    times = {"latency_ms": 1.0, "latency_ms_p95": 2.0, "device": "cpu"} | rate
    settings = [("torch", 1, "run"), ("torch", 16, "run"), ("contiguous", 16, "run"), ("torch", 16, "copy")]
    columns = ["runtime", "threads", "network", "batch"]
    latency = pd.DataFrame([(*setting, batch) for setting in settings for batch in (1, 8)], columns=columns)
    kind = {"runtime": "openvino", "precision": "bf16", "threads": 16, "command": "predict", "batch": 32} | rate
    end_to_end = pd.DataFrame([kind | {"workers": workers} for workers in (16, 0)])
    tables = {"latency": latency.assign(**times), "end_to_end": end_to_end}
    drawn_whole(Result("efficiency", "blind", 0, ("real",), tables=tables).save(tmp_path / "efficiency"), {"latency"})


def test_a_set_whose_images_are_gone_is_refused(run_copy, tmp_path, capsys):
    change_record(run_copy, data=read_record(run_copy)["data"] | {"root": str(tmp_path / "gone")})
    assert run_undrawn(["evaluate", f"ckpt={run_copy}", "block=efficiency"]) == 3
    message = rf"{tmp_path}/gone/\S+: cannot be read: No such file or directory\.\n"
    assert re.fullmatch(message, capsys.readouterr().err)
