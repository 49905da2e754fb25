"""Which questions a report shows, and how a picture and a completion become safe HTML.

The choice is fixed by a hash of the ids, so that nobody picked the examples.
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from PIL import Image

from medvlm_r1.errors import ImageError
from medvlm_r1.evaluation.metrics import by_modality
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.evaluation.story import Pair

LoadImage = Callable[[str], Image.Image]

_MAX_SIDE_PX = 320
_MAX_TEXT = 4000
_MAX_PICTURES = 4
_TAG = re.compile(r"(</?(?:think|answer)>)")


@dataclass(frozen=True)
class Section:
    """A kind of outcome: all pairs (base, trained) that have it, and those shown."""

    key: str
    title: str
    meaning: str
    total: int
    shown: list[Pair]


def sections(pairs: Sequence[Pair], names: tuple[str, str], each: int = 6) -> list[Section]:
    """Wins, losses, both wrong, both right — every question is in exactly one — and then the malformed ones."""
    before, after = names
    kinds = [
        ("wins", "Wins", f"{before} wrong, {after} right", lambda b, a: a.correct and not b.correct, each),
        ("losses", "Losses", f"{before} right, {after} wrong", lambda b, a: b.correct and not a.correct, each),
        ("wrong", "Still wrong", "both wrong", lambda b, a: not a.correct and not b.correct, each),
        ("right", "Right before and after", "both right", lambda b, a: a.correct and b.correct, each // 2),
        ("malformed", "Malformed", f"no answer could be read from {before} or {after}; each is counted above too", _malformed, each),
    ]
    return [_section(key, title, meaning, [p for p in pairs if test(*p)], show) for key, title, meaning, test, show in kinds]


def _malformed(before: Sample, after: Sample) -> bool:
    return "answered" != before.status or "answered" != after.status


def _section(key: str, title: str, meaning: str, pairs: list[Pair], show: int) -> Section:
    chosen = choose([b for b, _ in pairs], show)
    of_id = {b.id: (b, a) for b, a in pairs}
    shown = [of_id[s.id] for s in chosen]
    # Among the malformed, the trained model's failures say more than the base's.
    if key == "malformed":
        worst = choose([a for _, a in pairs if a.status != "answered"], show)
        ids = list(dict.fromkeys([s.id for s in [*worst, *chosen]]))[:show]
        shown = [of_id[i] for i in ids]
    return Section(key, title, meaning, len(pairs), shown)


def choose(samples: Sequence[Sample], count: int) -> list[Sample]:
    """``count`` samples, the modalities taking turns, in the order of a hash of their ids."""
    queues = [sorted(part, key=lambda s: hashlib.sha256(s.id.encode()).digest()) for part in by_modality(samples).values()]
    turns = [queue[i] for i in range(count) for queue in queues if i < len(queue)]
    order = list(by_modality(samples))
    return sorted(turns[:count], key=lambda s: order.index(s.modality))


@dataclass(frozen=True)
class Picture:
    """An image as a data URL, or why there is none."""

    url: str
    width_px: int
    height_px: int
    missing: str = ""


def pictures(sample: Sample, load_image: LoadImage) -> list[Picture]:
    """The images of a question, at most four, small enough for one page."""
    return [picture(reference, load_image) for reference in sample.images[:_MAX_PICTURES]]


def picture(reference: str, load_image: LoadImage) -> Picture:
    """One image, small enough for a page, or the reason why it cannot be shown."""
    try:
        image = load_image(reference)
    except ImageError as error:  # the page shows the reason in the picture's place
        return Picture("", 0, 0, str(error))
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    width_px, height_px = image.size
    image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
    data, kind = io.BytesIO(), "PNG" if max(width_px, height_px) <= 128 else "JPEG"
    image.save(data, kind, quality=85, optimize=True)
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
    return Picture(url, width_px, height_px)


def highlight(text: str) -> Markup:
    """A completion word for word, with tags dimmed, the thought and the answer set apart.

    >>> str(highlight("<think>dark <b></think><answer>B"))
    '<span class="tag">&lt;think&gt;</span><span class="think">dark &lt;b&gt;</span><span class="tag">&lt;/think&gt;</span><span class="tag">&lt;answer&gt;</span><span class="letter">B</span>'
    """
    if not text.strip():
        return Markup('<span class="tag">(the model wrote nothing)</span>')
    cut, within, parts = text[:_MAX_TEXT], "", []
    for piece in _TAG.split(cut):
        if _TAG.fullmatch(piece):
            within = {"<think>": "think", "<answer>": "letter"}.get(piece, "")
            parts.append(Markup('<span class="tag">{}</span>').format(piece))
        elif piece:
            parts.append(Markup('<span class="{}">{}</span>').format(within, piece) if within else escape(piece))
    if len(text) > len(cut):
        parts.append(Markup('<span class="tag"> … {} more characters</span>').format(len(text) - len(cut)))
    return Markup("").join(parts)
