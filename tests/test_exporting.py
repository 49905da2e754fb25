"""``medvlm-r1 export``: what other tools read must say what the evaluation says."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from medvlm_r1.evaluation.asking.run import EvalConfig, answers, score
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.evaluation.samples import read_samples, write_samples
from medvlm_r1.reasoning import render
from medvlm_r1.report.export import card, inspect_log, spreadsheet
from medvlm_r1.report.method import data_sha256
from medvlm_r1.rollout.scripted import ScriptedEngine, by_table, share_right, written
from medvlm_r1.types import Completion, Example

ARMS = ("image", "blank", "rotate")
SETTINGS = {
    "model": "runs/mine/step-3", "data": "my data.jsonl", "train": None, "samples": 2, "max_tokens": 64,
    "max_pixels": None, "dtype": "float32", "template": "think", "answered_by": "0123456789abcdef float32",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Eight MRI and four CT questions, three of four right in every arm; one answer is a formula, one has failed."""
    sizes = {"mri": 8, "ct": 4}
    right = {f"{m}-{i}": [yes, True, False] for m, n in sizes.items() for i, yes in enumerate(share_right(n, 0.75))}
    options = ("left", "right", "=both")
    examples = [Example(id, (f"{id}.png",), "Which side?", options[: 2 + int(id[-1]) % 2], "left", id[:-2], "side", "") for id in right]

    def script(prompt, k):
        odd = {"mri-0": Completion((7,), (0.0,), "=HYPERLINK(1)", True), "ct-0": Completion((), (), "", False, 'http://here: no, "never"')}
        return odd.get(prompt.example.id) or by_table(right)(prompt, k)

    out = tmp_path / "eval"
    out.mkdir()
    arms = {arm: answers(ScriptedEngine(script), examples, EvalConfig("think", 2, arm=arm)) for arm in ARMS}
    for arm, samples in arms.items():
        write_samples(out / f"samples-{arm}.jsonl", samples)
    prior = {"mri": {"accuracy": 0.5, "ci95": [0.4, 0.6]}, "ct": {"accuracy": 0.25, "ci95": [0.1, 0.4]}}
    summary = metrics.summary(arms, {"text_prior": prior}, [("image", "blank")])
    summary |= {"failed": {arm: sum(s.status == "failed" for s in arms[arm]) for arm in ARMS}, "settings": SETTINGS}
    summary |= {"looking": {"level": "not shown to look", "sentence": "Its own picture makes no clear difference."}}
    (out / "summary.json").write_text(json.dumps(summary))
    os.utime(out / "summary.json", (1_700_000_000, 1_700_000_000))  # 2023-11-14 22:13:20 UTC
    return out


@pytest.fixture
def export(command, folder):
    """The paths of the files that an export writes."""

    def run(to, *more):
        code, out, err = command("export", folder, "--to", to, *more)
        assert code == 0, err
        return [Path(line) for line in out.splitlines()]

    return run


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_samples_as_a_table(export, folder):
    samples, *_ = export("csv")
    assert samples == folder / "export" / "csv" / "samples.csv" and samples.read_bytes().startswith("\ufeffid,modality,".encode())
    found = rows(samples)
    assert len(found) == 12 + 12 + 30  # six questions of two options and six of three in the third arm
    one = next(row for row in found if row["id"] == "mri-1" and row["arm"] == "image")
    assert one | {"text": ""} == {
        "id": "mri-1", "modality": "mri", "question_type": "side", "group": "", "arm": "image", "gold": "A", "answer": "A",
        "status": "answered", "correct": "1", "n_tokens": "46", "sampled_accuracy": "0.5", "text": "",
    }  # fmt: skip
    formula, failed = (next(row for row in found if row["id"] == id) for id in ("mri-0", "ct-0"))
    assert (formula["text"], formula["status"], formula["answer"]) == ("'=HYPERLINK(1)", "unparsed", "")
    assert (failed["text"], failed["status"]) == ('http://here: no, "never"', "failed")


def test_results_as_a_table(export, folder):
    _, table, *_ = export("csv")
    found = {(row["row"], row["measure"], row["modality"]): row for row in rows(table)}
    summary = json.loads((folder / "summary.json").read_text())
    assert float(found["image", "accuracy", "mri"]["value"]) == 0.75 == summary["arms"]["image"]["mri"]["accuracy"]
    assert float(found["image", "accuracy", "mri"]["ci95_low"]) == summary["arms"]["image"]["mri"]["ci95"][0]
    assert float(found["blank", "accuracy", "mean"]["value"]) == summary["overall"]["blank"]["accuracy"]
    assert found["text_prior", "accuracy", "ct"]["ci95_high"] == "0.4"
    assert found["image-blank", "difference, greedy", "mean"]["value"] == "0.0"
    assert {measure for row, measure, _ in found if row == "image-blank"} == {"difference, greedy", "difference, sampled"}


