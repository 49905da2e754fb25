"""The page: safe, self-contained, for one or many models, and its counts add up."""

import base64
import hashlib
import re
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from report_story import HOSTILE, Page, picture, samples, story

from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.evaluation.measuring.looking import LEANS, LOOKS, NOT_SHOWN, NOT_TESTED, UNCLEAR, Looking
from medvlm_r1.evaluation.measuring.measured import between, measure
from medvlm_r1.evaluation.measuring.statistics import holm
from medvlm_r1.report import charts
from medvlm_r1.report.calibration_charts import reliability_diagram, risk_coverage_curve
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.glance import glances
from medvlm_r1.report.story import table_rows, verdict
from medvlm_r1.report.tables import tables
from medvlm_r1.wording import p_value


def render(**changes):
    return Page(render_report(story(**changes), picture))


def said(whole):
    return verdict(whole, {name: measure(arms) for name, arms in whole.models.items()}, between(whole.models))


def test_the_page_is_well_formed_accessible_and_self_contained():
    page = render()
    assert not page.errors
    assert not page.open
    assert "Research use only. Not for diagnosis." in page.text
    images = page.all("img")
    assert images
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), attrs
        assert not [name for name in attrs if name.startswith("on")]
    style = page.text[: page.text.index("Skip to the result")]
    assert not re.search(r"@import|url\(|https?:", style)
    assert "http" not in page.code()[0]
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") or "overflow" in svg for svg in page.all("svg"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if not a["href"].startswith("#cases?")} <= set(ids)
    assert {label["for"] for label in page.all("label")} <= set(ids)
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_only_the_pages_own_script_may_run():
    page = render()
    [code] = page.code()
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert all(attrs["type"] == "application/json" for attrs, _ in page.scripts if "type" in attrs)
    assert "innerHTML" not in code and "eval(" not in code


def test_hostile_text_stays_text():
    bad = [
        replace(s, text=HOSTILE, question=HOSTILE, options=(HOSTILE, "b", "c"), question_type=HOSTILE, modality=HOSTILE, id=s.id + HOSTILE)
        for s in samples(0.5)
    ]
    plain = render()
    page = render(
        title=HOSTILE,
        models={"base": {"image": bad, HOSTILE: bad}, HOSTILE: {"image": bad}},
        labels={"base": HOSTILE},
        notes=[HOSTILE],
        settings={HOSTILE: HOSTILE},
        curves={HOSTILE: [{"step": 1, "reward": 1.0}], "b": [{"step": 1, "reward": 0.5}]},
        seconds={HOSTILE: 1.0},
        baselines={HOSTILE: {HOSTILE: 0.5}},
    )
    assert not page.errors
    assert page.code() == plain.code()
    assert all("onerror" not in image and image["src"].startswith("data:") for image in page.all("img"))
    assert HOSTILE in page.text
    assert page.data()["questions"][0]["question"] == HOSTILE
    assert page.data()["cases"][0]["answers"][1]["text"] == HOSTILE


def test_the_same_samples_give_the_same_bytes():
    assert render_report(story(), picture) == render_report(story(), picture)


def test_half_a_character_does_not_stop_the_page():
    broken = [replace(s, text="<answer>\ud83d") for s in samples(0.5)]
    assert render_report(story(models={"m": {"image": broken}}), picture).encode("utf-8")


def test_of_two_that_are_equally_right_none_is_called_the_best():
    arms = {"image": samples(0.8), "blank": [replace(s, arm="blank") for s in samples(0.8)]}
    assert "highest accuracy" not in said(story(models={"first": arms, "second": arms}, is_lineage=False))


