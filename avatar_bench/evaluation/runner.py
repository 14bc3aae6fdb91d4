"""Runs blocks on Runs or on a data set alone; an up-to-date Result is reused."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import avatar_bench
from avatar_bench.config.entries import find_entry
from avatar_bench.console.terminal import format_names
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, hash_files
from avatar_bench.data.image_slices import assign_slices
from avatar_bench.errors import AvatarBenchError, BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import Block, DatasetBlock, RunBlock, SidesBlock, compares, hash_user_code
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.files.output_folder import refuse_outward_links
from avatar_bench.files.paths import make_folder_name
from avatar_bench.metrics.units import NEW_SOURCES, SOURCE
from avatar_bench.models.model_card import has_outside_labels
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import METRICS_FILE, MetricsFile, Result
from avatar_bench.results.view import View
from avatar_bench.runs import run_images
from avatar_bench.runs.run_images import find_further_sets, list_origins, warn_of_unknown_training

if TYPE_CHECKING:
    from avatar_bench.commands.evaluate import EvaluateConfig, WhereConfig
    from avatar_bench.runs.run import Run


class BlockRunner:
    """Runner of blocks on Runs, each with its Dataset, or on a Dataset alone.

    Results go to `folder`/<set>/<block>/, in a `view` to `folder`/<set>--<view>/<block>/. Raise ConfigError if that
    folder holds results of other images under the same name, which would be overwritten, or read as results of these.
    """

    def __init__(
        self,
        settings: EvaluateConfig,
        runs: Sequence[Run],
        datasets: Sequence[Dataset],
        folder: Path,
        view: View | None = None,
    ) -> None:
        refuse_outward_links(folder.parent, folder.name)
        self.settings = settings
        self.runs = runs
        self.datasets = datasets
        self.view = view or (runs[0].view if runs else View())
        self.folder = folder / self.view.name_set(make_folder_name(datasets[0].name))
        self.data_places = self._find_places()
        self._refuse_other_images()
        if settings.data.kind != "run":
            compared = (run_images.compare_images(dataset.whole, folder, settings.update) for dataset in datasets)
            self.datasets = [dataset.apply_view(self.view) for dataset in compared]

    def __call__(self, name: str, block: Block, saving: ResultWriter) -> Result:
        """Return the saved Result if nothing has changed; otherwise compute a new one and pass it to `saving`."""
        folder = self.folder / name
        if not find_entry("block", name).is_builtin or getattr(block, "reads_results", False):
            saving.finish()  # the block reads saved results
        origin = self._describe_inputs(name, block)
        result = None if self.settings.again else self._load_current(folder, origin)
        if result is not None:
            saving.add(result, folder, there=True)
            return result
        saving.begin()
        for run in self.runs:
            run.asked.clear()
        started, before = time.monotonic(), sum(run.predictor.seconds for run in self.runs)
        result = self._run_block(name, block)
        read = [*self.datasets, *(run.dataset(name) for run in self.runs for name in run.used)]
        changes = dict.fromkeys(change for dataset in read for change in dataset.changes)
        leakage = [*changes, *self._list_leakage(result)]
        result.warnings += leakage
        if left := (whole := len(self.datasets[0].whole)) - len(self.datasets[0]):
            result.warnings.append(Reason("left_out_of_view", n=left, all=whole, view=self.view.name))
        result.provenance |= origin | self._describe_sources(block)
        result.provenance |= {
            "leakage": [warning.plain for warning in leakage],
            "data_changed": [warning.plain for warning in leakage if warning.code == "data_changed"],
            "data_places": self.data_places,
            "evaluated": self._list_external_sets(),
            "view": self.view.name,
            "version": avatar_bench.__version__,
            "torch": metadata.version("torch"),
            "seconds": round(time.monotonic() - started, 3),
            "seconds_of_passes": round(sum(run.predictor.seconds for run in self.runs) - before, 3),
        }
        saving.add(result, folder)
        run_images.record_images(read)
        return result

    def _list_leakage(self, result: Result) -> list[Reason]:
        """Return the warnings that are always printed, however many others there are."""
        pairs = list(zip(self.runs, self.datasets, strict=False))  # a data set alone has no runs
        warnings = _warn_of_overlap(pairs)
        warnings += dict.fromkeys(warning for run in self.runs for warning in _warn_of_unchecked(run))
        warnings += dict.fromkeys(known for run, dataset in pairs for known in run.leakage.list_warnings(dataset.whole))
        for run, dataset in pairs:
            if missing := run.unanswered.get(dataset.name):
                warnings.append(Reason("missing_rows", run=run.label or run.short_name, n=missing))
        warnings += _warn_of_population(self.runs, self.datasets, result)
        undecided = [run for run in self.runs if "decisions" not in run.provides]
        return warnings + [Reason("no_threshold", run=run.label or run.short_name) for run in undecided]

    def _find_places(self) -> list[str]:
        """Find the place of each set: its folder, manifest or run."""
        data = self.settings.data
        paths: list[Path | str | None] = [data.manifest if data.kind == "manifest" else data.root]
        if data.kind == "run":
            paths = [find_further_sets(run).get(self.settings.split) or _locate(run) for run in self.runs]
        return sorted({os.path.realpath(path) for path in paths if path})

    def _refuse_other_images(self) -> None:
        ours = {dataset.fingerprint for dataset in self.datasets}
        for file in sorted(self.folder.glob(f"[!.]*/{METRICS_FILE}")):  # a leading dot: one that is being written
            prints, places = _read_images(file)
            there = [path for path in places if os.path.exists(path)]  # others were moved or deleted
            if there and prints and prints.isdisjoint(ours) and set(there).isdisjoint(self.data_places):
                option = "out=DIR" if self.settings.data.kind == "run" else "data.name=NAME"
                raise ConfigError(
                    f"{self.folder} already contains results for other images, from {format_names(there, 2)}.",
                    f"Choose another folder or name: {option}",
                    "Or delete that folder if you no longer need it.",
                )

    def _run_block(self, name: str, block: Block) -> Result:
        for need in getattr(block, "needs", ()):
            lacking = [run for run in self.runs if need not in run.provides]
            if lacking and (need == "decisions" or len(lacking) == len(self.runs)):
                raise BlockError(format_reason(Reason(f"lacks_{need}", run=lacking[0].label or lacking[0].name)))
        try:
            if compares(block, len(self.runs)):
                result = block.compare(self.runs, self.datasets)
            elif isinstance(block, DatasetBlock):
                result = block.audit(self.datasets[0])
                training = self.runs[0].images if self._is_external else None
                if isinstance(block, SidesBlock) and training is not None:
                    block.compare_sides(result, training, self.datasets[0], self.runs[0].units)
            else:
                assert isinstance(block, RunBlock)
                result = block.evaluate(self.runs[0], self.datasets[0])
            if not isinstance(result, Result):
                raise TypeError(f"it returned {type(result).__name__}, not a Result")
            return result
        except AvatarBenchError:
            raise
        except Exception as error:
            if find_entry("block", name).is_builtin:
                raise
            reason = f"block={name}: {inspect.getfile(type(block))} failed: {type(error).__name__}: {error}"
            raise ConfigError(reason, "This is a user block; AVATAR_BENCH_DEBUG=1 shows the traceback.") from error

    def _describe_inputs(self, name: str, block: Block) -> dict[str, Any]:
        """Return everything that a Result depends on, as plain values; the location of a run is not part of it."""
        settings = self.settings
        inputs = {
            "split": settings.split if settings.data.kind == "run" else "all",
            "where": asdict(settings.where),
            "allow": sorted(settings.allow),
            "accelerator": settings.accelerator,
            "threads": settings.threads,
            "options": json.loads(json.dumps(asdict(block))),  # type: ignore[call-overload]
            "block_version": block.version,
        }
        if self.view.classes:
            inputs |= {"view": self.view.name, "view_classes": {k: list(v) for k, v in self.view.classes.items()}}
        if (code := hash_user_code(name, block)) is not None:
            inputs["code"] = code  # a user may forget to raise the version
        if getattr(block, "unit", "") == SOURCE and self.runs:
            inputs["source_calibration_sha256"] = getattr(self.runs[0].source_calibration, "sha256", None)
        parts = [{"data_fingerprint": dataset.fingerprint, "data_digest": dataset.digest} for dataset in self.datasets]
        if compares(block, len(self.runs)):
            named = [{"label": run.label, "recipe": run.recipe} | _collect_provenance(run) for run in self.runs]
            return inputs | {"compared": [run | part for run, part in zip(named, parts, strict=True)]}
        if isinstance(block, DatasetBlock):
            run = next(iter(self.runs), None)
            inputs["equalise"] = run.card.preprocessing.get("equalise") if run else settings.data.equalise
            if mask := run and run.card.preprocessing.get("mask"):
                inputs["mask"] = {name: mask[name] for name in ("corners", "table")}
        return inputs | parts[0] | (_collect_provenance(self.runs[0]) if self.runs else {})

    def _describe_sources(self, block: Block) -> dict[str, Any]:
        """Return the inputs of a Result that are known only after it is computed."""
        if not compares(block, len(self.runs)):
            run = next(iter(self.runs), None)
            return {"run": _locate(run), "sets": run.used} if run else {"sets": {}}
        sources: dict[str, Any] = {"runs": [_locate(run) for run in self.runs], "sets": [run.used for run in self.runs]}
        return sources | ({"read": self._list_digests()} if getattr(block, "reads_results", False) else {})

    def _list_external_sets(self) -> dict[str, str]:
        """Return the names, by fingerprint, of the external sets that the block has asked predictions of."""
        fingerprints = {dataset.whole.fingerprint for dataset in self.datasets} if self._is_external else set()
        names = {digest: name for run in self.runs for digest, name in run.asked.items()}
        return {digest: name for digest, name in names.items() if digest in fingerprints or name == "blind"}

    @property
    def _is_external(self) -> bool:
        is_own = self.settings.data.kind == "run" and self.settings.split in DATASET_SPLITS
        return bool(self.runs) and not is_own

    def _list_digests(self) -> list[dict[str, str]]:
        return [run.hash_results(dataset.name) for run, dataset in zip(self.runs, self.datasets, strict=True)]

    def _load_current(self, folder: Path, origin: dict[str, Any]) -> Result | None:
        result = Result.load_if_complete(folder)
        if result is None or not origin.items() <= result.provenance.items():
            return None
        if result.provenance.get("calibration_sha256") != origin.get("calibration_sha256"):
            return None  # computed with a calibration that is no longer there
        if self.settings.data.kind != "run" and result.provenance.get("data_places") != self.data_places:
            return None  # computed again, since it records where its images are
        if "read" in result.provenance and result.provenance["read"] != self._list_digests():
            return None
        sets = result.provenance.get("sets", {})
        used = list(zip(self.runs, sets if isinstance(sets, list) else [sets], strict=False))
        if not all(isinstance(set_names, dict) for __, set_names in used):
            return None
        try:
            now = [{name: run.dataset(name).digest for name in set_names} for run, set_names in used]
        except AvatarBenchError:  # a set is missing: the block raises this error if it needs the set
            return None
        return result if now == [set_names for __, set_names in used] else None


def _warn_of_overlap(pairs: Sequence[tuple[Run, Dataset]]) -> list[Reason]:
    """Return warnings with the numbers of images that pretraining or the choice of the epoch used, by run if needed."""
    labels: dict[Reason, list[str]] = {}
    for run, dataset in pairs:
        counts = {
            "overlap_with_pretraining": run.leakage.count_pretraining_overlap(dataset),
            "overlap_with_val": run.leakage.count_val_overlap(dataset),
        }
        for code, seen in counts.items():
            if seen:
                labels.setdefault(Reason(code, n=seen, all=len(dataset)), []).append(run.label)
    return [
        warning if len(names) == len(pairs) else Reason("of_runs", runs=names, reason=warning)
        for warning, names in labels.items()
    ]


def _warn_of_population(runs: Sequence[Run], datasets: Sequence[Dataset], result: Result) -> list[Reason]:
    """Return warnings about sources that are unknown, seen in training, or the only one of their class."""
    if not runs or not any(metric.population for metric in result.metrics.values()):
        return []
    origins, labels = list_origins(runs[0], datasets[0]), datasets[0].frame["label"]
    known = origins[origins != ""]
    if known.empty:
        return [Reason("sources_unknown")]
    single_source = {metric.reason.code for metric in result.metrics.values() if metric.reason} & {"one_source"}
    if not single_source and all(metric.population != NEW_SOURCES for metric in result.metrics.values()):
        return []
    seen = known[known.isin(frozenset().union(*(run.seen_origins for run in runs)))]
    of_class = origins.groupby(labels).nunique()
    single = of_class.index[(of_class == 1) & (of_class.index != "")].tolist()
    warnings = [Reason("one_source_of", names=single)] if single else []
    if len(seen):
        names = sorted(set(seen))
        warnings.append(Reason("sources_seen", n=len(seen), all=len(datasets[0]), names=format_names(names, 5)))
    return warnings


def _warn_of_unchecked(run: Run) -> list[Reason]:
    """Return warnings about overlap with training images that cannot be checked."""
    if members := getattr(run, "members", ()):
        return list(dict.fromkeys(warning for member in members for warning in _warn_of_unchecked(member)))
    if unknown := warn_of_unknown_training(run):
        return [unknown]
    reasons = []
    gone = len(run.pretraining) - len(run.pretraining.available) if run.pretraining is not None else 0
    if gone and "near_duplicates" not in run.allow:  # their near-duplicates cannot be found
        reasons.append(Reason("pretraining_images_missing", n=gone))
    if has_outside_labels(run.ancestors, run.card.split_fingerprint, run.card.data_fingerprint):
        reasons.append(Reason("pretrained_elsewhere"))
    if run.pretraining is None and any("images" in step for step in run.ancestors):
        reasons.append(Reason("pretraining_images_unknown"))
    return reasons


def select_slice(dataset: Dataset, where: WhereConfig) -> Dataset:
    """Return the images of a dataset that are in all slices of `where`; raise ConfigError if there are none."""
    wanted = {key: value for key, value in asdict(where).items() if value is not None}
    if not wanted:
        return dataset
    table = assign_slices(dataset)
    for key, value in wanted.items():
        if value not in set(table[key]):
            there = ", ".join(sorted(set(table[key]) - {""})) or "no known value"
            raise ConfigError(f"where.{key}={value}: no such image in {dataset.name}.", f"Available: {there}.")
    keep = np.logical_and.reduce([table[key] == value for key, value in wanted.items()])
    if not keep.any():
        raise ConfigError(f"where: no image of {dataset.name} matches all conditions.")
    return dataset.take(keep, " ".join([dataset.name, *(f"{key}={value}" for key, value in wanted.items())]))


def check_preprocessing(run: Run, settings: EvaluateConfig) -> None:
    """Raise GuardError if images would be preprocessed differently from those that the network was trained on."""
    preprocessing, mask = run.card.preprocessing, settings.data.mask
    known = preprocessing.get("mask") or {}
    options = {"image_size": "size", "resize": "resize", "equalise": "equalise"}
    compared = [(name, getattr(settings.data, name), preprocessing.get(key)) for name, key in options.items()]
    compared.append(("mask.corners", mask.corners, known.get("corners")))
    compared.append(("mask.patches", mask.patches and hash_files([Path(mask.patches)])[0], known.get("table") or None))
    for option, value, trained in compared:
        if value is not None and value != trained:
            raise GuardError(
                f"`data.{option}={value}` conflicts with the checkpoint (trained with `{trained}`).",
                "Remove the option or retrain.",
            )


def _read_images(file: Path) -> tuple[set[str], list[str]]:
    """Read the fingerprints and places of a Result's images; empty if the file is damaged or lacks them."""
    try:
        origin = MetricsFile.read(file.parent).provenance
        prints = {part["data_fingerprint"] for part in origin.get("compared", [origin])}
        return prints, [os.fspath(path) for path in origin["data_places"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set(), []


def _locate(run: Run) -> str:
    return str(run.folder or run.checkpoint)


def _collect_provenance(run: Run) -> dict[str, Any]:
    calibrated = {"calibration_sha256": run.calibration_sha256} if run.calibration_sha256 else {}
    return calibrated | {
        "checkpoint_sha256": run.checkpoint_sha256,
        "split_fingerprint": run.card.split_fingerprint,
        "seed": run.seed,
        "temperature": run.temperature,
        "others": dict(run.others),
        "overlap_checked": warn_of_unknown_training(run) is None and "overlap" not in run.allow,
    }
