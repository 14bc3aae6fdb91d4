"""Options stated once, as fields of dataclasses with their help, choices and range, and the check of their values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from avatar_bench.errors import ConfigError

_KEY = "option"  # of the metadata of a field


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its type and default.

    `choices` are the allowed values; of a list, those of its elements. `range` is (lowest, highest), both allowed, None
    for no limit. `check` returns whether a value is valid; `expected` describes the values that it accepts.
    """

    help: str
    choices: Collection[Any] | Callable[[], Collection[Any]] = ()
    range: tuple[float | None, float | None] | None = None
    check: Callable[[Any], bool] | None = None
    expected: str = ""

    def list_choices(self) -> list[Any]:
        """Return the allowed values, an empty list for any."""
        return list(self.choices() if callable(self.choices) else self.choices)

    def find_fault(self, value: Any) -> str | None:
        """Return what was expected instead of a value, None if it is valid; None is valid where no check refuses it."""
        known, (low, high) = self.list_choices(), self.range or (None, None)
        given = value if isinstance(value, list | tuple) else [value]
        if known and value is not None and any(each not in known for each in given):
            words = self.expected if self.check is None else ""  # with a check, it is what the check expects
            return words or f"{'some' if isinstance(value, list | tuple) else 'one'} of {', '.join(map(str, known))}"
        outside = ((low is not None and each < low) or (high is not None and each > high) for each in given)
        if value is not None and any(outside):
            return self.expected or _describe_range(low, high)
        return self.expected if self.check is not None and not self.check(value) else None


def option(
    default: Any = MISSING,
    *,
    help: str,
    choices: Collection[Any] | Callable[[], Collection[Any]] = (),
    range: tuple[float | None, float | None] | None = None,
    check: Callable[[Any], bool] | None = None,
    expected: str = "",
) -> Any:
    """Return a dataclass field with everything that is known of an option.

    A list or dict default is copied, a function as default is called for each object.
    """
    known = {_KEY: Option(help, choices, range, check, expected)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=known)
    if callable(default):
        return field(default_factory=default, metadata=known)
    return field(default=default, metadata=known)


@dataclass(kw_only=True)
class Options:
    """Options whose values are checked when they are set: the base of the dataclass of an entry."""

    def __post_init__(self) -> None:
        for each, known in iterate_options(type(self)):
            value = getattr(self, each.name)
            try:
                expected = known.find_fault(value)
            except TypeError:
                expected = f"a value such as {get_default(each)}"
            if expected is not None:
                raise ConfigError(f"{name_options(type(self))}.{each.name}={value}: expected {expected}.")


def iterate_options(owner: type) -> Iterator[tuple[Field[Any], Option]]:
    """Yield the fields of a dataclass that are options, in their order, with what is known of them."""
    yield from ((each, each.metadata[_KEY]) for each in fields(owner) if _KEY in each.metadata)


def get_default(each: Field[Any]) -> Any:
    """Return the default of a field; MISSING if it has none."""
    return each.default if each.default_factory is MISSING else each.default_factory()


def name_options(owner: type) -> str:
    """Return where the options of an entry stand: "block.robustness" for a class in .../blocks/robustness."""
    *_, kind, name = owner.__module__.split(".")
    return f"{kind.removesuffix('s')}.{name}"


def _describe_range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"