def test_the_first_screen_exposes_the_best_model_if_it_does_not_look():
    knows = {"image": samples(0.99, name="k"), "blank": [replace(s, arm="blank") for s in samples(0.99, name="k")]}
    looks = {"image": samples(0.95, name="l"), "blank": samples(0.3, "blank"), "mismatch": samples(0.2, "mismatch")}
    html = render_report(story(models={"shortcut": knows, "honest": looks}, is_lineage=False), picture)
    first = Page(html[: html.index("<nav")].partition("</style>")[2])
    rows = [attrs["class"] for name, attrs in first.tags if name == "tr" and "class" in attrs]
    assert rows == ["bad", "good"]
    assert "not shown to look" in first.text
    assert "shortcut has the highest accuracy and is not shown to look at the image." in first.text
    mine, theirs = (100 * sum(s.sampled_accuracy for s in arms["image"]) / 120 for arms in (looks, knows))
    sentence = f"honest gets {mine:.1f} % of sampled answers to questions right, shortcut {theirs:.1f} % (120 questions, mean over MRI, CT, X-ray; −{theirs - mine:.1f} points, "
    assert said(story(models={"shortcut": knows, "honest": looks}, is_lineage=False)).startswith(sentence)
    alone = said(story(models={"shortcut": knows}))
    assert alone.startswith("shortcut answers 97.5 % right (120 questions,") and alone.endswith("but it is not shown to look at the image.")


def test_one_model_with_one_arm():
    page = render(models={"only": {"image": samples(0.6)}}, curves={}, seconds={}, notes=[], settings={}, baselines={})
    assert not page.errors
    assert "only answers" in page.text
    assert "whether it looks at the image was not tested" in page.text
    assert not [a for a in page.all("a") if a["href"] == "#arms"]


def test_many_models_and_every_arm():
    arms = {arm: samples(0.5, arm) for arm in ("image", "blank", "noise", "mismatch", "hard")} | {"rotate": samples(0.5, "rotate") * 3}
    page = render(models={f"m{i}": arms for i in range(5)})
    assert not page.errors
    assert "adjusted for the 10 comparisons" in page.text
    assert "120" in page.text


def test_models_that_were_asked_different_questions():
    ct = [s for s in samples(0.7) if s.modality == "ct"]
    page = render(models={"a": {"image": samples(0.5)}, "b": {"image": ct}})
    assert not page.errors
    apart = render(models={"a": {"image": [s for s in samples(0.5) if s.modality == "mri"]}, "b": {"image": ct}}, baselines={})
    assert not apart.errors
    assert "b answers" in apart.text


def test_no_draws_no_diamonds():
    def greedy(part):
        return [replace(s, sampled_answers=(), sampled_texts=()) for s in part]

    bare = {name: {arm: greedy(part) for arm, part in arms.items()} for name, arms in story().models.items()}
    page = render(models=bare)
    assert "◇" not in page.text
    assert "questions answered right" in page.text


def test_a_missing_picture_costs_its_place_only():
    def gone(reference):
        raise ImageError(f'image "{reference}" is missing')

    page = Page(render_report(story(), gone))
    assert not page.all("img")
    assert 'Picture not available: image "fake:mri-' in page.text
    assert page.data()["pictures"][0][2] == 'image "fake:mri-0" is missing'


def test_a_story_without_its_pictures_is_refused():
    with pytest.raises(DataError, match="at least one"):
        story(models={})
    for arms in ({}, {"image": []}, {"blank": samples(0.3, "blank")}):
        with pytest.raises(DataError, match='"grpo" has no answers under the arm "image"'):
            story(models={"grpo": arms})


def test_rows_come_in_the_papers_order():
    whole = story()
    rows = table_rows(whole, {name: measure(arms) for name, arms in whole.models.items()})
    assert [r["label"] for r in rows] == ["Chance", "Text prior", "GRPO, grey pictures", "Base", "SFT", "GRPO"]
    assert [r["role"] for r in rows] == ["baseline"] * 3 + ["model"] * 2 + ["trained"]
    assert rows[0]["cells"][-1]["accuracy"] == pytest.approx(1 / 3)
    assert rows[1]["cells"][-1]["ci95"] == pytest.approx([0.3 - 0.1 / 3**0.5, 0.3 + 0.1 / 3**0.5])
    blank = {"blank": samples(0.3, "blank")}
    more = story(models=whole.models | {"base": whole.models["base"] | blank}, baselines={"blank_image": {"mri": 0.3}})
    more_rows = table_rows(more, {name: measure(arms) for name, arms in more.models.items()})
    assert [r["label"] for r in more_rows] == ["Chance", "GRPO, grey pictures", "Base", "SFT", "GRPO"]  # once, and of the trained model
    few = {m: {"accuracy": 0.01, "ci95": [0.0, 0.2]} for m in ("mri", "ct", "xray")}
    low = story(baselines={"text_prior": few}, models={"base": {"image": samples(0.4)}})
    assert table_rows(low, {"base": measure(low.models["base"])})[1]["cells"][-1]["ci95"] == pytest.approx([0.0, 0.01 + 0.1 / 3**0.5])
    bare = story(baselines={"chance": {"mri": 0.5}}, models={"base": {"image": samples(0.4)}})
    assert table_rows(bare, {"base": measure(bare.models["base"])})[0]["cells"][-1] == {}


