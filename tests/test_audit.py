"""The text prior, by hand and on the real questions of the paper."""

import gzip
import json
import math
from pathlib import Path

import pytest

from medvlm_r1.data.audit import TextPrior, chance, separate, text_prior
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

REAL = Path(__file__).parents[2] / "shared" / "data" / "omnimedvqa_text"


def question(name, options, answer, modality="mri", images=None):
    return Example(name, images or (f"{name}.png",), "What is it?", tuple(options), answer, modality)


def test_score_is_the_formula_of_the_paper_note():
    prior = TextPrior([question("a", ["acute infarct", "abscess"], "acute infarct"), question("b", ["cyst", "infarct"], "cyst")])
    # "acute infarct": 1 gold, 0 distractors; "acute" 1, 0; "infarct" 1 gold, 1 distractor
    wanted = math.log(1.5 / 1.5) + 0.5 * (math.log(1.5 / 1.5) + math.log(1.5 / 2.5)) / 2
    assert prior.score("Acute Infarct ") == pytest.approx(wanted)
    assert prior.score("never seen") == pytest.approx(1.5 * math.log(0.5 / 1.5))
    assert prior.score("?!") == pytest.approx(math.log(0.5 / 1.5))


def test_ties_share_the_credit():
    prior = TextPrior([question("a", ["cyst", "abscess"], "cyst")])
    assert prior.credit(question("x", ["p", "q", "r", "s"], "s")) == 0.25
    assert prior.credit(question("x", ["p", "q", "abscess"], "p")) == 0.5
    assert prior.credit(question("x", ["p", "cyst", "abscess"], "p")) == 0.0


def test_text_that_tells_everything_and_text_that_tells_nothing():
    told = [question(f"t{i}", ["yes", "no"], "yes") for i in range(40)]
    even = [question(f"e{i}", ["yes", "no"], ["yes", "no"][i % 2], "ct") for i in range(40)]
    result = text_prior(told, [*[question(f"v{i}", ["no", "yes"], "yes") for i in range(10)], *even], draws=3, train_size=20)
    assert result["mri"] == {"accuracy": 1.0, "ci95": [1.0, 1.0], "train": 20, "draws": 3}
    assert result["ct"]["accuracy"] == 0.5
    low, high = result["ct"]["ci95"]
    assert 0.3 < low < 0.45 and 0.55 < high < 0.7
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


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here: the paper's questions are not part of the product")
def test_the_papers_own_test_questions_leak_their_answers():
    """paper.md prints 99.2 / 60.1 / 27.6, measured with option A winning every tie; shared credit moves X-ray by 2."""
    rows = json.loads((REAL / "medvlm_r1_test_900.json").read_text())
    names = ["mri"] * 300 + ["ct"] * 300 + ["xray"] * 300
    test = [_real(f"test-{i}", row, modality) for i, (row, modality) in enumerate(zip(rows, names, strict=True))]
    with gzip.open(REAL / "omnimedvqa_items.jsonl.gz", "rt") as file:
        pool = [_real(row["id"], row, "mri") for row in map(json.loads, file) if row["modality"] == "mri"]
    assert len(pool) - len(separate(pool, test)) == 62  # questions on the 61 tested pictures that the pool holds
    assert {m: round(100 * c, 2) for m, c in chance(test).items()} == {"mri": 25.0, "ct": 30.25, "xray": 26.0}
    found = text_prior(pool, test, draws=20, train_size=600, seed=0)
    assert found["mri"]["accuracy"] == pytest.approx(0.992, abs=0.004)
    assert found["ct"]["accuracy"] == pytest.approx(0.593, abs=0.015)
    assert found["xray"]["accuracy"] == pytest.approx(0.298, abs=0.012)
    assert found["xray"]["ci95"][0] < 0.276 < found["xray"]["ci95"][1]


def _real(name, row, modality):
    """Pictures are compared by file name: the two files of questions store them under different folders."""
    pictures = tuple(Path(image).name for image in row["image"])
    return Example(name, pictures, row["question"], tuple(row["options"]), row["answer"], modality)
