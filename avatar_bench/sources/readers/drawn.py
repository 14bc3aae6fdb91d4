"""Images that are drawn by a generator package or by this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from avatar_bench.config.options import option
from avatar_bench.sources.drawn_avatars import draw_avatars
from avatar_bench.sources.reader import SourceJob, SourceReader
from avatar_bench.sources.source_image import SourceImage


@dataclass(kw_only=True)
class DrawnImages(SourceReader):
    drawer: str = option(help="what draws: dicebear, multiavatar, python_avatars, or patterns of this package")
    count: int = option(help="images, of each style where there are any")
    styles: list[str] | None = option(None, help="of the drawer")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Draw `count` images, or as many of each of the `styles`; raise DataError if the package is missing."""
        drawn = draw_avatars(self.drawer, self.count, self.styles or ())
        return (image for image in drawn if image.name not in job.done)