def test_every_two_models_are_compared_and_p_adjusted_for_their_number():
    models = {"a": {"image": samples(0.5)}, "b": {"image": samples(0.5, name="z")}, "c": {"image": samples(0.9)}}
    rows = between(models)
    assert [(r["after"], r["before"]) for r in rows] == [("c", "b"), ("c", "a"), ("b", "a")]
    assert [r["p_holm"] for r in rows] == holm([r["p"] for r in rows])
    assert [r["greedy"]["p_holm"] for r in rows] == holm([r["greedy"]["p"] for r in rows])
    greedy = {name: {"image": [replace(s, sampled_answers=()) for s in samples(rate)]} for name, rate in (("a", 0.5), ("b", 0.55), ("c", 0.65))}
    shown = next(table for table in tables(story(models=greedy)) if table.name == "differences")
    assert [row[-1] for row in shown.rows] == [p_value(r["p_holm"]) for r in between(greedy)]
    assert any(p_value(r["p_holm"]) != p_value(r["greedy"]["p"]) for r in between(greedy))
    assert [r["p_mcnemar_holm"] for r in rows] == holm([r["greedy"]["p_mcnemar"] for r in rows])
    assert rows[-1]["p_holm"] > 0.05  # of equal models
    detectable = f"only {100 * rows[-1]['minimum_detectable']:.1f} points or more would have been found 4 times of 5"
    assert render(models=models).text.count(detectable) == 1


def test_the_verdict_admits_a_loss_and_a_draw():
    better = [replace(s, correct=True, sampled_answers=("A",)) for s in samples(0.9)]
    assert "lowered the share" in said(story(models={"base": {"image": better}, "grpo": {"image": samples(0.2)}}))
    assert "did not clearly change" in said(story(models={"base": {"image": samples(0.6)}, "grpo": {"image": samples(0.6)}}))
    assert "did not clearly change" in said(story(models={"base": {"image": samples(0.6)}, "grpo": {"image": samples(0.6, name="z")}}))


def test_the_verdict_is_about_the_base_and_the_questions_that_both_have():
    """Greedy answers: 0 of 10 MRI before, all after; the other 110, wrong, and the other model say nothing."""
    whole = [replace(s, correct=i < 10, sampled_answers=()) for i, s in enumerate(samples(0.9))]
    base = [replace(s, correct=False) for s in whole[:10]]
    text = said(story(models={"base": {"image": base}, "sft": {"image": whole}, "grpo": {"image": whole}}))
    assert text.startswith("GRPO raised the share of questions answered right (10 questions, mean over MRI, CT, X-ray) from 0.0 % to 100.0 %")


def test_answers_that_could_not_be_had_count_on_neither_side_of_the_first_sentence():
    """Of 40 questions a modality the base's first 20 are lost; of the others it has 10 right, and GRPO all."""
    after = [replace(s, correct=True, sampled_answers=()) for s in samples(0.9)]
    is_lost = [i % 40 < 20 for i in range(120)]
    before = [replace(s, correct=False, **({"status": "failed", "answer": None} if lost else {})) for s, lost in zip(after, is_lost, strict=True)]
    text = said(story(models={"base": {"image": [replace(s, correct=i % 40 >= 30) for i, s in enumerate(before)]}, "grpo": {"image": after}}))
    assert "(60 questions, mean over MRI, CT, X-ray) from 50.0 % to 100.0 % (+50.0 points" in text


