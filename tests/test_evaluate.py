"""``medvlm-r1 eval``: its files, its numbers, and what it refuses before it spends an hour."""

import json
import shutil
from hashlib import sha256

import hub_model
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from medvlm_r1.commands import main as cli
from medvlm_r1.data.images import load_image
from medvlm_r1.evaluation.asking.run import EvalConfig, answers
from medvlm_r1.evaluation.samples import read_samples
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.types import Completion


@pytest.fixture
def words(taught, manifest, tmp_path):
    return ["eval", "--model", str(taught), "--data", str(manifest), "--max-tokens", "12", "--out", str(tmp_path / "eval")]


def test_an_evaluation_leaves_samples_summary_and_report(words, manifest, tmp_path, capsys):
    assert cli.main([*words, "--arms", "image, blank", "--samples", "8", "--json"]) == 0
    out = tmp_path / "eval"
    assert {file.name for file in out.iterdir()} == {"samples-image.jsonl", "samples-blank.jsonl", "completions.jsonl", "summary.json", "report.html"}
    image, blank = (read_samples(out / f"samples-{arm}.jsonl") for arm in ("image", "blank"))
    assert [sample.id for sample in image] == [sample.id for sample in blank] == ["q1", "q2", "q3", "q4", "q5"]
    assert {sample.arm for sample in blank} == {"blank"} and all(len(sample.sampled_correct) == 8 for sample in image)
    assert [sample.sampled_texts for sample in image] != [sample.sampled_texts for sample in blank]

    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(capsys.readouterr().out) == summary
    mri = [sample.correct for sample in image if sample.modality == "mri"]
    assert summary["arms"]["image"]["mri"]["accuracy"] == sum(mri) / len(mri) and summary["arms"]["image"]["mri"]["n"] == len(mri) == 2
    assert summary["paired"].keys() == {"image-blank"} and summary["looking"]["reliance"].keys() == {"blank"}
    assert summary["baselines"]["chance"]["ct"]["accuracy"] == 0.5
    assert summary["settings"]["template"] == "direct"  # the model's own
    assert summary["settings"]["data"] == str(manifest) and "left_out_without_options" not in summary["settings"]

    page = (out / "report.html").read_text()
    assert "Research use only" in page and "Does it look at the image?" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_an_evaluation_records_what_a_paper_reports(words, manifest, tmp_path, command):
    """Hashes are worked out here with hashlib over what is shown, the prompt with the model's own tokenizer."""
    out = tmp_path / "eval"
    assert cli.main([*words, "--arms", "image"]) == 0
    made = json.loads((out / "summary.json").read_text())["settings"]["made"]
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    texts = sorted(json.dumps([r["id"], r["question"], r["options"], "ABCD"[r["options"].index(r["answer"])]]) for r in rows)
    pictures = {file: load_image(str(manifest.parent / file)) for r in rows for file in r["image"]}
    pixels = {sha256(f"RGB {p.width}x{p.height}\n".encode() + p.tobytes()).hexdigest() for p in pictures.values()}
    assert made["sha256"]["data"] == sha256("\n".join(texts).encode()).hexdigest()
    assert made["sha256"]["pictures"] == sha256("\n".join(sorted(pixels)).encode()).hexdigest()
    assert made["sha256"]["model"] == json.loads((out / "summary.json").read_text())["settings"]["answered_by"].split()[0]
    tokenizer = AutoTokenizer.from_pretrained(words[2])
    content = [{"type": "image"}, {"type": "text", "text": "{question}\nA) {first option}\nB) {second option}\nAnswer only."}]
    assert made["prompts"] == {
        "with options": tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    }
    assert made["read"]["questions"] == 5 and made["versions"]["torch"] == torch.__version__ and made["hardware"]["cores"] >= 1
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("For a paper", made["sha256"]["data"], made["sha256"]["pictures"], made["hardware"]["processor"]))
    assert command("export", out, "--to", "latex")[0] == 0
    assert "{question}\nA) {first option}" in (out / "export" / "latex" / "methods.tex").read_text()


def test_one_arm_and_its_place(words, tmp_path, capsys):
    assert cli.main([*words, "--arms", "image,image", "--template", "paper-direct"]) == 0
    screen, report = capsys.readouterr().out.splitlines()
    assert " % right (" in screen and "; not tested. " in screen and report == f"report: {tmp_path / 'eval' / 'report.html'}"
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["arms"].keys() == {"image"} and summary["paired"] == {} and summary["settings"]["template"] == "paper-direct"


