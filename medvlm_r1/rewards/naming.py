"""Which of some short texts a free text names: whole words, the longest first, and whether it denies them.

It is lexical: it knows words and their neighbours, no grammar. "not sure if left" denies left.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from medvlm_r1.types import LETTERS
from medvlm_r1.wording import normal

DENIALS = frozenset({"no", "not", "non", "without", "nor", "neither", "never", "cannot"})
_REACH_WORDS, _REACH_CHARACTERS = 3, 80
_CLAUSE_ENDS = re.compile(r"[.,;:!?()\n]|\b(?:but|however|so|hence|thus|therefore)\b")
# A capital only: "option a lesion fits" names no letter.
_LETTER = re.compile(r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+(?:is|would be|must be))?\s*:?\s*[(\[]?([A-J])(?!\w)")
_LISTED = re.compile(r"\b[A-J][).:]\s*$")
_SENTENCE_ENDS = re.compile(r"\s*(?:[.;!?)\n]|$)")


def key(words: str) -> str:
    """What two spellings have in common that differ in case and white space.

    >>> key(" Left  Upper\\nlobe")
    'left upper lobe'
    """
    return " ".join(words.lower().split())


@lru_cache(maxsize=1024)
def finder(forms: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for any of the forms as whole words; where two begin at one place, the longer is found.

    >>> [m[0] for m in finder(("left", "left upper")).finditer("Left upper, then left; leftover")]
    ['Left upper', 'left']
    >>> finder(("5",)).findall("5 or 1.5 or 5.0 or 5.")
    ['5', '5']
    """
    longest_first = sorted((form for form in map(key, forms) if form), key=len, reverse=True)
    words = "|".join(r"\s+".join(map(re.escape, form.split())) for form in longest_first)
    return re.compile(rf"(?<!\w)(?<!\d\.)(?:{words})(?!\w)(?!\.\d)" if words else r"(?!)", re.IGNORECASE)


def is_denied(text: str, start: int) -> bool:
    """Whether one of the three words before this place, in its clause, is a denial.

    >>> [is_denied(t, t.index("left")) for t in ("not on the left", "it isn't left", "no, left", "not only left", "not right but left")]
    [True, True, False, False, False]
    """
    clause = _CLAUSE_ENDS.split(text[max(0, start - _REACH_CHARACTERS) : start].lower().replace("’", "'"))[-1]
    words = re.findall(r"[\w']+", re.sub(r"\bnot (?:only|just)\b", "", clause))[-_REACH_WORDS:]
    return any(word in DENIALS or word.endswith("n't") for word in words)


def ends_sentence(text: str, end: int) -> bool:
    """Whether a sentence or the text is over here: where a bare "no" is an answer and not the denial of what follows.

    >>> [ends_sentence(t, t.index("no") + 2) for t in ("Hence no.", "no lesion", "no, left", "hence no")]
    [True, False, False, True]
    """
    return _SENTENCE_ENDS.match(text, end) is not None


def mentions(text: str, forms: Iterable[str]) -> list[tuple[str, int, int]]:
    """(form as ``key`` writes it, start, end) of everything named, in order, denied or not.

    >>> mentions("No tumour. Hence no.", ("yes", "no", "tumour"))
    [('tumour', 3, 9), ('no', 17, 19)]
    >>> mentions("5 \N{GREEK SMALL LETTER MU}m", ("5 \N{MICRO SIGN}m",)) == [("5 \N{MICRO SIGN}m", 0, 4)]  # they look alike
    True
    """
    forms = tuple(forms)
    found = ((_form_of(m[0], forms), m.start(), m.end()) for m in finder(forms).finditer(text))
    return [(form, start, end) for form, start, end in found if form not in ("yes", "no") or ends_sentence(text, end)]


@lru_cache(maxsize=1024)
def _form_of(said: str, forms: tuple[str, ...]) -> str:
    """Which of the forms was found: the expression takes some letters for one that are two in lower case (µ and μ, s and ſ)."""
    keys = [key(form) for form in forms]
    return spelt if (spelt := key(said)) in keys else next(form for form in keys if form and finder((form,)).fullmatch(said))


def named_last(thought: str, options: Sequence[str]) -> str:
    """The letter of the option that a thought names last, or "" for none.

    Option texts count as whole words, the longest first, and not where they are denied: of "not the left" nothing
    remains. Only a thought that names no text is searched for a letter, "the answer is B". Of options that
    differ in case or a full stop alone, the first is meant.

    >>> options = ("left", "left upper", "right")
    >>> [named_last(t, options) for t in ("Right? Left upper.", "not right but left", "not the left", "So option C.")]
    ['B', 'A', '', 'C']
    """
    texts = [key(normal(option)) for option in options]
    spoken = _spoken(thought, texts)
    if spoken:
        return LETTERS[texts.index(spoken[-1][0])]
    letters = [m[1] for m in _LETTER.finditer(thought) if m[1] in LETTERS[: len(options)] and not is_denied(thought, m.start())]
    return letters[-1] if letters else ""


def named_first(thought: str, options: Sequence[str]) -> str:
    """The letter of the option that a thought names first in words of its own, or "" for none: its finding, before it goes through a list of options.

    >>> options = ("glioma", "pituitary")
    >>> [named_first(t, options) for t in ("It looks like a glioma. A) glioma does not fit. B) pituitary fits.", "A tumour. A) glioma fits.", "No glioma.")]
    ['A', '', '']
    """
    texts = [key(normal(option)) for option in options]
    own = [text for text, start in _spoken(thought, texts) if not _LISTED.search(thought[:start])]
    return LETTERS[texts.index(own[0])] if own else ""


def _spoken(thought: str, texts: Sequence[str]) -> list[tuple[str, int]]:
    """What is named and not denied, and where."""
    return [(text, start) for text, start, _ in mentions(thought, texts) if text == "no" or not is_denied(thought, start)]


def contradicted(thought: str, letter: str | None, options: Sequence[str]) -> str:
    """The letter that a thought names last where the answer is another; "" where they agree, or one of them names none.

    >>> contradicted("Finding: nodule on the left. Hence left.", "B", ("left", "right")), contradicted("Hence left.", "A", ("left", "right"))
    ('A', '')
    """
    meant = named_last(thought, options) if letter else ""
    return meant if meant != letter else ""
