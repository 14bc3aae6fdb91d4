"""Images of a run, of its training and of further sets, and the view of them and of its Predictions on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from avatar_bench.console.terminal import format_names
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, hash_present, read_dataset, read_images, read_split
from avatar_bench.data.loaders import encode_targets
from avatar_bench.data.splits import name_origins, refuse_changed_split
from avatar_bench.data.user_tables import read_user_table
from avatar_bench.errors import CheckpointError, ConfigError, DataError, GuardError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import find_table, read_table, write_table
from avatar_bench.metrics.units import encode
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.view import View, read_views
from avatar_bench.runs.record import IMPORTED, RECORD, RunRecord

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

PRETRAINING_LIST = "pretraining.csv"  # in a run folder: the images used to pretrain its initial weights
TRAINED_ON = "trained_on.csv"  # in the folder of a run made elsewhere: the images that it was trained on
_HALVES = {"calibration": "val"}
_OF_BYTES = ("phash", "turned_phashes", "width", "height", "format", "jpeg_quality")
_USES = {PRETRAINING_LIST: "used to pretrain the run's initial weights", TRAINED_ON: "that it was trained on"}


def read_own_images(folder: Path | None, record: RunRecord) -> Dataset | None:
    """Read every image that a run used, with its split; None for a checkpoint outside a run folder."""
    if folder is None or not find_table(folder / "split.csv").is_file():
        return None
    root = record.data.get("root")
    if not isinstance(root, str):
        raise CheckpointError(f"{folder / RECORD} has no data.root, the folder of the run's images.")
    images = read_split(folder / "split.csv", Path(root))
    refuse_changed_split(images, record.split.get("fingerprint"), folder / "split.csv")
    return images


def read_image_list(folder: Path | None, record: RunRecord, name: str) -> Dataset | None:
    """Read PRETRAINING_LIST or TRAINED_ON, whose files may be missing; None if no hash is recorded.

    Raise CheckpointError if the list is missing or has changed.
    """
    stated = (record.init if name == PRETRAINING_LIST else record.trained_on) or {}
    if folder is None or "images_sha256" not in stated:
        return None
    file = folder / name
    if not file.is_file() or sha256_of_file(file) != stated["images_sha256"]:
        raise CheckpointError(
            f"{file}, the list of images {_USES[name]}, is missing or has changed.",
            "Restore it: without it, overlap with these images cannot be checked.",
        )
    return read_split(file, Path(str(stated.get("root"))))


def find_further_sets(run: Run) -> dict[str, str]:
    """Return the folders or manifests of sets besides the run's own: of its training, and those given when opened."""
    data = run.record.data
    recorded = {**(data.get("ood") or {}), "blind": data.get("blind")}
    return {**{name: path for name, path in recorded.items() if isinstance(path, str) and path}, **run.others}


def read_set(run: Run, name: str) -> Dataset:
    """Read a set of a run by name, without its view, see `Run.dataset`."""
    further = find_further_sets(run)
    if run.images is None and name not in further:
        raise ConfigError(
            f"split={name}: {run.checkpoint} has no folder of its training, so its own data are unknown.",
            "Choose the data to evaluate on: data=folder data.root=DIR, or data=manifest data.manifest=FILE",
        )
    if name in DATASET_SPLITS:
        assert run.images is not None
        part = run.images.select_split(name)
        if not len(part):
            counts = ", ".join(f"{n} of {of}" for of, n in run.images.frame["split"].value_counts().items())
            raise DataError(
                f"{run.name} has no {name} images; it has {counts}.",
                "Choose another set of the run: split=val, or other images: data=folder data.root=DIR",
            )
        return part
    if name not in further:
        known = ["test", "val", "calibration", *further]
        raise ConfigError(f"split={name}: the run has no such set.", f"Expected one of {', '.join(known)}.")
    path = Path(further[name])
    if not path.exists():
        option = "data.blind" if name == "blind" else f"data.ood.{name}"
        raise DataError(f"{option}: {path} does not exist.", "Expected a folder of images or a manifest.")
    if name == "blind":
        return read_dataset(path, name)
    flat = path.is_dir() and not any(child.is_dir() for child in path.iterdir())
    dataset = read_images(path, name) if flat else read_dataset(path, name)
    label = dataset.frame["label"]
    return replace(dataset, frame=dataset.frame.assign(label=label.where(label.isin(run.known_labels), "")))