@pytest.mark.parametrize(("level", "ends"), [
    (LOOKS, ", and it looks at the image."), (UNCLEAR, ", and whether it looks at the image is unclear."), (LEANS, ", but it leans on the text."),
    (NOT_SHOWN, ", but it is not shown to look at the image."), (NOT_TESTED, ", and whether it looks at the image was not tested."),
])  # fmt: skip
def test_the_verdict_says_whether_it_looks_and_who_is_best_without_looking(level, ends):
    def judged(models):
        numbers = {name: replace(measure(arms), looking=Looking(level, "", {})) for name, arms in models.items()}
        return verdict(story(models=models), numbers, between(models))

    one = {"one": {"image": samples(0.5)}}
    assert judged(one).endswith(ends)
    best = judged({"best": {"image": samples(0.9)}} | one)
    assert best.count("best has the highest accuracy and") == (level in (LEANS, NOT_SHOWN))


def test_the_trained_modality_is_one_name_or_several():
    """A name is not searched for names: "ct" stands in "oct"."""

    def known(trained):
        return [story(settings={"in_domain": trained}).in_domain(modality) for modality in ("oct", "ct")]

    assert known("oct") == [True, False] and known(["oct", "ct"]) == [True, True]
    assert story(settings={}).in_domain("ct") is None


def test_arms_are_compared_with_the_image_and_adjusted():
    arms = {"image": samples(0.9), "blank": samples(0.33, "blank"), "hard": samples(0.9, "hard")}
    arms["hard"] = [replace(s, arm="hard", sampled_answers=("B",) * 3) for s in arms["image"]]  # greedy answers alone decide
    numbers = measure(arms)
    assert numbers.arms["image"].against is None and numbers.arms["hard"].p_holm == 1.0
    raw = [numbers.arms[arm].against["greedy"]["p"] for arm in ("blank", "hard")]
    assert [numbers.arms[arm].p_holm for arm in ("blank", "hard")] == holm(raw)
    right = {arm: sum(s.correct for s in part) / 120 for arm, part in arms.items()}
    assert numbers.arms["blank"].against["greedy"]["mean_difference"] == pytest.approx(right["image"] - right["blank"])


def test_question_types_are_those_of_the_own_pictures_wherever_they_stand():
    arms = {"blank": samples(0.3, "blank"), "image": [replace(s, correct=True) for s in samples(0.9)]}
    assert {cell["accuracy"] for kinds in measure(arms).by_type.values() for cell in kinds.values()} == {1.0}


def test_what_the_page_counts_and_draws():
    """The base, wrong in 120 questions, and a model that is right in its 40: a dot of each type goes from 0 to 100."""
    wrong = [replace(s, correct=False, sampled_answers=("B",)) for s in samples(0.5)]
    right = [replace(s, correct=True, answer="C", sampled_answers=("B",)) for s in samples(0.5)[:40]]
    turned = [replace(s, arm="rotate", answer="B", correct=False) for s in right]
    page = render(models={"base": {"image": wrong}, "grpo": {"image": right, "rotate": turned}})
    assert "Accuracy in per cent on 120 questions." in page.text
    assert "MRI: plane from 0 % to 100 %; side from 0 % to 100 %" in {svg.get("aria-label") for svg in page.all("svg")}
    assert "◇ Sampled" in page.text  # drawn, and never right
    assert re.search(r"GRPO\s*chosen\s*0\.0\s*100\.0\s*0\.0", page.text)  # B, in every rotation
    assert "(hollow)" in page.text and "(hollow)" not in render(models={"only": {"image": right}}).text


def test_numbers_lead_to_the_answers_behind_them():
    links = [a["href"] for a in render().all("a") if a["href"].startswith("#cases?")]
    assert "#cases?model=grpo&vs=model%3Abase&outcome=wins" in links
    assert "#cases?model=grpo&arm=blank" in links
    assert {"grpo", "sft"} == {dict(parse_qsl(link.partition("?")[2]))["model"] for link in links}


