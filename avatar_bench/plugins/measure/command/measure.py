"""measure: estimate the shares of classes in a population of images, or draw images of it for review."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from avatar_bench.config.options import option, path_option
from avatar_bench.config.schema import ADDRESSES, INSIDE, LANGUAGE, end_in, guard_option
from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.errors import ConfigError, OutputError, suggest_names
from avatar_bench.files.output_folder import lock_output, prepare_output
from avatar_bench.i18n import use_language
from avatar_bench.inference.prediction_writer import MAX_PAGE_IMAGES

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.plugins.measure.population import PredictionReader

_FEWEST = 30


@dataclass
class MeasureConfig:
    """Options of measure."""

    predictions: str = path_option(
        "what predict wrote: a .csv, .jsonl or .parquet file, or a folder of Parquet, local or remote",
        MISSING,
        is_main=True,
        example="predictions.csv",
    )
    target: str = option("generated", help="class of the headline, by whose probability images are drawn for review")
    labels: str | None = path_option("manifest that the page for review saves; null: no reviewed images")
    ckpt: str | None = path_option(
        f"the run that predicted, for the errors on its calibration images{ADDRESSES}; null: not used"
    )
    by: Any = option(
        [], help="columns whose groups are measured too, of predictions or manifest; month or year of date"
    )
    manifest: str | None = path_option("table with path and the columns of by; null: those of predictions")
    review: int | None = option(
        None,
        help="draw so many images for review, and measure nothing",
        check=lambda value: value is None or _FEWEST <= value <= MAX_PAGE_IMAGES,
        expected=f"{_FEWEST} to {MAX_PAGE_IMAGES}; an interval of fewer would be too wide to be of use",
    )
    width: float | None = option(None, help="state how many reviewed images an interval of this width needs", **INSIDE)
    seed: int = option(0, help="of the draw for review", check=lambda value: 0 <= value < 10**16, expected="0 or more")
    out: str | None = path_option("the page; null: measure.html, or review.html with review", **end_in(".html"))
    lang: str = option("en", help="language of the page and its figure", **LANGUAGE)
    allow: list[str] = guard_option("addresses")


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if options exclude one another."""
    if cfg.review is not None and cfg.labels is not None:
        raise ConfigError("review draws new images, and labels are of images drawn before", "remove one of them")
    if cfg.manifest is not None and not cfg.by:
        raise ConfigError(f"manifest={cfg.manifest}: requires by", "for example: by=month")


def execute(settings: MeasureConfig) -> pd.DataFrame:
    """Write the page of a measurement, or of images to review; return the table of shares, or of images drawn.

    Raise DataError for predictions or labels that cannot be used, ConfigError for an unknown class or column,
    CheckpointError for a run that cannot be opened, OutputError if the page cannot be written.
    """
    from avatar_bench.plugins.measure.population import PredictionReader

    by = [settings.by] if isinstance(settings.by, str) else list(settings.by or ())
    reader = PredictionReader(settings.predictions, by, settings.manifest)
    if settings.target not in reader.classes:
        raise ConfigError(
            f"target={settings.target}: not in the predictions{suggest_names(settings.target, reader.classes)}",
            f"Expected one of {', '.join(reader.classes)}.",
        )
    out = Path(settings.out or ("measure.html" if settings.review is None else "review.html"))
    prepare_output(str(out), "out")
    _refuse_foreign_files(out, "measure" if settings.review is None else "review")
    with lock_output(str(out)), use_language(settings.lang):
        return (_measure if settings.review is None else _draw)(settings, reader, out)


def _refuse_foreign_files(out: Path, kind: str) -> None:
    """Raise OutputError if the page would replace a file that is no page of its kind, or files beside it would."""
    is_there = out.is_file() and out.stat().st_size > 0
    if is_there and f'content="avatar_bench {kind}"'.encode() not in out.read_bytes():
        raise OutputError(f"out={out} is there, and is no such page.", "Choose another name: out=FILE.html")
    from avatar_bench.plugins.measure.measurement import MEASUREMENT, TABLE_FILES

    if kind == "measure" and not is_there:
        beside = [out.with_suffix(f".{name}") for name in (MEASUREMENT, *TABLE_FILES)]
        if taken := [file.name for file in beside if file.exists()]:
            raise OutputError(
                f"out={out} would also write {taken[0]}, which is there.", "Choose another name: out=FILE.html"
            )


def _draw(settings: MeasureConfig, reader: PredictionReader, out: Path) -> pd.DataFrame:
    from avatar_bench.plugins.measure.review import write_review_page
    from avatar_bench.plugins.measure.shares import plan_review

    population = reader.scan(settings.target, seed=settings.seed)
    assert settings.review is not None
    design, expected = plan_review(population, settings.target, settings.review, settings.seed)
    shown = write_review_page(reader, population, design, out, settings.lang, "addresses" in settings.allow)
    _state_width(settings, population)
    print_line(
        f"{out}: {format_count(len(shown), 'image')} of {population.n:,}, drawn from {len(design.rates)} strata of the "
        f"probability of {settings.target}; if it is calibrated, expect about {100 * expected.low:.2g} to "
        f"{100 * expected.high:.2g} %. Next: avatar-bench measure {settings.predictions} labels=reviewed.csv"
    )
    return shown


def _measure(settings: MeasureConfig, reader: PredictionReader, out: Path) -> pd.DataFrame:
    from avatar_bench.plugins.measure.measurement import make_measurement, read_calibration_images
    from avatar_bench.plugins.measure.review import Labels
    from avatar_bench.plugins.measure.shares_page import describe, describe_cautions, write_measurement

    calibration = read_calibration_images(settings.ckpt, reader) if settings.ckpt else None
    labels = Labels(settings.labels, reader.classes) if settings.labels else None
    wanted, design = (labels.table["key"].tolist(), labels.design) if labels else ([], None)
    population = reader.scan(settings.target, design, settings.seed, wanted)
    measurement = make_measurement(reader, population, settings.target, calibration, labels)
    write_measurement(measurement, out, settings.lang)
    _state_width(settings, population)
    with use_language("en"):
        for caution in describe_cautions(measurement):
            print_note(caution)
        print_line(f"{out}: {' '.join(describe(measurement))}")
    return measurement.shares


def _state_width(settings: MeasureConfig, population: Any) -> None:
    from avatar_bench.plugins.measure.shares import count_required

    if settings.width is not None:
        n = count_required(population, settings.target, settings.width)
        print_line(
            f"width={settings.width:g}: about {n:,} reviewed images, if the probabilities are calibrated; more if not"
        )
