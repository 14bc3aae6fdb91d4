"""Assessment of a data set by the audit, and its text in the current language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avatar_bench.i18n import _, get_language


@dataclass(frozen=True)
class Assessment:
    """Assessment whether a data set is suitable for its task: "yes", "with care", "no" or "not asked", with reasons."""

    suitable: str
    reasons: list[str] = field(default_factory=list)


def translate_assessment(assessment: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return a saved assessment and its reasons in the current language, the reasons in English where it lacks them."""
    others = assessment.get("reasons_in")
    reasons = others.get(get_language()) if isinstance(others, dict) else None
    reasons = reasons if isinstance(reasons, list) else assessment.get("reasons", ())
    return translate_suitability(str(assessment["suitable"])), [str(reason) for reason in reasons]


def translate_suitability(suitable: str) -> str:
    """Return the value of `Assessment.suitable` in the current language."""
    words = {"yes": _("yes"), "with care": _("with care"), "no": _("no"), "not asked": _("not asked")}
    return words.get(suitable, suitable)
