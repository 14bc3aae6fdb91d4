"""Avatars, icons and textures drawn as SVG by generator packages or this package, each reproducible from its seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from avatar_bench.config.options import option
from avatar_bench.errors import DataError
from avatar_bench.files.document import read_yaml
from avatar_bench.sources.reader import SourceImage, SourceJob, SourceReader, import_package


@dataclass(kw_only=True)
class DrawnImages(SourceReader):
    drawer: str = option(help="what draws: dicebear, multiavatar, python_avatars, or patterns of this package")
    count: int = option(help="images, of each style where there are any")
    styles: list[str] | None = option(None, help="of the drawer")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Draw `count` images as SVG, or as many of each of the `styles`; raise DataError for a missing package."""
        if self.drawer not in ("dicebear", *_DRAWERS):
            raise DataError(f"unknown drawer {self.drawer!r}.", f"Expected one of dicebear, {', '.join(_DRAWERS)}.")
        if self.drawer == "dicebear":
            drawn = _draw_dicebear(self.count, self.styles or ())
        else:
            named = ((number, *_DRAWERS[self.drawer](number)) for number in range(self.count))
            drawn = (_make_image(f"{number:03}_{subject}".rstrip("_"), svg) for number, subject, svg in named)
        return (image for image in drawn if image.name not in job.done)


def _draw_dicebear(count: int, styles: Sequence[str]) -> Iterator[SourceImage]:
    from unittest.mock import patch  # imports asyncio, which only styles of dicebear need

    dicebear, validator = import_package("dicebear"), import_package("dicebear.validator").StyleValidator
    for name in styles:
        definition = json.loads((files(import_package("dicebear_styles")) / f"{name}.json").read_text("utf-8"))
        with patch.object(validator, "validate"):  # takes .4 s for each style of its own package
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


def _make_image(name: str, svg: str) -> SourceImage:
    return SourceImage(name=f"{name}.svg", content=svg.encode())


PATTERN_SIDE = 256


def draw_icon(number: int) -> tuple[str, str]:
    """Draw an icon; return its subject and the SVG: one shape in one colour on a plain or round background."""
    chance = random.Random(f"icon-{number}")
    icons = read_yaml(Path(__file__).parents[1] / "icons.yaml")
    shape = list(icons)[number % len(icons)]
    ground, disc, ink = _draw_colours(chance, 3)
    size, turn = chance.uniform(4.5, 7.5), chance.uniform(-20, 20)
    round_ground = f'<circle cx="128" cy="128" r="{chance.uniform(95, 128):.0f}" fill="{disc}"/>'
    outline = ' stroke="#222" stroke-width=".8"' if chance.random() < 0.4 else ""
    placed = f"translate(128 128) rotate({turn:.0f}) scale({size:.1f}) translate(-12 -12)"
    path = f'<path d="{icons[shape]}" fill="{ink}" fill-rule="evenodd"{outline} transform="{placed}"/>'
    return shape, _format_svg(_format_rectangle(ground) + (round_ground if chance.random() < 0.6 else "") + path)


def draw_texture(number: int) -> tuple[str, str]:
    """Draw a texture; return its kind and the SVG: a surface evenly covered by one motif."""
    chance = random.Random(f"texture-{number}")
    kinds = {
        "stripes": _draw_stripes,
        "dots": _draw_dots,
        "tiles": _draw_tiles,
        "waves": _draw_waves,
        "shards": _draw_shards,
        "grain": _draw_grain,
    }
    kind = list(kinds)[number % len(kinds)]
    return kind, _format_svg(kinds[kind](chance))


def _draw_stripes(chance: random.Random) -> str:
    ground, *inks = _draw_colours(chance, chance.randint(2, 4))
    step, turn = chance.uniform(10, 40), chance.uniform(0, 180)
    widths = [chance.uniform(0.2, 0.8) * step for _ in inks]
    bars = [
        f'<rect x="{x * step - 192:.1f}" y="-192" width="{widths[x % len(inks)]:.1f}" height="640" '
        f'fill="{inks[x % len(inks)]}"/>'
        for x in range(int(640 / step) + 1)
    ]
    return f'{_format_rectangle(ground)}<g transform="rotate({turn:.0f} 128 128)">{"".join(bars)}</g>'


