"""The reward ``consistent`` is the evaluation's own rule, answer by answer."""

import pytest

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.asking.run import score
from medvlm_r1.evaluation.measuring.agreement import agreement
from medvlm_r1.preflight.questions import check_gold
from medvlm_r1.reasoning import render
from medvlm_r1.rewards.rubric import Rubric
from medvlm_r1.types import Completion, Example

QUESTION = Example("q", ("a.png",), "Which side?", ("left", "right", "both"), "right", "mri")
SAID = {
    "<think>Hence right.</think>\n<answer>B</answer>": 1.0,
    "<think>Hence left.</think>\n<answer>A</answer>": 1.0,  # wrong, and consistent
    "<think>Hence left.</think>\n<answer>B</answer>": 0.0,
    "<think>Left? It is not left.</think>\n<answer>A</answer>": 1.0,  # named before it was denied
    "<think>A dark spot.</think>\n<answer>B</answer>": 0.0,  # names none
    "<answer>B</answer>": 0.0,
    "<think>Hence right.</think>\n<answer>right</answer>": 0.0,  # no letter was read
    "<think>Hence right.": 0.0,
}


def say(text):
    return Completion((7,), (), text, True)


@pytest.mark.parametrize(("text", "earned"), SAID.items())
def test_what_it_earns_and_what_the_evaluation_says(text, earned):
    prompt = render(QUESTION, "think")
    assert Rubric({"consistent": 1.0})(say(text), prompt) == {"consistent": earned}
    found = agreement([score(prompt, say(text), (), "image")])
    assert (found["agrees"] == 1.0) == bool(earned)


def test_the_right_answer_can_earn_it_where_a_thought_is_asked_for_and_options_are_there():
    check_gold(Rubric({"format": 1.0, "consistent": 1.0}), [render(QUESTION, "think")])
    for prompt in (render(QUESTION, "direct"), render(Example("f", ("a.png",), "Which side?", (), "right", "mri"), "think")):
        with pytest.raises(DataError, match='cannot earn the reward "consistent"'):
            check_gold(Rubric({"consistent": 1.0}), [prompt])
