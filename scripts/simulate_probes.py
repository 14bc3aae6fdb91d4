"""Simulate probes: which C is chosen on few images, and how well the head answers other images and other sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from avatar_bench.data.dataset import read_manifest
from avatar_bench.evaluation.blocks.data_audit import compute_features
from avatar_bench.metrics.classification import balanced_accuracy, confusion_matrix
from avatar_bench.training.probe_job import LogisticProblem, choose_strength, divide_images

NETWORK = "efficientnet_lite0"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # the default of mode.C
SIZES = (60, 168, 600)  # images to train on, as many of each class


def simulate_probes(manifest: Path, draws: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of images and rule: means over draws of what the head of the chosen C says.

    A third of the sources of each class are new ones; training images are drawn from the others.
    """
    whole = read_manifest(manifest)
    features = compute_features(whole, np.arange(len(whole)), NETWORK)
    for images in SIZES:
        rows = [row for seed in range(draws) for row in fit_probes(whole.frame, features, images, seed)]
        for rule, of in pd.DataFrame(rows).groupby("rule"):
            smallest = (of["C"] == STRENGTHS[0]).mean()
            means = of.drop(columns=["rule", "C"]).mean().to_dict()
            yield {"images": images, "rule": rule, "smallest C": smallest, "median C": f"{of['C'].median():g}", **means}


def fit_probes(frame: pd.DataFrame, features: np.ndarray, images: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what the heads of one draw say, of the C by balanced accuracy and of that by loss."""
    rng, targets = np.random.default_rng(seed), frame["label"].astype("category").cat.codes.to_numpy(np.intp)
    source, group, classes = frame["source"].to_numpy(str), frame["group"].to_numpy(str), int(targets.max()) + 1
    new = []
    for of_class in (np.unique(source[targets == code]) for code in range(classes)):
        new += rng.choice(of_class, len(of_class) // 3, replace=False).tolist()
    is_new = np.isin(source, new)
    known = np.flatnonzero(~is_new)
    drawn = [rng.choice(known[targets[known] == code], images // classes, replace=False) for code in range(classes)]
    train = np.concatenate(drawn)
    tests = {"images": ~is_new & ~np.isin(group, group[train]), "sources": is_new}
    folds = divide_images(targets[train], source[train], group[train], seed)[1]
    problem = LogisticProblem(features[train], targets[train], np.ones(len(train)), classes)
    table = problem.cross_validate(STRENGTHS, folds)
    scores = table["cv/balanced_accuracy"].to_numpy()
    without = [problem.cross_validate(STRENGTHS, folds[:k] + folds[k + 1 :]) for k in range(len(folds))]
    left = np.array([part["cv/balanced_accuracy"] - part["cv/balanced_accuracy"][scores.argmax()] for part in without])
    ties = scores + left.std(axis=0) * np.sqrt(len(folds) - 1) >= scores.max()  # jackknife
    for rule, chosen in (("before", STRENGTHS[int(ties.argmax())]), ("now", choose_strength(table))):
        head = problem.fit_head(chosen)
        row = {"rule": rule, "C": chosen, "cv loss": table["cv/loss"][table["C"] == chosen].iloc[0]}
        for name, rows in tests.items():
            logs = log_softmax(head.compute_logits(features[rows]), axis=1)
            counts = confusion_matrix(targets[rows], logs.argmax(axis=1), classes)
            losses = [-logs[targets[rows] == code, code].mean() for code in range(classes)]
            row |= {f"accuracy, new {name}": float(balanced_accuracy(counts)), f"loss, new {name}": np.mean(losses)}
        yield row | {"largest confidence": float(np.exp(logs.max()))}
