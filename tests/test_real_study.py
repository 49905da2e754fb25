"""The study on the real base: fresh pictures, what its numbers mean, and the whole of it on a tiny random stand-in."""

import hashlib
import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_openrad import folder  # noqa: F401 - a fixture
from test_real_base import SIDE, SPLIT, one_thread, stand_in  # noqa: F401 - a fixture for all

from medvlm_r1.commands import main as cli
from medvlm_r1.config import override
from medvlm_r1.console import stderr
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.errors import ConfigError
from medvlm_r1.evaluation.measuring import thoughts
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.experiments import openrad, real_gallery, real_picture, real_study, real_told
from medvlm_r1.launch import training
from medvlm_r1.recipes import real
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.training import checkpoint

TINY = real_study.Sizes(steps=2, sft_steps=1, train=3, asked=2, samples=1, max_tokens=4, grpo={"update.loss.kl_beta": 0.0})


def answer(letter, named, name="q", modality="mri", drawn=()):
    """An answer to a question whose right option is B; ``named`` is its finding and, where there are two, what it names last; ``drawn``: (letter, named) each."""
    options = ("glioma", "pituitary", "no tumor")
    texts = [
        ["nothing" if not word else f"{word}) {options['ABC'.index(word)]}" if n else options["ABC".index(word)] for n, word in enumerate(words or [""])]
        for _, words in ((letter, named), *drawn)
    ]
    said = [f"<think>It fits {'. '.join(text)}.</think>\n<answer>{one}</answer>" for text, (one, _) in zip(texts, ((letter, named), *drawn), strict=True)]
    return Sample(name, modality, "label", name, "What?", options, "B", (), "image", said[0], letter, "answered", letter == "B", 9,
                  tuple(one for one, _ in drawn), tuple(said[1:]))  # fmt: skip


@pytest.fixture(scope="module")
def base(folder, tmp_path_factory):  # noqa: F811
    """What real-base leaves, of an untaught model, whose verdict has asked one question of each modality."""
    out = tmp_path_factory.mktemp("base") / "real"
    openrad.prepare(folder, out / "questions", SPLIT, stderr(), SIDE)
    checkpoint.save_model(stand_in(), out / "model")
    test = load_dataset(str(out / "questions" / "test.jsonl"))
    judged = [next(e for e in test if e.modality == m) for m in ("mri", "ct", "xray")]
    write_samples(out / "samples-image.jsonl", [replace(answer("A", ""), id=e.id) for e in judged])
    (out / "settings.json").write_text(json.dumps({"side": SIDE}))
    (out / "verdict.json").write_text(json.dumps({"go": False, "english": {"before": 9.0, "after": 9.5}}))
    return out


