"""Costs of answers, as a user states them in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import read_yaml

ABSTAIN = "abstain"


def read_costs(file: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Read the costs (C + 1, C) of answering each class, and in the last row of abstaining, by true class.

    The file is a yaml: answered class -> true class -> cost, and `abstain` -> one cost; that of a correct answer is 0
    unless it is stated. Raise ConfigError if a cost is missing or no number of 0 or more, or a class is unknown.
    """
    stated = _name_keys(read_yaml(file))
    rows = [{name: 0, **_name_keys(stated.get(name))} for name in classes]
    unknown = set(stated) - {*classes, ABSTAIN} | {name for row in rows for name in row} - set(classes)
    if unknown:
        _refuse(file, f"{min(unknown)} is no class of the run", classes)
    costs = np.array(
        [
            [_read_cost(file, own, row.get(true), true, classes) for true in classes]
            for own, row in zip(classes, rows, strict=True)
        ]
    )
    abstain = _read_cost(file, ABSTAIN, stated.get(ABSTAIN), "", classes)
    return np.vstack([costs, np.full(len(classes), abstain)])


def _name_keys(values: Any) -> dict[str, Any]:
    return {str(name): value for name, value in values.items()} if isinstance(values, dict) else {}


def _read_cost(file: Path, own: str, cost: Any, true: str, classes: Sequence[str]) -> float:
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
        where = f"{own}: {{{true}: ...}}" if true else own
        _refuse(file, f"{where} is {'missing' if cost is None else cost}", classes)
    return float(cost)


def _refuse(file: Path, fault: str, classes: Sequence[str]) -> NoReturn:
    raise ConfigError(
        f"costs={file}: {fault}.",
        f"Expected for each of {', '.join(classes)} the costs, 0 or more, of answering it by true class, such as",
        f"{{{classes[0]}: {{{classes[1]}: 5, ...}}, ..., {ABSTAIN}: 1}}",
    )
