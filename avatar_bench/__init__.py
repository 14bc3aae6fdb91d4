"""Evaluation of classifiers that tell whether an avatar is a real photo, a drawing or AI-generated.

The functions of this module are the commands of the command line, with the same names of options, as keyword arguments.
A dot in a name is two underscores, `data__split__seed=3`, or the name is passed as it is, `**{"data.split.seed": 3}`. A
value (`Option`) is None, a number, a text, a path, or a list or dictionary of these; a path (`StrPath`) is a text, a
`Path`, or a `Run`. A mistake raises an AvatarBenchError of `avatar_bench.errors`, with the message of the command line:
ConfigError for an option, DataError for images, CheckpointError for a run, OutputError for a place that cannot be
written. `avatar-bench COMMAND --help` lists the options.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.inference.prediction_table import PredictionTable
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run

    StrPath: TypeAlias = str | os.PathLike[str]
    Option: TypeAlias = StrPath | float | Sequence[Any] | Mapping[str, Any] | None

# else requests of the hub's client, which timm and import use too, report versions and the calling program
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.3.0"
__all__ = ["__version__", "evaluate", "import_detector", "load", "measure", "predict", "prepare", "report", "train"]


def __dir__() -> list[str]:
    """Return what completion offers: the functions, without the names that this module imports."""
    return __all__


def load(run: StrPath) -> Run:
    """Open a run: a run folder, a .ckpt file, an ensemble's folder or a run on the hub, `"hf:OWNER/NAME[@revision]"`.

    The network is loaded when it is first used. Raises CheckpointError if there is no run at that place.
    """
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.record import locate_run

    return open_run(locate_run(os.fspath(run)))


def prepare(**options: Option) -> Dataset:
    """Build the data set that `data` or `source` describes in the folder `out`, audit it, and return it.

    `prepare(source="folder", source__folder__root="photos", out="dataset")` reads a folder with one folder per class.
    Raises GuardError, after everything is written, if the audit finds the data unsuitable; `allow` names the guards to
    switch off. Raises DataError if a source has no images or cannot be fetched.

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
    """Train a run and return it: `train(model="resnet18", data="folder", data__root="photos")`.

    With `sweep`, the name of a sweep such as "controlled", train all its runs and return the list of them. The run is
    written to the folder `out`. Ctrl-C raises KeyboardInterrupt once the current step is saved; `train(resume=RUN)`
    goes on. The random numbers of the process are seeded by `seed`. Raises DivergedError if the loss is not finite, and
    DataError, once the others have finished, if a run of the sweep has failed.

    `avatar-bench train --help` lists the options.
    """
    from avatar_bench.cli.python_calls import call_command

    if sweep is not None:
        return [load(folder) for folder in call_command("train", {"sweep": sweep, **options})]
    return load(call_command("train", options).folder)


def evaluate(*ckpt: StrPath | Sequence[StrPath], **options: Option) -> list[Result]:
    """Run blocks on runs, compare the runs, and return the saved results: `evaluate("runs/demo", block="all")`.

    `ckpt` are runs, or folders that contain runs; none is the newest run. `block` is a block or a list of blocks, by
    default "blind_test"; `split` is the set of the run's own data, such as "blind". Results that are up to date are
    returned as they are. Raises BlockError, after the others are saved, if a block cannot be run, GuardError if images
    were used in training or an audit finds the data unsuitable, and RegressionError if a result is significantly worse
    than that of `against`.

    `avatar-bench evaluate --help` lists the options.
    """
    from avatar_bench.cli.python_calls import call_command
    from avatar_bench.results.result import Result

    return [Result.load(folder) for folder in call_command("evaluate", options, ckpt)]


def predict(*input: StrPath | Sequence[StrPath], output: StrPath = "-", **options: Option) -> PredictionTable:
    """Predict the class of image files, and write the rows to `output` if it is given; return one row per file.

    `input` are files, folders, globs or lists of files; `ckpt` is the run, by default the newest. The format of
    `output` follows from its ending: .csv, .jsonl, .parquet or .html. A file that cannot be read has a row with status
    "error", and a warning counts them. `load(run).predict(paths)` keeps the network between calls and takes any number
    of paths. Raises DataError if there is no file to read.

    `avatar-bench predict --help` lists the options.
    """
    import warnings

    import pandas as pd

    from avatar_bench.cli.python_calls import call_command
    from avatar_bench.errors import UnreadableFilesError
    from avatar_bench.inference.prediction_table import PredictionTable
    from avatar_bench.inference.prediction_writer import collect_rows
    from avatar_bench.reporting.prediction_outputs import read_predictions

    with collect_rows() as tables:
        try:
            call_command("predict", {"output": output, **options}, input)
        except UnreadableFilesError as error:
            warnings.warn(str(error), stacklevel=2)
    # rows kept by update, or computed by other processes, are in the output alone
    is_whole = bool(tables) and not options.get("update")
    return PredictionTable(pd.concat(tables, ignore_index=True) if is_whole else read_predictions(os.fspath(output)))


def measure(predictions: StrPath, **options: Option) -> pd.DataFrame:
    """Estimate the shares of classes in the images of a table of predictions: `measure("predictions.csv", by="month")`.

    `labels` is the manifest of a page for review, which `review=200` draws, and `out` the page. Return a row for each
    class and estimator, `value` with `low` and `high`; with `review`, the rows drawn. Raises DataError for predictions
    or labels that cannot be used.

    `avatar-bench measure --help` lists the options.
    """
    from avatar_bench.cli.python_calls import call_command

    table: pd.DataFrame = call_command("measure", options, (predictions,))
    return table


def report(*runs: StrPath, **options: Option) -> Path:
    """Write one page from the saved results of the runs in a folder, and return its path: `report("runs/demo")`.

    `out` is the page, by default `report.html` in that folder, and `lang` its language, "en" or "ru". Nothing is
    computed: what has not been evaluated is not on the page. Raises DataError if no run in the folder is evaluated.
    """
    from avatar_bench.cli.python_calls import call_command

    page: Path = call_command("report", options, runs)
    return page


def import_detector(**options: Option) -> Run:
    """Make the run folder `out` of a detector made elsewhere, and return the run; the command is called `import`.

    `kind` is what it is: "predictions" (a table, `file`), "onnx" (a network, `file`), "timm" or "transformers" (a
    network, `folder`), or a class of your own. The run is evaluated and compared like one that was trained here. Raises
    DataError if the content cannot be used, and GuardError if images have no prediction.
    """
    from avatar_bench.cli.python_calls import call_command

    return load(call_command("import", options))
