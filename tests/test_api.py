"""``import medvlm_r1``: what it offers, when it loads it, and that it does what the commands do."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medvlm_r1
from medvlm_r1.config import changed
from medvlm_r1.console import notice, stderr
from medvlm_r1.data.arrays import picture
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ConfigError, DataError, EngineError, ImageError, RunError
from medvlm_r1.types import Example

ROOT = Path(__file__).resolve().parents[1]
OFFERED = sorted(medvlm_r1._HOMES)
PLANE = ("What is the imaging plane?", ("sagittal", "coronal", "axial"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def nano():
    torch.set_num_threads(1)
    return medvlm_r1.load("nano")


# ---------------------------------------------------------------- the face


def test_the_import_loads_nothing_but_itself():
    lines = "import sys, medvlm_r1; print([m for m in sys.modules if m.startswith('medvlm_r1.') or m in ('torch', 'numpy', 'PIL', 'transformers')])"
    assert subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", OFFERED)
def test_a_name_is_found_at_its_home_with_a_docstring_and_nothing_else_is_called_so(name):
    found = getattr(medvlm_r1, name)
    assert found is getattr(importlib.import_module(f"medvlm_r1.{medvlm_r1._HOMES[name]}"), name)
    assert found.__module__ == f"medvlm_r1.{medvlm_r1._HOMES[name]}" and found.__doc__
    assert importlib.util.find_spec(f"medvlm_r1.{name}") is None  # a module of that name would take its place once it is imported


def test_type_checkers_see_the_same_names_as_everybody():
    tree = ast.parse((ROOT / "medvlm_r1/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: line.module.removeprefix("medvlm_r1.") for line in block.body for alias in line.names}
    assert seen == medvlm_r1._HOMES
    assert sorted(medvlm_r1.__all__) == sorted([*seen, "INTENDED_USE", "__version__"])
    assert set(medvlm_r1.__all__) <= set(dir(medvlm_r1))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'medvlm_r1' has no attribute 'laod'"):
        _ = medvlm_r1.laod


def test_the_documented_names_are_those_that_there_are():
    table = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for cell in table for name in re.findall(r"`(\w+)`", cell)) == sorted(medvlm_r1.__all__)


def test_the_mark_of_a_typed_package_is_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert (ROOT / "medvlm_r1/py.typed").exists() and any(fnmatch("py.typed", pattern) for pattern in shipped["medvlm_r1"])


class ZMQInteractiveShell:
    """What Jupyter's kernel runs, by the name that it is known by."""


def test_a_notebook_gets_plain_lines_though_it_calls_itself_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert stderr().is_terminal
    monkeypatch.setattr("builtins.get_ipython", ZMQInteractiveShell, raising=False)
    console = stderr()
    assert not console.is_terminal and not console.is_jupyter
    notice("step 1/3")
    assert capsys.readouterr().err == "step 1/3\n"


# ---------------------------------------------------------------- ask


def test_a_picture_in_memory_is_asked_about_as_its_file_is(nano, here):
    drawn = load_image("phantom:mri/test/1")
    drawn.save("scan.png")
    answers = [nano.ask(image, *PLANE) for image in ("scan.png", Path("scan.png"), drawn, np.asarray(drawn), np.asarray(drawn)[..., 0].astype(np.int64))]
    assert answers[1:4] == answers[:1] * 3 and answers[0].option_probs.keys() == {"A", "B", "C"}
    assert answers[4].status == "answered"  # levels that are not of 8 bits are stretched, so it may say another thing
    assert nano.ask(Image.new("L", (84, 84)), *PLANE).option_probs != answers[0].option_probs


def test_what_is_too_long_is_the_same_sentence_for_a_picture_in_memory(nano):
    drawn, said = load_image("phantom:mri/test/1"), []
    for image in ("phantom:mri/test/1", drawn):
        with pytest.raises(EngineError, match="4096 for its answer") as refused:
            nano.ask(image, *PLANE, max_tokens=4096)
        said.append(str(refused.value))
    assert said[0] == said[1]
    with pytest.raises(ImageError, match="aspect ratio"):
        nano.ask(Image.new("L", (1000, 4)), *PLANE)
    with pytest.raises(ConfigError, match="max_tokens wants 1 or more, got 0"):
        nano.ask(drawn, *PLANE, max_tokens=0)


def test_without_options_the_answer_is_free_text(nano):
    found = nano.ask("phantom:mri/test/0", "What is this?", max_tokens=8)
    assert found.answer is None and found.option_probs == {}


