"""A model in memory, and one question to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from medvlm_r1.data.arrays import picture
from medvlm_r1.errors import ConfigError
from medvlm_r1.launch.loading import load_model, memory_errors
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.questions import check_prompt
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

    def ask(
        self,
        image: Any,
        question: str,
        options: Sequence[str] = (),
        *,
        template: str | None = None,
        max_tokens: int = 512,
        seen: Callable[[str], None] | None = None,
    ) -> Answer:
        """One question about one picture or several, answered greedily: the thought, the letter, the probability of each option.

        ``image``: what ``load_image`` opens, one of Pillow's images, or an array (``data.arrays``); or a list of such.
        Without ``options`` the answer is free text. ``template``: None for the one that the model was trained with.
        ``seen`` is called with all that is written so far, after each token but the last. Raises ConfigError, DataError or ImageError for what cannot be asked.

        >>> model = load("nano")
        >>> found = model.ask("phantom:mri/test/0", "What is the imaging plane?", ["sagittal", "coronal", "axial"])
        >>> found.answer, found.answer_text, list(found.option_probs)
        ('A', 'sagittal', ['A', 'B', 'C'])
        >>> from medvlm_r1.data.images import load_image
        >>> found == model.ask(load_image("phantom:mri/test/0"), "What is the imaging plane?", ["sagittal", "coronal", "axial"])
        True
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens wants 1 or more, got {max_tokens}")
        offered = (options,) if isinstance(options, str) else tuple(options)
        references = tuple(self._reference(one) for one in (image if isinstance(image, (list, tuple)) and image else [image]))
        example = replace(asked(references[0], question, offered), images=references)
        template = template or self.template(offered)
        with memory_errors():
            check_prompt(self.policy, example, template)
            return ask(self.policy, example, template, max_tokens, seen)

    def template(self, options: Sequence[str]) -> str:
        """How a question is put where nobody says how."""
        return self.policy.template if options else "plain"

    def _reference(self, image: Any) -> str:
        return str(image) if isinstance(image, (str, PathLike)) else self.policy.encoder.hold(picture(image))


def load(model: Place, *, dtype: str = "float32", max_pixels: int | None = None) -> Model:
    """A model from a directory, a hub id or ``nano``, the embedded one. Raises ModelError where there is none.

    >>> load("nano")
    Model(name='nano', dtype='float32', max_pixels=None)
    """
    with memory_errors():
        return Model(str(model), load_model(str(model), dtype, max_pixels), dtype, max_pixels)
