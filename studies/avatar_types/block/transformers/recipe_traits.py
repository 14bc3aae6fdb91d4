"""Traits of a recipe: its network, initial weights, optimizer and training settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from avatar_bench.evaluation.starting_weights import SCRATCH, UNKNOWN, StartingWeights, read_starting_weights
from avatar_bench.models.inspection import inspect_network

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

SAM, SAM_AT_COST, START, FAMILY = "sam", "sam at equal cost", "start", "family"  # traits that a pair may differ in
_STAGE_SETTINGS = {"unfreeze": "unfreeze", "epochs": "epochs", "learning_rate": "lr"}
# pairs may differ in these: seeds are resampled, and the device does not affect accuracy
_IGNORED_SETTINGS = ("seeds", "device")


@dataclass(frozen=True)
class Traits:
    """Traits of a recipe.

    `sam` describes the settings of sharpness-aware minimisation, "" without it; `settings` are all others by name, as
    text, of all its runs. `seconds` of training and `passes` per step are means over the runs, None if not known.
    """

    architecture: str
    family: str
    params: int
    macs: int
    start: StartingWeights
    sam: str
    settings: Mapping[str, str]
    seconds: float | None
    passes: float | None
    hosts: frozenset[str]
    epochs: tuple[int, ...] = ()

    def changed(self, other: Traits) -> list[str]:
        """List what differs from another recipe besides the settings: SAM, START, FAMILY.

        Two architectures never share weights: there, weights trained on the same data and labels count as equal.
        """
        same = self.architecture == other.architecture
        starts = self.start == other.start if same else _are_comparable(self.start, other.start)
        return [name for name, equal in ((SAM, self.sam == other.sam), (START, starts), (FAMILY, same)) if not equal]

    @property
    def cost(self) -> list[float]:
        """Return the passes over the training images, stage by stage; empty if they are not known.

        Also empty with early stopping, which makes the epochs an upper limit.
        """
        if not self.passes or self.settings["early_stopping"] != _format_value(None):
            return []
        return [epochs * self.passes for epochs in self.epochs]


class RecipePair(NamedTuple):
    """Two recipes by position, and the one trait in which they differ."""

    a: int
    b: int
    changed: str


def read_traits(runs: Sequence[Run]) -> Traits:
    """Read the traits of a recipe from its runs' records and first network; raise BlockError if there is none."""
    first = runs[0]
    net = first.predictor.module.net
    size = first.preprocessing.size
    network = inspect_network(net, size)
    first.predictor.unload()
    own = [_read_settings(run) for run in runs]
    settings = {name: "; ".join(sorted({str(each[name]) for each in own})) for name in own[0]}
    settings["seeds"] = ", ".join(str(seed) for seed in sorted(run.seed for run in runs))
    # options that change the shape of the network, which stands without its weights' tag
    shape = [f"{name}={value}" for name, value in sorted(_read_options(first).items()) if not _is_regularisation(name)]
    optimizer = first.config.get("optimizer") or {}
    is_sam = optimizer.get("rho") is not None
    return Traits(
        " ".join([first.card.backbone.partition(".")[0], *shape]),
        network.traits["family"],
        int(network.layers["params"].sum()),
        int(network.layers["macs"].sum()),
        read_starting_weights(first),
        f"rho {optimizer.get('rho')}{' adaptive' * bool(optimizer.get('adaptive'))}" if is_sam else "",
        settings,
        _average([run.record.train_seconds for run in runs]),
        _average([run.record.passes_per_step for run in runs]),
        frozenset(str(run.record.process.get("host", UNKNOWN)) for run in runs),
        tuple(int(stage["epochs"]) for stage in first.record.stages or () if "epochs" in stage),
    )


def find_pairs(found: Sequence[Traits]) -> list[RecipePair]:
    """Find all pairs of recipes that differ in exactly one trait: SAM, initial weights, or the family of the network.

    In each pair, a has SAM, starts from weights, or is less convolutional. Recipes with unknown settings form no pairs.
    Recipes with and without SAM may also differ in epochs if they make equally many passes: SAM_AT_COST.
    """
    pairs = []
    for j, second in enumerate(found):
        for i, first in enumerate(found[:j]):
            changed = first.changed(second)
            if len(changed) != 1 or not (what := _find_comparison(changed[0], first, second)):
                continue
            ranks = [_rank_recipe(each, changed[0]) for each in (first, second)]
            if what == START or ranks[0] != ranks[1]:
                pairs.append(RecipePair(*((i, j) if ranks[0] >= ranks[1] else (j, i)), what))
    return sorted(pairs, key=lambda pair: (SAM, SAM_AT_COST, START, FAMILY).index(pair.changed))


def find_crossed_pairs(found: Sequence[RecipePair]) -> list[tuple[RecipePair, RecipePair]]:
    """Find pairs of SAM pairs whose recipes, with and without SAM, form family pairs."""
    sam = [pair for pair in found if pair.changed == SAM]
    families = {(pair.a, pair.b) for pair in found if pair.changed == FAMILY}
    return [
        (one, other) for one in sam for other in sam if (one.a, other.a) in families and (one.b, other.b) in families
    ]


