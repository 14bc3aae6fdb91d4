"""A result compared with an earlier one, as a user types it: equal to significance, and a gate with its exit code."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from sklearn import metrics as sk

from avatar_bench.cli.app import main
from avatar_bench.results.result import Result

CLASSES = ["drawing", "generated", "real"]
QUICK = ["data.workers=0", "allow=[permutation]", "block.blind_test.resamples=100"]
BLIND = ["split=blind", *QUICK]


@pytest.fixture(scope="module")
def good(tiny_run, tmp_path_factory):
    """A run that is nearly always right, evaluated on its blind set."""
    left = shutil.ignore_patterns("evaluation", "predictions")
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("against") / "good", ignore=left))
    assert evaluate(run, *BLIND) == 0
    return run


@pytest.fixture(scope="module")
def poor(train, good):
    """A run of the same split that is often wrong, evaluated on the same set."""
    run = train(good.parent / "poor", "trainer.limit_batches=3", "lr=1e-3", "seed=3")
    assert evaluate(run, *BLIND) == 0
    return run


@pytest.fixture
def earlier(good, tmp_path):
    """A copy of the good run's result that a test may spoil."""
    return Path(shutil.copytree(good / "evaluation" / "blind" / "blind_test", tmp_path / "earlier"))


def evaluate(run, *words):
    return main(["evaluate", f"ckpt={run}", *words])


def found(run, name="blind"):
    return Result.load(run / "evaluation" / name / "against")


def spoil(result, **said):
    text = json.loads((result / "metrics.json").read_text(encoding="utf-8"))
    (result / "metrics.json").write_text(json.dumps(text | said), encoding="utf-8")


