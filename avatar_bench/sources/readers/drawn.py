"""Avatars, icons and textures drawn as SVG by generator packages or this package, each reproducible from its seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from avatar_bench.config.options import option
from avatar_bench.errors import DataError
from avatar_bench.sources.drawn_patterns import draw_icon, draw_texture
from avatar_bench.sources.reader import SourceImage, SourceJob, SourceReader, import_package


@dataclass(kw_only=True)
class DrawnImages(SourceReader):
    drawer: str = option(help="what draws: dicebear, multiavatar, python_avatars, or patterns of this package")
    count: int = option(help="images, of each style where there are any")
    styles: list[str] | None = option(None, help="of the drawer")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Draw `count` images as SVG, or as many of each of the `styles`.

        Raise DataError for an unknown drawer or a missing package.
        """
        if self.drawer not in ("dicebear", *_DRAWERS):
            raise DataError(f"unknown drawer {self.drawer!r}.", f"Expected one of dicebear, {', '.join(_DRAWERS)}.")
        if self.drawer == "dicebear":
            drawn = _draw_dicebear(self.count, self.styles or ())
        else:
            named = ((number, *_DRAWERS[self.drawer](number)) for number in range(self.count))
            drawn = (_make_image(f"{number:03}_{subject}".rstrip("_"), svg) for number, subject, svg in named)
        return (image for image in drawn if image.name not in job.done)


def _draw_dicebear(count: int, styles: Sequence[str]) -> Iterator[SourceImage]:
    dicebear = import_package("dicebear")
    for name in styles:
        definition = json.loads((files(import_package("dicebear_styles")) / f"{name}.json").read_text("utf-8"))
        style, meta = dicebear.Style(definition), definition["meta"]
        for number in range(count):
            svg = dicebear.Avatar(style, {"seed": f"{name}-{number}"}).to_string()
            image = _make_image(f"{name}_{number:02}", svg)
            licence, author, url = meta["license"]["name"], meta["creator"]["name"], meta["source"]["url"]
            yield replace(image, group=name, licence=licence, author=author, url=url)


def _draw_python_avatar(number: int) -> tuple[str, str]:
    package = import_package("python_avatars")
    before = random.getstate()  # the package draws from the global generator
    random.seed(f"python_avatars-{number}")
    avatar = package.Avatar.random(style=package.AvatarStyle.TRANSPARENT)
    random.setstate(before)
    return "", avatar.render()


def _draw_multiavatar(number: int) -> tuple[str, str]:
    return "", import_package("multiavatar.multiavatar").multiavatar(f"multiavatar-{number}", None, None)


_DRAWERS: dict[str, Callable[[int], tuple[str, str]]] = {  # to the subject, if any, and the SVG of a number
    "python_avatars": _draw_python_avatar,
    "multiavatar": _draw_multiavatar,
    "icons": draw_icon,
    "textures": draw_texture,
}


def _make_image(name: str, svg: str) -> SourceImage:
    return SourceImage(name=f"{name}.svg", content=svg.encode())
