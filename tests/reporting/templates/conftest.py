"""The macros of the report's page, and a small page made of all of them."""

import base64
import io

import pytest
from PIL import Image

from avatar_bench.files import html as pages
from avatar_bench.i18n import _
from avatar_bench.metrics import plots

ODD = "<script>alert(1)</script>"
MODELS = ["lite0 frozen", "lite0 progressive", ODD, 'a "quoted" & naïve, name=[1]', "mobilenetv2 · seed 2", *"fghi"]
DEMO = """{% import "report/macros.html.jinja" as ui %}
<!DOCTYPE html>
<html lang="en"><head>{{ ui.head(title) }}</head><body>
{% call ui.page(title, contents, models) %}
<h1>Which network is best?</h1>
{{ ui.note("answer", "Answer", body="None of them: " ~ odd) }}
{{ ui.facts([("Images", 300), ("Accuracy", {"value": 0.9, "low": 0.85, "high": 0.93, "floor": 0.33})]) }}
{% call ui.section("leaders", "Leader board") %}
{{ ui.table(columns, rows, "Models, best first", csv="files/leaders.csv", id="board", notes="How to read it.") }}
{% endcall %}
{% call ui.section("figures", "Figures") %}
{{ ui.figure(**image) }}
{{ ui.wall(wall, label="Errors") }}
{% endcall %}
{% call ui.section("models", "Models") %}
{% for label, color, marker in models %}
{% call ui.section("model-" ~ loop.index, label, 3, label, color, marker) %}
{% call ui.fold("Configuration") %}<p>lr: 3e-4</p>{% endcall %}
{% endcall %}
{% endfor %}
{% endcall %}
{% call ui.section("provenance", "Provenance") %}
{{ ui.note("care", "Read with care", items=[odd, "few images"]) }}
{{ ui.table(["file", "checkpoint", {"text": "n", "number": true}], files, "Where every number is from", id="files") }}
{% endcall %}
{% endcall %}
</body></html>"""


@pytest.fixture(scope="session")
def templates():
    """The environment that the macros ask for."""
    web = pages.build_html_environment()
    web.globals["_"] = _
    return web


@pytest.fixture(scope="session")
def demo(templates, tmp_path_factory):
    """A page of every macro: nine models with odd names, ties, blanks, reasons, a long table, a figure and a wall."""
    parts = [(f"model-{number}", name) for number, name in enumerate(MODELS, start=1)]
    html = templates.from_string(DEMO).render(
        title=f"Study {ODD}",
        odd=ODD,
        contents=[("leaders", "Leader board"), ("models", "Models", parts), ("provenance", "Provenance")],
        models=[(name, plots.get_colour(i), plots.get_marker(i)) for i, name in enumerate(MODELS)],
        columns=_columns(),
        rows=[_row(i, name) for i, name in enumerate(MODELS)],
        image=_image(0, 1000, 700) | {"png": "files/a.png", "svg": "files/a.svg"},
        wall=[_image(i, 120, 100) | {"model": MODELS[i], "tone": ("good", "stop")[i % 2]} for i in range(len(MODELS))],
        files=[[f"run {i}/evaluation/test/blind_test/metrics.json", "ab" * 32, i % 7] for i in range(40)],
    )
    file = tmp_path_factory.mktemp("demo") / "demo.html"
    file.write_text(html, encoding="utf-8")
    return file


def _columns():
    numbers = {"number": True}
    return [
        "model",
        {"text": "rank", "hint": "the same letter: statistically tied", "better": "lower"},
        {"text": "accuracy", "better": "higher", "start": 0.3} | numbers,
        {"text": "latency, ms", "digits": 1} | numbers,
        "score",
    ]


def _row(i, name):
    value = (0.9, 0.1, None, 0.5, 1.0, -0.2, 0.5, 0.75, 0.08)[i]
    accuracy = (
        {"value": value, "reason": "not evaluated"} if value is None else {"value": value, "low": 0.0, "high": 1.0}
    )
    rank = {"first": i + 1, "last": i + 2, "letters": "ab"}
    latency = (9.0, 10.0, 100.0, None, 2.0, 30.0, 4.0, None, 5.0)[i]
    name_cell = {"text": name, "color": plots.get_colour(i), "marker": plots.get_marker(i)}
    score = {"text": "complete", "tone": "good"}
    return {"cells": [name_cell, rank, accuracy | {"floor": 1 / 3}, latency, score], "model": name, "best": i == 0}


def _image(i, width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), plots.get_colour(i)).save(stream, "WEBP")
    src = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"src": src, "alt": f"image {i}", "caption": f"Caption {i} {ODD}", "width": width, "height": height}
