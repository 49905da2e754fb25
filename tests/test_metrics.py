"""Samples on disk, and the numbers of summary.json, worked by hand."""

import json
from dataclasses import replace

import pytest
from scipy import stats

from medvlm_r1.errors import DataError
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.statistics import minimum_detectable_difference, wilson
from medvlm_r1.evaluation.samples import Sample, read_samples, write_samples
from medvlm_r1.intervals import score_interval


def sample(name, modality="mri", correct=True, drawn=(), **changes):
    base = Sample(name, modality, "side", "", "Which side?", ("left", "right"), "A", ("a.png",), "image",
                  "<answer>A</answer>", "A" if correct else "B", "answered", correct, 5, tuple("A" if right else "B" for right in drawn))  # fmt: skip
    return replace(base, **changes)


FOUR = [
    sample("m1", drawn=[True, True, False, True]),
    sample("m2", correct=False, drawn=[True, False, False, False], question_type="plane", options=("a", "b", "c", "d")),
    sample("m3", drawn=[True] * 4),
    sample("c1", "ct", correct=False, drawn=[False] * 4, answer=None, status="truncated"),
]


def test_arm_table_by_hand():
    table = metrics.arm_table(FOUR)
    assert list(table) == ["mri", "ct", "mean"]
    mri = table["mri"]
    assert (mri["accuracy"], mri["n"], mri["sampled"]) == (pytest.approx(2 / 3), 3, pytest.approx((0.75 + 0.25 + 1) / 3))
    assert mri["ci95"] == pytest.approx([0.2077, 0.9385], abs=1e-4)  # Wilson, 2 of 3
    assert mri["pass_at_k"] == pytest.approx({"1": 2 / 3, "2": (1 + 0.5 + 1) / 3, "4": 1.0})
    assert table["ct"]["accuracy"] == 0.0
    assert table["mean"] == pytest.approx(1 / 3)  # over modalities, not 2 of 4 questions


def test_a_question_asked_in_every_rotation_is_one_question():
    asked = [sample("q1"), sample("q1", correct=False), sample("q2"), sample("q2")]
    [cell] = [cell for name, cell in metrics.arm_table(asked).items() if name == "mri"]
    assert (cell["accuracy"], cell["n"]) == (0.75, 2)
    assert cell["ci95"] is None and cell["groups"] == 2  # of two patients
    third = metrics.arm_table([*asked, sample("q3"), sample("q3")])["mri"]
    assert third["ci95"] == list(wilson(2.5, 3))
    assert metrics.overall(asked)["n"] == 2


def test_an_interval_counts_what_the_questions_of_a_patient_are_worth():
    """Eight questions of four patients: three (G - 1) where a patient's two answers are equal, with Student's quantile; nearly eight where they differ."""

    def of_two(*right):
        return metrics.arm_table([sample(f"q{i}", correct=x, group=f"p{i // 2}") for i, x in enumerate(right)])["mri"]

    t = stats.t.ppf(0.975, 3)
    assert of_two(1, 1, 1, 1, 0, 0, 0, 0)["ci95"] == pytest.approx(score_interval(0.5, 3, t))
    few = 1 / (0.75 / 8 + 0.25 / 4)  # a fourth of the weight is on the number of patients, who may look alike by chance
    assert of_two(1, 0, 1, 0, 1, 0, 1, 0)["ci95"] == pytest.approx(score_interval(0.5, few, t))


def test_where_all_are_right_the_interval_is_wilsons_of_the_patients():
    alike = [sample(f"q{i}", group=f"p{i // 2}", drawn=[False]) for i in range(10)]
    total = metrics.overall(alike)
    t = stats.t.ppf(0.975, 4)
    assert (total["ci95"], total["sampled_ci95"]) == (pytest.approx(score_interval(1.0, 5, t)), pytest.approx(score_interval(0.0, 5, t)))


def test_overall_weighs_modalities_equally():
    total = metrics.overall(FOUR)
    assert total["accuracy"] == pytest.approx(1 / 3)
    assert total["sampled"] == pytest.approx(1 / 3)
    assert total["ci95"] is None  # one question of CT


def test_questions_of_one_patient_count_as_one():
    alone = [sample(f"q{i}", correct=i % 8 < 4) for i in range(80)]
    grouped = [replace(s, group=f"p{i // 4}") for i, s in enumerate(alone)]
    narrow, wide = (metrics.overall(s)["ci95"] for s in (alone, grouped))
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(2, rel=0.1)  # patients of 4 equal answers: sqrt(4)


def test_without_draws_there_is_no_sampled_accuracy():
    table = metrics.arm_table([sample("a"), sample("b", drawn=[True])])
    assert table["mri"]["sampled"] is None
    assert table["mri"]["pass_at_k"] == {}
    assert metrics.overall([sample("a"), sample("b", drawn=[True])])["sampled"] is None


