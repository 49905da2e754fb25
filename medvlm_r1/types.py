"""The whole vocabulary of the project; each noun shows one instance of itself.

Shapes are in the names, here and everywhere:
P prompts, G rollouts of one prompt, R = sum of all rollouts in a batch,
L prompt tokens, C completion tokens, V vocabulary, N images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever only reads pictures or manifests does without torch
    import torch

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Example:
    """One question about one or more images: a line of a manifest.

    ``images`` are references that ``data.images.load_image`` opens: a path, or
    ``phantom:…`` for a picture that is drawn when it is asked for.
    ``group`` is what a split must not cut (patient, study, document).
    ``reasoning`` is a gold trace where one is known; no reward ever reads it.
    ``split`` is the part that the source puts it in ("train", "test"), if any.

    >>> Example(id="mri-00017", images=("images/00017.png",), question="Which side is the lesion on?",
    ...         options=("left", "right"), answer="right", modality="mri").letter
    'B'
    """

    id: str
    images: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    modality: str
    question_type: str = ""
    group: str = ""
    source: str = ""
    reasoning: str = ""
    split: str = ""

    @property
    def letter(self) -> str:
        """The gold letter, or "" for a question without options."""
        return LETTERS[self.options.index(self.answer)] if self.options else ""


@dataclass(frozen=True)
class Prompt:
    """A question as the model is asked it: the text of the user turn that follows the images.

    ``opening`` is what the completion is made to begin with; an engine writes what follows it.
    ``bare``: the text asks for the answer alone, without tags.
    ``thinks``: whether it asks for a thought before the answer; None where it says nothing of it.
    ``first``: the number of its first completion among all of this question's in the step; random numbers go by it.
    ``view``: which of a run's views it is shown under, "" for the first.
    ``max_tokens``: the most that a completion may have, for what depends on it; 0 where nobody said.
    ``system``: what a turn before the user's says; "" leaves that to the chat template.
    ``asked``: what of the text is the asker's, where it is not ``reasoning.asked``.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> Prompt(e, "Which plane?\\nA) axial\\nB) coronal\\nAnswer only.").example.letter
    'A'
    """

    example: Example
    text: str
    opening: str = ""
    bare: bool = False
    thinks: bool | None = None
    first: int = 0
    max_tokens: int = 0
    view: str = ""
    system: str = ""
    asked: str = ""


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt, token by token.

    ``logprobs`` are those of the sampler, natural logarithm, one per token; an
    endpoint that gives text alone leaves both empty.
    ``finished`` is False when the token limit cut it off.
    ``error`` says why there is no answer where an engine gave none.
    ``without``: what of the request an endpoint did not take, so that it was asked otherwise.
    ``version``: the policy's when it gave the weights that wrote this; the oldest where several did.

    >>> Completion((7, 8, 2), (-0.1, -0.2, -0.01), "<answer>B</answer>", finished=True).finished
    True
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool
    error: str = ""
    without: tuple[str, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class Rollout:
    """A completion and what it earned, part by part.

    >>> c = Completion((7,), (-0.1,), "<answer>B</answer>", finished=True)
    >>> Rollout(c, {"format": 0.0, "accuracy": 1.0}).reward
    1.0
    """

    completion: Completion
    rewards: dict[str, float]

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())


@dataclass(frozen=True)
class RolloutGroup:
    """The G rollouts of one prompt: what an advantage is relative to.

    ``min_tokens``: none of them could end before; what stops a completion had no probability there.
    ``weight``: what their advantages weigh; of 0 nothing is learnt, not even to stay near the reference.

    >>> c = Completion((7,), (-0.1,), "<answer>A</answer>", finished=True)
    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> RolloutGroup(Prompt(e, "…"), (Rollout(c, {"accuracy": 1.0}), Rollout(c, {"accuracy": 0.0}))).rewards_G
    [1.0, 0.0]
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    min_tokens: int = 0
    weight: float = 1.0

    @property
    def rewards_G(self) -> list[float]:
        return [rollout.reward for rollout in self.rollouts]


@dataclass(frozen=True)
class PromptBatch:
    """P encoded prompts, each once, padded on the right. ``models.encode`` makes it.

    ids_PL, mask_PL: token ids and 1 where a token is real.
    position_ids_3PL: positions (time, height, width), all equal for a model that just counts.
    next_position_P: the position of the first token after each prompt.
    pixels: each of N images' (patches, or tiles, …); grid_N3: how many of each image, as a grid (t, h, w).
    pixel_keys: one content hash per image, in order of appearance; equal keys, equal pixels.
    slots: for each image slot of the batch in order, the row of grid_N3 that fills it.
    placed: what of it was sent to a device (models.passes).
    whole: for a model without a family, the prompts themselves (models.general_encoder).
    """

    ids_PL: torch.Tensor
    mask_PL: torch.Tensor
    position_ids_3PL: torch.Tensor
    next_position_P: torch.Tensor
    pixels: tuple[torch.Tensor, ...]
    grid_N3: torch.Tensor | None
    pixel_keys: tuple[str, ...] = ()
    slots: tuple[int, ...] = ()
    whole: tuple[Prompt, ...] = ()
    placed: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def lengths_P(self) -> torch.Tensor:
        return self.mask_PL.sum(1)


@dataclass(frozen=True)
class TokenBatch:
    """Prompts once, and the R completions that continue them: the unit of every training pass.

    ids_RC, mask_RC: completion tokens, padded on the right.
    prompt_of_R: the row of ``prompts`` that each completion continues; sorted.
    early_RC: True where a completion could not end yet; None where all could end everywhere.
    placed: what of it was sent to a device (models.passes).

    >>> from torch import tensor as t
    >>> prompts = PromptBatch(t([[5, 6]]), t([[1, 1]]), t([[[0, 1]]] * 3), t([2]), (), None)
    >>> TokenBatch(prompts, t([[7, 2], [8, 0]]), t([[1, 1], [1, 0]]), t([0, 0])).n_tokens
    3
    """

    prompts: PromptBatch
    ids_RC: torch.Tensor
    mask_RC: torch.Tensor
    prompt_of_R: torch.Tensor = field(repr=False)
    early_RC: torch.Tensor | None = field(default=None, repr=False)
    placed: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_tokens(self) -> int:
        return int(self.mask_RC.sum())
