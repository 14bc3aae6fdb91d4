"""Cost of a network: weights, operations, memory and time."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from avatar_bench.console.machine import count_cores
from avatar_bench.console.progress import track

_SHORT = 0.05  # seconds; a shorter call is first run once untimed, because it depends on what ran before it
_MOST_CALLS = 20  # timed per visit
_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class TimedCall:
    """A function to be timed: `call` runs it once, to its end, with `threads` threads of torch."""

    call: Callable[[], object]
    threads: int


def count_weight_bytes(net: nn.Module) -> int:
    """Count the bytes of all weights and running statistics (of batch norm)."""
    return sum(count_layer_bytes(net).values())


def count_layer_bytes(net: nn.Module) -> Counter[str]:
    """Count the bytes of weights and running statistics by module name."""
    sizes: Counter[str] = Counter()
    for name, tensor in net.state_dict().items():
        sizes[name.rpartition(".")[0]] += tensor.numel() * tensor.element_size()
    return sizes


@contextmanager
def count_flops(net: nn.Module) -> Iterator[FlopCounterMode]:
    """Count the FLOPs, including attention, of passes of a network inside a `with`."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    # without gradients, the counter fails on a view of a parameter that is passed to a module
    net.requires_grad_(False)
    try:
        # the counter does not know the fused attention of the CPU; this backend splits it into matrix products
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def make_blank_image(net: nn.Module, size: int) -> Tensor:
    """Return a black image (1, 3, size, size) with the type and device of the network's weights."""
    weight = next(net.parameters())
    return torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device)


def trace_memory(net: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return a table of the operations of `net` on `images`, with the bytes of weights and tensors during each."""
    input_bytes = count_weight_bytes(net) + images.numel() * images.element_size()
    counter = _AllocatedBytes() if images.device.type == "cuda" else _LiveBytes(input_bytes)
    with torch.no_grad(), counter:
        net(images)
    return pd.DataFrame(counter.steps, columns=["operation", "bytes"])


def time_interleaved(
    jobs: Sequence[TimedCall],
    rounds: int,
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Time jobs in turns: a row a call with job, round, seconds, and processor_seconds of all threads of this process.

    Each round visits every job once, in a new random order, and calls it 1 to 20 times, as its part of `seconds` (the
    total time of a job) allows. One visit before the first round warms up. If the jobs take too long for `seconds`,
    there are fewer rounds, but at least 3. Rows are sorted by job.
    """
    order, rows = np.random.default_rng(seed), []
    usual = [min(_time_calls(job, 2, 0.0, clock))[0] for job in track(jobs, "warm up", unit="setting")]
    begun = clock()
    for number in track(range(rounds), "timed calls", unit="round"):
        for index in order.permutation(len(jobs)).tolist():
            calls = int(np.clip(seconds / rounds / max(usual[index], 1e-9), 1, _MOST_CALLS))
            rows += [(index, number, *took) for took in _time_calls(jobs[index], calls, usual[index], clock)]
        if number + 1 >= _FEWEST_ROUNDS and clock() - begun > seconds * len(jobs):
            break
    table = pd.DataFrame(rows, columns=["job", "round", "seconds", "processor_seconds"])
    return table.sort_values("job", kind="stable", ignore_index=True)


def time_batches(
    batches: Iterable[Sized], clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[int, float]]:
    """Yield the length of each batch and the seconds spent waiting for it."""
    start = clock()
    for batch in batches:
        end = clock()
        yield len(batch), end - start
        start = end


def describe_machine(device: str) -> dict[str, Any]:
    """Describe the machine on which times were measured."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": count_cores(),
        "system": platform.system(),
        "torch": torch.__version__,
    }


def _time_calls(job: TimedCall, calls: int, usual: float, clock: Callable[[], float]) -> list[tuple[float, float]]:
    took, threads = [], torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        if usual < _SHORT:
            job.call()
        for _ in range(calls):
            start, used = clock(), time.process_time()
            job.call()
            took.append((clock() - start, time.process_time() - used))
    finally:
        torch.set_num_threads(threads)
    return took


class _AllocatedBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A recorder of the peak bytes of CUDA's allocator during each operation inside a `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        torch.cuda.reset_peak_memory_stats()  # allocations are counted when requested, not when computed
        made = func(*args, **(kwargs or {}))
        self.steps.append((str(func.overloadpacket), torch.cuda.max_memory_allocated()))
        return made


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Recorder, after each operation in a `with`, of the bytes of storages made in it and alive, plus `start_bytes`."""

    def __init__(self, start_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Any = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
        self.start_bytes = start_bytes
        self.steps: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in inputs:
                self.live[leaf.untyped_storage()] = leaf.untyped_storage().nbytes()
        self.steps.append((str(func.overloadpacket), self.start_bytes + sum(self.live.values())))
        return made
