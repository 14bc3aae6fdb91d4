"""The profile of a command: a trace of torch for Perfetto, and the largest costs in words."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from avatar_bench.console.terminal import print_note
from avatar_bench.errors import OutputError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.output_folder import prepare_output

INTERVAL = 0.01  # s between two samples of the main thread's stack
LARGEST = 5  # costs that are printed
OTHER = "other"
COST_OF_FILE = {  # the innermost frame with such a file names the cost
    "<frozen importlib": "imports",
    "torch/utils/data/dataloader.py": "waiting for image-loading processes",
    "avatar_bench/data/decoding.py": "decoding",
    "avatar_bench/data/transforms.py": "resizing",
    "avatar_bench/data/augmentation": "augmentation",
    "avatar_bench/data/corruption": "corruptions",
    "torch/autograd/__init__.py": "backward pass",
    "torch/optim/": "optimizer",
    "torch/nn/modules/": "network",
    "avatar_bench/training/probe_job.py": "fit of the probe",
    "matplotlib/": "figures",
    "avatar_bench/data/leakage.py": "search for copies",
    "avatar_bench/data/duplicates.py": "search for copies",
    "avatar_bench/data/aligned_copies.py": "search for copies",
    "avatar_bench/audit/": "audit",
    "avatar_bench/metrics/": "statistics",
    "avatar_bench/files/hashes.py": "hashing of files",
    "torch/serialization.py": "checkpoints",
}


@contextmanager
def profile_command(file: str | None) -> Iterator[None]:
    """Write a trace of torch in Chrome's format, and print the largest costs; after an error, these alone.

    None is neither. Raise OutputError, before the command begins, if the file cannot be written or is no trace.
    """
    if file is None:
        yield
        return
    prepare_output(file, "profile")
    if Path(file).is_file() and b'"schemaVersion"' not in Path(file).read_bytes()[:100]:
        raise OutputError(f"profile={file} exists and is no trace.", "Choose a name of its own, such as trace.json.")
    samples: Counter[str] = Counter()
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(threading.get_ident(), samples, done), daemon=True)
    with atomic_write(Path(file)) as part:
        start = time.monotonic()
        sampler.start()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints when it starts and stops
        from torch.profiler import profile  # slow to import, which is a cost of the command too

        trace = profile()
        trace.start()
        try:
            yield
        finally:
            trace.stop()
            done.set()
            sampler.join()
            trace.export_chrome_trace(str(part))
            print_note(describe_costs(samples, time.monotonic() - start))
    print_note(f"{file}: the trace; open it at ui.perfetto.dev or in chrome://tracing")


def describe_costs(samples: Counter[str], seconds: float) -> str:
    """Return the share of each of the largest costs in all samples, in percent, but those that round to none."""
    shares = [(cost, 100 * count / samples.total()) for cost, count in samples.most_common(LARGEST)]
    return f"costs in {seconds:.0f} s: {', '.join(f'{cost} {share:.0f} %' for cost, share in shares if share >= 0.5)}"


def name_cost(frame: FrameType | None) -> str:
    """Return the cost that a stack belongs to, given its innermost frame."""
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if cost := next((cost for part, cost in COST_OF_FILE.items() if part in name), None):
            return cost
        frame = frame.f_back
    return OTHER


def _sample(thread: int, samples: Counter[str], done: threading.Event) -> None:
    while not done.wait(INTERVAL):
        samples[name_cost(sys._current_frames().get(thread))] += 1
