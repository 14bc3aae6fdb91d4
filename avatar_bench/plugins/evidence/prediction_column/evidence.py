"""What the metadata of files say of their class, with the signatures of C2PA manifests."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import option, path_option
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.i18n import _
from avatar_bench.inference.prediction_columns import PredictionColumns

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.run import Run

_SAYS, _FOUND = "evidence_says", "evidence"


@dataclass
class EvidenceColumns(PredictionColumns):
    """Evidence in the metadata of files; evidence=true is short for evidence.enabled=true."""

    enabled: bool = option(False, help="add what the metadata of each file say: evidence_says, evidence")
    trust: str | None = path_option("PEM file of the certificates whose C2PA signatures are trusted; null: none")
    names = (_SAYS, _FOUND)
    _certificates = ""  # PEM text

    def open(self) -> None:
        """Read the certificates; raise ConfigError if the file has none or c2pa is missing."""
        if self.trust is None:
            return
        try:
            importlib.import_module("c2pa")
            x509 = importlib.import_module("cryptography.x509")  # a dependency of c2pa-python
        except ImportError as error:
            raise ConfigError(
                "evidence.trust needs c2pa-python.", "Install it: pip install 'avatar-bench[provenance]'"
            ) from error
        try:
            self._certificates = Path(self.trust).read_text(encoding="utf-8", errors="replace")
            x509.load_pem_x509_certificates(self._certificates.encode())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no certificates"
            raise ConfigError(
                f"evidence.trust={self.trust}: {why}.", "Expected a PEM file of certificates to trust."
            ) from error

    def add_to(self, table: pd.DataFrame, run: Run) -> pd.DataFrame:
        """Return a table of predictions with the columns, in the class names of a run, None for files that failed."""
        import pandas as pd

        files = zip(table["path"], table["status"], strict=True)
        answers = [self._read(path, run) if status == "ok" else (None, None) for path, status in files]
        columns = {name: [pair[k] for pair in answers] for k, name in enumerate(self.names)}
        return table.assign(**{name: pd.Series(values, table.index, dtype=object) for name, values in columns.items()})

    def _read(self, path: str, run: Run) -> tuple[str | None, str | None]:
        from avatar_bench.audit.evidence_rules import conclude, find_evidence
        from avatar_bench.audit.file_metadata import read_metadata
        from avatar_bench.data.decoding import read_content

        try:
            data = read_content(path, path)
        except DataError:  # it has gone since it was predicted
            return None, None
        evidence = find_evidence(read_metadata(data, self._certificates))
        rows = [{"rule": item.rule.name, "value": item.value, "strength": item.strength} for item in evidence]
        return run.name_class(conclude(evidence)), json.dumps(rows, ensure_ascii=False)

    @staticmethod
    def list_cautions() -> list[str]:
        """Return the caution of evidence in files, in the current language."""
        return [
            _(
                "Evidence is what a file says of itself: metadata can be forged or stripped, and a file without "
                "evidence may be of any class."
            )
        ]

    @staticmethod
    def list_notes() -> list[str]:
        """Return a notice if c2pa-python is not installed."""
        if importlib.util.find_spec("c2pa"):
            return []
        return [
            _(
                "C2PA manifests were not verified, for which c2pa-python is needed: "
                "pip install 'avatar-bench[provenance]'"
            )
        ]

    def find_claim(self, row: Mapping[Hashable, Any]) -> str:
        """Return the class that the file says, "" for none."""
        return str(row.get(_SAYS) or "")

    def describe(self, row: Mapping[Hashable, Any], is_brief: bool = False) -> list[tuple[str, str]]:
        """Return what the file says, and each piece of evidence, in the current language."""
        from markupsafe import Markup

        from avatar_bench.console.terminal import format_name
        from avatar_bench.reporting.prediction_words import describe_class, translate_class

        if is_brief and row.get(_FOUND) is None:  # the file has gone since it was predicted
            return []
        says, evidence = self.find_claim(row), json.loads(row.get(_FOUND) or "[]")
        strengths = {"strong": _("strong"), "moderate": _("moderate"), "weak": _("weak"), "none": _("says no class")}
        if not is_brief:
            piece = Markup("{} (<code>{}</code>, {})")
            return [
                (_("The file says"), translate_class(says) or _("nothing certain")),
                *(
                    (_("Evidence"), piece.format(format_name(item["value"]), item["rule"], strengths[item["strength"]]))
                    for item in evidence
                ),
            ]
        said = _("It says: {class_}.", class_=describe_class(says)) if says else _("It says nothing of the class.")
        pieces = (
            Markup("<li><code>{}</code> ({})</li>").format(item["value"], _(item["strength"])) for item in evidence
        )
        text = Markup("{}\n<ul>{}</ul>").format(said, Markup("").join(pieces)) if evidence else _("none")
        return [(_("Evidence in the file"), text)]
