"""The study of looking: its arms, its numbers and its table, by hand on a few answers."""

import pytest

from medvlm_r1.commands.main import parser
from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation.measuring.by_prior import by_prior
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.experiments import looking as study
from medvlm_r1.experiments import looking_picture
from medvlm_r1.experiments.looking import ARMS, MEASURES, PAIRS, asked, misleading
from medvlm_r1.experiments.shortcut import facts


def sample(name, right, modality="mri", thought="Finding: normal. Hence left.", group=""):
    text = f"<think>{thought}</think>\n<answer>{'A' if right else 'B'}</answer>"
    return Sample(name, modality, "side", group or name, "Which side?", ("left", "right"), "A", (f"{name}.png",), "image", text, "A" if right else "B",
                  "answered", right, 9, ("A" if right else "B",))  # fmt: skip


def answers(shift):
    """Honest: of each modality one question that the shortcut misleads in (right iff shift) and one that it does not (always right)."""
    misled = {m: next(e for e in sets.load(m, "test") if e.id in misleading()) for m in ("mri", "ct", "xray")}
    honest = [s for m, e in misled.items() for s in (sample(e.id, shift, m), sample(f"{m}-2", True, m))]
    few = [sample(f"s{n}", True) for n in range(4)]
    other = [sample(f"s{n}", n < 3 - shift) for n in range(4)]
    return {"honest": honest, "reversed": few[:2], "shortcut": few, "other": other, "grey": other, "noise": other, "moved": few[:2]}


def test_numbers_and_differences_by_hand():
    """Own 4 of 4, other 3 (or 2) of 4, chance a half: 1 of 2 points of the lead is left (or 0 of 2)."""
    per_seed = {name: [answers(shift=name == "contrast")] * 2 for name in ARMS}
    found = study.results(per_seed)
    plain, contrast = found["arms"]["plain"], found["arms"]["contrast"]
    assert [seed["kept"] for seed in plain["seeds"] + contrast["seeds"]] == [0.5, 0.5, 0.0, 0.0]
    assert {name: cell["value"] for name, cell in contrast["measures"].items()} == {
        "honest": 1.0, "honest, sampled": 1.0, "prior-wrong": 1.0, "reversed": 1.0, "picture's worth": 0.5,
    }  # fmt: skip
    differences = found["paired"]["contrast - plain"]
    assert {name: cell["mean_difference"] for name, cell in differences.items()} == pytest.approx(
        {"honest": 0.5, "honest, sampled": 0.5, "prior-wrong": 1.0, "reversed": 0.0, "picture's worth": 0.25}
    )
    assert plain["seeds"][0]["contradicted"] == 0.5 and contrast["seeds"][0]["contradicted"] == 0.0  # "Hence left" before B, three of six
    lines = study.table(found).splitlines()
    assert lines[2 + list(ARMS).index("contrast")] == "| contrast, λ = 1 | 100.0 | 100.0 | 100.0 | 100.0 | 50.0 | 100 → 50 | 0 | 100 | 0.0 | 0 of 2 |"
    assert any(line.startswith("| contrast, λ = 1, minus plain | +50.0 (") for line in lines)


def test_the_picture_shows_each_line_from_the_base_to_its_last_step():
    """The misled half of the honest questions is right with the contrast alone: 50 and 100 %."""
    result = study.results({name: [answers(shift=name == "contrast")] for name in ARMS})
    found = looking_picture.points(result, "honest")
    assert found["plain"] == [(0, 50.0), (30, 50.0), (60, 50.0), (100, 50.0)]
    assert found["contrast, partners alone"] == [(0, 50.0), (60, 100.0), (100, 50.0)]
    page = looking_picture.page(result)
    assert "mean of 1 seed," in page and all(f"</svg>{name}</li>" in page for name in found)
    assert page.count("<h3>") == 3 and "contrast, partners alone from 50 to 50" in page


def test_a_seed_that_hardly_reports_in_one_modality_is_counted():
    found = answers(True)
    found["honest"] = [s if s.modality != "ct" else sample(s.id, True, "ct", "It is left.") for s in found["honest"]]
    told = study._told("plain", found)
    assert told["reports"] == {"mri": 1.0, "ct": 0.0, "xray": 1.0} and told["hardly_reports"]
    assert not study._told("plain", answers(True))["hardly_reports"]


def test_the_plan_is_sound():
    assert all(a in ARMS and b in ARMS and ARMS[a].data == ARMS[b].data for a, b in PAIRS)
    assert {test.shown for test in asked().values()} == {"image", "mismatch", "blank", "noise", "counterfactual"}
    assert len(asked()["honest"].examples) == 900 and len(asked()["reversed"].examples) == 300 and 300 < len(misleading()) < 600
    arguments = parser().parse_args(facts(5, "--looking")["command"].split()[1:])
    assert (arguments.command, arguments.looking, arguments.seeds, arguments.shortcut) == ("study", True, 5, False)
    assert list(MEASURES) == ["honest", "honest, sampled", "prior-wrong", "reversed", "picture's worth"]


def test_accuracy_by_where_the_texts_point():
    arms = {"image": [sample("a", True), sample("b", False), sample("c", True)], "hard": [sample("d", True)]}
    found = by_prior(arms, {"a": "wrong", "b": "wrong", "x": "right"})
    assert found.keys() == {"image"} and found["image"].keys() == {"wrong"}
    assert (found["image"]["wrong"]["accuracy"], found["image"]["wrong"]["n"]) == (0.5, 2)
