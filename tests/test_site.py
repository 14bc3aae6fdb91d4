"""The documentation site: it builds without a problem, and every page of it works in a browser."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKED = ("", "tutorial/", "options/", "commands/train/", "studies/transformers/", "python/")  # by axe-core
ADDRESSES = "[...document.querySelectorAll('a[href], img[src]')].map(each => each.href || each.src)"
SERIOUS = """async () => (await axe.run({resultTypes: ["violations"]})).violations
    .filter(each => ["serious", "critical"].includes(each.impact)).map(each => [each.id, each.nodes[0].html])"""


def list_pages(nav):
    for entry in nav:
        for page in entry.values():
            yield from [page] if isinstance(page, str) else list_pages(page)


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = [file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")]
    assert sorted(list_pages(nav)) == sorted(pages)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built; a broken link or a missing image is an error."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "site"


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def find_missing(site, address, links):
    """Return the links into the site that lead to no file, or to no place in it."""
    collected = []
    for link in {link for link in links if link.startswith(address)}:
        path, _, name = link.removeprefix(address).partition("#")
        file = site / path / "index.html" if (site / path).is_dir() else site / path
        if not file.is_file() or (name and f'id="{name}"' not in file.read_text(encoding="utf-8")):
            collected.append(link)
    return collected


@pytest.mark.slow
def test_every_page_works_and_asks_nothing_of_others(site, address, chromium):
    page, heard = chromium.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda said: heard.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda sent: sent.url.startswith((address, "data:", "blob:")) or heard.append(sent.url))
    page.on("response", lambda got: got.status < 400 or heard.append(got.url))
    pages = sorted(file.parent.relative_to(site).as_posix() for file in site.rglob("index.html"))
    assert len(pages) > 50
    for path in pages:
        page.goto(address + ("" if path == "." else f"{path}/"))
        assert find_missing(site, address, page.evaluate(ADDRESSES)) == [], path
        assert heard == [], path


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_axe_finds_no_serious_violation(address, chromium, axe, width):
    page = chromium.new_page(viewport={"width": width, "height": 900})
    for path in CHECKED:
        page.goto(address + path)
        page.evaluate(f"{axe}; 0")
        assert page.evaluate(SERIOUS) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
