"""Tests of robustness: oracles, every metric recomputed from the saved tables, and any order of workers."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from avatar_bench.config.entries import use_folders
from avatar_bench.data.corruptions import DELIVERY_TIERS, SEVERITIES, STANDARD_CORRUPTIONS, Corruption, list_corruptions
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.evaluation.blocks.robustness import Robustness
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.evaluation.conftest import CLASSES

KINDS = list_corruptions()
TIERS = [f"delivery/{tier}" for tier in DELIVERY_TIERS]
PREPROCESSING = Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions, with others for each variation."""

    def build(clean, variations=None, **options):
        run = fake_run(clean, variations=variations, preprocessing=PREPROCESSING)
        return Robustness(**{"resamples": 200, **options}).evaluate(run, dataset_of(clean))

    return build


@pytest.fixture(scope="module")
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


def test_oracles_lose_nothing_or_have_nothing_to_lose(evaluate_block, oracle):
    result = evaluate_block(oracle("perfect"))
    for name in ("robustness", "clean", "mean_over_severities", *KINDS, *TIERS):
        assert result.metrics[name].value == 1.0, name
        assert result.metrics[name].floor == pytest.approx(1 / 3)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert {value[name] for name in value if name.startswith("relative/")} == {1.0}
    zero = [name for name in value if name.split("/")[0] in ("drop", "bias", "fragility")]
    assert len(zero) == 9 + 1 + 8 + 3 + 3
    assert {value[name] for name in zero} == {0.0}
    assert result.warnings == []
    result = evaluate_block(oracle("uniform"), lambda variation: oracle("uniform", seed=len(variation.key)))
    for name in ("robustness", "clean", "mean_over_severities", *KINDS):
        assert result.metrics[name].low < 1 / 3 < result.metrics[name].high, name
    assert result.warnings == [Reason("clean_near_chance")]
    for name in ("clean", *KINDS, *TIERS):  # groups of one image
        metric = result.metrics[name]
        expected = binomtest(round(metric.value * 240), 240).proportion_ci(method="wilson")
        assert (metric.low, metric.high) == pytest.approx(tuple(expected))
        assert metric.interval == "wilson"


def test_metrics_can_be_recomputed_from_the_saved_tables_and_drops_have_paired_intervals(
    evaluate_block, shaky, tmp_path
):
    result = Result.load(evaluate_block(*shaky).save(tmp_path / "robustness"))
    table = {name: part.set_index("path") for name, part in result.tables["predictions"].groupby("variation")}
    assert len(table) == 1 + 9 * 5 + 8
    accuracy = {name: sk.accuracy_score(part["target"], part["prediction"]) for name, part in table.items()}
    remaining = {kind: accuracy[f"{kind}/3"] for kind in KINDS} | {tier: accuracy[tier] for tier in TIERS}
    remaining["robustness"] = np.mean([remaining[kind] for kind in STANDARD_CORRUPTIONS])
    all_severities = [accuracy[f"{kind}/{k}"] for kind in STANDARD_CORRUPTIONS for k in SEVERITIES]
    expected = remaining | {"clean": accuracy["clean"], "mean_over_severities": np.mean(all_severities)}
    expected |= {f"drop/{name}": accuracy["clean"] - share for name, share in remaining.items()}
    expected |= {f"relative/{name}": share / accuracy["clean"] for name, share in remaining.items()}

    biases, fragilities = ({name: [] for name in CLASSES} for _ in range(2))
    for kind in STANDARD_CORRUPTIONS:
        clean, corrupted, gains = table["clean"], table[f"{kind}/3"], []
        for k in CLASSES:  # one class alone is transformed: its rows are the corrupted ones
            mixed = clean["prediction"].where(clean["target"] != k, corrupted["prediction"])
            n = (clean["target"] == k).sum()
            gains.append([((mixed == c).sum() - (clean["prediction"] == c).sum()) / n for c in CLASSES])
            right = clean["target"] == k
            fragilities[k].append((clean["prediction"][right] == k).mean() - (mixed[right] == k).mean())
        bias = result.tables["bias"].query("corruption == @kind").set_index("class")
        for c, gain in zip(CLASSES, np.mean(gains, axis=0), strict=True):
            biases[c].append(gain)
            assert bias.loc[c, ["bias", "fragility"]].tolist() == pytest.approx([gain, fragilities[c][-1]], abs=1e-9)
    expected |= {f"bias/{c}": np.mean(biases[c]) for c in CLASSES}
    expected |= {f"fragility/{c}": np.mean(fragilities[c]) for c in CLASSES}
    assert {name: result.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-9)
    assert expected["bias/real"] > 0.1 > expected["fragility/real"]
    clean, vary = shaky
    metric = evaluate_block(clean, vary, resamples=2000).metrics["drop/noise"]
    lost = (clean.correct.astype(float) - vary(Corruption("noise", 3)).correct).reshape(60, 2).sum(axis=1)
    rng = np.random.default_rng(9)
    drawn = [lost[rng.integers(0, 60, 60)].sum() / 120 for _ in range(4000)]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
    assert (metric.n, metric.units, metric.interval) == (120, 60, "bootstrap by group")


