"""The notebook and docs/python.md: their code runs from top to bottom, and what they say of it is true."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "examples/first_steps.ipynb").read_text(encoding="utf-8"))
CODE, MARKDOWN = (["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == kind] for kind in ("code", "markdown"))
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")

# What the markdown claims: words that stand there, and whether they are true of what the cells left behind.
CLAIMS = {
    "has about 3 million parameters": lambda x: round(sum(p.numel() for p in x["model"].policy.model.parameters()) / 1e6) == 3,
    "600 to train on and 300 to test": lambda x: [len(x["medvlm_r1"].dataset(f"phantom:mri?split={part}")) for part in ("train", "test")] == [600, 300],
    "The answer is right and the thought is not": lambda x: x["answer"].answer_text == x["first"].answer and x["answer"].reasoning not in x["first"].reasoning,
    "it calls the head normal, while the picture shows plaques": lambda x: "normal" in x["answer"].reasoning and "plaques" in x["first"].reasoning,
    "It no longer says what it sees": lambda x: "Finding:" in x["answer"].reasoning and "Finding:" not in x["grey"].reasoning,
    "falls from nearly one to little above one half": lambda x: 0.5 < x["grey"].option_probs["A"] < 0.6 < 0.99 < x["answer"].option_probs["A"],
    "with its own picture, with a grey one, and with another patient's": lambda x: list(x["base"].arms) == ["image", "blank", "mismatch"],
    "*Not shown to look*": lambda x: x["base"].summary["looking"]["level"] == "not shown to look",
    "20 questions tell very little": lambda x: len(x["base"].arms["image"]) == 20,
    "which is more than 30 points wide": lambda x: x["base"].summary["overall"]["image"]["ci95"][1] - x["base"].summary["overall"]["image"]["ci95"][0] > 0.3,
    "`base.report` is a page with every answer": lambda x: all(sample.id in x["base"].report.read_text() for sample in x["base"].arms["image"]),
    "this one pays for a thought that says what it sees": lambda x: _earned(x["run"], "says_what_it_sees") == {True: 0.5, False: 0.0},
    "the bare right\nanswer earns nothing of it, as the warning says": lambda x: 'nothing of "says_what_it_sees" in 8 of 8 questions' in x["stderr"],
    "Three steps on 8 questions": lambda x: len(x["run"].metrics) == 3 and len(_questions_of(x["run"])) == 8,
    "the recipe `nano` has 100 steps on\n600 questions": lambda x: x["medvlm_r1"].recipe("nano").steps == 100,
    "`run.report` shows the curves": lambda x: "<svg" in x["run"].report.read_text(),
    "The probabilities have moved": lambda x: x["again"].option_probs != x["answer"].option_probs,
    "p is above 0.05": lambda x: x["pair"]["p"] > 0.05,
}


def _questions_of(run):
    return Path(json.loads((run.folder / "config.json").read_text())["config"]["data"]).read_text().splitlines()


def _earned(run, name):
    """What the completions with and without a finding earned."""
    rows = [json.loads(line) for line in (run.folder / "rollouts.jsonl").read_text().splitlines()]
    return {"Finding:" in row["completion"]: row["rewards"][name] for row in rows}


def run_blocks(blocks, here):
    """Every block in one namespace; a line that is an expression and ends in ``# …`` must be worth what stands there."""
    names = {"__name__": "__main__"}
    for block in blocks:
        for node in ast.parse(block).body:
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), str(here), "exec"), names)
                continue
            value = eval(compile(ast.Expression(node.value), str(here), "eval"), names)
            said = block.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode().partition("#")[2].strip()
            assert not said or repr(value) == said
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_notebook_is_valid_and_holds_no_output():
    """nbformat 4.5, as its schema asks: a cell's id is its own, and of letters, digits and hyphens."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5) and NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in NOTEBOOK["cells"]:
        is_code = cell["cell_type"] == "code"
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | ({"outputs", "execution_count"} if is_code else set())
        assert all(isinstance(line, str) and line.endswith("\n") for line in cell["source"][:-1])
        assert not is_code or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_notebook_runs_and_says_what_is_true(here, capsys):
    names = run_blocks(CODE, here)
    out, names["stderr"] = capsys.readouterr()
    assert [words for words, is_true in CLAIMS.items() if not is_true(names)] == []
    assert names["base"].verdict in out and [file.name for file in here.iterdir()] == ["runs"]


def test_no_claim_and_no_number_of_the_notebook_goes_unproven():
    text = "\n".join(MARKDOWN)
    assert [words for words in CLAIMS if words not in text] == []
    for words in CLAIMS:
        text = text.replace(words, "")
    assert re.findall(r"\d.*", text) == []


def test_the_page_runs_and_says_what_comes_out(here):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```") // 2 and "assert" not in "".join(blocks)
    run_blocks(blocks, here)


def test_a_wrong_comment_is_found(here):
    run_blocks(["a = 1\na  # 1", "a + 1  # 2\nprint(a)"], here)
    with pytest.raises(AssertionError):
        run_blocks(["a = 1", "a  # 2"], here)
