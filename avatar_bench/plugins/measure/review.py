"""Page of images to review, and the labels that come back from it, with the design by which images were drawn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import logit

from avatar_bench.console.terminal import format_name, format_names, print_note
from avatar_bench.data.decoding import decode_bytes, read_content
from avatar_bench.errors import DataError, OutputError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.remote import is_remote
from avatar_bench.files.table_io import read_table
from avatar_bench.i18n import _
from avatar_bench.plugins.measure.population import BINS, STEP, Design, Population, PredictionReader, explain_unreadable
from avatar_bench.plugins.measure.shares import FEWEST_REVIEWED, Review, plan_review
from avatar_bench.reporting.prediction_outputs.html import ReviewedImage, render_review, shrink_for_page
from avatar_bench.results.display import list_cautions

# path_hash stands for the path, whose name alone is shown; with an h, spreadsheets take none for a number
DESIGN_COLUMNS = ("score", "score_low", "score_high", "inclusion_probability", "seed", "path_hash")


def write_review_page(
    reader: PredictionReader, population: Population, design: Design, out: Path, language: str, allows_addresses: bool
) -> pd.DataFrame:
    """Write the page of the images that a design draws, and return those that it shows.

    Raise DataError if it shows none. Images at addresses are read if `allows_addresses`.
    """
    rows = reader.take(population.draw(design))
    rows["stratum"] = design.find_stratum(population.bins[rows["position"]])
    edges, rates = ([str(float(number)) for number in numbers] for numbers in (design.edges, design.rates))
    images, failed = [], []
    silent: dict[str, str] = {}
    for row in rows.to_dict("records"):
        path, h, key = str(row["path"]), row["stratum"], f"h{population.hashes[row['position']]:016x}"
        stated = dict(
            zip(DESIGN_COLUMNS, (design.score, edges[h], edges[h + 1], rates[h], design.seed, key), strict=True)
        )
        name = format_name(os.path.basename(path))  # folders are nobody's business, and may give the class away
        host = path.partition("://")[2].partition("/")[0]
        try:
            if is_remote(path) and (not allows_addresses or host in silent):
                raise DataError(silent.get(host, "an address, which is only asked with allow=[addresses]"))
            data = read_content(path, name)
            image = shrink_for_page(Image.fromarray(decode_bytes(data, name)), len(rows))
        except (DataError, OutputError) as error:
            failed.append((name, error.lines[0].removeprefix(f"{name}: ")))
            if isinstance(error, OutputError):  # the host is unknown, or was silent for 90 seconds
                silent[host] = failed[-1][1]
            continue
        images.append(ReviewedImage({**row, "path": name}, sha256_of_bytes(data), image, (), design=stated))
    if not images:
        raise DataError(
            f"None of the {len(rows)} images drawn can be read, such as {failed[0][0]}: {failed[0][1]}",
            "Run it in the folder that the paths of the predictions start from.",
        )
    if failed:
        print_note(f"{len(failed)} of {len(rows)} images drawn cannot be read; the page says why.")
    page = render_review(
        images,
        failed,
        reader.classes,
        Path(reader.name).name,
        language,
        cautions=list_cautions(()),
        sample=len(images),
        purpose=_(
            "Label every image by what you see: `measure labels=reviewed.csv` estimates the shares of all {n} images "
            "from these {drawn}. If you stop early, what was labelled in the random order counts.",
            n=f"{population.n:,}",
            drawn=len(images),
        ),
    )
    try:
        write_text(out, page)
    except OSError as error:
        raise OutputError(f"out={out} cannot be written: {error.strerror or error}.") from error
    return rows[rows["position"].isin([image.row["position"] for image in images])]


class Labels:
    """Table of labels that a page for review has written; raises DataError for any other."""

    def __init__(self, file: str, classes: tuple[str, ...]) -> None:
        self.file = file
        with explain_unreadable(f"labels={file}"):
            table = read_table(Path(file).expanduser(), texts=None)
        if missing := {"path", "label", *DESIGN_COLUMNS} - set(table):
            raise DataError(
                f"labels={file} has no column {format_names(sorted(missing), 3)}: nothing states how its images were "
                "drawn, so that they have no weights.",
                "Draw images for review, and label those: avatar-bench measure PREDICTIONS review=200 out=review.html",
            )
        if unknown := set(table["label"]) - set(classes):
            raise DataError(
                f"labels={file}: label {min(unknown)!r} is none of the predictions' classes.",
                f"Expected one of {format_names(classes, 6)}.",
            )
        is_random = table["sampled"] != "selected" if "sampled" in table else np.ones(len(table), dtype=bool)
        self.selected = int((~is_random).sum())  # labelled out of the random order, before it was complete
        self.table = table[is_random].drop_duplicates(["path_hash", "label"]).reset_index(drop=True)
        if not len(self.table) or table[["score", "seed"]].nunique().max() > 1:
            raise DataError(f"labels={file} are of several pages for review, or of no image drawn at random.")
        if (repeated := self.table["path_hash"].duplicated()).any():
            twice = format_name(self.table.loc[repeated, "path"].iloc[0])
            raise DataError(f"labels={file}: {twice} has two labels.", "Agree on one, and remove the other.")
        self.design = self._read_design(classes)

    def _read_design(self, classes: tuple[str, ...]) -> Design:
        """Return the design; strata without a label, which no row names, get the rate 0."""
        try:
            strata = self.table[list(DESIGN_COLUMNS[1:4])].astype(float).drop_duplicates().sort_values("score_low")
            lows, highs, rates = strata.to_numpy().T
            with np.errstate(divide="ignore"):
                ends = [np.clip(np.rint(logit(end) / STEP) + BINS // 2, 0, BINS) for end in (lows, highs)]
            overlaps = (ends[0][1:] < ends[1][:-1]).any() or self.table["score"].iloc[0] not in classes
            if overlaps or not ((rates > 0) & (rates <= 1) & (lows < highs)).all():
                raise ValueError("strata overlap")
            cuts = np.unique(np.concatenate(ends)).astype(int)
            of_stratum = dict(zip(ends[0], rates, strict=True))
            edges = [0, *cuts[(cuts > 0) & (cuts < BINS)]]
            self.table["key"] = np.array(
                [int(text.removeprefix("h"), 16) for text in self.table["path_hash"]], dtype=np.uint64
            )
            score, seed = map(str, self.table.loc[0, ["score", "seed"]])
            rates = np.array([of_stratum.get(edge, 0.0) for edge in edges])
            return Design(score, np.array(edges[1:], dtype=int), rates, int(seed))
        except (ValueError, OverflowError) as error:
            raise DataError(f"labels={self.file}: {', '.join(DESIGN_COLUMNS)} are not as the page has them.") from error

    def join(self, population: Population, target: str) -> Review:
        """Return the review of a population that was read with these paths; raise DataError if it was not drawn so."""
        rows = population.rows.merge(self.table[["key", "label"]], on="key")
        drawn = population.draw(self.design)
        strange = self.table.loc[~self.table["key"].isin(population.hashes[drawn]), "path"]
        if len(strange):
            raise DataError(
                f"labels={self.file}: {len(strange):,} of {len(self.table):,} images were not drawn from these "
                f"predictions, such as {format_name(min(strange))}.",
                "Have the predictions changed since? Only images of the page for review have weights.",
            )
        if len(rows) < FEWEST_REVIEWED:
            expected = plan_review(population, target, len(rows))[1]
            raise DataError(
                f"labels={self.file}: {len(rows)} reviewed images are too few; expected {FEWEST_REVIEWED} or more.",
                f"An interval about {100 * (expected.high - expected.low):.2g} points wide would be expected. "
                "Label more of the page, in its random order.",
            )
        self.unlabelled = len(drawn) - len(rows)
        return Review(self.design, rows.assign(stratum=self.design.find_stratum(rows["bin"].to_numpy())))
