"""How far a decoder's layers look, read from its configuration: all that came before, or a window; pictures in both directions or not.

Legend: T tokens of a pass one after another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
FULL, WINDOW = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Sight:
    """What decides who sees whom, beside the order of the tokens.

    windows: of each layer, how many tokens it sees, the last of which is the one that looks; 0: all. Empty where no layer has one.
    whole_pictures: the tokens of a picture see all of it, and not only what came before.

    >>> Sight((4, 0)).windows
    (4, 0)
    """

    windows: tuple[int, ...] = ()
    whole_pictures: bool = False


PLAIN = Sight()


def kinds(config: Any) -> tuple[str, ...]:
    """The kind of attention of each layer, by transformers' names.

    >>> from types import SimpleNamespace
    >>> kinds(SimpleNamespace(num_hidden_layers=2)), kinds(SimpleNamespace(num_hidden_layers=1, sliding_window=8))
    (('full_attention', 'full_attention'), ('sliding_attention',))
    """
    every = WINDOW if getattr(config, "sliding_window", None) else FULL
    return tuple(getattr(config, "layer_types", None) or [every] * config.num_hidden_layers)


def windows(config: Any) -> tuple[int, ...]:
    """``Sight.windows`` of a text configuration of transformers.

    >>> from types import SimpleNamespace
    >>> windows(SimpleNamespace(num_hidden_layers=2, sliding_window=8, layer_types=["sliding_attention", "full_attention"]))
    (8, 0)
    """
    found = tuple(config.sliding_window if kind == WINDOW else 0 for kind in kinds(config))
    return found if any(found) else ()


def of_layers(windows: Sequence[int], layers: int, seen: Callable[[int], T]) -> list[T]:
    """Each layer's, computed once for every window that there is; ``windows`` as ``Sight.windows``.

    >>> of_layers((4, 0, 4), 3, str), of_layers((), 2, str)
    (['4', '0', '4'], ['0', '0'])
    """
    of_each = windows or (0,) * layers
    found = {window: seen(window) for window in set(of_each)}
    return [found[window] for window in of_each]


def pictures(is_image_T: torch.Tensor, row_T: torch.Tensor) -> torch.Tensor:
    """Which picture each token is of, -1 for text: tokens of a picture follow each other in one row, and two pictures never do.

    >>> pictures(torch.tensor([False, True, True, False, True, True]), torch.tensor([0, 0, 0, 0, 0, 1])).tolist()
    [-1, 0, 0, -1, 1, 2]
    """
    before_T = torch.cat([is_image_T[:1] & False, is_image_T[:-1] & (row_T[1:] == row_T[:-1])])
    return torch.where(is_image_T, (is_image_T & ~before_T).cumsum(0) - 1, -1)