def test_pass_curve_uses_every_draw_of_each_question():
    """1 of 4 and 1 of 2 right: 1/4 and 1/2, then 1 - C(3, 2) / C(4, 2) = 1/2 and 1."""
    samples = [sample("a", drawn=[False, False, False, True]), sample("b", drawn=[False, True])]
    assert metrics.pass_curve(samples) == pytest.approx({"1": 0.375, "2": 0.75})


def test_majority_curve_takes_the_first_k():
    samples = [sample("a", sampled_answers=("B", "A", "A")), sample("b", sampled_answers=("A", None, "B", "B"))]
    assert metrics.majority_curve(samples) == {"1": 0.5, "2": 0.75, "3": 0.75}  # B, AB, BAA; A, A, AB
    assert metrics.majority_curve([sample("c")]) == {}


def test_out_of_distribution_gap_by_hand():
    found = metrics.out_of_distribution_gap([*FOUR, sample("x1", "xray")], "mri")
    assert (found["trained"], found["gap"]) == ("mri", pytest.approx(2 / 3 - (0 + 1) / 2))
    assert found["ci95"] is None  # one question of X-ray
    both = [sample(f"{m}{i}", m, correct=i % 3 == 0, group=f"p{i}") for m in ("mri", "ct") for i in range(30)]
    assert metrics.out_of_distribution_gap(both, "mri")["ci95"] == pytest.approx(
        [-0.12, 0.12], abs=0.005
    )  # every patient is as right in both: the least width of 30
    assert metrics.out_of_distribution_gap(FOUR, "xray") is None
    assert metrics.out_of_distribution_gap(FOUR[:3], "mri") is None


def test_chance_statuses_and_types():
    assert metrics.chance(FOUR)["mri"]["accuracy"] == pytest.approx((0.5 + 0.25 + 0.5) / 3)
    assert metrics.chance([sample("a"), sample("b", options=())])["mri"]["accuracy"] == 0.25  # free text is not guessed
    assert metrics.chance(FOUR)["mean"] == pytest.approx((1.25 / 3 + 0.5) / 2)
    assert metrics.statuses(FOUR) == {"answered": 0.75, "unparsed": 0.0, "truncated": 0.25, "abstained": 0.0, "failed": 0.0}
    kinds = metrics.by_question_type(FOUR)
    assert (kinds["mri"]["plane"]["accuracy"], kinds["mri"]["side"]["n"]) == (0.0, 2)


def test_compare_by_hand():
    after = [replace(FOUR[0], sampled_answers=("A",) * 4), replace(FOUR[1], correct=True), replace(FOUR[2], correct=False), FOUR[3]]
    result = metrics.compare(after, list(reversed(FOUR)))
    assert result["measure"] == "sampled"
    assert result["mean_difference"] == pytest.approx(0.25 / 3 / 2)  # +0.25 on one of three MRI questions, 0 on CT
    assert result["by_modality"]["mri"]["mean_difference"] == pytest.approx(0.25 / 3)
    assert result["ci95"] is None  # one question of CT
    greedy = result["greedy"]
    assert (greedy["gained"], greedy["lost"], greedy["p_mcnemar"], greedy["mean_difference"]) == (1, 1, 1.0, 0.0)
    assert greedy["by_modality"]["mri"]["mean_difference"] == 0.0


def test_a_question_asked_several_times_is_gained_only_as_a_whole():
    """Two rotations each: +1, +1/2, -1/2, +1."""

    def asked(**times):
        return [sample(name, correct=right == "1") for name, both in times.items() for right in both]

    found = metrics.compare(asked(a="11", b="11", c="10", d="11"), asked(a="00", b="01", c="11", d="00"), same=False)
    assert (found["n"], found["mean_difference"], found["greedy"]["gained"], found["greedy"]["lost"]) == (4, 0.5, 2, 0)
    assert found["minimum_detectable"] == pytest.approx(minimum_detectable_difference(4, (1 + 0.25 + 0.25 + 1) / 4))


def test_what_could_not_be_had_on_either_side_is_left_out():
    failed = {"correct": False, "answer": None, "status": "failed"}
    after, before = [sample("a", **failed), sample("b"), sample("c")], [sample("a"), sample("b", **failed), sample("c", correct=False)]
    found = metrics.compare(after, before)
    assert (found["n"], found["mean_difference"]) == (1, 1.0)
    assert metrics.comparable(after, before) and not metrics.comparable(after[:2], before[:2])
    assert not metrics.comparable([sample("c"), sample("c", **failed)], before)  # one of its rotations is missing
    with pytest.raises(DataError, match="no answered question in common"):
        metrics.compare(after[:2], before[:2])


def test_compare_greedy_where_one_side_was_not_sampled():
    result = metrics.compare([sample("a"), sample("b")], [sample("a", correct=False), sample("b", drawn=[True])])
    assert (result["measure"], result["mean_difference"]) == ("greedy", 0.5)


