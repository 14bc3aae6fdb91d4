"""Page that classifies images in a browser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from avatar_bench.commands.export import ExportConfig
from avatar_bench.errors import GuardError
from avatar_bench.models.classifier import Classifier
from avatar_bench.runs.run import Run

_DEFAULT_TARGET_ERROR = 0.05  # of a page of a run whose calibration allows it


def prepare(run: Run, options: ExportConfig) -> Callable[[Classifier, Mapping[str, str]], dict[str, bytes]]:
    """Return the function that encodes the page of a network; print what a user must know of the page's decisions."""
    from avatar_bench.inference.export_formats import onnx
    from avatar_bench.plugins.app.browser_page import refuse_changed_images, render_page
    from avatar_bench.plugins.app.web_runtime import load_web_runtime
    from avatar_bench.runs.decisions import make_rule

    refuse_changed_images(run)
    rule = None
    is_asked = any(value is not None for value in (options.target_error, options.false_alarms, options.costs))
    try:
        rule = make_rule(run, options if is_asked else replace(options, target_error=_DEFAULT_TARGET_ERROR))
    except GuardError as error:
        if is_asked:
            raise
        print(f"The page makes no decisions: {error.lines[0]}", file=sys.stderr)
    for note in rule.notes if rule else ():
        print(note, file=sys.stderr)
    runtime = load_web_runtime(Path(options.web_runtime) if options.web_runtime else None)

    def encode(classifier: Classifier, texts: Mapping[str, str]) -> dict[str, bytes]:
        (network,) = onnx.encode(classifier, texts).values()
        return {".html": render_page(run, rule, runtime, options.lang, network, "large_page" in options.allow)}

    return encode
