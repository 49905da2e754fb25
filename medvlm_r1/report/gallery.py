"""Every question and every answer as data for the page's own script, and a few of them as plain HTML for a page without scripts.

A case is one asking: a question under an arm, with what each model answered. Texts
that all arms share are stored once, with the question; a case holds what differs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from markupsafe import Markup, escape

from medvlm_r1.cells import CELLS, asks_for_cell
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.measuring.metrics import by_modality
from medvlm_r1.evaluation.samples import STATUSES, Sample
from medvlm_r1.files import digest
from medvlm_r1.report.story import Story
from medvlm_r1.report.thumbnails import Picture
from medvlm_r1.rewards.text import Overlap, is_yes_no
from medvlm_r1.types import LETTERS
from medvlm_r1.wording import modality_name

MAX_PICTURES = 4  # of one question
TEXT_BUDGET = 20_000_000  # characters of all answers; sampled texts are left out first, then long ones are cut
CHUNK = 200  # pictures in one block of the page: a block is read only when one of its pictures is shown
_CAPS = (4000, 2000, 1000, 500, 250)
_TAG = re.compile(r"(</?(?:think|answer)>)")

Case = tuple[str, int]  # a question's id, and the how manieth time that it is asked under an arm


@dataclass(frozen=True)
class Kept:
    """How much of the answers' texts the page holds.

    >>> Kept(characters=4000, sampled=True)
    Kept(characters=4000, sampled=True)
    """

    characters: int
    sampled: bool


def kept(story: Story, budget: int = TEXT_BUDGET) -> Kept:
    """All sampled texts and 4,000 characters of each answer if they fit, else less."""
    samples = [s for arms in story.answers.values() for part in arms.values() for s in part]
    lengths = [len(s.text) for s in samples]
    drawn = [len(text) for s in samples for text in s.sampled_texts]
    cap = next((c for c in _CAPS if sum(min(n, c) for n in lengths) <= budget), _CAPS[-1])
    return Kept(cap, cap == _CAPS[0] and sum(min(n, cap) for n in lengths + drawn) <= budget)


def references(story: Story) -> list[str]:
    """The pictures that the gallery shows, in order; grey ones and noise are drawn by the page."""
    found = {r: None for arms in story.answers.values() for part in arms.values() for s in part for r in s.images[:MAX_PICTURES]}
    return [reference for reference in found if not _drawn(reference)]


def gallery_data(story: Story, pictures: Mapping[str, Picture], limits: Kept) -> dict[str, Any]:
    """All that the script needs but the pictures' own bytes (``picture_blocks``)."""
    models = story.answers
    arms = list(dict.fromkeys(arm for of_model in models.values() for arm in of_model))
    place = {reference: i for i, reference in enumerate(pictures)}
    questions: dict[str, dict[str, Any]] = {}
    asked: dict[tuple[str, Case], dict[str, Any]] = {}
    names = list(models)
    for model, of_model in enumerate(models.values()):
        for arm in sorted(of_model, key=lambda name: name != "image"):  # what is shared is what "image" asks
            for case, sample in _cases(of_model[arm]):
                question = questions.setdefault(sample.id, {"index": len(questions)} | _question(sample, place))
                row = asked.setdefault((arm, case), _asked(sample, arms.index(arm), question, place, len(names)))
                row["answers"][model] = _answer(sample, limits)
    return {
        "models": [{"name": name, "label": story.label(name)} for name in names],
        "trained": names.index(story.trained),
        "base": names.index(story.base),
        "arms": [{"name": arm, "meaning": MEANINGS.get(arm, "")} for arm in arms],
        "modalities": {name: modality_name(name) for name in dict.fromkeys(q["modality"] for q in questions.values())},
        "statuses": STATUSES,
        "cells": CELLS,
        "pictures": [[p.width_px, p.height_px, p.missing] if p.missing else [p.width_px, p.height_px] for p in pictures.values()],
        "chunk": CHUNK,
        "questions": [{key: value for key, value in q.items() if key != "index"} for q in questions.values()],
        "cases": sorted(asked.values(), key=lambda row: (row["arm"], row["question"])),
    }


def picture_blocks(pictures: Mapping[str, Picture]) -> list[list[str]]:
    """The data URLs in blocks of CHUNK."""
    urls = [p.url for p in pictures.values()]
    return [urls[at : at + CHUNK] for at in range(0, len(urls), CHUNK)]


def as_json(value: Any) -> Markup:
    """JSON that may stand inside a script element whatever its texts are.

    >>> str(as_json({"a": "</script><!--"}))
    '{"a":"\\\\u003c/script>\\\\u003c!--"}'
    """
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").encode("utf-8", "replace").decode())


