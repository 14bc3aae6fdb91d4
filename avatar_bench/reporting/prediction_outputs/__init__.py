"""Kinds of files that predict writes, by their suffix: entries with a class derived from PredictionWriter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.entries import find_entry
from avatar_bench.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.inference.prediction_writer import PredictionWriter


def find_writer(output: str) -> type[PredictionWriter]:
    """Return the writer of an output by its suffix, that of CSV for -; raise ConfigError if there is none."""
    from avatar_bench.inference.prediction_writer import PredictionWriter

    suffix = "csv" if output == "-" else Path(output).suffix.lower().removeprefix(".")
    entry = find_entry("prediction_output", suffix, f"output={output}")
    module = entry.load()
    for member in vars(module).values():
        if isinstance(member, type) and issubclass(member, PredictionWriter) and member.__module__ == module.__name__:
            return member
    raise ConfigError(f"{entry.module} must define a class derived from PredictionWriter.")


def read_predictions(output: str) -> pd.DataFrame:
    """Read the predictions that were written to an output."""
    import pandas as pd

    from avatar_bench.inference.prediction_writer import is_number

    table = find_writer(output).read_table(output)
    numbers = [name for name in map(str, table) if is_number(name)]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
