"""Questions with and without options through ``medvlm-r1 eval``: every figure worked out by hand, and the closed ones as if alone."""

import base64
import csv
import io
import json
import re

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from medvlm_r1.evaluation.samples import read_samples
from medvlm_r1.rollout import remote

# id, modality, patient, question, options, reference, answer with its own picture, answer with a grey one
ROWS = [
    ("c1", "xray", "p1", "Is the heart enlarged?", ["yes", "no"], "yes", "A", "A"),
    ("c2", "xray", "p2", "Is the trachea midline?", ["yes", "no"], "no", "A", "A"),
    ("o1", "xray", "p1", "Where is the opacity?", [], "left lower lobe", "The left lower lobe.", "left lung"),
    ("o2", "xray", "p1", "How many ribs are broken?", [], "two", "2", "3"),
    ("o3", "xray", "p2", "What is abnormal?", [], "pleural effusion on the right", "right pleural effusion", "I cannot tell"),
    ("y1", "xray", "p2", "Is there a fracture?", [], "no", "No fracture is seen.", "Yes"),
    ("c3", "ct", "p3", "Was contrast given?", ["yes", "no"], "yes", "A", "B"),
    ("c4", "ct", "p4", "Is this a head CT?", ["yes", "no"], "no", "B", "B"),
    ("o4", "ct", "p3", "Which organ is it?", [], "liver", "liver", "liver"),
    ("o5", "ct", "p4", "How large is the cyst?", [], "1.5 cm", "15 cm", "1.5 cm"),
    ("y2", "ct", "p3", "Does the mass enhance?", [], "Yes", "It does, yes", "yes"),
    ("y3", "ct", "p4", "Is the liver normal?", [], "no", "no", "normal"),
]
BY_QUESTION = {row[3]: row for row in ROWS}
OPEN = [row[0] for row in ROWS if not row[4]]
JUDGED_WRONG = ("15 cm", "3", "left lung", "Yes", "normal")


def says(text):
    return 200, {}, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def answer(body):
    """What the script says to a question, with its own picture or a grey one."""
    picture, text = body["messages"][0]["content"]
    shown = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    [row] = [row for question, row in BY_QUESTION.items() if text["text"].lstrip().startswith(question)]
    is_grey = len(shown.convert("L").getcolors()) == 1
    return says(f"<think>As scripted.</think><answer>{row[7 if is_grey else 6]}</answer>")


def verdict(body):
    """A judge who knows some answers to be wrong and calls all others right."""
    [said] = re.findall('^Answer: "(.*)"$', body["messages"][0]["content"][0]["text"], re.MULTILINE)
    return says(f"<think>Compared.</think><answer>{'B' if said in JUDGED_WRONG else 'A'}</answer>")


@pytest.fixture
def data(tmp_path):
    """Writes a manifest of the rows that are wanted, each about a picture of its own."""

    def write(name="data.jsonl", keep=lambda row: True):
        keys = ("id", "modality", "group", "question", "options", "answer")
        lines = []
        for n, row in enumerate(ROWS):
            Image.effect_noise((40, 40), 40 + n).save(tmp_path / f"{row[0]}.png")
            if keep(row):
                lines.append(json.dumps(dict(zip(keys, row, strict=False), image=[f"{row[0]}.png"], question_type="seen")) + "\n")
        (tmp_path / name).write_text("".join(lines))
        return tmp_path / name

    return write


@pytest.fixture
def at(serve, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.0)

    def start(script):
        server = serve(script)
        server.models = (200, {}, {"data": [{"id": "m"}]})
        return server

    return start


def words(model, data, out, *more):
    return ["eval", "--model", model, "--data", data, "--arms", "image,blank", "--out", out, *more]


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def values(cells):
    return {modality: cell["value"] for modality, cell in cells.items()}