def test_it_says_of_two_runs_what_significance_says_of_them(good, poor):
    both = ["evaluate", f"ckpt=[{good},{poor}]", "block=significance", "block.significance.resamples=100"]
    assert main([*both, "split=blind", "data.workers=0", "allow=[permutation]"]) == 0
    theirs = Result.load(good.parent / "evaluation" / "blind" / "significance").tables["pairs"].iloc[0]
    assert evaluate(good, *BLIND, f"against={poor}") == 0
    ours = found(good).tables["pairs"].iloc[0]
    numbers = [
        "n",
        "only_a_correct",
        "only_b_correct",
        "p",
        "p_holm",
        "difference",
        "low",
        "high",
        "units",
        "n_required",
    ]
    assert ours[numbers].to_numpy(float) == pytest.approx(theirs[numbers].to_numpy(float), abs=1e-12)
    assert (
        (ours["test"], ours["significant"]) == (theirs["test"], theirs["significant"]) == ("cluster permutation", True)
    )
    accuracy = found(good).metrics["blind_test/accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == tuple(ours[["difference", "low", "high"]])


def test_a_significantly_worse_run_ends_with_seven_once_all_is_written(good, poor, capsys):
    assert evaluate(poor, *BLIND, f"against={good}") == 7
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith(f"{poor}/evaluation/blind/blind_test is significantly worse than {good}: difference in")
    assert "42 images in common" in last
    assert f"against {good}: significantly worse" in out
    assert (found(poor).metrics["blind_test/accuracy"].high or 0) < 0
    assert Result.load_if_complete(poor / "evaluation" / "blind" / "against")


@pytest.mark.parametrize("place", ["evaluation/blind/blind_test/metrics.json", ""])
def test_a_tie_and_a_better_run_end_with_nought(place, good, poor, capsys):
    assert evaluate(good, *BLIND, f"against={good / place}", "again=true") == 0  # its own result, which is replaced
    assert "statistically tied (difference in accuracy +0.000, p = 1, 42 images in common)" in capsys.readouterr().out
    assert found(good).metrics["blind_test/accuracy"].value == 0
    assert evaluate(good, *BLIND, f"against={poor / place}") == 0
    assert "significantly better" in capsys.readouterr().out


def test_every_paired_difference_is_that_of_the_figures_of_sklearn(good, poor):
    assert evaluate(good, *BLIND, f"against={poor}") == 0
    table = found(good).tables["differences"].set_index("metric")
    scores: dict[str, dict[str, float]] = {}
    for name, run in (("new", good), ("earlier", poor)):
        rows = pd.read_csv(run / "evaluation" / "blind" / "blind_test" / "predictions.csv")
        truth, guess = rows["target"], rows["prediction"]
        own = scores[name] = {
            "accuracy": sk.accuracy_score(truth, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
            "macro_f1": sk.f1_score(truth, guess, average="macro"),
            "mcc": sk.matthews_corrcoef(truth, guess),
        }
        for index, label in enumerate(CLASSES):
            own[f"recall/{label}"] = sk.recall_score(truth, guess, labels=CLASSES, average=None)[index]
            own[f"f1/{label}"] = sk.f1_score(truth, guess, labels=CLASSES, average=None)[index]
            own[f"auroc/{label}"] = sk.roc_auc_score(truth == label, rows[f"prob_{label}"])
    for metric, value in scores["new"].items():
        row = table.loc[metric]
        assert row["comparison"] == "paired"
        assert (row["new"], row["earlier"]) == pytest.approx((value, scores["earlier"][metric]), abs=1e-12)
        assert row["difference"] == pytest.approx(value - scores["earlier"][metric], abs=1e-12)
    assert table.loc["detectable_difference", "comparison"] == "unpaired"
    changed = found(good).tables["changed"]
    assert (changed["new"] != changed["earlier"]).all()
    assert len(changed) >= round(42 * table.loc["accuracy", "difference"])


def test_images_are_matched_by_content_and_their_number_is_stated(good, images, tmp_path, capsys):
    rows = pd.read_csv(images / "blind.csv").iloc[5:]
    for row in rows.itertuples():
        (tmp_path / "moved" / Path(row.path).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / str(row.path), tmp_path / "moved" / str(row.path))
    rows.to_csv(tmp_path / "moved" / "blind.csv", index=False)
    rows.assign(path=[f"./{path}" for path in rows["path"]]).to_csv(tmp_path / "moved" / "june.csv", index=False)
    words = ["data=manifest", f"data.manifest={tmp_path / 'moved' / 'june.csv'}", *QUICK]
    assert evaluate(good, *words, f"against={good / 'evaluation' / 'blind' / 'blind_test'}") == 0
    printed = "Paired differences cover the 37 common images; the new result has 37, the earlier one 42."
    assert printed in capsys.readouterr().err
    result = found(good, "june")
    assert (result.n, result.metrics["blind_test/images_in_common"].value) == (37, 37)
    assert result.metrics["blind_test/accuracy"].value == 0


def test_without_images_in_common_a_set_of_one_name_is_refused(good, earlier, capsys):
    table = pd.read_csv(earlier / "predictions.csv")
    table.assign(sha256=table["sha256"].str[::-1]).to_csv(earlier / "predictions.csv", index=False)
    assert evaluate(good, *BLIND, f"against={earlier}") == 3
    assert "have no image in common (matched by sha256)" in capsys.readouterr().err


def test_on_other_data_differences_are_unpaired_and_say_so(good, capsys):
    assert evaluate(good, "split=test", *QUICK, f"against={good / 'evaluation' / 'blind' / 'blind_test'}") == 0
    out, err = capsys.readouterr()
    assert "all differences are unpaired" in err
    assert "statistically" not in out
    result, accuracies = found(good, "test"), []
    for name in ("test", "blind"):
        accuracies.append(Result.load(good / "evaluation" / name / "blind_test").metrics["accuracy"])
    difference = result.metrics["blind_test/accuracy"]
    assert difference.interval == "unpaired"
    assert difference.value == pytest.approx(accuracies[0].value - accuracies[1].value)
    assert set(result.tables["differences"]["comparison"]) == {"unpaired"}


def test_an_earlier_result_of_an_older_version_is_matched_by_path(good, earlier, capsys):
    table = pd.read_csv(earlier / "predictions.csv").drop(columns="sha256")
    table.to_csv(earlier / "predictions.csv", index=False)
    assert evaluate(good, *BLIND, f"against={earlier}") == 0
    out, err = capsys.readouterr()
    assert "matched by path" in err
    assert "statistically tied" in out


@pytest.mark.parametrize(
    ("place", "said", "words", "code", "told"),
    [
        ("nowhere", {}, [], 3, "nowhere: there is no such folder"),
        (".", {}, [], 3, "has no result of blind_test on blind; it has earlier"),
        ("earlier", {"classes": ["cat", "dog"]}, [], 3, "is of the classes cat, dog, this run knows drawing"),
        ("earlier", {"schema": 99}, [], 3, "its metrics.json cannot be read: it has schema 99"),
        ("earlier", {}, ["block=data_audit"], 2, "against= needs a block that evaluates single runs"),
        ("earlier", {}, ["alpha=2"], 2, "alpha=2"),
        ("", {}, [], 2, "against= is empty"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_evaluated(
    place, said, words, code, told, good, earlier, capsys
):
    spoil(earlier, **said)
    where = str(earlier.parent / place) if place else ""
    images = ["data=folder", f"data.root={earlier}"] if "block=data_audit" in words else BLIND
    assert evaluate(good, *images, *words, f"against={where}", "again=true") == code
    out, err = capsys.readouterr()
    assert told in err
    assert len(err.splitlines()) <= 3
    assert out == ""


def test_of_several_runs_each_is_compared_and_one_that_is_worse_counts(good, poor, tmp_path, capsys):
    both = ["evaluate", f"ckpt=[{good},{poor}]", *BLIND, f"against={good}", f"out={tmp_path / 'out'}"]
    assert main(both) == 7
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0].split(": ")[1] for line in out if line.startswith("against")] == [
        "statistically tied",
        "significantly worse",
    ]
    assert out[-1] == f"results: 4 written, in {tmp_path / 'out'}"
    places = sorted(str(file.parent.relative_to(tmp_path / "out")) for file in tmp_path.rglob("metrics.json"))
    assert places == sorted(
        f"{run}/evaluation/blind/{what}" for run in ("good", "poor") for what in ("against", "blind_test")
    )
