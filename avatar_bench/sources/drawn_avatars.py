"""Drawn avatars, icons and textures as SVG, each reproducible from its seed."""

from __future__ import annotations

import importlib
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from types import ModuleType

from PIL import Image

from avatar_bench.errors import DataError
from avatar_bench.sources.drawn_patterns import draw_icon, draw_texture
from avatar_bench.sources.source_image import SourceImage

RASTER_WIDTH = 256  # pixels, the largest size of an equalised image


def draw_avatars(drawer: str, count: int, styles: Sequence[str] = ()) -> Iterator[SourceImage]:
    """Draw `count` images as SVG (of each style, if the drawer has styles).

    Raise DataError for an unknown drawer or a missing package.
    """
    drawers: dict[str, Callable[[], Iterator[SourceImage]]] = {
        "dicebear": lambda: _draw_dicebear(count, styles),
        "python_avatars": lambda: _draw_python_avatars(count),
        "multiavatar": lambda: _draw_multiavatars(count),
        "icons": lambda: _draw_patterns(draw_icon, count),
        "textures": lambda: _draw_patterns(draw_texture, count),
    }
    if drawer not in drawers:
        raise DataError(f"unknown drawer {drawer!r}.", f"Expected one of {', '.join(drawers)}.")
    return drawers[drawer]()


def rasterise(svg: str, width: int = RASTER_WIDTH) -> Image.Image:
    """Render an SVG as an RGBA image of `width` pixels; raise ValueError if it is not an SVG.

    System fonts are excluded, so that drawings look the same on every machine.
    """
    resvg = _import_package("resvg_py")
    return Image.open(io.BytesIO(bytes(resvg.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True))))


def _draw_dicebear(count: int, styles: Sequence[str]) -> Iterator[SourceImage]:
    dicebear = _import_package("dicebear")
    for name in styles:
        definition = json.loads((files(_import_package("dicebear_styles")) / f"{name}.json").read_text("utf-8"))
        style, meta = dicebear.Style(definition), definition["meta"]
        for number in range(count):
            svg = dicebear.Avatar(style, {"seed": f"{name}-{number}"}).to_string()
            image = _make_image(f"{name}_{number:02}", svg)
            licence, author, url = meta["license"]["name"], meta["creator"]["name"], meta["source"]["url"]
            yield replace(image, group=name, licence=licence, author=author, url=url)


def _draw_python_avatars(count: int) -> Iterator[SourceImage]:
    package = _import_package("python_avatars")
    for number in range(count):
        before = random.getstate()  # the package draws from the global generator
        random.seed(f"python_avatars-{number}")
        avatar = package.Avatar.random(style=package.AvatarStyle.TRANSPARENT)
        random.setstate(before)
        yield _make_image(f"{number:03}", avatar.render())


def _draw_multiavatars(count: int) -> Iterator[SourceImage]:
    package = _import_package("multiavatar.multiavatar")
    for number in range(count):
        yield _make_image(f"{number:03}", package.multiavatar(f"multiavatar-{number}", None, None))


def _draw_patterns(draw_one: Callable[[int], tuple[str, str]], count: int) -> Iterator[SourceImage]:
    for number in range(count):
        kind, svg = draw_one(number)
        yield _make_image(f"{number:03}_{kind}", svg)


def _make_image(name: str, svg: str) -> SourceImage:
    return SourceImage(name=f"{name}.svg", content=svg.encode())


def _import_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"drawing needs the package {name.partition('.')[0]}, which is not installed.",
            "Install the demo's packages: pip install 'avatar-bench[demo]'",
        ) from error
