"""Slices of a dataset by source, generator, image size, file format and JPEG quality."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data.dataset import DATE_COLUMNS, ENCODING_COLUMNS, OTHER_PREFIX, Dataset, list_other_columns
from avatar_bench.data.decoding import FORMATS
from avatar_bench.errors import ConfigError, DataError

SLICE_COLUMNS = ("source", "generator", "size", "format", "jpeg_quality")
SIDE_EDGES = (128, 256, 512, 1024)  # pixels of the shorter side
_MOST_VALUES = 10  # of a column of numbers, each a slice of its own
_NUMBER_SLICES = 4
QUALITY_EDGES = (50, 75, 85, 90, 95)


def assign_slices(dataset: Dataset) -> pd.DataFrame:
    """Return the SLICE_COLUMNS of each image, (N, 5) strings, "" for unknown, from the manifest or the file header."""
    frame = dataset.frame
    stored = _complete_encoding(dataset)
    side = _to_numeric(stored[["width", "height"]]).min(axis=1).astype(int)
    quality = _to_numeric(stored[["jpeg_quality"]]).fillna(-1)["jpeg_quality"].astype(int)
    return pd.DataFrame(
        {
            "source": frame["source"].to_numpy(str),
            "generator": frame["generator"].to_numpy(str),
            "size": name_ranges(side, SIDE_EDGES, " px"),
            "format": stored["format"].to_numpy(str),
            "jpeg_quality": np.where(quality > 0, name_ranges(quality, QUALITY_EDGES), ""),
        },
        columns=list(SLICE_COLUMNS),
    )


def assign_columns(dataset: Dataset, names: Sequence[str], option: str) -> pd.DataFrame:
    """Return the slice names of each image by these columns of the manifest, (N, K) strings; "" means unknown.

    More than ten numbers are divided at their quartiles. Raise ConfigError for a missing column.
    """
    frame, known = dataset.frame, list_columns(dataset)
    if missing := [name for name in names if name not in known]:
        reason = f"{option}: {dataset.name} has no column {missing[0]}."
        raise ConfigError(reason, f"Expected some of {', '.join(known)}.")
    slices = assign_slices(dataset) if set(names) & set(SLICE_COLUMNS) else pd.DataFrame(index=range(len(frame)))
    stated = {name: _divide(frame[known[name]].reset_index(drop=True)) for name in names if name not in SLICE_COLUMNS}
    return slices.assign(**stated)[list(dict.fromkeys(names))]


def list_columns(dataset: Dataset) -> dict[str, str]:
    """Return the columns by which images can be sliced, those of the manifest as the frame names them."""
    others = list_other_columns(dataset.frame)
    return {name: name for name in (*SLICE_COLUMNS, *DATE_COLUMNS)} | {
        name.removeprefix(OTHER_PREFIX): name for name in others
    }


def _divide(values: pd.Series) -> NDArray[np.str_]:
    """Return the slice of each value, (N,): the value, or for many different numbers its quarter, as "18-25"."""
    text = values.astype(str).str.strip()
    numbers = pd.to_numeric(text.where(text != ""), errors="coerce")
    if numbers.nunique() <= _MOST_VALUES or numbers[text != ""].isna().any():
        return text.to_numpy(str)
    quarters = pd.qcut(numbers, _NUMBER_SLICES, labels=False, duplicates="drop")
    ends = numbers.groupby(quarters).agg(["min", "max"])
    names = {quarter: f"{low:g}-{high:g}" for quarter, low, high in ends.itertuples()}
    return quarters.map(names).fillna("").to_numpy(str)


def name_ranges(values: Iterable[int], edges: Sequence[int], unit: str = "") -> NDArray[np.str_]:
    """Return the name of the bin between two edges for each integer, (N,), free of words: "< 128 px" ..."""
    inner = [f"{low}-{high - 1}{unit}" for low, high in pairwise(edges)]
    names = [f"< {edges[0]}{unit}", *inner, f"≥ {edges[-1]}{unit}"]
    return np.array(names)[np.searchsorted(np.array(edges), np.array(list(values)), side="right")]


def estimate_jpeg_quality(table: Iterable[int]) -> int:
    """Return the quality, 1 to 100, whose libjpeg luminance table (64,) is closest to this one in log ratio."""
    return int(np.abs(_compute_log_tables() - np.log(np.maximum(list(table), 1))).sum(axis=1).argmin()) + 1


@cache
def _compute_log_tables() -> NDArray[np.float64]:
    """Return the logarithms of libjpeg's luminance tables, (100, 64), by quality."""
    tables = []
    for quality in range(1, 101):
        stream = io.BytesIO()
        Image.new("L", (8, 8)).save(stream, "JPEG", quality=quality)
        tables.append(Image.open(stream).quantization[0])  # type: ignore[attr-defined]
    return np.log(tables)


def _complete_encoding(dataset: Dataset) -> pd.DataFrame:
    """Return the ENCODING_COLUMNS; rows with a value missing in the manifest are read from the files."""
    stored = dataset.frame[list(ENCODING_COLUMNS)].astype(str)
    unknown = _to_numeric(stored.drop(columns="format")).isna()
    jpeg = stored["format"].eq("JPEG")
    lacking = unknown["width"] | unknown["height"] | stored["format"].eq("") | (jpeg & unknown["jpeg_quality"])
    rows = np.flatnonzero(lacking)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda row: _read_header(dataset.file(int(row))), rows))
    stored.iloc[rows] = pd.DataFrame(read, columns=list(ENCODING_COLUMNS)).to_numpy()
    return stored


def _to_numeric(columns: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: pd.to_numeric(columns[name], errors="coerce") for name in columns})


def _read_header(file: Path) -> tuple[str, str, str, str]:
    try:
        with file.open("rb") as stream, Image.open(stream, formats=list(FORMATS)) as image:
            tables = getattr(image, "quantization", {})
            kind = "JPEG" if tables else image.format or ""  # Pillow reports a JPEG with several images as MPO
            quality = str(estimate_jpeg_quality(tables[min(tables)])) if tables else ""
            return str(image.width), str(image.height), kind, quality
    except Exception as error:  # Pillow's readers raise almost any exception on broken files
        raise DataError(f"{file}: cannot be read: {error}.") from error