def test_a_clear_gain_is_found_and_none_is_not_invented():
    before = [sample(f"q{i}", correct=i % 4 == 0, group=f"p{i // 2}") for i in range(200)]
    after = [replace(s, correct=i % 2 == 0) for i, s in enumerate(before)]
    result = metrics.compare(after, before)
    assert result["mean_difference"] == 0.25
    assert 0.15 < result["ci95"][0] < 0.25 < result["ci95"][1] < 0.35
    assert result["p"] < 0.001
    # A fourth is discordant. Patients of two questions, of which one at most differs: the groups cost nothing.
    assert result["minimum_detectable"] == pytest.approx(minimum_detectable_difference(200, 0.25))
    fours = [replace(s, group=f"p{i // 4}", correct=i // 4 % 4 == 0) for i, s in enumerate(before)]
    grouped = metrics.compare([replace(s, correct=i // 4 % 4 < 2) for i, s in enumerate(fours)], fours)
    assert grouped["minimum_detectable"] == pytest.approx(minimum_detectable_difference(200 / 4 * 49 / 50, 13 / 50))  # four that are one
    same = metrics.compare(before, before)
    assert same["minimum_detectable"] is None
    assert (same["mean_difference"], same["p"]) == (0.0, 1.0) and same["ci95"] == pytest.approx([-0.038, 0.038], abs=0.001)  # t² / (100 + t²)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([sample("a"), sample("c")], '"[bc]" is in only one'),
        ([sample("a"), sample("a")], "twice"),
        ([sample("a"), sample("b", options=("x", "y"))], '"b" has other options'),
        ([sample("a"), sample("b", gold="B")], '"b" has other options'),
        ([sample("a"), sample("b", "ct")], '"b" has other options'),
        ([sample("a"), sample("b", question="Which plane?")], '"b" has other options'),
    ],
)
def test_different_questions_are_not_compared(other, message):
    with pytest.raises(DataError, match=message):
        metrics.compare([sample("a"), sample("b")], other)


def test_summary_has_the_keys_of_the_interface():
    arms = {"base": FOUR, "grpo": [replace(s, correct=True) for s in FOUR]}
    text = json.dumps(metrics.summary(arms, {"text_prior": {"mri": {"accuracy": 0.5}}}, [("grpo", "base")]))
    found = json.loads(text)
    assert {"accuracy", "ci95", "n", "groups", "sampled", "pass_at_k", "maj_at_k"} == set(found["arms"]["base"]["ct"])
    assert found["arms"]["grpo"]["mean"] == 1.0
    assert {"mean_difference", "ci95", "p"} <= set(found["paired"]["grpo-base"])
    assert set(found["baselines"]) == {"chance", "text_prior"}
    assert metrics.summary(arms, {"chance": {"mri": 0.3}}, [])["baselines"] == {"chance": {"mri": 0.3}}  # as given


def test_summary_adjusts_the_pairs_for_their_number():
    arms = {"base": [sample(f"q{i}", correct=False) for i in range(12)], "sft": [sample(f"q{i}", correct=i < 4) for i in range(12)]}
    arms["grpo"] = [sample(f"q{i}") for i in range(12)]
    paired = metrics.summary(arms, {}, [("grpo", "base"), ("sft", "base")])["paired"]
    assert [pair["mean_difference"] for pair in paired.values()] == pytest.approx([1.0, 1 / 3])
    assert paired["grpo-base"]["p_holm"] == 2 * paired["grpo-base"]["p"] and paired["sft-base"]["p_holm"] == paired["sft-base"]["p"]


def test_samples_survive_the_disk(tmp_path):
    odd = replace(FOUR[0], text="<think>µ “x”\u2028\ud83d\n</think>", sampled_texts=("a\nb", ""))
    write_samples(tmp_path / "a.jsonl", [*FOUR, odd])
    assert read_samples(tmp_path / "a.jsonl") == [*FOUR, odd]
    write_samples(tmp_path / "b.jsonl", read_samples(tmp_path / "a.jsonl"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_what_a_sample_tells_of_itself():
    unread = sample("a", sampled_answers=("A", None, "B", "A"))
    assert (unread.sampled_correct, unread.sampled_accuracy) == ((True, False, False, True), 0.5)  # unread is wrong
    assert sample("p1").cluster != sample("q", group="p1").cluster  # a question without a group is nobody's
    assert [sample("a", gold=letter).gold_text for letter in ("A", "B", "C", "")] == ["left", "right", "", ""]


def _line(**changes):
    row = {"id": "q", "modality": "ct", "question_type": "", "group": "", "question": "?", "options": ["a"], "gold": "A", "images": [],
           "arm": "image", "text": "", "answer": None, "status": "unparsed", "correct": False, "n_tokens": 0} | changes  # fmt: skip
    return json.dumps({key: value for key, value in row.items() if value != "drop"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "no JSON"),
        ("[1]", "JSON object"),
        (_line(gold="drop"), '"gold" is missing'),
        (_line(correcct=True), 'did you mean "correct"'),
        (_line(correct="yes"), "\"correct\" has the value 'yes'"),
        (_line(status="answerd"), 'did you mean "answered"'),
        (_line(options="ab"), '"options"'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "samples.jsonl"
    path.write_text(_line() + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_samples(path)
    assert f"{path}, line 3" in str(error.value)
