"""The page's files, as they lie in the package, under a policy that lets nothing in from elsewhere and nothing out."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from medvlm_r1.serving.app import Response, Route

POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:", "connect-src 'self'", "base-uri 'none'",
    "form-action 'none'", "frame-ancestors 'none'",
))  # fmt: skip
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def static() -> list[Route]:
    """A route for each file, which wants no key: nothing is looked up by what a client sends.

    >>> sorted(route.path for route in static())[:2]
    ['/', '/page/answer.js']
    """
    found = []
    for file in files("medvlm_r1.reading").joinpath("static").iterdir():
        kind = _KINDS.get(file.name[file.name.rfind(".") :])
        if kind:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            found.append(Route(path, _answer(file.read_bytes(), f"{kind}; charset=utf-8"), is_open=True))
    return found


def _answer(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return page
