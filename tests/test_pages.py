"""Every page for everybody: headings in order, a skip link that moves the focus, colours that can be read, no scrolling sideways.

What can be said without a browser is said without one; axe-core's other rules were run by hand (docs/evaluation.md).
"""

import html
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest
from report_story import Page, picture, samples, story

from medvlm_r1.audit.checks import AuditConfig
from medvlm_r1.launch.auditing import audit
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.learning import render_learning

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = ("report", "evaluation", "training", "audit")
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11


def drawn(part):
    return [replace(s, images=(f"phantom:{s.modality}/test/{i % 40}",)) for i, s in enumerate(part)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    arms = {arm: drawn(samples(rate, arm)) for arm, rate in (("image", 0.9), ("blank", 0.33), ("rotate", 0.5))}
    rollouts = [{"step": 1, "id": "q1", "completion": "<answer>A</answer>", "reward": 1.0, "rewards": {"format": 1.0}, "advantage": 0.0}]
    place = tmp_path_factory.mktemp("audit")
    rows = [
        f'{{"id": "q{i}", "image": "{i}.png", "question": "Which side?", "options": ["left", "right"], "answer": "left", "modality": "ct"}}\n'
        for i in range(20)
    ]
    (place / "q.jsonl").write_text("".join(rows), encoding="utf-8")
    audit(str(place / "q.jsonl"), None, AuditConfig(draws=2, images="none"), place / "audit.html")
    return {
        "report": render_report(story(), picture),
        "evaluation": render_report(story(models={"nano": arms}, curves={}, seconds={}, is_lineage=False), picture),
        "training": render_learning({"model": "nano", "data": "phantom:mri"}, [{"step": i, "reward": i / 9, "loss": 0.1} for i in range(1, 9)], rollouts),
        "audit": (place / "audit.html").read_text(encoding="utf-8"),
    }


@pytest.mark.parametrize("name", PAGES)
def test_headings_are_in_order_and_every_landmark_is_there(pages, name):
    page = Page(pages[name])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(below <= above + 1 for above, below in pairwise(levels))
    assert [len(page.all(tag)) for tag in ("header", "main", "footer")] == [1, 1, 1]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", PAGES)
def test_the_first_link_leads_where_the_focus_can_be(pages, name):
    page = Page(pages[name])
    first = page.all("a")[0]
    [target] = [attrs for _, attrs in page.tags if attrs.get("id") == first["href"][1:]]
    assert first["class"] == "skip" and target["tabindex"] == "-1"


@pytest.mark.parametrize("name", PAGES)
def test_whatever_scrolls_can_be_reached_by_keys_and_has_a_name_of_its_own(pages, name):
    boxes = [attrs for _, attrs in Page(pages[name]).tags if attrs.get("class") == "scroll"]
    assert boxes and all(box["tabindex"] == "0" and box["role"] == "region" for box in boxes)
    names = [box["aria-label"] for box in boxes]
    assert len(names) == len(set(names))


def test_each_question_is_a_heading_above_its_answers(pages):
    card = pages["report"].partition('<article class="card"')[2].partition("</article>")[0]
    assert re.findall(r'<(h\d)(?: class="(question)")?>', card) == [("h3", "question"), ("h4", "")]
    assert 'make("h3", "question"' in pages["report"] and 'make("h4", "", label' in pages["report"]


def test_the_first_screen_says_that_pictures_are_drawn_where_they_are(pages):
    first = {name: text.partition("<nav")[0].partition("<main")[0] for name, text in pages.items()}
    assert {name: "Drawn phantoms, no patients." in text for name, text in first.items()} == {
        "report": False, "evaluation": True, "training": True, "audit": False,
    }  # fmt: skip
    mixed = drawn(samples(0.9)[:40]) + samples(0.9)[40:]
    assert "In part drawn phantoms." in render_report(story(models={"m": {"image": mixed}}), picture).partition("<nav")[0]


def test_the_headline_and_the_table_below_it_speak_of_one_accuracy():
    """Greedy 100 and 25 %, while the drawn answers are right in every second case."""
    after = [replace(s, correct=True, sampled_answers=("A", "B")) for s in samples(0.9)]
    before = [replace(s, correct=i % 4 == 0) for i, s in enumerate(after)]
    first = render_report(story(models={"base": {"image": before}, "grpo": {"image": after}}), picture).partition("<nav")[0]
    said = re.search('<p class="verdict">(.*?)</p>', first)[1]
    assert "questions answered right" in said and "from 25.0 % to 100.0 % (+75.0 points" in said
    assert re.findall(r'data-head="right"><span class="big">([\d.]+)', first) == ["25.0", "100.0"]


# ---------------------------------------------------------------- colours


def colours(page, scheme):
    """Variable -> (red, green, blue), as the page has them in the light, the dark or in print."""
    found = {}
    for media, body in re.findall(r"(@media [^{]*\{)?\s*:root \{([^}]*)\}", page):
        if not media or {"dark": "dark", "print": "print"}.get(scheme, "no media") in media:
            found |= {
                key: tuple(bytes.fromhex("".join(2 * c for c in value) if len(value) == 3 else value))
                for key, value in re.findall(r"--(\w[\w-]*): #(\w+)", body)
            }
            if heat := re.search(r"--heat: ([\d, ]+)", body):
                found["heat"] = tuple(map(int, heat[1].split(",")))
    return found


def contrast(one, other):
    """WCAG's ratio of two colours."""

    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)  # the known near miss, #777 on white


