"""A model in memory, and one question to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from medvlm_r1.data.arrays import picture
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.values import check_prompt
from medvlm_r1.rollout.answer import Answer, ask
from medvlm_r1.rollout.told import question as asked

Place = str | PathLike[str]


@dataclass(frozen=True)
class Model:
    """A model in memory, ready to be asked; ``load`` makes one.

    >>> Model("nano", policy=None)
    Model(name='nano', dtype='float32', max_pixels=None)
    """

    name: str
    policy: Policy = field(repr=False)
    dtype: str = "float32"
    max_pixels: int | None = None

    def ask(self, image: Any, question: str, options: Sequence[str] = (), *, template: str | None = None, max_tokens: int = 512) -> Answer:
        """One question about one picture, answered greedily: the thought, the letter, the probability of each option.

        ``image``: what ``load_image`` opens, one of Pillow's images, or an array (``data.arrays``). Without ``options``
        the answer is free text. ``template``: None for the one that the model was trained with.
        Raises ConfigError, DataError or ImageError for what cannot be asked.

        >>> model = load("nano")
        >>> found = model.ask("phantom:mri/test/0", "What is the imaging plane?", ["sagittal", "coronal", "axial"])
        >>> found.answer, found.answer_text, list(found.option_probs)
        ('A', 'sagittal', ['A', 'B', 'C'])
        >>> from medvlm_r1.data.images import load_image
        >>> found == model.ask(load_image("phantom:mri/test/0"), "What is the imaging plane?", ["sagittal", "coronal", "axial"])
        True
        """
        offered = (options,) if isinstance(options, str) else tuple(options)
        reference = str(image) if isinstance(image, (str, PathLike)) else self.policy.encoder.hold(picture(image))
        example = asked(reference, question, offered)
        template = template or (self.policy.template if offered else "plain")
        with memory_errors():
            check_prompt(self.policy, example, template)
            return ask(self.policy, example, template, max_tokens)


def load(model: Place, *, dtype: str = "float32", max_pixels: int | None = None) -> Model:
    """A model from a directory, a hub id or ``nano``, the embedded one. Raises ModelError where there is none.

    >>> load("nano")
    Model(name='nano', dtype='float32', max_pixels=None)
    """
    with memory_errors():
        return Model(str(model), load_model(str(model), dtype, max_pixels), dtype, max_pixels)
