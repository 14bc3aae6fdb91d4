"""Protocols of evaluation blocks, a block by its name, and the predictions that blocks read and align."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.errors import BlockError, ConfigError, DataError, GuardError
from avatar_bench.metrics import accuracy_tests, classification
from avatar_bench.metrics.units import encode
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.results.result import Metric, Result
    from avatar_bench.runs.run import Run


@runtime_checkable
class RunBlock(Protocol):
    """Evaluation of one Run on one Dataset, a dataclass of its options that uses no files, paths or config.

    A result is computed again when the `version` of its block changes: raise it with the numbers. `needs` names what
    the run's predictor must have: "predictions", alone if `needs` is absent, "pixels" (predictions of changed images),
    "variations" (of those of robustness, which may be imported), "embeddings", "module" (the network itself),
    "own_classes" (those of the network, not merged by a view), or "decisions" (predicted classes, which a score without
    a threshold lacks). The block is left out, with the reason, where one is missing.
    """

    version: ClassVar[int]

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute the Result of this block; `run.predictions(dataset)` is cached, so repeated calls cost nothing.

        Raise BlockError where nothing can be computed, such as without a labelled image, and GuardError where numbers
        would mislead: class names in the wrong order, or images that were fitted on.
        """


@runtime_checkable
class CompareBlock(Protocol):
    """Comparison of several Runs, each on the Dataset at the same position; otherwise like a RunBlock.

    It is left out only if no run has what it needs or if one lacks decisions, and warns of the runs that it leaves out.
    A RunBlock may compare runs, too: its kind is run, and several runs have the comparison beside the results of each.
    With `reads_results`, it reads the saved results of the runs and is computed again when they change. With
    `takes_ensembles`, it runs last and also compares the saved ensembles of the runs. Both are false where absent.
    """

    version: ClassVar[int]

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the Result of this block; runs that differ only in seed have the same `recipe`."""


@runtime_checkable
class DatasetBlock(Protocol):
    """Evaluation of one Dataset without a network; otherwise like a RunBlock."""

    version: ClassVar[int]

    def audit(self, dataset: Dataset) -> Result:
        """Compute the Result of this block."""


@runtime_checkable
class SidesBlock(DatasetBlock, Protocol):
    """A DatasetBlock that also compares an external set with the training images of a run."""

    def compare_sides(
        self, result: Result, training: Dataset, external: Dataset, units: Mapping[str, Sequence[str]]
    ) -> None:
        """Add to the Result of the external set what both share; `units` joins sources of one publisher."""


Block = RunBlock | CompareBlock | DatasetBlock


def compares(block: Block, n: int) -> TypeGuard[CompareBlock]:
    """Return whether a block compares `n` runs; one that evaluates single runs, too, compares several only."""
    return isinstance(block, CompareBlock) and (n > 1 or not isinstance(block, RunBlock))


_PROTOCOLS = {"run": RunBlock, "comparison": CompareBlock, "dataset": DatasetBlock}


def build_block(name: str, options: Mapping[str, Any] | None = None) -> Block:
    """Build the block of this name with these options; raise ConfigError on an unknown name or invalid option."""
    block: Block = find_entry("block", name).build(options)
    kind = declare_block(name).kind
    if not isinstance(block, _PROTOCOLS[kind]):  # type: ignore[misc]
        method = next(word for word in vars(_PROTOCOLS[kind]) if word in ("evaluate", "compare", "audit"))
        raise ConfigError(
            f"block={name}: its about.yaml says kind: {kind}, so its dataclass needs a method {method} and a version."
        )
    return block


def hash_user_code(name: str, block: Block) -> str | None:
    """Return hex digits that change with a user's block, corruption or OOD score; None if it uses none of a user."""
    words = set(re.findall(r"\w+", str(vars(block))))
    others = [*find_entries("corruption").values(), *find_entries("ood_score").values()]
    used = [find_entry("block", name), *(entry for entry in others if entry.name in words)]
    return " ".join(entry.digest for entry in used if not entry.is_builtin) or None


