"""Tests of robustness: oracles, every metric recomputed from the saved tables, and any order of workers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from avatar_bench.cli.app import main
from avatar_bench.config.entries import use_folders
from avatar_bench.data.corruptions import DELIVERY_TIERS, SEVERITIES, STANDARD_CORRUPTIONS, Corruption, list_corruptions
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.evaluation.blocks.robustness import Robustness
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run

KINDS = list_corruptions()
CLASSES = ("drawing", "generated", "real")
PREPROCESSING = Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions, with others for each variation."""

    def build(clean, variations=None, allow=(), **options) -> Result:
        run = fake_run(clean, variations=variations, preprocessing=PREPROCESSING, allow=frozenset(allow))
        return Robustness(**{"resamples": 200, **options}).evaluate(run, dataset_of(clean))

    return build


@pytest.fixture
def shaky(make_predictions):
    """Predictions of images, two a group, and worse ones of each variation: they lean to real."""
    targets = np.repeat(np.arange(60) % 3, 2)
    groups = [f"g{i // 2}" for i in range(120)]

    def make(signal, lean, seed):
        logits = np.random.default_rng(seed).normal(size=(120, 3)) + signal * np.eye(3)[targets] + [0, 0, lean]
        return make_predictions(targets, logits, groups=groups, temperature=1.7)

    def vary(variation):
        severity = variation.severity if isinstance(variation, Corruption) else 2
        return make(3 - severity / 2, severity / 4, seed=sum(map(ord, variation.key)))

    return make(3, 0, 0), vary


def test_a_perfect_oracle_loses_nothing(evaluate_block, oracle) -> None:
    result = evaluate_block(oracle("perfect"))
    for name in (
        "robustness",
        "clean",
        "mean_over_severities",
        *KINDS,
        *(f"delivery/{tier}" for tier in DELIVERY_TIERS),
    ):
        assert result.metrics[name].value == 1.0, name
        assert result.metrics[name].floor == pytest.approx(1 / 3)
    assert all(metric.value == 1.0 for name, metric in result.metrics.items() if name.startswith("relative/"))
    zero = [name for name in result.metrics if name.split("/")[0] in ("drop", "bias", "fragility")]
    assert len(zero) == 9 + 1 + 8 + 3 + 3
    assert all(result.metrics[name].value == 0.0 for name in zero)
    assert result.warnings == []


def test_a_uniform_oracle_scores_chance_and_is_said_to_have_nothing_to_lose(evaluate_block, oracle) -> None:
    result = evaluate_block(oracle("uniform"), lambda variation: oracle("uniform", seed=len(variation.key)))
    for name in ("robustness", "clean", "mean_over_severities", *KINDS):
        assert result.metrics[name].low < 1 / 3 < result.metrics[name].high, name
    assert result.warnings == [Reason("clean_near_chance")]


def test_every_figure_can_be_recomputed_from_the_saved_tables(evaluate_block, shaky, tmp_path) -> None:
    evaluate_block(*shaky).save(tmp_path / "robustness")
    result = Result.load(tmp_path / "robustness")
    value = {name: metric.value for name, metric in result.metrics.items()}
    rows = result.tables["predictions"]
    table = {name: part.set_index("path") for name, part in rows.groupby("variation")}
    assert len(table) == 1 + 9 * 5 + 8
    accuracy = {name: sk.accuracy_score(part["target"], part["prediction"]) for name, part in table.items()}

    assert value["clean"] == pytest.approx(accuracy["clean"], abs=1e-9)
    for kind in KINDS:
        assert value[kind] == pytest.approx(accuracy[f"{kind}/3"], abs=1e-9)
    kept = {kind: accuracy[f"{kind}/3"] for kind in KINDS}
    kept |= {"robustness": np.mean([kept[kind] for kind in STANDARD_CORRUPTIONS])} | {
        f"delivery/{tier}": accuracy[f"delivery/{tier}"] for tier in DELIVERY_TIERS
    }
    for name, share in kept.items():
        assert value[f"drop/{name}"] == pytest.approx(accuracy["clean"] - share, abs=1e-9)
        assert value[f"relative/{name}"] == pytest.approx(share / accuracy["clean"], abs=1e-9)
    assert value["robustness"] == pytest.approx(kept["robustness"], abs=1e-9)
    every = [accuracy[f"{kind}/{k}"] for kind in STANDARD_CORRUPTIONS for k in SEVERITIES]
    assert value["mean_over_severities"] == pytest.approx(np.mean(every), abs=1e-9)
    for tier in DELIVERY_TIERS:
        assert value[f"delivery/{tier}"] == pytest.approx(accuracy[f"delivery/{tier}"], abs=1e-9)

    collected = {name: ([], []) for name in CLASSES}
    for kind in STANDARD_CORRUPTIONS:
        clean, corrupted = table["clean"], table[f"{kind}/3"]
        gains = []
        for k in CLASSES:  # one class alone is transformed: its rows are the corrupted ones
            mixed = clean["prediction"].where(clean["target"] != k, corrupted["prediction"])
            n = (clean["target"] == k).sum()
            gains.append({c: ((mixed == c).sum() - (clean["prediction"] == c).sum()) / n for c in CLASSES})
            before = sk.recall_score(clean["target"], clean["prediction"], labels=[k], average="macro")
            collected[k][1].append(before - sk.recall_score(clean["target"], mixed, labels=[k], average="macro"))
        for c in CLASSES:
            collected[c][0].append(np.mean([gain[c] for gain in gains]))
        bias = result.tables["bias"].query("corruption == @kind").set_index("class")
        for c in CLASSES:
            assert bias.loc[c, "bias"] == pytest.approx(collected[c][0][-1], abs=1e-9)
            assert bias.loc[c, "fragility"] == pytest.approx(collected[c][1][-1], abs=1e-9)
    for c in CLASSES:
        assert value[f"bias/{c}"] == pytest.approx(np.mean(collected[c][0]), abs=1e-9)
        assert value[f"fragility/{c}"] == pytest.approx(np.mean(collected[c][1]), abs=1e-9)
    assert value["bias/real"] > 0.1 > value["fragility/real"]