def admit_changes(run: Run, dataset: Dataset) -> Dataset:
    """Return a set as it is now, if the run compares it with what was first recorded, see `compare_images`."""
    if run.update is None or run.results_folder is None:
        return dataset
    if dataset.name not in DATASET_SPLITS:
        return compare_images(dataset, run.results_folder, run.update)
    recorded, manifest = _tabulate(dataset), _read_manifest(run, dataset.root)
    now = recorded.assign(sha256=hash_present(dataset))
    if manifest is not None:
        stated = manifest.reindex(recorded["path"]).reset_index(drop=True)
        stated.loc[dataset.frame["stated_group"] == "", "group"] = None  # earlier versions kept none
        now.update(stated)
        now.loc[stated["label"].isna(), "sha256"] = ""
    return _apply_changes(dataset, recorded, now, "the run was trained", run.update)


def compare_images(dataset: Dataset, folder: Path, update: bool) -> Dataset:
    """Return a set as it is now, compared with the table in a folder of Results from when it was first evaluated.

    One without a path of that table is another of its name. Raise GuardError if it has changed, unless `update`.
    """
    file, stated = folder / f"{make_folder_name(dataset.name)}.csv", _tabulate(dataset).drop(columns="split")
    now = stated.assign(sha256=hash_present(dataset))
    recorded = now[:0]
    with suppress(OSError, ValueError, KeyError):
        recorded = read_table(file, texts=None)[list(now.columns)]
    if set(recorded["path"]).isdisjoint(now["path"]):
        recorded, dataset = stated, replace(dataset, unrecorded=(file, stated))
    return _apply_changes(dataset, recorded, now, "it was first evaluated", update)


def record_images(datasets: Sequence[Dataset]) -> None:
    """Write the tables of the sets that were evaluated for the first time, for `compare_images`."""
    for file, table in (dataset.unrecorded for dataset in datasets if dataset.unrecorded):
        with suppress(OSError):  # where it cannot be written, the next evaluation is the first
            file.parent.mkdir(parents=True, exist_ok=True)
            write_table(table, file)


def _tabulate(dataset: Dataset) -> pd.DataFrame:
    """Return what is compared of each image, with the group as it was stated, "" for none."""
    frame = dataset.frame[["path", "label", "source", "group", "sha256", "split"]].replace({"split": _HALVES})
    stated = dataset.frame.get("stated_group", frame["group"])
    return frame.assign(group=stated.where(stated != "", frame["group"]).str.replace("^sha256:.*", "", regex=True))


def _read_manifest(run: Run, root: Path) -> pd.DataFrame | None:
    """Return what the manifest of a run's images states now, by path; None if there is none, or none here."""
    while members := getattr(run, "members", ()):
        run = members[0]
    data, plan = run.config.get("data") or {}, run.record.split
    file = find_table(root / ("manifest.csv" if data.get("kind") == "demo" else Path(str(data.get("manifest"))).name))
    if not file.is_file():
        return None
    table = read_user_table(file, ("path", "label")).drop_duplicates("path").set_index("path")
    table = table.reindex(columns=["label", "source", "group", "split"])
    counts = (table["split"] != "") & (plan.get("by", "") is None is plan.get("val_by"))  # the run has taken it over
    return table.assign(label=table["label"].str.strip(), split=table["split"].replace(_HALVES).where(counts))


