"""The report: safe, self-contained, and its counts add up."""

import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from medvlm_r1.errors import DataError, ImageError
from medvlm_r1.evaluation import charts, gallery
from medvlm_r1.evaluation.report import render_report
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.evaluation.statistics import holm
from medvlm_r1.evaluation.story import Story, compared, gains, table_rows, verdict

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7*7 }}'


def samples(rate, arm="image", n=40, name="x"):
    rng = random.Random(f"{rate}{arm}{name}")
    rows = []
    for modality in ("mri", "ct", "xray"):
        for i in range(n):
            right = rng.random() < rate
            text = f"<think>It is dark.</think><answer>{'A' if right else 'B'}</answer>"
            rows.append(
                Sample(f"{modality}-{i}", modality, ("side", "plane")[i % 2], f"{modality}-p{i // 2}", "Which side?", ("left", "right", "both"),
                       "A", (f"fake:{modality}",), arm, text, "A" if right else "B", "answered", right, 12, ("A" if right else "B", "A", "B"))
            )  # fmt: skip
    return rows


def story(**changes):
    arms = {"base": samples(0.4), "sft": samples(0.5, name="sft"), "grpo": samples(0.9), "blank": samples(0.33, "blank")}
    curve = [{"step": i, "reward": 1 + i / 10, "kl": float("nan"), "completion_length": 20} for i in range(1, 8)]
    whole = Story("A story", arms, {}, {"text_prior": {m: {"accuracy": 0.3, "ci95": [0.2, 0.4]} for m in ("mri", "ct", "xray")}},
                  {"grpo": curve}, {"rollout": 3.0, "total": 70.0}, ["One.", "Two."], {"in_domain": "mri", "optim": {"lr": 1e-4}})  # fmt: skip
    return replace(whole, **changes)


def picture(reference):
    return Image.new("RGB", (84, 60) if "mri" in reference else (700, 500), (30, 60, 90))


class Page(HTMLParser):
    VOID = ("meta", "img", "br", "link", "input", "line", "circle", "path", "rect")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.errors, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def render(**changes):
    return Page(render_report(story(**changes), picture))


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
    style = page.text[: page.text.index("Skip to the result")]
    assert not re.search(r"@import|url\(|https?:", style)
    assert not page.all("script")
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") or "overflow" in svg for svg in page.all("svg"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_hostile_text_stays_text():
    bad = [
        replace(s, text=HOSTILE, question=HOSTILE, options=(HOSTILE, "b", "c"), question_type=HOSTILE, modality=HOSTILE, id=s.id + HOSTILE)
        for s in samples(0.5)
    ]
    page = render(
        title=HOSTILE,
        arms={"base": bad, HOSTILE: bad},
        labels={"base": HOSTILE},
        notes=[HOSTILE],
        settings={HOSTILE: HOSTILE},
        curves={HOSTILE: [{"step": 1, "reward": 1.0}], "b": [{"step": 1, "reward": 0.5}]},
        seconds={HOSTILE: 1.0},
        baselines={HOSTILE: {HOSTILE: 0.5}},
    )
    assert not page.errors
    assert not page.all("script")
    assert all("onerror" not in image and image["src"].startswith("data:") for image in page.all("img"))
    assert HOSTILE in page.text


def test_counts_add_up_and_nobody_chose():
    whole = story()
    pairs = [(b, a) for b, a in zip(whole.arms["base"], whole.arms["grpo"], strict=True)]
    pairs[0] = (pairs[0][0], replace(pairs[0][1], status="truncated", answer=None, correct=False))
    found = {s.key: s for s in gallery.sections(pairs, ("Base", "GRPO"))}
    assert sum(found[key].total for key in ("wins", "losses", "wrong", "right")) == len(pairs) == 120
    assert found["malformed"].total == 1
    for before, after in found["wins"].shown:
        assert not before.correct
        assert after.correct
    assert [a.modality for _, a in found["wins"].shown] == ["mri", "mri", "ct", "ct", "xray", "xray"]
    again = gallery.sections(list(reversed(pairs)), ("Base", "GRPO"))
    assert {a.id for _, a in again[0].shown} == {a.id for _, a in found["wins"].shown}


def test_the_printed_counts_are_those_of_the_samples():
    whole = story()
    wins = sum(a.correct and not b.correct for b, a in zip(whole.arms["base"], whole.arms["grpo"], strict=True))
    page = render()
    assert f"Base wrong, GRPO right · {wins} questions, 6 shown" in page.text
    assert "120 held-out questions" in page.text


def test_the_trained_models_own_failures_come_first_among_the_malformed():
    pairs = [(replace(s, status="unparsed"), s) for s in samples(0.5, n=10)]
    pairs[7] = (pairs[7][0], replace(pairs[7][1], status="abstained"))
    assert gallery.sections(pairs, ("a", "b"), each=3)[-1].shown[0][1].status == "abstained"


