"""Which pictures a pretraining keeps out: those of sets that networks will be judged by, their copies and groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.guards import shared_pictures
from avatar_bench.data.manifest import Dataset


def shared_with(dataset: Dataset, other: Dataset) -> NDArray[np.bool_]:
    """Say which pictures of a dataset, (N,), are in another, as they are or as a near-duplicate, or of their groups.

    Near-duplicates are looked for of those whose files are there: these may have to be compared.
    """
    frame = dataset.frame
    known = {*other.frame["group"], *other.frame.get("stated_group", ())} - {""}
    shared = frame["sha256"].isin(set(other.frame["sha256"])) | frame["group"].isin(known)
    if "stated_group" in frame:
        shared |= frame["stated_group"].isin(known)
    found = shared.to_numpy(copy=True)
    found[[match.right for match in shared_pictures(other.at_hand, dataset)]] = True
    return frame["group"].isin(set(frame["group"][found])).to_numpy()


def keep_out(dataset: Dataset, others: Mapping[str, Dataset]) -> tuple[Dataset, dict[str, int]]:
    """Give the pictures that none of several sets shares, and how many each set has taken out."""
    counts = {}
    for name, other in others.items():
        shared = shared_with(dataset, other)
        counts[name] = int(shared.sum())
        dataset = dataset.take(~shared)
    return dataset, counts
