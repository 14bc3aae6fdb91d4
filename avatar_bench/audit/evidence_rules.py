"""Rules of what the metadata of an image file say of its class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar_bench.audit.file_metadata import clean_text
from avatar_bench.files.document import read_yaml

STRENGTHS = ("strong", "moderate", "weak", "none")
_GENERATED = "generated"
EVIDENCE_SAYS = "evidence_says"  # column of the class that `conclude` returns
MAX_EVIDENCE = 200  # characters of a value


@dataclass(frozen=True)
class Rule:
    """Rule of one kind of evidence: where it looks for what, and the class that it says.

    `looks_for` holds pairs of places, see `read_metadata`, and a pattern, of which the matched part is all that is ever
    shown. `says` is "" where it says nothing of a class. `is_doubt` means that no class but generated is concluded
    beside it. `strength` is one of STRENGTHS; what a trusted signer states is strong.
    """

    name: str
    what: str
    looks_for: tuple[tuple[Sequence[str], str], ...]
    strength: str
    source: str
    says: str = ""
    is_doubt: bool = False

    def find(self, metadata: Mapping[str, str]) -> Evidence | None:
        """Return the evidence in the metadata of a file, the first that is found; None without any."""
        for places, pattern in self.looks_for:
            for field_name in places:
                if match := re.search(pattern, metadata[field_name], re.IGNORECASE) if field_name in metadata else None:
                    strength = STRENGTHS[0] if field_name == "c2pa:trusted" and self.says else self.strength
                    return Evidence(self, f"{field_name}: {clean_text(match[0], MAX_EVIDENCE)}", strength)
        return None


@dataclass(frozen=True)
class Evidence:
    """What a rule has found in a file: the place and the matched part as `value`, and its strength."""

    rule: Rule
    value: str
    strength: str


def _read_rules(file: Path) -> tuple[Rule, ...]:
    """Return the rules of a file, with its groups of places, its terms and its sources in the place of their names."""
    stated = read_yaml(file)
    places, sources, terms = stated["places"], stated["sources"], dict[str, str]()

    def expand(pattern: str) -> str:
        return re.sub(r"<(\w+)>", lambda match: terms[match[1]], pattern)

    for name, pattern in stated["terms"].items():
        terms[name] = expand(pattern)  # may name those above
    rules = []
    for name, rule in stated["rules"].items():
        looks_for = tuple(
            (
                tuple(field_name for group in part["in"] for field_name in places.get(group, [group])),
                expand(part["pattern"]),
            )
            for part in rule["looks_for"]
        )
        source = sources.get(rule["source"], rule["source"])
        rules.append(Rule(name, **rule | {"looks_for": looks_for, "source": source}))
    return tuple(rules)


RULES = _read_rules(Path(__file__).with_suffix(".yaml"))


def find_evidence(metadata: Mapping[str, str]) -> list[Evidence]:
    """Return what each rule finds in the metadata of a file, in the order of RULES; no camera beside a generator."""
    evidence = [item for item in (rule.find(metadata) for rule in RULES) if item]
    is_generated = any(item.rule.says == _GENERATED for item in evidence)
    return [item for item in evidence if not (is_generated and item.rule.name == "camera")]


def conclude(evidence: Sequence[Evidence]) -> str:
    """Return the class that the strongest evidence says; "" if it says none, contradicts itself or is in doubt."""
    for strength in STRENGTHS:
        said = {item.rule.says for item in evidence if item.strength == strength and item.rule.says}
        if said:
            is_doubtful = any(item.rule.is_doubt for item in evidence) and said != {_GENERATED}
            return "" if len(said) > 1 or is_doubtful else said.pop()
    return ""
