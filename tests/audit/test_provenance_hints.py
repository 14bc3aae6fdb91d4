"""Provenance hints of the audit, from the metadata of a file."""

from __future__ import annotations

from avatar_bench.audit.provenance_hints import HINTS, select_hints


def test_a_file_without_metadata_has_no_hint() -> None:
    assert select_hints({}) == dict.fromkeys(HINTS, "")


def test_texts_of_generators_come_first_and_unknown_ones_not_at_all() -> None:
    found = select_hints({"png:software": "x" * 500, "png:mood": "good", "png:prompt": '{"3": {}}'})
    assert found["png_text"] == 'prompt: {"3": {}}; software: ' + "x" * 80


def test_markup_and_control_characters_come_out_as_one_short_line() -> None:
    found = select_hints({"png:comment": "<b>\x1b[31m\r\n\tred\0" + "!" * 500, "exif:Make": "Canon\0\n"})
    assert found["png_text"].startswith("comment: <b> [31m red !!!")
    assert len(found["png_text"]) == len("comment: ") + 80
    assert found["exif_make"] == "Canon"


def test_the_state_of_a_manifest_is_told_with_what_it_states() -> None:
    found = select_hints({"c2pa:valid": "digitalArt; Image Maker; signed by Test Press"})
    assert found["c2pa"] == "valid: digitalArt; Image Maker; signed by Test Press"
