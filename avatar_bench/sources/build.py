"""Resumable building of a dataset from a recipe of sources."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pandas as pd

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.dataset import list_files, read_dataset
from avatar_bench.data.decoding import decode
from avatar_bench.data.duplicates import ImageSet
from avatar_bench.data.fingerprints import Fingerprint, fingerprint_files
from avatar_bench.data.splits import DEFAULT_FOLDS, SplitPlan
from avatar_bench.errors import ConfigError, DataError, GuardError, OutputError, suggest_names
from avatar_bench.files.atomic_write import remove_parts, write_text
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.output_folder import refuse_foreign_folder, shared_lock
from avatar_bench.files.paths import cache_root
from avatar_bench.sources import dataset_files
from avatar_bench.sources.curation import SHARED_COLUMNS, CurationResult, CurationRules, OtherSet, Sides, curate
from avatar_bench.sources.dataset_files import RECIPE_FILE, RECIPE_KEYS, SIDES_FILE, WORK_FOLDER, DatasetSummary
from avatar_bench.sources.reader import Source, SourceJob, hash_state, open_reader, read_images
from avatar_bench.sources.readers.package import download_packages
from avatar_bench.sources.store import SourceJournal, delete_images, list_unwanted, store_image

RECIPE_VERSION = 2  # of the image processing; to increase when stored images would change
MAX_REMOVED = 10  # images that an update may remove without allow=[removed]
PLAN_FIELDS = ("by", "seed", "folds", "held_out")  # of the split plan; an update must not change them
_ROWS_PER_PART = 2_000  # of a table of images, while it is read: as rows they need more memory
THREADS = min(8, os.cpu_count() or 1)  # for reading, decoding and hashing


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe(CurationRules):
    """Sources of a dataset, with the rules for selecting their images.

    `sources` maps names to the yaml of conf/source. `equalise` is "jpeg", or None to keep files unchanged. `against`
    maps names to folders or manifests whose images the dataset must not contain.
    """

    sources: Mapping[str, Source]
    equalise: str | None = None
    against: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the recipe as JSON values, without an empty `ood`, as datasets of earlier versions have it."""
        fields = {key: value for key, value in asdict(self).items() if key != "ood" or value}
        fields["plan"].pop("until")  # prepare splits by no date, and earlier versions did not state it
        return dict(json.loads(json.dumps(fields, sort_keys=True, default=str)))

    @property
    def held_out_sources(self) -> tuple[str, ...]:
        """Return the sources that are not used for training."""
        return (*self.blind, *(source for sources in self.ood.values() for source in sources))


def demo_root(data: Mapping[str, Any] | None = None) -> Path:
    """Return the folder in the cache of the demo dataset, or of another one that `data` of conf/data describes."""
    return cache_root() / str(((data or {}).get("prepare") or {}).get("folder", "demo"))


def ensure_demo(data: Mapping[str, Any]) -> DatasetSummary:
    """Build the demo, or another set of conf/data, unless it is there, of this recipe; raise as `build_dataset`."""
    options = data.get("prepare") or {}
    recipe = DatasetRecipe(
        sources=data["sources"],
        blind=tuple(data["blind_sources"]),
        equalise=options.get("equalise"),
        plan=SplitPlan(by="group", folds=options.get("folds") or DEFAULT_FOLDS),
        ood={name: tuple(sources) for name, sources in (data.get("ood_sources") or {}).items()},
    )
    return build_dataset(recipe, Path(data.get("root") or demo_root(data)), afresh=not data.get("root"))


