"""Free answers: the rule's words against another computation and against tables, its rewards, and a training run on them."""

import json
import random
import re
import string
from collections import Counter

import hub_model
import pytest
from conftest import SMALL, train
from PIL import Image

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.asking.run import score
from medvlm_r1.preflight.questions import check_gold
from medvlm_r1.reasoning import OPEN, OPTIONS, TEMPLATES, WITHOUT_THOUGHT, gold, parse, parse_open, read, render
from medvlm_r1.rewards.rubric import REWARDS, Rubric
from medvlm_r1.rewards.text import Overlap, is_exact, is_right, words, yes_no
from medvlm_r1.types import Completion, Example

# ---------------------------------------------------------------- words


def squad(text):
    """Small letters, no marks, no articles: as Rajpurkar et al. describe it, written for this test."""
    letters = "".join(" " if c in string.punctuation else c for c in text.lower())
    return [word for word in letters.split() if word not in ("a", "an", "the")]


def squad_f1(answer, reference):
    said, wanted = squad(answer), squad(reference)
    shared = sum(min(said.count(word), wanted.count(word)) for word in set(said))
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_on_plain_words_all_is_as_in_squad():
    """1,000 pairs of up to six words, some of them repeated, with marks and articles between; none ends in an article."""
    rng = random.Random(7)
    vocabulary = ["left", "right", "lobe", "lung", "lower", "effusion", "ct", "liver"]

    def text():
        said = [rng.choice([*vocabulary, "the", "a", "an"]) for _ in range(rng.randrange(6))] + [rng.choice(vocabulary)]
        return "".join(word.title() + rng.choice([" ", ", ", ". ", "; ", " (", ") "]) for word in said)

    kinds = Counter()
    for _ in range(1000):
        answer, reference = text(), text()
        found = Overlap.of(answer, reference)
        assert (found.precision, found.recall, found.f1) == pytest.approx(squad_f1(answer, reference))
        assert is_exact(answer, reference) == (squad(answer) == squad(reference))
        kinds[found.f1 in (0.0, 1.0)] += 1
    assert kinds[True] > 100 and kinds[False] > 100


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("Pleural effusion.", "pleural effusion", True, 1),
        ("pleural  Effusion\n", "Pleural effusion", True, 1),
        ("The right lung", "right lung", True, 1),
        ("two", "2", True, 1),
        ("None", "0", True, 1),
        ("Crohn’s", "crohns", True, 1),
        ("T2 weighted", "T2-weighted", True, 1),
        ("1,200", "1200", True, 1),
        ("effusion, pleural", "pleural effusion", False, 1),  # F1 knows no order
        ("left lung", "right lung", False, 0.5),
        ("lung", "left lower lung", False, 0.5),  # 2 x 1 / (1 + 3)
        ("there is a lesion in the left lung", "left lung", False, 0.5),  # there is lesion in left lung: 2 x 2 / (6 + 2)
        ("1.5 cm", "15 cm", False, 0.5),
        (".5", "5", False, 0),
        ("-12", "12", False, 0),
        ("HER2+", "HER2-", False, 0),
        ("> 5 mm", "< 5 mm", False, 2 / 3),
        ("hepatitis A", "hepatitis B", False, 0.5),
        ("hepatitis", "hepatitis A", False, 2 / 3),
        ("lungs", "lung", False, 0),  # plurals are not known
        ("", "liver", False, 0),
        ("Ödem", "O\u0308dem", True, 1),  # one letter or two
    ],
)
def test_the_table_of_words(answer, reference, exact, f1):
    assert is_exact(answer, reference) is exact
    assert Overlap.of(answer, reference).f1 == pytest.approx(f1)
    back = Overlap.of(reference, answer)
    assert (back.recall, back.precision) == (Overlap.of(answer, reference).precision, Overlap.of(answer, reference).recall)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("yes", "yes"), ("Yes.", "yes"), ("NO", "no"), ("No, none is seen", "no"), ("**Yes**", "yes"), (' "no"', "no"), ("no fracture", "no"),
        ("Yes, there is no shift", "yes"), ("no; the heart is not large", "no"), ("No no", "no"),
        ("", ""), ("normal", ""), ("none", ""), ("not seen", ""), ("nope", ""), ("y", ""), ("There is: yes", ""), ("I think yes", ""),
        ("yes or no", ""), ("Yes/No", ""), ("yes and no", ""), ("no, yes", ""), ("Yes, no", ""), ("no idea", ""), ("No way to tell", ""),
        ("ye\u017f", ""), ("\u200byes", ""), ("\uff59\uff45\uff53", ""),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_at_the_beginning_and_never_guessed(body, said):
    assert yes_no(body) == said
    assert (is_right(body, "Yes"), is_right(body, "no")) == (said == "yes", said == "no")