def test_a_corruption_of_a_user_has_its_title_in_figures(evaluate_block, shaky, draw_saved, inside, tmp_path):
    (tmp_path / "corruption").mkdir()
    code = "PARAMETERS = (1, 2, 3, 4, 5)\n\ndef corrupt(image, parameter, seed):\n    return image[::-1]\n"
    (tmp_path / "corruption" / "upside.py").write_text(code)
    (tmp_path / "corruption" / "upside.yaml").write_text("title: upside down\nru: {title: вверх ногами}\n")
    with use_folders([tmp_path]):
        few = {"resamples": 100, "severities": [1, 3]}
        result = evaluate_block(*shaky, **few)
        with use_language("ru"):
            drawn = draw_saved(result)
        standard = evaluate_block(*shaky, corruptions=KINDS, **few)
    assert result.metrics["robustness"] == standard.metrics["robustness"]
    assert {"upside", "drop/upside", "relative/upside"} <= result.metrics.keys()
    assert {"вверх ногами", "шум"} <= {axes.get_ylabel() for axes in drawn["images"].axes}
    assert [name for name, figure in drawn.items() if not inside(figure)] == []
    names = {"severities", "severity_3", "delivery", "one_class", "images", "images_delivered"}
    assert set(drawn) == names
    assert set(result.tables) == {"severities", "delivery", "recalls", "bias", "one_class", "predictions"}


@pytest.mark.slow
def test_workers_and_orders_change_no_digit(run_copy):
    """The prediction of each image under each variation, by 0 and 2 workers, in any order of either."""
    kinds, results = ["noise", "rotation", "sticker"], []
    for workers, step in ((0, 1), (2, -1)):
        run = Run.open(run_copy, accelerator="cpu", workers=workers, batch_size=4)
        dataset = run.dataset("test")
        shuffled = dataset.take(np.arange(len(dataset))[::step])
        assert run.predictor.count_workers(len(dataset)) == workers
        options = {"corruptions": kinds[::step], "severities": [3, 5], "delivery": ["hard"], "resamples": 100}
        results.append(Robustness(**options).evaluate(run, shuffled))
        for file in (run_copy / "predictions").iterdir():
            file.unlink()
    assert len(results[0].tables["predictions"]) == (1 + 3 * 2 + 1) * results[0].n
    values = [{name: metric.value for name, metric in result.metrics.items()} for result in results]
    assert values[0] == values[1]
    tables = [result.tables["predictions"].sort_values(["variation", "path"]) for result in results]
    columns = ["variation", "path", "target", "prediction", "correct"]
    pd.testing.assert_frame_equal(*(table[columns].reset_index(drop=True) for table in tables))
    assert np.abs(tables[0]["confidence"].to_numpy() - tables[1]["confidence"].to_numpy()).max() < 1e-5


def test_native_corruptions_are_other_images_than_those_of_the_input(run_copy):
    run = Run.open(run_copy, accelerator="cpu", workers=0)
    options = {"severities": [3], "delivery": [], "resamples": 100, "corruptions": ["blur"]}
    inner, native = (
        Robustness(at=at, **options).evaluate(run, run.dataset("test")).tables["predictions"].set_index("variation")
        for at in ("input", "native")
    )
    assert np.array_equal(inner.loc["clean", "confidence"], native.loc["clean", "confidence"])
    assert not np.allclose(inner.loc["blur/3", "confidence"], native.loc["blur/3", "confidence"])