def align_predictions(runs: Sequence[Run], datasets: Sequence[Dataset]) -> list[Predictions]:
    """Return each run's predictions on the common set: images of known class, in the same order.

    Classes are in the first run's order, matched by name. Raise BlockError if there are fewer than two runs, if they
    are evaluated on different images or have different classes, or if no class is known; raise GuardError if the class
    names of a run are in the wrong order.
    """
    if len(runs) < 2:
        labels = ", ".join(run.label for run in runs)
        raise BlockError(
            f"This block compares at least 2 runs, but got {labels or 'none'}.",
            "Pass several runs: 'ckpt=[RUN,RUN]', or ckpt=FOLDER that contains them.",
        )
    first = datasets[0]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.fingerprint != first.fingerprint:
            raise BlockError(
                f"{run.label} and {runs[0].label} are evaluated on different images of {dataset.name}.",
                "Use one set: split=blind, data=manifest data.manifest=FILE, or runs with the same data.split.seed.",
            )
    refuse_other_classes(runs)
    predictions = [run.predictions(dataset) for run, dataset in zip(runs, datasets, strict=True)]
    for run, answers in zip(runs, predictions, strict=True):
        check_class_order(answers, run.allow)
    reordered = [answers.reorder(runs[0].classes) for answers in predictions]
    rows = labelled_rows(reordered[0], first)
    return [_align_rows(answers, first, dataset, rows) for answers, dataset in zip(reordered, datasets, strict=True)]


def refuse_other_classes(runs: Sequence[Run]) -> None:
    """Raise BlockError if the runs have different classes."""
    first, *others = runs
    for run in others:
        if set(run.classes) != set(first.classes):
            theirs, ours = (", ".join(labelled.classes) for labelled in (run, first))
            reason = f"{run.label} has the classes {theirs}, {first.label} {ours}."
            raise BlockError(reason, "Compare runs with the same classes.")


def join_parts(*parts: Callable[[], Result]) -> Result:
    """Compute the parts of a Result, which has as many images as the first; one that is refused is left out.

    A warning gives the reason; raise the first BlockError if all are refused.
    """
    results, refused = [], []
    for compute in parts:
        try:
            results.append(compute())
        except BlockError as error:
            refused.append(error)
    if not results:
        raise refused[0]
    result, *others = results
    for other in others:
        for name in ("metrics", "tables", "arrays", "provenance"):
            setattr(result, name, getattr(result, name) | getattr(other, name))
        result.warnings += [warning for warning in other.warnings if warning not in result.warnings]
    result.warnings += [Reason("part_left_out", why=error.lines[0]) for error in refused]
    return result


