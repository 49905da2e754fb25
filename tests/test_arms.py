"""What each arm asks: by hand, on a few questions."""

from dataclasses import replace

import pytest

from medvlm_r1.data.images import load_image
from medvlm_r1.data.partners import partners
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.evaluation.asking import arms
from medvlm_r1.evaluation.asking.arms import ARMS, Asked, prompts_of
from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.asking.run import EvalConfig, answers, score
from medvlm_r1.reasoning import render
from medvlm_r1.types import Completion, Example


def question(name, modality="mri", options=("left", "right"), gold="right", kind="side", group=""):
    return Example(name, (f"{name}.png",), "Which side?", options, gold, modality, kind, group)


QUESTIONS = [question("q1", group="p1"), question("q2", group="p1"), question("q3", group="p2"), question("q4", "ct", ("left", "right", "both"))]


def say(text, error=""):
    return Completion((1, 2), (), text, not error, error)


def answered(**texts):
    asked = {q.id: q for q in QUESTIONS}
    return {name: score(render(asked[name], "think"), say(text), (), "image") for name, text in texts.items()}


def ask(name, answered=None, template="think"):
    return prompts_of(name, Asked(QUESTIONS, template, answered or {}))


def test_every_arm_has_a_meaning_and_the_arm_image_changes_nothing():
    assert ARMS.keys() <= MEANINGS.keys()
    assert ask("image") == [render(q, "think") for q in QUESTIONS]


def test_what_is_shown_instead_of_the_picture():
    assert [p.example.images for p in ask("blank")] == [(f"blank:{q.id}.png",) for q in QUESTIONS]
    assert [p.text for p in ask("noise")] == [p.text for p in ask("image")]


def test_blank_and_noise_keep_the_size_and_noise_keeps_mean_and_spread():
    real, blank, noise = (load_image(f"{view}phantom:mri/test/3").convert("L") for view in ("", "blank:", "noise:"))
    assert real.size == blank.size == noise.size and len(blank.getcolors()) == 1
    levels = [list(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata()) for picture in (real, noise)]
    means = [sum(part) / len(part) for part in levels]
    assert abs(means[0] - means[1]) < 12  # clipping at black moves it a little
    assert noise.tobytes() == load_image("noise:phantom:mri/test/3").convert("L").tobytes()
    assert noise.tobytes() != load_image("noise:phantom:mri/test/4").convert("L").tobytes()


def test_a_crop_keeps_what_is_seen_and_no_byte():
    real, cropped = (load_image(f"{view}phantom:mri/test/3").convert("L") for view in ("", "crop:"))
    dx, dy = (round(0.02 * side) for side in real.size)
    assert cropped.size == (real.width - 2 * dx, real.height - 2 * dy)
    inner = real.crop((dx, dy, real.width - dx, real.height - dy))
    off = [abs(a - b) for a, b in zip(inner.tobytes(), cropped.tobytes(), strict=True)]
    assert 0 < sum(off) / len(off) < 4 and inner.tobytes() != cropped.tobytes()  # of 256 levels
    assert cropped.tobytes() == load_image("crop:phantom:mri/test/3").convert("L").tobytes()


def test_a_mismatched_picture_is_of_the_same_modality_and_another_patient():
    shown = {p.example.id: p.example.images for p in ask("mismatch")}
    assert shown["q1"] == shown["q2"] == ("q3.png",) and shown["q3"] in (("q1.png",), ("q2.png",))
    assert "q4" not in shown  # the only CT
    assert [p.example.answer for p in ask("mismatch")] == ["right"] * 3


def test_a_mismatched_picture_shows_another_answer_where_there_is_one():
    left = [question(f"l{i}", gold="left", group=f"g{i}") for i in range(3)]
    right = [question(f"r{i}", group=f"g{i}") for i in range(3)]
    plane = [question("p1", kind="plane", group="x"), question("p2", kind="plane", group="y")]  # both with the same answer
    shown = {p.example.id: p.example.images[0] for p in prompts_of("mismatch", Asked([*left, *right, *plane], "think"))}
    assert all(shown[q.id][0] == "r" and shown[q.id][1] != q.id[1] for q in left)  # of another patient
    assert all(shown[q.id][0] == "l" and shown[q.id][1] != q.id[1] for q in right)
    assert shown["p1"] != "p1.png" and shown["p2"] != "p2.png"


def test_a_mismatched_question_keeps_its_number_of_pictures():
    one, other = question("a", group="p1"), question("c", group="p3")
    two = replace(question("b", gold="left", group="p2"), images=("b1.png", "b2.png"))
    shown = {p.example.id: p.example.images for p in prompts_of("mismatch", Asked([one, two, other], "think"))}
    assert shown == {"a": ("c.png",), "c": ("a.png",)}


