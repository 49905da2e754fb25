"""Does our server write what the local engine writes, token by token, whatever else it is asked meanwhile?

    .venv/bin/python benchmarks/served_equal.py --json benchmarks/results/served-equal.json                # alone for 50 seconds
    .venv/bin/python benchmarks/served_equal.py --alone-s 0 --json benchmarks/results/served-equal.json    # alone all 300

Every question is put over HTTP greedily and drawn with a seed, with 63 others under way, and alone. Each
completion must have the token ids that ``LocalEngine`` gives for this question.
"""

import argparse
import asyncio
import base64
import datetime
import io
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai

from medvlm_r1.data.images import load_image
from medvlm_r1.data.phantom import sets
from medvlm_r1.launch.loading import load_model
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.rollout.told import question
from medvlm_r1.types import Example

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from our_server import OurServer
from processes import commit, hardware, say, write_json

MODALITIES = ("mri", "ct", "xray")
MAX_TOKENS, DRAWN, SEEDS = 48, 2, 4
WAYS = ("greedy", "drawn")


@dataclass(frozen=True)
class Asked:
    """One question in one way."""

    example: Example
    sampling: Sampling
    stream: bool


def asked(n: int) -> list[Asked]:
    """Two ways for each of ``n`` held-out questions, modality after modality; every second answer comes as a stream."""
    examples = [example for modality in MODALITIES for example in sets.load(modality, "test")[: -(-n // len(MODALITIES))]][:n]
    ways = [Sampling(1, 0.0, MAX_TOKENS)], [Sampling(DRAWN, 1.0, MAX_TOKENS, seed=seed) for seed in range(SEEDS)]
    return [Asked(example, way[k % len(way)], k % 2 == 0) for way in ways for k, example in enumerate(examples)]


def here(everything: Sequence[Asked]) -> list[list[tuple[int, ...]]]:
    """The token ids of the local engine, asked for all questions of one sampling together."""
    policy = load_model("nano")
    engine, found = LocalEngine(policy), dict[int, list[tuple[int, ...]]]()
    for sampling in {each.sampling for each in everything}:
        places = [k for k, each in enumerate(everything) if each.sampling == sampling]
        examples = [everything[k].example for k in places]
        prompts = [render(replace(question("", each.question, each.options), images=each.images), policy.template) for each in examples]
        for k, completions in zip(places, engine.generate(prompts, sampling), strict=True):
            found[k] = [completion.token_ids for completion in completions]
    return [found[k] for k in range(len(everything))]


async def there(client: openai.AsyncOpenAI, each: Asked) -> list[tuple[int, ...]]:
    """The token ids that the server says it wrote."""
    data = io.BytesIO()
    load_image(each.example.images[0]).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": each.example.question}]
    chosen = each.sampling
    found: Any = await client.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": content}], n=chosen.n, temperature=chosen.temperature, max_tokens=chosen.max_tokens,
        seed=chosen.seed, stream=each.stream, extra_body={"medical": {"options": each.example.options, "token_ids": True}},
    )  # fmt: skip
    if not each.stream:
        return [tuple(choice.message.medical["token_ids"]) for choice in found.choices]
    ids = {}
    async for chunk in found:
        for choice in chunk.choices:
            if medical := getattr(choice.delta, "medical", None):
                ids[choice.index] = tuple(medical["token_ids"])
    return [ids[k] for k in range(chosen.n)]


async def served(url: str, everything: Sequence[Asked], at_once: int, seconds: float) -> dict[int, list[tuple[int, ...]]]:
    """Questions by their places, so many at a time, in order; none is begun after so many seconds."""
    until, found, todo = time.monotonic() + seconds, dict[int, list[tuple[int, ...]]](), iter(order(len(everything)))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))

        async def one() -> None:
            for k in todo:
                if time.monotonic() > until:
                    return
                found[k] = await there(client, everything[k])

        await asyncio.gather(*(one() for _ in range(at_once)))
    return found


def order(count: int) -> list[int]:
    """Spread over both ways and all modalities from the first on.

    >>> order(7)
    [0, 5, 3, 1, 6, 4, 2]
    """
    step = next(step for step in (97, 89, 7, 5, 3, 1) if math.gcd(step, count) == 1 and step < count)
    return [k * step % count for k in range(count)]


def compare(url: str, n: int, together: int = 64, alone_s: float = math.inf) -> dict[str, dict[str, Any]]:
    """For each way, among others and alone: how many questions have all their completions equal, token by token."""
    everything = asked(n)
    wanted = here(everything)
    found: dict[str, dict[str, Any]] = {}
    for name, at_once, seconds in ((f"among {together}", together, math.inf), ("alone", 1, alone_s)):
        got = asyncio.run(served(url, everything, at_once, seconds))
        for w, way in enumerate(WAYS):
            places = [k for k in sorted(got) if k // n == w]
            found[f"{way}, {name}"] = {
                "questions": len(places),
                "equal": sum(got[k] == wanted[k] for k in places),
                "tokens": sum(len(ids) for k in places for ids in got[k]),
                "unequal": [k for k in places if got[k] != wanted[k]],
            }
            say(f"{way}, {name}: {found[f'{way}, {name}']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--alone-s", type=float, default=50.0, help="how long questions are asked alone; 0 for all of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, OurServer("nano", Path(folder) / "log") as server:
        found = compare(server.url, args.questions, alone_s=args.alone_s or math.inf)
    holds = all(each["equal"] == each["questions"] for each in found.values())
    result = {
        "date": datetime.date.today().isoformat(), "command": shlex.join(["benchmarks/served_equal.py", *sys.argv[1:]]),
        "commit": commit(), "hardware": hardware(), "ways": found, "claim": {"all_equal": holds},
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
