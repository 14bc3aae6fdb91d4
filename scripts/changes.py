"""Time of the processor that predictions take with slight changes of each image, or with four passes; prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from avatar_bench.data.loaders import build_readable_loader
from avatar_bench.runs.ensembles import open_run

CHANGED, FOUR_PASSES = "stability=true", "four passes, one decode"


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
    main(*sys.argv[1:])