def test_every_figure_is_the_one_worked_out_by_hand(at, data, tmp_path, command):
    """Exact match with the own picture: X-ray o1 and o2 of three, CT o4 of two."""
    code, out, _ = command(*words(f"{at(answer).url}#m", data(), tmp_path / "eval"))
    assert code == 0
    summary = summary_of(tmp_path / "eval")
    assert summary["overall"]["image"]["accuracy"] == 0.75 and summary["overall"]["image"]["n"] == 4
    found = summary["open"]
    assert found["n"] == {"free_text": 5, "yes_no": 3} and found["judge"] == {} and found["judged_by"] is None
    image, blank = found["arms"]["image"], found["arms"]["blank"]
    assert values(image["exact"]) == pytest.approx({"xray": 2 / 3, "ct": 1 / 2, "mean": 7 / 12})
    # o3: 3 words of 3 stand in the reference, which has 4: 2 x 3 / (3 + 4); o5: one of two on both sides
    assert values(image["f1"]) == pytest.approx({"xray": (1 + 1 + 6 / 7) / 3, "ct": (1 + 1 / 2) / 2, "mean": (20 / 21 + 3 / 4) / 2})
    assert values(image["recall"]) == pytest.approx({"xray": (1 + 1 + 3 / 4) / 3, "ct": 3 / 4, "mean": (11 / 12 + 3 / 4) / 2})
    assert values(image["yes_no"]) == {"xray": 1.0, "ct": 0.5, "mean": 0.75}  # y2 does not begin with yes
    assert values(blank["exact"]) == {"xray": 0.0, "ct": 1.0, "mean": 0.5}
    assert values(blank["f1"]) == pytest.approx({"xray": 0.4 / 3, "ct": 1.0, "mean": (0.4 / 3 + 1) / 2})  # o1: 2 x 1 / (2 + 3)
    assert values(blank["yes_no"]) == {"xray": 0.0, "ct": 0.5, "mean": 0.25}
    paired = found["paired"]["image-blank"]
    assert paired["exact"]["mean_difference"] == pytest.approx((2 / 3 - 1 / 2) / 2) and paired["exact"]["n"] == 5
    assert (paired["exact"]["greedy"]["gained"], paired["exact"]["greedy"]["lost"]) == (2, 1)
    assert paired["yes_no"]["mean_difference"] == 0.5 and "gained" not in paired["f1"]["greedy"]
    assert found["status"]["blank"] == {"answered": 7 / 8, "unparsed": 0, "truncated": 0, "abstained": 1 / 8, "failed": 0}
    first, second, _ = out.splitlines()
    assert first.startswith("m: 75.0 % right")
    assert "8 questions without options: exact match 58.3 %" in second and "F1 85.1 %" in second and "yes/no 75.0 %" in second


def test_the_closed_figures_are_those_of_the_closed_questions_alone(at, data, tmp_path, command):
    server = at(answer)
    assert command(*words(server.url, data(), tmp_path / "both"))[0] == 0
    assert command(*words(server.url, data("closed.jsonl", lambda row: row[4]), tmp_path / "alone"))[0] == 0
    both, alone = (summary_of(tmp_path / name) for name in ("both", "alone"))
    changed = {"settings", "open"}
    assert {key: value for key, value in both.items() if key not in changed} == {key: value for key, value in alone.items() if key not in changed}
    assert "open" not in alone
    for arm in ("image", "blank"):
        name = f"samples-{arm}.jsonl"
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
        assert [s.id for s in read_samples(tmp_path / "both" / f"open-{arm}.jsonl")] == OPEN


def test_open_questions_alone_make_a_page_too(at, data, tmp_path, command):
    out = tmp_path / "eval"
    code, said, _ = command(*words(f"{at(answer).url}#m", data(keep=lambda row: not row[4]), out))
    assert code == 0 and said.startswith("m, 8 questions without options: ")
    summary = summary_of(out)
    assert summary["arms"] == {} and summary["looking"]["level"] == "not tested" and summary["open"]["n"]["yes_no"] == 3
    page = (out / "report.html").read_text()
    assert "Questions without options" in page and "Does it look at the image?" not in page and 'id="types"' not in page
    assert command("export", out, "--to", "csv")[0] == 0


def test_arms_that_need_options_leave_these_questions_out(at, data, tmp_path, command):
    server, file = at(answer), data()
    code, _, _ = command(*words(server.url, file, tmp_path / "eval", "--arms", "image,rotate,mismatch,swapped-thought"))
    assert code == 0
    asked = {file.name for file in (tmp_path / "eval").glob("*-*.jsonl")}
    assert asked == {f"{kind}-{arm}.jsonl" for kind in ("samples", "open") for arm in ("image", "mismatch", "swapped-thought")} | {"samples-rotate.jsonl"}
    swapped = read_samples(tmp_path / "eval" / "open-swapped-thought.jsonl")
    assert all(s.text.startswith("<think>As scripted.</think>\n<answer>") for s in swapped)
    mixed = {s.id: s.images[0][-6:-4] for s in read_samples(tmp_path / "eval" / "open-mismatch.jsonl")}
    assert mixed.keys() <= set(OPEN) and set(mixed.values()) <= set(OPEN)  # partners are of their kind: the closed arms ask what they always asked
    code, _, err = command(*words(server.url, data(keep=lambda row: not row[4]), tmp_path / "none", "--arms", "image,rotate"))
    assert code == 2 and 'the arm "rotate"' in err


