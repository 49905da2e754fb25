"""The phantom's questions: true, balanced, apart, and telling nothing by their text."""

from collections import Counter

import numpy as np
import pytest

from medvlm_r1.audit.prior import chance, text_prior
from medvlm_r1.data.phantom import sets
from medvlm_r1.data.phantom.questions import MODALITIES, WORDINGS, answer_of, ask, ask_about, reasoning, vocabulary
from medvlm_r1.errors import ImageError
from medvlm_r1.types import Example

MANY = 1500


def texts(modality, seed):
    """Questions without pictures, more than a set holds: an estimate with a standard error near one point."""
    rng = np.random.default_rng(seed)
    asked = [ask(rng, modality, n) for n in range(MANY)]
    return [Example(f"{modality}-{seed}-{n}", (), q.text, q.options, q.answer, modality) for n, q in enumerate(asked)]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_text_prior_stays_within_three_points_of_chance(modality):
    """MRI text, as in training, on every modality; and each modality's own text, the harder test."""
    test = texts(modality, 1)
    for train in (texts("mri", 2), texts(modality, 3)):
        prior = text_prior(train, test, draws=5, train_size=600)
        assert abs(prior[modality]["accuracy"] - chance(test)[modality]) < 0.03


def test_a_leak_would_be_seen():
    """The same prior on questions whose distractors are never a gold answer."""
    leaky = [
        Example(f"{split}-{n}", (), "Which?", ("axial" if n % 2 else "coronal", "oblique"), "axial" if n % 2 else "coronal", "mri")
        for split in ("a", "b")
        for n in range(300)
    ]
    assert text_prior(leaky[:300], leaky[300:], draws=2)["mri"]["accuracy"] > 0.99


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_picture_makes_the_answer_true(modality):
    rng = np.random.default_rng(0)
    for n in range(300):
        for asked in (q := ask(rng, modality, n), ask_about(rng, q.scene)):
            assert answer_of(asked.scene, asked.type) == asked.answer in asked.options
            assert set(asked.options) <= set(vocabulary(modality, asked.type))
            assert len(set(asked.options)) == len(asked.options)
            assert reasoning(asked).endswith(f"Hence {asked.answer}.")


@pytest.mark.parametrize("modality", MODALITIES)
def test_gold_letters_and_answers_are_balanced(modality):
    examples = texts(modality, 4)
    first = sum(e.letter == "A" for e in examples) / len(examples)
    assert abs(first - chance(examples)[modality]) < 0.05
    yes = Counter(e.answer for e in examples if e.question in WORDINGS["abnormal"])
    assert abs(yes["yes"] - yes["no"]) < 4 * sum(yes.values()) ** 0.5


def test_the_sets_have_the_papers_sizes_and_share_no_patient():
    groups = {}
    for modality in MODALITIES:
        for split, size in (("train", 600), ("test", 300)):
            examples = sets.load(modality, split)
            assert len(examples) == size
            groups[modality, split] = {e.group for e in examples}
    assert sum(len(g) for g in groups.values()) == len(set.union(*groups.values())) == 3 * 450


def test_every_question_type_is_asked():
    kinds = {e.question_type for name in (*MODALITIES, "pointing-mri") for e in sets.load(name)}
    assert kinds == set(WORDINGS)


def test_a_reference_draws_the_same_picture_again():
    example = sets.load("ct", "test")[7]
    first = sets.open_reference(example.images[0])
    sets.open_reference.cache_clear()
    assert first.tobytes() == sets.open_reference(example.images[0]).tobytes()


@pytest.mark.parametrize("reference", ["phantom:mri/foo/3", "phantom:mri", "phantom:pet/test/1", "phantom:mri/test/300", "phantom:mri/test/-1"])
def test_an_unknown_picture_is_named(reference):
    with pytest.raises(ImageError, match=reference):
        sets.open_reference(reference)
