"""Builders of optimizers, schedules, loggers and callbacks: entries, built in or of users, with their options."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from avatar_bench.config.entries import Entry, find_entries, find_entry, is_of_user
from avatar_bench.errors import AvatarBenchError, ConfigError

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


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

        A ReduceLROnPlateau is stepped after each validation with its loss, any other after each step of the optimizer.
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
    entry = find_entry(kind, given["name"])
    known = {each.name for each in fields(entry.load_class())} if entry.is_builtin else set()
    options = {name: value for name, value in given.items() if name in known and value is not None}
    if "base" in options:
        return entry.build(options | {"base": load_builder(kind, {**given, "name": options["base"]})})
    return _build_entry(entry, options | given["options"])


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
        yield _build_entry(entry, options or {})


def build_from(builder: Any, expected: Any, *given: Any) -> Any:
    """Call the `build` of a builder; raise ConfigError if a user's raises, or does not return the expected type."""
    try:
        built = builder.build(*given)
    except Exception as error:  # a user's builder may raise anything
        if isinstance(error, AvatarBenchError) or not is_of_user(type(builder).__module__):
            raise
        raise ConfigError(f"{_locate(builder)}: build() raised {type(error).__name__}: {error}") from error
    if not isinstance(built, expected):
        wanted = getattr(expected, "__name__", expected)
        raise ConfigError(f"{_locate(builder)}: build() must return {wanted}, not {type(built).__name__}.")
    return built


def _build_entry(entry: Entry, options: Mapping[str, Any]) -> Any:
    builder = entry.build(options)
    if not callable(getattr(builder, "build", None)):
        raise ConfigError(f"{entry.module}: {type(builder).__name__} has no method build().")
    return builder


def _locate(builder: Any) -> str:
    return str(sys.modules[type(builder).__module__].__file__)
