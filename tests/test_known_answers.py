"""An engine whose every answer is scripted goes through the whole harness, and the numbers that come out are those put in."""

import json
from contextlib import closing
from dataclasses import replace
from statistics import fmean

import pytest
from scipy.stats import binomtest

from medvlm_r1.evaluation.asking.run import EvalConfig, answers
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.calibration import (
    area_under_risk_coverage,
    brier,
    confidence_of,
    expected_calibration_error,
    reliability,
    risk_coverage,
    threshold_for,
)
from medvlm_r1.evaluation.samples import read_samples, write_samples
from medvlm_r1.rollout.recorded import Recorded
from medvlm_r1.rollout.scripted import ScriptedEngine, by_table, share_right, written
from medvlm_r1.types import Completion, Example

MODALITIES = {"mri": 40, "ct": 40, "xray": 80}  # 160 questions
OPTIONS = ("left", "right", "both", "none")


def questions(sizes=MODALITIES):
    return [
        Example(f"{m}-{i}", (f"{m}-{i}.png",), "Which side?", OPTIONS, OPTIONS[i % 4], m, "side", f"{m}-patient-{i}")
        for m, size in sizes.items()
        for i in range(size)
    ]


def table(share, drawn=(), sizes=MODALITIES, backwards=False):
    """Id -> right or not, for exactly ``share`` of each modality, and the drawn answers of all."""
    marks = {m: share_right(size, share)[:: -1 if backwards else 1] for m, size in sizes.items()}
    return {f"{m}-{i}": [right, *drawn] for m, row in marks.items() for i, right in enumerate(row)}


def asked(script, tmp_path, samples=0, arm="image", examples=None):
    """What the harness makes of a script, written to a file and read again."""
    found = answers(ScriptedEngine(script), examples or questions(), EvalConfig("think", samples, arm=arm))
    write_samples(tmp_path / "samples.jsonl", found)
    assert read_samples(tmp_path / "samples.jsonl") == found
    return found


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_accuracy_and_its_interval_are_what_was_scripted(tmp_path, share):
    found = metrics.summary({"image": asked(by_table(table(share)), tmp_path)}, {}, [])
    for modality, n in MODALITIES.items():
        cell = found["arms"]["image"][modality]
        low, high = binomtest(round(share * n), n).proportion_ci(method="wilson")
        assert (cell["accuracy"], cell["n"], cell["ci95"]) == (share, n, pytest.approx([low, high], abs=1e-12))
    assert found["arms"]["image"]["mean"] == found["overall"]["image"]["accuracy"] == share
    assert found["baselines"]["chance"]["mean"] == 0.25 and found["status"]["image"]["answered"] == 1


@pytest.mark.parametrize(
    ("drawn", "sampled", "curve"),
    [
        ((True, False, False, False), 0.25, {"1": 0.25, "2": 0.5, "4": 1.0}),  # pass@2 = 1 - C(3,2)/C(4,2) = 1 - 3/6
        ((True, True, False, False), 0.5, {"1": 0.5, "2": 5 / 6, "4": 1.0}),  # 1 - C(2,2)/6
        ((False,) * 4, 0.0, {"1": 0.0, "2": 0.0, "4": 0.0}),
    ],
)
def test_sampled_accuracy_and_pass_at_k(tmp_path, drawn, sampled, curve):
    found = metrics.summary({"image": asked(by_table(table(0.5, drawn)), tmp_path, samples=4)}, {}, [])
    for modality in MODALITIES:
        cell = found["arms"]["image"][modality]
        assert cell["accuracy"] == 0.5 and cell["sampled"] == sampled and cell["pass_at_k"] == pytest.approx(curve)
    assert found["overall"]["image"]["sampled"] == sampled


def test_two_models_against_each_other(tmp_path):
    """Of four questions the first model answers the last, the second all but the first, the third all but the last."""
    quarter, most, others = (asked(by_table(table(*how)), tmp_path) for how in ((0.25,), (0.75,), (0.75, (), MODALITIES, True)))
    gained = metrics.compare(most, quarter)
    assert gained["mean_difference"] == 0.5 and gained["measure"] == "greedy" and gained["n"] == 160
    assert (gained["greedy"]["gained"], gained["greedy"]["lost"]) == (80, 0)
    assert gained["greedy"]["p_mcnemar"] == pytest.approx(2 / 2**80)
    assert {m: row["mean_difference"] for m, row in gained["by_modality"].items()} == dict.fromkeys(MODALITIES, 0.5)
    crossed = metrics.compare(others, quarter)
    assert crossed["mean_difference"] == 0.5 and (crossed["greedy"]["gained"], crossed["greedy"]["lost"]) == (120, 40)
    assert crossed["greedy"]["p_mcnemar"] == pytest.approx(binomtest(40, 160).pvalue, rel=1e-9)
    assert crossed["ci95"][0] < 0.5 < crossed["ci95"][1] and 0.2 < crossed["ci95"][1] - crossed["ci95"][0] < 0.35  # 2 x 1.96 x sd / 160**.5 = 0.27


