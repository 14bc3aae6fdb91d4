"""The plan of a split, as the options of a command that trains state it."""

from __future__ import annotations

from typing import Any

from avatar_bench.config import SplitDataConfig
from avatar_bench.data.splits import SplitPlan


def split_plan(data: SplitDataConfig, **draw: Any) -> SplitPlan:
    """Give the plan of data.split and its like, with the few-shot draw where there is one."""
    return SplitPlan(
        seed=data.split.seed,
        folds=data.split.folds,
        fold=data.fold,
        by=data.split.by,
        held_out=tuple(data.split.held_out),
        fraction=data.fraction,
        val_fraction=data.val_fraction,
        limit=data.limit,
        **draw,
    )
