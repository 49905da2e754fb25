"""``medvlm-r1 ask``: what it prints and what the probabilities mean."""

import json
from dataclasses import replace

import pytest
import torch
from clinical_checks import bundle_faults, items, report_faults
from conftest import picture
from drawn_files import RAMP, save_dicom

from medvlm_r1.commands import main as cli
from medvlm_r1.commands.ask import Live
from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.launch import recording
from medvlm_r1.launch.answering import model_sha256
from medvlm_r1.launch.asking import load
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import load_policy, prepare
from medvlm_r1.reasoning import render
from medvlm_r1.rollout import answer
from medvlm_r1.rollout.answer import ask, option_probs
from medvlm_r1.rollout.told import question
from medvlm_r1.serving import calibrated
from medvlm_r1.types import Completion, Rollout, RolloutGroup

OPTIONS = ("axial", "coronal", "sagittal")


@pytest.fixture
def words(taught, manifest):
    return ["ask", "--model", str(taught), str(manifest.parent / "wide.png"), "Which plane is this?", "--max-tokens", "16"]


def scripted(tokenizer, text):
    """A tiny model that writes ``text``, whatever it is asked and its head says."""
    policy = prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    said = iter(ids)

    def masked(logits_TV, *how):
        if len(logits_TV) == 1:  # decoding
            return torch.nn.functional.one_hot(torch.tensor([next(said)]), 512).float().log()
        return type(policy).masked(policy, logits_TV, *how)

    policy.masked = masked
    return policy


def test_probabilities_of_many_are_measured_a_part_at_a_time(policy, examples, monkeypatch):
    """A hundred questions with stacks of pictures fit no memory at once."""
    prompts = [render(example, "think") for example in examples]
    texts = ["<think>Ears.</think>\n<answer>A</answer>"] * len(prompts)
    whole, passes, logprobs = option_probs(policy, prompts, texts), [], type(policy).logprobs
    monkeypatch.setattr(answer, "TOKENS_AT_ONCE", 1)
    monkeypatch.setattr(type(policy), "logprobs", lambda self, batch: passes.append(1) or logprobs(self, batch))
    parts = option_probs(policy, prompts, texts)
    assert len(passes) == len(prompts) and list(map(len, parts)) == [len(example.options) for example in examples]
    assert [x for one in parts for x in one] == pytest.approx([x for one in whole for x in one], abs=1e-6)


