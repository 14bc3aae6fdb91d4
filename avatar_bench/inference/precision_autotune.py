"""The fastest compute settings of this machine, measured once and cached so that later runs compute alike."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avatar_bench.console.machine import count_cores
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.files.lock import shared_lock
from avatar_bench.files.paths import cache_root
from avatar_bench.models.profiling import TimedCall, describe_machine, time_interleaved

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
MIN_SPEEDUP = 1.2  # the least speedup for which a shorter type, or fewer threads, is used
_MOST_THREADS, _MOST_WORKERS = 1024, 8
_SHORT_TYPES = re.compile(r"\S*(?:bf16|fp16|amx|bf|asimdhp)\S*")  # a processor's instructions for short types


@dataclass(frozen=True)
class ComputeSettings:
    """Settings of inference: `precision` "32", "bf16" or "16", `threads` of torch, and `workers` that read images."""

    precision: str
    threads: int
    workers: int

    def __post_init__(self) -> None:
        counts = (self.threads, _MOST_THREADS), (self.workers, _MOST_WORKERS)
        possible = all(type(count) is int and 0 < count <= most for count, most in counts)
        if self.precision not in ("32", *DTYPES) or not possible:
            raise ValueError(self)


def tune_inference(device: str) -> ComputeSettings:
    """Return the cached settings of this machine for "cpu" or "cuda"; measure and cache them on first use.

    A change of processor, number of cores or threads, or torch version counts as another machine. If the cache cannot
    be written, the precision is 32 bits, because a new measurement each time could change the result.
    """
    return _tune_once(device, _settings_file(describe_setup(device)))


def tune_training(net: nn.Module, backbone: str, size: int, device: str) -> str:
    """Return the precision for training a network on images of one size, measured and cached as by `tune_inference`.

    On a CPU, a type that is faster in the forward pass may be slower in the backward pass, as bf16 is in depthwise
    convolutions.
    """
    settings = tune_inference(device)
    if device != "cpu" or settings.precision == "32":
        return settings.precision
    stated = {**describe_setup(device), "trained": backbone, "size": size}

    def attempt() -> tuple[ComputeSettings, dict[str, dict[str, float]]]:
        jobs = {kind: TimedCall(_make_training_step(net, size, kind), 1) for kind in ("32", "bf16")}
        seconds = _time_minimum(jobs, time.process_time)
        return replace(settings, precision=select_fastest(seconds)), {"precision": seconds}

    return _load_or_measure(_settings_file(stated), attempt, stated).precision


@cache
def _tune_once(device: str, file: Path) -> ComputeSettings:
    return _load_or_measure(file, partial(_measure, device), describe_setup(device))


def _settings_file(stated: dict[str, Any]) -> Path:
    name = sha256_of_text(json.dumps(stated, sort_keys=True))[:16]
    return cache_root() / "trials" / f"{name}.json"


def _load_or_measure(
    file: Path, attempt: Callable[[], tuple[ComputeSettings, dict[str, dict[str, float]]]], stated: Any
) -> ComputeSettings:
    """Read cached settings, or measure and cache them."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(file.with_suffix(".lock")):  # of two processes, the second uses the settings of the first
            if cached := _load(file):
                return cached
            choice, times = attempt()
            write_text(file, json.dumps({**asdict(choice), "seconds": times, "machine": stated}, indent=1))
            return choice
    return ComputeSettings("32", torch.get_num_threads(), count_workers())


def _load(file: Path) -> ComputeSettings | None:
    try:
        cached = json.loads(file.read_text(encoding="utf-8"))
        return ComputeSettings(cached["precision"], cached["threads"], cached["workers"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing or damaged: measured again
        return None


def _measure(device: str) -> tuple[ComputeSettings, dict[str, dict[str, float]]]:
    """Time a small network in each type, then with fewer and fewer threads; return the settings and the seconds.

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
    by_kind = _time_minimum({kind: TimedCall(_make_forward(net, images, kind), 1) for kind in kinds}, clock)
    precision = select_fastest(by_kind)
    if device == "cuda" or _is_busy():
        return ComputeSettings(precision, threads, count_workers()), {"precision": by_kind}
    counts = [threads // 2**halved for halved in range(threads.bit_length())]
    jobs = {str(count): TimedCall(_make_forward(net, images, precision), count) for count in counts}
    by_count = _time_minimum(jobs, time.perf_counter)
    settings = ComputeSettings(precision, int(select_fastest(by_count)), count_workers())
    return settings, {"precision": by_kind, "threads": by_count}


def select_fastest(seconds: dict[str, float]) -> str:
    """Return the fastest if it is faster than the first by more than MIN_SPEEDUP, else the first."""
    first = next(iter(seconds))
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[fastest] * MIN_SPEEDUP < seconds[first] else first


def _time_minimum(jobs: dict[str, TimedCall], clock: Callable[[], float]) -> dict[str, float]:
    timed = time_interleaved(list(jobs.values()), rounds=5, seconds=0.2, clock=clock)
    return dict(zip(jobs, timed.groupby("job")["seconds"].min().tolist(), strict=True))


def _is_busy() -> bool:
    """Check whether other programs use the processor, which would favour fewer threads."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)


def _build_network() -> nn.Module:
    """Build a network of typical layers: plain, depthwise and pointwise convolutions, each with batch norm."""

    def layer(given: int, made: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(given, made, size, stride, size // 2, groups=groups, bias=False)
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


def count_workers() -> int:
    """Return the default number of processes that read images: one per core, at most 8."""
    return min(count_cores(), _MOST_WORKERS)


def describe_setup(device: str) -> dict[str, Any]:
    """Describe the machine and its settings; the description identifies the cached settings."""
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
