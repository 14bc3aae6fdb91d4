"""Readable names of columns, metrics and words in results."""

from pathlib import Path

import avatar_bench.results
from avatar_bench.config.entries import find_entries
from avatar_bench.files.document import read_yaml
from avatar_bench.i18n import LANGUAGES, use_language
from avatar_bench.results.declaration import declare_block, find_heading, find_interval_name, find_word
from avatar_bench.results.result import Metric

COMMON = read_yaml(Path(avatar_bench.results.__file__).with_name("headings.yaml"))


def test_a_heading_is_the_readable_name_of_a_column_in_the_current_language_and_block():
    headings = {"accuracy": "accuracy", "recall/real": "recall, real", "recall/%s": "recall, %s"}
    headings |= {"scaled/ece_15": "ECE, 15 bins", "ece_15": "raw ECE, 15 bins", "blind_test/accuracy": "accuracy"}
    headings |= {"corrected/accuracy/50-25-25": "accuracy, 50-25-25, corrected"}
    headings |= {"calibration/scaled/ece_15": "ECE, 15 bins", "gain/soft_vote": "gain in accuracy, soft vote"}
    headings |= {"null/iou_top20": "IoU of the top 20 %, null", "iou_top20/real": "IoU of the top 20 %, real"}
    headings |= {"latency_ms/b1": "latency, one image (ms)", "latency_ms/b32": "latency, batch of 32 (ms)"}
    headings |= {"auroc/cats/energy": "AUROC, cats, energy", "a_users_own/metric": "a_users_own/metric"}
    assert {name: find_heading(name) for name in headings} == headings
    names = ("noise", "brightness", "drop/noise")
    assert [find_heading(name, "robustness") for name in names] == ["noise", "brightness", "drop, noise"]
    assert find_heading("brightness", "data_audit") == "mean brightness"
    with use_language("ru"):
        assert find_heading("accuracy") == "доля верных ответов"
        assert find_heading("recall/real", "blind_test") == "полнота, настоящее фото"
        assert find_word("soft_vote") != "soft vote"
        assert find_interval_name(Metric(0.5, 9, 0.4, 0.6, "wilson")) != ""
    assert find_word("no word of ours") == "no word of ours"


def test_one_block_has_no_two_names_with_the_same_words_and_patterns_keep_their_place():
    headings = [COMMON["headings"], *(declare_block(block).headings for block in find_entries("block"))]
    for name, text in ((name, text) for known in headings for name, text in known.items()):
        assert text.count("%s") == name.count("%s"), name
    for language in LANGUAGES:
        with use_language(language):
            for block in find_entries("block"):
                names = {**COMMON["headings"], **declare_block(block).headings}
                words = [find_heading(name, block) for name in names if "%s" not in name]
                twice = {text for text in words if words.count(text) > 1} - {"run", "model", "модель"}
                assert sorted(twice) == [], (language, block)
