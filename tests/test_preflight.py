"""What is refused before step 1, each with one sentence: values, questions, pictures."""

import json

import hub_model
import pytest
from conftest import train
from PIL import Image

from medvlm_r1.errors import ConfigError
from medvlm_r1.launch import training
from medvlm_r1.training.grpo import trainer as grpo

VALUES = {
    "steps": ("--set key=value",), "stepz=3": ('did you mean "steps"',), "optim.lrr=1": ("optim.lrr", 'did you mean "lr"'),
    "optim=1": ("optim.lr",), "steps=many": ("steps", "int", "many"), "optim.betas=[0.9]": ("optim.betas", "[0.9]"),
    "dtype=float99": ("float99", 'did you mean "float32"'), "template=dircet": ("dircet", 'did you mean "direct"'),
    "view=blnk": ("blnk", 'did you mean "blank"'), "advantage=gpro": ("gpro", 'did you mean "grpo"'),
    "optim.schedule=liner": ("liner", 'did you mean "linear"'), "update.loss.kl=k9": ("k9", "k2, k3"),
    'rewards={"fromat": 1}': ("fromat", 'did you mean "format"'), "rewards={}": ("rewards",),
    "steps=0": ("steps", "1 or more"), "prompts_per_step=-1": ("prompts_per_step", "-1"), "save_every=0": ("save_every",),
    "sampling.n=1": ("sampling.n", "2 or more"), "sampling.max_tokens=0": ("sampling.max_tokens",), "max_pixels=9": ("max_pixels", "784"),
    "seed=-1": ("seed", "-1"), "optim.lr=0": ("optim.lr", "more than 0"), "optim.lr=inf": ("optim.lr", "inf"),
    "update.loss=dapoo": ("unknown loss", "dapoo", 'did you mean "dapo"'), "update.loss.surrogate=cipso": ("cipso", 'did you mean "cispo"'),
    "update.loss.reduce=tokn": ("tokn", 'did you mean "token"'), "update.loss.trust=maskd": ("maskd", 'did you mean "masked"'),
    "update.mini_batches=9": ("update.mini_batches", "4 groups"), "update.epochs=0": ("update.epochs", "1 or more"), "redraws=-1": ("redraws", "-1"),
    "update.loss.trust_least=3": ("trust_least", "2.0"), "update.loss.clip_high=-1": ("clip_high", "0 or more"),
    "update.loss.temperature_up=0": ("temperature_up", "more than 0"), "optim.betas=[0.9, 1.5]": ("optim.betas", "1.5"), "update.temperature=0.5": ("sampling.temperature", "update.temperature"),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_a_wrong_value_names_its_key(refused, tmp_path, value):
    refused(["train", "paper", "--data", "none.jsonl", "--set", value, "--run-dir", tmp_path / "run"], *VALUES[value])
    assert not (tmp_path / "run").exists()


def test_a_run_from_python_is_checked_too(tmp_path):
    with pytest.raises(ConfigError, match='"steps" wants 1 or more'):
        training.run(grpo.GRPOConfig(steps=0), tmp_path / "run")


def test_sft_knows_its_own_keys(refused):
    refused(["sft", "paper", "--set", "target=lettre"], "lettre", 'did you mean "letter"')
    refused(["sft", "paper", "--set", "sampling.n=4"], "sampling")


# ---------------------------------------------------------------- data


def test_nothing_is_trained_on_that_shares_a_picture_with_the_test_set(refused, manifest, tmp_path):
    named = ["--set", f"test={manifest}?modality=ct"]
    refused(["train", "paper", "--model", "nano", "--data", manifest, *named, "--run-dir", tmp_path / "run"], "share something with the test set")
    assert not (tmp_path / "run").exists()


def line(name="q2", image="good.png", **more):
    return hub_model.question(name, [image], "axial") | more


LINES = {
    "no JSON": ('{"id": "q2", oops', "questions.jsonl:2", "no JSON", "oops"),
    "no object": ("[1]", "questions.jsonl:2", "[1]"),
    "a key is missing": (json.dumps({"id": "q2"}), "questions.jsonl:2", "image"),
    "an answer that is no option": (json.dumps(line(answer="axail")), "questions.jsonl:2", "axail", 'did you mean "axial"'),
    "an id twice": (json.dumps(line("q1")), "questions.jsonl:2", "q1", "line 1"),
    "an image is missing": (json.dumps(line(image="gone.png")), '"q2"', "gone.png"),
    "an image is cut off": (json.dumps(line(image="cut.png")), '"q2"', "cut.png", "truncated"),
    "an image is cut off, JPEG": (json.dumps(line(image="cut.jpg")), '"q2"', "cut.jpg", "truncated"),
    "an image is empty": (json.dumps(line(image="empty.png")), '"q2"', "empty.png", "0 bytes"),
    "an image is no image": (json.dumps(line(image="text.png")), '"q2"', "text.png", "not an image"),
    "an image is a thread": (json.dumps(line(image="thread.png")), '"q2"', "aspect ratio"),
    "no letter to reward": (json.dumps(line(options=[], answer="the liver")), '"q2"', "the liver", '"accuracy"'),
    "too long": (json.dumps(line(question="Which plane is this? " * 8000)), '"q2"', "prompt tokens and 12 for its answer", "32768", "shorten it"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_question_that_cannot_be_used_is_named_before_anything_is_trained(refused, hub_dir, tmp_path, case):
    bad, *parts = LINES[case]
    for kind in ("png", "jpg"):
        Image.effect_noise((60, 60), 90).save(tmp_path / f"good.{kind}")
        (tmp_path / f"cut.{kind}").write_bytes((tmp_path / f"good.{kind}").read_bytes()[:-500])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.new("L", (1, 300)).save(tmp_path / "thread.png")
    data = tmp_path / "questions.jsonl"
    data.write_text(f"{json.dumps(line('q1'))}\n{bad}\n")
    refused(train(hub_dir, data, tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()


def test_gold_traces_are_wanted_before_the_first_step(refused, hub_dir, manifest, tmp_path):
    words = ["sft", "paper", "--model", hub_dir, "--data", manifest, "--set", "target=trace", "--run-dir", tmp_path / "run"]
    refused(words, '"q1"', "no reasoning", "target=letter")
    assert not (tmp_path / "run").exists()