def test_zero_wins_and_a_single_arm():
    same = samples(0.6)
    page = render(arms={"base": same, "grpo": same})
    assert "Base wrong, GRPO right · 0 questions, 0 shown" in page.text
    assert "did not clearly change" in page.text
    alone = render(arms={"only": same}, curves={}, seconds={}, notes=[], settings={}, baselines={})
    assert not alone.errors
    assert "only answers" in alone.text
    assert "was not tested" in alone.text


def test_no_draws_no_diamonds():
    bare = {name: [replace(s, sampled_answers=()) for s in part] for name, part in story().arms.items()}
    page = render(arms=bare)
    assert "◇" not in page.text
    assert "questions answered right" in page.text


def test_a_missing_picture_costs_its_place_only():
    def gone(reference):
        raise ImageError(f'image "{reference}" is missing')

    page = Page(render_report(story(), gone))
    assert not page.all("img")
    assert 'Picture not available: image "fake:mri" is missing' in page.text


def test_large_pictures_are_scaled_and_the_page_stays_small():
    html = render_report(story(), lambda _: Image.effect_noise((1024, 1024), 80))
    assert len(html) < 3_000_000
    found = gallery.pictures(samples(1.0)[0], lambda _: Image.new("I;16", (500, 250)))
    assert (found[0].width_px, found[0].height_px) == (500, 250)
    assert found[0].url.startswith("data:image/jpeg;base64,")


def test_a_story_without_models_is_refused():
    for arms in ({}, {"grpo": []}, {"blank": samples(0.3, "blank")}):
        with pytest.raises(DataError, match="at least one"):
            story(arms=arms)


def test_rows_come_in_the_papers_order():
    rows = table_rows(story())
    assert [r["name"] for r in rows] == ["chance", "text_prior", "blank", "base", "sft", "grpo"]
    assert [r["role"] for r in rows] == ["baseline"] * 3 + ["model"] * 2 + ["trained"]
    assert rows[0]["cells"][-1]["accuracy"] == pytest.approx(1 / 3)
    assert rows[1]["cells"][-1]["ci95"] == pytest.approx([0.3 - 0.1 / 3**0.5, 0.3 + 0.1 / 3**0.5])
    assert table_rows(story(baselines={"chance": {"mri": 0.5}}))[0]["cells"][-1] == {}


@pytest.mark.parametrize(("blank", "says"), [(0.2, "the picture matters"), (0.9, "nothing shows that it looks at the image")])
def test_the_verdict_follows_the_blank_image(blank, says):
    arms = {"base": samples(0.4), "grpo": samples(0.9), "blank": [replace(s, arm="blank") for s in samples(blank, name="b")]}
    whole = story(arms=arms)
    assert says in verdict(whole, compared(whole))


def test_p_values_are_adjusted_for_their_number():
    whole = story(arms=story().arms | {"grpo": samples(0.5, name="z")})
    rows = compared(whole)
    assert len(rows) == 3
    assert [r["p_holm"] for r in rows] == holm([r["p"] for r in rows])
    assert max(r["p_holm"] / r["p"] for r in rows) > 1.5


def test_the_verdict_admits_a_loss():
    whole = story(arms={"base": [replace(s, correct=True, sampled_answers=("A",)) for s in samples(0.9)], "grpo": samples(0.2)})
    assert "lowered the share" in verdict(whole, compared(whole))


def test_gains_name_every_baseline():
    whole = story()
    found = gains(whole, table_rows(whole), compared(whole))
    assert [g["label"] for g in found] == ["Chance", "Text prior", "Blank image", "Base", "SFT"]
    for gain in found:
        assert gain["ci95"][0] < gain["difference"] < gain["ci95"][1]


def test_highlight_keeps_every_character_and_closes_every_tag():
    for text in ("</think><think><answer>", "<think>a<think>b", "a</answer>b<answer>c</answer>d", HOSTILE, "<THINK>x"):
        page = Page(str(gallery.highlight(text)))
        assert page.text == text
        assert not page.errors
    assert "1000 more characters" in gallery.highlight("x" * 5000)
    assert "wrote nothing" in gallery.highlight(" \n")


def test_curves_skip_what_is_not_a_number():
    assert charts.curves("KL", {"a": [(1, float("nan"))]}) == ""
    drawn = charts.curves("KL", {"a": [(1, 0.5), (2, float("inf")), (3, 0.7)]})
    assert "inf" not in drawn
    assert drawn.count("<path") == 2
    assert "none" not in charts.curves("One step", {"a": [(1, 0.0)]}).replace('dasharray="none"', "")


@pytest.mark.parametrize(("low", "high"), [(0, 1e-6), (0, 1234567), (-3, 5), (0, 0), (1, 1), (5, 300)])
def test_ticks_cover_and_are_few(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7
