"""The text prior, by hand and on the real questions of the paper."""

import gzip
import json
import math
import re
from pathlib import Path

import pytest

from medvlm_r1.audit.prior import TextPrior, chance, misled, separate, text_prior
from medvlm_r1.audit.texts import Wording
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

REAL = Path(__file__).parents[2] / "shared" / "data" / "omnimedvqa_text"


def question(name, options, answer, modality="mri", images=None):
    return Example(name, images or (f"{name}.png",), "What is it?", tuple(options), answer, modality)


def plain_score(learnt, option):
    """The formula of the paper note, word for word, as slowly as it reads."""
    told = [(o.strip().lower().rstrip("."), re.findall(r"[a-z0-9]+", o.lower()), o == e.answer) for e in learnt for o in e.options]
    text, words = option.strip().lower().rstrip("."), re.findall(r"[a-z0-9]+", option.lower())

    def odds(gold, distractor):
        return math.log((gold + 0.5) / (distractor + 1.5))

    whole = odds(sum(t == text and g for t, _, g in told), sum(t == text and not g for t, _, g in told))
    parts = [odds(sum(ws.count(w) for _, ws, g in told if g), sum(ws.count(w) for _, ws, g in told if not g)) for w in words]
    return whole + 0.5 * sum(parts) / max(1, len(parts))


def test_score_is_the_formula_of_the_paper_note():
    learnt = [question("a", ["Acute infarct", "abscess", "?!"], "Acute infarct"), question("b", ["cyst.", "infarct"], "cyst.")]
    asked = [question("x", ["acute infarct.", "Cyst", "never seen, never", "abscess"], "Cyst")]
    wording = Wording([*learnt, *asked])
    scores = wording.scores([0, 1])
    for place, option in enumerate(asked[0].options):
        assert scores[wording.text_NK[2, place]] == pytest.approx(plain_score(learnt, option))
    assert scores[wording.text_NK[0, 2]] == pytest.approx(math.log(0.5 / 2.5))  # no words: the option alone
    # "acute infarct": 1 gold, 0 distractors; "acute" 1, 0; "infarct" 1 gold, 1 distractor
    assert scores[wording.text_NK[0, 0]] == pytest.approx(math.log(1.5 / 1.5) + 0.5 * (math.log(1.5 / 1.5) + math.log(1.5 / 2.5)) / 2)


def test_ties_share_the_credit_or_go_to_the_first():
    learnt = question("a", ["cyst", "abscess"], "cyst")
    asked = [question("x", ["p", "q", "r", "s"], "s"), question("x", ["p", "q", "abscess"], "p"), question("x", ["p", "cyst", "abscess"], "p")]
    shared, first = Wording([learnt, *asked]).credits([0], [1, 2, 3])
    assert shared.tolist() == [0.25, 0.5, 0.0]
    assert first.tolist() == [0.0, 1.0, 0.0]


def test_text_that_tells_everything_and_text_that_tells_nothing():
    told = [question(f"t{i}", ["yes", "no"], "yes") for i in range(40)]
    even = [question(f"e{i}", ["yes", "no"], ["yes", "no"][i % 2], "ct") for i in range(40)]
    result = text_prior(told, [*[question(f"v{i}", ["no", "yes"], "yes") for i in range(10)], *even], draws=3, train_size=20)
    assert result["mri"] == {"accuracy": 1.0, "accuracy_first_of_ties": 1.0, "ci95": pytest.approx([10 / (10 + 1.96**2), 1.0]), "train": 20, "draws": 3}
    assert result["ct"]["accuracy"] == 0.5
    # 40 questions at one half: the standard error is √(0.25 / 39)
    assert result["ct"]["ci95"] == pytest.approx([0.5 - 1.96 * math.sqrt(0.25 / 39), 0.5 + 1.96 * math.sqrt(0.25 / 39)])
    assert chance(even) == {"ct": 0.5}


def test_tested_questions_are_never_drawn():
    test = [question("a", ["x", "y"], "x")]
    same_picture = question("b", ["x", "y"], "x", images=("a.png",))
    same_words = question("c", ["x", "y"], "x")
    free_text = question("d", [], "anything")
    assert separate([test[0], same_picture, same_words, free_text], test) == [same_words]
    with pytest.raises(DataError, match="not tested"):
        text_prior([test[0], same_picture], test)


