"""Reader of images that are drawn by a generator package or by this package."""

from __future__ import annotations

from collections.abc import Iterator

from avatar_bench.sources.drawn_avatars import draw_avatars
from avatar_bench.sources.readers.reader import SourceJob, SourceReader
from avatar_bench.sources.source_image import SourceImage


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Draw `count` images, or as many of each of the `styles`; raise DataError if the generator package is missing."""
    drawn = draw_avatars(job.source["drawer"], job.source["count"], job.source.get("styles") or ())
    return (image for image in drawn if image.name not in job.done)


DRAWN_READER = SourceReader(read, required=("drawer", "count"), optional={"styles": None})
