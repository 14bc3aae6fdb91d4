"""Assessment of a data set by the audit, and its words in the current language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avatar_bench.i18n import _, language


@dataclass(frozen=True)
class Assessment:
    """The answer to whether a data set can say which class an image is of: yes, with care, no, or not asked."""

    suitable: str
    reasons: list[str] = field(default_factory=list)


def translate_assessment(verdict: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the answer and the reasons of an audit's verdict in the language that is spoken, else in English."""
    others = verdict.get("reasons_in")
    reasons = others.get(language()) if isinstance(others, dict) else None
    reasons = reasons if isinstance(reasons, list) else verdict.get("reasons", ())
    return translate_suitability(str(verdict["suitable"])), [str(reason) for reason in reasons]


def translate_suitability(answer: str) -> str:
    """Return the words for the answer of an audit."""
    words = {"yes": _("yes"), "with care": _("with care"), "no": _("no"), "not asked": _("not asked")}
    return words.get(answer, answer)
