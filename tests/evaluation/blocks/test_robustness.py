"""Tests of robustness: oracles, every metric recomputed from the saved tables, and any order of workers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from avatar_bench.cli.app import main
from avatar_bench.config.entries import use_folders
from avatar_bench.data.corruptions import SEVERITIES, STANDARD_CORRUPTIONS, Corruption, list_corruptions
from avatar_bench.data.delivery import DELIVERY_TIERS
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.blocks.robustness import Robustness
from avatar_bench.evaluation.intervals import compute_proportion
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason, format_reason
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


def test_the_figures_count_images_where_the_metrics_count_groups(evaluate_block, shaky, draw_saved) -> None:
    result = evaluate_block(*shaky)
    figures = draw_saved(result)
    assert (result.metrics["clean"].n, result.metrics["clean"].units) == (120, 60)
    for name in ("delivery", "severity_3"):
        assert all(text.get_text().endswith("(n = 120)") for text in figures[name].axes[0].get_yticklabels())


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


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_each_wrong_order_of_the_classes_raises_the_alarm(evaluate_block, oracle, order) -> None:
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle(("permuted", order)))
    assert evaluate_block(oracle(("permuted", order)), allow=["permutation"]).metrics["clean"].value < 0.5


def test_the_metrics_are_those_of_the_contract(evaluate_block, shaky) -> None:
    tiers = [f"delivery/{tier}" for tier in DELIVERY_TIERS]
    kept = [*KINDS, "robustness", *tiers]
    expected = ["robustness", "clean", *KINDS, "mean_over_severities", *tiers]
    expected += [f"{what}/{name}" for what in ("drop", "relative") for name in kept]
    expected += [f"{what}/{name}" for what in ("bias", "fragility") for name in CLASSES]
    result = evaluate_block(*shaky)
    assert sorted(result.metrics) == sorted(expected)
    assert next(iter(result.metrics)) == "robustness"
    better = {name: metric.higher_is_better for name, metric in result.metrics.items()}
    assert all(better[name] is False for name in better if name.startswith(("drop/", "fragility/")))
    assert all(better[name] is None for name in better if name.startswith("bias/"))


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

    found = {name: ([], []) for name in CLASSES}
    for kind in STANDARD_CORRUPTIONS:
        clean, corrupted = table["clean"], table[f"{kind}/3"]
        gains = []
        for k in CLASSES:  # one class alone is transformed: its rows are the corrupted ones
            mixed = clean["prediction"].where(clean["target"] != k, corrupted["prediction"])
            n = (clean["target"] == k).sum()
            gains.append({c: ((mixed == c).sum() - (clean["prediction"] == c).sum()) / n for c in CLASSES})
            before = sk.recall_score(clean["target"], clean["prediction"], labels=[k], average="macro")
            found[k][1].append(before - sk.recall_score(clean["target"], mixed, labels=[k], average="macro"))
        for c in CLASSES:
            found[c][0].append(np.mean([gain[c] for gain in gains]))
        bias = result.tables["bias"].query("corruption == @kind").set_index("class")
        for c in CLASSES:
            assert bias.loc[c, "bias"] == pytest.approx(found[c][0][-1], abs=1e-9)
            assert bias.loc[c, "fragility"] == pytest.approx(found[c][1][-1], abs=1e-9)
    for c in CLASSES:
        assert value[f"bias/{c}"] == pytest.approx(np.mean(found[c][0]), abs=1e-9)
        assert value[f"fragility/{c}"] == pytest.approx(np.mean(found[c][1]), abs=1e-9)
    assert value["bias/real"] > 0.1 > value["fragility/real"]


def test_the_tables_say_what_the_predictions_say(evaluate_block, shaky) -> None:
    result = evaluate_block(*shaky)
    rows = result.tables["predictions"]
    share = rows.groupby("variation")["correct"].mean()
    severities = result.tables["severities"]
    assert list(severities.columns[:7]) == ["corruption", "severity", "parameter", "accuracy", "low", "high", "n"]
    assert severities["severity"].tolist() == [0, *SEVERITIES * 9]
    assert severities["corruption"].tolist() == ["clean", *np.repeat(KINDS, 5)]
    names = ["clean", *(f"{row.corruption}/{row.severity}" for row in severities[1:].itertuples())]
    assert severities["accuracy"].tolist() == pytest.approx(share[names].tolist())
    assert (severities["low"] <= severities["accuracy"]).all()
    assert (severities["high"] >= severities["accuracy"]).all()
    assert set(severities["n"]) == {120}
    assert set(severities["units"]) == {60}
    assert set(severities["unit"]) == {"group"}
    recalls = rows.groupby(["variation", "target"])["correct"].mean()
    for row in result.tables["recalls"].itertuples():
        assert row.recall == pytest.approx(recalls[row.variation, row[2]])
        assert (row.n, row.unit, row.units) == (40, "group", 20)
    delivery = result.tables["delivery"].set_index("tier")
    assert delivery["drop"].tolist() == pytest.approx(
        [share["clean"] - share[f"delivery/{tier}"] for tier in DELIVERY_TIERS]
    )
    counts = result.tables["one_class"]
    clean, dark = (rows[rows["variation"] == name] for name in ("clean", "brightness/3"))
    for row in counts[counts["corruption"] == "brightness"].itertuples():
        for part, n in ((clean, row.clean), (dark, row.corrupted)):
            assert ((part["target"] == row.transformed) & (part["prediction"] == row.prediction)).sum() == n


def test_what_training_resembled_is_marked_in_tables_and_figures(fake_run, dataset_of, shaky, draw_saved) -> None:
    clean, vary = shaky
    run = fake_run(clean, variations=vary, preprocessing=PREPROCESSING)
    unknown = Robustness(resamples=100).evaluate(run, dataset_of(clean))
    assert unknown.tables["severities"]["resembled"].isna().all()
    assert unknown.tables["delivery"]["resembled"].isna().all()
    run.record["resembles"] = ["delivery/web", "noise"]
    result = Robustness(resamples=100).evaluate(run, dataset_of(clean))
    severities, delivery = (result.tables[name].dropna(subset="resembled") for name in ("severities", "delivery"))
    assert severities.groupby("corruption")["resembled"].all().to_dict() == {kind: kind == "noise" for kind in KINDS}
    assert dict(zip(delivery["tier"], delivery["resembled"], strict=True)) == {
        tier: tier == "web" for tier in DELIVERY_TIERS
    }
    for found, names in ((result, ["noise", "web: 768 px, JPEG 60"]), (unknown, ["", ""])):
        figures = draw_saved(found)
        for figure, marked in zip(("severity_3", "delivery"), names, strict=True):
            (axes,) = figures[figure].axes
            labels = [text.get_text().partition(" (n")[0] for text in axes.get_yticklabels()]
            pale = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches if bar.get_alpha() < 0.5]
            assert [labels[round(row)] for row in pale] == [marked] * bool(marked)


def test_groups_of_one_image_have_wilson_intervals(evaluate_block, oracle) -> None:
    result = evaluate_block(oracle("noisy"), lambda variation: oracle("noisy", seed=len(variation.key)))
    for name in ("clean", *KINDS, *(f"delivery/{tier}" for tier in DELIVERY_TIERS)):
        metric = result.metrics[name]
        expected = binomtest(round(metric.value * 240), 240).proportion_ci(method="wilson")
        assert (metric.low, metric.high) == pytest.approx(tuple(expected))
        assert metric.interval == "wilson"


def test_one_bootstrap_for_all_gives_what_one_for_each_gives(evaluate_block, shaky) -> None:
    clean, vary = shaky
    result = evaluate_block(clean, vary)
    block = Robustness(resamples=200)
    assert result.metrics["clean"] == compute_proportion(block, clean.correct, clean.groups, floor=1 / 3)
    blurred = vary(Corruption("blur", 3))
    assert result.metrics["blur"] == compute_proportion(block, blurred.correct, clean.groups, floor=1 / 3)


def test_the_interval_of_a_drop_is_that_of_paired_images_drawn_by_group(evaluate_block, shaky) -> None:
    clean, vary = shaky
    metric = evaluate_block(clean, vary, resamples=2000).metrics["drop/noise"]
    lost = (clean.correct.astype(float) - vary(Corruption("noise", 3)).correct).reshape(60, 2).sum(axis=1)
    rng = np.random.default_rng(9)
    drawn = [lost[rng.integers(0, 60, 60)].sum() / 120 for _ in range(4000)]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
    assert (metric.n, metric.units, metric.interval) == (120, 60, "bootstrap by group")


def test_where_all_agree_the_interval_counts_groups(evaluate_block, shaky, make_predictions) -> None:
    clean, _ = shaky
    perfect = make_predictions(clean.targets, 50 * np.eye(3)[clean.targets], groups=clean.groups)
    metric = evaluate_block(perfect).metrics["clean"]
    assert (metric.value, metric.interval) == (1.0, "wilson by group")
    assert metric.low == pytest.approx(binomtest(60, 60).proportion_ci(method="wilson").low)


def test_with_some_of_the_corruptions_their_means_are_null_and_say_why(evaluate_block, shaky, draw_saved) -> None:
    result = evaluate_block(*shaky, corruptions=["jpeg", "noise"], severities=[5, 3], delivery=[])
    for name in ("robustness", "mean_over_severities", *(f"bias/{c}" for c in CLASSES)):
        assert result.metrics[name].value is None
        assert "all five" in format_reason(result.metrics[name].reason, "robustness")
    assert not any(name.startswith("delivery/") or name.endswith("/robustness") for name in result.metrics)
    assert set(result.tables["severities"]["corruption"]) == {"clean", "jpeg", "noise"}
    assert len(result.tables["bias"]) == 6
    assert set(draw_saved(result)) == {"severities", "severity_3", "one_class", "images"}
    few = evaluate_block(*shaky, severities=[3])
    assert few.metrics["robustness"].value is not None
    assert few.metrics["mean_over_severities"].value is None


def test_the_standard_five_have_the_same_numbers_whatever_else_is_run(evaluate_block, shaky) -> None:
    everything = evaluate_block(*shaky)
    alone = evaluate_block(*shaky, corruptions=list(STANDARD_CORRUPTIONS))
    assert "sticker" in everything.metrics
    assert alone.metrics == {name: everything.metrics[name] for name in alone.metrics}
    for name in ("severities", "bias", "one_class"):
        table = everything.tables[name]
        own = table[table["corruption"].isin(["clean", *STANDARD_CORRUPTIONS])].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone.tables[name])


def test_a_corruption_of_a_user_has_its_title_in_figures(evaluate_block, shaky, draw_saved, tmp_path) -> None:
    (tmp_path / "corruption").mkdir()
    code = "PARAMETERS = (1, 2, 3, 4, 5)\n\ndef corrupt(image, parameter, seed):\n    return image[::-1]\n"
    (tmp_path / "corruption" / "upside.py").write_text(code)
    (tmp_path / "corruption" / "upside.yaml").write_text("title: upside down\nru: {title: вверх ногами}\n")
    with use_folders([tmp_path]):
        result = evaluate_block(*shaky)
        figures = draw_saved(result)
        with use_language("ru"):
            wall = draw_saved(result)["images"]
        assert result.metrics["robustness"] == evaluate_block(*shaky, corruptions=KINDS).metrics["robustness"]
    assert {"upside", "drop/upside", "relative/upside"} <= result.metrics.keys()
    assert "upside" in set(result.tables["bias"]["corruption"])
    panels = [axes.get_title() for axes in figures["severities"].axes]
    assert panels[-1] == "upside down"
    assert "round crop" in panels
    for figure, at in (("severity_3", 0), ("one_class", 0)):
        labels = [text.get_text().partition(" (n")[0] for text in figures[figure].axes[at].get_yticklabels()]
        assert {"upside down", "noise"} <= set(labels)
    assert {"вверх ногами", "шум"} <= {axes.get_ylabel() for axes in wall.axes}
    assert wall.get_figheight() < wall.get_figwidth()  # two corruptions in a row


def test_names_of_metrics_are_refused_as_names_of_corruptions(tmp_path) -> None:
    (tmp_path / "corruption").mkdir()
    (tmp_path / "corruption" / "clean.py").write_text("")
    with use_folders([tmp_path]), pytest.raises(ConfigError, match="clean is the name of a metric"):
        Robustness()


def test_images_of_unknown_or_absent_classes_are_left_out_and_said(evaluate_block, make_predictions) -> None:
    targets = np.array([0, 1] * 40 + [-1] * 5)
    logits = np.random.default_rng(0).normal(size=(85, 3)) + 3 * np.eye(3)[targets]
    result = evaluate_block(make_predictions(targets, logits))
    assert result.n == 80
    assert result.warnings == [Reason("unlabelled", n=5, all=85), Reason("class_absent", name="real")]
    assert result.metrics["fragility/real"].value is None
    assert result.metrics["bias/real"].value == 0.0
    assert set(result.tables["recalls"]["class"]) == {"drawing", "generated"}


def test_one_class_alone_cannot_tell_bias_from_fragility(evaluate_block, make_predictions) -> None:
    logits = np.random.default_rng(0).normal(size=(40, 3)) + 2 * np.eye(3)[np.ones(40, int)]
    result = evaluate_block(make_predictions(np.ones(40, int), logits))
    assert result.metrics["bias/generated"].value is None
    assert result.metrics["fragility/generated"].value == 0.0
    assert 0 < result.metrics["clean"].value < 1


def test_a_network_that_is_never_right_has_no_relative_accuracy(evaluate_block, make_predictions) -> None:
    result = evaluate_block(make_predictions(np.zeros(8, int), np.tile([0.0, 1.0, 0.0], (8, 1))))
    assert result.metrics["relative/noise"].value is None
    assert result.metrics["relative/noise"].reason == Reason("never_correct")
    assert result.metrics["drop/noise"].value == 0.0


def test_one_image_is_enough_and_none_of_known_class_is_refused(evaluate_block, make_predictions) -> None:
    assert evaluate_block(make_predictions([0], [[2.0, 0, 0]])).metrics["robustness"].value == 1.0
    with pytest.raises(BlockError, match="no image has a known class"):
        evaluate_block(make_predictions([-1, -1], np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("severities", [1, 2], "with 3 among them"),
        ("severities", [3, 3], "with 3 among them"),
        ("severities", [0, 3], "some of 1, 2, 3, 4, 5"),
        ("corruptions", [], "one or more of those"),
        ("corruptions", ["fog"], "some of noise"),
        ("at", "screen", "one of input, native"),
        ("delivery", ["fax"], "some of web"),
        ("level", 95, "below 1"),
        ("resamples", 10, "100 or more"),
    ],
)
def test_a_wrong_option_is_said(option, value, expected) -> None:
    with pytest.raises(ConfigError, match=rf"block\.robustness\.{option}=.*{expected}"):
        registry.build_block("robustness", {option: value})


@pytest.mark.slow
def test_workers_and_orders_change_no_digit(run_copy) -> None:
    """The prediction of each image under each variation, by 0, 1 and 4 workers, in any order of either."""
    found = []
    options = {"severities": [3, 5], "delivery": ["hard"], "resamples": 100}
    orders = [
        (0, 1, options),
        (1, 1, options),
        (4, 1, options),
        (1, -1, options | {"corruptions": [*KINDS][::-1]}),
    ]
    for workers, step, chosen in orders:
        run = Run.open(run_copy, accelerator="cpu", workers=workers, batch_size=4)
        dataset = run.dataset("test")
        shuffled = dataset.take(np.arange(len(dataset))[::step])
        assert run.predictor.count_workers(len(dataset)) == workers
        result = Robustness(**chosen).evaluate(run, shuffled)
        found.append(result)
        for file in (run_copy / "predictions").iterdir():
            file.unlink()
    first = found[0]
    assert len(first.tables["predictions"]) == 20 * first.n
    for other in found[1:]:
        assert {name: metric.value for name, metric in other.metrics.items()} == {
            name: metric.value for name, metric in first.metrics.items()
        }
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
    assert main([*words, "block.robustness.severities=[1,3]"]) == 0
    written = {file.name for file in tmp_path.rglob("robustness/*")}
    tables = ("severities", "delivery", "recalls", "bias", "one_class", "predictions")
    figures = ("severities", "severity_3", "delivery", "one_class", "images", "images_delivered")
    drawn = {f"{name}.{ending}" for name in figures for ending in ("png", "svg")}
    assert written == {"metrics.json", "images.npz", *(f"{name}.csv" for name in tables), *drawn}
