"""Page that classifies images in a browser, which contains the network and sends nothing."""

from __future__ import annotations

import base64
import gzip
import io
import math
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

import avatar_bench
from avatar_bench.data import decoding
from avatar_bench.errors import ConfigError
from avatar_bench.files.html import build_html_environment
from avatar_bench.i18n import _, use_language
from avatar_bench.plugins.app.web_runtime import WebRuntime
from avatar_bench.reporting.prediction_words import (
    describe_model,
    describe_worth,
    explain_phrases,
    list_phrases,
    name_reasons,
    translate_class,
)
from avatar_bench.results.display import list_cautions
from avatar_bench.runs.decisions import (
    ABSTAIN,
    CONFIDENT,
    COST,
    FALSE_ALARMS,
    MAX_OOD_PERCENTILE,
    NEIGHBOURS,
    UNLIKE,
    UNSURE,
    DecisionRule,
)
from avatar_bench.runs.run import Run

MAX_PAGE_MB = 60  # of more, browsers on phones run out of memory


def refuse_changed_images(run: Run) -> None:
    """Raise ConfigError if a run encodes images again or masks them for its network, which a page cannot do."""
    for option, value in {"equalise": run.preprocessing.equalise, "mask": run.preprocessing.mask}.items():
        if value:
            raise ConfigError(
                f"{run.name} changes images by data.{option}={value}, which a page cannot do.",
                f"Train without data.{option}, or export the run as .onnx.",
            )


def render_page(
    run: Run, rule: DecisionRule | None, runtime: WebRuntime, language: str, network: bytes, allow_large: bool = False
) -> bytes:
    """Return the page of a run, whose `network` is its ONNX model.

    It decides by `rule`, if there is one. Raise ConfigError if the page is larger than MAX_PAGE_MB and `allow_large` is
    false.
    """
    environment = build_html_environment("avatar_bench.plugins.app")
    environment.globals |= {"_": _}
    environment.filters["class"] = translate_class
    vectors = rule.reference.embeddings.astype("<f4").tobytes() if rule and rule.reference else b""  # row by row
    blobs = {"network": _pack(network), "binary": _pack(runtime.binary), "reference": _pack(vectors)}
    with use_language(language):
        page = environment.get_template("checker.html.jinja").render(
            run=run,
            rule=rule,
            lang=language,
            settings=_collect_settings(run, rule) | {"worth": describe_worth(run)},
            reasons=name_reasons(),
            runtime=runtime,
            expression=Markup(runtime.expression),  # checked to end no script
            blobs=blobs,
            cautions=[
                *(rule.list_unmet() if rule else ()),
                describe_model(run, run.predictor.is_calibrated),
                *list_cautions(),
            ],
            explained="" if rule else explain_phrases(),
            formats=list(decoding.FORMATS),
            version=avatar_bench.__version__,
        )
    if len(page) > MAX_PAGE_MB * 10**6 and not allow_large:
        raise ConfigError(
            f"The page of {run.name} would be {len(page) / 1e6:.0f} MB; above {MAX_PAGE_MB} MB many browsers fail.",
            "Export a smaller network, or set allow=[large_page].",
        )
    return page.encode()


def _collect_settings(run: Run, rule: DecisionRule | None) -> dict[str, Any]:
    preprocessing = run.preprocessing
    return {
        "classes": list(run.classes),
        "names": list(map(translate_class, run.classes)),
        "phrases": list_phrases(),
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "temperature": run.temperature,
        "rule": _describe_rule(rule) if rule else None,
        # JavaScript has no flags within a pattern
        "patterns": {
            name: pattern.decode("latin-1").replace("(?i:", "(?:") for name, pattern in decoding.SIGNATURES.items()
        },
        "formats": {
            name: dict(zip(("bytes", "pixels"), decoding.find_limits(name), strict=True))
            | {"example": _draw_example(name)}
            for name in decoding.FORMATS
        },
    }


def _describe_rule(rule: DecisionRule) -> dict[str, Any]:
    return {
        "thresholds": [value if math.isfinite(value) else None for value in rule.values],
        "guarantee": rule.describe_guarantee(),
        "costs": rule.costs.tolist() if rule.costs is not None else None,
        "set_score": rule.set_score if rule.set_score is None else min(rule.set_score, 1.0),  # infinite: all classes
        "distances": np.sort(rule.reference.distances).tolist() if rule.reference else None,
        "neighbours": NEIGHBOURS,
        "max_percentile": MAX_OOD_PERCENTILE,
        "abstain": ABSTAIN,
        "reasons": {
            "confident": CONFIDENT,
            "unsure": UNSURE,
            "unlike": UNLIKE,
            "cost": FALSE_ALARMS if rule.alarm else COST,
        },
    }


def _pack(data: bytes) -> Markup:
    return Markup(base64.b64encode(gzip.compress(data, 9, mtime=0)).decode())


def _draw_example(name: str) -> str:
    # an image of one pixel, by which the page finds out whether its browser reads the format
    Image.new("RGB", (1, 1), "white").save(stream := io.BytesIO(), name)
    return base64.b64encode(stream.getvalue()).decode()