def group_by_recipe(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Return the positions of the runs of each recipe (runs that differ only in seed), in order of appearance."""
    members: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        members.setdefault(run.recipe, []).append(position)
    return members


def tabulate_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return run (its label), kind ("run", "ensemble" or "soup") and recipe: what `RunStyles` needs of each run."""
    from avatar_bench.runs.ensembles import CombinedRun, WeightSoup  # torch: slow to import, and not needed to draw

    kinds = [
        "soup" if isinstance(run, WeightSoup) else "ensemble" if isinstance(run, CombinedRun) else "run" for run in runs
    ]
    return pd.DataFrame({"run": [run.label for run in runs], "kind": kinds, "recipe": [run.recipe for run in runs]})


class LabelledPredictions(NamedTuple):
    """Predictions of M images whose true class is known, their `rows` (M,) in the data set, and a warning of others."""

    rows: NDArray[np.intp]
    predictions: Predictions
    warnings: list[Reason]


def read_labelled(run: Run, dataset: Dataset) -> LabelledPredictions:
    """Return a run's predictions of labelled images; raise BlockError without any, GuardError in the wrong order."""
    predictions = run.predictions(dataset)
    rows = labelled_rows(predictions, dataset)
    check_class_order(predictions, run.allow)
    return LabelledPredictions(
        rows, predictions.take(rows), warn_unlabelled(len(predictions) - len(rows), len(predictions))
    )


def labelled_rows(predictions: Predictions, dataset: Dataset) -> NDArray[np.intp]:
    """Return the rows whose true class is known, (M,); raise BlockError if there are none."""
    rows = np.flatnonzero(predictions.targets >= 0)
    if len(rows) == 0:
        raise BlockError(f"{dataset.name}: no image has a known class, so nothing can be evaluated.")
    return rows


def warn_unlabelled(n: int, total: int) -> list[Reason]:
    """Return a warning about the `n` images without a known class; nothing if all have one."""
    return [Reason("unlabelled", n=n, all=total)] if n else []


def tabulate_predictions(predictions: Predictions, with_probabilities: bool = False) -> pd.DataFrame:
    """Return one row per image of known class: path, target, prediction, confidence, correct, source, group.

    Columns of the probability of each class, prob_<class>, come last if asked for.
    """
    names = np.array(predictions.classes)
    table = pd.DataFrame(
        {
            "path": predictions.paths,
            "target": names[predictions.targets],
            "prediction": names[predictions.predicted],
            "confidence": predictions.confidence,
            "correct": predictions.correct,
            "source": predictions.sources,
            "group": predictions.groups,
        }
    )
    if predictions.origins is not None and (predictions.origins != encode(predictions.sources)).any():
        table["origin"] = predictions.origins  # joins sources
    if not with_probabilities:
        return table
    return table.join(pd.DataFrame(predictions.probabilities, columns=[f"prob_{name}" for name in predictions.classes]))


def make_columns(name: str, metric: Metric, prefix: str = "") -> dict[str, float | None]:
    """Return columns of a table: the value of a metric by `name`, its interval as low and high after `prefix`."""
    return {name: metric.value, f"{prefix}low": metric.low, f"{prefix}high": metric.high}


def check_class_order(predictions: Predictions, allow: Collection[str] = ()) -> None:
    """Raise GuardError if another order of the class names explains the predictions significantly better.

    Images without a known class are ignored; "permutation" in `allow` skips the check. See
    `stats.find_class_permutation` for the test.
    """
    if "permutation" in allow:
        return
    known = predictions.targets >= 0
    targets, predicted, classes = predictions.targets[known], predictions.predicted[known], predictions.classes
    confusion = classification.confusion_matrix(targets, predicted, len(classes))
    order = accuracy_tests.find_class_permutation(confusion)
    if order is not None:
        total = confusion.sum()
        named, reordered = confusion.trace() / total, confusion[list(order), range(len(order))].sum() / total
        moved = [f"{classes[i]!r} is {classes[real]!r}" for i, real in enumerate(order) if i != real]
        raise GuardError(
            f"The class names are in the wrong order: accuracy is {named:.1%} as given, {reordered:.1%} reordered.",
            f"By the network's predictions, {', '.join(moved)}.",
            "Check the labels of this set and the class order of the checkpoint, or pass allow=[permutation].",
        )


def read_ood_sets(run: Run) -> dict[str, tuple[Dataset, Predictions]]:
    """Read every out-of-domain set with its Predictions, by name.

    Raise BlockError if a folder is missing or an image is broken, so that other blocks go on; raise GuardError like the
    run.
    """
    name, sets = "", {}
    try:
        for name, other in run.ood.items():
            sets[name] = other, run.predictions(other)
        return sets
    except (GuardError, BlockError):
        raise
    except DataError as error:
        which = f"The out-of-domain set {name}" if name else "An out-of-domain set"
        raise BlockError(
            f"{which} cannot be used: {error.lines[0]}",
            f"Repair it, or pass another folder: 'data.ood={{{name or 'NAME'}: FOLDER}}'",
        ) from error


def _align_rows(predictions: Predictions, first: Dataset, dataset: Dataset, rows: NDArray[np.intp]) -> Predictions:
    """Return the rows of the first dataset; images are matched by content, label and group, as in fingerprints."""
    frames = [side.frame for side in (first, dataset)]
    keys = [frame["sha256"] + "\n" + frame["label"] + "\n" + frame["group"] for frame in frames]
    wanted, there = (np.argsort(key.to_numpy(dtype=np.str_), kind="stable") for key in keys)
    positions = np.empty(len(first), dtype=np.intp)
    positions[wanted] = there
    return predictions.take(positions[rows])
