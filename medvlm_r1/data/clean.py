"""What other trainers' files hold beside the question: tidied on the way in, each kind counted; or named, where tidying would be a guess."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from medvlm_r1.data.modality import modality_of
from medvlm_r1.types import LETTERS, Example

_TEXTS = ("id", "question", "answer", "modality", "question_type", "group", "source", "reasoning", "split")
_texts_of = attrgetter(*_TEXTS)
_LONG = ("question", "reasoning")  # and a free answer: their lines stay lines
# Zero-width space, word joiner, byte order mark, soft hyphen. The zero-width joiners are letters of some scripts, and stay.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
# Each run of spaces is looked at from its beginning alone: from each of its places, twenty thousand cost five seconds.
_BREAK = re.compile("(?:(?<![ \t])[ \t]+)?[\x00-\x1f\x7f-\x9f\u2028\u2029]+[ \t]*")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_HALF = re.compile("[\ud800-\udfff]")
_TAG = re.compile(r"<\|?(?:image|img)[ _]?(\d*)\|?>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>", re.IGNORECASE)
_OUTSIDE = re.compile(rf"^(?:\s*(?:{_TAG.pattern}))+\s*|(?<!\s)(?:\s*(?:{_TAG.pattern}))+\s*$", re.IGNORECASE)
_LETTERED = re.compile(r"[(\[（【]?([A-Ja-j])[)\].:）】．、]\s*(?=\S)")
_LETTER = re.compile(r"[(\[]?([A-Ja-j])[)\].:]?")


def clean(example: Example) -> tuple[Example, list[str]]:
    """The question as it was meant, and the kinds of what was changed; nothing here decides between two meanings.

    >>> e = Example("q1", ("a.png",), "<image>\\nWhich side?", ("A. left", "B. right"), "B", "MRI")
    >>> cleaned, kinds = clean(e)
    >>> cleaned.question, cleaned.options, cleaned.answer, cleaned.modality
    ('Which side?', ('left', 'right'), 'right', 'mri')
    >>> kinds
    ['picture tags taken out of the question', 'letters taken off the options', 'modality "MRI" read as "mri"']
    """
    kinds = []
    for kind, step in _STEPS:
        changed = step(example)
        if changed is not example:
            kinds.append(kind)
            example = changed
    if example.modality and (name := modality_of(example.modality)) != example.modality:
        kinds.append(f'modality "{example.modality}" read as "{name}"')
        example = replace(example, modality=name)
    return example, kinds


def tidy(text: str) -> str:
    """One way to write a name: one line of composed letters, without invisible signs, control characters and spaces around it.

    >>> tidy(" left\\u200b\\nlobe "), tidy("Re\\u0301nal\\u00a0cyst")
    ('left lobe', 'Rénal cyst')
    """
    return text if _is_tidy(text) and text == text.strip() else _BREAK.sub(" ", _visible(text)).strip()


def _tidy_lines(text: str) -> str:
    """The same for a text of several lines, which stay; so do its spaces, for they change nothing that is asked."""
    return text if _is_tidy(text) else _CONTROL.sub(" ", _visible(text).replace("\r\n", "\n").replace("\r", "\n"))


def _visible(text: str) -> str:
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", text)).replace("\u00a0", " ")


def _is_tidy(text: str) -> bool:
    return text.isascii() and text.isprintable()  # nearly all are, and this is quick


def torn(example: Example) -> str:
    """The first field that holds half a surrogate pair, which no tokenizer and no file takes, with the half; "" where all are whole.

    >>> torn(Example("q1", (), "side \\ud83d?", (), "left", "ct")), torn(Example("q1", (), "side 😀?", (), "left", "ct"))
    ('"question" holds half a character (\\\\ud83d)', '')
    """
    if "".join((*_texts_of(example), *example.options, *example.images)).isascii():
        return ""
    for name, texts in (*((name, (getattr(example, name),)) for name in _TEXTS), ("options", example.options), ("image", example.images)):
        for text in texts:
            if half := _HALF.search(text):
                return f'"{name}" holds half a character ({ascii(half[0])[1:-1]})'
    return ""


def misplaced(example: Example) -> str:
    """Why a picture tag that ``clean`` has left cannot be taken out, or "".

    >>> misplaced(Example("q1", ("a", "b"), "What differs between <image> and <image>?", (), "x", "ct"))
    'the question speaks of its pictures in their places ("<image>"), and they are shown before it; write "the first picture" there'
    >>> misplaced(Example("q1", ("a",), "<image><image> Which?", (), "x", "ct"))
    'the question has 2 picture tags ("<image>") and 1 pictures; give each its own'
    """
    if "<" not in example.question and not any("<" in option for option in example.options):
        return ""
    tags = list(_TAG.finditer(example.question))
    if tags and len(tags) != len(example.images):
        return f'the question has {len(tags)} picture tags ("{tags[0][0]}") and {len(example.images)} pictures; give each its own'
    if tags:
        return f'the question speaks of its pictures in their places ("{tags[0][0]}"), and they are shown before it; write "the first picture" there'
    if tag := next((tag for option in example.options if (tag := _TAG.search(option))), None):
        return f'an option is a picture ("{tag[0]}"), and options are shown as texts; drop the question'
    return ""


def respelled(example: Example) -> Example:
    """The answer as its option spells it: case, spaces and a final full stop aside.

    >>> respelled(Example("q1", ("a.png",), "Finding?", ("Pleural effusion.", "Mass"), "pleural Effusion", "xray")).answer
    'Pleural effusion.'
    """
    if not example.options or example.answer in example.options:
        return example
    same = {option for option in example.options if _normal(option) == _normal(example.answer)}
    return replace(example, answer=same.pop()) if len(same) == 1 else example


def unlettered(example: Example) -> Example:
    """Options without the letters that they are asked under anyway, and the answer, which may be a letter then, as its option's text.

    Only where each option has its own: "E. coli" as the first of four is a name.

    >>> e = Example("q1", (), "Which?", ("(A) left", "(B) right"), "b", "ct")
    >>> unlettered(e).options, unlettered(e).answer
    (('left', 'right'), 'right')
    >>> unlettered(replace(e, options=("E. coli", "B. cereus"))).options
    ('E. coli', 'B. cereus')
    """
    marks = [_LETTERED.match(option) for option in example.options]
    if not marks or [mark[1].upper() if mark else "" for mark in marks] != list(LETTERS[: len(marks)]):
        return example
    bare = tuple(option[mark.end() :] for option, mark in zip(example.options, marks, strict=True) if mark)
    answer = _unlettered(example.answer, example.options, bare)
    return example if answer is None else replace(example, options=bare, answer=answer)


def _unlettered(answer: str, options: Sequence[str], bare: Sequence[str]) -> str | None:
    """The answer's text; None where a letter is also the text of another option, so that nobody can tell which is meant."""
    if answer in options:
        return bare[options.index(answer)]
    letter = _LETTER.fullmatch(answer)
    if letter and LETTERS.index(letter[1].upper()) < len(bare):
        meant = bare[LETTERS.index(letter[1].upper())]
        return None if answer in bare and answer != meant else meant
    mark = _LETTERED.match(answer)
    index = LETTERS.index(mark[1].upper()) if mark else len(bare)
    # "B) Right" is the second option, and not one of the others that begins with a letter.
    return bare[index] if mark and index < len(bare) and _normal(answer[mark.end() :]) == _normal(bare[index]) else answer


