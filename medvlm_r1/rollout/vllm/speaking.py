"""One prompt and its completions as vLLM's token route speaks of them (``/inference/v1/generate``, vLLM 0.32): ids and log-probabilities, no text.

Pure functions of plain values.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from medvlm_r1.rollout.engine import Sampling

ROUTE = "inference/v1/generate"
BANNED = -100  # added to a logit: a probability of 4e-44


class Row(NamedTuple):
    """One completion: its tokens, what the sampler said of them, and the label of the weights that wrote each stretch of it."""

    ids: list[int]
    logprobs: list[float]
    labels: list[str]


def request(ids: Sequence[int], pictures: Sequence[str], sampling: Sampling, seed: int, banned: Collection[int], stop: Sequence[int]) -> dict[str, Any]:
    """The body that asks for all completions of one prompt; ``ids`` have one placeholder a picture, ``pictures`` are data URLs.

    vLLM gives row k of seed s what row 0 of seed s + k would get, so seeds of different prompts should lie apart.

    >>> body = request([5, 9, 6], ["data:…"], Sampling(n=2, max_tokens=8), 7, banned=[9], stop=[2])
    >>> body["content_parts"], body["sampling_params"]["logit_bias"], body["sampling_params"]["seed"]
    ([{'type': 'image_url', 'url': 'data:…'}], {9: -100}, 7)
    """
    params = {
        "n": sampling.n, "temperature": sampling.temperature, "top_p": 1.0, "top_k": 0, "max_tokens": sampling.max_tokens,
        "min_tokens": sampling.min_tokens, "seed": seed, "logprobs": 0, "logit_bias": dict.fromkeys(banned, BANNED),
        "stop_token_ids": list(stop), "detokenize": False,
    }  # fmt: skip
    parts = [{"type": "image_url", "url": url} for url in pictures]
    return {"token_ids": list(ids), "sampling_params": params, "return_token_ids": True, **({"content_parts": parts} if parts else {})}


def rows(answer: Any, n: int) -> list[Row]:
    """The completions in an answer. Raises ValueError where it is none, or was broken off.

    >>> choice = {"index": 0, "token_ids": [7, 2], "logprobs": {"content": [{"logprob": -0.5}, {"logprob": 0.0}]}, "finish_reason": "stop",
    ...           "weight_versions": [{"version": "a/3", "start": 0, "end": 2}]}
    >>> rows({"choices": [choice]}, n=1)
    [Row(ids=[7, 2], logprobs=[-0.5, 0.0], labels=['a/3'])]
    """
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        found = [
            Row(choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]], _labels(choice["weight_versions"])) for choice in choices
        ]
        broken = [choice["finish_reason"] for choice in choices if choice["finish_reason"] not in ("stop", "length")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no completions in it ({type(error).__name__}: {error})") from error
    if broken:
        raise ValueError(f'broken off ("{broken[0]}")')
    if len(found) != n or any(not row.ids or len(row.ids) != len(row.logprobs) for row in found):
        raise ValueError(f"{n} completions were asked for, and lengths are {[(len(row.ids), len(row.logprobs)) for row in found]}")
    return found


def _labels(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    return [span["version"] for span in spans if span["end"] > span["start"]]


def label(run: str, version: int) -> str:
    """What a server is told that its weights are called.

    >>> label("3f9a", 12), version_of("3f9a", label("3f9a", 12)), version_of("3f9a", "default"), version_of("3f9a", label("77aa", 12))
    ('3f9a/12', 12, None, None)
    """
    return f"{run}/{version}"


def version_of(run: str, text: str) -> int | None:
    """The policy's version in a label; None where it is not of this run: a server that was started again says "default"."""
    owner, _, version = text.partition("/")
    return int(version) if owner == run and version.isdecimal() else None


def difference(mine: Sequence[int], theirs: Sequence[int] | None) -> str:
    """Where two prompts part; "" where they do not.

    >>> difference([1, 2], [1, 2]), difference([1, 2, 3], [1, 5, 3]), difference([1], None)
    ('', 'token 1 is 2 here and 5 there, of 3 and 3', 'the server does not say its tokens')
    """
    if theirs is None:
        return "the server does not say its tokens"
    place = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    if place == len(mine) == len(theirs):
        return ""
    here, there = (ids[place] if place < len(ids) else "none" for ids in (mine, theirs))
    return f"token {place} is {here} here and {there} there, of {len(mine)} and {len(theirs)}"
