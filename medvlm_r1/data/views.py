"""What a model is shown of a question: its own picture, none, noise, or another patient's.

Training mixes views (``views`` of a configuration), each with rewards of its own. A view is a function from a question and
a draw to a question, or to None where it cannot be shown so. Adding one is one function and one line of VIEWS.
``blank:images/00017.png`` is a reference like any other: ``data.images.load_image`` opens it.
"""

import io
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from PIL import Image

from medvlm_r1.data.partners import alike, apart, drawn, is_contrary, is_other, rows
from medvlm_r1.errors import DataError
from medvlm_r1.files import utf8
from medvlm_r1.types import Example

CROPPED, QUALITY = 0.02, 90


def blank(image: Image.Image) -> Image.Image:
    """A uniform grey image of the same size.

    >>> blank(Image.new("RGB", (4, 2))).getcolors()
    [(8, (128, 128, 128))]
    """
    return Image.new("RGB", image.size, (128, 128, 128))


def noise(image: Image.Image) -> Image.Image:
    """Grey noise of the same size, mean and spread; the same for the same picture."""
    levels = np.asarray(image.convert("L"), dtype=np.float64)
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    drawn = rng.normal(levels.mean(), levels.std(), levels.shape).round().clip(0, 255)
    return Image.fromarray(drawn.astype(np.uint8)).convert("RGB")


def crop(image: Image.Image) -> Image.Image:
    """The same picture without a fiftieth of it on each side, encoded again as JPEG: no byte and no pixel as before, and nothing that an answer depends on.

    >>> crop(Image.new("RGB", (100, 50))).size
    (96, 48)
    """
    dx, dy = (round(side * CROPPED) for side in image.size)
    kept = image.convert("RGB").crop((dx, dy, image.width - dx, image.height - dy))
    encoded = io.BytesIO()
    kept.save(encoded, "JPEG", quality=QUALITY)
    return Image.open(encoded).convert("RGB")


EFFECTS: dict[str, Callable[[Image.Image], Image.Image]] = {"blank": blank, "noise": noise, "crop": crop}


def viewed(example: Example, effect: str) -> Example:
    """The same question about its pictures under an effect; "image" leaves them as they are.

    >>> viewed(Example("q1", ("a.png",), "Which plane?", (), "axial", "mri"), "blank").images
    ('blank:a.png',)
    """
    return example if effect == "image" else replace(example, images=tuple(f"{effect}:{reference}" for reference in example.images))


@dataclass(frozen=True)
class Pool:
    """The questions of a run, in rows of what they have in common; made when a view first asks for them."""

    examples: Sequence[Example] = field(repr=False)

    @cached_property
    def by_kind(self) -> dict[Hashable, list[Example]]:
        """As ``partners.alike``."""
        return rows(self.examples, alike)

    @cached_property
    def by_modality(self) -> dict[Hashable, list[Example]]:
        """Of one modality, with as many pictures."""
        return rows(self.examples, _modality)


@dataclass(frozen=True)
class Draw:
    """What a view may draw from, and the numbers that it draws by: they belong to (seed, step, question), so that a run resumes bit for bit.

    >>> Draw(Pool([]), seed=0, step=7).pool.by_kind
    {}
    """

    pool: Pool
    seed: int = 0
    step: int = 0

    def rng(self, example: Example) -> np.random.Generator:
        """The question's own random numbers in this step."""
        return np.random.default_rng([self.seed, self.step, zlib.crc32(utf8(example.id))])


View = Callable[[Example, Draw], Example | None]


def mismatch(example: Example, draw: Draw) -> Example | None:
    """With the pictures of its partner (``partners.is_contrary``): another patient's, which show another answer."""
    other = drawn(draw.pool.by_kind.get(alike(example), ()), example, is_contrary, draw.rng(example))
    return replace(example, images=other.images) if other else None


def stranger(example: Example, draw: Draw) -> Example | None:
    """As ``mismatch``; where no partner is, with those of a patient of the modality of whom something else is asked and answered."""
    found = mismatch(example, draw)
    other = None if found else drawn(draw.pool.by_modality.get(_modality(example), ()), example, is_other, draw.rng(example))
    return replace(example, images=other.images) if other else found


def anyone(example: Example, draw: Draw) -> Example | None:
    """With the pictures of any other patient of the modality, which may well show the same answer. The control to ``mismatch``."""
    other = drawn(draw.pool.by_modality.get(_modality(example), ()), example, apart, draw.rng(example))
    return replace(example, images=other.images) if other else None


def _modality(example: Example) -> Hashable:
    return example.modality, len(example.images)


def _through(effect: str, example: Example, draw: Draw) -> Example:
    return viewed(example, effect)


VIEWS: dict[str, View] = {
    "image": partial(_through, "image"),
    "blank": partial(_through, "blank"),
    "noise": partial(_through, "noise"),
    "mismatch": mismatch,
    "stranger": stranger,
    "anyone": anyone,
}


@dataclass(frozen=True)
class Share:
    """How many of a question's rollouts a view gets, and what their advantages weigh; 0: they are measured and teach nothing.

    >>> shares({"image": {}, "mismatch": {"weight": 0.5}}, n=8)
    {'image': Share(n=4, weight=1.0), 'mismatch': Share(n=4, weight=0.5)}
    """

    n: int
    weight: float = 1.0


@dataclass(frozen=True)
class Shown:
    """A question as a step asks it. ``view`` is "" for the first of a run's views, which keeps the question's id.

    >>> Shown(Example("q1", ("a.png",), "Which plane?", (), "axial", "mri"), n=4).weight
    1.0
    """

    example: Example
    n: int
    view: str = ""
    weight: float = 1.0


METER = "mismatch"  # what the meter shows
_ARM_OF = {"stranger": METER, "anyone": METER}


def arm_of(view: str) -> str:
    """The evaluation's name for what a view shows.

    >>> arm_of("stranger"), arm_of("blank")
    ('mismatch', 'blank')
    """
    return _ARM_OF.get(view, view)


def shares(views: Mapping[str, Mapping[str, float]], n: int, meter: int = 0) -> dict[str, Share]:
    """Each view's share of ``n`` rollouts: the meter's first, of the others as many for each, and what is left over for the first view.

    >>> {view: share.n for view, share in shares({"image": {}, "blank": {}}, n=9).items()}
    {'image': 5, 'blank': 4}
    >>> shares({"image": {}}, n=8, meter=2)
    {'image': Share(n=6, weight=1.0), 'mismatch': Share(n=2, weight=0.0)}
    """
    each, over = divmod(n - meter, len(views))
    found = {view: Share(each + over * (at == 0), values.get("weight", 1.0)) for at, (view, values) in enumerate(views.items())}
    return found | ({METER: Share(meter, 0.0)} if meter else {})


def show(example: Example, parts: Mapping[str, Share], draw: Draw) -> list[Shown]:
    """A question under each view, the first one first. Where one cannot show it, its rollouts go to the first.

    Random numbers of rollouts go by id, so every other view's has one of its own. Raises DataError where the first view cannot show it.
    """
    first, *_ = parts
    seen = {view: VIEWS[view](example, draw) for view in parts}
    own = seen.pop(first)
    if own is None:
        raise DataError(f'question "{example.id}" cannot be shown under "{first}", the first of "views"; name first a view that shows all, such as "image"')
    others = [Shown(replace(e, id=f"{example.id}/{view}"), parts[view].n, view, parts[view].weight) for view, e in seen.items() if e is not None]
    rest = sum(share.n for share in parts.values()) - sum(shown.n for shown in others)
    return [Shown(own, rest, weight=parts[first].weight), *others]
