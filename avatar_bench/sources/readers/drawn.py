"""Images that a generator package, or code of our own, draws."""

from __future__ import annotations

from collections.abc import Iterator

from avatar_bench.sources.drawn_avatars import draw
from avatar_bench.sources.readers.reader import Job, Kind
from avatar_bench.sources.source_image import SourceImage


def read(job: Job) -> Iterator[SourceImage]:
    """Draw `count` images, of each of the `styles` if there are any; raise DataError if the package is missing."""
    drawn = draw(job.source["drawer"], job.source["count"], job.source.get("styles") or ())
    return (image for image in drawn if image.name not in job.done)


KIND = Kind(read, required=("drawer", "count"), optional={"styles": None})
