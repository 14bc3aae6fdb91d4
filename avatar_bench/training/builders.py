"""Builders of optimizers, schedules, loggers and callbacks: entries, built in or of users, with their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from avatar_bench.config.entries import Entry, find_entries, find_entry
from avatar_bench.config.options import name_options
from avatar_bench.errors import ConfigError

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


_PLACES = {"schedule": "optimizer.schedule"}  # where an entry is chosen, if not by its kind


class OptimizerBuilder(Protocol):
    """Options of an optimizer."""

    def build(self, groups: list[dict[str, Any]], lr: float, weight_decay: float, fused: bool) -> Optimizer:
        """Build the optimizer; a group may have an `lr` or `weight_decay` of its own.

        `fused` is whether the implementation may be the fused one, where there is one.
        """


class ScheduleBuilder(Protocol):
    """Options of a learning-rate schedule."""

    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler | None:
        """Build the schedule of a stage; None for a constant rate.

        A ReduceLROnPlateau is stepped after each validation with its loss, in pretraining after each epoch with the
        training loss, any other after each step of the optimizer.
        """


class LoggerBuilder(Protocol):
    """Options of an experiment logger."""

    def build(self, folder: Path, run_name: str) -> Logger | None:
        """Build the logger of a run folder; None for none."""


class CallbackBuilder(Protocol):
    """Options of a callback."""

    def build(self) -> Callback:
        """Build the callback of one stage."""


def load_builder(kind: str, given: Mapping[str, Any]) -> Any:
    """Load the builder that options such as those of conf/optimizer choose; raise ConfigError if it is invalid.

    Its own options are in `given["options"]`; those of built-in builders may also stand beside it. A builder that has a
    `base` wraps another one, which gets the options.
    """
    entry, place = find_entry(kind, given["name"]), _PLACES.get(kind, kind)
    known = {each.name for each in fields(entry.load_class())} if entry.is_builtin else set()
    options = {name: value for name, value in given.items() if name in known and value is not None}
    if "base" in options:
        base = load_builder(kind, {**given, "name": options["base"]})
        return _build_entry(entry, options | {"base": base}, place)
    return _build_entry(entry, options | given["options"], f"{place}.options")


def load_optimization(given: Mapping[str, Any]) -> dict[str, Any]:
    """Load the fields of TrainingOptions that the options of conf/optimizer choose."""
    kept = {name: given[name] for name in ("weight_decay", "layer_decay", "decay_norms")}
    return kept | {
        "optimizer": load_builder("optimizer", given),
        "schedule": load_builder("schedule", given["schedule"]),
    }


def load_callbacks(given: Mapping[str, Any]) -> Iterator[CallbackBuilder]:
    """Yield the builders of the callbacks that options of conf/callbacks choose.

    The option of a built-in callback has the callback's name; those of users are in `others`, {name: options}.
    """
    for name, entry in find_entries("callback").items():
        if entry.is_builtin and given.get(name) is not None:
            (only,) = fields(entry.load_class())
            yield entry.build({only.name: given[name]})
    for name, options in given["others"].items():
        entry = find_entry("callback", name, f"callbacks.others.{name}")
        if entry.is_builtin:
            raise ConfigError(f"callbacks.others.{name}: {name} is built in.", f"Use callbacks.{name}=VALUE.")
        yield _build_entry(entry, options, f"callbacks.others.{name}")


def build_from(builder: Any, expected: Any, *given: Any) -> Any:
    """Call the `build` of a builder; raise ConfigError if a user's raises, or does not return the expected type."""
    kind, name = name_options(type(builder)).split(".")
    entry = find_entry(kind, name)
    with entry.explain_failure():
        built = builder.build(*given)
    if not isinstance(built, expected):
        wanted = getattr(expected, "__name__", expected)
        raise ConfigError(f"{entry.module}: build() must return {wanted}, not {type(built).__name__}.")
    return built


def _build_entry(entry: Entry, options: Mapping[str, Any] | None, place: str) -> Any:
    """Build the builder of an entry; `place` is where its options are typed, which an error names."""
    try:
        builder = entry.build(options)
    except ConfigError as error:
        own = name_options(entry.load_class())
        if not error.lines[0].startswith(own):
            raise
        raise ConfigError(place + error.lines[0].removeprefix(own), *error.lines[1:]) from error
    if not callable(getattr(builder, "build", None)):
        raise ConfigError(f"{entry.module}: {type(builder).__name__} has no method build().")
    return builder
