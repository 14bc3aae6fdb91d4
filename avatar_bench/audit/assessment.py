"""Assessment of a data set by the audit, and its text in the current language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avatar_bench.results.reasons import Reason, format_reason

AUDIT_BLOCK = "data_audit"


@dataclass(frozen=True)
class Assessment:
    """Assessment whether a data set is suitable for its task: "yes", "with_care", "no" or "not_asked", with reasons."""

    suitable: str = "not_asked"
    reasons: list[Reason] = field(default_factory=list)

    @classmethod
    def parse(cls, saved: Mapping[str, Any]) -> Assessment:
        """Return an assessment saved in the provenance of a Result."""
        return cls(saved["suitable"], [Reason.parse(reason) for reason in saved["reasons"]])

    @property
    def plain(self) -> dict[str, Any]:
        """Return the assessment as saved."""
        return {"suitable": self.suitable, "reasons": [reason.plain for reason in self.reasons]}

    def format(self) -> tuple[str, list[str]]:
        """Return the answer and its reasons in the current language."""
        answer, *reasons = (format_reason(reason, AUDIT_BLOCK) for reason in (Reason(self.suitable), *self.reasons))
        return answer, reasons
