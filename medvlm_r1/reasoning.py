"""THE think/answer contract: how a question is put and how an answer is read.

Training, evaluation and serving render with the same templates and read with
the same parser. The rule is versioned; a change to it is a new version.
"""

import re
from dataclasses import dataclass

from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.types import LETTERS, Example, Prompt

EXTRACTION = "strict-1"
OPEN_EXTRACTION = "open-1"  # the rule for questions without options

_PAPER = (
    "\n{pad}{question} \n{pad}Your task: \n"
    "{pad}1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. \n"
    "{pad}2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
    "{pad}3. No extra information or text outside of these tags.\n{pad}"
)

# The paper's prompts are an interface of its released checkpoint: byte-exact,
# eight spaces in training and four in evaluation (JZPeterPan/MedVLM-R1, 2025-09-17).
TEMPLATES = {
    "paper-train": _PAPER.replace("{pad}", " " * 8),
    "paper-eval": _PAPER.replace("{pad}", " " * 4),
    "paper-direct": "\n    {question} \n    Your task: provide the correct single-letter choice (A, B, C, D,...).\n    ",
    "think": "{question}\nThink first, then answer.",
    "direct": "{question}\nAnswer only.",
    "plain": "{question}",  # for free text, where there is no letter to ask for
    # As other checkpoints were asked by their authors; recipes.presets says where each is read.
    "med-r1-train": "{question} {options} Your task: 1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags. "
    "2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags. "
    "3. No extra information or text outside of these tags.",
    "med-r1": "{question} {options} Think through the question step by step in <think>...</think> tags. "
    "Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.",
    "med-r1-direct": "{question} {options} Provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.",
    "lingshu": "\nQuestion: {question}\nOptions: \n{options}\nAnswer with the option's letter from the given choices directly.",
    "huatuo": "{question}\n{options}\nAnswer with the option's letter from the given choices directly.",
    "medgemma": "{question}\n{options}",
}
# How these write an option, and what stands between two; the others write "A) axial", one a line, behind the question.
OPTIONS = dict.fromkeys(("med-r1-train", "med-r1", "med-r1-direct"), ("{letter}){option}", ", ")) | {
    "lingshu": ("{letter}. {option}", "\n"), "huatuo": ("{letter}. {option}", "\n"), "medgemma": ("{letter}: {option}", "\n"),
}  # fmt: skip
SYSTEM = {"medgemma": "You are an expert radiologist."}
# What a question without options is asked in place of the above; a template that is missing here asks for no letter.
_LETTER_ASKED, _WORDS_ASKED = "the correct single-letter choice (A, B, C, D,...)", "the correct answer in a few words"
OPEN = {name: text.replace(_LETTER_ASKED, _WORDS_ASKED).replace(" {options}", "") for name, text in TEMPLATES.items() if _LETTER_ASKED in text} | {
    "lingshu": "{question}\nPlease answer the question concisely.",
    "huatuo": "{question}",
    "medgemma": "{question}",
    "think": "{question}\nThink first inside <think>...</think>, then answer in a few words inside <answer>...</answer>.",
    "direct": "{question}\nAnswer only, in a few words inside <answer>...</answer>.",
}

EVALUATED_AS = {"paper-train": "paper-eval", "med-r1-train": "med-r1"}  # the authors train and test with different words
WITHOUT_THOUGHT = {"paper-train": "paper-direct", "paper-eval": "paper-direct", "think": "direct", "med-r1-train": "med-r1-direct", "med-r1": "med-r1-direct"}
BARE = {"paper-direct", "lingshu", "huatuo", "medgemma"}  # no tags are asked for
BARE_OPEN = BARE | {"plain"}  # nor here, where there are no options


