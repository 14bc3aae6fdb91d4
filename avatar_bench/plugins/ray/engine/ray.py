"""Prediction by a pool of actors, on this machine or on a Ray cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_bench.config.options import option
from avatar_bench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from avatar_bench.commands.predict import PredictConfig
    from avatar_bench.runs.engines import PredictionJob, RowCounts


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_actors(value: Any) -> bool:
    is_range = isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] <= value[1]
    return value == "auto" or _is_count(value) or is_range


@dataclass
class RayEngine:
    """Prediction by Ray."""

    actors: Any = option(
        "auto",
        help="networks at a time, N or [LEAST,MOST]; auto: one a GPU, or one a pair of cores",
        check=_are_actors,
        expected="a whole number of at least 1, [LEAST,MOST], or auto",
    )
    address: str = option("local", help="Ray cluster to join; local: Ray starts on this machine")
    writes_folder: ClassVar[bool] = True
    reported: ClassVar[tuple[str, ...]] = ()

    def check(self, settings: PredictConfig) -> None:
        """Raise ConfigError if an option of predict excludes the engine, or Ray is not installed."""
        output, workers, explain = settings.output, settings.workers, settings.explain
        if not output.lower().endswith(".parquet"):
            raise ConfigError(f"output={output}: engine=ray writes Parquet", "expected a name that ends in .parquet")
        if workers is not None:
            raise ConfigError(f"workers={workers}: with engine=ray, tasks read images", "remove workers")
        if explain is not None:
            raise ConfigError(f"explain={explain}: engine=ray draws no Grad-CAM", "remove explain, or engine=ray")
        if find_spec("ray") is None:
            raise ConfigError("engine=ray needs Ray, which is not installed.", 'pip install "avatar-bench[ray]"')

    def write_rows(self, job: PredictionJob) -> RowCounts:
        """Write the missing rows as the parts of a folder."""
        from avatar_bench.inference.prediction_writer import find_remaining
        from avatar_bench.plugins.ray.prediction_parts import PredictionParts
        from avatar_bench.plugins.ray.ray_prediction import Answering, connect_ray, predict_parts
        from avatar_bench.runs.engines import RowCounts, report_interruption
        from avatar_bench.runs.file_predictor import open_file_predictor

        settings, files = job.settings, job.files
        with connect_ray(self.address) as resources:
            settings.threads = settings.threads or 1
            if resources.get("GPU") and settings.accelerator != "cpu" and settings.runtime == "auto":
                settings.runtime = "torch"
            predictor, notes = open_file_predictor(job.path, settings, len(files))
            run = predictor.run
            for note in [*notes, *predictor.load()]:
                print(note, file=sys.stderr)
            parts = PredictionParts(settings.output, predictor.columns, settings.update)
            predictor.refuse_other_rows(parts.last)
            run.predictor.unload()  # actors load their own
            todo, _ = find_remaining(files, [parts.path_of(file) for file in files], parts.kept, 1)
            with report_interruption(parts, settings.output):
                if todo:
                    predict_parts(run, Answering.like(job.path, predictor), todo, parts, self.actors, resources)
        ok, errors = parts.count_statuses()
        if ok + errors != len(parts.kept) + len(todo):
            raise DataError(
                f"{settings.output} has {ok + errors} rows, expected {len(parts.kept) + len(todo)}.",
                "Did another command write into it? Choose another output.",
            )
        return RowCounts(ok - len(parts.kept) + parts.bad, errors - parts.bad, len(files) - len(todo), parts.bad)
