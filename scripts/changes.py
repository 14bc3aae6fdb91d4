"""Time of the processor that predictions take with variations of each image, beside passes alone; prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.loaders import build_readable_loader
from avatar_bench.evaluation.blocks.robustness import Robustness
from avatar_bench.inference.predictor import PredictionCache
from avatar_bench.runs.ensembles import open_run

CHANGED, FOUR_PASSES = "stability=true", "four passes, one decode"


def vary(ckpt: str, n: str, manifest: str) -> None:
    """Predict the images of a manifest by n runs as block=robustness does, then pass each through as often."""
    torch.set_num_threads(1)
    predictors = [open_run(ckpt, accelerator="cpu", workers=0).predictor for _ in range(int(n))]
    caches = [PredictionCache(predictor, None, "", {}) for predictor in predictors]
    dataset, variations = read_manifest(Path(manifest)), list(Robustness().list_variations().values())
    for cache in caches:
        cache.predict(dataset)  # not measured
        cache.beside[dataset.digest] = caches
    begun = time.process_time()
    for cache in caches:
        cache.predict_variations(dataset, variations)
    varied = time.process_time() - begun
    batches = [images for _, versions in predictors[0].iterate_images(dataset, [None]) for images in versions]
    begun = time.process_time()
    for images in batches:
        for predictor in predictors * len(variations):
            predictor.compute_outputs(images)
    ratio = varied / (time.process_time() - begun)
    print(json.dumps({"ms per image": 1000 * varied / len(dataset), "beside passes": ratio}))


def main(ckpt: str, way: str, listed: str) -> None:
    """Predict the files that a file lists, after a first batch that is not measured."""
    torch.set_num_threads(1)
    run, files = open_run(ckpt, accelerator="cpu", workers=0), Path(listed).read_text(encoding="utf-8").splitlines()
    predictor = run.predictor

    def predict(paths: list[str]) -> None:
        if way == CHANGED:
            list(run.predict_files(paths, stability=True))
            return
        for batch in build_readable_loader(paths, predictor.preprocessings, predictor.batch_size, 0):
            for _ in range(4):
                predictor.compute_logits(batch["images"])

    predict(files[: predictor.batch_size])
    begun = time.process_time()
    predict(files)
    print(json.dumps({"ms per image": 1000 * (time.process_time() - begun) / len(files)}))


if __name__ == "__main__":
    vary(*sys.argv[1:]) if sys.argv[2].isdigit() else main(*sys.argv[1:])