def _list_changes(recorded: pd.DataFrame, now: pd.DataFrame) -> dict[str, list[str]]:
    """Return the images that differ, by what differs."""
    columns, changes = list(recorded.columns[1:]), {}
    if sorted(recorded[columns].to_numpy().tolist()) == sorted(now[columns].to_numpy().tolist()):
        return {}  # perhaps in another place
    old, new = (frame.drop_duplicates("path").set_index("path") for frame in (recorded, now[now["sha256"] != ""]))
    both = old.index.intersection(new.index, sort=False)
    for name in columns:
        cells = [row for row in zip(both, old.loc[both, name], new.loc[both, name], strict=True) if row[1] != row[2]]
        changes[name] = [f"{path}: {'other bytes' if name == 'sha256' else f'{a} -> {b}'}" for path, a, b in cells]
    changes["gone"] = [f"{path}: gone" for path in old.index.difference(new.index)]
    changes["added"] = [f"{path}: added" for path in new.index.difference(old.index)]
    return {name: images for name, images in changes.items() if images}


def _apply_changes(dataset: Dataset, recorded: pd.DataFrame, now: pd.DataFrame, since: str, update: bool) -> Dataset:
    """Return a set with what its images are `now`, row by row, without those that are gone."""
    if not (changes := _list_changes(recorded, now)):
        return dataset
    counts = [Reason(f"changed_{name}", n=len(images)) for name, images in changes.items()]
    if not update or (now["sha256"] == "").all():
        raise GuardError(
            f"{dataset.name} has changed since {since}: {', '.join(map(format_reason, counts))}.",
            f"{format_names([image for images in changes.values() for image in images], 3)}, in {dataset.root}.",
            "Restore them, or compute with labels and images as they are now: update=true, counted in each result.",
        )
    is_other, group = now["sha256"] != dataset.frame["sha256"], dataset.frame["group"]
    is_regrouped = (now["group"] != _tabulate(dataset)["group"]) | (is_other & group.str.startswith("sha256:"))
    unknown = {name: dataset.frame[name].mask(is_other, "") for name in _OF_BYTES if name in dataset.frame}
    groups = group.mask(is_regrouped, now["group"].mask(now["group"] == "", "sha256:" + now["sha256"].str[:16]))
    frame = dataset.frame.assign(**unknown, **now[["label", "source", "sha256"]], group=groups)
    noted = (*dataset.changes, Reason("data_changed", set=dataset.name, changes=counts))
    changed = replace(dataset, frame=frame, changes=noted)
    return changed.take(now["sha256"] != "")


def select_answered(run: Run, dataset: Dataset) -> Dataset:
    """Return the images of a dataset that have predictions: all but those that a foreign detector lacks.

    Raise GuardError if some are missing, unless "missing_rows" is in `allow`; raise the errors of `Run.predictions`.
    """
    if run.predictor.computes_logits:
        return dataset
    run.leakage.refuse(dataset)
    answered = run.predictor.mark_answered(dataset)
    missing = int((~answered).sum())
    if not missing:
        return dataset
    if "missing_rows" not in run.allow or not answered.any():
        raise GuardError(
            f"{run.name} has no predictions of {missing} of {len(dataset)} images of {dataset.name}, first "
            f"{dataset.frame['path'].iat[int((~answered).argmax())]}.",
            "Add them, or set allow=[missing_rows]: these images are left out, and counted with every result.",
        )
    run.unanswered[dataset.name] = missing
    return dataset.take(answered)


def warn_of_unknown_training(run: Run) -> Reason | None:
    """Return a warning if the images used in training are unknown, so that overlap with them is not found."""
    if run.images is not None or run.trained_on is not None:
        return None
    if run.record.status == IMPORTED:
        return Reason("training_data_unknown", run=run.label or run.short_name)
    return Reason("training_images_unknown", file=run.checkpoint.name)