def test_long_texts_take_linear_time():
    for text in ("left " * 20_000, "-" * 100_000, "yes" + " " * 100_000, "(" * 100_000, "1," * 50_000, "a." * 50_000):
        assert isinstance(words(text), tuple) and isinstance(yes_no(text), str)


# ---------------------------------------------------------------- read by the one contract

WHERE = Example("q1", ("a.png",), "Where is it?", (), "left lung", "ct")
LARGE = Example("q2", ("a.png",), "Is it large?", (), "no", "ct")
PLANE = Example("q3", ("a.png",), "Which plane?", ("axial", "coronal"), "coronal", "ct")


def says(text, finished=True):
    return Completion((), (), text, finished)


@pytest.mark.parametrize(
    ("text", "answer", "status"),
    [
        ("<think>Dark.</think><answer>Left lung</answer>", "Left lung", "answered"),
        ("<answer>right</answer> no: <answer>left lung</answer>", "left lung", "answered"),  # the last counts
        ("<think>If <answer>right</answer></think><answer>left</answer>", "left", "answered"),
        ("<think><answer>left lung</answer>", None, "truncated"),
        ("<answer>left lung", None, "truncated"),
        ("left lung", None, "unparsed"),
        ("<answer> </answer>", None, "unparsed"),
        ("<answer>I cannot tell</answer>", None, "abstained"),
        ("<answer>B</answer>", "B", "answered"),  # a text like another
    ],
)
def test_an_open_answer_is_the_body_that_strict_1_looks_at(text, answer, status):
    found = parse_open(text)
    assert (found.answer, found.status) == (answer, status)
    strict = parse(text, 4)
    assert strict.think == found.think and (strict.status == status or answer)
    sample = score(render(WHERE, "think"), says(text), [says(text)], "image")
    assert (sample.answer, sample.status, sample.gold, sample.sampled_answers) == (answer, status, "left lung", (answer,))


def test_a_text_without_tags_is_whole_only_where_none_were_asked_for_and_it_was_finished():
    plain = render(WHERE, "plain")
    assert plain.bare and not render(WHERE, "think").bare and not render(PLANE, "plain").bare
    assert read("<think>Dark.</think>\nLeft lung.", plain).answer == "Left lung."
    assert [score(plain, says("Left lung", finished), [], "image").status for finished in (True, False)] == ["answered", "truncated"]
    assert score(plain, says("<answer>Left lung</answer> and", False), [], "image").correct


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_has_words_for_a_question_without_options(template):
    text = render(WHERE, template).text
    assert "Where is it?" in text and not re.search("letter|choice|A, B", text)
    if template in OPEN:
        asks_for_tags = "<answer>...</answer>" in text
        assert asks_for_tags != render(WHERE, template).bare and ("<think>" in text) == (template in WITHOUT_THOUGHT)
    if template not in OPTIONS:
        assert render(PLANE, template).text == TEMPLATES[template].replace("{question}", "Which plane?\nA) axial\nB) coronal")


# ---------------------------------------------------------------- rewards