def build_dataset(
    recipe: DatasetRecipe, out: Path, *, update: bool = False, afresh: bool = False, allow_removed: bool = False
) -> DatasetSummary:
    """Read every new source and write the dataset `out`: images/, manifest.csv, blind.csv and missing tables.

    A finished dataset of the same recipe and sources is left unchanged, and an interrupted one is resumed. `update`
    adds what has changed, and moves no image to another side of the split; `afresh` may (the demo in the cache). Raise
    ConfigError, DataError for a source or an `out` that cannot be used, GuardError if more than MAX_REMOVED images are
    no longer in their sources, unless `allow_removed`, and OutputError.
    """
    if not afresh:  # a folder in the cache is ours
        refuse_foreign_folder(out, RECIPE_FILE, RECIPE_KEYS, WORK_FOLDER)
    _check_recipe(recipe, out)
    states = _collect_states(recipe)
    wanted = {"version": RECIPE_VERSION, "recipe": recipe.plain(), "states": states}
    try:
        if _is_done(out, wanted, update):
            return dataset_files.summarise_dataset(out, built=False)
        (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
        waiting = f"another process is building {out}: waiting for it"
        with shared_lock(out / WORK_FOLDER / "lock", lambda: print_note(waiting)):
            if _is_done(out, wanted, update):  # another process was faster
                return dataset_files.summarise_dataset(out, built=False)
            _check_earlier_recipe(out, wanted, update, afresh)
            earlier = {} if afresh else dataset_files.read_sides(out)
            curated, removed = _assemble(out, recipe, states, earlier, update, afresh or allow_removed)
            dataset_files.write_tables(out, recipe.sources, curated, earlier)
            write_text(out / RECIPE_FILE, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
            _print_notes(curated)
    except OSError as error:
        reason = f"{out} cannot be written: {error.strerror or error}"
        raise OutputError(reason, "Choose another folder: out=DIR") from error
    return replace(dataset_files.summarise_dataset(out, built=True), removed=removed)


def _check_recipe(recipe: DatasetRecipe, out: Path) -> None:
    if not recipe.sources:
        raise ConfigError("no sources to build from.", "Set data=demo or source=NAME")
    for name, source in recipe.sources.items():
        open_reader(name, source)
        for root in (source.get("root"), *(source.get("roots") or {}).values()):
            if source["kind"] == "folder" and root and out.resolve().is_relative_to(Path(root).expanduser().resolve()):
                reason = f"out={out} is inside the folder that source.{name} is read from."
                raise ConfigError(reason, "Choose a folder outside it: out=DIR")


def _collect_states(recipe: DatasetRecipe) -> dict[str, str]:
    """Return the state of each source and of each set to keep apart, to detect changes."""
    for name, path in recipe.against.items():
        if not Path(path).exists():
            raise DataError(f"against.{name}: {path} does not exist.", "Expected a folder or a manifest.")
    others = {f"against.{name}": read_dataset(Path(path), name).fingerprint for name, path in recipe.against.items()}
    return {f"source.{name}": hash_state(name, source) for name, source in recipe.sources.items()} | others


def _is_done(out: Path, wanted: Mapping[str, Any], update: bool) -> bool:
    """Return whether nothing is left to do; an update retries what a server refused."""
    if dataset_files.read_recipe(out) != wanted or not dataset_files.has_all_images(out):
        return False
    return not (update and any(_was_refused(out, *item) for item in wanted["recipe"]["sources"].items()))


def _was_refused(out: Path, name: str, source: Source) -> bool:
    return source["kind"] == "urls" and SourceJournal.has_refused(_journal_file(out, name))


def _journal_file(out: Path, name: str) -> Path:
    return out / WORK_FOLDER / f"{name}.jsonl"


def _check_earlier_recipe(out: Path, wanted: dict[str, Any], update: bool, afresh: bool) -> None:
    """Raise OutputError for a change to a finished dataset without `update`, or one that would move its images."""
    earlier = dataset_files.read_recipe(out)
    if earlier is None or earlier == wanted or afresh:
        return
    changed = sorted(name for name, state in wanted["states"].items() if earlier.get("states", {}).get(name) != state)
    if not update and earlier.get("recipe") == wanted["recipe"] and changed:
        raise OutputError(f"{out}: {changed[0]} has changed since.", "Include the changes with update=true")
    if not update:
        choices = "Update it with update=true, or choose another out=DIR"
        raise OutputError(f"{out} is a data set built from another recipe.", choices)
    before, now = earlier.get("recipe", {}), wanted["recipe"]
    known = set(before.get("sources", {}))
    plans = ({key: plan.get(key) for key in PLAN_FIELDS} for plan in (before.get("plan", {}), now["plan"]))
    blind = (sorted(known & set(recipe.get("blind", ()))) for recipe in (before, now))
    for option, (former, now) in (("split", plans), ("blind", blind)):
        if former != now:
            stated = (
                ", ".join(f"{key}={value}" for key, value in former.items()) if isinstance(former, dict) else former
            )
            reason = f"update=true moves no image to another side, so {option} must stay unchanged: {stated}."
            raise OutputError(f"{out}: {reason}", "Choose a new folder: out=DIR")
    if not (out / SIDES_FILE).is_file():
        reason = f"{out} lacks {SIDES_FILE}, which records the side of each image."
        raise OutputError(reason, "Choose a new folder: out=DIR")


def _assemble(
    out: Path, recipe: DatasetRecipe, states: Mapping[str, str], earlier: Sides, update: bool, allow_removed: bool
) -> tuple[CurationResult, int]:
    """Read the sources that are not stored yet; return the selected images, and how many sources have lost."""
    remove_parts(out / "images")
    download_packages([open_reader(name, source) for name, source in recipe.sources.items()])
    journals = {name: _store_source(out, name, recipe, states[f"source.{name}"], update) for name in recipe.sources}
    stored = (row["path"] for journal in journals.values() for row in journal.rows if "path" in row)
    unwanted = list_unwanted((out / WORK_FOLDER).glob("*.jsonl"), out, set(stored))
    lost = sorted(filter(None, unwanted.values()))
    if len(lost) > MAX_REMOVED and not allow_removed:
        raise GuardError(
            f"{out}: {len(lost)} of its images are no longer in their sources, such as {lost[0]}.",
            "Nothing was removed. Restore the sources, or remove the images with allow=[removed]",
        )
    others = [_read_other_set(name, Path(path)) for name, path in recipe.against.items()]
    # the table is no variable here, so that its columns are forgotten as soon as they are not needed
    curated = curate(_tabulate(recipe, journals), recipe, lambda path: decode(out / path), others, earlier)
    refused = [(f"{name}: {file}", reason) for name in recipe.sources for file, reason in _list_refused(journals[name])]
    curated.refused = refused + curated.refused
    if curated.frame["blind"].all():
        why = "; ".join(reason for _, reason in curated.refused[:2]) or "every source is listed in blind."
        raise DataError("no image is left for training.", why)
    (out / RECIPE_FILE).unlink(missing_ok=True)  # from here on, the data set is unfinished
    delete_images(out, unwanted)
    for file in (out / WORK_FOLDER).glob("*.jsonl"):
        if file.stem not in recipe.sources:
            file.unlink()
    return curated, len(lost)


def _store_source(out: Path, name: str, recipe: DatasetRecipe, state: str, update: bool) -> SourceJournal:
    source = recipe.sources[name]
    text = json.dumps([RECIPE_VERSION, recipe.equalise, source, state], sort_keys=True, default=str)
    retry = update and _was_refused(out, name, source)
    journal = SourceJournal.open(_journal_file(out, name), sha256_of_bytes(text.encode()), out, retry)
    if journal.complete:
        return journal
    print_note(f"{name}: {source['label'] or 'several classes'}, {source['author']}; licence: {source['licence']}")
    store = out / WORK_FOLDER / "sources" / name
    store.mkdir(parents=True, exist_ok=True)
    refused: list[tuple[str, str]] = []
    job = SourceJob(name, source, store, {row["name"] for row in journal.rows}, refused)
    rows = _map_in_order(lambda image: store_image(image, name, source, recipe.equalise, out), read_images(job))
    for row in track(rows, name):
        journal.add(row)
    if not any("path" in row for row in journal.rows):
        why = "; ".join(f"{file}: {reason}" for file, reason in (refused + _list_refused(journal))[:2])
        raise DataError(f"source.{name} yielded no usable image.", why or "Check its options.")
    journal.close(refused)
    return journal


def _map_in_order(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 64) -> Iterator[Any]:
    """Apply a function in threads, a few items ahead of the consumer, and yield the results in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _list_refused(journal: SourceJournal) -> list[tuple[str, str]]:
    return sorted([*journal.refused, *((row["name"], row["reason"]) for row in journal.rows if "reason" in row)])


def _tabulate(recipe: DatasetRecipe, journals: Mapping[str, SourceJournal]) -> pd.DataFrame:
    """Return a table of the images of all sources, training ones first; raise ConfigError for unknown held-out ones."""
    parts = []
    for name in sorted(recipe.sources, key=lambda name: name in recipe.held_out_sources):
        rows = (_make_row(name, recipe.sources[name], row) for row in journals[name].rows if "path" in row)
        rows_of_source = []
        while several := list(islice(rows, _ROWS_PER_PART)):
            rows_of_source.append(pd.DataFrame(several))
        parts.append(pd.concat(rows_of_source).sort_values("origin", kind="stable"))
    table = pd.concat(parts, ignore_index=True).astype(dict.fromkeys(SHARED_COLUMNS, "category"))
    known = sorted(set(table["source"]) | set(recipe.sources))
    if unknown := sorted(set(recipe.held_out_sources) - set(known)):
        option = "blind" if unknown[0] in recipe.blind else "ood"
        reason = f"{option}: there is no source {unknown[0]!r}{suggest_names(unknown[0], known)}"
        raise ConfigError(reason, f"There are: {', '.join(known)}")
    return table


def _make_row(name: str, source: Source, row: Mapping[str, Any]) -> dict[str, Any]:
    stated = row.get("source", name)
    return {
        **{key: row[key] for key in ("path", "sha256", "origin_sha256", "pixels", "width", "height")},
        "phashes": " ".join(row["phashes"]),
        **{key: row[key] for key in ("format", "jpeg_quality")},
        **{key: row.get(key) or source[key] for key in ("label", "licence", "author", "generator")},
        "source": stated,
        "recipe_source": name,
        "group": row.get("shared_group") or f"{stated}:{row.get('group') or row['name']}",
        **{key: row.get(key, "") for key in ("split", "date", "released", "date_from", "odd_date")},
        "url": row.get("url") or source["homepage"],
        "origin": row["name"],
    }


def _describe_dates(frame: pd.DataFrame) -> Iterator[str]:
    """Describe for how many images dates are known, and from where."""
    counts = frame["date_from"].value_counts()
    places = {"table": "a table", "EXIF": "EXIF", "XMP": "XMP", "source": "the source's yaml"}
    listed = ", ".join(f"{places[name]} {counts[name]}" for name in places if name in counts)
    yield f"dates: {int((frame['date'] != '').sum())} of {len(frame)} images have one{f' ({listed})' * bool(listed)}"
    if odd := int((frame["odd_date"] != "").sum()):
        yield f"dates in EXIF or XMP that cannot be those of the images, and are not taken: {odd}"
    if released := int((frame["released"] != "").sum()):
        yield f"release of the generator: known of {format_count(released, 'image')}"


def _read_other_set(name: str, path: Path) -> OtherSet:
    dataset = read_dataset(path, name)
    prints = fingerprint_files(list_files(dataset))
    rows = [row for row, fingerprint in enumerate(prints) if not isinstance(fingerprint, DataError)]
    frame, fingerprints = dataset.frame.iloc[rows], cast("list[Fingerprint]", [prints[row] for row in rows])
    images = ImageSet.of(frame["sha256"], fingerprints, lambda row: dataset.image(rows[row]))
    return OtherSet(name, frame["path"].tolist(), frame["label"].tolist(), images)


def _print_notes(curated: CurationResult) -> None:
    for note in [*curated.notes, *_describe_dates(curated.frame)]:
        print_note(note)
    table = curated.frame[~curated.frame["blind"]]
    counts = pd.crosstab(table["label"], table["split"])
    for label, row in counts.iterrows():
        print_note(f"  {label}: {', '.join(f'{split} {n}' for split, n in row.items())}")
