"""What an endpoint does not take of a request: learnt from its own refusal, once, told, and kept with every answer that it concerns.

All say that they speak one protocol, and each leaves out a part of it. What a request can do without is left out, or
called by its other name; the picture, the question and the beginning of an answer are not among it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from medvlm_r1.rollout.calling import Fault

RENAMED = {"max_tokens": "max_completion_tokens"}
FIELDS = ("top_p", "max_tokens", "seed", "temperature")  # the least harm first
MEANING = {
    "top_p": "is left out, so that the endpoint's own holds",
    "max_tokens": "is sent as max_completion_tokens, which may count hidden thoughts too",
    "seed": "is left out, so that drawn answers come out otherwise the next time",
    "temperature=1": "is sent as 1 in the place of 0, so that answers that should be greedy are drawn",
    "temperature": "is left out, so that all answers are drawn at the endpoint's own, those that should be greedy too",
}
_UNTAKEN = re.compile(
    r"unsupported|(?:not|n['’]t|no longer) (?:\w+ )?(?:support|permit|allow|accept|recogni|available)|unknown|unrecogni|unexpected"
    r"|extra (?:input|field|param)|extra_forbidden|forbidden|deprecated|cannot both|invalid (?:parameter|argument|field)|only the default",
    re.IGNORECASE,
)


def untaken(status: int, said: str) -> set[str]:
    """The fields that a refusal says are not taken. That a value is too large is another matter.

    >>> untaken(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
    {'max_tokens'}
    >>> untaken(422, '[{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]')
    {'seed'}
    >>> untaken(400, "'max_tokens' is too large: 512. This model's maximum context length is 400 tokens"), untaken(500, "unknown seed")
    (set(), set())
    """
    if status not in (400, 422) or not _UNTAKEN.search(said):
        return set()
    return {name for name in FIELDS if re.search(rf"\b{name}\b", said)}


@dataclass
class Dialect:
    """What one endpoint takes, as far as it is known. Many requests learn at once; ``say`` hears of each field once.

    >>> dialect, body = Dialect(print), {"seed": 1, "top_p": 1.0}
    >>> dialect.learn(Fault("status 400", 400, None, said="seed: unknown field"), body, body)
    the endpoint does not take "seed": it is left out, so that drawn answers come out otherwise the next time
    True
    >>> dialect.without
    ('seed',)
    """

    say: Callable[[str], None]
    _without: list[str] = field(default_factory=list)
    _taken: set[tuple[str, Any]] = field(default_factory=set)
    _lock: Any = field(default_factory=Lock)

    @property
    def without(self) -> tuple[str, ...]:
        """The fields that are not sent as they should be."""
        return tuple(self._without)

    def answered(self, sent: Mapping[str, Any]) -> None:
        """What was answered once is taken, whatever the words of a later refusal."""
        self._taken |= {_mark(name, sent) for name in FIELDS if name in sent}

    def learn(self, fault: Fault, body: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
        """Can the request ``body``, refused as it was ``sent``, be sent in another form? Of several fields, the one that matters least goes first."""
        named = untaken(fault.status, fault.said)
        with self._lock:
            if spoken(body, self.without) != sent:  # another request was faster
                return bool(named)
            refused = [name for name in FIELDS if name in named and name in sent and _mark(name, sent) not in self._taken]
            for name in refused[:1]:
                step = "temperature=1" if name == "temperature" and sent[name] != 1 else name
                self._without.append(step)
                self.say(f'the endpoint does not take "{name}": it {MEANING[step]}')
        return bool(refused)


def spoken(body: Mapping[str, Any], without: Collection[str]) -> dict[str, Any]:
    """A request as an endpoint takes it that does not take these fields.

    >>> spoken({"max_tokens": 64, "seed": 1, "top_p": 1.0}, ("seed", "max_tokens")), spoken({"temperature": 0.0}, ("temperature=1",))
    ({'top_p': 1.0, 'max_completion_tokens': 64}, {'temperature': 1})
    """
    renamed = {RENAMED[name]: body[name] for name in without if name in RENAMED and name in body}
    drawn = {"temperature": 1} if "temperature=1" in without and "temperature" in body else {}
    return {name: value for name, value in {**body, **drawn}.items() if name not in without} | renamed


def changed(body: Mapping[str, Any], without: Collection[str]) -> tuple[str, ...]:
    """The fields in which a request is not what it should be: to an answer drawn at 1, sending 1 makes no difference.

    >>> changed({"temperature": 0.0, "seed": 1}, ("temperature=1", "seed")), changed({"temperature": 1.0, "seed": 1}, ("temperature=1", "seed"))
    (('temperature=1', 'seed'), ('seed',))
    """
    return tuple(name for name in without if spoken(body, (name,)) != body)


def _mark(name: str, sent: Mapping[str, Any]) -> tuple[str, Any]:
    """A field that is taken; of temperature, which some take at 1 only, each value."""
    return name, sent[name] if name == "temperature" else None