def _draw_dots(chance: random.Random) -> str:
    ground, *inks = _draw_colours(chance, 3)
    step = chance.uniform(16, 44)
    least, most = sorted(chance.uniform(0.1, 0.45) for _ in range(2))
    rows = range(int(PATTERN_SIDE / step) + 2)
    return _format_rectangle(ground) + "".join(
        f'<circle cx="{(x + (y % 2) / 2) * step:.1f}" cy="{y * step * 0.87:.1f}" '
        f'r="{chance.uniform(least, most) * step:.1f}" fill="{chance.choice(inks)}"/>'
        for y in rows
        for x in rows
    )


def _draw_tiles(chance: random.Random) -> str:
    ground, *inks = _draw_colours(chance, 4)
    wide, high = chance.uniform(20, 60), chance.uniform(14, 50)
    gap, shift = chance.uniform(0, 4), chance.uniform(0, 0.5)
    return _format_rectangle(ground) + "".join(
        f'<rect x="{(x - 1 + y * shift % 1) * wide:.1f}" y="{y * high:.1f}" width="{wide - gap:.1f}" '
        f'height="{high - gap:.1f}" fill="{chance.choice(inks)}"/>'
        for y in range(int(PATTERN_SIDE / high) + 1)
        for x in range(int(PATTERN_SIDE / wide) + 2)
    )


def _draw_waves(chance: random.Random) -> str:
    ground, *inks = _draw_colours(chance, 3)
    step, height, length = chance.uniform(10, 26), chance.uniform(4, 24), chance.uniform(30, 90)
    thick, turn = chance.uniform(2, 0.7 * step), chance.uniform(-30, 30)
    bends = f"q{length / 2:.0f} {height:.0f} {length:.0f} 0t{length:.0f} 0" + f"t{length:.0f} 0" * int(640 / length)
    lines = [
        f'<path d="M-192 {y * step - 96:.1f}{bends}" stroke="{inks[y % len(inks)]}"/>' for y in range(int(450 / step))
    ]
    placed = f'fill="none" stroke-width="{thick:.1f}" transform="rotate({turn:.0f} 128 128)"'
    return f"{_format_rectangle(ground)}<g {placed}>{''.join(lines)}</g>"


def _draw_shards(chance: random.Random) -> str:
    ground, *inks = _draw_colours(chance, 5)
    shards = []
    for _ in range(chance.randint(40, 120)):
        x, y, reach = chance.uniform(0, PATTERN_SIDE), chance.uniform(0, PATTERN_SIDE), chance.uniform(12, 55)
        corners = " ".join(
            f"{x + chance.uniform(-1, 1) * reach:.0f},{y + chance.uniform(-1, 1) * reach:.0f}" for _ in range(3)
        )
        shards.append(
            f'<polygon points="{corners}" fill="{chance.choice(inks)}" opacity="{chance.uniform(0.5, 1):.2f}"/>'
        )
    return _format_rectangle(ground) + "".join(shards)


def _draw_grain(chance: random.Random) -> str:
    (ground,) = _draw_colours(chance, 1)
    across, down = (10 ** chance.uniform(-2.2, -0.5) for _ in range(2))
    noise = f'<feTurbulence type="fractalNoise" baseFrequency="{across:.4f} {down:.4f}" numOctaves="4" '
    noise += f'seed="{chance.randrange(1000)}"/><feComponentTransfer><feFuncA type="linear" slope="0" intercept=".6"/>'
    return f'<filter id="f">{noise}</feComponentTransfer></filter>{_format_rectangle(ground)}' + (
        f'<rect width="{PATTERN_SIDE}" height="{PATTERN_SIDE}" filter="url(#f)"/>'
    )


def _draw_colours(chance: random.Random, count: int) -> list[str]:
    """Draw colours with well-separated hues."""
    first = chance.random()
    hues = [(first + (number + chance.uniform(-0.2, 0.2)) / count) % 1 for number in range(count)]
    return [f"hsl({360 * hue:.0f}, {chance.uniform(15, 90):.0f}%, {chance.uniform(20, 90):.0f}%)" for hue in hues]


def _format_rectangle(colour: str) -> str:
    return f'<rect width="{PATTERN_SIDE}" height="{PATTERN_SIDE}" fill="{colour}"/>'


def _format_svg(content: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PATTERN_SIDE} {PATTERN_SIDE}">{content}</svg>'


_DRAWERS: dict[str, Callable[[int], tuple[str, str]]] = {  # to the subject, if any, and the SVG of a number
    "python_avatars": _draw_python_avatar,
    "multiavatar": _draw_multiavatar,
    "icons": draw_icon,
    "textures": draw_texture,
}