QUESTION = Example("q", ("q.png",), "Which side?", ("left", "right"), "left", "mri", "side", "")


def told(right, options=2, **changes):
    """A sample of one question that was answered right or not."""
    prompt = render(replace(QUESTION, options=("left", "right", "both")[:options]), "think")
    return replace(score(prompt, written(prompt, "A" if right else "B"), (), "image"), **changes)


# Nothing equals anything else: 2 of 3 MRI and 0 of 1 CT with the picture; 1 of 3 and 1 of 1 without; the first is asked twice in "rotate".
UNLIKE = {
    "image": [told(True, id="m1"), told(True, id="m2"), told(False, id="m3"), told(False, id="c1", modality="ct")],
    "blank": [told(True, id="m1"), told(False, id="m2"), told(False, id="m3"), told(True, id="c1", modality="ct")],
    "rotate": [told(True, id="m1"), told(False, id="m1"), told(True, id="m2")],
}


@pytest.fixture
def unlike():
    """The summary of ``UNLIKE``, with a baseline that knows MRI alone."""
    return metrics.summary(UNLIKE, {"text_prior": {"mri": {"accuracy": 0.5}}}, [("image", "blank")]) | {"settings": SETTINGS}


def test_a_table_tells_arms_and_measures_apart(unlike):
    found = {tuple(row[:3]): row[3:] for row in spreadsheet.table_rows(unlike)}
    assert unlike["overall"]["image"]["ci95"] is None  # one question of CT
    assert found["image", "accuracy", "mean"] == [4, pytest.approx(1 / 3), None, None, None, None, None]
    assert found["blank", "accuracy", "mean"][:2] == [4, pytest.approx(2 / 3)]
    pair = unlike["paired"]["image-blank"]
    assert found["image-blank", "difference, greedy", "mean"] == [None, pytest.approx(-1 / 3), None, None, pair["p"], pair["greedy"]["p_holm"], None]
    assert not any("sampled" in measure for _, measure, _ in found)  # none was drawn
    drawn = {arm: [replace(s, sampled_answers=("A", "B")) for s in part] for arm, part in UNLIKE.items()}
    found = {tuple(row[:3]): row[3:] for row in spreadsheet.table_rows(metrics.summary(drawn, {}, [("image", "blank")]))}
    assert found["image-blank", "difference, sampled", "mean"][1] == 0.0
    assert found["image", "accuracy", "mean"][-1] == 0.5
    assert [spreadsheet.defused(text) for text in ("\tB", "\rB", "\nB")] == ["'\tB", "'\rB", "'\nB"]


