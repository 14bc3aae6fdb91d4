"""Tests of over_time: numbers by period counted by hand, the cut, old works, and what is said of dates and weights."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.blocks.over_time import OverTime, find_training_cut, locate_cut
from avatar_bench.i18n import use_language
from avatar_bench.models.model_card import Card
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from tests.evaluation.conftest import CLASSES

# (true class, predicted class, date, release of the generator, number)
ROWS = [
    *((0, 0, "1900", "", 3), (0, 1, "2019-04", "", 1), (2, 2, "2020-12-31", "", 4)),  # older than 2021
    *((2, 1, "2021", "", 2), (2, 2, "2021-05", "", 2), (1, 1, "2022-01", "2021-08", 3)),
    *((1, 1, "2023-03-01", "", 4), (1, 0, "2023-09", "", 1), (0, 0, "2023", "", 1)),
    *((1, 0, "", "2024-02", 3), (1, 1, "", "2024-02", 1), (0, 0, "2025-01", "", 2)),
    *((1, 1, "", "2020", 2), (2, 1, "", "", 5)),
]


@pytest.fixture(scope="module")
def evaluate_block(make_predictions, dataset_of, fake_run):
    """Run the block on rows such as ROWS, of a network trained until the middle of 2023."""

    def evaluate(rows=ROWS, options=None, card=None, groups=None, origins=None, **fields):
        images = [row[:4] for row in rows for _ in range(row[4])]
        targets, predicted = (np.array([image[k] for image in images]) for k in (0, 1))
        known = {"groups": groups} if groups else {}
        predictions = make_predictions(targets, 5 * np.eye(3)[predicted], **known)
        predictions = replace(predictions, origins=origins) if origins is not None else predictions
        columns = {"date": [image[2] for image in images], "released": [image[3] for image in images]}
        card = Card(CLASSES, "net", {}, trained_until="2023-06") if card is None else card
        run = fake_run(predictions, card=card, **{"images": None} | fields)
        return OverTime(**{"resamples": 100} | (options or {})).evaluate(run, dataset_of(predictions, **columns))

    return evaluate


def test_metrics_of_periods_are_those_counted_by_hand_and_read_back(evaluate_block, tmp_path):
    result = evaluate_block()
    accuracies = {"1900": (3, 3), "2019": (0, 1), "2020": (6, 6), "2021": (2, 4), "2022": (3, 3), "2023": (5, 6)}
    # until June 2023: not "2023", nor the two of a generator of 2020; after: the four of a generator of 2024
    accuracies |= {"2024": (1, 4), "2025": (2, 2)}
    accuracies |= {"until_cut": (3 + 0 + 4 + 2 + 3 + 4, 19), "after_cut": (0 + 1 + 2, 7)}
    recalls = {"2023/generated": (4, 5), "2024/generated": (1, 4), "2023/drawing": (1, 1), "2021/real": (2, 4)}
    recalls |= {"until_cut/generated": (7, 7), "after_cut/generated": (1, 5)}
    alarms = {"2019": (1, 1), "2021": (2, 4), "2025": (0, 2), "2023": (0, 1)}
    alarms |= {"until_cut": (3, 12), "after_cut": (0, 2), "before_2021": (1, 8)}
    parts = {"accuracy": accuracies, "recall": recalls, "false_alarms": alarms}
    expected = {f"{kind}/{name}": counts for kind, part in parts.items() for name, counts in part.items()}
    metrics = {name: result.metrics[name] for name in expected}
    assert {name: (round(metric.value * metric.n), metric.n) for name, metric in metrics.items()} == expected
    assert "recall/2024/drawing" not in result.metrics  # no image of it
    assert {metric.higher_is_better for name, metric in result.metrics.items() if "false" in name} == {False}
    assert all(metric.low <= metric.value <= metric.high for metric in result.metrics.values())
    assert Result.load(result.save(tmp_path / "over_time")).metrics == result.metrics
    periods = result.tables["periods"].dropna(subset="position")
    assert periods["period"].tolist() == ["1900", "2019", "2020", "2021", "2022", "2023", "2024", "2025"]
    cuts = {"2023-06": 5.0, "2022": 4.5, "2010": 0.5, "1899": -0.5, "2030": 7.5}  # between the periods or in one
    assert {cut: locate_cut(periods, cut) for cut in cuts} == cuts


def test_the_tables_count_images_sources_and_what_is_known(evaluate_block):
    result = evaluate_block(options={"period": "half"})
    periods = result.tables["periods"].set_index("period")
    halves = "2019-H1 2020-H2 2021-H1 2022-H1 2023-H1 2023-H2 2024-H1 2025-H1"
    assert list(periods.index)[:-2] == halves.split()
    assert periods["side"].tolist() == ["before"] * 5 + ["after"] * 3 + ["", ""]
    assert periods.loc["2024-H1", ["n", "by_release", "recall"]].tolist() == [4, 4, 0.25]
    assert periods["position"].tolist()[:8] == list(range(8))
    known = result.tables["known"].set_index("known")["n"]
    assert known.to_dict() == {"date": 17, "released": 4, "too_coarse": 3 + 2 + 1 + 2, "undated": 5}
    assert sum(known) == result.n
    images = result.tables["images"]
    correct = images.groupby("period")["correct"].mean().drop("")
    accuracies = {name: result.metrics[f"accuracy/{name}"].value for name in correct.index}
    assert correct.to_dict() == pytest.approx(accuracies)
    assert periods.loc["2020-H2", "sources"] == images[images["period"] == "2020-H2"]["source"].nunique()
    codes = {reason.code: reason.values.get("n") for reason in result.warnings}
    assert codes == {"undated": 5, "too_coarse": 8, "by_release": 4}


def test_false_alarms_of_old_works_have_the_exact_interval_also_of_new_sources(evaluate_block):
    for alarms, n in ((1, 8), (3, 40), (40, 40)):
        rows = [(2, 1, "2015", "", alarms), (0, 0, "1900-05", "", n - alarms), (1, 1, "2024", "", 2)]
        metric = evaluate_block(rows).metrics["false_alarms/before_2021"]
        exact = binomtest(alarms, n).proportion_ci(0.95, method="exact")
        assert (metric.low, metric.high) == pytest.approx((exact.low, exact.high)), (alarms, n)
        assert metric.interval == "exact"
    rows = [(2, 2, "2015", "", 300), (1, 1, "2024", "", 2)]
    metric = evaluate_block(rows).metrics["false_alarms/before_2021"]
    bound = binomtest(0, 300).proportion_ci(0.95, method="exact").high  # two-sided, also where none is taken for it
    assert (metric.value, metric.low, metric.high) == pytest.approx((0, 0, bound))
    groups = [f"g{row // 10}" for row in range(300)] + ["a", "b"]
    by_group = evaluate_block(rows, groups=groups).metrics["false_alarms/before_2021"]
    assert (by_group.units, by_group.high) == (30, pytest.approx(1 - 0.025 ** (1 / 30)))
    metric = evaluate_block(rows, origins=np.arange(302) % 5).metrics["false_alarms/before_2021"]
    assert (metric.units, metric.population) == (5, "new sources")
    assert metric.high > 0.3
    rows = [(1, 1, "2022", "", 20), (1, 0, "2022", "", 20), (1, 1, "2024", "", 20)]
    metrics = evaluate_block(rows, origins=np.where(np.arange(60) < 40, np.arange(60) % 3, 3)).metrics
    assert metrics["accuracy/2022"].population == "new sources"
    single = metrics["recall/2024/generated"]
    assert (single.population, single.units, single.reason) == ("these sources", 20, Reason("one_source"))


def test_without_usable_dates_old_works_or_the_class_there_are_reasons_or_refusals(evaluate_block):
    newer = evaluate_block(options={"older_than": "1850"}).metrics["false_alarms/before_1850"]
    assert (newer.value, newer.reason) == (None, Reason("none_older", date="1850"))
    other = evaluate_block(options={"target": "ai"})
    assert other.metrics["false_alarms/before_2021"].reason == Reason("no_class", name="ai")
    assert other.tables["periods"]["false_alarms"].isna().all()
    with pytest.raises(BlockError, match="no image has a date,"):
        evaluate_block([(1, 1, "", "", 4), (0, 0, "", "", 4)])
    with pytest.raises(BlockError, match="no image has a date that says its month"):
        evaluate_block([(1, 1, "2020", "", 4), (0, 0, "", "2021", 4)], options={"period": "month"})
    with pytest.raises(ConfigError, match=r"older_than=2021-00: expected YYYY, YYYY-MM or YYYY-MM-DD"):
        OverTime(older_than="2021-00")


def test_the_cut_is_found_and_weights_that_may_have_seen_images_are_named(evaluate_block, fake_run, dataset_of, oracle):
    assert evaluate_block().provenance["training_cut"] == "2023-06"
    assert evaluate_block(options={"cut": "2020"}).provenance["training_cut"] == "2020"
    predictions = oracle("noisy", n=6)

    def find(dates, **fields):
        images = dataset_of(predictions, date=dates, split=["train", "train", "val", "val", "test", "test"])
        return find_training_cut(fake_run(predictions, images=images, card=Card(CLASSES, "net", {}), **fields))

    assert find(["2019", "2021-02-03", "2021", "1900", "2025", ""]) == "2021"
    assert find(["2019", "", "2021", "1900", "2025", "2025"]) == ""  # it may be newer
    cards = [Card(CLASSES, "net", {}, trained_until=cut) for cut in ("2024-06", "2024")]
    members = [fake_run(predictions, images=None, card=card) for card in cards]
    assert find([""] * 6, members=members) == "2024"
    unknown = evaluate_block(card=Card(CLASSES, "net", {}))
    assert (unknown.provenance["training_cut"], unknown.warnings[-1]) == (None, Reason("cut_unknown"))
    assert "accuracy/until_cut" not in unknown.metrics

    def warn(backbone, weights="hub", **fields):
        card = Card(CLASSES, backbone, {}, weights=weights, trained_until="2023-06")
        warnings = evaluate_block(card=card, **fields).warnings
        return [reason for reason in warnings if reason.code not in ("undated", "by_release")]

    n = 3 + 1 + 4 + 2 + 2 + 3 + 4 + 1 + 1 + 2  # of 2023 or before, or of a generator of then
    newer = Reason("may_have_been_seen", n=n, weights="lvd142m", year="2023", all=29)
    assert warn("vit_small_patch14_dinov2.lvd142m") == [newer]
    old = Reason("may_have_been_seen", n=3, weights="a1_in1k", year="2012", all=29)
    assert warn("resnet18.a1_in1k") == [old]
    assert warn("resnet18.a1_in1k", weights="none") == []
    assert warn("resnet18.mine") == [Reason("weights_of_unknown_age", weights="mine")]
    assert warn("onnx", weights="none", record={"kind": "onnx"}) == [Reason("pretraining_unknown")]
    assert "3 of 29" in format_reason(old, "over_time")


@pytest.mark.parametrize(("language", "length"), [("en", "year"), ("ru", "month")])
def test_the_figure_is_whole_and_marks_the_cut(language, length, evaluate_block, draw_saved, inside):
    rows = [(k % 3, 1, f"{2020 + k // 12}-{k % 12 + 1:02}", "", 2) for k in range(48)]
    result = evaluate_block(rows, options={"period": length})
    with use_language(language):
        figure = draw_saved(result)["periods"]
        assert inside(figure)
        assert len(figure.axes) == 3
        assert figure.legends[0].texts[0].get_text().endswith(": 2023-06")
    positions = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert positions == [3.0 if length == "year" else 41.5]
