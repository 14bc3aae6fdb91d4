"""Tests of robustness: oracles, every metric recomputed from the saved tables, and any order of workers."""

from itertools import product

import numpy as np
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

    bias, clean = result.tables["bias"].set_index(["corruption", "class"]), table["clean"]
    for kind, c in product(STANDARD_CORRUPTIONS, CLASSES):
        right, corrupted = clean["target"] == c, table[f"{kind}/3"]["prediction"]
        lost = (clean["prediction"][right] == c).mean() - (corrupted[right] == c).mean()
        assert bias.loc[(kind, c), "fragility"] == pytest.approx(lost, abs=1e-9)
    of_standard = bias.loc[list(STANDARD_CORRUPTIONS)].groupby("class").mean()
    expected |= {f"{kind}/{c}": of_standard.loc[c, kind] for kind in ("bias", "fragility") for c in CLASSES}
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


@pytest.mark.parametrize("at", ["input", "native"])
def test_images_are_corrupted_at_the_resolution_asked_for_and_delivered_at_their_own(at, evaluate_block, shaky):
    clean, vary = shaky
    varied = []
    options = {"severities": [3], "delivery": ["web"], "corruptions": ["blur"], "resamples": 100}
    evaluate_block(clean, lambda variation: varied.append(variation) or vary(variation), at=at, **options)
    assert [variation.at for variation in varied] == [at, "native"]