def test_a_card_tells_arms_apart_and_its_questions_by_their_hash(unlike):
    text = card.card(UNLIKE, unlike)
    found = {result.dataset_config: result for result in ModelCard(text).data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {"mri": 0.6667, "ct": 0.0, "mean": 0.3333}
    assert found["mri"].metric_args["ci95"] == [round(x, 4) for x in wilson(2, 3)]
    assert re.search(r"\| blank: .* \| 33\.3 .*\| 100\.0 .*\| 66\.7 ", text)
    assert "| text prior, without a model | 50.0 | – | – |" in text  # no mean where a modality is missing
    assert "4 questions of" in card.card(UNLIKE | {"image": UNLIKE["image"] * 2}, unlike)
    digests = [
        data_sha256((s.id, s.question, s.options, s.gold) for s in part)
        for part in (UNLIKE["image"], UNLIKE["image"][::-1], [replace(s, gold="B") for s in UNLIKE["image"]])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_log_counts_a_question_once_and_says_how_it_was_asked():
    log = inspect_log.log_of("rotate", UNLIKE["rotate"], SETTINGS, datetime(2026, 1, 1, tzinfo=UTC))
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 0.75  # 1/2 and 1
    assert log["results"]["scores"][0]["metrics"]["stderr"]["value"] == pytest.approx(0.25)  # half their distance
    assert (log["eval"]["config"]["epochs"], log["eval"]["dataset"]["samples"], log["results"]["total_samples"]) == (2, 2, 3)
    cut = [told(False, status="truncated", answer=None, arm="no-think")]
    [sample] = inspect_log.log_of("no-think", cut, SETTINGS, datetime(2026, 1, 1, tzinfo=UTC))["samples"]
    assert sample["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert sample["input"][0]["content"].endswith("Answer only.")


def test_a_card_has_the_results_where_the_hub_looks(export, folder, tmp_path):
    [path] = export("card", "--out", tmp_path / "card")
    assert path == tmp_path / "card" / "README.md"
    loaded = ModelCard.load(path)
    found = {result.dataset_config: result for result in loaded.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {"mri": 0.75, "ct": 0.75, "mean": 0.75}
    assert found["ct"].dataset_args["questions"] == 4 and found["ct"].dataset_name == "my data.jsonl" and len(found["ct"].dataset_args["sha256"]) == 64
    assert loaded.data.model_name == "runs/mine/step-3"
    for part in (
        "Research use only. Not for diagnosis.", "**Not shown to look.** Its own picture makes no clear difference.",
        "| chance, without a model | 41.7 | 41.7 | 41.7 |", "| text prior, without a model | 50.0 (40.0 to 60.0) | 25.0 (10.0 to 40.0) | 37.5 |",
        "| blank: a grey picture of the same size | 75.0", "**Incomplete: 4 answers are missing and count as wrong.**",
        "medvlm-r1 eval --model runs/mine/step-3 --data 'my data.jsonl' --arms image,blank,rotate --samples 2 --max-tokens 64", "strict-1",
    ):  # fmt: skip
        assert part in loaded.text, part


PRIVATE = {
    "a path": ({"model": "/home/me/secret/runs/mine/checkpoints/step-300"}, "# mine, step-300\n", "--model mine/checkpoints/step-300"),
    "a folder": ({"model": "/home/me/secret/big"}, "# big\n", "--model big"),
    "an endpoint": ({"model": "http://secret.local:8000/v1#big"}, "# big\n", "--model 'http://HOST:PORT/v1#big'"),
    "its only model": ({"model": "http://secret.local:8000/v1", "answered_by": "http://secret.local:8000/v1#big"}, "# big\n", "answered by `big`"),
    "an endpoint of a folder": ({"model": "http://secret.local:8000/v1#/home/secret/big"}, "# big\n", "--model 'http://HOST:PORT/v1#big'"),
    "data": ({"data": "/srv/secret/q.jsonl?split=test", "train": "/srv/secret/t.jsonl"}, "of `q.jsonl?split=test`", "--train t.jsonl"),
    "what was asked for": ({"probs": True, "in_domain": "mri"}, "--in-domain mri", "--probs"),
}


@pytest.mark.parametrize("case", PRIVATE)
def test_a_card_names_no_place(export, folder, case):
    more, *parts = PRIVATE[case]
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"settings": SETTINGS | more}))
    text = export("card")[0].read_text()
    assert "secret" not in text
    for part in parts:
        assert part in text, part


def test_an_old_evaluation_says_nothing_about_looking():
    assert card.looking({"paired": {"image-blank": {}}}) == "**Not tested.**"


def test_a_log_for_each_arm(export):
    paths = export("inspect")
    assert [path.name.split("_")[:2] for path in paths] == [["2023-11-14T22-13-20+00-00", arm] for arm in ARMS]
    image, _, rotate = (json.loads(path.read_text()) for path in paths)
    assert image["version"] == 2 and image["results"]["total_samples"] == 12 and image["results"]["completed_samples"] == 11
    assert image["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(0.75)
    first = image["samples"][1]
    assert (first["id"], first["target"], first["choices"]) == ("mri-1", "A", ["left", "right", "=both"])
    asked, said = first["messages"]
    assert asked["content"] == "Which side?\nA) left\nB) right\nC) =both\nThink first, then answer." and "<answer>A</answer>" in said["content"]
    values = [next(iter(sample["scores"].values()))["value"] for sample in image["samples"]]
    assert values == list("NCCCICCC" + "NCCC")
    assert image["samples"][8]["error"]["message"] == 'http://here: no, "never"'
    assert [(s["id"], s["epoch"]) for s in rotate["samples"]][:5] == [("mri-0", 1), ("mri-0", 2), ("mri-1", 1), ("mri-1", 2), ("mri-1", 3)]


def test_inspect_reads_it_and_counts_the_same(export):
    log_tools = pytest.importorskip("inspect_ai.log")
    paths = export("inspect")
    assert len(log_tools.list_eval_logs(str(paths[0].parent))) == 3
    for path in paths:
        log = log_tools.read_eval_log(str(path))
        before = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
        log_tools.recompute_metrics(log)
        assert {name: metric.value for name, metric in log.results.scores[0].metrics.items()} == pytest.approx(before)


def test_no_evaluation(refused, folder, tmp_path):
    refused(["export", tmp_path / "nothing", "--to", "csv"], "nothing", "holds no finished evaluation")
    refused(["export", folder, "--to", "pdf"], "--to", "csv")
    (folder / "summary.json").write_text("{}")
    refused(["export", folder, "--to", "csv"], "summary.json", '"arms"')
    (folder / "samples-image.jsonl").write_text("no sample\n")
    refused(["export", folder, "--to", "csv"], "samples-image.jsonl, line 1")


def test_what_is_there_stays(refused, export, folder, tmp_path):
    (tmp_path / "README.md").write_text("years of work")
    refused(["export", folder, "--to", "card", "--out", tmp_path], "--out")
    assert (tmp_path / "README.md").read_text() == "years of work"
    export("csv")
    refused(["export", folder, "--to", "csv"], "in use", "--out")


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_flow_subgroups_and_methods_as_tables(export):
    """Twelve questions, one without a completion; three of four right: MRI 6 of 8, CT 3 of 4."""
    paths = {path.stem: path for path in export("csv")}
    assert paths.keys() == {"samples", "table", "flow", "subgroups", "methods"}
    image, blank, rotate = rows_of(paths["flow"])
    wanted = {"Eligible": "12", "Not asked": "0", "Asked": "12", "answered": "10", "unparsed": "1", "failed": "1", "Compared": "–"}
    assert {name: image[name] for name in wanted} == wanted and blank["Compared"] == rotate["Compared"] == "11"
    assert [(row["Modality"], row["n"], row["Accuracy"].split()[0]) for row in rows_of(paths["subgroups"])] == [("MRI", "8", "75.0"), ("CT", "4", "75.0")]
    texts = {row["Item"]: row["Text"] for row in rows_of(paths["methods"])}
    assert "nothing is imputed" in texts["Missing data"].lower() and "Think first, then answer." in texts["Prompt with options"]
    assert texts["Software"] == texts["Hardware"] == "not recorded"  # an evaluation of before


def test_tables_for_latex(export):
    tables, methods = (path.read_text(encoding="utf-8") for path in export("latex"))
    assert re.findall(r"label{tab:(\w+)}", tables) == ["accuracy", "arms", "subgroups", "flow"]
    for block in tables.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"{(\w+)}", block)[1])
        assert {len(re.split(r"(?<!\\)&", line)) for line in block.splitlines() if line.endswith(r" \\")} == {columns}
    assert r"in per cent" in tables and r"95 \% intervals" in tables and "%" not in re.sub(r"\\%|^% needs.*", "", tables, flags=re.M)
    assert r"\item[{Reference standard}]" in methods and "arXiv:2502.19634" in methods