def test_the_same_command_gives_the_same_samples(words, tmp_path):
    assert cli.main([*words, "--samples", "2"]) == 0
    assert cli.main([*words, "--samples", "2", "--out", str(tmp_path / "again")]) == 0
    for name in ("samples-image.jsonl", "samples-blank.jsonl"):
        assert (tmp_path / "eval" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_questions_without_options_have_a_file_and_numbers_of_their_own(words, tmp_path):
    Image.effect_noise((60, 60), 90).save(tmp_path / "a.png")
    rows = [hub_model.question("q1", ["a.png"], "the liver", options=[]), hub_model.question("q2", [], "axial")]
    (tmp_path / "free.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main([*words, "--data", str(tmp_path / "free.jsonl"), "--arms", "image", "--probs"]) == 0
    closed, free = (read_samples(tmp_path / "eval" / f"{kind}-image.jsonl") for kind in ("samples", "open"))
    assert [(s.id, s.gold, len(s.option_probs)) for s in closed] == [("q2", "A", 2)]
    assert [(s.id, s.gold, s.option_probs) for s in free] == [("q1", "the liver", ())]
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["overall"]["image"]["n"] == 1 and summary["open"]["n"] == {"free_text": 1, "yes_no": 0}


def test_all_arms_that_can_ask_and_no_question_is_asked_twice(words, manifest, tmp_path, capsys):
    assert cli.main([*words, "--arms", "all", "--template", "think", "--probs"]) == 0
    out = tmp_path / "eval"
    arms = {file.stem.removeprefix("samples-"): read_samples(file) for file in out.glob("samples-*.jsonl")}
    assert arms.keys() == {"image", "blank", "noise", "mismatch", "crop", "rotate", "hard", "no-think", "empty-thought"}
    assert "half-thought" in capsys.readouterr().err  # the taught model writes no thought
    own = {(sample.id, sample.options): sample.text for sample in arms["rotate"]}
    assert [own[sample.id, sample.options] for sample in arms["image"]] == [sample.text for sample in arms["image"]]
    rows = [json.loads(line)["key"] for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == len(set(rows)) < sum(map(len, arms.values()))  # the own order of the options was answered before
    assert all(sum(sample.option_probs) == pytest.approx(1) for sample in arms["image"])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["paired"].keys() == {f"image-{arm}" for arm in arms if arm != "image"}
    assert summary["settings"]["probs"] is True
    assert {"text_prior", "chance"} == summary["baselines"].keys()


def test_a_missing_picture_costs_its_question_only(words, manifest, tmp_path, capsys):
    here = shutil.copytree(manifest.parent, tmp_path / "here") / manifest.name
    words = [*words, "--data", str(here), "--arms", "image"]
    rows = [json.loads(line) for line in here.read_text().splitlines()]
    gone = here.parent / rows[1]["image"][0]
    gone.rename(tmp_path / "elsewhere")
    hit = sum(gone.name in row["image"] for row in rows)
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert f"{hit} of 5 questions will have no answer" in err and f"{hit} answers are missing" in err and gone.name in err
    samples = read_samples(tmp_path / "eval" / "samples-image.jsonl")
    assert [sample.status for sample in samples].count("failed") == hit and gone.name in samples[1].text
    (tmp_path / "elsewhere").rename(gone)
    assert cli.main(words) == 0
    assert {sample.status for sample in read_samples(tmp_path / "eval" / "samples-image.jsonl")} == {"answered"}


def test_a_cache_is_shared(words, tmp_path):
    shared = ["--arms", "image", "--cache", str(tmp_path / "cache.jsonl")]
    assert cli.main([*words, *shared]) == 0
    before = (tmp_path / "cache.jsonl").read_bytes()
    assert cli.main([*words, *shared, "--out", str(tmp_path / "again")]) == 0
    assert before and (tmp_path / "cache.jsonl").read_bytes() == before


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_bytes(words, tmp_path):
    """Two of five questions were answered, a third half written, when the process died."""
    assert cli.main([*words, "--arms", "image", "--samples", "2"]) == 0
    out, whole = tmp_path / "eval", (tmp_path / "eval" / "completions.jsonl").read_bytes()
    samples = (out / "samples-image.jsonl").read_bytes()
    greedy, drawn = (whole.splitlines(keepends=True)[part] for part in (slice(0, 5), slice(5, 15)))
    for name in ("summary.json", "report.html", "samples-image.jsonl"):
        (out / name).unlink()
    (out / "completions.jsonl").write_bytes(b"".join(greedy[:2] + drawn[:4]) + drawn[4][:30])
    assert cli.main([*words, "--arms", "image", "--samples", "2"]) == 0
    assert (out / "samples-image.jsonl").read_bytes() == samples
    again = [json.loads(line) for line in (out / "completions.jsonl").read_bytes().splitlines()]
    said = {row["key"]: row["token_ids"] for row in map(json.loads, whole.splitlines())}
    assert len(again) == len(said) == 15 and {row["key"]: row["token_ids"] for row in again} == said


def test_an_endpoint_is_evaluated_and_asked_again_only_for_what_failed(words, manifest, tmp_path, serve, capsys):
    good = {"choices": [{"message": {"content": "<think>x</think><answer>A</answer>"}, "finish_reason": "stop"}]}
    broken = serve((200, {}, good), (200, {}, good), (400, {}, {"error": "no"}))  # three of five questions are refused
    model = ["--model", f"{broken.url}#m", "--arms", "image"]
    assert cli.main([*words, *model]) == 1
    assert "3 answers are missing" in capsys.readouterr().err
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert not {"max_pixels", "dtype"} & summary["settings"].keys()  # they say nothing about who answered
    assert summary["failed"] == {"image": 3} and sum(summary["status"]["image"].values()) == pytest.approx(1)
    assert summary["status"]["image"]["failed"] == 0.6

    broken.answers[:] = [(200, {}, good)]
    assert cli.main([*words, *model]) == 0
    assert len(broken.asked) == 5 + 3
    samples = read_samples(tmp_path / "eval" / "samples-image.jsonl")
    assert [sample.answer for sample in samples] == ["A"] * 5 and {sample.status for sample in samples} == {"answered"}


@pytest.mark.parametrize(("option", "value"), [("--max-pixels", "100000"), ("--dtype", "bfloat16")])
def test_what_does_nothing_at_an_endpoint_is_refused(words, tmp_path, serve, capsys, option, value):
    server = serve((200, {}, {}))
    code, err = attempt([*words, "--model", f"{server.url}#m", option, value], capsys)
    assert code == 2 and len(err.splitlines()) == 1 and f"{option} {value} does nothing" in err and "drop it" in err
    assert server.asked == [] and not (tmp_path / "eval").exists()


REFUSED = {
    "unknown arm": (["--arms", "image,blnk"], "blnk", 'did you mean "blank"'),
    "no arm": (["--arms", ","], "image,blank"),
    "nothing to compare with": (["--arms", "blank"], '"image"'),
    "unknown template": (["--template", "dircet"], "dircet", 'did you mean "direct"'),
    "no data": (["--data", ""], "--data"),
    "trained on what is not there": (["--in-domain", "mrii"], "--in-domain", 'did you mean "mri"'),
    "samples below zero": (["--samples", "-1"], "--samples", "-1"),
    "samples that are no number": (["--samples", "x"], "--samples", "wants a whole number, got x"),
    "a timeout that is no number": (["--timeout", "soon"], "--timeout", "wants seconds, more than 0, got soon"),
    "no tokens": (["--max-tokens", "0"], "--max-tokens"),
    "unknown dtype": (["--dtype", "int8"], "--dtype", "bfloat16"),
    "less than a token of pixels": (["--max-pixels", "9"], "--max-pixels", "784"),
}


def attempt(words, capsys):
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(words, tmp_path, capsys, case):
    more, *parts = REFUSED[case]
    code, err = attempt([*words, *more], capsys)
    assert code == 2 and len(err.splitlines()) == 1 and not (tmp_path / "eval").exists()
    for part in parts:
        assert part in err


def test_a_prompt_that_does_not_fit_is_named_before_the_first_answer_and_costs_itself(words, tmp_path, capsys):
    Image.effect_noise((60, 60), 90).save(tmp_path / "a.png")
    rows = [hub_model.question("q1", ["a.png"], "axial"), hub_model.question("q2", ["a.png"], "axial") | {"question": "Why? " * 20_000}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, err = attempt([*words, "--data", str(tmp_path / "long.jsonl")], capsys)
    assert code == 1 and err.startswith('1 of 2 questions will have no answer: question "q2" needs ') and "the model reads 32768 in all; shorten it" in err
    assert [sample.status == "failed" for sample in read_samples(tmp_path / "eval" / "samples-image.jsonl")] == [False, True]


@pytest.mark.parametrize("name", ["summary.json", "thesis.tex", "config.json"])
def test_what_is_in_the_folder_stays(words, tmp_path, capsys, name):
    out = tmp_path / "eval"
    out.mkdir()
    (out / name).write_text("years of work")
    code, err = attempt(words, capsys)
    assert code == 2 and "--out" in err and len(err.splitlines()) == 1
    assert {file.name: file.read_text() for file in out.iterdir()} == {name: "years of work"}


def test_what_a_stopped_evaluation_left_is_written_again(words, tmp_path):
    out = tmp_path / "eval"
    out.mkdir()
    (out / "samples-image.jsonl").write_text("half a li")
    assert cli.main([*words, "--arms", "image"]) == 0
    assert len(read_samples(out / "samples-image.jsonl")) == 5


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be(words, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    code, err = attempt([*words, "--out", str(tmp_path / place)], capsys)
    assert code == 2 and "--out" in err and (tmp_path / "file").read_text() == "mine"


class Asked:
    """An engine that notes how it is asked, and always answers A."""

    def __init__(self):
        self.samplings = []

    def generate(self, prompts, sampling):
        self.samplings.append(sampling)
        return [[Completion((1,), (0.0,), "<answer>A</answer>", finished=True)] * sampling.n for _ in prompts]


def test_the_seed_draws_the_noise_and_changes_nothing_else(examples):
    engine = Asked()
    samples = answers(engine, examples[:2], EvalConfig("think", samples=3, max_tokens=9, seed=7))
    assert engine.samplings == [Sampling(n=1, temperature=0.0, max_tokens=9, seed=7), Sampling(n=3, temperature=1.0, max_tokens=9, seed=7)]
    assert [sampling.min_tokens for sampling in engine.samplings] == [0, 0]
    assert samples[0].sampled_correct == (True, True, True) and samples[1].sampled_correct == (False, False, False)
