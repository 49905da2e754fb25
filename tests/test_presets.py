"""The words of published checkpoints, against hashes of the authors' own; the sources are in recipes.presets."""

import hashlib
import json

import pytest

from medvlm_r1.reasoning import EVALUATED_AS, TEMPLATES, WITHOUT_THOUGHT, read, render
from medvlm_r1.recipes.presets import PRESETS, TRAINED_AS
from medvlm_r1.types import Example

PLANE = Example("q1", ("a.png",), "Which plane?", ("axial", "coronal"), "axial", "mri")
WORDS = {  # SHA-256 of what the authors' own code makes of this question, by running it
    "med-r1": "de345b59b2ba96b8",
    "med-r1-direct": "f9109d78d6faf1c8",
    "med-r1-train": "fbb08e7269092534",
    "lingshu": "fa8e800930eae530",
    "huatuo": "ca6e195746e5960d",
    "medgemma": "8188693eecdeed6d",
}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("template", WORDS)
def test_the_words_are_the_authors_to_the_byte(template):
    assert digest(render(PLANE, template).text) == WORDS[template]


def test_what_else_a_source_says():
    assert digest(render(PLANE, "medgemma").system) == "e6e8748f7a4d2754"
    assert digest(render(Example("q2", ("a.png",), "Which plane?", (), "axial", "mri"), "lingshu").text) == "fb37f75290c17b60"
    assert all(render(PLANE, template).system == "" for template in TEMPLATES if template != "medgemma")
    assert (EVALUATED_AS["med-r1-train"], WITHOUT_THOUGHT["med-r1"]) == ("med-r1", "med-r1-direct")


def test_options_and_questions_are_put_in_as_they_are():
    """Braces in what a person wrote are no places of the template."""
    odd = Example("q3", (), "Which {options} or {letter}?", ("{option}", "{question}"), "{option}", "")
    assert render(odd, "huatuo").text.startswith("Which {options} or {letter}?\nA. {option}\nB. {question}\nAnswer")


@pytest.mark.parametrize(
    ("template", "text", "letter"), [("lingshu", "B", "B"), ("huatuo", "B.", "B"), ("med-r1", "B", None), ("med-r1", "<answer> B </answer>", "B")]
)
def test_each_is_read_by_the_one_rule(template, text, letter):
    assert read(text, render(PLANE, template)).answer == letter


@pytest.mark.parametrize("name", PRESETS)
def test_one_name_for_asking_and_training(name, command):
    """``train --preset`` takes the model and the words of training; what it asks for its recipe pays for."""
    code, out, err = command("train", "paper", "--preset", name, "--model", "nano", "--data", "phantom:mri", "--dry-run")
    assert code == 0, err
    config = json.loads(out)["config"]
    assert (config["model"], config["template"]) == ("nano", TRAINED_AS.get(PRESETS[name].template, PRESETS[name].template))
    assert config["sampling"]["max_tokens"] == 512  # the recipe's
    assert EVALUATED_AS.get(config["template"], config["template"]) == PRESETS[name].template
