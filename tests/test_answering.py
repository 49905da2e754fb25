"""What an evaluation's record is kept under: everything in a model's directory that decides what it writes."""

import pytest

from medvlm_r1.launch.answering import model_sha256

FILES = ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "merges.txt")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "trainer").mkdir()
    for name in (*FILES, "README.md", "trainer/state.safetensors", "trainer/state.json"):
        (tmp_path / name).write_text("one")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_what_decides_an_answer_asks_anew(model, name):
    before = model_sha256(model)
    (model / name).write_text("two")
    changed = model_sha256(model)
    (model / name).rename(model / f"x{name}")
    assert len({before, changed, model_sha256(model)}) == 3


@pytest.mark.parametrize("name", ["README.md", "trainer/state.safetensors", "trainer/state.json"])
def test_what_does_not_decide_asks_nothing_anew(model, name):
    before = model_sha256(model)
    (model / name).write_text("two")
    assert model_sha256(model) == before