def test_an_open_question_is_asked_for_no_letter(at, data, tmp_path, command):
    server = at(answer)
    assert command(*words(server.url, data(), tmp_path / "eval", "--arms", "image"))[0] == 0
    texts = [body["messages"][0]["content"][-1]["text"] for body in server.asked]
    free = [text for text in texts if BY_QUESTION[text.strip().splitlines()[0].strip()][0] in OPEN]
    assert len(free) == 8 and not any("letter" in text for text in free) and all("answer in a few words inside <answer>...</answer>" in text for text in free)
    assert sum("single-letter choice" in text for text in texts) == 4


# ---------------------------------------------------------------- a judge beside the rule


def test_a_judge_stands_beside_the_rule_and_is_never_asked_twice(at, data, tmp_path, command, monkeypatch):
    """With the own pictures the rule calls 5 of 8 right, the judge all but o5: they agree on 6, by chance on 38 / 64."""
    monkeypatch.setenv("MEDVLM_API_KEY", "the-models")
    monkeypatch.setenv("MEDVLM_JUDGE_KEY", "the-judges")
    model, judge, out = at(answer), at(verdict), tmp_path / "eval"
    code, said, _ = command(*words(model.url, data(), out, "--judge", f"{judge.url}#big"))
    assert code == 0
    summary = summary_of(out)
    assert summary["settings"]["judge"] == f"{judge.url}#big"
    by = summary["open"]["judged_by"]
    assert (by["model"], by["version"], by["failed"]) == (f"{judge.url}#big", "judge-1", 0) and "{question}" in by["prompt"]
    image = summary["open"]["judge"]["image"]
    assert (image["n"], image["judged"], image["without_verdict"]) == (8, 8, 0)
    assert image["table"] == {"both": 5, "judge_only": 2, "rule_only": 0, "neither": 1}
    assert image["agrees"] == 0.75 and image["kappa"] == pytest.approx((48 / 64 - 38 / 64) / (1 - 38 / 64))
    assert image["kappa_ci95"][0] < image["kappa"] < image["kappa_ci95"][1]
    # mean over the modalities: X-ray 4 of 4, CT 3 of 4; by the rule 3 of 4 and 2 of 4
    assert (image["right"], image["rule"]) == (0.875, 0.625)
    assert summary["open"]["arms"]["image"]["exact"]["mean"]["value"] == pytest.approx(7 / 12)  # the headline stays the rule's
    assert "A judge calls 87.5 % right, and agrees with the rule in 75.0 %, kappa 0.38." in said
    assert {s.id: s.judged for s in read_samples(out / "open-image.jsonl")}["o5"] is False
    # o4 was answered alike under both arms, and o3 had no answer to the grey picture: 8 + 8 - 2
    assert len(judge.asked) == 14 and set(judge.keys) == {"Bearer the-judges"} and set(model.keys) == {"Bearer the-models"}
    assert "A language model as judge" in (out / "report.html").read_text()

    again = tmp_path / "again"
    assert command(*words(model.url, data(), again, "--judge", f"{judge.url}#big", "--cache", out / "completions.jsonl"))[0] == 0
    assert len(judge.asked) == 14 and summary_of(again)["open"]["judge"] == summary["open"]["judge"]
    assert command(*words(model.url, data(), out, "--judge", f"{judge.url}#big"))[0] == 0 and len(judge.asked) == 14  # the same again
    code, _, err = command(*words(model.url, data(), out))  # which would lose the verdicts
    assert code == 2 and "already holds another evaluation" in err


def test_the_judge_sees_three_texts_and_nobodys_name_or_picture(at, data, tmp_path, command):
    model, judge = at(answer), at(verdict)
    assert command(*words(f"{model.url}#secret-model", data(), tmp_path / "eval", "--judge", judge.url, "--arms", "image"))[0] == 0
    for body in judge.asked:
        [part] = body["messages"][0]["content"]
        assert part["type"] == "text" and "secret-model" not in json.dumps(body) and "As scripted" not in part["text"]
        assert body["temperature"] == 0


def test_where_the_judge_fails_the_rule_stands_and_it_is_asked_again(at, data, tmp_path, command):
    """Of eight answers "2" gets an error, "liver" no letter; both are right by the rule."""

    def stumbles(body):
        text = body["messages"][0]["content"][0]["text"]
        if 'Answer: "2"' in text:
            return 400, {}, {"error": "no"}
        return says("Certainly the same!") if 'Answer: "liver"' in text else verdict(body)

    model, judge, out = at(answer), at(stumbles), tmp_path / "eval"
    line = words(model.url, data(), out, "--judge", judge.url, "--arms", "image")
    code, _, err = command(*line)
    assert code == 1 and "1 verdicts of the judge are missing; the same command again asks only for these" in err and "no verdict on 1 answers" in err
    found = summary_of(out)["open"]
    assert found["judged_by"]["failed"] == 1
    assert (found["judge"]["image"]["judged"], found["judge"]["image"]["without_verdict"], found["judge"]["image"]["right"]) == (6, 2, 0.875)
    judge.answers[:], judge.asked[:], model.asked[:] = [verdict], [], []
    assert command(*line)[0] == 0
    assert len(judge.asked) == 1 and model.asked == []  # "liver" had a reply, which would come again
    assert summary_of(out)["open"]["judge"]["image"]["judged"] == 7


