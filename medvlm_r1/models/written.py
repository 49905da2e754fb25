"""What a model's training writes into its configuration, so that whoever loads it knows: how it is asked, what else it was shown."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.reasoning import EVALUATED_AS


class Written:
    """Of a model of transformers."""

    model: Any

    @property
    def template(self) -> str:
        """How this model is asked: what its training wrote into its configuration, else the paper's prompt."""
        return getattr(self.model.config, "reasoning_template", "paper-eval")

    @template.setter
    def template(self, name: str) -> None:
        self.model.config.reasoning_template = EVALUATED_AS.get(name, name)

    @property
    def other_views(self) -> tuple[str, ...]:
        """What its training showed it beside its own pictures: it wrote that into the model's configuration."""
        return tuple(getattr(self.model.config, "reasoning_other_views", ()))

    @other_views.setter
    def other_views(self, names: Sequence[str]) -> None:
        if names or self.other_views:
            self.model.config.reasoning_other_views = list(names)