def list_seen_origins(run: Run) -> frozenset[str]:
    """Return the sources of all images that training, its selection and its calibration have used."""
    used = run.images or run.trained_on
    if used is None:
        return frozenset()
    return frozenset(list_origins(run, used.take(used.frame["split"] != "test"))) - {""}


def list_origins(run: Run, dataset: Dataset) -> pd.Series:
    """Return the source of each image, those of one publisher joined as in training; "" where it is unknown."""
    return name_origins(dataset.frame, run.units)


def set_view(runs: Sequence[Run], name: str | None, classes: Mapping[str, Any]) -> View:
    """Set the view of every run and return it: the named one, or the finest in which every run has the same classes.

    If there is none, every class is as it is. Raise ConfigError if a run cannot answer the view.
    """
    if name is not None:
        view = View.parse(name, classes)
        for run in runs:
            if view.assign(run.meanings) is None:
                raise ConfigError(_explain_unanswerable(run, view), _list_answerable(run))
    else:
        view, has_plain = View(), _can_answer(runs, View())
        if not has_plain or len({frozenset(run.known_labels) for run in runs}) > 1:
            views = [other for other in read_views().values() if other.classes and _can_answer(runs, other)]
            if not views and not has_plain:
                names = ", ".join(run.label or run.name for run in runs)
                raise ConfigError(
                    f"There is no view that {names} can answer.",
                    f"{runs[0].label or runs[0].name}: {_list_answerable(runs[0])}",
                    "Add one to view/ of your own folder: -cd DIR",
                )
            view = views[0] if views else view
    for run in runs:
        run.view = view
    return view


def refuse_fixed_answers(run: Run) -> None:
    """Raise ConfigError if a run cannot answer images that are changed."""
    if "pixels" not in run.predictor.provides:
        raise ConfigError(
            f"stability=true: {run.name} is a table of predictions, which has none of images that are changed.",
            "Remove stability=true.",
        )


def select_viewed(predictions: Predictions, dataset: Dataset) -> Predictions:
    """Return the Predictions of a data set in a view from those of the whole one, still with the network's classes."""
    return predictions.take(dataset.origin[1]) if dataset.origin else predictions


def apply_view(run: Run, computed: Sequence[Predictions], dataset: Dataset) -> list[Predictions]:
    """Return the Predictions of a data set, from those of the whole one, with the classes of the view.

    They state the origins of the images unless most are of sources that training has used.
    """
    viewed = [select_viewed(predictions, dataset) for predictions in computed]
    if dataset.origin or not run.keeps_classes:
        # of the view, whose classes may have the names of the run's
        targets = encode_targets(dataset, run.classes)
        if run.keeps_classes:
            viewed = [replace(predictions, targets=targets) for predictions in viewed]
        else:
            viewed = [predictions.merge(run.merged_classes, targets) for predictions in viewed]
    origins = list_origins(run, dataset)
    known = origins[origins != ""]
    if len(known) and known.isin(run.seen_origins).mean() < 0.5:
        viewed = [replace(predictions, origins=encode(origins)) for predictions in viewed]
    return viewed


def _can_answer(runs: Sequence[Run], view: View) -> bool:
    return all(view.assign(run.meanings) is not None for run in runs)


def _explain_unanswerable(run: Run, view: View) -> str:
    """Return why a run cannot answer a view: one of its classes stands for several of the view, or one is missing."""
    name = run.label or run.name
    for label, meaning in run.meanings.items():
        if len({view.find_class(stands_for) for stands_for in meaning}) > 1:
            return f"view={view.name}: {name} cannot answer it, since its class {label} is {' or '.join(meaning)}."
    known = {view.find_class(stands_for) for stands_for in run.known_labels}
    missing = next(label for label in view.classes if label not in known)
    return f"view={view.name}: {name} cannot answer it, since it does not know the class {missing}."


def _list_answerable(run: Run) -> str:
    names = [f"view={view.name}" for view in read_views().values() if _can_answer([run], view)]
    return f"It can answer {', '.join(names)}." if names else "It can answer no view."
