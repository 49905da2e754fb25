"""One question about one picture: the reasoning, the answer, and how sure the model is."""

from dataclasses import asdict, dataclass

import torch

from medvlm_r1.errors import ConfigError
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import parse, render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.types import LETTERS, Completion, Example, Rollout, RolloutGroup


@dataclass(frozen=True)
class Answer:
    """What ``medvlm-r1 ask`` prints.

    ``answer_text``: the chosen option, or free text where no options were given;
    empty where nothing could be read. ``text`` is all that the model wrote.
    ``option_probs``: after the thought that the model wrote, the probability of
    each letter inside the answer tag, among the letters offered.
    """

    reasoning: str
    answer: str | None
    answer_text: str
    status: str
    option_probs: dict[str, float]
    text: str

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return asdict(self)


def question(image: str, text: str, options: tuple[str, ...]) -> Example:
    """What a user asks, as an example without a known answer.

    Raises ConfigError for an empty question, and for options that are no choice: fewer than
    two, more than there are letters, empty or repeated ones. No options at all ask for free text.
    """
    if not text.strip():
        raise ConfigError("the question is empty; put it in quotes after the image")
    if options and not 2 <= len(options) <= len(LETTERS):
        raise ConfigError(f"--options wants 2 to {len(LETTERS)} answers, got {len(options)}; leave it out to ask for free text")
    if len({option.strip() for option in options} - {""}) < len(options):
        raise ConfigError("--options holds an empty or a repeated answer; every letter needs its own")
    return Example("ask", (image,), text, options, options[0] if options else "", "")


def ask(policy: Policy, example: Example, template: str, max_tokens: int) -> Answer:
    """Ask greedily."""
    completion = LocalEngine(policy).generate([render(example, template)], Sampling(1, 0.0, max_tokens))[0][0]
    read = parse(completion.text, len(example.options))
    status = read.status if completion.finished or read.answer else "truncated"
    if not example.options:
        body = completion.text.rpartition("</think>")[2].rpartition("<answer>")[2].partition("</answer>")[0].strip()
        return Answer(read.think, None, body, "answered" if completion.finished and body else status, {}, completion.text)
    text = example.options[LETTERS.index(read.answer)] if read.answer else ""
    return Answer(read.think, read.answer, text, status, option_probs(policy, example, template, completion.text), completion.text)


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
