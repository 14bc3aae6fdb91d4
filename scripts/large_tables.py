"""Simulate large tables: search for copies, bootstrap by group, a block, or prepare; prints measurements as JSON."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from avatar_bench.data import duplicates
from avatar_bench.evaluation.blocks.blind_test import BlindTest
from avatar_bench.metrics import classification, stats
from avatar_bench.results.predictions import Predictions
from avatar_bench.sources.curation import SHARED_COLUMNS, CurationRules, curate
from avatar_bench.sources.dataset_files import DESCRIPTION_COLUMNS, write_tables

A_COPY = 100  # one of so many images has a near copy, by up to MAX_HASH_DISTANCE bits, in any orientation
A_GROUP = 5  # images
A_PART = 10_000  # of the rows that are simulated at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=SIMULATIONS)
    parser.add_argument("rows", type=int)
    parser.add_argument("--part", type=int, help="search copies of so many images only, and scale the time")
    arguments = parser.parse_args()
    found = SIMULATIONS[arguments.what](arguments.rows, arguments.part or arguments.rows)
    print(json.dumps(found | {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def search_copies(rows: int, part: int) -> dict[str, float]:
    """Search the first `part` of random fingerprints among all, and count the planted copies that are found."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (rows, 8), dtype=np.uint64)
    copies = max(8, part // A_COPY)
    originals, copied = rng.choice(part, copies, replace=False), rng.choice(rows, copies, replace=False)
    bits = 1 + np.arange(copies) % duplicates.MAX_HASH_DISTANCE
    flips = [sum(1 << int(bit) for bit in rng.permutation(64)[:count]) for count in bits]
    hashes[copied, 1 + np.arange(copies) % 7] = hashes[originals, 0] ^ np.array(flips, dtype=np.uint64)
    seconds = []
    for asked in (hashes[:1], hashes[:part]):  # the first does little more than build the index
        start = time.process_time()
        found = duplicates._find_candidates(asked[:, :1], hashes, duplicates.MAX_HASH_DISTANCE, within=False)
        seconds.append(time.process_time() - start)
    copy, original, _, _ = duplicates._unpack(found)
    pairs = set(zip(original.tolist(), copy.tolist(), strict=True))
    recall = np.mean([pair in pairs for pair in zip(originals.tolist(), copied.tolist(), strict=True)])
    whole = seconds[0] + (seconds[1] - seconds[0]) * rows / part
    return {"index, processor seconds": seconds[0], "processor seconds": whole, "recall": float(recall)}


def bootstrap(rows: int, _part: int) -> dict[str, float]:
    """Compute 2,000 resamples of accuracy and macro-F1, and of an AUROC, in groups of five images."""
    rng = np.random.default_rng(0)
    groups, targets = rng.integers(0, rows // A_GROUP, rows), rng.integers(0, 3, rows)
    predicted = np.where(rng.random(rows) < 0.8, targets, rng.integers(0, 3, rows))
    scores = rng.random(rows) + 0.3 * (targets == 0)
    collected = {}
    for name, statistic in {
        "accuracy": classification.build_confusion_statistic([(targets, predicted)], 3, classification.accuracy),
        "macro-F1": classification.build_confusion_statistic([(targets, predicted)], 3, classification.macro_f1),
        "AUROC": classification.build_auroc_statistic(scores, targets == 0),
    }.items():
        start = time.process_time()
        stats.bootstrap_interval(statistic, groups)
        collected[f"{name}, processor seconds"] = time.process_time() - start
    return collected


def evaluate(rows: int, _part: int) -> dict[str, float]:
    """Evaluate blind_test on predictions with names of usual length, and measure what it needs beside them."""
    rng = np.random.default_rng(0)
    groups, targets = rng.integers(0, rows // A_GROUP, rows), rng.integers(0, 3, rows)
    logits = (rng.normal(size=(rows, 3)) + 2 * np.eye(3)[targets]).astype(np.float32)
    paths = np.array([f"images/generated/part-{row // 1000:04d}/avatar-{row:08d}.jpg" for row in range(rows)])
    owners, sources = (np.array([f"name-{group:07d}" for group in groups % most]) for most in (rows, 40))
    classes = ("drawing", "generated", "real")
    predictions = Predictions(classes, logits, logits[:, :0], targets, paths, groups=owners, sources=sources)
    frame = pd.DataFrame({"sha256": [f"{row:064x}" for row in range(rows)]})
    dataset: Any = SimpleNamespace(name="blind", frame=frame, image=lambda row: np.zeros((64, 64, 3), np.uint8))
    run: Any = SimpleNamespace(predictions=lambda _: predictions, provides={"decisions"}, allow=[])
    tracemalloc.start()
    start = time.process_time()
    BlindTest().evaluate(run, dataset)
    return {"bytes a row": tracemalloc.get_traced_memory()[1] / rows, "processor seconds": time.process_time() - start}


def prepare(rows: int, _part: int) -> dict[str, float]:
    """Select, split and write images with random fingerprints, and measure what that adds to the process's peak."""
    pa.set_memory_pool(pa.system_memory_pool())  # as the commands do
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = [_simulate_images(first, min(A_PART, rows - first)) for first in range(0, rows, A_PART)]
    table = [pd.concat(parts, ignore_index=True).astype(dict.fromkeys(SHARED_COLUMNS, "category"))]
    del parts
    start = time.process_time()
    curated = curate(table.pop(), CurationRules(), lambda _: np.zeros((64, 64, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), {"photos": dict.fromkeys(DESCRIPTION_COLUMNS, "")}, curated, {})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"bytes a row": peak * 1024 / rows, "processor seconds": time.process_time() - start}


def _simulate_images(first: int, count: int) -> pd.DataFrame:
    """Return a part of the table of stored images, with names of usual length."""
    rng = np.random.default_rng(first)
    rows, owner = range(first, first + count), [f"part-{row // 1000:04d}" for row in range(first, first + count)]
    digest = [f"{row:064x}" for row in rows]
    names = [f"generated/{part}/avatar-{row:08d}.jpg" for row, part in zip(rows, owner, strict=True)]
    known = {"label": "generated", "licence": "CC BY 4.0", "author": "not stated", "generator": "", "format": "JPEG"}
    known |= dict.fromkeys(("date", "date_from", "released"), "") | {"source": owner, "recipe_source": "photos"}
    known |= {"split": "", "url": "", "width": 72, "height": 72}
    hashes = [" ".join(f"{one:016x}" for one in eight) for eight in rng.integers(0, 2**63, (count, 8)).tolist()]
    known |= {"path": [f"images/{name}" for name in names], "origin": names, "phashes": hashes, "jpeg_quality": 85}
    known |= {"group": [f"{part}:{name}" for part, name in zip(owner, names, strict=True)]}
    return pd.DataFrame(known | dict.fromkeys(("sha256", "origin_sha256", "pixels"), digest))


SIMULATIONS = {"copies": search_copies, "bootstrap": bootstrap, "evaluate": evaluate, "prepare": prepare}

if __name__ == "__main__":
    main()
