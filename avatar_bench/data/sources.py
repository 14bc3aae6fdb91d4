"""Data sets built from a recipe of sources, complete or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagehash
import pandas as pd
from PIL import Image
from tqdm import tqdm

from avatar_bench import packages
from avatar_bench.data.copies import find_copies, join_groups
from avatar_bench.data.pictures import Picture, encode
from avatar_bench.data.readers import READERS, Source, fetch_all
from avatar_bench.errors import ConfigError, DataError, OutputError

VERSION = 1  # of what is done to a picture; a change makes data sets of the same recipe different
COLUMNS = (
    *("path", "label", "source", "generator", "group", "split", "sha256", "phash", "width", "height", "format"),
    *("jpeg_quality", "licence", "author", "url", "origin"),
)
DESCRIPTION = ("label", "licence", "author", "generator", "homepage")  # what every source says of itself


@dataclass(frozen=True)
class Summary:
    """Say what a data set holds: images a class, in-domain and blind; `built` is False where it was there before."""

    out: Path
    counts: dict[str, int]
    blind: dict[str, int]
    quarantined: int
    built: bool

    def __str__(self) -> str:
        said = "wrote" if self.built else "already complete:"
        kept = f", {self.quarantined} left out" if self.quarantined else ""
        return f"{said} {self.out}: {_counted(self.counts)}; blind set: {_counted(self.blind) or 'none'}{kept}"


@dataclass
class _Build:
    """Hold what has been read so far."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)  # of each row's bytes as found
    quarantine: list[tuple[str, str]] = field(default_factory=list)  # file, reason


def demo_root() -> Path:
    """Give the folder of the demo data set, in the cache."""
    return packages.cache_root() / "demo"


def ensure_demo(data: Mapping[str, Any]) -> Summary:
    """Build the demo that `data` (conf/data/demo.yaml: sources, blind_sources, root) describes, unless it is there.

    `manifest.csv` and `blind.csv` lie in the `out` of the Summary. A demo in the cache that is of an earlier recipe
    is built anew. Raise as `build` does.
    """
    sources, blind = data["sources"], data["blind_sources"]
    if data.get("root"):
        return build(sources, Path(data["root"]), blind)
    stale = _written(demo_root()) not in (None, _recipe(sources, blind))
    return build(sources, demo_root(), blind, update=stale)


def build(sources: Mapping[str, Source], out: Path, blind: Sequence[str] = (), *, update: bool = False) -> Summary:
    """Read every source and write the data set `out`; sources named in `blind` make its blind set.

    `out` gets images/, manifest.csv, blind.csv, sources.csv, quarantine.csv and recipe.json, all at once. A data set
    of the same recipe is left as it is, unless `update` asks for a new one. Raise ConfigError for a
    recipe that makes no sense, DataError for a source that cannot be had or gives nothing, OutputError for an `out`
    that cannot be written or holds something else.
    """
    _check(sources, blind)
    recipe = _recipe(sources, blind)
    found = _written(out)
    if found == recipe and not update:
        return _summary(out, built=False)
    if found is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} holds something else than a data set made by prepare.", "Give a new folder: out=DIR")
    if found is not None and not update:
        raise OutputError(f"{out} is a data set of another recipe.", "Replace it with update=true, or give out=DIR")
    try:
        _write(out, sources, blind, recipe)
    except OSError as error:
        if _written(out) == recipe and found is None:  # another process was faster
            return _summary(out, built=False)
        raise OutputError(f"{out} cannot be written: {error.strerror or error}", "Give another: out=DIR") from error
    return _summary(out, built=True)