def choose(samples: Sequence[Sample], count: int) -> list[Sample]:
    """``count`` samples, the modalities taking turns, in the order of a hash of their ids: nobody chose them."""
    queues = [sorted(part, key=lambda s: digest(s.id)) for part in by_modality(samples).values()]
    turns = (queue[i] for i in range(count) for queue in queues if i < len(queue))
    order = list(by_modality(samples))
    return sorted(islice(turns, count), key=lambda s: order.index(s.modality))


def highlight(text: str) -> Markup:
    """A completion word for word, with tags dimmed, the thought and the answer set apart.

    >>> str(highlight("<think>dark <b></think><answer>B"))
    '<span class="tag">&lt;think&gt;</span><span class="think">dark &lt;b&gt;</span><span class="tag">&lt;/think&gt;</span><span class="tag">&lt;answer&gt;</span><span class="letter">B</span>'
    """
    if not text.strip():
        return Markup('<span class="tag">(the model wrote nothing)</span>')
    cut, within, parts = text[: _CAPS[0]], "", []
    for piece in _TAG.split(cut):
        if _TAG.fullmatch(piece):
            within = {"<think>": "think", "<answer>": "letter"}.get(piece, "")
            parts.append(Markup('<span class="tag">{}</span>').format(piece))
        elif piece:
            parts.append(Markup('<span class="{}">{}</span>').format(within, piece) if within else escape(piece))
    if len(text) > len(cut):
        parts.append(Markup('<span class="tag"> … {} more characters</span>').format(len(text) - len(cut)))
    return Markup("").join(parts)


def marks(sample: Sample) -> dict[str, str]:
    """The cells of the screen that are outlined on a sample's picture: "answered" and "correct", where the question asks for one.

    >>> asked = Sample("q", "ct", "place", "", "Where on screen?", ("centre", "upper left"), "B", ("a.png",), "image", "…", "A", "answered", False, 9)
    >>> marks(asked)
    {'answered': 'centre', 'correct': 'upper left'}
    """
    if not asks_for_cell(sample.question, sample.options):
        return {}
    letters = {"answered": sample.answer, "correct": sample.gold}
    return {mark: sample.options[LETTERS.index(letter)].lower() for mark, letter in letters.items() if letter}


def _cases(samples: Sequence[Sample]) -> list[tuple[Case, Sample]]:
    times: dict[str, int] = {}
    found = []
    for sample in samples:
        times[sample.id] = times.get(sample.id, -1) + 1
        found.append(((sample.id, times[sample.id]), sample))
    return found


def _question(sample: Sample, place: Mapping[str, int]) -> dict[str, Any]:
    asks = {"cells": 1} if asks_for_cell(sample.question, sample.options) else {}
    return asks | {
        "id": sample.id,
        "modality": sample.modality,
        "type": sample.question_type,
        "question": sample.question,
        "options": sample.options,
        "gold": sample.gold,
        "pictures": _shown(sample, place),
    }


def _asked(sample: Sample, arm: int, question: dict[str, Any], place: Mapping[str, int], n_models: int) -> dict[str, Any]:
    own = _question(sample, place)
    differs = {key: own[key] for key in ("question", "options", "gold", "pictures") if own[key] != question[key]}
    if "question" in differs:
        differs["text"] = differs.pop("question")
    return {"question": question["index"], "arm": arm} | differs | {"answers": [0] * n_models}


def _answer(sample: Sample, limits: Kept) -> dict[str, Any]:
    row: dict[str, Any] = {"text": sample.text[: limits.characters], "answer": sample.answer or ""}
    row |= {"right": int(sample.correct), "tokens": sample.n_tokens}
    if len(sample.text) > limits.characters:
        row["more"] = len(sample.text) - limits.characters
    if sample.status != "answered":
        row["status"] = sample.status
    if sample.is_open:
        row |= _free(sample)
    elif sample.sampled_answers:
        row["drawn"] = "".join(answer or "–" for answer in sample.sampled_answers)
    if limits.sampled and sample.sampled_texts:
        row["texts"] = [text[: limits.characters] for text in sample.sampled_texts]
    return row


def _free(sample: Sample) -> dict[str, Any]:
    """What stands beside a free answer: how far its words overlap, the judge's word, a mark for each drawn answer."""
    row: dict[str, Any] = {"answer": "", "read": int(sample.answer is not None)}
    if sample.answer is not None and not is_yes_no(sample.gold):
        row["f1"] = round(Overlap.of(sample.answer, sample.gold).f1, 2)
    if sample.judged is not None:
        row["judged"] = int(sample.judged)
    if sample.sampled_answers:
        row["drawn"] = "".join("✓" if right else "✗" for right in sample.sampled_correct)
    return row


def _shown(sample: Sample, place: Mapping[str, int]) -> list[int | str]:
    return [_drawn(reference) or place[reference] for reference in sample.images[:MAX_PICTURES]]


def _drawn(reference: str) -> str:
    """The view of a picture that the page draws itself: "blank" or "noise", else ""."""
    view, colon, _ = reference.partition(":")
    return view if colon and view in ("blank", "noise") else ""