def test_json_has_all_that_is_known(words, capsys):
    assert cli.main([*words, "--options", *OPTIONS[:2], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"reasoning", "answer", "answer_text", "status", "option_probs", "text", "written", "warnings"} | {
        "image_sha256", "model", "version", "template", "extraction", "confidence", "calibrated_on", "threshold", "intended_use",
    }  # fmt: skip
    assert answer["answer"] in ("A", "B") and answer["status"] == "answered"  # it was taught letters
    assert answer["answer_text"] == OPTIONS["AB".index(answer["answer"])]
    assert sum(answer["option_probs"].values()) == pytest.approx(1)
    assert max(answer["option_probs"], key=answer["option_probs"].get) == answer["answer"]
    assert "Not for diagnosis" in answer["intended_use"]


def test_the_terminal_shows_answer_probabilities_and_intended_use(words, capsys):
    assert cli.main([*words, "--options", *OPTIONS[:2]]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Reasoning  ") and out[1].startswith("Answer     ") and out[1].endswith("[answered]")
    assert [line.split()[:2] for line in out[2:4]] == [["A)", "axial"], ["B)", "coronal"]]
    assert sum(float(line.split()[2].rstrip("%")) for line in out[2:4]) == pytest.approx(100, abs=0.11)
    assert out[-1] == "Research use only. Not for diagnosis."


def test_what_could_not_be_read_is_shown_as_written(hub_dir, manifest, capsys):
    picture = str(manifest.parent / "wide.png")
    assert cli.main(["ask", "--model", str(hub_dir), picture, "Which?", "--options", "a", "b", "--max-tokens", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "Answer     (none)  [truncated]" and out[2].startswith("Wrote      ")


CASES = {
    "<think>The ears.</think>\n<answer>B</answer>": ("The ears.", "B", "coronal", "answered"),
    "<answer>C)</answer>": ("", "C", "sagittal", "answered"),
    "<think>The ears.</think>\n<answer>the brain</answer>": ("The ears.", None, "", "unparsed"),
    "<answer>I cannot tell.</answer>": ("", None, "", "abstained"),
}


@pytest.mark.parametrize("text", CASES)
def test_an_answer_is_read_by_the_one_parser(tokenizer, text):
    answer = ask(scripted(tokenizer, text), question("a.png", "Which plane?", OPTIONS), "think", 100)
    assert (answer.reasoning, answer.answer, answer.answer_text, answer.status) == CASES[text]
    assert answer.text == text and sum(answer.option_probs.values()) == pytest.approx(1)


def test_an_answer_against_its_own_thought_is_none(tokenizer):
    text = "<think>The ears. Hence coronal.</think>\n<answer>A</answer>"
    answer = ask(scripted(tokenizer, text), question("a.png", "Which plane?", OPTIONS), "think", 100)
    assert (answer.status, answer.answer, answer.answer_text, answer.written, answer.option_probs) == ("contradicted", None, "", "A", {})
    assert [warned.text for warned in answer.warnings] == ["The thought names B) coronal, the answer written was A) axial."]


FREE = {
    "<think>The ears.</think>\n<answer>The brain.</answer>": "The brain.",
    "The brain.": "The brain.",
    "<think>It is <answer>no</answer></think> <answer>yes</answer>": "yes",
}


@pytest.mark.parametrize("text", FREE)
def test_without_options_the_answer_is_free_text(tokenizer, text):
    answer = ask(scripted(tokenizer, text), question("a.png", "What is this?", ()), "think", 100)
    assert (answer.answer, answer.answer_text, answer.status, answer.option_probs) == (None, FREE[text], "answered", {})


@pytest.mark.parametrize(
    ("text", "status", "written"),
    [
        ("<think>The ears.</think><answer>I cannot tell.</answer>", "abstained", "I cannot tell."),
        ("<think>The ears.</think><answer>The brain", "truncated", "The brain"),
        ("<think>Hmm, the brain", "truncated", ""),
        ("<think>The ears.</think><answer> </answer>", "unparsed", ""),
    ],
)
def test_without_options_what_is_no_answer_is_not_shown_as_one(tokenizer, text, status, written):
    answer = ask(scripted(tokenizer, text), question("a.png", "What is this?", ()), "think", 100)
    assert (answer.status, answer.answer, answer.answer_text, answer.written) == (status, None, "", written)


def test_the_probabilities_are_of_the_letters_after_the_thought(taught, manifest):
    """Against the definition: p(letter) over the letters offered, each whole completion scored on its own."""
    policy = load_policy(str(taught), load_image)
    example = question(str(manifest.parent / "wide.png"), "Which plane is this?", OPTIONS)
    prompt, thought = render(example, "direct"), "<think>Ears.</think>\n"
    found = dict(zip("ABC", option_probs(policy, [render(example, "direct")], [f"{thought}<answer>B</answer>"])[0], strict=False))
    scores = []
    for letter in "ABC":
        ids = tuple(policy.encoder.tokenizer(f"{thought}<answer>{letter}", add_special_tokens=False)["input_ids"])
        scores.append(policy.logprobs(policy.encoder.groups([RolloutGroup(prompt, (Rollout(Completion(ids, (), "", True), {}),))])).sum())
    assert list(found.values()) == pytest.approx(torch.stack(scores).softmax(0).tolist(), abs=1e-5)
    other = dict(zip("ABC", option_probs(policy, [render(example, "direct")], ["<answer>A</answer>"])[0], strict=False))
    assert other != found  # the thought matters


@pytest.mark.parametrize("options", [["left"], ["left", "left"], ["left", " "], [str(n) for n in range(11)]])
def test_options_must_be_a_choice(words, capsys, options):
    assert cli.main([*words, "--options", *options]) == 2
    assert "--options" in capsys.readouterr().err


@pytest.mark.parametrize(("position", "value", "part"), [
    (3, "gone.png", "gone.png"), (4, " ", "question is empty"),
])  # fmt: skip
def test_what_cannot_be_asked(words, capsys, position, value, part):
    words[position] = value
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert part in err and len(err.splitlines()) == 1


def test_an_unknown_template(words, capsys):
    assert cli.main([*words, "--template", "dircet"]) == 2
    assert 'did you mean "direct"' in capsys.readouterr().err


def test_question_needs_a_text():
    with pytest.raises(ConfigError, match="empty"):
        question("a.png", "", OPTIONS)


def test_half_a_character_on_the_command_line_is_named(words, refused):
    refused([*words[:4], "side \udcff?", *words[5:]], 'question "ask": "question" holds half a character (\\udcff)')


# ---------------------------------------------------------------- studies, windows, reports


@pytest.fixture
def study(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "study").mkdir()
    for number in (2, 1, 3):
        save_dicom(
            tmp_path / "study" / f"{9 - number}.dcm", RAMP * number, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.2", SOPInstanceUID=f"1.2.3.{number}",
            InstanceNumber=number, PatientID="CANARY-1", PatientName="CANARY^Name", AccessionNumber="CANARY-2",
        )  # fmt: skip
    return tmp_path / "study"


def asking(taught, images, *more):
    return ["ask", "--model", taught, *images, "Which plane is this?", "--options", "axial", "coronal", "--max-tokens", "16", *more]


def test_a_study_is_asked_about_through_a_window(taught, study, command):
    code, out, err = command(*asking(taught, [study], "--at-most", "2", "--window", "100", "200", "--json"))
    assert code == 0, err
    shown = [f"{study / name}#center=100&width=200" for name in ("8.dcm", "6.dcm")]  # the first and the last of three, by their numbers
    assert json.loads(out)["image_sha256"] == [content_hash(load_image(reference)) for reference in shown]


def test_several_pictures_are_asked_about_at_once(taught, manifest):
    model, options = load(taught), ["first", "second"]
    pictures = [manifest.parent / "wide.png", manifest.parent / "wide.png"]
    alone = model.ask(pictures[0], "Which?", options)
    both = model.ask(pictures, "Which?", options)
    example = replace(question(str(pictures[0]), "Which?", tuple(options)), images=tuple(map(str, pictures)))
    assert both == ask(model.policy, example, model.policy.template, 512) and both.option_probs != alone.option_probs


def test_reports_name_the_images_and_nobody_unless_told_to(taught, study, tmp_path, command):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    sr, fhir = tmp_path / "sr.dcm", tmp_path / "fhir.json"
    code, out, err = command(*asking(taught, [study / "8.dcm"], "--sr", sr, "--fhir", fhir, "--json"))
    assert code == 0, err
    assert err.splitlines()[-2:] == [f"wrote {sr}", f"wrote {fhir}"]
    report, bundle = pydicom.dcmread(sr), json.loads(fhir.read_text(encoding="utf-8"))
    assert report_faults(report) == [] and bundle_faults(bundle) == []
    assert report.StudyInstanceUID == "1.2.1" and report.PatientID == ""
    assert json.loads(out)["answer_text"].encode() in sr.read_bytes()
    assert not any(b"CANARY" in path.read_bytes() for path in (sr, fhir)) and "CANARY" not in out + err
    assert command(*asking(taught, [study / "8.dcm"], "--sr", sr, "--with-patient"))[0] == 0
    assert (pydicom.dcmread(sr).PatientID, pydicom.dcmread(sr).AccessionNumber) == ("CANARY-1", "CANARY-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fhir.json", "sr.dcm", "study"]


REFUSED = {
    "a picture without UIDs": (["WIDE", "--sr", "TMP/sr.dcm"], "has no UIDs by which a report could name it"),
    "a window on a PNG": (["WIDE", "--window", "40", "400"], "has no window to set"),
    "half a window": (["WIDE", "--window", "40"], "--window"),
    "no number": (["WIDE", "--window", "40", "wide"], "two numbers"),
    "no such folder": (["STUDY/8.dcm", "--sr", "TMP/none/sr.dcm"], "lies in no folder that is there"),
    "a folder to write to": (["STUDY/8.dcm", "--fhir", "TMP"], "is a folder"),
    "a patient for nobody": (["STUDY/8.dcm", "--with-patient"], "--with-patient is for --sr and --fhir"),
    "an empty folder": (["EMPTY"], "holds no image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_study_or_report_that_cannot_be(manifest, study, tmp_path, refused, name):
    (tmp_path / "empty").mkdir()
    words, part = REFUSED[name]
    places = {"WIDE": str(manifest.parent / "wide.png"), "STUDY": str(study), "TMP": str(tmp_path), "EMPTY": str(tmp_path / "empty")}
    image, *more = [word if (key := word.partition("/")[0]) not in places else word.replace(key, places[key]) for word in words]
    refused(["ask", "--model", "gone", image, "Which?", *more], part)  # the model is not even looked for


def test_too_many_images_are_not_asked_about_by_mistake(study, monkeypatch):
    monkeypatch.setattr(recording, "MANY", 2)
    with pytest.raises(DataError, match="holds 3 images; --at-most 8"):
        recording.images([str(study)])
    assert len(recording.images([str(study)], at_most=3)) == 3


def calibration(taught, threshold, identity=""):
    """Half of 40 answers below one half were right, and 32 of 40 above."""
    about = identity or f"{model_sha256(taught)} float32"
    measured = (calibrated.Block(0.0, 40, 0.5, (0.35, 0.65)), calibrated.Block(0.5, 40, 0.8, (0.65, 0.9)))
    return calibrated.Calibration(about, "wards/CANARY/held-out.jsonl", load(taught).policy.template, 80, measured, threshold)


@pytest.mark.parametrize(("threshold", "certain"), [(0.0, [80.0]), (0.9, [])])
def test_a_certainty_is_the_share_that_was_right_or_there_is_no_answer(taught, study, tmp_path, command, threshold, certain):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    calibrated.write(tmp_path / "c.json", calibration(taught, threshold))
    words = asking(taught, [study / "8.dcm"], "--calibration", tmp_path / "c.json", "--sr", tmp_path / "sr.dcm")
    code, out, err = command(*words, "--json")
    assert code == 0, err
    found, report, written = json.loads(out), pydicom.dcmread(tmp_path / "sr.dcm"), (tmp_path / "sr.dcm").read_bytes().decode("latin-1")
    assert max(found["option_probs"].values()) > 0.5 and (found["confidence"], found["threshold"]) == (0.8, threshold)
    assert found["status"] == ("answered" if certain else "abstained") and report_faults(report) == []
    assert [float(item.MeasuredValueSequence[0].NumericValue) for item in items(report) if item.ValueType == "NUM"] == certain
    assert ("40 answers as sure as this (95 % interval 65.0 to 90.0 %), among 80 to held-out.jsonl" in written) == bool(certain)
    assert "CANARY" not in written
    assert ("Confidence 80.0%: " in command(*words)[1]) == bool(certain)


def test_another_models_calibration_is_refused(taught, study, tmp_path, refused):
    calibrated.write(tmp_path / "c.json", calibration(taught, 0.0, "another float32"))
    refused(asking(taught, [study / "8.dcm"], "--calibration", tmp_path / "c.json"), "was measured with the identity", "medvlm-r1 calibrate")


# ---------------------------------------------------------------- while it is written


def test_what_is_written_is_seen_as_it_grows_and_changes_nothing(taught, manifest):
    model, seen = load(taught), []
    asked = (manifest.parent / "wide.png", "Which?", ["axial", "coronal"])
    answer = model.ask(*asked, max_tokens=16, seen=seen.append)
    assert answer == model.ask(*asked, max_tokens=16)
    assert len(seen[0]) < len(seen[-1]) and all(later.startswith(sooner) for sooner, later in zip(seen, [*seen[1:], answer.text], strict=True))


def test_the_terminal_shows_a_thought_once(capsys):
    live = Live()
    for text in ("<think>", "<think>The ears", "<think>The ears\x1b[2J.", "<think>The ears\x1b[2J.</think><answer>"):
        live(text)
    live.go_on("The ears[2J.")
    assert capsys.readouterr().out == "Reasoning  The ears[2J."
