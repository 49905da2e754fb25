"""One call to an OpenAI-compatible endpoint: straight there, and its key in no message.

No redirect is followed: it would carry the key, and a patient's picture, to a host
that nobody named. An address on this machine is called past any proxy; for all others
the environment's ``https_proxy`` and ``no_proxy`` hold.
"""

import http.client
import ipaddress
import json
import math
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from medvlm_r1.errors import ConfigError, EngineError

PASSING = {408, 409, 429, 500, 502, 503, 504, 529}  # answers of a server that may answer better later
LONGEST_WAIT_S = 60.0
_SHOWN = 200  # characters of what a server says
_SHOWN_OF_ANSWER = 80  # and of an answer that cannot be read


class Fault(EngineError):
    """Why there is no answer. ``status``: the server's, 0 where it gave none.

    ``wait_s`` is how long it asks to be left alone, None where asking again cannot help.
    ``said``: the server's own words, longer than a sentence for a person should be.
    """

    def __init__(self, why: str, status: int = 0, wait_s: float | None = 0.0, said: str = "") -> None:
        super().__init__(why)
        self.status, self.wait_s, self.said = status, wait_s, said


class WebPage(Fault):
    """A page for people came in the place of an answer."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently.

    >>> Endpoint("http://127.0.0.1:8000/v1", "mine", "secret")
    Endpoint(url='http://127.0.0.1:8000/v1', model='mine', timeout_s=300.0, attempts=5, concurrency=16)

    Raises ConfigError for an address that holds more than a place, and for a key that no header can carry.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 300.0
    attempts: int = 5
    concurrency: int = 16
    key_name: str = field(default="MEDVLM_API_KEY", repr=False)  # the environment variable that holds the key

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018, it is read where it is asked for
        except ValueError as error:
            raise ConfigError(f'"{self.url}" is no address ({error}); write http://HOST:PORT/v1') from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f'"{self.url}" is no address; write http://HOST:PORT/v1')
        if "@" in parts.netloc or parts.query:  # it would stand in every file of the evaluation
            raise ConfigError(f'the address of "{parts.hostname}" holds a name, a password or a query; give the key as {self.key_name}')
        if not all("!" <= letter <= "~" for letter in self.key):
            raise ConfigError(f"the key in {self.key_name} holds a space, a line's end or a letter beyond ASCII; copy it again")

    @cached_property
    def opener(self) -> urllib.request.OpenerDirector:
        host = urlsplit(self.url).hostname or ""
        return urllib.request.build_opener(_NoDetour(), *([urllib.request.ProxyHandler({})] if is_here(host) else []))

    def hide(self, text: str) -> str:
        """The text without the key, as it is and as JSON writes it. Whoever cuts a text hides first: half a key is one too."""
        for form in (self.key, json.dumps(self.key)[1:-1]) if self.key else ():
            text = text.replace(form, "…")
        return text


class _NoDetour(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Leaves a redirect as the error that it is here."""


def is_here(host: str) -> bool:
    """Is that this machine?

    >>> [is_here(host) for host in ("localhost", "127.0.0.1", "::1", "10.0.0.7", "api.example.org")]
    [True, True, True, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def call(endpoint: Endpoint, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None) -> Any:
    """The JSON that the endpoint answers with, to a GET where there is no ``body``. Raises Fault where it gives none."""
    return _json(endpoint, _sent(endpoint, path, json.dumps(body).encode() if body else None, timeout_s))


def order(endpoint: Endpoint, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None) -> None:
    """A POST whose answer says nothing but that it was done. Raises Fault where it was not."""
    _sent(endpoint, path, json.dumps(body or {}).encode(), timeout_s)


def _sent(endpoint: Endpoint, path: str, data: bytes | None, timeout_s: float | None) -> bytes:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})
    patience_s = timeout_s or endpoint.timeout_s
    try:
        request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/{path}", data, headers)
        with endpoint.opener.open(request, timeout=patience_s) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise _refusal(endpoint, error) from error
    except TimeoutError as error:
        raise Fault(f"no answer within {patience_s:g} s ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Fault(endpoint.hide(f"no connection ({getattr(error, 'reason', error)})")) from error


def _json(endpoint: Endpoint, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        begins = " ".join(endpoint.hide(data[: 1 << 16].decode("utf-8", "replace")).split())[:_SHOWN_OF_ANSWER]
        if begins.startswith("<"):
            hint = "does the address end in /v1, and does no login stand before it?"
            raise WebPage(f'an answer that cannot be read, since it is a web page ("{begins}"); {hint}', 200) from error
        raise Fault(f'an answer that cannot be read ("{begins}": {error})', 200) from error


def served_model(url: str, key: str = "", timeout_s: float = 30.0) -> str:
    """The one model that an endpoint serves. Raises EngineError where there is none, or a choice."""
    try:
        names = [row["id"] for row in call(Endpoint(url, "", key), "models", timeout_s=timeout_s)["data"]]
    except (Fault, KeyError, TypeError) as error:
        raise EngineError(f'"{url}" does not list its models ({error}); is the server up, and does the address end in /v1?') from error
    if len(names) != 1:
        raise EngineError(f'"{url}" serves {", ".join(names) or "no model"}; name one: {url}#MODEL')
    return names[0]


def check_up(endpoint: Endpoint, timeout_s: float = 30.0) -> None:
    """Raises EngineError where nobody answers, or the key is refused. Any other answer will do: not all list their models."""
    try:
        call(endpoint, "models", timeout_s=timeout_s)
    except Fault as fault:
        if fault.status == 0:
            raise EngineError(f'"{endpoint.url}" does not answer: {fault}; is the server up, and does the address end in /v1?') from fault
        if fault.status == 401:
            raise EngineError(f'"{endpoint.url}" refuses the key: {fault}; set the environment variable {endpoint.key_name}') from fault
        if 300 <= fault.status < 400 or isinstance(fault, WebPage):
            raise EngineError(f'"{endpoint.url}" is not the place: {fault}') from fault


def _refusal(endpoint: Endpoint, error: urllib.error.HTTPError) -> Fault:
    """What the server says, without the key that some repeat."""
    place = error.headers.get("Location")
    said = _said(endpoint, error)
    why = f'it redirects to "{place}"; give that address' if place and 300 <= error.code < 400 else said[:_SHOWN]
    wait_s = _wanted_s(error.headers.get("Retry-After", "")) if error.code in PASSING else None
    if wait_s is not None and wait_s > LONGEST_WAIT_S:
        why, wait_s = f"{why}; it wants to be left alone for {wait_s:.0f} s", None
    return Fault(endpoint.hide(f"status {error.code} ({why})"), error.code, wait_s, said)


def _said(endpoint: Endpoint, error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as broken:
        text = f"cut off: {broken}"
    return " ".join(endpoint.hide(text).split()) or str(error.reason)


def _wanted_s(retry_after: str) -> float:
    """The header's seconds, or the seconds to its date; 0 where it says nothing (RFC 9110, 10.2.3).

    >>> _wanted_s("7"), _wanted_s("0.5"), _wanted_s(""), _wanted_s("soon"), _wanted_s("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, 0.5, 0.0, 0.0, 0.0)
    """
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            seconds = 0.0
    return max(0.0, seconds) if not math.isnan(seconds) else 0.0
