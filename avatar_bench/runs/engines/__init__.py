"""Where predict computes its rows, and how they are written: entries, each a dataclass of its options of `engine`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from avatar_bench.config.entries import find_entry
from avatar_bench.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.commands.predict import EngineConfig, PredictConfig
    from avatar_bench.inference.prediction_writer import PredictionWriter, Stamp
    from avatar_bench.runs.file_predictor import FilePredictor
    from avatar_bench.runs.run import Run


@dataclass(frozen=True)
class PredictionJob:
    """Files to predict by the run at `path`, and how `output` and the Grad-CAM of `explain`, if any, are written."""

    path: Path
    files: list[str]
    settings: PredictConfig
    open_output: Callable[[FilePredictor, int, Mapping[str, Stamp | None]], PredictionWriter]
    open_overlays: Callable[[Run], Callable[[pd.DataFrame], None]] | None


class RowCounts(NamedTuple):
    """Numbers of predictions, of errors, of rows kept from before, of errors among those, and of replaced rows."""

    ok: int
    errors: int
    kept: int
    bad: int
    outdated: int = 0


class WrittenRows(Protocol):
    """Output of an engine: how many rows it holds so far; a page is written as a whole."""

    is_page: ClassVar[bool]

    @property
    def count(self) -> int:
        """Return the number of rows."""


class Engine(Protocol):
    """What the dataclass of an entry has besides options; `reported` are further options of predict that it states."""

    writes_folder: ClassVar[bool]
    reported: ClassVar[tuple[str, ...]]

    def check(self, settings: PredictConfig) -> None:
        """Raise ConfigError if options of predict exclude the engine, or it is not installed."""

    def write_rows(self, job: PredictionJob) -> RowCounts:
        """Write the missing rows."""


def make_engine(options: EngineConfig) -> Engine:
    """Return the engine that the options name, with those of them that are its own."""
    entry = find_entry("engine", options.name)
    values = {member.name: getattr(options, member.name) for member in fields(entry.load_class())}
    engine: Engine = entry.build(values)
    return engine


@contextmanager
def report_interruption(rows: WrittenRows, output: str) -> Iterator[None]:
    """Print how many rows are written if the work is interrupted."""
    try:
        yield
    except ConfigError:  # nothing was written
        raise
    except BaseException:
        advice = "" if output == "-" else "; continue with the same command and update=true"
        text = "no page is written" if rows.is_page else f"{rows.count} rows are written{advice}"
        print(f"{output}: {text}.", file=sys.stderr)
        raise
