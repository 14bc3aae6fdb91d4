"""Page of the app, on which images are dropped: a card for each image, and a table for many."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gradio
import pandas as pd
from fastapi import HTTPException

from avatar_bench.data.evidence.content_credentials import explain_unverified
from avatar_bench.data.evidence.evidence_rules import EVIDENCE, EVIDENCE_SAYS
from avatar_bench.files.csv_io import format_csv
from avatar_bench.files.html import build_html_environment
from avatar_bench.i18n import _, use_language
from avatar_bench.plugins.app.image_service import LARGE, SMALL, BusyError, ImageAnswer, ImageService
from avatar_bench.plugins.app.uploads import Uploads
from avatar_bench.reporting.decision_words import ask_question, describe_class, explain_phrases, phrase_prediction
from avatar_bench.reporting.model_accuracy import describe_accuracy, describe_model
from avatar_bench.reporting.review_page import PageContent, ReviewedImage, render_page, start_row
from avatar_bench.results.prediction_cautions import list_cautions
from avatar_bench.runs.decision_costs import ABSTAIN

MAX_CARDS = 12  # images shown one by one; of more, the table says more
_SECONDS = 0.4  # between two updates of the progress


class _Functions(dict[int, Any]):
    """Functions of the page by number, where gradio looks up any number of a request without a check."""

    def __missing__(self, number: int) -> Any:
        raise HTTPException(404, f"The page has no function {number}.")


class UploadPage:
    """Page in one language on which at most `most` images at once are dropped, answered by a service.

    `is_local` states that only this machine reaches it.
    """

    def __init__(self, service: ImageService, uploads: Uploads, language: str, most: int, is_local: bool) -> None:
        self.service, self.uploads, self.language, self.most = service, uploads, language, most
        self.is_local = is_local
        self.settings = service.predictor.settings
        environment = build_html_environment("avatar_bench.plugins.app")
        environment.globals |= {"_": _, "ABSTAIN": ABSTAIN, "phrase": phrase_prediction}
        environment.filters["class"] = describe_class
        self._macros = environment.get_template("app/answers.html.jinja").module

    def build(self, max_waiting: int) -> gradio.Blocks:
        """Return the page for gradio; at most `max_waiting` questions wait."""
        with (
            use_language(self.language),
            gradio.Blocks(title="avatar-bench", analytics_enabled=False, fill_width=False) as page,
        ):
            run = self.service.predictor.run
            question, words = ask_question(run.classes), "" if self.service.predictor.rule else explain_phrases()
            gradio.HTML(self._render("heading", question, run.name, self.is_local, words))
            with gradio.Tabs():
                with gradio.Tab(_("Images")):
                    self._add_tab(self._answer_each, _("Drop images, or click to choose"))
                with gradio.Tab(_("Batch")):
                    self._add_tab(self._answer_batch, _("Drop many images for a table"))
        page.default_config.fns = _Functions(page.default_config.fns)
        page.queue(max_size=max_waiting, default_concurrency_limit=4, api_open=False)
        return page

    @cached_property
    def cautions(self) -> list[str]:
        """Return the cautions in the language of the page."""
        has_evidence = self.settings.evidence.enabled
        accuracy = describe_accuracy(self.service.predictor.run)
        return [accuracy, *list_cautions(has_evidence), *(explain_unverified() if has_evidence else ())]

    def _add_tab(self, answer: Any, label: str) -> None:
        drop = gradio.File(file_count="multiple", label=label, height=140, elem_classes="ab-drop")
        # gradio would copy any file of this machine, or of another, that a question names; a class of our own in place
        # of its File would need a frontend of its own
        drop.move_resource_to_block_cache = self._find_upload  # type: ignore[method-assign]
        drop.async_move_resource_to_block_cache = self._find_upload_later  # type: ignore[method-assign]
        drop.preprocess = self._list_paths  # type: ignore[method-assign]  # its own leaves an empty file for each
        shown = gradio.HTML(self._render("cautions", self.cautions))
        # the field is emptied at the end, for the next images
        drop.upload(answer, drop, [shown, drop], show_progress="hidden", api_visibility="private")

    def _find_upload(self, path: Any) -> str | None:
        return str(self.uploads.find(str(path)))

    async def _find_upload_later(self, path: Any) -> str | None:
        return self._find_upload(path)

    def _list_paths(self, payload: Any) -> list[str]:
        files = payload.root if payload else []
        if len(files) > self.most:
            with use_language(self.language):
                text = _("Too many images at once: {n}, of at most {most}.", n=len(files), most=self.most)
            raise gradio.Error(text, print_exception=False)
        return [str(self._find_upload(file.path)) for file in files]

    async def _answer_each(self, paths: list[str]) -> AsyncIterator[tuple[str, Any]]:
        answers, left = [], max(0, len(paths) - MAX_CARDS)
        for path in paths[MAX_CARDS:]:
            self.uploads.delete(Path(path))
        async for answer, done, total in self._predict(paths[:MAX_CARDS], LARGE):
            answers.append(answer)
            if done < total:
                yield self._render_answers("progress", done, total) + self._render_cards(answers), gradio.skip()
        yield self._render_answers("too_many", left) + self._render_cards(answers), None

    async def _answer_batch(self, paths: list[str]) -> AsyncIterator[tuple[str, Any]]:
        answers, told = [], 0.0
        async for answer, done, total in self._predict(paths, SMALL):
            answers.append(answer)
            if time.monotonic() - told > _SECONDS and done < total:
                told = time.monotonic()
                yield self._render_answers("progress", done, total), gradio.skip()
        table = pd.DataFrame([one.row for one in answers], columns=self.service.predictor.columns)
        review = await asyncio.to_thread(self._render_review, answers)
        links = [
            base64.b64encode(text.encode(errors="surrogateescape")).decode() for text in (format_csv(table), review)
        ]
        yield self._render_answers("batch", answers, self.service.predictor.run.classes, *links), None

    def _render_review(self, answers: Sequence[ImageAnswer]) -> str:
        """Return the page for review that `predict output=FILE.html` writes."""
        predictor, evidence = self.service.predictor, self.settings.evidence.enabled
        run, is_decided = predictor.run, predictor.rule is not None
        with use_language(self.language):
            content = PageContent(
                name=run.name,
                run=run.name,
                classes=run.classes,
                n_files=len(answers),
                language=self.language,
                model=describe_model(run, predictor.is_calibrated),
                has_paths=False,
                target_error=self.settings.target_error,
                has_decisions=is_decided,
                has_evidence=evidence,
            )
            images = [
                ReviewedImage(one.row, one.sha256, start_row(str(one.row["path"]), one.sha256), one.image, None, ())
                for one in answers
                if one.image is not None
            ]
            failed = [(str(one.row["path"]), str(one.row["reason"])) for one in answers if one.image is None]
            return render_page(content, images, failed)

    async def _predict(
        self, paths: Sequence[str], shown: tuple[int, int]
    ) -> AsyncIterator[tuple[ImageAnswer, int, int]]:
        """Yield the answer on each upload, how many are done, and their number; delete all uploads."""
        places = [Path(path) for path in paths]
        try:
            for done, place in enumerate(places, start=1):
                try:
                    yield await self.service.predict(place, place.name, shown), done, len(places)
                except BusyError:
                    with use_language(self.language):
                        raise gradio.Error(
                            _("Too many people use the app at once. Try again."), print_exception=False
                        ) from None
                self.uploads.delete(place)
        finally:
            for place in places:
                self.uploads.delete(place)

    def _render_answers(self, macro: str, *values: Any) -> str:
        return self._render("cautions", self.cautions) + self._render(macro, *values)

    def _render_cards(self, answers: Sequence[ImageAnswer]) -> str:
        classes, is_calibrated = self.service.predictor.run.classes, self.service.predictor.is_calibrated
        return "".join(
            self._render("card", one, classes, is_calibrated, self.settings.target_error, self._list_evidence(one))
            for one in answers
        )

    def _list_evidence(self, answer: ImageAnswer) -> list[dict[str, str]] | None:
        """Return the evidence in a file; None if it was not asked for."""
        if EVIDENCE_SAYS not in answer.row or answer.row[EVIDENCE] is None:
            return None
        found: list[dict[str, str]] = json.loads(str(answer.row[EVIDENCE]))
        return found

    def _render(self, macro: str, *values: Any) -> str:
        with use_language(self.language):
            return str(getattr(self._macros, macro)(*values))
