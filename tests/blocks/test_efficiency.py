"""Tests of the block efficiency: on the tiny run for its structure, on made-up timings for its figures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from avatar_bench import blocks
from avatar_bench.__main__ import main
from avatar_bench.blocks import _efficiency_timing as timing
from avatar_bench.blocks.efficiency import Efficiency
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.models import profiling
from avatar_bench.models.runtimes import missing
from avatar_bench.results import Result
from avatar_bench.runs import Run

YAML = Path(__file__).parents[2] / "conf" / "block" / "efficiency.yaml"
FAST: dict[str, Any] = {
    "batches": [1, 4],
    "threads": [1],
    "rounds": 3,
    "seconds": 0.05,
    "passes": 2,
    "resamples": 100,
    "workers": [],
}


@pytest.fixture(scope="module")
def saved(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Result of the tiny run, saved by the command; two settings of threads, workers 0."""
    out = tmp_path_factory.mktemp("efficiency")
    words = [f"block.efficiency.{name}={value}".replace(" ", "") for name, value in FAST.items()]
    words += ["block.efficiency.threads=[1,2]", "block.efficiency.tolerance=1000", "data.workers=0"]
    assert main(["evaluate", f"ckpt={tiny_run}", "block=efficiency", f"out={out}", *words]) == 0
    return out / "test" / "efficiency"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    said = json.loads((folder / "metrics.json").read_text())
    return said, {file.stem: pd.read_csv(file) for file in folder.glob("*.csv")}


def test_the_metrics_are_those_of_the_contract(saved: Path) -> None:
    said, tables = read(saved)
    kinds = ("latency_ms", "latency_ms_p95", "images_per_second")
    names = {f"{kind}/b{batch}" for kind in kinds for batch in (1, 4)}
    names |= {"params_m", "macs_g", "weights_mb", "peak_memory_mb", "noise", "end_to_end_images_per_second"}
    assert set(said["metrics"]) == names
    for name, metric in said["metrics"].items():
        assert metric["higher_is_better"] is ("images_per_second" in name)
    assert set(tables) == {"latency", "end_to_end", "samples", "passes"}
    assert (saved / "latency.png").is_file()
    assert said["provenance"]["machine"]["torch"] == torch.__version__


def test_every_time_can_be_recomputed_from_the_saved_calls(saved: Path) -> None:
    said, tables = read(saved)
    first = tables["samples"].query("network == 'run' and threads == 1")
    for batch in (1, 4):
        seconds = first.loc[first["batch"] == batch, "seconds"]
        median, high = np.quantile(seconds, [0.5, 0.95], method="inverted_cdf")
        expected = {"latency_ms": 1000 * median, "latency_ms_p95": 1000 * high, "images_per_second": batch / median}
        for kind, value in expected.items():
            metric = said["metrics"][f"{kind}/b{batch}"]
            assert metric["value"] == pytest.approx(value, rel=1e-9)
            assert metric["n"] == 3
            assert metric["low"] <= metric["value"] <= metric["high"]
    passes = tables["passes"].query("workers == 0")
    rate = passes["pictures"].sum() / passes["seconds"].sum()
    assert said["metrics"]["end_to_end_images_per_second"]["value"] == pytest.approx(rate, rel=1e-9)


def test_noise_can_be_recomputed_from_the_saved_calls(saved: Path) -> None:
    said, tables = read(saved)
    first = tables["samples"].query("threads == 1")
    medians = first.groupby(["batch", "network"])["seconds"].quantile(0.5, interpolation="lower").unstack()
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
    assert said["macs_g"]["value"] == pytest.approx(profiling.macs(run.classifier.net, 32) / 1e9)
    assert said["peak_memory_mb"]["value"] > said["weights_mb"]["value"] + 4 * 3 * 32 * 32 / 1e6


def test_torch_has_as_many_threads_as_before(tiny_run: Path) -> None:
    run, before = Run.open(tiny_run, workers=0), torch.get_num_threads()
    Efficiency(**FAST | {"threads": [before + 1]}).evaluate(run, run.dataset("test"))
    assert torch.get_num_threads() == before
    assert run.workers == 0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> Callable[..., Result]:
    """Give the Result of made-up times: 10 ms a picture, 1 + `slower` times that for the copy."""

    def give(slower: float, **options: Any) -> Result:
        cases = [(1, "run"), (4, "run"), (1, "copy"), (4, "copy")]
        rows = [
            ("torch", batch, 1, network, number, 0.01 * batch * (1 + slower * (network == "copy")))
            for batch, network in cases
            for number in range(5)
        ]
        columns = ["runtime", "batch", "threads", "network", "round", "seconds"]
        monkeypatch.setattr(timing, "time_network", lambda *given: pd.DataFrame(rows, columns=columns))
        passes = pd.DataFrame({"workers": [2, 2], "round": [0, 1], "pictures": [100, 100], "seconds": [1.0, 3.0]})
        monkeypatch.setattr(timing, "time_files", lambda *given: passes)
        run = Run.open(tiny_run)
        return Efficiency(**FAST | options).evaluate(run, run.dataset("test"))

    return give


