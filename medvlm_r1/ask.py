"""One question about one picture: the reasoning, the answer, and how sure the model is."""

from dataclasses import asdict, dataclass

import torch

from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import parse, render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.types import LETTERS, Completion, Example, Rollout, RolloutGroup


@dataclass(frozen=True)
class Answer:
    """What ``medvlm-r1 ask`` prints.

    ``option_probs``: after the thought that the model wrote, the probability of
    each letter inside the answer tag, among the letters offered.
    """

    reasoning: str
    answer: str | None
    answer_text: str
    status: str
    option_probs: dict[str, float]

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return asdict(self)


def ask(policy: Policy, image: str, question: str, options: tuple[str, ...], template: str, max_tokens: int) -> Answer:
    """Ask greedily. Free text (no options) is returned as ``answer_text``."""
    example = Example("ask", (image,), question, options, options[0] if options else "", "")
    completion = LocalEngine(policy).generate([render(example, template)], Sampling(1, 0.0, max_tokens))[0][0]
    read = parse(completion.text, len(options))
    status = read.status if completion.finished or read.answer else "truncated"
    text = options[LETTERS.index(read.answer)] if read.answer else completion.text.strip()
    probs = option_probs(policy, example, template, completion.text) if options else {}
    return Answer(read.think, read.answer, text, status, probs)


@torch.no_grad()
def option_probs(policy: Policy, example: Example, template: str, text: str) -> dict[str, float]:
    """Probability of each offered letter after ``<answer>``, given the thought in ``text``; they add up to 1."""
    thought = text.rpartition("<answer>")[0] or (text.rstrip() + "\n" if "</think>" in text else "")
    encode = policy.encoder.tokenizer
    rows = [tuple(encode(f"{thought}<answer>{letter}", add_special_tokens=False)["input_ids"]) for letter in LETTERS[: len(example.options)]]
    rollouts = tuple(Rollout(Completion(ids, (0.0,) * len(ids), "", True), {}) for ids in rows)
    batch = policy.encoder.groups([RolloutGroup(render(example, template), rollouts)])
    total_R = policy.logprobs(batch).sum(1)
    return {letter: p for letter, p in zip(LETTERS, total_R.softmax(0).tolist(), strict=False)}