def _tidied(example: Example) -> Example:
    long = _LONG if example.options else (*_LONG, "answer")
    changes: dict[str, Any] = {}
    for name, old in zip(_TEXTS, _texts_of(example), strict=True):
        new = _tidy_lines(old) if name in long else tidy(old)
        if new != old:
            changes[name] = new
    options = tuple(map(tidy, example.options))
    if options != example.options:
        changes["options"] = options
    return replace(example, **changes) if changes else example


def _untagged(example: Example) -> Example:
    if "<" not in example.question:
        return example
    numbers = [int(tag[1]) for tag in _TAG.finditer(example.question) if tag[1]]
    n_tags = len(_TAG.findall(example.question))
    if not n_tags or n_tags != len(example.images) or numbers != sorted(numbers):
        return example
    bare = _OUTSIDE.sub("", example.question)
    return example if _TAG.search(bare) else replace(example, question=bare)


def _normal(text: str) -> str:
    return " ".join(text.casefold().rstrip(". ").split())


_STEPS: tuple[tuple[str, Callable[[Example], Example]], ...] = (
    ("stray spaces, line breaks or invisible signs tidied", _tidied),
    ("picture tags taken out of the question", _untagged),
    ("letters taken off the options", unlettered),
    ("answer spelled otherwise", respelled),
)