def test_a_judge_that_cannot_judge_is_refused_before_the_first_answer(at, data, tmp_path, refused):
    model = at(answer)
    refused(words(model.url, data(), tmp_path / "eval", "--judge", "big"), "--judge", '"big" is no address')
    refused(words(model.url, data(), tmp_path / "eval", "--judge", "http://127.0.0.1:9/v1#big"), "does not answer")
    closed = data("closed.jsonl", lambda row: row[4])
    refused(words(model.url, closed, tmp_path / "eval", "--judge", f"{model.url}#m"), "--judge has nothing to judge")
    assert model.asked == [] and not (tmp_path / "eval").exists()


# ---------------------------------------------------------------- compared and exported


def test_two_models_are_compared_on_both_kinds(at, data, tmp_path, command):
    """The second model answers every question as the first does with a grey picture: exact match 0.5 against 7/12."""

    def blind(body):
        [row] = [row for question, row in BY_QUESTION.items() if body["messages"][0]["content"][-1]["text"].lstrip().startswith(question)]
        return says(f"<answer>{row[7]}</answer>")

    for name, script in (("base", blind), ("grpo", answer)):
        assert command(*words(at(script).url, data(), tmp_path / name))[0] == 0
    code, out, _ = command("compare", tmp_path / "base", tmp_path / "grpo", "--out", tmp_path / "both")
    assert code == 0 and len(out.splitlines()) == 5
    summary = summary_of(tmp_path / "both")
    rows = summary["open_paired"]["grpo-base"]
    assert rows["exact"]["mean_difference"] == pytest.approx(7 / 12 - 1 / 2) and rows["yes_no"]["mean_difference"] == 0.5
    assert rows["exact"]["p_holm"] == rows["exact"]["p"]  # one pair
    assert "One model minus another, in percentage points, on the same questions without options" in (tmp_path / "both" / "report.html").read_text()


def test_exports_tell_both_kinds_apart(at, data, tmp_path, command):
    out = tmp_path / "eval"
    assert command(*words(f"{at(answer).url}#m", data(), out, "--judge", f"{at(verdict).url}#big"))[0] == 0
    assert command("export", out, "--to", "csv")[0] == 0
    tables = {file.stem: list(csv.DictReader(file.open(encoding="utf-8-sig"))) for file in (out / "export" / "csv").iterdir()}
    assert {name: len(rows) for name, rows in tables.items() if "samples" in name} == {"samples": 8, "open-samples": 16}
    row = next(row for row in tables["open-samples"] if (row["id"], row["arm"]) == ("o3", "image"))
    assert (row["gold"], row["answer"], row["correct"], row["judged"]) == ("pleural effusion on the right", "right pleural effusion", "0", "1")
    assert float(row["f1"]) == pytest.approx(6 / 7) and float(row["recall"]) == 0.75
    cells = {(row["row"], row["measure"], row["modality"]): row["value"] for row in tables["open-table"]}
    assert float(cells["image", "exact", "mean"]) == pytest.approx(7 / 12) and float(cells["image", "judge agrees with rule", "all"]) == 0.75
    assert float(cells["image-blank", "difference, greedy, yes_no", "mean"]) == 0.5

    assert command("export", out, "--to", "card")[0] == 0
    card = ModelCard.load(out / "export" / "card" / "README.md")
    results = {result.dataset_config: (result.metric_type, result.metric_value) for result in card.data.eval_results}
    assert results["mean"] == ("accuracy", 0.75) and results["open, exact"] == ("exact_match", 0.5833) and results["open, yes_no"] == ("accuracy", 0.75)
    assert "## Questions without options" in card.text and "| image, F1 |" in card.text and "`open-1`" in card.text and "127.0.0.1" not in card.text
    assert "A language model as judge (`big`, `judge-1`) calls 87.5 % right; it agrees with the rule in 75.0 % of 8 answers, kappa 0.38." in card.text

    assert command("export", out, "--to", "inspect")[0] == 0
    logs = {file.name.split("_")[1]: json.loads(file.read_text()) for file in (out / "export" / "inspect").iterdir()}
    assert logs.keys() == {"image", "blank", "open-image", "open-blank"}
    log = logs["open-image"]
    assert log["results"]["scores"][0]["name"] == "medvlm_r1/open-1" and log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 5 / 8
    sample = log["samples"][0]
    assert (sample["target"], sample["choices"]) == ("left lower lobe", None) and "a few words" in sample["input"][0]["content"]
