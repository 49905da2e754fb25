"""One question about one picture: the reasoning, the answer, and how sure the model is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from medvlm_r1.errors import EngineError
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.engines import local
from medvlm_r1.rollout.guarded import NOT_FINITE, TOKENS_AT_ONCE, Guarded, parts
from medvlm_r1.rollout.told import CONTRADICTED, Warned, tell
from medvlm_r1.types import LETTERS, Completion, Example, Prompt, Rollout, RolloutGroup


@dataclass(frozen=True)
class Answer:
    """What ``medvlm-r1 ask`` prints.

    ``answer_text``: the chosen option, or free text where no options were given;
    empty where nothing could be read. ``text`` is all that the model wrote.
    ``option_probs``: after the thought that the model wrote, the probability of
    each letter inside the answer tag, among the letters offered; withheld where the
    answer contradicts the thought (``told``): a number beside it would be taken for its truth.
    """

    reasoning: str
    answer: str | None
    answer_text: str
    status: str
    option_probs: dict[str, float]
    text: str
    written: str = ""
    warnings: tuple[Warned, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def ask(policy: Policy, example: Example, template: str, max_tokens: int, seen: Callable[[str], None] | None = None) -> Answer:
    """Ask greedily; ``seen`` is called with all that is written so far. Raises EngineError where there is no answer."""
    prompt = render(example, template)
    engine = local(policy, seen=(lambda ids: seen(policy.encoder.thoughts.said(ids, prompt, whole=False))) if seen else None)
    completion = Guarded(engine, policy.encoder).generate([prompt], Sampling(1, 0.0, max_tokens))[0][0]
    if completion.error:
        raise EngineError(completion.error)
    told = tell(completion.text, prompt, completion.finished)
    if told.status == CONTRADICTED or not example.options:
        return Answer(option_probs={}, text=completion.text, **vars(told))
    [probs] = option_probs(policy, [prompt], [completion.text])
    if not all(map(math.isfinite, probs)):
        raise EngineError(NOT_FINITE)
    return Answer(option_probs=dict(zip(LETTERS, probs, strict=False)), text=completion.text, **vars(told))


@torch.no_grad()
def option_probs(policy: Policy, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[tuple[float, ...]]:
    """For each prompt the probability of every offered letter after ``<answer>``, given the thought in its text; they add up to 1."""
    asked = [prompt for prompt in prompts if prompt.example.options]
    if not asked:
        return [()] * len(prompts)
    groups = [RolloutGroup(prompt, _letters(policy, prompt, text)) for prompt, text in zip(prompts, texts, strict=True) if prompt.example.options]
    sized = [(group, policy.tokens_of(group)) for group in groups]
    total_R = torch.cat([policy.logprobs(policy.encoder.groups(part)).sum(1) for part in parts(sized, TOKENS_AT_ONCE)])
    probs = iter(total_R.split([len(prompt.example.options) for prompt in asked]))
    return [tuple(next(probs).softmax(0).tolist()) if prompt.example.options else () for prompt in prompts]


def letter_place(policy: Policy, prompt: Prompt, text: str, ids: Sequence[int]) -> tuple[int, tuple[int, ...]] | None:
    """Where among the tokens of a completion its letter stands, and the token of every letter offered.

    None where ``option_probs`` would ask otherwise than the tokens were written: the letter is missing, or the text has other tokens too.
    """
    rows = [rollout.completion.token_ids for rollout in _letters(policy, prompt, text)]
    *before, _ = rows[0]
    if any(row[:-1] != tuple(before) for row in rows) or list(ids[: len(before)]) != before or len(ids) == len(before):
        return None
    return len(before), tuple(row[-1] for row in rows)


@torch.no_grad()
def probs_from(policy: Policy, states: Sequence[torch.Tensor], letters: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
    """What ``option_probs`` gives, from the states (H,) that the letters were written from: no pass over anything."""
    logprobs_NV = policy.log_softmax(torch.stack(list(states)))
    return [tuple(logprobs_V[list(ids)].softmax(0).tolist()) for logprobs_V, ids in zip(logprobs_NV, letters, strict=True)]


def _letters(policy: Policy, prompt: Prompt, text: str) -> tuple[Rollout, ...]:
    """The completions that differ in nothing but the letter."""
    thought = text.rpartition("<answer>")[0] or (text.rstrip() + "\n" if "</think>" in text else "")
    before = "" if prompt.bare else f"{thought}<answer>"
    before = policy.encoder.thoughts.behind(before, prompt)
    texts = [before + letter for letter in LETTERS[: len(prompt.example.options)]]
    rows = policy.encoder.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return tuple(Rollout(Completion(tuple(ids), (0.0,) * len(ids), "", True), {}) for ids in rows)
