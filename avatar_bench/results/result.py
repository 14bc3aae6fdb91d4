"""Result of a block: metrics, tables, arrays and images, with the only code that writes evaluation output."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from avatar_bench.config.entries import find_entry
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.document import OpenDocument, expecting, matching, parse, read_json
from avatar_bench.files.table_io import name_table, read_table, write_table
from avatar_bench.i18n import _, use_language
from avatar_bench.metrics.units import NEW_SOURCES, THESE_SOURCES
from avatar_bench.results.declaration import declare_block, find_heading
from avatar_bench.results.display import format_frame, format_latex, format_pairs, format_text, format_value
from avatar_bench.results.reasons import Reason, format_reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Draw = Callable[["Result"], Mapping[str, Figure]]  # draws the figures of a saved Result

RESULT_SCHEMA = 3
METRICS_FILE = "metrics.json"
INFERENCE_COLUMNS = ("unit", "units", "population")  # of the intervals in a row of a table
AGAINST_FOLDER = "against"  # folder of differences from an earlier Result, beside the folders of blocks
_PRINTED = 3  # metrics of a printed Result
_SCREEN_DPI = 100  # of figures drawn for a notebook
_SVG_DPI = 150  # of embedded images, enough for the cells of an image grid; lines and text are vectors
_RESAMPLED_UNITS = ("group", "source", "round", "pass")
_POPULATIONS = {"image": THESE_SOURCES, "group": THESE_SOURCES, "source": NEW_SOURCES}
_DEFAULT_LANGUAGE = "en"  # its figures are in the folder of the result, those of another language in a folder below
# in the folder of a Result, or in a folder of it
_FileName = Annotated[str, matching(r"[^./\\:][^/\\:]*(/[^./\\:][^/\\:]*)?", "the name of a file in its folder")]
_STALE_SECONDS = 86_400  # after which a partly written folder is deleted


@dataclass(frozen=True)
class Metric:
    """A metric: its value, interval, number of units, and whether more is better.

    `low` and `high` are the ends of the interval. `higher_is_better` is None where neither direction is. `value` is
    None if it cannot be computed, and then `reason` is the cause. `n` counts images. `interval` is its method
    ("wilson", "bootstrap by group", ...), `units` is the number of units that it resamples, by default n, and
    `population` that for which it speaks. Where it speaks for new sources, `these_sources` has its value and interval
    for these ones. `floor` is the value under noise alone: the accuracy of guessing, or the calibration error of a
    perfectly calibrated network on `n` images.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    higher_is_better: bool | None = True
    reason: Reason | None = None
    floor: float | None = None
    units: int | None = None
    population: str | None = None
    these_sources: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "floor"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite or None with a reason, not {number}")
        if self.interval is not None:  # by default that of the method
            object.__setattr__(self, "units", self.n if self.units is None else self.units)
            object.__setattr__(self, "population", self.population or _POPULATIONS.get(self.unit))
        if self.value is None and self.reason is None:
            raise ValueError("a Metric without a value needs a reason")
        if not isinstance(self.reason, Reason | None):
            raise TypeError(f"the reason of a Metric must be a Reason, not {self.reason!r}")

    @classmethod
    def parse(cls, saved: dict[str, Any]) -> Metric:
        """Return the Metric saved in metrics.json; `unit` is derived from the interval."""
        stated = {name: value for name, value in saved.items() if name != "unit"}
        return cls(**stated | ({"reason": Reason.parse(stated["reason"])} if "reason" in stated else {}))

    @property
    def plain(self) -> dict[str, Any]:
        """Return the Metric as it is saved in metrics.json, without missing values."""
        stated = vars(self) | ({"unit": self.unit} if self.interval else {})
        stated |= {"reason": self.reason.plain} if self.reason else {}
        kept = ("value", "higher_is_better")
        return {name: value for name, value in stated.items() if value is not None or name in kept}

    @property
    def unit(self) -> str:
        """Return the unit that the interval resamples: "group", "source", "round" or "pass", else "image"."""
        return next((unit for unit in _RESAMPLED_UNITS if unit in (self.interval or "")), "image")

    @property
    def inference(self) -> dict[str, Any]:
        """Return what the interval resamples and for which population it speaks, by column of a table."""
        return {"unit": self.unit, "units": self.units, "population": self.population}