@pytest.fixture
def both(folder, command, tmp_path):
    """The folder of a comparison."""
    shutil.copytree(folder, tmp_path / "second")
    assert command("compare", folder, tmp_path / "second", "--out", tmp_path / "both")[0] == 0
    return tmp_path / "both"


def test_all_that_was_compared_is_one_table(command, both, refused):
    assert command("export", both, "--to", "csv")[0] == 0
    samples, table = (rows_of(both / "export" / "csv" / f"{name}.csv") for name in ("samples", "table"))
    assert [row["model"] for row in samples].count("eval") == [row["model"] for row in samples].count("second") == len(samples) / 2
    means = {(row["model"], row["row"]): row["value"] for row in table if (row["measure"], row["modality"]) == ("accuracy", "mean")}
    assert means["eval", "image"] == means["second", "image"] and float(means["eval", "image"]) == 0.75
    assert [row["value"] for row in table if row["row"] == "second-eval" and row["modality"] == "mean"] == ["0.0", "0.0"]
    assert command("export", both, "--to", "latex")[0] == 0
    assert "second $-$ eval, greedy" in (both / "export" / "latex" / "tables.tex").read_text(encoding="utf-8")
    refused(["export", both, "--to", "card"], "several evaluations (eval, second)", "--to csv or --to latex")


def test_a_comparison_that_named_no_folders_says_what_to_do(both, refused):
    summary = json.loads((both / "summary.json").read_text())
    (both / "summary.json").write_text(json.dumps({key: value for key, value in summary.items() if key != "folders"}))
    refused(["export", both, "--to", "csv"], "is a comparison; name the evaluations that it compares: eval, second")


def test_the_demos_run(command, folder, tmp_path):
    """Samples by model and arm in one folder, a summary of models."""
    demo = tmp_path / "demo"
    demo.mkdir()
    for name in ("base", "grpo"):
        for arm in ARMS:
            shutil.copy(folder / f"samples-{arm}.jsonl", demo / f"samples-{name}-{arm}.jsonl")
    arms = {name: read_samples(folder / "samples-image.jsonl") for name in ("base", "grpo")}
    (demo / "summary.json").write_text(json.dumps(metrics.summary(arms, {}, [("grpo", "base")])))
    assert command("export", demo, "--to", "csv")[0] == 0
    table = rows_of(demo / "export" / "csv" / "table.csv")
    assert [(row["model"], row["row"]) for row in table if row["modality"] == "mean" and row["measure"] == "accuracy"] == [
        (name, arm) for name in ("base", "grpo") for arm in ("image", "blank", "rotate")
    ]
    assert {row["row"] for row in table if not row["model"]} == {"chance", "grpo-base"}
