"""Assessment of a data set by the audit, and its text in the current language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.results.declaration import find_heading
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result

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


def list_strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each mark of a table with MARK_COLUMNS that shows it best."""
    rows = table[table["mark"].fillna("") != ""].sort_values(
        ["mark", "p_search", "auroc"], ascending=[True, True, False]
    )
    return rows.drop_duplicates("mark")


def describe_marks(result: Result) -> list[tuple[str, Path]]:
    """Return of each mark of a saved data_audit a line in the current language, and the file of its image."""
    table, folder = result.tables.get("marks"), result.folder
    if table is None or folder is None or "p_search" not in table:  # of an earlier version
        return []
    lines = []
    for row in list_strongest(table).to_dict("records"):
        shown = {key: row[key] for key in ("mark", "images", "auroc", "low", "high", "p")}
        where = find_heading(row["position"], AUDIT_BLOCK)
        text = format_reason(Reason("mark_shown", name=row["class"], where=where, **shown), AUDIT_BLOCK)
        lines.append((text, folder / "marks" / f"{row['mark']}.png"))
    return lines
