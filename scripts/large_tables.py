"""Simulate large tables: the search for near copies, or a bootstrap by group; prints the measurements as JSON."""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from avatar_bench.data import duplicates
from avatar_bench.metrics import classification, stats

A_COPY = 100  # one of so many images has a near copy, by up to MAX_HASH_DISTANCE bits, in any orientation
A_GROUP = 5  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=SIMULATIONS)
    parser.add_argument("rows", type=int)
    parser.add_argument("--part", type=int, help="search copies of so many images only, and scale the time")
    arguments = parser.parse_args()
    found = SIMULATIONS[arguments.what](arguments.rows, arguments.part or arguments.rows)
    print(json.dumps(found | {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def search_copies(rows: int, part: int) -> dict[str, float]:
    """Search the last `part` of random fingerprints among all, and count the planted copies that are found."""
    rng = np.random.default_rng(0)
    upright = rng.integers(0, 2**64, rows, dtype=np.uint64)
    queries = rng.integers(0, 2**64, (part, 8), dtype=np.uint64)
    queries[:, 0] = upright[rows - part :]
    copies = max(8, part // A_COPY)
    originals, copied = rng.choice(rows - part or rows, copies, replace=False), rng.choice(part, copies, replace=False)
    bits = 1 + np.arange(copies) % duplicates.MAX_HASH_DISTANCE
    flips = [sum(1 << int(bit) for bit in rng.permutation(64)[:count]) for count in bits]
    queries[copied, 1 + np.arange(copies) % 7] = upright[originals] ^ np.array(flips, dtype=np.uint64)
    seconds = []
    for asked in (queries[:0], queries):  # the first only builds the index
        start = time.process_time()
        found = duplicates._find_candidates(upright[:, None], asked, duplicates.MAX_HASH_DISTANCE, within=False)
        seconds.append(time.process_time() - start)
    query, key, _, _ = duplicates._unpack(found)
    pairs = set(zip(query.tolist(), key.tolist(), strict=True))
    recall = np.mean([pair in pairs for pair in zip(copied.tolist(), originals.tolist(), strict=True)])
    whole = seconds[0] + (seconds[1] - seconds[0]) * rows / part
    return {"index, processor seconds": seconds[0], "processor seconds": whole, "recall": float(recall)}


def bootstrap(rows: int, _part: int) -> dict[str, float]:
    """Compute 2,000 resamples of accuracy and macro-F1, and of an AUROC, in groups of five images."""
    rng = np.random.default_rng(0)
    groups, targets = rng.integers(0, rows // A_GROUP, rows), rng.integers(0, 3, rows)
    predicted = np.where(rng.random(rows) < 0.8, targets, rng.integers(0, 3, rows))
    scores = rng.random(rows) + 0.3 * (targets == 0)
    found = {}
    for name, statistic in {
        "accuracy": classification.build_confusion_statistic([(targets, predicted)], 3, classification.accuracy),
        "macro-F1": classification.build_confusion_statistic([(targets, predicted)], 3, classification.macro_f1),
        "AUROC": classification.build_auroc_statistic(scores, targets == 0),
    }.items():
        start = time.process_time()
        stats.bootstrap_interval(statistic, groups)
        found[f"{name}, processor seconds"] = time.process_time() - start
    return found


SIMULATIONS = {"copies": search_copies, "bootstrap": bootstrap}

if __name__ == "__main__":
    main()