@dataclass(frozen=True)
class MetricsFile(OpenDocument):
    """Content of a metrics.json, as `Result.save` writes it."""

    schema: Annotated[int, expecting(RESULT_SCHEMA, "evaluate again")]
    block: str
    set: str
    n: int
    classes: tuple[str, ...]
    metrics: dict[str, dict[str, Any]]
    warnings: tuple[dict[str, Any], ...]
    figures: tuple[_FileName, ...]
    provenance: dict[str, Any]
    notes: tuple[dict[str, Any], ...] = ()
    files: tuple[_FileName, ...] = ()  # other than figures
    text_columns: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by table

    @classmethod
    def read(cls, folder: Path) -> MetricsFile:
        """Read the file in a folder; raise FileNotFoundError if there is none, ValueError if it is damaged."""
        return parse(cls, read_json(folder / METRICS_FILE))


@dataclass
class Result:
    """Metrics, tables, arrays and images of one block for one data set, with their provenance; without any language.

    `n` is the number of images. The page of the block lists its `metrics` and `tables` by name. Of a saved Result,
    `arrays` are read by `load(folder, arrays=True)` alone, and `images` are files in `folder`, where it is saved. Keys
    of `images` (H, W, 3) are file names without suffix, in a folder: "overlays/001_face". `warnings` state how
    carefully to read the metrics, `notes` what else the block states, such as a promise. `provenance` names the
    checkpoint, the images, the options and the versions. `figures` are the names of the figures drawn from the saved
    Result, which `plot` draws again.
    """

    block: str
    set: str
    n: int
    classes: tuple[str, ...]
    metrics: dict[str, Metric] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)
    images: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    warnings: list[Reason] = field(default_factory=list)
    notes: list[Reason] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    figures: list[str] = field(default_factory=list)
    folder: Path | None = field(default=None, repr=False, compare=False)  # where it is saved

    def save(self, folder: Path, draw: Draw | None = None, language: str = _DEFAULT_LANGUAGE) -> Path:
        """Write metrics.json, tables, arrays and images to `folder`; replace an earlier Result as a whole.

        `draw` draws the figures, in `language`, of the Result as it is read from its files.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        # a unique name: another process may write the same Result
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{os.getpid()}.", suffix=".part", dir=folder.parent))
        part.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp makes private folders
        try:
            self._write(part)
            if draw is not None:
                self.figures = _write_figures(draw(Result.load(part, arrays=True)), part, language)
                (part / METRICS_FILE).write_text(self._json(), encoding="utf-8")
            _put_in_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self.folder = folder
        return folder

    def plot(
        self,
        figure: str,
        lang: str = _DEFAULT_LANGUAGE,
        size: float | tuple[float, float] | None = None,
        style: str | Mapping[str, Any] | None = None,
    ) -> Figure:
        """Draw one of `figures`, from the Result as it is saved, as a matplotlib Figure; `lang` is "en" or "ru".

        `size` in inches is the width, such as 3.3 for a column of a paper, or width and height: text shrinks as far as
        labels would overlap. `style` is the name of a style of matplotlib, or settings of one. Raises ConfigError for
        another name.
        """
        from avatar_bench.metrics.figure_size import resize_figure  # matplotlib: not needed to read a Result
        from avatar_bench.metrics.plots import override_style

        try:
            with use_language(lang), override_style(style or {}):
                drawn = draw_figures(Result.load(self.folder, arrays=True) if self.folder else self)
        except OSError as error:
            if style is None or "style" not in str(error):
                raise
            raise ConfigError(f"style={style}: there is no such style.", "See matplotlib.style.available.") from error
        if figure not in drawn:
            raise ConfigError(
                f"{self.block} has no figure {figure!r}{suggest_names(figure, drawn)}",
                f"There are: {', '.join(drawn) or 'none'}.",
            )
        if size is not None:
            resize_figure(drawn[figure], size)
        drawn[figure].set_dpi(_SCREEN_DPI)
        return drawn[figure]

    def to_latex(self, *names: str, lang: str = _DEFAULT_LANGUAGE) -> str:
        """Return the metrics of these names, by default all, as a LaTeX table of value [low, high] and n.

        It needs the package booktabs. Raises ConfigError for an unknown name.
        """
        for name in names:
            if name not in self.metrics:
                raise ConfigError(f"{self.block} has no metric {name!r}{suggest_names(name, self.metrics)}")
        with use_language(lang):
            rows = [
                (find_heading(name, self.block), self._format(name), self.metrics[name].n)
                for name in names or self.metrics
            ]
            table = pd.DataFrame(rows, columns=[_("metric"), _("value [low, high]"), "n"])
        return format_latex(table, "lrr")

    def _format(self, name: str) -> str:
        """Return the value and the interval of a metric, or why it has none."""
        metric = self.metrics[name]
        if metric.value is None:
            return format_reason(metric.reason, self.block) if metric.reason else ""
        return format_value(metric.value, metric.low, metric.high)

    def __str__(self) -> str:
        shown = [name for name, metric in self.metrics.items() if metric.value is not None][:_PRINTED]
        texts = [f"{find_heading(name, self.block)} {self._format(name)}" for name in shown]
        parts = {"tables": list(self.tables), "figures": self.figures}
        lines = [
            f"{self.block}: {declare_block(self.block).title}",
            f"{self.set}: {self.n} images; classes: {', '.join(self.classes)}",
            ", ".join(texts) or "no metric has a value",
            "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in parts.items()),
            f"{self.folder or 'not saved'}; warnings: {len(self.warnings)}",
        ]
        return "\n".join(map(escape_control_characters, lines))

    def _repr_html_(self) -> str:
        numbers = [(name, metric.value, metric.low, metric.high, metric.n) for name, metric in self.metrics.items()]
        reasons = [*self.notes, *self.warnings]
        stated = "".join(f"<li>{format_text(format_reason(reason, self.block))}</li>" for reason in reasons)
        about = [
            ("set", f"{self.set}, n = {self.n}"),
            ("classes", ", ".join(self.classes)),
            ("tables", ", ".join(self.tables)),
            ("figures", ", ".join(self.figures)),
        ]
        return (
            f"<p><b>{format_text(declare_block(self.block).title)}</b></p>{format_pairs(about)}"
            f"{format_frame(pd.DataFrame(numbers, columns=['metric', 'value', 'low', 'high', 'n']))}"
            + (f"<ul>{stated}</ul>" if stated else "")
        )

    @property
    def files(self) -> list[str]:
        """Return the file names of the tables, arrays and images."""
        tables = [name_table(table, name) for name, table in self.tables.items()]
        kinds: dict[str, Iterable[str]] = {"npz": self.arrays, "png": self.images}
        return sorted([*tables, *(f"{name}.{ending}" for ending, kind in kinds.items() for name in kind)])

    @classmethod
    def load(cls, folder: Path, arrays: bool = False) -> Result:
        """Read metrics and tables, and the arrays if asked, from the folder of a saved Result.

        Raises ValueError for another schema, and FileNotFoundError if there is none.
        """
        saved = MetricsFile.read(folder)
        result = cls.parse(saved)
        for file in sorted([*folder.glob("*.csv"), *folder.glob("*.parquet")]):
            texts = saved.text_columns.get(file.stem, ())  # a class may be called 1, or NA
            result.tables[file.stem] = read_table(file, texts=texts)
        for file in sorted(folder.glob("*.npz")) if arrays else ():
            with np.load(file) as tensors:
                result.arrays[file.stem] = dict(tensors)
        result.folder = folder
        return result

    @classmethod
    def parse(cls, saved: MetricsFile) -> Result:
        """Return the Result in a metrics.json, without tables and arrays; raise ValueError for an impossible metric."""
        return cls(
            saved.block,
            saved.set,
            saved.n,
            saved.classes,
            metrics={name: Metric.parse(metric) for name, metric in saved.metrics.items()},
            warnings=list(map(Reason.parse, saved.warnings)),
            notes=list(map(Reason.parse, saved.notes)),
            provenance=saved.provenance,
            figures=list(saved.figures),
        )

    @classmethod
    def load_if_complete(cls, folder: Path) -> Result | None:
        """Read a Result; return None if it is missing, damaged, or lacks a file other than a figure."""
        try:
            files = MetricsFile.read(folder).files
            return cls.load(folder) if all((folder / file).is_file() for file in files) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, part: Path) -> None:
        from PIL import Image  # not needed to read a Result

        (part / METRICS_FILE).write_text(self._json(), encoding="utf-8")
        for name, table in self.tables.items():
            write_table(table, part / f"{name}.csv")
        for name, arrays in self.arrays.items():
            np.savez_compressed(part / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # numpy types kwargs as bool
        for name, image in self.images.items():
            (part / f"{name}.png").parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(part / f"{name}.png")

    def _json(self) -> str:
        body = {
            "block": self.block,
            "schema": RESULT_SCHEMA,
            "set": self.set,
            "n": self.n,
            "classes": list(self.classes),
            "metrics": {name: metric.plain for name, metric in self.metrics.items()},
            "warnings": [warning.plain for warning in self.warnings],
            **({"notes": [note.plain for note in self.notes]} if self.notes else {}),
            "files": self.files,
            "text_columns": {name: _find_text_columns(table) for name, table in self.tables.items()},
            "figures": self.figures,
            "provenance": self.provenance,
        }
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def draw_figures(result: Result) -> Mapping[str, Figure]:
    """Draw the figures of a saved Result with arrays, declared and programmed by its block, in the current language."""
    entry = find_entry("block", result.block)
    figures: dict[str, Figure] = importlib.import_module("avatar_bench.evaluation.charts").draw_charts(result)
    if entry.is_folder and entry.module.with_name("figures.py").is_file():
        module = entry.load()
        with entry.explain_failure():
            figures |= importlib.import_module(f"{module.__name__}.figures").draw(result)
    return {name: figures[name] for name in declare_block(result.block).order_figures(figures)}


def _find_text_columns(table: pd.DataFrame) -> list[str]:
    columns = ((str(name), table.iloc[:, index]) for index, name in enumerate(table))
    return [name for name, column in columns if pd.api.types.infer_dtype(column, skipna=True) == "string"]


def locate_figure(folder: Path, name: str, language: str) -> Path:
    """Return the file of a figure in a language, without its suffix; there are a .png and a .svg."""
    return folder / name if language == _DEFAULT_LANGUAGE else folder / language / name


def has_figures(folder: Path, names: Iterable[str], language: str) -> bool:
    """Return whether all figures of a Result are drawn in a language."""
    stems = [locate_figure(folder, name, language) for name in names]
    return all(Path(f"{stem}{suffix}").is_file() for stem in stems for suffix in (".png", ".svg"))


def redraw(folder: Path, draw: Draw, language: str) -> None:
    """Draw the figures of a saved Result in a language that it lacks, without computing anything."""
    part = Path(tempfile.mkdtemp(prefix=f".{language}.{os.getpid()}.", suffix=".part", dir=folder))
    try:
        for name in _write_figures(draw(Result.load(folder, arrays=True)), part, _DEFAULT_LANGUAGE):
            target = locate_figure(folder, name, language)
            target.parent.mkdir(exist_ok=True)
            for suffix in (".png", ".svg"):
                Path(f"{part / name}{suffix}").replace(f"{target}{suffix}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_figures(figures: Mapping[str, Figure], folder: Path, language: str) -> list[str]:
    for name, figure in figures.items():
        stem = locate_figure(folder, name, language)
        stem.parent.mkdir(exist_ok=True)
        _save_figure(figure, stem)
    return list(figures)


def _save_figure(figure: Figure, stem: Path) -> None:
    """Write a figure as .png and .svg, with one layout for both, since the layout takes as long as drawing."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # slow to import, and not needed to read a Result

    from avatar_bench.metrics.plots import encode_png, use_style

    with use_style():
        Path(f"{stem}.png").write_bytes(encode_png(figure))
        figure.set_dpi(_SVG_DPI)
        # not by savefig, which would draw the figure once more for its layout
        FigureCanvasSVG(figure).print_svg(f"{stem}.svg", metadata={"Date": None})  # type: ignore[no-untyped-call]
    for axes in figure.axes:  # frees the artists; clear() would first rebuild each axes
        axes.remove()


def remove_unfinished(folder: Path, process: int) -> None:
    """Remove what a process that was stopped has left half-written of a Result, or of its figures."""
    for part in [*folder.parent.glob(f".{folder.name}.{process}.*.part"), *folder.glob(f".*.{process}.*.part")]:
        shutil.rmtree(part, ignore_errors=True)


def _put_in_place(part: Path, folder: Path) -> None:
    """Move a finished folder to its final name; replace an existing one, even if another process just wrote it."""
    while True:
        # the earlier folder is renamed as a whole, so that nobody reads half of it; the rename of `part` then fails as
        # "not empty" only if another process has put its own folder there in between
        aside = tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        earlier = Path(aside, folder.name)
        try:
            with contextlib.suppress(FileNotFoundError):
                _move(folder, earlier)
            part.rename(folder)
            break
        except BaseException as error:
            with contextlib.suppress(OSError):  # moved back, unless there is another one
                earlier.rename(folder)
            if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # of processes that were killed, or are still writing
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left)


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(folder)  # in a lower layer of a container's file system, where folders cannot be renamed
