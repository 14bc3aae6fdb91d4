"""Result: what a block found, and the only code that writes evaluation output."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from avatar_bench.files.csv_io import read_csv, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT_SCHEMA = 2
AGAINST_FOLDER = "against"  # the folder, beside those of blocks, of differences from an earlier Result
_SVG_DPI = 150  # of images in it, which bear no more at the size of a wall's cell; lines and text have none
_RESAMPLED_UNITS = ("group", "source", "round", "pass")
_STALE_SECONDS = 86_400  # seconds after which a half-written folder is nobody's


@dataclass(frozen=True)
class Metric:
    """Hold one figure: its value, interval, number of units, and whether more is better.

    `value` is None where it cannot be had, and then `reason` says why. `n` counts images, or the units that
    `interval` names ("wilson", "bootstrap by group", ...). `floor` is what noise alone would give: the accuracy of
    guessing, the calibration error of a perfectly calibrated network on so many images.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    higher_is_better: bool | None = True
    reason: str | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "floor"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite or None with a reason, not {number}")
        if self.value is None and not self.reason:
            raise ValueError("a Metric without a value needs a reason")

    @classmethod
    def parse(cls, saved: dict[str, Any]) -> Metric:
        """Return the Metric that metrics.json holds as `saved`; `unit` follows from the interval."""
        return cls(**{name: value for name, value in saved.items() if name != "unit"})

    @property
    def unit(self) -> str:
        """Return what `n` counts: "group", "source", "round" or "pass", as the interval resamples, else "image"."""
        return next((unit for unit in _RESAMPLED_UNITS if unit in (self.interval or "")), "image")


@dataclass
class Result:
    """Metrics, tables, figures, arrays and images of one block for one set, and where they come from.

    `images` (H, W, 3) go by their file's name without its ending, in a folder of theirs: "overlays/001_face".
    """

    block: str
    set: str
    n: int
    classes: tuple[str, ...]
    metrics: dict[str, Metric] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write metrics.json, every table, figure and array set into `folder`, replacing an earlier Result whole."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own: another process may be writing the same Result
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        part.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp keeps others out
        try:
            self._write(part)
            _put_in_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return folder

    @property
    def files(self) -> list[str]:
        """Return the names of the tables, figures, arrays and images as files."""
        kinds: tuple[tuple[Iterable[str], str], ...] = (
            *((self.tables, "csv"), (self.figures, "png"), (self.figures, "svg")),
            *((self.arrays, "npz"), (self.images, "png")),
        )
        return sorted(f"{name}.{ending}" for kind, ending in kinds for name in kind)

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read metrics and tables back; all else stays files. Raise ValueError on the schema of another version."""
        text = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        check_schema(text)
        return cls(
            block=text["block"],
            set=text["set"],
            n=text["n"],
            classes=tuple(text["classes"]),
            metrics={name: Metric.parse(metric) for name, metric in text["metrics"].items()},
            tables={file.stem: read_csv(file) for file in sorted(folder.glob("*.csv"))},
            warnings=list(text["warnings"]),
            provenance=dict(text["provenance"]),
        )

    @classmethod
    def load_if_complete(cls, folder: Path) -> Result | None:
        """Read a Result where every file of it is there; None where it is missing, damaged or not whole."""
        try:
            text = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            return cls.load(folder) if all((folder / file).is_file() for file in text["files"]) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, part: Path) -> None:
        (part / "metrics.json").write_text(self._json(), encoding="utf-8")
        for name, table in self.tables.items():
            write_csv(table, part / f"{name}.csv", float_format="%.17g")
        for name, figure in self.figures.items():
            _save_figure(figure, part / name)
        for name, arrays in self.arrays.items():
            np.savez_compressed(part / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # numpy types kwargs as bool
        for name, image in self.images.items():
            _save_image(image, part / f"{name}.png")

    def _json(self) -> str:
        body = {
            "block": self.block,
            "schema": RESULT_SCHEMA,
            "set": self.set,
            "n": self.n,
            "classes": list(self.classes),
            "metrics": {name: _drop_missing(metric) for name, metric in self.metrics.items()},
            "warnings": self.warnings,
            "files": self.files,
            "provenance": self.provenance,
        }
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def check_schema(saved: dict[str, Any]) -> None:
    """Raise ValueError where the content of a metrics.json has a schema other than RESULT_SCHEMA."""
    if saved["schema"] != RESULT_SCHEMA:
        raise ValueError(f"it has schema {saved['schema']}, and this version reads {RESULT_SCHEMA}: evaluate again")


def _save_figure(figure: Figure, stem: Path) -> None:
    """Write a figure as .png and .svg; it is laid out once for both, as that takes as long as drawing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a Result that is read needs none of it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from PIL import Image

    from avatar_bench.metrics.plots import use_style

    with use_style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        figure.set_layout_engine("none")
        page = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
        # it is opaque: without alpha, and by runs of equal bytes alone, it is encoded in a third of the time
        page.convert("RGB").save(f"{stem}.png", dpi=(figure.dpi, figure.dpi), compress_type=zlib.Z_RLE)
        figure.set_dpi(_SVG_DPI)
        # not by savefig, which would draw a figure that has been laid out once more, to lay it out
        FigureCanvasSVG(figure).print_svg(f"{stem}.svg", metadata={"Date": None})  # type: ignore[no-untyped-call]
    for axes in figure.axes:  # to let go of what was drawn; clear() would first build each anew
        axes.remove()


def _save_image(image: np.ndarray, file: Path) -> None:
    from PIL import Image

    file.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(file)


def _put_in_place(part: Path, folder: Path) -> None:
    """Give a finished folder its name, in place of what bears it, be that written by another process just now."""
    while True:
        # what is there leaves at one stroke, so that nobody meets half of it, and a rename fails as "not empty" only
        # where another process has put its own there meanwhile
        aside = tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        earlier = Path(aside, folder.name)
        try:
            with contextlib.suppress(FileNotFoundError):
                _move(folder, earlier)
            part.rename(folder)
            break
        except BaseException as error:
            with contextlib.suppress(OSError):  # back again, unless there is another one
                earlier.rename(folder)
            if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # of processes that were killed, or still write
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left)


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(folder)  # of a lower layer of a container's file system, which does not rename such folders


def _drop_missing(metric: Metric) -> dict[str, Any]:
    stated = asdict(metric) | ({"unit": metric.unit} if metric.interval else {})
    return {key: value for key, value in stated.items() if value is not None or key in ("value", "higher_is_better")}
