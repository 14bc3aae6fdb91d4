"""Page of the app, on which images are dropped: a card for each image, and a table for many."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.files.html import build_html_environment
from avatar_bench.files.table_io import format_csv
from avatar_bench.i18n import _, use_language
from avatar_bench.plugins.app.image_service import LARGE, SMALL, ImageAnswer, ImageService
from avatar_bench.reporting.prediction_outputs.html import ReviewedImage, render_page
from avatar_bench.reporting.prediction_words import (
    ask_question,
    describe_accuracy,
    describe_class,
    describe_stability,
    describe_worth,
    explain_phrases,
    phrase_prediction,
    translate_unreadable,
)
from avatar_bench.results.display import list_cautions
from avatar_bench.runs.decisions import ABSTAIN

MAX_CARDS = 12  # images shown one by one; of more, the table says more
_SECONDS = 0.4  # between two updates of the progress


class UploadPage:
    """Page in one language on which at most `most` images at once are dropped, answered by a service.

    `is_local` states that only this machine reaches it.
    """

    def __init__(self, service: ImageService, language: str, most: int, is_local: bool) -> None:
        self.service, self.language, self.most, self.is_local = service, language, most, is_local
        self.settings = service.predictor.settings
        self.columns = [*self.settings.find_columns().values()]
        with use_language(language):
            self._worth = describe_worth(service.predictor.run)
        self._environment = build_html_environment("avatar_bench.plugins.app")
        self._environment.globals |= {"_": _, "ABSTAIN": ABSTAIN, "phrase": phrase_prediction}
        self._environment.filters |= {"class": describe_class, "unreadable": translate_unreadable}
        self._macros: Any = self._environment.get_template("app/answers.html.jinja").module

    def render(self) -> str:
        """Return the page without images."""
        predictor = self.service.predictor
        run = predictor.run
        with use_language(self.language):
            return self._environment.get_template("app/page.html.jinja").render(
                lang=self.language,
                question=ask_question(run.classes),
                run=run.short_name,
                is_local=self.is_local,
                explained="" if predictor.rule else explain_phrases(),
                cautions=[
                    *predictor.guarantees,
                    describe_accuracy(run),
                    *list_cautions(self.columns),
                    *(note for column in self.columns for note in column.list_notes()),
                ],
                most=self.most,
            )

    async def answer_each(self, files: Mapping[Path, str]) -> AsyncIterator[str]:
        """Yield what the page shows of the first images, each time one is answered; `files` say why one is refused."""
        answers, shown = [], list(files.items())[:MAX_CARDS]
        for done, upload in enumerate(shown, start=1):
            answers.append(await self._predict(*upload, LARGE))
            is_last = done == len(shown)
            state = ("too_many", len(files) - done) if is_last else ("progress", done, len(shown))
            yield self.render_part(*state) + self._render_cards(answers)

    async def answer_batch(self, files: Mapping[Path, str]) -> AsyncIterator[str]:
        """Yield how many images are answered, now and then, and in the end the table of all."""
        answers, told_at = [], 0.0
        for upload in files.items():
            answers.append(await self._predict(*upload, SMALL))
            if time.monotonic() - told_at > _SECONDS and len(answers) < len(files):
                told_at = time.monotonic()
                yield self.render_part("progress", len(answers), len(files))
        table = pd.DataFrame([answer.row for answer in answers], columns=self.service.predictor.columns)
        review = await asyncio.to_thread(self._render_review, answers)
        links = [
            base64.b64encode(text.encode(errors="surrogateescape")).decode() for text in (format_csv(table), review)
        ]
        yield self.render_part("batch", answers, self.service.predictor.run.classes, *links)

    async def _predict(self, file: Path, refusal: str, shown: tuple[int, int]) -> ImageAnswer:
        if refusal:
            return ImageAnswer({"path": file.name, "status": "error", "reason": refusal})
        try:
            return await self.service.predict(file, file.name, shown)
        finally:
            file.unlink()

    def _render_review(self, answers: Sequence[ImageAnswer]) -> str:
        predictor = self.service.predictor
        images = [
            ReviewedImage(answer.row, answer.sha256, answer.image, self.columns)
            for answer in answers
            if answer.image is not None
        ]
        failed = [(str(answer.row["path"]), str(answer.row["reason"])) for answer in answers if answer.image is None]
        return render_page(predictor, predictor.run.short_name, self.language, images, failed, has_paths=False)

    def _render_cards(self, answers: Sequence[ImageAnswer]) -> str:
        predictor = self.service.predictor
        with use_language(self.language):
            guarantee = " ".join(predictor.guarantees)
        return "".join(
            self.render_part(
                "card", answer, predictor.run.classes, predictor.is_calibrated, guarantee, self._describe(answer)
            )
            for answer in answers
        )

    def _describe(self, answer: ImageAnswer) -> list[tuple[str, str]]:
        if answer.row["status"] != "ok":
            return []
        with use_language(self.language):
            further = [pair for column in self.columns for pair in column.describe(answer.row, is_brief=True)]
            return [*self._worth.get(str(answer.row["prediction"]), ()), *describe_stability(answer.row), *further]

    def render_part(self, macro: str, *values: Any) -> str:
        """Return a part of the page by the name of its macro."""
        with use_language(self.language):
            return str(getattr(self._macros, macro)(*values))
