"""What the same questions are asked under: what the model is shown, how it is asked, after which thought it must answer.

An arm is a pure function from questions to prompts. Its prompts keep the
questions' ids; it may leave questions out (those without options, where it needs them), or ask one several times.
A new arm is one function and one line of ARMS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from medvlm_r1.audit.harden import harden
from medvlm_r1.data.partners import contraries, kind, partners
from medvlm_r1.data.views import viewed
from medvlm_r1.errors import ConfigError, DataError, nearest
from medvlm_r1.evaluation.asking.counterfactual import counterfactual
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.reasoning import WITHOUT_THOUGHT, parse, render
from medvlm_r1.types import Example, Prompt


@dataclass(frozen=True)
class Asked:
    """What an arm makes its prompts of; ``answered`` holds the "image" arm's samples by id.

    >>> Asked([Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")], "think").answered
    {}
    """

    examples: Sequence[Example]
    template: str
    answered: Mapping[str, Sample] = field(default_factory=dict)


def prompts_of(name: str, asked: Asked) -> list[Prompt]:
    """The prompts of an arm. Raises ConfigError for an unknown one, DataError where it can ask nothing."""
    if name not in ARMS:
        raise ConfigError(f'unknown arm "{name}"{nearest(name, ARMS)}')
    prompts = ARMS[name](asked)
    if not prompts:
        raise DataError(f'the arm "{name}" ({MEANINGS[name]}) can ask none of these questions; leave it out')
    return prompts


def _shown(view: str, asked: Asked) -> list[Prompt]:
    return [render(viewed(example, view), asked.template) for example in asked.examples]


def _mismatched(asked: Asked) -> list[Prompt]:
    other = partners(asked.examples, lambda e: (e.modality, len(e.images))) | contraries(asked.examples)
    return [render(replace(e, images=other[e.id].images), asked.template) for e in asked.examples if e.id in other]


def _rotated(asked: Asked) -> list[Prompt]:
    return [render(rotation, asked.template) for example in asked.examples for rotation in rotations(example)]


def _hard(asked: Asked) -> list[Prompt]:
    return [render(example, asked.template) for example in harden(asked.examples).examples if example.options]


def _without_thought(asked: Asked) -> list[Prompt]:
    template = WITHOUT_THOUGHT.get(asked.template)
    return [render(example, template) for example in asked.examples] if template else []


def _counterfactual(asked: Asked) -> list[Prompt]:
    return [render(changed, asked.template) for example in asked.examples if (changed := counterfactual(example))]


def _empty_thought(asked: Asked) -> list[Prompt]:
    return [_after(example, asked.template, "") for example in asked.examples]


def _half_thought(asked: Asked) -> list[Prompt]:
    return [_after(e, asked.template, half(thought)) for e in asked.examples if (thought := _thought(asked, e))]


def _swapped_thought(asked: Asked) -> list[Prompt]:
    thinking = [example for example in asked.examples if _thought(asked, example)]
    other = partners(thinking, kind)
    return [_after(e, asked.template, _thought(asked, other[e.id])) for e in thinking if e.id in other]


def _after(example: Example, template: str, thought: str) -> Prompt:
    return replace(render(example, template), opening=f"<think>{thought}</think>\n<answer>")


def _thought(asked: Asked, example: Example) -> str:
    sample = asked.answered.get(example.id)
    return parse(sample.text, len(example.options)).think if sample and sample.status != "failed" else ""


def half(thought: str) -> str:
    """The first half of the words.

    >>> half("The left lung is dark.")
    'The left'
    """
    words = thought.split()
    return " ".join(words[: len(words) // 2])


def rotations(example: Example) -> list[Example]:
    """The question with its options in every cyclic order, its own first.

    >>> [e.options for e in rotations(Example("q1", (), "Which?", ("a", "b", "c"), "b", "ct"))]
    [('a', 'b', 'c'), ('b', 'c', 'a'), ('c', 'a', 'b')]
    """
    return [replace(example, options=example.options[r:] + example.options[:r]) for r in range(len(example.options))]


ARMS: dict[str, Callable[[Asked], list[Prompt]]] = {
    "image": partial(_shown, "image"),
    "blank": partial(_shown, "blank"),
    "noise": partial(_shown, "noise"),
    "mismatch": _mismatched,
    "crop": partial(_shown, "crop"),
    "rotate": _rotated,
    "hard": _hard,
    "no-think": _without_thought,
    "empty-thought": _empty_thought,
    "half-thought": _half_thought,
    "swapped-thought": _swapped_thought,
    "counterfactual": _counterfactual,
}
FORCED = ("empty-thought", "half-thought", "swapped-thought")  # they begin the model's answer, and build on the arm "image"