@pytest.fixture(scope="module")
def told(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("told") / "study"
    return out, real_study.run(base, out, 1, 1, TINY), json.loads((out / "study.json").read_text())


# ---------------------------------------------------------------- what is asked


def test_nothing_is_asked_that_training_or_the_verdict_has_seen_nor_its_twin_nor_its_groups_others(base, tmp_path):
    test = [e for e in load_dataset(str(base / "questions" / "all")) if e.split == "test"]
    judged = {s.id for s in read_samples(base / "samples-image.jsonl")}
    fresh, dropped = real_study.unseen(base)
    assert {e.id for e in fresh} == {e.id for e in test} - judged - {"mri/glioma-test-0.jpg", "xray/normal-test-0.jpg"}
    assert dropped["asked_by_the_verdict"] == 3
    # one more picture of a patient that the verdict has asked about, and one that looks like another
    rows = [json.loads(line) for line in (base / "questions/all/manifest.jsonl").read_text().splitlines()]
    [patient], [twin] = ([r for r in rows if r["id"] == e.id] for e in fresh[:2])
    asked = [next(r for r in rows if r["id"] == name) for name in sorted(judged) if name.startswith(("mri", "ct"))]
    patient |= {"group": asked[0]["group"], "source": asked[0]["source"]}
    twin["image"] = asked[1]["image"]
    (tmp_path / "changed" / "questions" / "all").mkdir(parents=True)
    for row in rows:
        row["image"] = [str((base / "questions" / "all" / place).resolve()) for place in row["image"]]
    (tmp_path / "changed/questions/all/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "changed" / "samples-image.jsonl").write_text((base / "samples-image.jsonl").read_text())
    fewer, dropped = real_study.unseen(tmp_path / "changed")
    assert {e.id for e in fresh[:2]}.isdisjoint(e.id for e in fewer)
    fell = dropped["like_the_verdict"].values()
    assert (sum(one["twin"] for one in fell), sum(one["group"] for one in fell)) == (1, 1)


# ---------------------------------------------------------------- numbers


def test_right_letters_under_wrong_thoughts_by_hand():
    samples = [
        answer("B", "B", drawn=[("B", "AB")]),  # greedy right, sampled by luck: it found A and went through the options to B
        answer("B", "C", drawn=[("B", "BB")]),  # by luck, right
        answer("B", "", drawn=[("A", "B")]),  # right, of a thought that names none; wrong under a right finding
        answer("A", "A", drawn=[("A", "C")]),
    ]
    assert "<think>It fits glioma. B) pituitary.</think>" in samples[0].sampled_texts[0]
    assert thoughts.by_luck(map(thoughts.greedy, samples)) == {"right": 3, "by_luck": 1, "share": 1 / 3}
    drawn = [said for s in samples for said in thoughts.drawn(s)]
    assert thoughts.by_luck(drawn) == {"right": 2, "by_luck": 1, "share": 1 / 2}
    assert thoughts.by_luck([]) == {"right": 0, "by_luck": 0, "share": None}
    assert [said.finds_choice for said in map(thoughts.greedy, samples)] == [True, False, False, True]
    assert [(said.finds_gold, said.finds_choice, said.names_choice) for said in drawn] == [
        (False, False, True), (True, True, True), (True, False, False), (False, False, False),
    ]  # fmt: skip


def found(right, letter="B"):
    """Each modality twice; ``right`` says of each whether its greedy answer is right, all drawn ones are ``letter``."""
    names = [(m, n) for m in ("mri", "ct", "xray") for n in range(2)]
    image = [answer("B" if one else "A", "B", f"{m}-{n}", m, [(letter, "B")]) for one, (m, n) in zip(right, names, strict=True)]
    return {"image": image, "blank": image[:3], "mismatch": [answer("A", "B", s.id, s.modality) for s in image]}, 9.0


def test_numbers_and_differences_by_hand():
    """GRPO is right in 1/2, 1 and 1 of the modalities, the base in 1/2, 0 and 1/2."""
    named = {"base": ("base", True), "sft": ("SFT", False), "grpo": ("GRPO", True), "early": ("early", True), "contrast": ("contrast", True)}
    arms = dict.fromkeys(named, [found([1, 0, 0, 0, 0, 1], "A")] * 2) | {"grpo": [found([1, 0, 1, 1, 1, 1])] * 2}
    arms["base"] = arms["base"][:1]  # asked once
    result = real_told.results(named, arms)
    assert [result["arms"][name]["right_under_wrong_thoughts"]["all"]["greedy"]["right"] for name in ("base", "early")] == [2, 4]
    greedy, sampled = (result["paired"]["grpo - base"][name] for name in ("greedy", "sampled"))
    assert {scope: cell["value"] for scope, cell in greedy.items()} == pytest.approx({"all": 0.5, "mri": 0.0, "ct+xray": 0.75})
    assert [cell["value"] for cell in sampled.values()] == [1.0, 1.0, 1.0] and sampled["all"]["seeds"] == [1.0, 1.0]
    assert result["paired"]["contrast - grpo"]["greedy"]["all"]["value"] == pytest.approx(-0.5)
    measures = result["arms"]["grpo"]["measures"]
    assert [measures[name]["all"]["value"] for name in ("greedy", "mismatch", "finding is the choice", "finding is right")] == pytest.approx(
        [5 / 6, 0, 5 / 6, 1]
    )
    assert measures["blank"]["all"]["n"] == 3 and measures["blank"]["xray"] is None and measures["half-thought"]["all"] is None
    of_base = result["arms"]["base"]["measures"]
    assert [of_base[f"{which}, sampled"]["all"]["value"] for which in real_told.NAMES] == [0.0, 1.0, 0.0]
    assert result["arms"]["sft"]["measures"].keys() == {"sampled", "greedy", "blank", "mismatch"}
    assert result["arms"]["grpo"]["right_under_wrong_thoughts"]["all"]["greedy"]["right"] == 10  # five in either seed
    text = real_told.table(result)
    assert all(len({line.count("|") for line in part.splitlines()}) == 1 for part in text.split("\n\n"))  # a heading for every column
    assert "| GRPO, minus base | +50.0 (" in text and "| SFT | 25.0 | 0.0 | – | – | – | – | – | – |" in text


def test_the_picture_has_a_row_of_each_arm_with_what_it_gets_right():
    """Of MRI the base has one of two right, and none when drawn; GRPO one and both."""
    named = {name: (name, name not in ("base-direct", "sft")) for name in real_picture.ROWS}
    arms = dict.fromkeys(named, [found([1, 0, 0, 0, 0, 1], "A")] * 2) | {"grpo": [found([1, 0, 1, 1, 1, 1])] * 2}
    result = real_told.results(named, arms)
    rows = {mark.label: mark for mark in real_picture.marks(result, "mri")}
    assert [(rows[name].value, rows[name].sampled, rows[name].role) for name in ("base", "GRPO")] == [(0.5, 0.0, "baseline"), (0.5, 1.0, "trained")]
    page = real_picture.page(result)
    assert "over 2 seeds and the patients" in page and page.count("<h3>") == 3 and page.count("<li title=") == 3 * len(rows) == 18


def test_an_arm_left_out_is_in_no_pair_no_table_and_no_picture():
    named = {name: (arm.label, arm.template == "think") for name, arm in real_study.chosen(["contrast", "early"]).items()}
    result = real_told.results(named, {name: [found([1, 0, 0, 0, 0, 1], "A")] for name in named})
    assert result["paired"].keys() == {"grpo - base", "grpo - sft"} and "contrast" not in real_told.table(result)
    assert [mark.label for mark in real_picture.marks(result, "ct")] == ["base", "base, letter", "SFT", "GRPO"]


def test_what_was_left_out_can_follow(told, base, tmp_path):
    shutil.copytree(told[0], tmp_path / "study")
    assert "minus" in (fewer := real_study.run(base, tmp_path / "study", 1, 1, replace(TINY, without=("contrast",)))) and "contrast" not in fewer
    assert real_study.run(base, tmp_path / "study", 1, 1, TINY) == told[1]


@pytest.mark.parametrize("name", ["grpo", "base", "contrasts"])
def test_what_the_study_is_about_cannot_be_left_out(name):
    with pytest.raises(ConfigError, match=f'"without" names {name}; arms that can be left out are base-direct, sft, early, contrast$'):
        real_study.chosen([name])


# ---------------------------------------------------------------- the whole


def test_every_arm_is_trained_asked_and_told(told):
    out, text, result = told
    assert text + "\n" == (out / "study.md").read_text() and str(out) not in (out / "study.json").read_text()
    assert result["arms"].keys() == set(real_study.ARMS) and result["base"]["go"] is False
    command = cli.parser().parse_args(shlex.split(result["command"])[1:])
    assert override(real_study.Sizes(), command.set) == TINY and command.seeds == 1
    assert "over patients" in (out / "study.html").read_text()
    assert result["paired"].keys() == {"grpo - base", "grpo - sft", "grpo - early", "contrast - grpo"}
    config = json.loads((out / "seed-0/grpo-real-looking/config.json").read_text())["config"]
    assert config["views"]["stranger"] == {"format": 1.0, "accuracy": -1.0} and (config["prompts_per_step"], config["sampling"]["n"]) == (4, 8)
    assert config["update"]["loss"]["kl_beta"] == 0.0 and real.grpo().update.loss.kl_beta == 0.04
    images = [
        read_samples(out / place / "image.jsonl")
        for place in ("base/base", "base/base-direct", *(f"seed-0/{arm}" for arm in ("sft", "grpo", "early", "contrast")))
    ]
    ids = {s.id for s in images[0]}
    assert result["data"]["asked"] == {m: dict.fromkeys(of, 1) for m, of in result["data"]["asked"].items()} and len(ids) == 6
    assert all({s.id for s in one} == ids for one in images)
    assert [len(one[0].sampled_answers) for one in images] == [2, 2, 1, 1, 1, 1]
    assert not any(s.sampled_answers for name in ("blank", "mismatch") for s in read_samples(out / f"base/base/{name}.jsonl"))


def test_half_way_is_where_a_run_of_half_the_steps_ends(base, tmp_path):
    """Under a reward that a model of noise can earn more or less of."""
    (tmp_path / "own.py").write_text("def length(completion, prompt):\n    return len(completion.text) / 100\n")
    config = replace(
        real.grpo(), model=str(base / "model"), data=str(base / "questions" / "reserve.jsonl"), views={"image": {f"{tmp_path}/own.py:length": 1.0}},
        optim=replace(real.OPTIM, warmup_steps=0), prompts_per_step=1, sampling=Sampling(n=2, max_tokens=4), save_every=2,
    )  # fmt: skip
    for steps in (2, 4):
        training.run(replace(config, steps=steps), tmp_path / str(steps))
    half, of_four = (load_file(tmp_path / run / "checkpoints/step-2/adapter/adapter_model.safetensors") for run in "24")
    assert all(torch.equal(value, of_four[name]) for name, value in half.items())
    assert all(value.any() for name, value in half.items() if "lora_B" in name)


def test_what_is_finished_is_not_done_again(told, base):
    out, text, _ = told
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.jsonl")}
    assert real_study.run(base, out, 1, 1, TINY) == text
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_the_command_names_what_is_wrong(base, tmp_path, capsys):
    assert cli.main(["study", "--real", str(tmp_path), "--run-dir", str(tmp_path / "out")]) == 2
    assert "holds no finished base" in capsys.readouterr().err
    assert cli.main(["study", "--real", str(base), "--set", "step=3"]) == 2
    assert 'did you mean "steps"' in capsys.readouterr().err
    for words, said in ((["--set", "steps=3"], "--set steps=3 changes"), (["--shortcut", "--steps", "1"], "--steps 1 is a trial of --looking or --real")):
        assert cli.main(["study", *words, "--run-dir", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


# ---------------------------------------------------------------- the gallery


def test_the_gallery_picks_by_hash_and_names_no_file_and_no_patient(base, tmp_path):
    test = list(load_dataset(str(base / "questions" / "test.jsonl")))
    samples = [replace(answer("BA"[n % 2], "B", e.id, e.modality), group=e.group, images=e.images, options=(*e.options, "other")) for n, e in enumerate(test)]
    chosen = real_gallery.picked(samples)
    assert [s.modality for s in chosen] == sorted((s.modality for s in chosen), key=("mri", "ct", "xray").index) and len(chosen) == min(10, len(samples))
    least = sorted(hashlib.sha256(s.id.encode()).hexdigest() for s in samples)[:2]
    assert {hashlib.sha256(s.id.encode()).hexdigest() for s in real_gallery.picked(samples, 2)} == set(least)
    assert real_gallery.picked([replace(s, correct=not s.correct) for s in samples]) == [replace(s, correct=not s.correct) for s in chosen]
    other = [replace(s, answer=None, status="unparsed", correct=False, text="<think>No | <unk></think>") for s in chosen]
    page = real_gallery.page(chosen, other, "f00d", "cafe")
    assert "## MRI 1\n\nWhat? A) glioma" in page.replace(chosen[0].options[0], "glioma") and "`f00d`" in page and "`cafe`" in page
    assert f"of {len(chosen)} the one has {sum(s.correct for s in chosen)} right, the other 0." in page
    assert "| embedded | No \\| &lt;unk> | none (unparsed) | wrong |" in page
    assert not any(secret in page for s in chosen for secret in (s.id, s.group, *s.images))
    write_samples(tmp_path / "samples-image.jsonl", samples)
    (tmp_path / "questions").symlink_to(base / "questions")
    (tmp_path / "model").symlink_to(base / "model")
    real_gallery.write(tmp_path, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text().count("| embedded |") == len(chosen)