READ = (
    "ink paper", "ink wash", "ink think", "ink letter", "ink bad-wash", "muted paper", "muted wash", "muted bad-wash", "accent paper", "accent wash",
    "warn paper", "warn wash", "good paper", "bad paper", "good good-wash", "doubt doubt-wash", "open open-wash", "paper bad", "paper accent",
)  # fmt: skip
SEEN = ("model paper", "base paper", "run0 paper", "run1 paper", "run2 paper", "run3 paper", "good paper", "bad bad-wash", "doubt paper", "open paper")


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_colours_can_be_read_and_told_from_the_paper(pages, scheme):
    of = colours(pages["report"], scheme)
    for pairs, least in ((READ, TEXT), (SEEN, GRAPHIC)):
        ratios = {pair: contrast(*(of[name] for name in pair.split())) for pair in pairs}
        assert not {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < least}


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_field_of_the_heat_table_can_be_read_and_stronger_is_more(pages, scheme):
    of = colours(pages["report"], scheme)
    shares = [float(share) for share in re.findall(r"\.h\d+ \{ background: rgba\(var\(--heat\), ([\d.]+)\)", pages["report"])]
    fields = [tuple(share * heat + (1 - share) * paper for heat, paper in zip(of["heat"], of["paper"], strict=True)) for share in shares]
    assert len(fields) == 11 and min(contrast(of["ink"], field) for field in fields) >= TEXT
    distances = [contrast(of["paper"], field) for field in fields]
    assert distances == sorted(distances) and "The stronger the colour, the more are right." in pages["report"]


# ---------------------------------------------------------------- a browser

LOOK = """<body>{}<script>
addEventListener("load", () => {{
  document.title = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument;
    for (const node of page.querySelectorAll("details")) node.open = true;
    return `${{page.documentElement.clientWidth}}:${{page.documentElement.scrollWidth}}`;
  }}).join(" ");
}});
</script></body>"""
SKIP = """<script>
document.querySelector(".skip").focus();
document.querySelector(".skip").click();
requestAnimationFrame(() => setTimeout(() => { document.title = document.activeElement.id; }, 0));
</script></body>"""


def title(text, folder):
    """What the page calls itself once its scripts have run."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *words, f"file://{folder / 'page.html'}"], capture_output=True, text=True, timeout=120, check=True).stdout
    return re.search("<title>(.*?)</title>", dom)[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: nobody has looked at the pages at 320 px")
def test_nothing_scrolls_sideways(pages, tmp_path):
    """With everything that can be opened open; also where two patients leave no interval, and words say so in its place."""
    few = {arm: drawn(samples(rate, arm, n=4))[:4] for arm, rate in (("image", 0.9), ("blank", 0.33))}
    pages = pages | {"few": render_report(story(models={"nano": few}, baselines={}, curves={}, seconds={}, is_lineage=False), picture)}
    asked = {
        f"{name}, {px}": f'<iframe style="width: {px}px; height: 600px" srcdoc="{html.escape(text)}"></iframe>'
        for name, text in pages.items()
        for px in (320, 800, 1280)
    }
    found = dict(zip(asked, title(LOOK.format("".join(asked.values())), tmp_path).split(), strict=True))
    assert {name: len(set(widths.split(":"))) for name, widths in found.items()} == dict.fromkeys(asked, 1), found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: nobody has followed the skip link")
def test_the_skip_link_moves_the_focus(pages, tmp_path):
    text = re.sub("<meta http-equiv=[^>]*>", "", pages["evaluation"]).replace("</body>", SKIP)
    assert title(text, tmp_path) == "result"
