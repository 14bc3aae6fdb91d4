"""The fastest precision, threads and runtime of this machine, tried once and kept, as are the networks it exports."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.special import log_softmax
from torch import nn

import avatar_bench
from avatar_bench.config.entries import find_entries
from avatar_bench.console.machine import count_cores
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import ConfigError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.document import OpenDocument, parse, read_json
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_text
from avatar_bench.files.output_folder import shared_lock
from avatar_bench.files.paths import cache_root
from avatar_bench.inference.runtimes import ExportedNetwork, describe_versions, find_missing_package
from avatar_bench.models.profiling import TimedCall, describe_machine, time_interleaved

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

# by precision: larger differences of log probabilities do not occur between machines
MAX_LOG_DIFFERENCE = {"32": 0.05, "bf16": 1.0, "16": 0.5, "int8": 1.0}
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
MIN_SPEEDUP = 1.2  # the least speedup for which a shorter type, fewer threads or another runtime is used
MAX_CACHE_BYTES = 2 * 10**9  # of all exported networks that are kept
FEWEST_FILES = 2000  # with fewer, a trial of runtimes takes longer than it saves
MAX_CHANGED = 0.01  # of the classes of calibration images, beyond those that torch's own precision changes
_MOST_THREADS, _MOST_WORKERS = 1024, 8
_N_IMAGES, _BATCH, _WARM_UP = 100, 34, 8  # of a trial of runtimes
_SHORT_TYPES = re.compile(r"\S*(?:bf16|fp16|amx|bf|asimdhp)\S*")  # a processor's instructions for short types
_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class ComputeSettings(OpenDocument):
    """Settings of inference: the precision, and `threads` of torch."""

    precision: Literal["32", "bf16", "16"]
    threads: Annotated[int, Interval(ge=1, le=_MOST_THREADS)]


def tune_inference(device: str) -> ComputeSettings:
    """Return the kept settings of this machine for "cpu" or "cuda"; try and keep them on first use.

    A change of processor, number of cores or threads, or torch version counts as another machine. If nothing can be
    kept, the precision is 32 bits, because a new trial each time could change the result.
    """
    return _tune_once(device, _name_file(describe_setup(device)))


def tune_training(net: nn.Module, backbone: str, size: int, device: str) -> str:
    """Return the precision for training a network on images of one size, tried and kept as by `tune_inference`.

    On a CPU, a type that is faster in the forward pass may be slower in the backward pass, as bf16 is in depthwise
    convolutions.
    """
    settings = tune_inference(device)
    if device != "cpu" or settings.precision == "32":
        return settings.precision
    stated = {**describe_setup(device), "trained": backbone, "size": size}

    def attempt() -> dict[str, Any]:
        jobs = {kind: TimedCall(_make_training_step(net, size, kind), 1) for kind in ("32", "bf16")}
        seconds = {"precision": _time_minimum(jobs, time.process_time)}
        precision = select_fastest(seconds["precision"])
        return {"precision": precision, "threads": settings.threads, "seconds": seconds, "machine": stated}

    kept = _load_or_try(_name_file(stated), partial(parse, ComputeSettings), attempt)
    return kept.precision if kept else "32"


def choose_runtime(
    run: Run, open_with: Callable[[str], Run], precision: str, n_files: int, keeps_trial: bool = True
) -> tuple[str, str]:
    """Return the fastest installed runtime whose predictions on files agree with torch's, and its precision.

    `run` computes by torch, `open_with` opens it with another runtime; `precision` is that of predict, also "auto". The
    trial, on calibration images, is made once a run and machine, for at least FEWEST_FILES files. A runtime that an
    installed one is `faster_than` is not tried. Without such images, on a GPU, or if no other runtime has the
    precision, the runtime is torch. Without `keeps_trial`, it is not kept.
    """
    kinds = ["32", "bf16"] if precision == "auto" else [precision]
    entries = find_entries("runtime")
    able = {
        name: [kind for kind in entry.about.get("precisions", ["32"]) if kind in kinds]
        for name, entry in entries.items()
    }
    able = {name: kinds for name, kinds in able.items() if kinds}
    installed = {name: kinds for name, kinds in able.items() if not find_missing_package(name)}
    if precision == "int8":  # torch lacks it
        return next(iter(installed or able)), precision
    slower = {name for faster in installed for name in entries[faster].about.get("faster_than", ())}
    installed = {name: kinds for name, kinds in installed.items() if name not in slower}
    by_torch = "torch", run.predictor.resolve_precision(precision)
    if not installed or run.predictor.device != "cpu":
        return by_torch
    tried = [by_torch, *((name, kind) for name, kinds in installed.items() for kind in kinds)]
    setup, versions = describe_setup("cpu"), [[name, *describe_versions(name)] for name in installed]
    file = _name_file([run.checkpoint_sha256, avatar_bench.__version__, setup, tried, *versions])

    def find_tried(kept: Any) -> tuple[str, str]:
        return tried[tried.index((kept["runtime"], kept["precision"]))]

    def attempt() -> dict[str, Any]:
        every = ", ".join(["torch", *installed])
        print_note(f"runtime=auto: comparing {every}, once for this run on this machine")
        (runtime, kind), seen = _try_runtimes(run, open_with, tried)
        return {"runtime": runtime, "precision": kind, "seen": seen, "machine": setup}

    if kept := _read_kept(file, find_tried):
        return kept
    if n_files < FEWEST_FILES:
        return by_torch
    if run.images is None or not len(run.images.select_split("calibration")):
        faster = " or ".join(installed)
        print_note(f"runtime=auto: torch, as calibration images are missing; runtime={faster} may be faster")
        return by_torch
    if not keeps_trial:
        return _try_runtimes(run, open_with, tried)[0]
    return _load_or_try(file, find_tried, attempt) or by_torch  # another trial each time could change the predictions


def load_or_export(
    runtime: str, checkpoint_sha256: str, kind: str, make: Callable[[], ExportedNetwork]
) -> ExportedNetwork:
    """Return the exported network of a checkpoint from the cache; `make` exports it on first use.

    `kind` is "float" or "int8". A network that is damaged, or was made by other versions, is exported again. The least
    recently used networks are deleted once the cache exceeds MAX_CACHE_BYTES.
    """
    versions = [avatar_bench.__version__, *describe_versions(runtime)]
    file = cache_root() / "networks" / sha256_of_text(repr((checkpoint_sha256, runtime, kind, versions)))[:32]
    with suppress(OSError):
        content = file.read_bytes()
        os.utime(file)
        if content[:32].hex() == sha256_of_bytes(content[32:]):
            parts = {name: part.tobytes() for name, part in load(content[32:]).items()}
            return ExportedNetwork(parts["graph"], parts["weights"], parts["note"].decode())
    network = make()
    with suppress(OSError):  # no space or not writable: exported again next time
        _keep_export(network, file)
    return network


def _keep_export(network: ExportedNetwork, file: Path) -> None:
    contents = {"graph": network.graph, "weights": network.weights, "note": network.note.encode()}
    parts = save({name: np.frombuffer(content, dtype=np.uint8) for name, content in contents.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, alone=False) as part:
        part.write_bytes(bytes.fromhex(sha256_of_bytes(parts)) + parts)
    left = MAX_CACHE_BYTES
    for other in sorted(file.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        left -= other.stat().st_size
        if left < 0 and other != file:
            other.unlink(missing_ok=True)


def select_fastest(seconds: dict[str, float]) -> str:
    """Return the fastest if it is faster than the first by more than MIN_SPEEDUP, else the first."""
    first = next(iter(seconds))
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[fastest] * MIN_SPEEDUP < seconds[first] else first


def set_threads(threads: int | None) -> None:
    """Set torch's number of threads; None keeps torch's default."""
    if threads:
        torch.set_num_threads(threads)


def count_workers() -> int:
    """Return the default number of processes that read images: one per core, at most 8."""
    return min(count_cores(), _MOST_WORKERS)


def describe_setup(device: str) -> dict[str, Any]:
    """Describe the machine and its settings, which a trial is kept for."""
    return describe_machine(device) | {"processor": _describe_processor(), "threads": torch.get_num_threads()}


@cache
def _describe_processor() -> str:
    """Return the name of the processor with its instructions for short types."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
        lines = {name.strip(): value.strip() for name, value in lines.items()}
        short = sorted(set(_SHORT_TYPES.findall(lines.get("flags", lines.get("Features", "")))))
        return " ".join([lines.get("model name", platform.machine()), *short])
    return platform.processor() or platform.machine()