def render(example: Example, template: str) -> Prompt:
    """The user turn of a question, after its images.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> render(e, "direct").text
    'Which plane?\\nA) axial\\nB) coronal\\nAnswer only.'
    >>> render(e, "med-r1-direct").text[:33], render(e, "medgemma").text, render(e, "medgemma").system
    ('Which plane? A)axial, B)coronal P', 'Which plane?\\nA: axial\\nB: coronal', 'You are an expert radiologist.')
    >>> render(Example("q2", ("a.png",), "Which plane?", (), "axial", "mri"), "direct").text
    'Which plane?\\nAnswer only, in a few words inside <answer>...</answer>.'
    """
    if template not in TEMPLATES:
        raise ConfigError(f'unknown template "{template}"{nearest(template, TEMPLATES)}')
    thinks = template in WITHOUT_THOUGHT or (False if template in {*WITHOUT_THOUGHT.values(), *BARE} else None)
    system = SYSTEM.get(template, "")
    if not example.options:
        text = OPEN.get(template, TEMPLATES[template]).replace("{question}", example.question)
        return Prompt(example, text, bare=template in BARE_OPEN, thinks=thinks, system=system)
    if template not in OPTIONS:
        return Prompt(example, TEMPLATES[template].replace("{question}", asked(example)), bare=template in BARE, thinks=thinks, system=system)
    before, rest = TEMPLATES[template].split("{question}")
    middle, behind = rest.split("{options}")
    one, between = OPTIONS[template]
    named = between.join(one.format(letter=letter, option=option) for letter, option in zip(LETTERS, example.options, strict=False))
    theirs = example.question + middle + named
    return Prompt(example, before + theirs + behind, bare=template in BARE, thinks=thinks, system=system, asked=theirs)


def asked(example: Example) -> str:
    """What of a prompt is the asker's: the question and its options. All else is the template's.

    >>> asked(Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri"))
    'Which plane?\\nA) axial\\nB) coronal'
    """
    return "\n".join([example.question, *(f"{letter}) {option}" for letter, option in zip(LETTERS, example.options, strict=False))])


def gold(example: Example, think: str | None) -> str:
    """The completion that earns every reward; ``think=None`` leaves the reasoning out.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> gold(e, "The skull is cut from ear to ear.")
    '<think>The skull is cut from ear to ear.</think>\\n<answer>B</answer>'
    >>> gold(e, None)
    '<answer>B</answer>'
    """
    answer = f"<answer>{example.letter or example.answer}</answer>"
    return answer if think is None else f"<think>{think}</think>\n{answer}"


def golds(prompt: Prompt) -> list[str]:
    """The right completion in the form that the prompt asks for; with and without a thought where it leaves that open. The thought names the answer.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri")
    >>> [golds(render(e, template)) for template in ("paper-direct", "direct", "think")]
    [['B'], ['<answer>B</answer>'], ['<think>coronal</think>\\n<answer>B</answer>']]
    """
    example = prompt.example
    if prompt.bare:
        return [example.letter or example.answer]
    return [gold(example, example.answer if thinks else None) for thinks in ((True, False) if prompt.thinks is None else (prompt.thinks,))]


@dataclass(frozen=True)
class Reasoned:
    """A completion as read: the thought, the letter (without options: the text) or None, and why there is none.

    >>> parse("<think>Fluid is dark.</think><answer>A</answer>", n_options=4)
    Reasoned(think='Fluid is dark.', answer='A', status='answered')
    """

    think: str
    answer: str | None
    status: str  # answered | unparsed | truncated | abstained


# "none" is no abstention: it is an option of many questions, and option text is not read.
_ABSTAIN = re.compile(
    r"(i )?(do not|don['’]t|cannot|can['’]t|can not|am unable to) (know|tell|determine|answer|say|decide)\b.*"
    r"|((i am|i['’]m) )?(not sure|unsure|uncertain)\b.*|(unknown|(i )?abstain)[.!]?",
    re.IGNORECASE | re.DOTALL,
)
_LETTER = re.compile(r"[(\[]?([A-Ja-j])[)\].:]?")