def test_groups_of_one_image_have_wilson_intervals(evaluate_block, oracle) -> None:
    result = evaluate_block(oracle("noisy"), lambda variation: oracle("noisy", seed=len(variation.key)))
    for name in ("clean", *KINDS, *(f"delivery/{tier}" for tier in DELIVERY_TIERS)):
        metric = result.metrics[name]
        expected = binomtest(round(metric.value * 240), 240).proportion_ci(method="wilson")
        assert (metric.low, metric.high) == pytest.approx(tuple(expected))
        assert metric.interval == "wilson"


def test_the_interval_of_a_drop_is_that_of_paired_images_drawn_by_group(evaluate_block, shaky) -> None:
    clean, vary = shaky
    metric = evaluate_block(clean, vary, resamples=2000).metrics["drop/noise"]
    lost = (clean.correct.astype(float) - vary(Corruption("noise", 3)).correct).reshape(60, 2).sum(axis=1)
    rng = np.random.default_rng(9)
    drawn = [lost[rng.integers(0, 60, 60)].sum() / 120 for _ in range(4000)]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
    assert (metric.n, metric.units, metric.interval) == (120, 60, "bootstrap by group")


def test_a_corruption_of_a_user_has_its_title_in_figures(evaluate_block, shaky, draw_saved, inside, tmp_path) -> None:
    (tmp_path / "corruption").mkdir()
    code = "PARAMETERS = (1, 2, 3, 4, 5)\n\ndef corrupt(image, parameter, seed):\n    return image[::-1]\n"
    (tmp_path / "corruption" / "upside.py").write_text(code)
    (tmp_path / "corruption" / "upside.yaml").write_text("title: upside down\nru: {title: вверх ногами}\n")
    with use_folders([tmp_path]):
        result = evaluate_block(*shaky)
        with use_language("ru"):
            drawn = draw_saved(result)
        assert result.metrics["robustness"] == evaluate_block(*shaky, corruptions=KINDS).metrics["robustness"]
    assert {"upside", "drop/upside", "relative/upside"} <= result.metrics.keys()
    assert {"вверх ногами", "шум"} <= {axes.get_ylabel() for axes in drawn["images"].axes}
    assert {name: inside(figure) for name, figure in drawn.items()} == dict.fromkeys(drawn, True)


@pytest.mark.slow
def test_workers_and_orders_change_no_digit(run_copy) -> None:
    """The prediction of each image under each variation, by 0 and 2 workers, in any order of either."""
    kinds, collected = ["noise", "rotation", "sticker"], []
    for workers, step in ((0, 1), (2, -1)):
        run = Run.open(run_copy, accelerator="cpu", workers=workers, batch_size=4)
        dataset = run.dataset("test")
        shuffled = dataset.take(np.arange(len(dataset))[::step])
        assert run.predictor.count_workers(len(dataset)) == workers
        options = {"corruptions": kinds[::step], "severities": [3, 5], "delivery": ["hard"], "resamples": 100}
        collected.append(Robustness(**options).evaluate(run, shuffled))
        for file in (run_copy / "predictions").iterdir():
            file.unlink()
    first, other = collected
    assert len(first.tables["predictions"]) == (1 + 3 * 2 + 1) * first.n
    values = [{name: metric.value for name, metric in one.metrics.items()} for one in collected]
    assert values[0] == values[1]
    tables = [one.tables["predictions"].sort_values(["variation", "path"]) for one in (first, other)]
    columns = ["variation", "path", "target", "prediction", "correct"]
    pd.testing.assert_frame_equal(*(table[columns].reset_index(drop=True) for table in tables))
    assert np.abs(tables[0]["confidence"].to_numpy() - tables[1]["confidence"].to_numpy()).max() < 1e-5


def test_native_corruptions_are_other_images_than_those_of_the_input(run_copy) -> None:
    run = Run.open(run_copy, accelerator="cpu", workers=0)
    dataset = run.dataset("test")
    options = {"severities": [3], "delivery": [], "resamples": 100}
    inner, native = (Robustness(at=at, **options).evaluate(run, dataset) for at in ("input", "native"))
    tables = [one.tables["predictions"].set_index("variation")["confidence"] for one in (inner, native)]
    assert np.array_equal(tables[0]["clean"], tables[1]["clean"])
    assert not np.allclose(tables[0]["blur/3"], tables[1]["blur/3"])


def test_the_command_writes_every_table_and_figure(tiny_run, tmp_path) -> None:
    words = ["evaluate", f"ckpt={tiny_run}", "block=robustness", f"out={tmp_path}", "block.robustness.resamples=100"]
    assert main([*words, "block.robustness.severities=[3]"]) == 0
    written = {file.name for file in tmp_path.rglob("robustness/*")}
    tables = ("severities", "delivery", "recalls", "bias", "one_class", "predictions")
    figures = ("severities", "severity_3", "delivery", "one_class", "images", "images_delivered")
    drawn = {f"{name}.{ending}" for name in figures for ending in ("png", "svg")}
    assert written == {"metrics.json", "images.npz", *(f"{name}.csv" for name in tables), *drawn}
