"""The report's page in a browser: the page of every macro, and a report as the command writes it."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.reporting.conftest import make_curve, write_result

pytestmark = pytest.mark.slow

ODD = "<script>alert(1)</script>"
FOLDER = "<img src=x onerror=alert(1)> & 'one', \"two\" = Ёж"
SIZES = ((360, "light"), (1600, "dark"))
OPEN_ALL = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
SCROLLED = "document.scrollingElement.scrollWidth"
RULES = {"resultTypes": ["violations"]}


@pytest.fixture(scope="module")
def report(tiny_run, tmp_path_factory):
    """The report of two copies of the tiny run, in folders with odd names, one class of which bears markup."""
    from avatar_bench.cli.app import main

    root = tmp_path_factory.mktemp("runs") / FOLDER
    run = shutil.copytree(tiny_run, root / "one", ignore=shutil.ignore_patterns("evaluation"))
    for data in ("test", "blind"):
        assert main(["evaluate", f"ckpt={run}", "block=[blind_test,calibration]", f"split={data}"]) == 0
        write_result(run, "decision", data, tables={"operating_curve": make_curve(data)})
    for file in (run / "evaluation").rglob("*.*"):
        if file.suffix in (".json", ".csv"):
            file.write_text(file.read_text(encoding="utf-8").replace("drawing", ODD), encoding="utf-8")
    shutil.copytree(run, root / "two <b>")
    file = root.parent / "report.html"
    assert main(["report", f"runs={root}", f"out={file}"]) == 0
    return file


@pytest.fixture(params=["demo", "report"])
def file(request):
    return Path(request.getfixturevalue(request.param))


def test_nothing_scrolls_sideways_and_axe_finds_no_serious_violation(visit, file, axe):
    page = visit(file)
    # axe gives up on contrast over a gradient, which is no more than a shade at the edge of a table
    page.evaluate("document.querySelectorAll('.region').forEach((part) => { part.style.background = 'none'; })")
    page.evaluate(f"() => {{ {axe}\n }}")
    for width, theme in SIZES:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
        assert page.evaluate(SCROLLED) <= width
        page.evaluate(OPEN_ALL)
        assert page.evaluate(SCROLLED) <= width
        violations = page.evaluate("(rules) => axe.run(document, rules)", RULES)["violations"]
        serious = [rule for rule in violations if rule["impact"] in ("serious", "critical")]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in serious] == []


def test_names_stay_text_and_the_first_link_skips_to_the_content(visit, file):
    page = visit(file)
    assert page.locator("body script, body img[onerror]").count() == 0
    assert ODD in page.locator("body").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_links_tables_and_models_of_a_report(visit, report):
    page = visit(report)
    links = page.evaluate("[...document.querySelectorAll('main a:not([href^=\"#\"], [download])')].map((a) => a.href)")
    assert links
    assert {urlsplit(link).scheme for link in links} == {"file"}
    assert [link for link in set(links) if not Path(unquote(urlsplit(link).path)).exists()] == []
    for head in page.locator("thead th").all():
        assert head.get_attribute("aria-sort") == "none"
    assert page.evaluate(
        "[...document.querySelectorAll('thead th button')].every((button) => {"
        " button.click(); return button.parentElement.getAttribute('aria-sort') !== 'none'; })"
    )
    before = page.locator("main [data-model]").count()
    page.locator("form.models input").first.check()
    assert 0 < page.locator("main [data-model]:not([hidden])").count() < before


def test_the_theme_is_the_systems_at_first_switches_and_is_remembered(visit, demo):
    page = visit(demo, theme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") is None
    assert page.locator("button.theme").get_attribute("aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.querySelector('.enlarge')).backgroundColor") == "rgb(255, 255, 255)"
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Dark theme").click()
    light = page.evaluate(ground)
    assert dark != light
    for _ in range(5):  # a busy machine may load the page anew before the browser has put the choice away
        page.reload()
        if page.evaluate(ground) == light:
            break
        page.wait_for_timeout(500)
    assert page.evaluate(ground) == light
    assert page.locator("button.theme").get_attribute("aria-pressed") == "false"
    page.locator("button.theme").press("Enter")
    assert page.evaluate(ground) == dark


def test_an_image_enlarges_gives_the_focus_back_and_arrows_go_through_a_wall(visit, demo):
    page = visit(demo)
    button = page.locator(".enlarge").first
    button.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog.viewer[open] img")
    assert shown.get_attribute("src") == button.locator("img").get_attribute("src")
    assert shown.get_attribute("alt") == button.locator("img").get_attribute("alt")
    assert shown.evaluate("(image) => image.getBoundingClientRect().bottom <= innerHeight")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert button.evaluate("(button) => document.activeElement === button")
    page.locator(".wall .enlarge").nth(1).click()
    shown = page.locator("dialog.viewer img")
    for press, alt in (("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 8), ("ArrowRight", 0)):
        page.keyboard.press(press)
        assert shown.get_attribute("alt") == f"image {alt}"
    assert page.locator("#viewer-caption").inner_text() == f"Caption 0 {ODD}"
    page.get_by_role("button", name="Full size").click()
    page.get_by_role("button", name="Close").click()
    assert page.locator("dialog[open]").count() == 0


def column(page, number):
    cells = page.locator(f"#board tbody tr > :nth-child({number})").all()
    return [cell.get_attribute("data-value") for cell in cells]


def test_a_table_sorts_numbers_as_numbers_blanks_last_equals_kept_in_three_states(visit, demo):
    page = visit(demo)
    names = page.locator("#board tbody th").all_inner_texts()
    high, low = "1.0 0.9 0.75 0.5 0.5 0.1 0.08 -0.2 ", "-0.2 0.08 0.1 0.5 0.5 0.75 0.9 1.0 "
    fast, late = "2.0 4.0 5.0 9.0 10.0 30.0 100.0  ", "100.0 30.0 10.0 9.0 5.0 4.0 2.0  "
    down, up = "descending", "ascending"
    for number, orders in ((3, {down: high, up: low}), (4, {up: fast, down: late})):
        head, before = page.locator(f"#board thead th:nth-child({number})"), column(page, number)
        for state, order in (orders | {"none": " ".join(before)}).items():
            head.get_by_role("button").press("Enter")
            assert head.get_attribute("aria-sort") == state
            assert " ".join(column(page, number)) == order
    for _ in range(2):
        page.locator("#board thead th:nth-child(5) button").click()
        assert page.locator("#board tbody th").all_inner_texts() == names
    assert page.locator("#board [aria-sort=descending]").count() == 1


def test_models_are_filtered_links_show_what_is_hidden_and_a_long_table_is_searched(visit, demo):
    page = visit(demo)
    page.get_by_role("checkbox", name=ODD).check()
    assert page.locator("form.models [role=status]").inner_text() == "1 of 9 models shown"
    assert page.locator("#board tbody tr:visible").count() == 1
    assert page.locator(".wall figure:visible").count() == 1
    assert page.locator("section[data-model]:visible h3").inner_text().strip() == ODD
    assert page.locator(".contents a:visible", has_text="lite0").count() == 0
    page.get_by_role("checkbox", name="lite0 frozen").check()
    assert page.locator("#board tbody tr:visible").count() == 2
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('#board tbody tr[hidden]').length === 0")
    assert page.locator("form.models [role=status]").inner_text() == "9 of 9 models shown"
    page.get_by_role("checkbox", name=ODD).check()
    page.evaluate("location.hash = '#model-1'")
    page.wait_for_function("document.querySelector('#model-1').checkVisibility()")
    assert page.get_by_role("checkbox", checked=True).count() == 0
    field = page.get_by_role("searchbox")
    field.fill("metrics RUN 13/")
    assert page.locator("#files tbody tr:visible").count() == 1
    assert page.locator("#files .search [role=status]").inner_text() == "1 of 40 rows"
    field.fill("")
    assert page.locator("#files tbody tr:visible").count() == 40


def test_sliders_by_keyboard_change_tables_and_an_address_that_shows_the_same(visit, report):
    page = visit(report, width=390, reduced_motion="reduce")
    threshold, prevalence = map(page.get_by_label, ("Threshold of the confidence", "Prevalence of the class"))
    page.get_by_label("Class", exact=True).select_option("real")
    threshold.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert prevalence.evaluate("(slider) => document.activeElement === slider")
    page.keyboard.press("Home")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert prevalence.get_attribute("aria-valuetext") == "0.001, 1 in 1000"
    assert page.locator(".operating output").all_inner_texts() == ["0", "0.001, 1 in 1000"]
    address = page.url
    assert address.endswith("#block-decision-operating-point?class=real&threshold=0&prevalence=0.001")
    table = page.locator("[data-curve]").first
    # of 1,000,000 images 900 (800 to 950) of 1,000 are called, and 9,990 (4,995 to 19,980) of the 999,000 others
    last = table.locator("tbody tr:visible").last
    assert last.locator(".value").all_inner_texts() == [f"{100 * 900 / 10_890:.2f}"] * 2
    ends = last.locator(".second").first.inner_text().split("–")
    assert [float(end) for end in ends] == pytest.approx([100 * 800 / 20_780, 100 * 950 / 5_945], rel=0.005)
    assert table.locator("tbody tr:visible").count() == 5
    texts = table.inner_text()
    page.keyboard.press("ArrowRight")
    assert table.inner_text() != texts
    page.evaluate(f"location.href = '{address}'")
    page.wait_for_function("(text) => document.querySelector('[data-curve]').innerText === text", arg=texts)
    assert page.evaluate("document.querySelector('#block-decision-operating-point').getBoundingClientRect().top") < 900
    page.evaluate("location.hash = '#block-decision-operating-point?class=none&threshold=x&prevalence=7'")
    page.wait_for_function("document.querySelectorAll('.operating output')[1].value.startsWith('0.5')")
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(SCROLLED) <= width
    page.emulate_media(media="print")
    assert page.locator(".operating:visible").count() == 0
    assert page.locator(".point").inner_text() == "At a threshold of 0 and a prevalence of 0.5"


def test_without_scripts_everything_is_there_and_nothing_dead(visit, report):
    page = visit(report, java_script_enabled=False)
    for summary in page.locator("main details:not([open]) > summary").all()[::-1]:
        summary.evaluate("(summary) => { summary.parentElement.open = true; }")
    assert page.locator("main table:visible").count() == page.locator("main table").count() > 0
    assert page.locator(".theme:visible, .search:visible, form:visible, dialog:visible").count() == 0
    assert page.locator(".point:visible").inner_text() == "At a threshold of 0.9 and a prevalence of 0.01"


def test_it_prints_light_and_what_stands_open(visit, file, tmp_path):
    page = visit(file, theme="dark", reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    printed = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 1
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".bar:visible, .side:visible, .search:visible").count() == 0
    assert page.locator(".fold[open] > div:not(:visible)").count() == 0
    assert page.locator(".fold:not([open]):visible").count() == 0
    page.set_viewport_size({"width": 680, "height": 960})  # the printed width of A4, in pixels
    assert page.evaluate(SCROLLED) <= 680
    cut = (
        "[...document.querySelectorAll('table')].filter((table) => table.offsetWidth > table.parentElement.clientWidth)"
    )
    assert page.evaluate(f"{cut}.map((table) => table.caption.textContent)") == []
