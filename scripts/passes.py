"""Passes: run a command of avatar_bench, and say how much of its time pictures went through the network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from avatar_bench.__main__ import main
from avatar_bench.runs import Run

MADE_BY = ("_compute", "_compute_varied")  # methods of Run that decode, vary and put through, and do nothing else
spent: list[float] = []


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*given, **options)
        finally:
            spent.append(time.perf_counter() - start)

    return call


for name in MADE_BY:
    setattr(Run, name, timed(getattr(Run, name)))
code = main(sys.argv[1:])
print(json.dumps({"seconds of passes": sum(spent)}), flush=True)
sys.exit(code)