def _name_file(stated: Any) -> Path:
    """Return the file that keeps the trial of what is stated."""
    return cache_root() / "trials" / f"{sha256_of_text(json.dumps(stated, sort_keys=True))[:16]}.json"


def _load_or_try(file: Path, read: Callable[[Any], _Kept], attempt: Callable[[], dict[str, Any]]) -> _Kept | None:
    """Return what a file keeps of a trial, which is made on first use; None if nothing can be kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(file.with_suffix(".lock")):  # of two processes, the second uses what the first has chosen
            if (kept := _read_kept(file, read)) is None:
                measured = attempt()
                write_text(file, json.dumps(measured, indent=1))
                kept = read(measured)
            return kept
    return None


def _read_kept(file: Path, read: Callable[[Any], _Kept]) -> _Kept | None:
    try:
        return read(read_json(file))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: tried again
        return None


@cache
def _tune_once(device: str, file: Path) -> ComputeSettings:
    kept = _load_or_try(file, partial(parse, ComputeSettings), partial(_try_settings, device))
    return kept or ComputeSettings("32", torch.get_num_threads())


def _try_settings(device: str) -> dict[str, Any]:
    """Time a small network in each type, then with fewer and fewer threads; return what is kept.

    The minimum of several times is what the machine can reach. On a CPU, types are compared by the processor time of
    one thread, which other programs do not affect; threads are only tried if other programs leave the cores free.
    """
    threads = torch.get_num_threads()
    kinds = ["32", "bf16"] + ["16"] * (device == "cuda")  # a CPU gains nothing from fp16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _build_network().eval()
    net.to(device)
    images = torch.zeros(8, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    clock = time.process_time if device == "cpu" else time.perf_counter
    jobs = {kind: TimedCall(_make_forward(net, images, kind), 1) for kind in kinds}
    seconds = {"precision": _time_minimum(jobs, clock)}
    precision = select_fastest(seconds["precision"])
    is_busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)
    if device == "cpu" and not is_busy:  # by other programs, which would favour fewer threads
        counts = [threads // 2**halved for halved in range(threads.bit_length())]
        jobs = {str(count): TimedCall(_make_forward(net, images, precision), count) for count in counts}
        seconds["threads"] = _time_minimum(jobs, time.perf_counter)
        threads = int(select_fastest(seconds["threads"]))
    return {"precision": precision, "threads": threads, "seconds": seconds, "machine": describe_setup(device)}


def _time_minimum(jobs: dict[str, TimedCall], clock: Callable[[], float], seconds: float = 0.2) -> dict[str, float]:
    timed = time_interleaved(list(jobs.values()), rounds=5, seconds=seconds, clock=clock)
    return dict(zip(jobs, timed.groupby("job")["seconds"].min().tolist(), strict=True))


def _build_network() -> nn.Module:
    """Build a network of typical layers: plain, depthwise and pointwise convolutions, each with batch norm."""

    def layer(inputs: int, made: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, made, size, stride, size // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(made), nn.ReLU()]

    layers = layer(3, 32, 3, 2) + layer(32, 64, 3, 2) + layer(64, 64, 3) + layer(64, 64, 3, groups=64)
    layers += layer(64, 128, 1, 2) + layer(128, 128, 3) + layer(128, 128, 3, 2, groups=128) + layer(128, 256, 1)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 3))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _make_forward(net: nn.Module, images: torch.Tensor, kind: str) -> Callable[[], object]:
    def run() -> object:
        autocast = torch.autocast(images.device.type, DTYPES.get(kind, torch.bfloat16), enabled=kind in DTYPES)
        with torch.inference_mode(), autocast:
            return net(images).float().cpu()  # waits for a GPU

    return run


def _make_training_step(net: nn.Module, size: int, kind: str) -> Callable[[], object]:
    """Return a function that runs a forward and a backward pass of a copy of the network."""
    with torch.random.fork_rng(devices=[]):
        trained = copy.deepcopy(net).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(8, 3, size, size).contiguous(memory_format=torch.channels_last)

    def run() -> object:
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            loss = trained(images).float().sum()
        return loss.backward()

    return run


def _try_runtimes(
    run: Run, open_with: Callable[[str], Run], tried: Sequence[tuple[str, str]]
) -> tuple[tuple[str, str], dict[str, dict[str, float | str]]]:
    """Return the chosen runtime and precision, and what was seen of each: agreement, and seconds an image.

    The passes that show the agreement are also timed, in turns, as further ones would take as long again.
    """
    runs = {name: run if name == "torch" else open_with(name) for name, _ in tried}
    dataset, threads = run.dataset("calibration"), torch.get_num_threads()
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_IMAGES])
    inputs = run.predictor.preprocess([dataset.image(int(row)) for row in rows])
    batches = [[part[first : first + _BATCH] for part in inputs] for first in range(0, len(rows), _BATCH)]
    names = {pair: "runtime={} precision={}".format(*pair) for pair in tried}
    seen: dict[str, dict[str, float | str]] = {words: {} for words in names.values()}
    passed: dict[tuple[str, str], list[NDArray[np.floating]]] = {}
    for name, kind in tried:
        try:
            runs[name].predictor.compute_logits([part[:_WARM_UP] for part in inputs], kind)
            passed[name, kind] = []
        except ConfigError as error:  # the network cannot be exported
            seen[names[name, kind]]["refused"] = error.lines[0]
    least_seconds = dict.fromkeys(passed, math.inf)
    by_torch, threads_of_torch = tried[0], min(tune_inference("cpu").threads, threads)
    for batch, pair in product(batches, passed):
        torch.set_num_threads(threads_of_torch if pair == by_torch else threads)
        start = time.perf_counter()
        passed[pair].append(runs[pair[0]].predictor.compute_logits(batch, pair[1]))
        least_seconds[pair] = min(least_seconds[pair], (time.perf_counter() - start) / len(batch[0]))
    torch.set_num_threads(threads)
    exact = np.concatenate(passed.get(("torch", "32")) or [run.predictor.compute_logits(batch) for batch in batches])
    least, seconds = 0.0, {}
    for pair in passed:  # torch first
        logits = np.concatenate(passed[pair])
        equal = float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean())
        differs = float(np.abs(log_softmax(logits, axis=1) - log_softmax(exact, axis=1)).max())
        seen[names[pair]] |= {"equal_classes": equal, "log_difference": differs}
        least = equal - MAX_CHANGED if pair == by_torch else least
        if pair == by_torch or (equal >= least and differs <= MAX_LOG_DIFFERENCE[pair[1]]):
            seconds[names[pair]] = seen[names[pair]]["seconds"] = least_seconds[pair]
    return tried[list(seen).index(select_fastest(seconds))], seen