@pytest.mark.parametrize(("image", "options", "error", "part"), [
    ("gone.png", ("a", "b"), ImageError, "gone.png"),
    ("phantom:mri/test/0", "left", ConfigError, "got 1"),  # a text is no list of letters
    ("phantom:mri/test/0", ["a", "a"], ConfigError, "repeated"),
    (np.zeros((3, 84, 84)), ("a", "b"), ImageError, "(3, 84, 84) and type float64"),
    (None, ("a", "b"), ImageError, "object"),
])  # fmt: skip
def test_what_cannot_be_asked(nano, here, image, options, error, part):
    with pytest.raises(error, match=re.escape(part)):
        nano.ask(image, "Which?", options)


LEVELS = {
    "8 bits as they are": (np.array([[10, 20]], np.uint8), [10, 20]),
    "yes and no": (np.array([[True, False]]), [255, 0]),
    "16 bits stretched": (np.array([[1000, 1500, 2000]], np.uint16), [0, 128, 255]),
    "Hounsfield units stretched": (np.array([[-1000, 1000]], np.int16), [0, 255]),
    "shares stretched": (np.array([[0.25, 0.75]], np.float32), [0, 255]),
    "one level": (np.full((1, 2), 7.0), [0, 0]),
    "a channel of its own": (np.array([[[3], [4]]], np.uint8), [3, 4]),
}


@pytest.mark.parametrize("case", LEVELS)
def test_grey_levels_of_an_array(case):
    array, levels = LEVELS[case]
    shown = picture(array)
    assert shown.mode == "RGB" and list(shown.getchannel("G").tobytes()) == levels


def test_colours_and_opacity_of_an_array():
    assert picture(np.array([[[1, 2, 3]]], np.uint8)).getpixel((0, 0)) == (1, 2, 3)
    shown = picture(np.array([[[1, 2, 3, 0], [1, 2, 3, 255]]], np.uint8))
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (1, 2, 3)]  # over white, as a file's


@pytest.mark.parametrize("array", [
    np.zeros((2, 2, 3)), np.zeros((0, 4)), np.array([[np.nan, 1]]), np.zeros((2, 2), complex), np.array([["a"]]), np.zeros((2, 2, 2), np.uint8), np.zeros(3),
])  # fmt: skip
def test_an_array_that_is_no_picture(array):
    with pytest.raises(ImageError, match=r"is no picture; give \(height, width\)"):
        picture(array)


def test_a_torn_image_of_pillow(tmp_path):
    Image.effect_noise((40, 40), 90).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-200])
    with pytest.raises(ImageError, match="in memory cannot be decoded"):
        picture(Image.open(tmp_path / "torn.png"))


# ---------------------------------------------------------------- questions in memory


def test_questions_in_memory_become_a_manifest_that_holds_them(nano, here):
    few = medvlm_r1.dataset("phantom:mri?split=test").head(2)
    found = [medvlm_r1.evaluate(nano, data, f"runs/{n}", arms="image", max_tokens=8) for n, data in enumerate((few, list(few), few.head(1)))]
    names = [evaluation.settings["data"] for evaluation in found]
    assert names[0] == names[1] != names[2] and list(medvlm_r1.dataset(names[0])) == list(few)


@pytest.mark.parametrize(("data", "part"), [
    ([{"id": "q1"}], "medvlm_r1.Example"),
    ([], "is empty"),
    ([Example("q1", ("a.png",), "Which?", ("a", "b"), "c", "mri")], "c"),
    ([Example("q1", ("a.png",), "Which?", ("a", "b"), "a", "mri")] * 2, "q1"),
])  # fmt: skip
def test_questions_in_memory_that_are_none(here, data, part):
    with pytest.raises(DataError, match=part):
        medvlm_r1.audit_data(data)


# ---------------------------------------------------------------- evaluate


def test_a_model_in_memory_answers_itself(here, hub_dir):
    """Random weights under the name of the embedded model, which answers every question: they are asked, and it is not loaded."""
    stranger = medvlm_r1.load(hub_dir).policy
    found = medvlm_r1.evaluate(medvlm_r1.Model("nano", stranger), medvlm_r1.dataset("phantom:mri").head(2), "runs/eval", arms="image", max_tokens=32)
    assert not any(sample.answer for sample in found.arms["image"]) and found.name == "nano"


def test_it_is_the_command(nano, here, command):
    found = medvlm_r1.evaluate(nano, medvlm_r1.dataset("phantom:mri?split=test").head(3), "runs/a", arms=["image", "blank"], samples=2, max_tokens=8)
    words = ("--data", found.settings["data"], "--arms", "image,blank", "--samples", 2, "--max-tokens", 8, "--out", "runs/b")
    assert command("eval", "--model", "nano", *words)[0] == 0
    for file in ("summary.json", "samples-image.jsonl", "samples-blank.jsonl", "report.html"):
        assert Path("runs/a", file).read_bytes() == Path("runs/b", file).read_bytes()
    assert found.summary == json.loads(Path("runs/b/summary.json").read_text())
    assert command("compare", "runs/a", "runs/b", "--out", "runs/c")[1].splitlines()[0] == found.verdict.replace("nano", "a", 1)