def parse(text: str, n_options: int) -> Reasoned:
    """Read a completion by rule ``strict-1``. Never guesses a letter.

    1. The thought is what stands between the first ``<think>``, or else the start, and the
       last ``</think>``. A ``<think>`` behind the last ``</think>`` is a thought without an
       end: "truncated", even where an answer stands in it or before it, and all from the
       first ``<think>`` is thought.
    2. The answer's body runs from the last ``<answer>`` behind the thought (anywhere, if there
       is none) to the next ``</answer>``. Without ``<answer>``: "unparsed". Without
       ``</answer>``: "truncated"; an earlier answer is not taken in its stead.
    3. The body, white space around it aside, is "answered" when it is one letter of the
       options, A to J at most, in either case, with at most one of ``([`` before it and at
       most one of ``)].:`` behind it.
    4. It is "abstained" when it has less than 200 characters and begins, in either case, with
       [I] do not / don't / cannot / can't / can not / am unable to + know / tell / determine /
       answer / say / decide, or with [I am / I'm] not sure / unsure / uncertain; or is no more
       than unknown or [I] abstain, with at most one of ``.!`` behind it.
    5. Anything else is "unparsed": option texts, several letters, full-width and look-alike
       letters, zero-width characters, and whatever stands in tags with capitals or spaces.

    Runs in linear time. ``docs/extraction-strict-1.jsonl`` has an answer for every case.

    >>> parse("<think>A or B?</think> <answer>b)</answer>", 4).answer
    'B'
    >>> parse("<think>A or B?</think> <answer>A or B</answer>", 4).status
    'unparsed'
    >>> parse("<think>If it were left, <answer>A</answer>, but", 4).status
    'truncated'
    >>> parse("<answer>I cannot tell.</answer>", 4).status
    'abstained'
    """
    think, body, status = parts(text)
    if body is None:
        return Reasoned(think, None, status)
    letter = _LETTER.fullmatch(body)
    if letter and letter[1].upper() in LETTERS[:n_options]:
        return Reasoned(think, letter[1].upper(), "answered")
    return Reasoned(think, None, "abstained" if _abstains(body) else "unparsed")


def parse_open(text: str) -> Reasoned:
    """Read the answer to a question without options by rule ``open-1``: the body that ``strict-1`` would look at, as it stands.

    Thought, body and "truncated" are those of ``parse``, rules 1 and 2; "abstained" is rule 4. An
    empty body is "unparsed", and any other is "answered", white space around it aside.

    >>> parse_open("<think>Dark, at the base.</think><answer> Left lower lobe. </answer>").answer
    'Left lower lobe.'
    >>> [parse_open(text).status for text in ("The liver.", "<answer> </answer>", "<answer>liver", "<answer>I cannot tell</answer>")]
    ['unparsed', 'unparsed', 'truncated', 'abstained']
    """
    think, body, status = parts(text)
    if not body:
        return Reasoned(think, None, status)
    return Reasoned(think, None, "abstained") if _abstains(body) else Reasoned(think, body, "answered")


def read(text: str, prompt: Prompt, finished: bool = True) -> Reasoned:
    """Read all that stands in the assistant's turn. Where no tags were asked for and none came, the whole of it is the answer's body.

    Without options that is what stands behind the thought, if there is one; and where the token limit cut
    it off (not ``finished``) it is truncated, as nobody knows how a text would have ended.

    >>> e = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
    >>> read("B", render(e, "paper-direct")).answer, read("B", render(e, "paper-eval")).answer
    ('B', None)
    >>> read("<think>Ears.</think> Axial", render(Example("q2", ("a.png",), "Which plane?", (), "axial", "mri"), "plain")).answer
    'Axial'
    """
    is_bare = prompt.bare and "<answer>" not in text and "<think>" not in text.rpartition("</think>")[2]  # a thought without an end holds no answer
    if prompt.example.options:
        return parse(f"<answer>{text}</answer>" if is_bare else text, len(prompt.example.options))
    thought, end, rest = text.rpartition("</think>")
    return parse_open(f"{thought}{end}<answer>{rest}{'</answer>' if finished else ''}" if is_bare else text)


def parts(text: str) -> tuple[str, str | None, str]:
    """The thought, the answer's body or None, and the status where nothing is to be read in it: rules 1 and 2 of ``parse``."""
    head, _, tail = text.rpartition("</think>")
    if "<think>" in tail:
        return _after(text, "<think>").strip(), None, "truncated"
    think = _after(head, "<think>").strip()
    opened = tail.rfind("<answer>")
    if opened < 0:
        return think, None, "unparsed"
    body, end, _ = tail[opened + len("<answer>") :].partition("</answer>")
    return (think, body.strip(), "unparsed") if end else (think, None, "truncated")


def _abstains(body: str) -> bool:
    return len(body) < 200 and _ABSTAIN.fullmatch(body) is not None


def _after(text: str, tag: str) -> str:
    return text.partition(tag)[2] if tag in text else text
