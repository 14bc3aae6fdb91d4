"""Simulate marks: how often the audit finds planted stamps, and marks in sets without any."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.audit.visible_marks import MarkFindings, find_marks
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.data.stamps import CORNERS, STAMPS, paste_stamp

IMAGES = 80  # of each class
SIZE = 0.15  # of the shorter side
STAMPED = "generated"
SETTINGS = ProbeSettings(resamples=100)


class StampedSet:
    """Images of a data set, of which those of some rows bear a stamp."""

    def __init__(self, dataset: Dataset, rows: set[int], *stamp: Any) -> None:
        self.dataset, self.rows, self.stamp = dataset, rows, stamp

    def image(self, row: int) -> np.ndarray:
        pixels = self.dataset.image(row)
        return paste_stamp(pixels, *self.stamp, row) if row in self.rows else pixels


def simulate_marks(manifest: Path, draws: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each case: in how many sets, drawn by seed from a manifest, a mark of the class is found."""
    sets = [draw_set(manifest, seed) for seed in range(draws)]
    for case in ("as they are", "classes of sources permuted"):
        marks = []
        for seed, (dataset, frame) in enumerate(sets):
            labels = permute_labels(frame, seed) if case != "as they are" else frame["label"]
            marks.append(find_marks(dataset, frame.assign(label=labels), SETTINGS))
        yield {"set": case, "found": sum(bool(name_marks(findings)) for findings in marks), "sets": draws}
    for position, share, opacity in product(("corner", "any"), (1.0, 0.3, 0.1), (1.0, 0.5, 0.2)):
        found = 0
        for seed, (dataset, frame) in enumerate(sets):
            rng = np.random.default_rng(seed)
            members = frame["row"][frame["label"] == STAMPED].to_numpy()
            rows = set(rng.choice(members, round(share * len(members)), replace=False).tolist())
            where = str(rng.choice(CORNERS)) if position == "corner" else position
            # a frame, the last kind, has no position
            stamped: Any = StampedSet(dataset, rows, STAMPS[seed % 3], opacity, SIZE, where)
            found += bool(name_marks(find_marks(stamped, frame, SETTINGS), STAMPED))
        yield {"set": f"stamped, {position}", "share": share, "opacity": opacity, "found": found, "sets": draws}


def draw_set(manifest: Path, seed: int) -> tuple[Dataset, pd.DataFrame]:
    """Draw a set with an equal number of images of each class, and its frame for the audit."""
    whole = read_manifest(manifest)
    order = whole.frame.sample(frac=1, random_state=seed).groupby("label").head(IMAGES).index.to_numpy()
    dataset = whole.take(np.sort(order))
    return dataset, dataset.frame.assign(row=np.arange(len(dataset.frame)))


def permute_labels(frame: pd.DataFrame, seed: int) -> pd.Series:
    """Return the class of each image after the classes of whole sources are permuted."""
    classes = frame.groupby("source")["label"].first()
    classes[:] = np.random.default_rng(seed).permutation(classes.to_numpy())
    return frame["source"].map(classes)


def name_marks(findings: MarkFindings, label: str | None = None) -> list[str]:
    """Return the positions of marks of a class, or of any."""
    marks = findings.found
    return list(marks["position"] if label is None else marks.loc[marks["class"] == label, "position"])
