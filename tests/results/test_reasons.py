"""Reasons: codes with values, saved without language and shown in any."""

import json

import numpy as np

from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason, format_reason


def test_reasons_are_shown_in_the_current_language_and_read_back():
    few = Reason("few_images", name="real", n=3)
    assert format_reason(few, "blind_test").startswith("The set has only 3 images of class 'real'")
    assert format_reason(Reason("few_images", name="real", n=1), "blind_test").startswith("The set has only 1 image of")
    with use_language("ru"):
        forms = {format_reason(Reason("few_images", name="real", n=n), "blind_test") for n in (1, 3, 5)}
    assert len({text.replace("1", "n").replace("3", "n").replace("5", "n") for text in forms}) == 3
    inner = Reason("class_absent", name="a/б")
    reason = Reason("of_runs", runs=("x", "y"), reason=inner, n=np.int64(3))
    plain = {"code": "of_runs", "runs": ["x", "y"], "reason": {"code": "class_absent", "name": "a/б"}, "n": 3}
    assert reason.plain == plain
    assert Reason.parse(json.loads(json.dumps(reason.plain))) == reason
    assert Reason.parse_cell(str(reason)) == reason
    assert format_reason(reason) == "x, y: The set has no image of class a/б."
    assert Reason.parse_cell("plain text") is None
    assert Reason.parse_cell(float("nan")) is None
    reasons = [Reason("no_images_of_class"), Reason("never_predicted")]
    saved = Reason("of_block", block="blind_test", reason=reasons)
    assert Reason.parse_cell(str(saved)) == saved
    assert format_reason(saved, "overview") == "no image of this class in the set; the class is never predicted"
    assert format_reason(Reason("odd", of="x", n=2), "no_such_block") == "odd of=x n=2"  # a code without a sentence