def _write(out: Path, sources: Mapping[str, Source], blind: Sequence[str], recipe: str) -> None:
    """Fill a folder beside `out` and put it in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as part:
        made = Path(part) / "new"
        made.mkdir()
        _fill(made, sources, blind)
        (made / "recipe.json").write_text(json.dumps({"sha256": recipe}) + "\n")
        if out.exists():
            out.rename(Path(part) / "old")
        made.rename(out)


def _check(sources: Mapping[str, Source], blind: Sequence[str]) -> None:
    if not sources:
        raise ConfigError("there are no sources to build from.", "Give data=demo or source=NAME")
    if unknown := set(blind) - set(sources):
        raise ConfigError(f"blind source {sorted(unknown)[0]!r} is not among the sources: {', '.join(sources)}")
    for name, source in sources.items():
        if missing := [key for key in ("kind", *DESCRIPTION) if source.get(key) is None]:
            raise ConfigError(f"source.{name} does not say its {' and '.join(missing)}.")
        if source["kind"] not in READERS:
            raise ConfigError(f"source.{name}.kind={source['kind']}: expected one of {', '.join(READERS)}.")


def _recipe(sources: Mapping[str, Source], blind: Sequence[str]) -> str:
    text = json.dumps([VERSION, sources, sorted(blind)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _written(out: Path) -> str | None:
    try:
        return str(json.loads((out / "recipe.json").read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _summary(out: Path, built: bool) -> Summary:
    counts = [pd.read_csv(out / file)["label"].value_counts(sort=False) for file in ("manifest.csv", "blind.csv")]
    seen, blind = ({str(label): int(number) for label, number in count.sort_index().items()} for count in counts)
    return Summary(out, seen, blind, len(pd.read_csv(out / "quarantine.csv")), built)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {label}" for label, number in counts.items())


def _fill(folder: Path, sources: Mapping[str, Source], blind: Sequence[str]) -> None:
    fetch_all(list(sources.values()))
    state = _Build(folder)
    # in-domain sources first: of two copies the first is kept
    for name in sorted(sources, key=lambda name: name in blind):
        _add(state, name, sources[name])
    frame = _without_copies(state)
    held_out = frame["source"].isin(list(blind))
    frame[~held_out].to_csv(folder / "manifest.csv", index=False)
    frame[held_out].to_csv(folder / "blind.csv", index=False)
    _describe(frame, sources, blind).to_csv(folder / "sources.csv", index=False)
    pd.DataFrame(state.quarantine, columns=["file", "reason"]).to_csv(folder / "quarantine.csv", index=False)


def _add(state: _Build, name: str, source: Source) -> None:
    print(f"{name}: {source['label']}, {source['author']}; licence: {source['licence']}", file=sys.stderr)
    before = len(state.rows)
    pictures = READERS[source["kind"]](source, state.quarantine)
    for picture in tqdm(pictures, name, unit="image", leave=False, file=sys.stderr, disable=not sys.stderr.isatty()):
        state.rows.append(_row(state.folder, name, source, picture))
        state.hashes.append(picture.sha256)
    if len(state.rows) == before:
        raise DataError(f"source.{name} gave no picture that can be used.", "Look at its files and version.")


def _row(folder: Path, name: str, source: Source, picture: Picture) -> dict[str, Any]:
    encoded = encode(picture, seed=f"{name}/{picture.name}")
    below = _place(folder, f"images/{source['label']}/{name}", picture.name)
    (folder / below).write_bytes(encoded.data)
    with Image.open(folder / below) as image:
        phash = str(imagehash.phash(image))
    own = f"{name}:{picture.group or picture.name}"
    return {
        "path": below,
        "label": source["label"],
        "source": name,
        "generator": picture.generator or source["generator"],
        "group": picture.shared_group or own,
        "split": "",
        "sha256": packages.digest(encoded.data),
        "phash": phash,
        "width": encoded.side,
        "height": encoded.side,
        "format": "JPEG",
        "jpeg_quality": encoded.quality,
        "licence": picture.licence or source["licence"],
        "author": picture.author or source["author"],
        "url": picture.url or source["homepage"],
        "origin": picture.name,
    }


def _place(folder: Path, below: str, name: str) -> str:
    """Give a path for a picture that no other of its source has: files of one name lie in several folders."""
    (folder / below).mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.-]+", "_", name)
    names = itertools.chain([safe], (f"{safe}_{number}" for number in itertools.count(2)))
    return next(path for path in (f"{below}/{name}.jpg" for name in names) if not (folder / path).exists())


def _without_copies(state: _Build) -> pd.DataFrame:
    frame = pd.DataFrame(state.rows, columns=list(COLUMNS))
    copies, near = find_copies(list(frame["phash"]), state.hashes, list(frame["source"]))
    for row, original in copies.items():
        state.quarantine.append((frame["path"][row], f"the same picture as {frame['path'][original]}"))
        (state.folder / frame["path"][row]).unlink()
    frame["group"] = join_groups(list(frame["group"]), near)
    return frame.drop(index=list(copies)).reset_index(drop=True)


def _describe(frame: pd.DataFrame, sources: Mapping[str, Source], blind: Sequence[str]) -> pd.DataFrame:
    counts = frame["source"].value_counts()
    rows = [
        {key: source[key] for key in DESCRIPTION}
        | {"source": name, "count": counts.get(name, 0), "blind": name in blind}
        for name, source in sources.items()
    ]
    return pd.DataFrame(rows)[["source", "label", "count", *DESCRIPTION[1:], "blind"]]