def test_the_same_again_asks_nothing_and_another_evaluation_wants_another_folder(nano, here):
    few = medvlm_r1.dataset("phantom:mri?split=test").head(2)
    found = medvlm_r1.evaluate(nano, few, "runs/eval", arms="image", max_tokens=8)
    before = {file.name: file.read_bytes() for file in found.folder.iterdir()}
    assert medvlm_r1.evaluate(nano, few, "runs/eval", arms="image", max_tokens=8) == found
    assert {file.name: file.read_bytes() for file in found.folder.iterdir()} == before
    for other in ({"max_tokens": 9}, {"samples": 1}, {"template": "direct"}, {"in_domain": "mri"}):
        with pytest.raises(RunError, match="already holds another evaluation"):
            medvlm_r1.evaluate(nano, few, "runs/eval", **{"arms": "image", "max_tokens": 8, **other})
    more = medvlm_r1.evaluate(nano, few, "runs/eval", arms="image,blank", max_tokens=8)
    assert more.arms["image"] == found.arms["image"] and list(more.arms) == ["image", "blank"]
    with pytest.raises(RunError, match="already holds another evaluation"):  # it would lose an arm
        medvlm_r1.evaluate(nano, few, "runs/eval", arms="image", max_tokens=8)


def test_questions_without_options_have_a_verdict_too_and_are_found_again(nano, here):
    mine = [Example("q1", ("phantom:mri/test/0",), "What is the imaging plane?", (), "sagittal", "mri")]
    found = medvlm_r1.evaluate(nano, mine, "runs/eval", arms="image", max_tokens=8)
    assert found.verdict.startswith("nano, 1 questions without options: ") and found.arms == {} and [sample.id for sample in found.open["image"]] == ["q1"]
    assert medvlm_r1.evaluate(nano, mine, "runs/eval", arms="image", max_tokens=8) == found


# ---------------------------------------------------------------- train


def test_the_same_run_is_found_and_not_trained_again(here):
    call = {"data": medvlm_r1.dataset("phantom:mri?split=train").head(2), "steps": 1, "prompts_per_step": 1, "sampling.n": 2, "sampling.max_tokens": 8}
    run = medvlm_r1.train("nano", **call)
    weights = run.model / "model.safetensors"
    written, rows = weights.stat().st_mtime_ns, run.metrics
    assert medvlm_r1.train("nano", **call) == run and (weights.stat().st_mtime_ns, run.metrics) == (written, rows)
    assert run.folder.name.startswith("nano-") and run.report.exists() and len(rows) == 1
    with pytest.raises(RunError, match="holds another run"):
        medvlm_r1.train("nano", **call | {"steps": 2}, run_dir=run.folder)


@pytest.mark.parametrize(("changes", "part"), [
    ({"stepz": 3}, 'did you mean "steps"'), ({"steps": 2.5}, '"steps" wants int, got "2.5"'), ({"steps": 0}, '"steps" wants 1 or more'),
    ({"optim": 1e-4}, "is a group of keys"), ({"rewards": {"acuracy": 1}}, "acuracy"),
])  # fmt: skip
def test_a_wrong_change_is_refused_before_anything_is_written(here, changes, part):
    with pytest.raises(ConfigError, match=re.escape(part)):
        medvlm_r1.train("nano", "phantom:mri", **changes)
    assert not Path("runs").exists()


CHANGES = [
    ("steps", 3, 3), ("steps", np.int64(3), 3), ("optim.lr", np.float32(0.5), 0.5), ("optim.lr", 1, 1.0), ("optim.betas", [0, 0.5], (0.0, 0.5)),
    ("max_pixels", None, None), ("rewards", {"format": np.float64(2)}, {"format": 2.0}), ("template", "think", "think"), ("steps", "1e3", 1000),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "stands"), CHANGES)
def test_values_of_python(key, value, stands):
    config = changed(medvlm_r1.recipe("paper"), {key: value})
    for part in key.split("."):
        config = getattr(config, part)
    assert config == stands and type(config) is type(stands)


def test_a_group_of_keys_is_changed_as_a_whole_by_its_own_kind():
    config, other = medvlm_r1.recipe("paper"), medvlm_r1.recipe("nano")
    assert changed(config, {"optim": other.optim, "update.loss": other.update.loss, "steps": 5}).optim == other.optim
    with pytest.raises(ConfigError, match="group of keys"):
        changed(config, {"optim": other.sampling})
    for value in (True, [3], 3.0):
        with pytest.raises(ConfigError, match='"steps" wants int'):
            changed(config, {"steps": value})
