"""Does a free answer say what the reference says? Pure functions over two short texts, by words alone.

The published evaluations of open medical questions count words too, each in its own way:

- PathVQA (He et al. 2020, arXiv 2003.10286, and its challenge): accuracy of yes/no questions; of the
  others exact match, F1 as the mean over questions, and BLEU. What its script calls exact match is
  the share of the answer's words that the reference holds, and it counts every word of the
  answer that stands in the reference as a hit, however often the reference has it.
- LLaVA-Med (Li et al. 2023, 2306.00890): accuracy of closed questions, recall of the reference's words for open
  ones. Its script brings both texts into the form of VQA v2 (Goyal et al. 2017): small letters, no
  marks, no articles, number words as digits. "no" counts inside "normal" too, and a wrong
  answer that holds a yes or no is left out of the count instead of being wrong.
- SLAKE (Liu et al. 2021, 2102.09542) and VQA-RAD (Lau et al. 2018): accuracy, closed and open apart.
- MedEvalKit (Lingshu, 2506.07044): equality of texts in small letters, F1 over sets of words, for yes/no
  questions exactly one of "yes" and "no" anywhere; by choice a language model judges instead.

Ours: words as in VQA v2, but nothing that turns a finding around is rubbed out; equality, and
precision, recall and F1 over words as often as they stand there (SQuAD, Rajpurkar et al. 2016, 1606.05250).
Synonyms, plurals and spellings are not known: every figure is a lower bound.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

WORDING = "words-1"  # the version of all that stands here

_NUMBERS = {word: str(n) for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_WORD = re.compile(r"[<>≤≥]|(?:(?<!\w)[+-]?\.?(?=\d))?\w+(?:(?<=\d)\.(?=\d)\w+)*(?:[+-]+(?!\w))?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")

# Opening marks, then the word itself; "yes or no", "yes, no" say neither, and so does "no idea".
_YES_NO = re.compile(
    r"[\s\"'“‘*(\[]*(?:(yes)\b(?!\W*(?:(?:and|or)\W+)?no\b)|(no)\b(?!\W*(?:(?:and|or)\W+)?yes\b)(?!\W+(?:idea|clue|way|answer|opinion|information)\b))"
)


@lru_cache(maxsize=1 << 14)
def words(text: str) -> tuple[str, ...]:
    """The words that are compared.

    Small letters; marks fall away, an apostrophe or a thousand's comma without a gap; zero to ten and none become
    digits; a, an and the are dropped where a word follows. What stays: the point in a number, "<"
    and ">", and a plus or minus before a number or behind a word. A text of marks alone is one word.

    >>> words("The left-sided effusion, 1.5 cm."), words("Crohn's disease")
    (('left', 'sided', 'effusion', '1.5', 'cm'), ('crohns', 'disease'))
    >>> words("Two"), words("1,200 mL"), words("> 5 mm"), words("-12 HU"), words("ER+, HER2-")
    (('2',), ('1200', 'ml'), ('>', '5', 'mm'), ('-12', 'hu'), ('er+', 'her2-'))
    >>> words("hepatitis A"), words("a hepatitis"), words("x-ray"), words("?!")
    (('hepatitis', 'a'), ('hepatitis',), ('x', 'ray'), ('?!',))
    """
    plain = unicodedata.normalize("NFC", text).lower().replace("−", "-").replace("_", " ")
    found = _WORD.findall(_APOSTROPHE.sub("", _THOUSANDS.sub("", plain)))
    kept = [word for at, word in enumerate(found, 1) if word not in _ARTICLES or at == len(found)]
    return tuple(_NUMBERS.get(word, word) for word in kept) or tuple(plain.split())


def is_exact(answer: str, reference: str) -> bool:
    """The same words in the same order.

    >>> is_exact("The LEFT lung.", "left lung"), is_exact("two", "2"), is_exact("left", "left lung"), is_exact("1.5 cm", "15 cm"), is_exact("", "")
    (True, True, False, False, False)
    """
    return words(answer) == words(reference) != ()


@dataclass(frozen=True)
class Overlap:
    """What share of the answer's words stands in the reference, what share of the reference's in the answer, and their harmonic mean.

    >>> Overlap.of("right lower lobe", "lower lobe of the right lung")      # 3 words shared, of 3 and of 5
    Overlap(precision=1.0, recall=0.6, f1=0.75)
    """

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, answer: str, reference: str) -> "Overlap":
        """A word counts as often as both have it.

        | answer | reference | precision | recall | F1 |
        >>> Overlap.of("left", "left lung")             # 1/1, 1/2, 2/3
        Overlap(precision=1.0, recall=0.5, f1=0.6666666666666666)
        >>> Overlap.of("left left", "left")             # 1/2, 1/1, 2/3
        Overlap(precision=0.5, recall=1.0, f1=0.6666666666666666)
        >>> Overlap.of("ER+", "ER-").f1, Overlap.of("", "liver").f1
        (0.0, 0.0)
        """
        said, wanted = words(answer), words(reference)
        shared = sum((Counter(said) & Counter(wanted)).values())
        if not shared:
            return cls(0.0, 0.0, 0.0)
        return cls(shared / len(said), shared / len(wanted), 2 * shared / (len(said) + len(wanted)))


def yes_no(answer: str) -> str:
    """The "yes" or "no" that an answer begins with, or "" where it begins with neither or with both. Never guesses.

    >>> [yes_no(text) for text in ("Yes.", "no, the heart is normal", "**No** evidence of it", "(yes)")]
    ['yes', 'no', 'no', 'yes']
    >>> [yes_no(text) for text in ("normal", "There is no fracture", "yes or no", "no/yes", "no idea", "nope", "y")]
    ['', '', '', '', '', '', '']
    """
    found = _YES_NO.match(answer.lower())
    return (found[1] or found[2]) if found else ""


def is_yes_no(reference: str) -> bool:
    """Whether a question's reference makes it one of yes and no.

    >>> is_yes_no("Yes."), is_yes_no("no"), is_yes_no("no fracture")
    (True, True, False)
    """
    return words(reference) in (("yes",), ("no",))


def is_right(answer: str | None, reference: str) -> bool:
    """The rule's verdict: the right one of yes and no where the reference is one, else the same words.

    >>> is_right("No, it is not.", "no"), is_right("Left lung", "left lung"), is_right("lung", "left lung"), is_right(None, "no")
    (True, True, False, False)
    """
    if answer is None:
        return False
    return (yes_no(answer),) == words(reference) if is_yes_no(reference) else is_exact(answer, reference)