@pytest.mark.parametrize(
    ("body", "example", "exact", "f1", "says_so"),
    [
        ("Left lung.", WHERE, 1, 1, 0),
        ("lung", WHERE, 0, 2 / 3, 0),
        ("I cannot tell", WHERE, 0, 0, 0),
        ("No.", LARGE, 1, 1, 1),
        ("No, it is small", LARGE, 0, 2 / 5, 1),
        ("Yes", LARGE, 0, 0, 0),
        ("B", PLANE, 1, 1, 0),  # with options the letter counts
        ("coronal", PLANE, 0, 0, 0),
    ],
)
def test_the_three_rewards(body, example, exact, f1, says_so):
    rubric = Rubric({"exact": 1.0, "f1": 1.0, "yes_no": 2.0})
    found = rubric(says(f"<think>x</think><answer>{body}</answer>"), render(example, "think"))
    assert found == {"exact": exact, "f1": pytest.approx(f1), "yes_no": 2.0 * says_so}


@pytest.mark.parametrize("template", ["think", "plain", "paper-direct"])
@pytest.mark.parametrize("finished", [True, False])
def test_what_pays_in_training_counts_as_right_in_evaluation(template, finished):
    """Tagged or not, cut off or not: what no tag ends is an answer only where no tags were asked for and the model had finished."""
    for body in ("Left lung.", "lung", "no", "No, small", "yes", "B"):
        for example, reward in ((WHERE, "exact"), (LARGE, "yes_no")):
            for text in (body, f"<answer>{body}</answer>"):
                prompt, completion = render(example, template), says(text, finished)
                sample = score(prompt, completion, [completion], "image")
                assert bool(REWARDS[reward](completion, prompt)) == sample.correct == sample.sampled_correct[0]
                if text == body and (template == "think" or not finished):
                    assert not sample.correct and not REWARDS["direct_format"](completion, prompt)


def test_the_gold_answer_must_be_able_to_earn_every_reward():
    for rewards, example in ((("format", "exact", "f1"), WHERE), (("exact", "f1", "yes_no"), LARGE), (("strict_accuracy", "exact"), PLANE)):
        rubric, prompt = Rubric(dict.fromkeys(rewards, 1.0)), render(example, "think")
        check_gold(rubric, [prompt])
        assert sum(rubric(says(gold(example, "…")), prompt).values()) == len(rewards)
    for reward, example in (("yes_no", WHERE), ("accuracy", WHERE), ("yes_no", PLANE)):
        with pytest.raises(DataError, match=f'"{example.id}".*cannot earn the reward "{reward}"'):
            check_gold(Rubric({reward: 1.0}), [render(example, "think")])


def test_grpo_learns_from_free_answers(taught, tmp_path, command):
    """The taught model writes letters; here they are the words of the reference, and what a rollout earns is what the words say."""
    Image.effect_noise((60, 60), 90).save(tmp_path / "a.png")
    rows = [hub_model.question(f"q{n}", ["a.png"], "AB"[n % 2], options=[]) for n in range(4)]
    (tmp_path / "open.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = (*(v for v in SMALL if not v.startswith(("rewards", "steps"))), 'rewards={"direct_format": 1, "exact": 1, "f1": 1}', "steps=2")
    code, _, err = command(*train(taught, tmp_path / "open.jsonl", tmp_path / "run", values=values))
    assert code == 0, err
    rollouts = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    references = {row["id"]: row["answer"] for row in rows}
    earned = [row["rewards"] for row in rollouts]
    assert len(rollouts) == 2 * 4 * 4 and all(parts.keys() == {"direct_format", "exact", "f1"} for parts in earned)
    key = next(name for name in rollouts[0] if rollouts[0][name] in references)
    wanted = [float(is_exact(parse_open(row["completion"]).answer or "", references[row[key]])) for row in rollouts]
    assert [parts["exact"] for parts in earned] == wanted and 0 < sum(wanted) < len(wanted)
