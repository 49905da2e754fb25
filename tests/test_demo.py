"""The demonstration in its smallest form: what it leaves behind, and that a seed decides it."""

import io
import json

import pytest
from rich.console import Console

from medvlm_r1.evaluation.samples import read_samples
from medvlm_r1.experiments.demo import Demo, Sizes, run

TINY = Sizes(questions=4, samples=2, grpo_steps=2, sft_steps=2)


def tell(run_dir, seed=0):
    screen = io.StringIO()
    command = run(Demo(run_dir, TINY, seed, Console(file=screen, width=120)))
    return command, screen.getvalue(), json.loads((run_dir / "summary.json").read_text())


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return (run_dir := tmp_path_factory.mktemp("demo")), *tell(run_dir)


def test_the_summary_has_what_scripts_rely_on(told):
    summary = told[3]
    for arm in ("base", "sft", "grpo"):
        for modality in ("mri", "ct", "xray"):
            cell = summary["arms"][arm][modality]
            assert cell["n"] == 4
            assert cell["ci95"] is None and cell["groups"] == 2  # two patients
        assert summary["arms"][arm]["mean"] == pytest.approx(sum(summary["arms"][arm][m]["accuracy"] for m in ("mri", "ct", "xray")) / 3)
    assert {"mean_difference", "ci95", "p"} <= summary["paired"]["grpo-base"].keys() & summary["paired"]["grpo-sft"].keys()
    assert {"chance", "text_prior", "blank_image"} == summary["baselines"].keys()
    assert summary["looking"]["reliance"].keys() == {"blank", "mismatch"} and summary["reasoning"]["claims"]["n_samples"] == 12
    assert {"total", "rollout", "reference", "update", "evaluate"} == summary["seconds"].keys()


def test_every_number_comes_from_the_samples(told):
    run_dir, _, _, summary = told
    samples = read_samples(run_dir / "samples-base-image.jsonl")
    assert len(samples) == 12
    right = sum(sample.correct for sample in samples if sample.modality == "ct")
    assert summary["arms"]["base"]["ct"]["accuracy"] == right / 4


def test_a_person_gets_a_table_a_page_and_a_command(told):
    run_dir, command, screen, _ = told
    assert "GRPO" in screen and "text prior" in screen and "Research use only" in screen
    assert "Research use only" in (run_dir / "report.html").read_text()
    assert command.startswith("medvlm-r1 ask --model") and str(run_dir / "example.png") in command


def test_the_same_seed_tells_the_same_story(told, tmp_path):
    first = {key: value for key, value in told[3].items() if key != "seconds"}
    again = {key: value for key, value in tell(tmp_path)[2].items() if key != "seconds"}
    assert first == again
    assert (told[0] / "grpo" / "rollouts.jsonl").read_text() == (tmp_path / "grpo" / "rollouts.jsonl").read_text()