def test_who_ignores_the_picture_and_who_needs_it(tmp_path):
    own = {example.id: example.images for example in questions()}
    seen, guessed = by_table(table(0.75)), by_table(table(0.25))

    def looking(prompt, k):
        return (seen if prompt.example.images == own[prompt.example.id] else guessed)(prompt, k)

    for script, difference in ((seen, 0.0), (looking, 0.5)):
        arms = {arm: asked(script, tmp_path, arm=arm) for arm in ("image", "blank", "noise", "mismatch")}
        found = metrics.summary(arms, {}, [("image", arm) for arm in arms if arm != "image"])
        for name, row in found["paired"].items():
            assert row["mean_difference"] == difference, name
            assert (row["ci95"][0] == -row["ci95"][1] > -0.05 and row["p"] == 1) if difference == 0 else (row["ci95"][0] > 0.4 and row["p"] < 0.001)


def test_every_status_is_counted_and_they_add_up(tmp_path):
    sizes = {"mri": 20, "ct": 20}
    says = {
        0: "<think>x</think><answer>I cannot tell</answer>",  # abstained
        1: "<think>x</think><answer>left or right</answer>",  # unparsed
        2: "<think>x</think><answer>B",  # truncated: no end
        3: "<think>x",
    }

    def script(prompt, k):
        kind = int(prompt.example.id.split("-")[1]) % 10
        if kind == 4:
            return Completion((), (), "", False, "http://here/v1: status 500")
        if kind == 5:
            return Completion((), (), "A long way round", False)  # the limit of tokens cut it off
        return Completion((), (), says[kind], True) if kind in says else written(prompt, prompt.example.letter)

    samples = asked(script, tmp_path, examples=questions(sizes))
    found = metrics.summary({"image": samples}, {}, [])
    shares = found["status"]["image"]
    assert shares == {"answered": 0.4, "unparsed": 0.1, "truncated": 0.3, "abstained": 0.1, "failed": 0.1}
    assert sum(shares.values()) == pytest.approx(1) and found["arms"]["image"]["mean"] == 0.4
    assert {s.text for s in samples if s.status == "failed"} == {"http://here/v1: status 500"}


def test_a_question_with_a_draw_missing_has_failed(tmp_path):
    """Else an endpoint that dies between the greedy answers and the drawn ones makes a model look unsteady."""

    def script(prompt, k):
        return Completion((), (), "", False, "down") if (prompt.example.id, k) == ("mri-1", 2) else written(prompt, prompt.example.letter)

    samples = asked(script, tmp_path, samples=3, examples=questions({"mri": 4}))
    assert [(s.id, s.text, s.answer, s.correct) for s in samples if s.status == "failed"] == [("mri-1", "down", None, False)]
    assert metrics.summary({"image": samples}, {}, [])["status"]["image"]["failed"] == 0.25


# ---------------------------------------------------------------- killed, and started again

ARMS = ("image", "blank", "rotate", "swapped-thought")


class Killed(ScriptedEngine):
    """Ctrl-C after so many completions."""

    lives = 10**9

    def _write(self, prompt, k):
        if len(self.asked) == self.lives:
            raise KeyboardInterrupt
        return super()._write(prompt, k)


class InOne(Killed):
    """The same for an engine whose prompts are all done at once, as the local one's are."""

    stream = None

    def generate(self, prompts, sampling):
        first = 0 if sampling.temperature == 0 else 1
        return [[self._write(prompt, first + g) for g in range(sampling.n)] for prompt in prompts]


def all_arms(engine, folder):
    folder.mkdir(exist_ok=True)
    answered = {}
    with closing(Recorded(engine, folder / "completions.jsonl", "scripted", str.upper)) as record:
        for arm in ARMS:
            found = answers(record, questions({"mri": 60, "ct": 60}), EvalConfig("think", 0 if "thought" in arm else 2, arm=arm), answered=answered)
            answered = answered or {sample.id: sample for sample in found}
            write_samples(folder / f"samples-{arm}.jsonl", found)
    return {file.name: file.read_bytes() for file in folder.glob("samples-*")}


