"""How a model marks its thought, and the same in the tags that the parser reads: <think> and </think>.

Some write these as tokens of their own, some have other tokens, and of some the chat template has begun the thought already.
What the rule reads is one text for all; ``reasoning.parse`` knows nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.types import Prompt

OPEN, CLOSE = "<think>", "</think>"
# Begin and end; the first sign of each is a token of its own. MedGemma 27B (Google-Health/medgemma, quick_start_with_model_garden.ipynb);
# Gemma 4 (transformers, tests of its processor); Magistral; Kimi-VL.
MARKS = (
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)


@dataclass(frozen=True)
class Thoughts:
    """``begin`` and ``end`` as the model writes them; ``opened``: its chat template has written ``begin`` before the model's first word.

    | the model | writes | read as |
    |---|---|---|
    | Qwen2-VL, nano | `<think>Ears.</think><answer>B</answer>` | the same |
    | MedGemma 27B | `<unused94>thought\\nEars.<unused95><answer>B</answer>` | `<think>Ears.</think><answer>B</answer>` |
    | Gemma 4 | `<|channel>thought\\n<channel|>B` | `<think></think>B` |
    | its template opens the thought | `Ears.</think>\\n<answer>B</answer>` | `<think>Ears.</think>\\n<answer>B</answer>` |
    | the same, cut off | `If it were left, <answer>A</answer>, but` | `<think>If it were left, <answer>A</answer>, but`: truncated, not A |

    >>> Thoughts(*MARKS[0]).read("<unused94>thought\\nEars.<unused95><answer>B</answer>")
    '<think>Ears.</think><answer>B</answer>'
    >>> Thoughts().read("If it were left, <answer>A</answer>, but", begun=True), Thoughts().read("<answer>A</answer>")
    ('<think>If it were left, <answer>A</answer>, but', '<answer>A</answer>')
    """

    begin: str = OPEN
    end: str = CLOSE
    opened: bool = False
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, tokenizer: Any) -> "Thoughts":
        """By the tokens that a tokenizer has of its own, and by the end of what its chat template writes before an answer."""
        own = tokenizer.get_added_vocab()
        begin, end = next((marks for marks in MARKS if end_in(own, marks[0]) and end_in(own, marks[1])), (OPEN, CLOSE))
        turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        before = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)) if tokenizer.chat_template else ""
        return cls(begin, end, before.rstrip().endswith(begin.rstrip()), tokenizer)

    def before(self, prompt: Prompt, text: str) -> str:
        """What the chat template wrote, without the beginning of a thought where the prompt itself begins the completion."""
        return text.rstrip().removesuffix(self.begin.rstrip()) if self.opened and prompt.opening else text

    def said(self, ids: Sequence[int], prompt: Prompt, whole: bool = True) -> str:
        """``read`` of a completion's tokens."""
        return self.read(self.tokenizer.decode(list(ids), skip_special_tokens=False), self.opened and not prompt.opening, whole)

    def behind(self, text: str, prompt: Prompt) -> str:
        """What must stand behind a prompt for ``said`` to find this text."""
        return self.write(text, self.opened and not prompt.opening)

    def read(self, text: str, begun: bool = False, whole: bool = True) -> str:
        """What a model wrote, with its thought in tags. Where more may follow (not ``whole``) half a mark at the end waits for its rest.

        >>> [Thoughts(*MARKS[0]).read(text, whole=False) for text in ("<unused94>", "<unused94>thou", "<unused94>thought\\nE", "<unused94>!")]
        ['', '', '<think>E', '<unused94>!']
        """
        if self.begin != OPEN:
            waits = 0 if whole else max(half(text, self.begin), half(text, self.end))
            text = text[: len(text) - waits].replace(self.begin, OPEN).replace(self.end, CLOSE)
        if not begun or text.lstrip().startswith(OPEN):
            return text
        return "" if not whole and OPEN.startswith(text.lstrip()) else OPEN + text

    def write(self, text: str, begun: bool = False) -> str:
        """What stands behind a prompt that has ``begun`` the thought, for a text with a thought in tags or with none.

        >>> [Thoughts().write(text, begun=True) for text in ("<think>Ears.</think><answer>A</answer>", "<answer>A</answer>")]
        ['Ears.</think><answer>A</answer>', '</think><answer>A</answer>']
        """
        if not begun:
            return text
        return (text.removeprefix(OPEN) if text.startswith(OPEN) else CLOSE + text).replace(CLOSE, self.end, 1)


def end_in(own: Any, mark: str) -> bool:
    """Does a mark begin with a token of the tokenizer's own?

    >>> end_in({"<unused94>": 7}, "<unused94>thought"), end_in({}, "<unused94>thought")
    (True, False)
    """
    return any(mark.startswith(token) for token in own if len(token) > 1)


def half(text: str, mark: str) -> int:
    """How many signs at the end could be the beginning of a mark.

    >>> half("dark <unused94>thou", MARKS[0][0]), half("dark", MARKS[0][0])
    (14, 0)
    """
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