def tabulate_protocol(names: Sequence[str], found: Sequence[Traits]) -> pd.DataFrame:
    """Return one row per setting and value: whether the recipes differ in it, and which have this value."""
    rows = []
    for setting in found[0].settings:
        values = [each.settings[setting] for each in found]
        for value in dict.fromkeys(values):
            own = [name for name, each in zip(names, values, strict=True) if each == value]
            rows.append((setting, value, len(set(values)) > 1, len(own), ", ".join(own)))
    return pd.DataFrame(rows, columns=["setting", "value", "differs", "recipes", "names"])


def _are_comparable(one: StartingWeights, other: StartingWeights) -> bool:
    """Return whether weights of two architectures were trained on the same data and labels, as far as known."""
    both_known = UNKNOWN not in (one.trained, other.trained)
    return one.kind == other.kind and (one.trained == other.trained or not both_known)


def _find_comparison(changed: str, first: Traits, second: Traits) -> str:
    """Return the trait that a pair compares; "" if its settings are unknown or differ otherwise."""
    settings, other = first.settings, second.settings
    differing = {name for name in settings if settings[name] != other[name]} - set(_IGNORED_SETTINGS)
    if UNKNOWN in (settings["data_fingerprint"], settings["epochs"]):
        return ""
    at_cost = changed == SAM and first.cost == second.cost != [] and differing == {"epochs"}
    return SAM_AT_COST if at_cost else "" if differing else changed


def _rank_recipe(each: Traits, changed: str) -> int:
    if changed == FAMILY:
        return ("convolutional", "other", "hybrid", "transformer").index(each.family)
    return int(bool(each.sam)) if changed == SAM else int(each.start.kind != SCRATCH)


def _read_options(run: Run) -> dict[str, Any]:
    return dict((run.config.get("model") or {}).get("options") or {})


def _is_regularisation(option: str) -> bool:
    """Return whether an option only drops parts of the network at random in training, leaving its shape unchanged."""
    return option.endswith("_rate") or option == "attn_drop"


def _read_settings(run: Run) -> dict[str, str]:
    """Return each setting of a run as text; UNKNOWN if it is not recorded."""
    record, config = run.record, run.config
    data, optimizer = config.get("data") or {}, config.get("optimizer") or {}
    split, stages = record.split, record.stages or []
    trainer, callbacks = config.get("trainer") or {}, config.get("callbacks") or {}
    others = dict(callbacks.get("others") or {})
    # the parts that are on, so that a part added in a later version makes no difference
    parts = (data.get("augment") or {}).items()
    active = {name: each for name, each in parts if (any(each) if isinstance(each, list) else each)}
    collected: dict[str, Any] = {
        "data_fingerprint": record.data.get("fingerprint", UNKNOWN),
        "split_fingerprint": split.get("fingerprint", UNKNOWN),
        "train_images": (split.get("counts") or {}).get("train", UNKNOWN),
        "mode": record.mode or UNKNOWN,
        **{name: [stage.get(key) for stage in stages] or UNKNOWN for name, key in _STAGE_SETTINGS.items()},
        "shots": (config.get("mode") or {}).get("shots"),
        "balance": record.balance or UNKNOWN,
        **{name: data.get(name, UNKNOWN) for name in ("image_size", "resize", "equalise")},
        "batch_size": record.batch_size or data.get("batch_size", UNKNOWN),
        "augmentation": (active or None) if data.get("augment") else UNKNOWN,
        "views": data.get("augmented_copies", data.get("views")),  # by the name of earlier versions
        "label_smoothing": config.get("label_smoothing", UNKNOWN),
        "optimizer": optimizer.get("_target_") or optimizer.get("name") or UNKNOWN,
        **{name: optimizer.get(name) for name in ("weight_decay", "layer_decay", "decay_norms")},
        "optimizer_options": optimizer.get("options") or None,
        "schedule": config.get("schedule") or None,
        **{name: trainer.get(name) for name in ("gradient_clip", "accumulate", "devices", "limit_batches")},
        "regularisation": {k: v for k, v in sorted(_read_options(run).items()) if _is_regularisation(k)} or None,
        **{name: others.pop(name, None) for name in ("early_stopping", "ema", "swa")},
        "other_callbacks": others or None,
        "init_from": "yes" if config.get("init_from") else None,
        "device": record.device or UNKNOWN,
    }
    return {name: _format_value(value) for name, value in collected.items()}


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_format_value(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return (
            json.dumps(value) if any(isinstance(each, list) for each in value) else ", ".join(map(_format_value, value))
        )
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _average(values: Sequence[Any]) -> float | None:
    return sum(values) / len(values) if values and all(isinstance(value, int | float) for value in values) else None
