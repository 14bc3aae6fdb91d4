"""Folders of runs as train and evaluate leave them, made by hand in a moment."""

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from avatar_bench.metrics import plots
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study
from avatar_bench.results.result import Metric, Result

CLASSES = ("drawing", "generated", "real")
_RATES = {"coverage": (0.812, 0.7, 0.9), "error": (0.1, 0.05, 0.2)}
_RATES |= {"recall": (0.9, 0.8, 0.95), "false_alarms": (0.01, 0.005, 0.02)}


def checkpoint(name):
    """Return the hash of the checkpoint of a run."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_run(root, name, seed=1, **record):
    """Write run.json, config.yaml and split.csv of a run whose experiment is its name."""
    folder = root / name
    folder.mkdir(parents=True)
    started = f"2026-01-01T00:00:{len(list(root.iterdir())):02}"
    collected = {"status": "finished", "experiment": name, "seed": seed, "mode": "full", "started": started}
    collected |= {"checkpoint_sha256": checkpoint(name), "classes": list(CLASSES), "metrics": {"val/macro_f1": 0.5}}
    collected |= {part: {"fingerprint": f"{part}0"} for part in ("split", "data")}
    (folder / "run.json").write_text(json.dumps(collected | record), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"backbone": name}, "seed": seed}), encoding="utf-8")
    splits = enumerate(("train", "val", "test") * 2)
    rows = [(f"{of}/{k}.png", of, f"{of}-src", split) for of, (k, split) in product(CLASSES, splits)]
    pd.DataFrame(rows, columns=["path", "label", "source", "split"]).to_csv(folder / "split.csv", index=False)
    return folder


def write_result(
    folder, block, name="test", metrics=None, tables=None, figures=(), classes=CLASSES, images=(), **provenance
):
    """Save a Result below a run's folder, of the run's own checkpoint unless another is given."""
    record = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    origin = {key: record[key] for key in ("checkpoint_sha256", "seed") if record.get(key)}
    result = Result(block, name, 90, tuple(classes), metrics or {}, tables or {})
    versions = {"version": "1", "block_version": 1, "data_fingerprint": f"{name}0"}
    result.provenance = versions | origin | provenance
    result.images = {image: np.zeros((2, 2, 3), np.uint8) for image in images}

    def draw(saved):
        drawn = {title: plots.create_figure(1, 1) for title in figures}
        for title, figure in drawn.items():
            figure.text(0, 0.5, f"{folder.name[:9]} {name} {block[:9]} {title}", size=4)
        return drawn

    return result.save(folder / "evaluation" / name / block, draw)


def accuracy(value, spread=0.05):
    """Return an accuracy with an interval of twice the spread."""
    return Metric(value, 90, value - spread, value + spread, "wilson", floor=1 / 3)


def make_curve(*sets, classes=CLASSES, thresholds=(0.0, 0.9, 1.0)):
    """Return an operating curve with the same numbers for all sets, classes and thresholds, but for no answer at 1."""
    rows = []
    for of, (measure, ends) in product(sets, _RATES.items()):
        for name, threshold in product(classes if measure in ("recall", "false_alarms") else [""], thresholds):
            shown = (None, None, None) if (measure, threshold) == ("error", 1) else ends
            rows.append((of, measure, name, threshold, *shown, 0.975 if name else 0.95, "these sources"))
    columns = ["set", "measure", "class", "threshold", "value", "low", "high", "level", "population"]
    return pd.DataFrame(rows, columns=columns)


def write_ranking(root, name, rows, compared=()):
    """Save a ranking of significance: recipe, accuracy, low, high, rank_low, rank_high, tied_with_best, letters."""
    columns = ["recipe", "accuracy", "low", "high", "rank_low", "rank_high", "tied_with_best", "letters"]
    table = pd.DataFrame(list(rows), columns=columns)
    entries = [{"label": of, "checkpoint_sha256": checkpoint(of), "data_fingerprint": f"{name}0"} for of in compared]
    metrics = {"detectable_difference": Metric(0.07, 90, higher_is_better=False)}
    return write_result(
        root, "significance", name, metrics, {"ranking": table}, ["ranking"], compared=entries, checkpoint_sha256=None
    )


def describe_ensemble(members, kind="ensemble"):
    """Return an ensemble.json of runs in these places, by the names of their checkpoints."""
    listed = [
        {"run": run, "checkpoint_sha256": checkpoint(name), "weight": 0.5, "temperature": 1.0} for run, name in members
    ]
    return json.dumps({"kind": kind, "members": listed, "temperature": 1.0, "classes": ["a", "b"]})


def write_ensemble(root, label, value, name="test", kind="ensemble"):
    """Write an ensemble of all runs here, and its accuracy on a set."""
    folder = root / "ensembles" / label
    folder.mkdir(parents=True)
    members = [(f"../../{run.parent.name}/best.ckpt", run.parent.name) for run in sorted(root.glob("*/run.json"))]
    (folder / "ensemble.json").write_text(describe_ensemble(members, kind), encoding="utf-8")
    write_result(folder, "blind_test", name, {"accuracy": accuracy(value)})
    return folder


def balanced(value, spread=0.05, level=1 / 3):
    """Return a balanced accuracy with its interval and the level of guessing."""
    return Metric(value, 90, value - spread, value + spread, "bootstrap by group", floor=level)


@pytest.fixture(scope="session")
def evaluated_runs(tmp_path_factory):
    """A folder of two runs, good and poor, both evaluated by blind_test on test and blind; never write into it."""
    root = tmp_path_factory.mktemp("evaluated") / "runs"
    for name, value in (("good", 0.9), ("poor", 0.6)):
        folder = write_run(root, name)
        for of, loss in (("test", 0.0), ("blind", 0.2)):
            sources = pd.DataFrame({"source": ["s"], "target": ["real"], "n": [90], "groups": [80]})
            smallest = Metric(0.1, 90, higher_is_better=False)
            metrics = {"accuracy": accuracy(value - loss), "detectable_difference": smallest}
            write_result(folder, "blind_test", of, metrics, {"per_source": sources}, ["confusion"])
    return root


@pytest.fixture(scope="session")
def report(evaluated_runs, tmp_path_factory):
    """The report of a copy of the evaluated runs; never write into its folder."""
    copy = Path(shutil.copytree(evaluated_runs, tmp_path_factory.mktemp("reported") / "runs"))
    write_report(read_study(copy), copy / "report.html", "en")
    return copy / "report.html"


@pytest.fixture
def runs(evaluated_runs, tmp_path):
    """A copy of the evaluated runs that a test may change."""
    return Path(shutil.copytree(evaluated_runs, tmp_path / "runs"))
