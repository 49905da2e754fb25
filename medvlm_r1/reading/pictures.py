"""``POST /reading/picture``: a file's bytes in, its header and all its samples out. Nothing is kept, and nothing of a patient is told.

The answer is 4 bytes, the length of the header, little-endian; the header, JSON, padded with spaces so that the samples begin
at a multiple of 8; the samples, little-endian, as ``data.stack`` describes them. The file is opened in a child of the file
process, under its limits, by what opens it for the model.
"""

from typing import Protocol

from medvlm_r1.serving.app import Request, Response, Route
from medvlm_r1.serving.refusals import Refused

PATH = "/reading/picture"


class Opener(Protocol):
    """Whoever opens files."""

    async def whole(self, data: bytes) -> bytes:
        """Header and samples. Raises Refused."""
        ...


def route(files: Opener) -> Route:
    """For ``serving.app.build``."""

    async def picture(request: Request) -> Response:
        """A picture before its window, for the page."""
        body = await request.body()
        if not body:
            raise Refused(400, "the file is empty; choose another")
        return Response(await files.whole(body), media_type="application/octet-stream")

    return Route(PATH, picture, ("POST",))
