"""Reasons: why a metric has no value or what a result warns of, as a code with values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from avatar_bench.files.document import read_yaml
from avatar_bench.i18n import _, get_title, ngettext
from avatar_bench.results.declaration import declare_block

_FILE = Path(__file__).with_suffix(".yaml")
_read_texts = cache(read_yaml)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """Change a value, or each one of a list; a tuple becomes a list, as in JSON."""
    return [_map(change, element) for element in value] if isinstance(value, list | tuple) else change(value)


@dataclass(frozen=True, init=False)
class Reason:
    """Code with its values: texts, numbers, lists of them, or further Reasons.

    The sentence of a code is in the about.yaml of its block, under `reasons`, or in reasons.yaml beside this module; a
    pair `one` and `other` are its forms for the number `n`.
    """

    code: str
    values: Mapping[str, Any] = field(hash=False)

    def __init__(self, code: str, /, **values: Any) -> None:
        unpack = partial(
            _map, lambda value_of: value_of.item() if hasattr(value_of, "item") else value_of
        )  # numpy's numbers
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "values", {name: unpack(value) for name, value in values.items()})

    @property
    def plain(self) -> dict[str, Any]:
        """Return the reason as saved in metrics.json: the code and its values, in one mapping."""
        save = partial(_map, lambda element: element.plain if isinstance(element, Reason) else element)
        return {"code": self.code, **{name: save(value) for name, value in self.values.items()}}

    def __str__(self) -> str:
        """Return the reason as saved in a cell of a table, which `parse_cell` reads."""
        return json.dumps(self.plain, ensure_ascii=False)

    @classmethod
    def parse(cls, saved: Mapping[str, Any]) -> Reason:
        """Return a reason saved as a mapping."""
        read = partial(_map, lambda element: cls.parse(element) if isinstance(element, dict) else element)
        return cls(str(saved["code"]), **{name: read(value) for name, value in saved.items() if name != "code"})

    @classmethod
    def parse_cell(cls, text: Any) -> Reason | None:
        """Return the reason in a cell of a saved table; None if the cell holds something else."""
        return cls.parse(json.loads(text)) if isinstance(text, str) and text.startswith('{"code"') else None


def format_reason(reason: Reason, block: str = "") -> str:
    """Return the sentence of a block's reason in the current language; the code with its values if none fits them.

    Reasons among the values are those of the block in the value `block`, if there is one.
    """
    text = {**_read_texts(_FILE), **declare_block(block).reasons}.get(reason.code)
    values = {name: _format_value(value, reason.values.get("block", block)) for name, value in reason.values.items()}
    with suppress(KeyError):  # an earlier version has saved other values
        if isinstance(text, dict):
            return ngettext(text["one"], text["other"], **values)
        if text is not None:
            return _(text, **values)
    title = get_title("corruption", reason.code)  # a corruption is given by its name
    return " ".join([title, *(f"{name}={value}" for name, value in values.items())])


def _format_value(value: Any, block: str) -> Any:
    if isinstance(value, list):
        between = "; " if any(isinstance(element, Reason) for element in value) else ", "
        return between.join(str(_format_value(element, block)) for element in value)
    return format_reason(value, block) if isinstance(value, Reason) else value