def test_small_pools_and_seeds():
    pool = [question(f"t{i}", ["yes", "no", "maybe"], ["yes", "no"][i % 2]) for i in range(30)]
    test = [question(f"v{i}", ["yes", "no", "maybe"], "no") for i in range(5)]
    assert text_prior(pool, test)["mri"]["train"] == 30
    once, again, other = (text_prior(pool, test, draws=5, train_size=9, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_groups_are_drawn_whole_and_never_asked_about_themselves():
    """Each group has a wording of its own: what was learnt from a group tells its answer, and nothing else."""
    rows = [Example(f"q{i}", (f"{i}.png",), "?", (f"yes {i // 4}", f"no {i // 4}"), f"yes {i // 4}", "mri", group=f"p{i // 4}") for i in range(40)]
    own = [Example(e.id, e.images, e.question, (f"a{e.group}", f"b{e.group}"), f"a{e.group}", "mri", group=e.group) for e in rows]
    assert TextPrior(own, draws=4).own(600)["mri"]["accuracy"] == 0.5
    assert TextPrior(rows, draws=4).own(600)["mri"]["accuracy"] == 1.0  # "yes" is a word that the groups share
    assert TextPrior(rows, draws=4).own(12)["mri"]["train"] == 12
    assert TextPrior(own[:4]).own(600) == {}  # one group: nothing to learn from
    other_ids = [Example(f"t{e.id}", (), e.question, e.options, e.answer, "mri", group=e.group) for e in own]
    assert text_prior(other_ids[:20], own, draws=2)["mri"]["accuracy"] == 0.5  # the same groups in a training set of its own


def test_a_draw_learns_from_as_many_questions_as_it_says():
    rows = [Example(f"q{i}", (), "?", ("yes", "no"), "yes", "mri", group=f"p{i // 5}") for i in range(40)]
    prior = TextPrior(rows, draws=3)
    draws = [set(drawn.tolist()) for drawn in prior._drawn(prior.asked["mri"], 12)]
    assert [len(drawn) for drawn in draws] == [12] * 3
    assert all(len({row // 5 for row in drawn}) == 3 for drawn in draws)  # two whole groups and a part of a third


def test_scores_that_differ_by_rounding_alone_are_ties():
    """Two options whose words have the same odds in reverse order: one sum, and two floating-point results."""
    odds = [(1, 4), (0, 2), (0, 3), (3, 3), (3, 1)]  # (gold, distractor) of a to e, and of j to f
    learnt = [
        question(f"{word}{i}", [word, "other"], word if i < gold else "other")
        for word, (gold, wrong) in zip("abcdefghij", odds + odds[::-1], strict=True)
        for i in range(gold + wrong)
    ]
    wording = Wording([*learnt, question("x", ["a b c d e", "f g h i j", "k"], "a b c d e")])
    rows = range(len(learnt))
    first, second, _ = wording.scores(rows)[wording.text_NK[-1]]
    assert first != second and first == pytest.approx(second)
    assert wording.credits(rows, [len(learnt)])[0].tolist() == [0.5]


def test_the_interval_knows_that_a_group_is_one_observation():
    def rows(group_size):
        answers = ["yes" if i // 10 % 2 else "no" for i in range(80)]
        return [Example(f"q{i}", (), "?", ("yes", "no"), a, "ct", group=f"p{i // group_size}") for i, a in enumerate(answers)]

    told = [question(f"t{i}", ["yes", "no"], "yes") for i in range(4)]
    narrow, wide = (text_prior(told, rows(size), draws=2)["ct"]["ci95"] for size in (1, 10))
    assert wide[1] - wide[0] == pytest.approx((narrow[1] - narrow[0]) * math.sqrt(10 * 79 / 80 * 8 / 7))


def test_the_curve_grows_to_the_wanted_size_or_to_what_there_is():
    pool = [question(f"t{i}", ["yes", "no"], "yes") for i in range(120)]
    test = [question("v", ["no", "yes"], "yes")]
    assert [c["train"] for c in TextPrior(test, pool, 2).curve(60)["mri"]] == [25, 50, 60]
    assert [c["train"] for c in TextPrior(test, pool, 2).curve(600)["mri"]] == [25, 50, 100, 120]
    assert [c["train"] for c in TextPrior(pool, None, 2).curve(600)["mri"]] == [25, 50, 60]


def test_what_one_modality_tells_about_another():
    mri = [question(f"m{i}", ["yes", "no"], "yes") for i in range(10)]
    ct = [question(f"c{i}", ["yes", "no"], "no", "ct") for i in range(10)]
    asked = [question("v", ["yes", "no"], "yes"), question("w", ["yes", "no"], "no", "ct")]
    wanted = {"mri": {"mri": 1.0, "ct": 0.0}, "ct": {"mri": 0.0, "ct": 1.0}}
    for prior in (TextPrior(asked, [*mri, *ct], draws=2), TextPrior([*mri, *ct], draws=2)):
        assert {source: {m: c["accuracy"] for m, c in cells.items()} for source, cells in prior.transfer(600).items()} == wanted


@pytest.fixture(scope="module")
def paper():
    """The paper's 900 questions, and the MRI questions that OmniMedVQA has beside them."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here: the paper's questions are not part of the product")
    rows = json.loads((REAL / "medvlm_r1_test_900.json").read_text())
    names = ["mri"] * 300 + ["ct"] * 300 + ["xray"] * 300
    test = [_real(f"test-{i}", row, modality) for i, (row, modality) in enumerate(zip(rows, names, strict=True))]
    with gzip.open(REAL / "omnimedvqa_items.jsonl.gz", "rt") as file:
        pool = [_real(row["id"], row, "mri") for row in map(json.loads, file) if row["modality"] == "mri"]
    return pool, test


def test_the_papers_own_test_questions_leak_their_answers(paper):
    """The paper note prints 99.2 / 60.1 / 27.6, measured with the first option winning every tie."""
    pool, test = paper
    assert len(pool) - len(separate(pool, test)) == 62  # questions on the 61 tested pictures that the pool holds
    assert {m: round(100 * c, 2) for m, c in chance(test).items()} == {"mri": 25.0, "ct": 30.25, "xray": 26.0}
    found = text_prior(pool, test, draws=20, train_size=600, seed=0)
    assert {m: c["accuracy_first_of_ties"] for m, c in found.items()} == pytest.approx({"mri": 0.992, "ct": 0.601, "xray": 0.277}, abs=0.01)
    assert {m: c["accuracy"] for m, c in found.items()} == pytest.approx({"mri": 0.992, "ct": 0.594, "xray": 0.291}, abs=0.005)


@pytest.mark.parametrize(("modality", "right"), [("mri", 293), ("ct", 294), ("xray", 272)])
def test_leave_one_out_gives_the_notes_figures_to_the_question(paper, modality, right):
    """97.7 / 98.0 / 90.7 % of 300: no draw is involved, so this pins the scoring rule itself."""
    part = [e for e in paper[1] if e.modality == modality]
    wording, rows = Wording(part), range(len(part))
    assert sum(wording.credits([r for r in rows if r != row], [row])[1][0] for row in rows) == right


def _real(name, row, modality):
    """Pictures are compared by file name: the two files of questions store them under different folders."""
    pictures = tuple(Path(image).name for image in row["image"])
    return Example(name, pictures, row["question"], tuple(row["options"]), row["answer"], modality)


def test_where_the_texts_point():
    """Learnt: "cyst" is the answer, "abscess" never; of two that nobody has seen neither is ahead."""
    learnt = [question(f"t{i}", ["cyst", "abscess"], "cyst") for i in range(3)]
    asked = [question("r", ["abscess", "cyst"], "cyst"), question("w", ["abscess", "cyst"], "abscess"), question("n", ["p", "q"], "p"), question("f", [], "x")]
    assert TextPrior(asked, learnt).points(600) == {"r": "right", "w": "wrong"}
    assert [e.id for e in misled(asked, learnt)] == ["w"]
    assert TextPrior(asked, []).points(600) == {}
    with pytest.raises(DataError, match="--train"):
        misled(asked[:1], learnt)


def test_a_question_is_never_judged_by_a_prior_that_has_learnt_it():
    """Twelve say "cyst" and one "abscess": learnt from the others, the one is misled in every draw, whether it was drawn or not."""
    rows = [question(f"q{i}", ["cyst", "abscess"], "cyst") for i in range(12)] + [question("odd", ["cyst", "abscess"], "abscess")]
    points = TextPrior(rows, draws=50).points(600)
    assert points == {f"q{i}": "right" for i in range(12)} | {"odd": "wrong"}
