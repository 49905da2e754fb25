"""What each step asks: a function of (seed, step), so that resuming needs no state.

Legend: P questions of a step, V views of a question.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from medvlm_r1.data.views import Draw, Pool, Share, Shown, show
from medvlm_r1.rollout.collect import Scorer, Sharing, collect
from medvlm_r1.rollout.engine import Engine, Sampling
from medvlm_r1.training.batches import batch
from medvlm_r1.training.grpo.advantage import teaches_nothing
from medvlm_r1.training.grpo.draw import draw, spare
from medvlm_r1.types import Example, RolloutGroup


@dataclass(frozen=True)
class Asking:
    """The questions of a run, and how a step shows them.

    >>> few = [Example(id, (f"{id}.png",), "Which plane?", ("axial", "coronal"), "axial", "mri") for id in "abc"]
    >>> [shown.example.id for shown in Asking(few, {"image": Share(4), "blank": Share(4)}, size=2, seed=0).shown(0)]
    ['c', 'c/blank', 'a', 'a/blank']
    """

    examples: Sequence[Example]
    parts: Mapping[str, Share]
    size: int
    seed: int
    is_flat: Callable[[RolloutGroup], bool] = partial(teaches_nothing, "grpo", {})

    @cached_property
    def pool(self) -> Pool:
        """What views draw from."""
        return Pool(self.examples)

    def batch(self, step: int) -> list[Example]:
        """The questions of a step."""
        return batch(self.examples, self.size, step, self.seed)

    def show(self, step: int, examples: Sequence[Example]) -> list[list[Shown]]:
        """Each of these questions under all views, as this step shows it."""
        return [show(example, self.parts, Draw(self.pool, self.seed, step)) for example in examples]

    def shown(self, step: int) -> list[Shown]:
        """All that a step shows."""
        return [shown for shown_V in self.show(step, self.batch(step)) for shown in shown_V]

    def take(
        self, step: int, engine: Engine, scored: tuple[Scorer, str, Sampling], redraws: int, world: Sharing
    ) -> tuple[list[RolloutGroup], dict[str, float]]:
        """The step's groups, scored, those of a question one after another, and what drawing some anew came to.

        ``scored``: rubric, template, sampling; ``world``: who shares in the writing.
        """
        examples_P = self.batch(step)

        def ask(examples: Sequence[Example]) -> list[list[RolloutGroup]]:
            shown_PV = self.show(step, examples)
            groups = iter(collect(engine, [shown for shown_V in shown_PV for shown in shown_V], *scored, world))
            return [[next(groups) for _ in shown_V] for shown_V in shown_PV]

        return draw(ask, examples_P, spare(self.examples, examples_P, step, self.seed), redraws, self.is_flat)