@pytest.mark.parametrize("kind", [Killed, InOne])
def test_killed_at_40_per_cent_it_asks_for_the_rest_and_ends_with_the_same_bytes(tmp_path, kind):
    """image and blank: 120 x 3 completions each; rotate: 480 x 3, but a fourth is that of "image"; swapped-thought: 120.

    1,920 in all, of which 768 are 40 %: 720 of image and blank, and 48 of the 75 that the first hundred of rotate ask anew.
    """
    thoughts = {example.id: f"Thought {n}." for n, example in enumerate(questions({"mri": 60, "ct": 60}))}

    def script(prompt, k):  # a thought of its own for every question, so that a swapped one is told apart
        letter = prompt.example.letter if thoughts[prompt.example.id] in prompt.opening or len(prompt.example.id) % 2 else "A"
        return written(prompt, letter, thoughts[prompt.example.id])

    whole = kind(script)
    expected = all_arms(whole, tmp_path / "whole")
    assert len(whole.asked) == 1920 and len(expected) == 4
    first, again = kind(script), kind(script)
    first.lives = 768
    with pytest.raises(KeyboardInterrupt):
        all_arms(first, tmp_path / "killed")
    kept = len((tmp_path / "killed" / "completions.jsonl").read_bytes().splitlines())
    assert kept == (768 if kind is Killed else 720)  # what an engine does in one piece is lost
    assert all_arms(again, tmp_path / "killed") == expected
    assert len(again.asked) == 1920 - kept
    keys = [json.loads(line)["key"] for line in (tmp_path / "killed" / "completions.jsonl").read_bytes().splitlines()]
    assert len(set(keys)) == len(keys) == 1920


# ---------------------------------------------------------------- calibration


def judged(drawn_right, n, right):
    """``n`` answers of which ``right`` are right, each with so many of four draws that say the same as the greedy one."""
    rows = [(i < right, drawn_right) for i in range(n)]
    return [[is_right, *(is_right if k < agree else not is_right for k in range(4))] for is_right, agree in rows]


def test_confidence_from_agreeing_draws_is_calibrated_as_scripted(tmp_path):
    """40 answers on which all four draws agree, 36 of them right; 40 with three of four, 30 right; 20 with two of four, 4 right."""
    rows = [*judged(4, 40, 36), *judged(3, 40, 30), *judged(2, 20, 4)]
    sizes = {"mri": 100}
    two = [replace(e, options=OPTIONS[:2], answer=OPTIONS[i % 2]) for i, e in enumerate(questions(sizes))]
    samples = asked(by_table({f"mri-{i}": row for i, row in enumerate(rows)}), tmp_path, samples=4, examples=two)
    confidences = [confidence_of(sample, "agreement") for sample in samples]
    correct = [s.correct for s in samples]
    assert confidences == [1.0] * 40 + [0.75] * 40 + [0.5] * 20

    assert [(b.n, b.confidence, b.accuracy) for b in reliability(confidences, correct)] == [(20, 0.5, 0.2), (40, 0.75, 0.75), (40, 1.0, 0.9)]
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.4 * 0.1 + 0.4 * 0 + 0.2 * 0.3)  # 0.10
    # 4 x 1² + 30 x 0.25² + 10 x 0.75² + 20 x 0.5² = 4 + 1.875 + 5.625 + 5
    assert brier(confidences, correct) == pytest.approx(16.5 / 100)
    steps = [(s.threshold, s.coverage, s.error) for s in risk_coverage(confidences, correct)]
    assert steps == [(1.0, 0.4, 0.1), (0.75, 0.8, pytest.approx(14 / 80)), (0.5, 1.0, 0.3)]
    # answered in the order of confidence: 0.1 for 40, then 4 + (n - 40) / 4 of n wrong, then 14 + 0.8 (n - 80)
    expected = [0.1] * 40 + [(4 + (n - 40) / 4) / n for n in range(41, 81)] + [(14 + 0.8 * (n - 80)) / n for n in range(81, 101)]
    assert area_under_risk_coverage(confidences, correct) == pytest.approx(fmean(expected))
    chosen = threshold_for(confidences, correct, 0.3)
    assert chosen.threshold == 0.75 and chosen.error == 14 / 80 < chosen.upper <= 0.3
    told = metrics.summary({"image": samples}, {}, [])["calibration"]["image"]["agreement"]
    assert (told["ece"], told["brier"]) == (pytest.approx(0.1), pytest.approx(0.165))
