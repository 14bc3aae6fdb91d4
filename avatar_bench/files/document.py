"""Documents: what a YAML or JSON file declares or saves, as a dataclass whose types are its only validator.

Files of others are limited in size and depth before they are parsed, and YAML has no aliases.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from avatar_bench.errors import ConfigError, suggest_names

MAX_JSON_BYTES = 64 * 1024**2
MAX_YAML_BYTES = 1 << 18  # the longest of this package, the Russian catalogue, has 121 kB
MAX_YAML_DEPTH = 50
_SHOWN = 80  # characters of a wrong value in a message
_FAULT = "fault"  # the type of an error of a Check
_Kind = TypeVar("_Kind")


class Document:
    """Base of dataclasses that `parse` makes: other keys, other types, NaN and infinity are refused."""

    __pydantic_config__: ClassVar[Any] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}


class OpenDocument:
    """Base of dataclasses that `parse` makes of files with further keys, which are ignored."""

    __pydantic_config__: ClassVar[Any] = {**Document.__pydantic_config__, "extra": "ignore"}


@dataclass(frozen=True)
class Check:
    """Constraint that no type states, in Annotated: `find_fault` says what is wrong with a value, "" if nothing is."""

    find_fault: Callable[[Any], str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if fault := self.find_fault(value):
                raise PydanticCustomError(_FAULT, "{fault}", {"fault": fault})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


@dataclass(frozen=True)
class Typed:
    """Types of the values of a mapping that stays a dict, in Annotated: those of a TypedDict."""

    kind: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return handler.generate_schema(self.kind)


def matching(pattern: str, expected: str) -> Check:
    """Return the constraint of a text that a pattern matches as a whole."""
    known = re.compile(pattern, re.ASCII)
    return Check(lambda text: "" if known.fullmatch(text) else f"expected {expected}")


def expecting(schema: int, advice: str) -> Check:
    """Return the constraint of the number of a schema, of which one is read; `advice` is what to do for another."""
    return Check(lambda number: "" if number == schema else f"expected {schema}: {advice}")


def parse(kind: type[_Kind], values: Any) -> _Kind:
    """Return what plain values state, as a `kind`; raise ValueError that names the place and what is expected there."""
    from pydantic import ValidationError  # slow to import: only where a file is read

    try:
        adapter = _find_adapter(kind)  # type: ignore[arg-type]  # classes are hashable
        made: _Kind = adapter.validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False), key=lambda fault: fault["loc"] != ("schema",))
        raise ValueError(_describe(faults[0], kind)) from error  # what is of another version differs elsewhere, too
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return made


def read_yaml(file: Path) -> Any:
    """Read a YAML file as plain values; raise ConfigError with its name if it is none, or exceeds the limits."""
    import yaml  # slow to import: only where a file is read

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would block
            raise ValueError("it is not a regular file")
        with file.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise ValueError(f"it is larger than {MAX_YAML_BYTES} bytes")
        text, depth = data.decode("utf-8"), 0
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):  # aliases of aliases multiply, and a list may contain itself
                raise ValueError(f"it uses an alias, *{event.anchor}")
        return yaml.load(text, loader)
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ConfigError(f"{file} cannot be read as YAML: {reason}") from error


def read_json(file: Path) -> Any:
    """Read a strict JSON file; raise OSError or ValueError if it is damaged, too large or nested too deeply."""
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is not a file")
    with file.open("rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES:,} bytes")
    return parse_json(data.decode("utf-8"))


def parse_json(text: str) -> Any:
    """Parse strict JSON; raise ValueError if it is none, has NaN or infinity, or is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


@cache
def _find_adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _describe(error: Any, kind: Any) -> str:
    """Return the first error of pydantic in one line: the place, the value there, and what is expected."""
    where = ".".join(map(str, error["loc"])) or "it"
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [member.name for member in fields(kind)] if is_dataclass(kind) and len(error["loc"]) == 1 else []
        nearest = suggest_names(where, known, "").removeprefix("; ")
        return f"{where} is not known ({nearest})" if nearest else f"{where} is not known"
    message = str(error["msg"]).replace("Input should be", "expected")
    if error["type"] == _FAULT and not message.startswith("expected"):
        return f"{where}: {message}"
    return f"{where} is {ascii(error['input'])[:_SHOWN]}; {message[0].lower()}{message[1:]}"