def test_steady_times_are_taken_as_they_are(measured: Callable[..., Result]) -> None:
    result = measured(slower=0.05)
    assert result.metrics["latency_ms/b4"].value == pytest.approx(40)
    assert result.metrics["images_per_second/b1"].value == pytest.approx(100)
    assert result.metrics["end_to_end_images_per_second"].value == pytest.approx(50)
    assert result.metrics["noise"].value == pytest.approx(0.05)
    assert result.warnings == []
    assert result.tables["latency"]["steady"].all()


@pytest.mark.parametrize("slower", [0.2, -0.2])
def test_a_noisy_machine_is_told_in_warning_metrics_and_table(measured: Callable[..., Result], slower: float) -> None:
    result = measured(slower)
    noise = max(1 + slower, 1 / (1 + slower)) - 1
    assert result.metrics["noise"].value == pytest.approx(noise)
    assert "too noisy" in result.warnings[0]
    assert f"{noise:.0%}" in result.warnings[0]
    timed = [name for name in result.metrics if "latency" in name or "images_per_second" in name]
    assert all("too noisy" in (result.metrics[name].reason or "") for name in timed)
    assert result.metrics["params_m"].reason is None
    assert not result.tables["latency"]["steady"].any()
    assert measured(slower, tolerance=0.3).warnings == []


@pytest.mark.skipif(bool(missing("onnx")), reason="the extra export is not installed")
def test_another_runtime_stands_beside_torch_under_its_name(tiny_run: Path) -> None:
    run = Run.open(tiny_run, workers=0, accelerator="cpu")
    result = Efficiency(**FAST | {"runtimes": ["torch", "onnx"]}).evaluate(run, run.dataset("test"))
    assert {"latency_ms/b1", "onnx/latency_ms/b1", "onnx/images_per_second/b4"} <= set(result.metrics)
    assert not any("not timed" in warning for warning in result.warnings)


def test_a_runtime_that_answers_otherwise_is_not_timed(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = timing.prepare

    def prepare(runtime: str, classifier: Any, size: int) -> Any:
        built = right("torch", classifier, size)
        return built if runtime == "torch" else lambda threads: lambda images: built(threads)(images) + 0.01

    monkeypatch.setattr(timing, "prepare", prepare)
    run = Run.open(tiny_run, workers=0)
    result = Efficiency(**FAST | {"runtimes": ["torch", "contiguous"]}).evaluate(run, run.dataset("test"))
    assert result.warnings[0].startswith("The runtime contiguous is not timed")
    assert set(result.tables["latency"]["runtime"]) == {"torch"}


def test_a_runtime_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(ConfigError, match="onnxscript") as caught:
        blocks.build("efficiency", {"runtimes": ["torch", "onnx"]})
    assert "avatar-bench[export]" in str(caught.value)


def test_files_are_timed_after_the_workers_have_started(
    monkeypatch: pytest.MonkeyPatch, dataset_of: Any, oracle: Any
) -> None:
    now, asked = [0.0], []

    class Stub(SimpleNamespace):
        def verdicts(self, paths: list[str]) -> Any:
            asked.append((self.workers, len(paths)))
            for start in range(0, len(paths), self.batch_size):
                now[0] += 60.0 if start == 0 else 2.0
                yield paths[start : start + self.batch_size]

    monkeypatch.setattr(timing, "files_of", lambda dataset: [f"{row}.png" for row in range(7)])
    monkeypatch.setattr(timing, "arrivals", lambda batches: profiling.arrivals(batches, lambda: now[0]))
    table = timing.time_files(Stub(batch_size=8, workers=3), None, [2, 0], 2, 0)  # type: ignore[arg-type]
    assert table["workers"].tolist() == [2, 0, 2, 0]
    assert table["pictures"].tolist() == [8 * timing.MEASURED] * 4
    assert table["seconds"].tolist() == [2.0 * timing.MEASURED] * 4
    assert asked[1:3] == [(2, 8 * (3 + timing.MEASURED)), (0, 8 * (1 + timing.MEASURED))]


def test_a_set_without_pictures_is_refused(dataset_of: Any, make_predictions: Any) -> None:
    empty = dataset_of(make_predictions([], np.zeros((0, 3))), name="empty")
    with pytest.raises(BlockError, match="empty has no pictures"):
        Efficiency().evaluate(SimpleNamespace(), empty)  # type: ignore[arg-type]


def test_the_yaml_states_the_defaults_of_the_block() -> None:
    assert YAML.read_text(encoding="utf-8").startswith("# @package block.efficiency\n")
    assert blocks.build("efficiency", OmegaConf.to_container(OmegaConf.load(YAML))) == Efficiency()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batches": [8]}, "batches"),
        ({"batches": []}, "1 among them"),
        ({"batches": [1, 0]}, "batches"),
        ({"threads": []}, "one number or more"),
        ({"threads": [-1]}, "0 or more"),
        ({"runtimes": ["onnx"]}, "torch first"),
        ({"runtimes": ["torch", "tvm"]}, "contiguous, compile, onnx"),
        ({"rounds": 1}, "2 or more"),
        ({"seconds": -1}, "0 or more"),
        ({"tolerance": 0}, "above 0"),
        ({"passes": 1}, "2 or more"),
        ({"workers": [-1]}, "workers"),
        ({"level": 95}, "level"),
        ({"batch": [1]}, "Did you mean 'batches'?"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        blocks.build("efficiency", options)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
