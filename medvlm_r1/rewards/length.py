"""What a completion's length costs."""

from medvlm_r1.types import Completion, Prompt

CACHE = 0.2  # the share of the limit over which the penalty falls: 4,096 of DAPO's 20,480 tokens


def overlong(completion: Completion, prompt: Prompt) -> float:
    """0 up to four fifths of the token limit, from there falling to -1 at the limit (DAPO 2503.14476, equation 13).

    Where nobody set a limit, 0. Of 100 tokens at most:

    | tokens | 10 | 80 | 85    | 90   | 100 |
    |--------|----|----|-------|------|-----|
    | reward | 0  | 0  | -0.25 | -0.5 | -1  |

    >>> from medvlm_r1.types import Example
    >>> prompt = Prompt(Example("q1", (), "Which plane?", ("axial", "coronal"), "axial", "mri"), "…", max_tokens=100)
    >>> [overlong(Completion((7,) * n, (), "", finished=True), prompt) for n in (10, 80, 85, 90, 100)]
    [0.0, 0.0, -0.25, -0.5, -1.0]
    """
    cache = CACHE * prompt.max_tokens
    over = len(completion.token_ids) - (prompt.max_tokens - cache)
    return 0.0 - min(1.0, over / cache) if prompt.max_tokens and over > 0 else 0.0
