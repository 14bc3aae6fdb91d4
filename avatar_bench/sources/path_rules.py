"""Rules that derive the class and other fields of a file from its path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from avatar_bench.errors import ConfigError, suggest_names

OUTCOME_KEYS = ("label", "source", "group", "generator")
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class PathRule(NamedTuple):
    """A pattern for whole paths, and the fields of the paths that match."""

    pattern: re.Pattern[str]
    outcome: dict[str, str]


def compile_rules(name: str, rules: Sequence[Mapping[str, Any]]) -> list[PathRule]:
    """Compile the rules of a source; raise ConfigError for an invalid rule."""
    return [_compile_rule(f"source.{name}.rules: rule {number}", rule) for number, rule in enumerate(rules, start=1)]


def match_rules(path: str, rules: Sequence[PathRule]) -> dict[str, str]:
    """Return the fields of a path ("/" between folders) by the rules; raise ValueError if none match or two differ."""
    found: dict[int, dict[str, str]] = {}
    for number, rule in enumerate(rules, start=1):
        if match := rule.pattern.fullmatch(path):
            named = {key: value for key, value in match.groupdict().items() if value and key in OUTCOME_KEYS}
            found[number] = rule.outcome | named
    if not found:
        raise ValueError("no rule matches")
    first, outcome = next(iter(found.items()))
    for number, other in found.items():
        if other != outcome:
            raise ValueError(f"ambiguous: rules {first} and {number} differ")
    return outcome


def translate_glob(glob: str) -> str:
    """Translate a glob to a regular expression for whole paths: `*` and `?` stay in a folder, `**` crosses folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])", glob)
    return "".join(_GLOB.get(part) or _translate_part(part, odd=number % 2 == 1) for number, part in enumerate(parts))


def _translate_part(part: str, odd: bool) -> str:
    if not odd:
        return re.escape(part)
    inner = part[1:-1].replace("\\", r"\\")
    return f"(?!/)[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


def _compile_rule(where: str, rule: Mapping[str, Any]) -> PathRule:
    known = ("glob", "regex", *OUTCOME_KEYS)
    for key in rule:
        if key not in known:
            nearest = suggest_names(str(key), known, f"; expected {', '.join(known)}")
            raise ConfigError(f"{where} has no option {key}{nearest}")
    given = [key for key in ("glob", "regex") if rule.get(key)]
    if len(given) != 1:
        raise ConfigError(f"{where} needs either glob or regex.", "For example: {glob: 'faces/**', label: real}")
    text = str(rule[given[0]])
    try:
        pattern = re.compile(translate_glob(text) if given == ["glob"] else text)
    except re.error as error:
        raise ConfigError(f"{where}: {given[0]} {text!r} is invalid: {error}.") from error
    return PathRule(pattern, {key: str(rule[key]) for key in OUTCOME_KEYS if rule.get(key)})
