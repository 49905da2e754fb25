"""Does the answer go by the thought?"""

from medvlm_r1.reasoning import read
from medvlm_r1.rewards.naming import named_last
from medvlm_r1.types import Completion, Prompt


def consistent(completion: Completion, prompt: Prompt) -> float:
    """1.0 iff the option that the thought names last is the one answered, right or wrong; a thought that names none earns nothing.

    Naming and reading are those of the evaluation (``naming.named_last``, ``reasoning.read``).

    | thought                  | answer | reward                    |
    |--------------------------|--------|---------------------------|
    | ``Ears. Hence coronal.`` | B      | 1.0                       |
    | ``Ears. Hence coronal.`` | A      | 0.0 (contradicted)        |
    | ``Ears.``                | B      | 0.0 (decoration)          |
    | ``Axial? No, coronal.``  | B      | 1.0 (the last one counts) |

    >>> from medvlm_r1.types import Example
    >>> prompt = Prompt(Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "mri"), "…")
    >>> said = [("Ears. Hence coronal.", "B"), ("Ears. Hence coronal.", "A"), ("Ears.", "B"), ("Axial? No, coronal.", "B")]
    >>> [consistent(Completion((), (), f"<think>{thought}</think><answer>{letter}</answer>", True), prompt) for thought, letter in said]
    [1.0, 0.0, 0.0, 1.0]
    """
    found = read(completion.text, prompt, completion.finished)
    return float(found.answer is not None and named_last(found.think, prompt.example.options) == found.answer)
