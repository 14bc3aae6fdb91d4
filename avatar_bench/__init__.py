"""Evaluation of classifiers that tell whether an avatar is a real photo, a drawing or AI-generated.

The functions of this module are the commands of the command line, with the same names of options. A dot in a name is
two underscores, `data__split__seed=3`, or the name is passed as it is, `**{"data.split.seed": 3}`. On the command line
`avatar-bench COMMAND --help` lists the options. A mistake raises an AvatarBenchError of `avatar_bench.errors`, with the
message of the command line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.inference.prediction_table import PredictionTable
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run

    StrPath: TypeAlias = str | os.PathLike[str]
    Option: TypeAlias = StrPath | float | Sequence[Any] | Mapping[str, Any] | None

__version__ = "0.3.0"
__all__ = ["__version__", "evaluate", "import_detector", "load", "predict", "prepare", "report", "train"]


def __dir__() -> list[str]:
    """Return what completion offers: the functions, without the names that this module imports."""
    return __all__


def load(run: StrPath) -> Run:
    """Open a run folder, a .ckpt file, an ensemble's folder or a run on the hub, such as "hf:OWNER/NAME".

    Raises CheckpointError if there is none.
    """
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run_choice import locate_run

    return open_run(locate_run(os.fspath(run)))


def prepare(**options: Option) -> Dataset:
    """Build the data set that `data` or `source` describes in `out`, audit it, and return it.

    Raises GuardError, after everything is written, if the audit finds the data unsuitable.
    `avatar-bench prepare --help` lists the options.
    """
    from avatar_bench.cli.python_calls import call_command

    dataset: Dataset = call_command("prepare", options)
    return dataset


@overload
def train(*, sweep: None = None, **options: Option) -> Run: ...


@overload
def train(*, sweep: str, **options: Option) -> list[Run]: ...


def train(*, sweep: str | None = None, **options: Option) -> Run | list[Run]:
    """Train a run and return it, or all runs of a sweep; `train(model="resnet18", data="folder", data__root="photos")`.

    Ctrl-C raises KeyboardInterrupt once the current step is saved; `train(resume=RUN)` goes on. The random numbers of
    the process are seeded by `seed`. `avatar-bench train --help` lists the options.
    """
    from avatar_bench.cli.python_calls import call_command

    if sweep is not None:
        return [load(folder) for folder in call_command("train", {"sweep": sweep, **options})]
    return load(call_command("train", options).folder)


def evaluate(*ckpt: StrPath | Sequence[StrPath], **options: Option) -> list[Result]:
    """Run blocks on runs, compare the runs, and return the saved results: `evaluate("runs/demo", block="all")`.

    Results that are up to date are returned as they are. Raises BlockError, after the others are saved, if a block
    cannot be run, and GuardError if an audit finds the data unsuitable. `avatar-bench evaluate --help` lists the
    options.
    """
    from avatar_bench.cli.python_calls import call_command
    from avatar_bench.results.result import Result

    return [Result.load(folder) for folder in call_command("evaluate", options, ckpt)]


def predict(*input: StrPath | Sequence[StrPath], output: StrPath = "-", **options: Option) -> PredictionTable:
    """Predict the class of image files, and write the rows to `output` if it is given; return one row per file.

    A file that cannot be read has a row with status "error", and a warning counts them. `load(run).predict(paths)`
    keeps the network between calls and takes any number of paths. `avatar-bench predict --help` lists the options.
    """
    import warnings

    import pandas as pd

    from avatar_bench.cli.python_calls import call_command
    from avatar_bench.errors import UnreadableFilesError
    from avatar_bench.inference.prediction_table import PredictionTable
    from avatar_bench.inference.prediction_writer import collect_rows, read_predictions

    with collect_rows() as tables:
        try:
            call_command("predict", {"output": output, **options}, input)
        except UnreadableFilesError as error:
            warnings.warn(str(error), stacklevel=2)
    # rows kept by update, or computed by other processes, are in the output alone
    is_whole = bool(tables) and not options.get("update")
    return PredictionTable(pd.concat(tables, ignore_index=True) if is_whole else read_predictions(os.fspath(output)))


def report(*runs: StrPath, **options: Option) -> Path:
    """Write one page from the saved results of the runs in a folder, and return its path: `report("runs/demo")`."""
    from avatar_bench.cli.python_calls import call_command

    page: Path = call_command("report", options, runs)
    return page


def import_detector(**options: Option) -> Run:
    """Make the run folder `out` of a detector made elsewhere, and return the run; the command is called `import`."""
    from avatar_bench.cli.python_calls import call_command

    return load(call_command("import", options))