def test_each_has_a_partner_of_its_own_and_of_another_patient():
    many = [question(f"q{i}", group=f"p{i}") for i in range(6)]
    assert sorted(e.id for e in partners(many, lambda e: e.modality).values()) == [f"q{i}" for i in range(6)]
    large = [*(question(f"a{i}", group="large") for i in range(20)), question("b", group="small")]
    assert [e.id for id, e in partners(large, lambda e: e.modality).items() if id != "b"] == ["b"] * 20


def test_free_text_has_no_hard_variant():
    free = Example("free", ("f.png",), "Describe it.", (), "dark", "mri", "side", "p9")
    assert [p.example.id for p in prompts_of("hard", Asked([QUESTIONS[0], free, question("q5", gold="left")], "think"))] == ["q1", "q5"]


def test_partners_do_not_depend_on_the_order_of_the_questions():
    assert partners(QUESTIONS, lambda e: e.modality) == partners(QUESTIONS[::-1], lambda e: e.modality)


def test_every_rotation_is_asked_once_and_the_gold_letter_moves_with_it():
    prompts = ask("rotate")
    assert [p.example.id for p in prompts] == ["q1"] * 2 + ["q2"] * 2 + ["q3"] * 2 + ["q4"] * 3
    assert [p.example.letter for p in prompts if p.example.id == "q4"] == ["B", "A", "C"]
    assert "A) right\nB) both\nC) left" in prompts[-2].text


def test_without_a_thought_the_letter_alone_is_asked_for():
    assert "Answer only." in ask("no-think")[0].text
    [prompt, *_] = ask("no-think", template="paper-eval")
    assert prompt.bare and "single-letter choice" in prompt.text and "<think>" not in prompt.text
    assert score(prompt, say("B"), [say("b)"), say("Right")], "no-think").sampled_answers == ("B", None)
    with pytest.raises(DataError, match='"no-think".*leave it out'):
        ask("no-think", template="direct")


def test_forced_thoughts():
    found = answered(q1="<think>One two three four.</think>\n<answer>A</answer>", q2="<answer>B</answer>", q3="<think>Five six.</think><answer>B</answer>")
    assert {p.opening for p in ask("empty-thought", found)} == {"<think></think>\n<answer>"} and len(ask("empty-thought", found)) == 4
    assert {p.example.id: p.opening for p in ask("half-thought", found)} == {
        "q1": "<think>One two</think>\n<answer>", "q3": "<think>Five</think>\n<answer>",
    }  # fmt: skip
    assert {p.example.id: p.opening for p in ask("swapped-thought", found)} == {
        "q1": "<think>Five six.</think>\n<answer>", "q3": "<think>One two three four.</think>\n<answer>",
    }  # fmt: skip
    with pytest.raises(DataError, match="half-thought"):
        ask("half-thought")
    refusal = score(render(QUESTIONS[0], "think"), say("", "status 400 (write <think>your thought</think>)"), (), "image")
    assert {p.example.id for p in ask("half-thought", found | {"q1": refusal})} == {"q3"}  # what a server says is no thought


def test_a_foreign_thought_is_about_the_same_kind_of_question():
    one, other = question("a", group="p1"), question("b", kind="plane", group="p2")
    found = {q.id: score(render(q, "think"), say("<think>Two words.</think><answer>A</answer>"), (), "image") for q in (one, other)}
    with pytest.raises(DataError, match="swapped-thought"):
        prompts_of("swapped-thought", Asked([one, other], "think", found))


def test_what_is_read_begins_with_the_opening():
    [prompt, *_] = ask("empty-thought")
    sample = score(prompt, say("B</answer>"), (), "empty-thought")
    assert (sample.text, sample.answer, sample.correct) == ("<think></think>\n<answer>B</answer>", "B", True)
    failed = score(prompt, say("", "no connection"), (), "empty-thought")
    assert (failed.text, failed.answer, failed.status, failed.correct) == ("no connection", None, "failed", False)


def test_half_of_one_word_is_nothing():
    assert arms.half("Left.") == "" and arms.half("") == ""


def test_an_unknown_arm_is_named():
    with pytest.raises(ConfigError, match='unknown arm "blnk"; did you mean "blank"'):
        ask("blnk")


class Opened:
    """An engine that ends what was begun, and notes how it was asked."""

    def generate(self, prompts, sampling):
        self.openings = [prompt.opening for prompt in prompts]
        return [[say("A</answer>")] * sampling.n for _ in prompts]


def test_an_engine_hears_of_the_opening_and_the_first_answers_reach_the_arm():
    engine = Opened()
    found = answered(q1="<think>One two.</think><answer>A</answer>")
    samples = answers(engine, QUESTIONS, EvalConfig("think", arm="half-thought"), answered=found)
    assert engine.openings == ["<think>One</think>\n<answer>"]
    assert [(s.id, s.answer, s.arm) for s in samples] == [("q1", "A", "half-thought")]
