"""Saved predictions of any detector: a table of class probabilities or scores by image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, option, path_option
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import GuardError
from avatar_bench.results.view import DIRECTION

if TYPE_CHECKING:
    from avatar_bench.inference.foreign_tables import TablePredictor

_TABLE, _VARIED = "predictions.parquet", "varied.parquet"


@dataclass(kw_only=True)
class PredictionFile(Options):
    """Table with a row per image: `path` or `sha256`, and `prob_<class>` for each class, or `score`."""

    file: str = path_option("predictions (.csv, .jsonl, .parquet) or a network (.onnx)", MISSING)
    columns: dict[str, Any] = option(
        {}, help="what file= calls its columns: {path: NAME, score: NAME}; others have our names", is_open=True
    )
    root: str | None = path_option("folder that the paths in file= are relative to")
    score: str | None = option(
        None,
        help="what the column score means",
        check=lambda value: value is None or (value.startswith(DIRECTION) and value != DIRECTION),
        expected="higher_is_CLASS",
    )
    threshold: float | None = option(None, help="of the score: from it on, CLASS is predicted")
    variations: str | None = path_option("manifest that vary has written, if the predictions are those of its files")

    def save(self, folder: Path, allow: Collection[str]) -> dict[str, Any]:
        """Write the predictions by image hash; raise DataError or GuardError for rows that cannot be used."""
        from avatar_bench.inference import foreign_tables as tables  # imports pandas and torch, see config/schema

        file = Path(self.file)
        table = tables.read_score_table(file, {ours: str(name) for ours, name in self.columns.items()})
        has_prediction = table.get("status", table.index) != "error"
        predicted = table[has_prediction]
        probabilities, settings = tables.read_probabilities(predicted, file, self.score, self.threshold)
        hashes = tables.find_hashes(predicted, file, self.root)
        has_image = hashes != ""
        merged, n_contradictory = tables.merge_rows(probabilities[has_image].assign(sha256=hashes[has_image]))
        varied = tables.read_variations(Path(self.variations), merged["sha256"]) if self.variations else None
        if varied and varied.incomplete and ("missing_rows" not in allow or varied.rows.empty):
            raise GuardError(
                f"{file} lacks a prediction of some variation of {format_count(varied.incomplete, 'image')} of vary.",
                "Add them, or set allow=[missing_rows]: these images are left out, and counted with every result.",
            )
        unmatched = [*table.index[~has_prediction], *predicted.index[~has_image]]
        if (unmatched or n_contradictory) and ("missing_rows" not in allow or merged.empty):
            lost = predicted.index[~has_image]
            where = [f"No image at {Path(self.root or '') / str(table['path'][lost[0]])}."] if len(lost) else []
            first = f", first row {min(unmatched) + 1}" if unmatched else ""
            raise GuardError(
                f"{file}: {len(unmatched)} of {format_count(len(table), 'row')} without an image or a prediction"
                f"{first}; {format_count(n_contradictory, 'image')} with rows that disagree.",
                *where,
                "Correct them, or set allow=[missing_rows]: these rows are left out, and missing images counted.",
            )
        merged.to_parquet(folder / _TABLE, index=False)
        if varied:
            varied.rows.to_parquet(folder / _VARIED, index=False)
            settings |= {"varied": True, "preprocessing": varied.preprocessing}
        return settings | {"rows": len(merged), "unmatched": len(unmatched), "contradictory": n_contradictory}

    @staticmethod
    def open(folder: Path, settings: dict[str, Any], accelerator: str, **common: Any) -> TablePredictor:
        """Return the predictor of an imported table."""
        import pandas as pd

        from avatar_bench.data.transforms import Preprocessing
        from avatar_bench.inference.foreign_tables import TablePredictor

        table = pd.read_parquet(folder / _TABLE)
        hashes = pd.Index(table["sha256"])
        if settings.get("varied"):
            rows = pd.read_parquet(folder / _VARIED)
            rows["row"] = hashes.get_indexer(pd.Index(rows["sha256"]))
            by_key = {str(key): part.set_index("source_sha256")["row"] for key, part in rows.groupby("key")}
            clean = by_key.pop("")  # stands for the image itself
            added = clean[~clean.index.isin(hashes)]
            table, hashes = pd.concat([table, table.iloc[added]]), hashes.append(pd.Index(added.index))
            common["varied"] = by_key
            if settings.get("preprocessing"):
                common["preprocessings"] = (Preprocessing.from_dict(settings["preprocessing"]),)
        columns = [f"prob_{name}" for name in settings["classes"]]
        return TablePredictor(hashes=hashes, probabilities=table[columns].to_numpy("float64"), **common)