def test_the_reasoning_section_is_there_only_if_something_was_found():
    assert "Does the reasoning matter?" not in render().text
    told = [replace(s, text=f"<think>Hence {s.options['ABC'.index(s.answer)]}.</think><answer>{s.answer}</answer>") for s in story().models["grpo"]["image"]]
    page = render(models={"grpo": {"image": told}})
    for words in ("Does the reasoning matter?", "The answer is what the thought names last", "100.0", "0 name none"):
        assert words in page.text


def test_calibration_is_drawn_from_its_numbers():
    low = {"confidence": 0.25, "accuracy": 0.5, "n": 10, "ci95": [0.2, 0.8]}
    bins = [low, {"confidence": 1.0, "accuracy": 1.0, "n": 40, "ci95": [0.9, 1.0]}]
    drawn = Page(str(reliability_diagram("Base", {"bins": bins})))
    assert not drawn.errors
    dots = drawn.all("circle")
    assert (dots[0]["cx"], dots[0]["cy"]) == ("105.0", "86.0")  # a quarter of 38 … 306, half of 162 … 10
    assert (dots[1]["cx"], dots[1]["cy"], dots[1]["r"]) == ("306.0", "10.0", "7.0")
    assert "confidence 25 %, right 50 % of 10" in drawn.all("svg")[0]["aria-label"]
    curve = Page(str(risk_coverage_curve("Base", {"risk_coverage": [{"coverage": 0.5, "error": 0.0}, {"coverage": 1.0, "error": 0.25}]})))
    assert "50 % answered, 0 % of them wrong; 100 % answered, 25 % of them wrong" in curve.all("svg")[0]["aria-label"]
    assert risk_coverage_curve("Base", {"risk_coverage": []}) == ""


def test_curves_skip_what_is_not_a_number():
    assert charts.curves("KL", {"a": [(1, float("nan"))]}) == ""
    drawn = charts.curves("KL", {"a": [(1, 0.5), (2, float("inf")), (3, 0.7)]})
    assert "inf" not in drawn
    assert drawn.count("<path") == 2
    assert "none" not in charts.curves("One step", {"a": [(1, 0.0)]}).replace('dasharray="none"', "")


def test_an_evaluation_with_holes_says_so_and_compares_what_both_have():
    whole = samples(0.8)
    holed = [replace(s, arm="blank", status="failed", answer=None, correct=False) if i < 30 else replace(s, arm="blank") for i, s in enumerate(whole)]
    page = render(models={"m": {"image": whole, "blank": holed}})
    assert "Incomplete: 30 answers could not be had." in page.text and "Incomplete" not in render().text
    assert measure({"image": whole, "blank": holed}).arms["blank"].against["n"] == len(whole) - 30


@pytest.mark.parametrize(("low", "high"), [(0, 1e-6), (0, 1234567), (-3, 5), (0, 0), (1, 1), (5, 300)])
def test_ticks_cover_and_are_few(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7


def test_the_first_screen_shows_the_arm_where_a_model_does_best_without_its_picture():
    arms = {"image": samples(0.9), "blank": samples(0.35, "blank"), "mismatch": [replace(s, arm="mismatch", images=("elsewhere",)) for s in samples(0.9)]}
    [row] = glances(whole := story(models={"m": arms}), {"m": measure(arms)}, [])
    assert (row.shown, row.reliance.difference, row.kind) == ("another question's picture", 0.0, "bad")
    assert row.without["accuracy"] == row.mean["accuracy"]
    assert Page(str(row.strip)).all("svg")[0]["aria-label"] == "m: 86.7 % right, with a grey picture 34.2 %, with another question's picture 86.7 %"
    part = arms | {"mismatch": arms["mismatch"][:40]}  # MRI only: the row is about what was asked both ways
    [row] = glances(story(models={"m": part}), {"m": measure(part)}, [])
    assert (row.asked_both, row.mean["n"], row.mean["accuracy"]) == (40, 40, row.without["accuracy"])
    alone = glances(whole, {"m": measure({"image": arms["image"]})}, [])[0]
    assert (alone.without, alone.shown, alone.reliance, alone.kind) == (None, "", None, "open")
