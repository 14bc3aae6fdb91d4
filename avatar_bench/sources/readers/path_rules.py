"""Rules that read the class of a file, and more, from its path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from avatar_bench.errors import ConfigError, did_you_mean

OUTCOME = ("label", "source", "group", "generator")
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class Rule(NamedTuple):
    """Hold a pattern for whole paths, and what it says of those that fit."""

    pattern: re.Pattern[str]
    outcome: dict[str, str]


def compile_rules(name: str, rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Give the rules of a source ready for use; raise ConfigError for one that makes no sense."""
    return [_compile(f"source.{name}.rules: rule {number}", rule) for number, rule in enumerate(rules, start=1)]


def find_rule(path: str, rules: Sequence[Rule]) -> dict[str, str]:
    """Give what the rules say of a path ("/" between folders); ValueError tells that none fits, or that two differ."""
    found: dict[int, dict[str, str]] = {}
    for number, rule in enumerate(rules, start=1):
        if match := rule.pattern.fullmatch(path):
            named = {key: value for key, value in match.groupdict().items() if value and key in OUTCOME}
            found[number] = rule.outcome | named
    if not found:
        raise ValueError("no rule fits")
    first, said = next(iter(found.items()))
    for number, other in found.items():
        if other != said:
            raise ValueError(f"ambiguous: rules {first} and {number}")
    return said


def translate(glob: str) -> str:
    """Give a glob as a regular expression for whole paths: `*` and `?` stay within a folder, `**` crosses folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])", glob)
    return "".join(_GLOB.get(part) or _plain(part, odd=number % 2 == 1) for number, part in enumerate(parts))


def _plain(part: str, odd: bool) -> str:
    if not odd:
        return re.escape(part)
    inner = part[1:-1].replace("\\", r"\\")
    return f"(?!/)[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


def _compile(where: str, rule: Mapping[str, Any]) -> Rule:
    known = ("glob", "regex", *OUTCOME)
    for key in rule:
        if key not in known:
            raise ConfigError(
                f"{where} has no option {key}: {did_you_mean(str(key), known) or 'it has: ' + ', '.join(known)}"
            )
    given = [key for key in ("glob", "regex") if rule.get(key)]
    if len(given) != 1:
        raise ConfigError(f"{where} needs glob or regex, one of them.", "For example: {glob: 'faces/**', label: real}")
    text = str(rule[given[0]])
    try:
        pattern = re.compile(translate(text) if given == ["glob"] else text)
    except re.error as error:
        raise ConfigError(f"{where}: {given[0]} {text!r} cannot be read: {error}.") from error
    return Rule(pattern, {key: str(rule[key]) for key in OUTCOME if rule.get(key)})
