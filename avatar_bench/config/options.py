"""Options stated once, as fields of dataclasses with their help, choices and range, and the check of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

from avatar_bench.errors import ConfigError, suggest_names

_KEY = "option"  # of the metadata of a field


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its type and default.

    `choices` are the allowed values; of a list, those of its elements; of a path, those that are no path. `range` is
    (lowest, highest), both allowed, None for no limit. `check` returns whether a value is valid; `expected` describes
    the values that it accepts. `only_for` are the names in its group that use it, such as "sam" of an option of SAM;
    `entries` is the kind of entries whose names are its values. A path is taken as it is typed; an open mapping takes
    any name. The main option of a command is the one whose paths may stand alone, without its name. `example` is the
    value that a message shows where there is none.
    """

    help: str
    choices: Collection[Any] | Callable[[], Collection[Any]] = ()
    range: tuple[float | None, float | None] | None = None
    check: Callable[[Any], bool] | None = None
    expected: str = ""
    only_for: tuple[str, ...] = ()
    entries: str = ""
    is_path: bool = False
    is_open: bool = False
    is_main: bool = False
    example: str = "VALUE"

    def list_choices(self) -> list[Any]:
        """Return the allowed values, an empty list for any."""
        return list(self.choices() if callable(self.choices) else self.choices)

    def describe(self) -> str:
        """Return the choices, the help and the valid values in one line."""
        choices = " | ".join(map(str, self.list_choices()))
        users = f"for {' and '.join(self.only_for)}: " if self.only_for else ""
        valid = self.expected or (_describe_range(*self.range) if self.range else "")
        return "; ".join(filter(None, [choices, users + self.help, "" if choices else valid]))

    def find_fault(self, value: Any) -> str | None:
        """Return what was expected instead of a value, None if it is valid; None is valid where no check refuses it."""
        known, (low, high) = self.list_choices(), self.range or (None, None)
        elements = value if isinstance(value, list | tuple) else [value]
        if known and value is not None and not self.is_path and any(element not in known for element in elements):
            words = self.expected if self.check is None else ""  # with a check, it is what the check expects
            return words or f"{'some' if isinstance(value, list | tuple) else 'one'} of {', '.join(map(str, known))}"
        outside = ((low is not None and element < low) or (high is not None and element > high) for element in elements)
        if value is not None and any(outside):
            return self.expected or _describe_range(low, high)
        return self.expected if self.check is not None and not self.check(value) else None


def option(default: Any = MISSING, *, help: str, **known: Any) -> Any:
    """Return a dataclass field with everything that is known of an option: the fields of Option.

    A list or dict default is copied, a function as default is called for each object.
    """
    return _make_field(default, Option(help, **known))


def path_option(help: str, default: Any = None, **known: Any) -> Any:
    """Return a dataclass field for a path, None by default."""
    return option(default, help=help, is_path=True, **known)


def copy_option(owner: type, name: str, **changed: Any) -> Any:
    """Return a field like that of another dataclass, such as an optimizer's; `changed` may hold another default."""
    member, known = next(pair for pair in iterate_options(owner) if pair[0].name == name)
    return _make_field(changed.pop("default", get_default(member)), replace(known, **changed))


def _make_field(default: Any, stated: Option) -> Any:
    make = partial(type(default), default) if isinstance(default, list | dict) else default
    if callable(make):
        return field(default_factory=make, metadata={_KEY: stated})
    return field(default=default, metadata={_KEY: stated})


@dataclass(kw_only=True)
class Options:
    """Options whose values are checked when they are set: the base of the dataclass of an entry."""

    def __post_init__(self) -> None:
        for member, known in iterate_options(type(self)):
            value = getattr(self, member.name)
            try:
                expected = known.find_fault(value)
            except TypeError:
                expected = f"a value such as {get_default(member)}"
            if expected is not None:
                raise ConfigError(f"{name_options(type(self))}.{member.name}={value}: expected {expected}.")


def iterate_options(owner: type) -> Iterator[tuple[Field[Any], Option]]:
    """Yield the fields of a dataclass that are options, in their order, with what is known of them."""
    yield from ((member, member.metadata[_KEY]) for member in fields(owner) if _KEY in member.metadata)


def get_nested(member: Field[Any]) -> type | None:
    """Return the dataclass of options that a field holds; None for a field that holds a value."""
    nested = member.default_factory
    return nested if isinstance(nested, type) and is_dataclass(nested) else None


def find_option(owner: type, key: str) -> tuple[Field[Any], Option] | None:
    """Return the option that a key such as data.root names, or is inside of, with its field; None for no option."""
    name, _, rest = key.partition(".")
    member = next((member for member in fields(owner) if member.name == name), None)
    if member is None or not rest or (nested := get_nested(member)) is None:
        return (member, member.metadata[_KEY]) if member is not None and _KEY in member.metadata else None
    return find_option(nested, rest)


def get_default(member: Field[Any]) -> Any:
    """Return the default of a field; MISSING if it has none."""
    return member.default if member.default_factory is MISSING else member.default_factory()


def name_options(owner: type) -> str:
    """Return where the options of an entry stand: "block.robustness" for a class in .../blocks/robustness."""
    *_, kind, name = owner.__module__.split(".")
    singular = name.removesuffix("s")
    entry = name_entry(owner.__name__, singular) if singular != name else ""  # of one of several of a module
    return f"{singular}.{entry}" if entry else f"{kind.removesuffix('s')}.{name}"


def name_entry(owner: str, kind: str) -> str:
    """Return the name that a class has as an entry of a kind, such as knn of KnnOodScore; "" for another class."""
    ending = "".join(map(str.capitalize, kind.split("_")))
    words = re.findall("[A-Z][a-z]*", owner.removesuffix(ending)) if owner.endswith(ending) else []
    return "_".join(words).lower()


def refuse_unknown_options(group: str, names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raise ConfigError, with the nearest name, unless all `names` are options of `owner`, which are in `group`."""
    for name in names:
        if name not in known:
            reason = f"{group}.{name}: there is no such option{suggest_names(name, known)}"
            raise ConfigError(reason, f"Options of {owner}: {', '.join(known) or 'none'}.")


def _describe_range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"
