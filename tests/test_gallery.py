"""Every answer is in the page, and the page's script finds it."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from report_story import HOSTILE, Page, picture, samples, story

from medvlm_r1.evaluation.asking.meanings import MEANINGS
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.report import gallery
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.thumbnails import Picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def data_of(whole, limits=gallery.Kept(4000, True)):
    shots = {reference: Picture(f"data:image/png;base64,{i}", 8, 8) for i, reference in enumerate(gallery.references(whole))}
    return gallery.gallery_data(whole, shots, limits)


def test_every_answer_of_every_model_and_arm_is_there():
    whole = story()
    data = Page(render_report(whole, picture)).data()
    names, arms = [m["name"] for m in data["models"]], [a["name"] for a in data["arms"]]
    keys = ("text", "answer", "right", "drawn", "texts")
    found = {
        (names[model], arms[case["arm"]], data["questions"][case["question"]]["id"]): tuple(answer[key] for key in keys)
        for case in data["cases"]
        for model, answer in enumerate(case["answers"])
        if answer
    }
    wanted = {
        (name, arm, s.id): (s.text, s.answer, s.correct, "".join(s.sampled_answers), list(s.sampled_texts))
        for name, of_model in whole.models.items()
        for arm, part in of_model.items()
        for s in part
    }
    assert found == wanted
    assert len(wanted) == 4 * 120
    assert (names[data["base"]], names[data["trained"]]) == ("base", "grpo")


def test_what_all_arms_share_is_stored_once():
    data = data_of(story())
    assert len(data["questions"]) == 120
    assert all("options" not in case and "text" not in case for case in data["cases"])
    blank = [case for case in data["cases"] if data["arms"][case["arm"]]["name"] == "blank"]
    assert len(blank) == 120
    assert all(case["pictures"] == ["blank"] for case in blank)  # the page draws it
    assert [case for case in data["cases"] if "pictures" in case] == blank


def test_an_arm_keeps_its_own_options_and_pictures():
    image = samples(0.5)[:3]
    turned = [replace(s, arm="rotate", options=s.options[r:] + s.options[:r], gold="ACB"[r]) for s in image for r in range(3)]
    other = [replace(s, arm="mismatch", images=image[i - 1].images) for i, s in enumerate(image)]
    data = data_of(story(models={"m": {"image": image, "rotate": turned, "mismatch": other}}))
    cases = [case for case in data["cases"] if case["arm"] == 1]
    assert [case["question"] for case in cases] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert cases[0].keys() == {"question", "arm", "answers"}  # as asked with the image
    assert (cases[1]["options"], cases[1]["gold"]) == (("right", "both", "left"), "C")
    assert [case["pictures"] for case in data["cases"] if case["arm"] == 2] == [[2], [0], [1]]
    assert data["arms"][2] == {"name": "mismatch", "meaning": MEANINGS["mismatch"]}


def test_what_is_shared_is_what_the_image_arm_asks_wherever_it_stands():
    image = samples(0.5)[:2]
    data = data_of(story(models={"m": {"blank": samples(0.3, "blank")[:2], "image": image}}))
    assert [question["pictures"] for question in data["questions"]] == [[0], [1]]
    assert [("pictures" in case, data["arms"][case["arm"]]["name"]) for case in data["cases"]] == [(True, "blank")] * 2 + [(False, "image")] * 2


def test_a_status_is_named_and_counts_add_up():
    rows = samples(0.5)
    rows[0] = replace(rows[0], status="truncated", answer=None, correct=False)
    answers = [case["answers"][0] for case in data_of(story(models={"m": {"image": rows}}))["cases"]]
    assert sum(a["right"] for a in answers) == sum(s.correct for s in rows)
    assert [a["status"] for a in answers if "status" in a] == ["truncated"]


def test_an_unread_draw_keeps_its_place_and_four_pictures_are_shown():
    row = replace(samples(0.5)[0], sampled_answers=("A", None, "B"), images=tuple(f"{i}.png" for i in range(5)))
    data = data_of(story(models={"m": {"image": [row]}}))
    assert data["cases"][0]["answers"][0]["drawn"] == "A–B"
    assert (data["questions"][0]["pictures"], len(data["pictures"])) == ([0, 1, 2, 3], 4)


def test_long_texts_are_cut_and_the_page_says_so():
    rows = [replace(s, text="x" * 5000, sampled_texts=("y" * 5000,)) for s in samples(0.5)]
    whole = story(models={"m": {"image": rows}})
    assert gallery.kept(whole) == gallery.Kept(4000, sampled=True)
    assert gallery.kept(whole, 120 * 4000) == gallery.Kept(4000, sampled=False)
    assert gallery.kept(whole, 120 * 1999) == gallery.Kept(1000, sampled=False)
    assert gallery.kept(whole, 10) == gallery.Kept(250, sampled=False)
    few = story(models={"m": {"image": [replace(s, sampled_texts=("y",)) for s in rows]}})
    assert gallery.kept(few, 120 * 3000) == gallery.Kept(2000, sampled=False)  # sampled texts go first, however short
    [answer, *_] = [case["answers"][0] for case in data_of(whole, gallery.Kept(1000, sampled=False))["cases"]]
    assert (len(answer["text"]), answer["more"], "texts" in answer) == (1000, 4000, False)


def free(n=4, arm="image", **changes):
    rows = [
        Sample(f"f{i}", "ct", "", f"p{i}", "Where is it?", (), "left lung", (f"fake:ct-f{i}",), arm, "<answer>lung</answer>", "lung", "answered", False, 5)
        for i in range(n)
    ]
    return [replace(s, **changes) for s in rows]


def test_free_answers_stand_among_the_others_with_what_their_words_are_worth():
    rows = free(judged=True, sampled_answers=("left lung", None), sampled_texts=("x", "y"))
    rows[1] = replace(rows[1], answer=None, status="abstained", judged=None)
    rows[2] = replace(rows[2], gold="no", answer="no", correct=True, judged=None)
    whole = story(open={"grpo": {"image": rows, "blank": free(arm="blank", images=("blank:fake",))}})
    data = data_of(whole)
    assert len(data["questions"]) == 120 + 4 and data["questions"][-1]["gold"] == "left lung" and data["questions"][-1]["options"] == ()
    last = [case["answers"][2] for case in data["cases"] if case["arm"] == 0][-4:]
    assert [(a["right"], a["read"], a.get("f1"), a.get("judged"), a["drawn"]) for a in last] == [
        (0, 1, 0.67, 1, "✓✗"), (0, 0, None, None, "✓✗"), (1, 1, None, None, "✗✗"), (0, 1, 0.67, 1, "✓✗"),
    ]  # fmt: skip
    page = Page(render_report(whole, picture))
    assert not page.errors and [box["id"] for box in page.all("select")].count("by-kind") == 1
    assert "4 without options stand apart" in page.text
    assert "by-kind" not in [box["id"] for box in Page(render_report(story(), picture)).all("select")]
    alone = Page(render_report(story(models={"m": {}}, open={"m": {"image": rows}}, curves={}), picture))
    assert not alone.errors and len(alone.all("article")) == 4 and "Reference: left lung" in alone.text


def test_pictures_come_in_blocks():
    many = {str(i): Picture(f"data:{i}", 1, 1) for i in range(450)}
    blocks = gallery.picture_blocks(many)
    assert [len(block) for block in blocks] == [200, 200, 50]
    assert blocks[2][7] == "data:407"
    page = Page(render_report(story(), picture))
    assert len(page.data("pictures-0")) == 120
    assert len(page.data()["pictures"]) == 120


def test_json_never_ends_its_element():
    for text in ("</script>", "<!--", "<script", "\u2028", "\ud83d"):
        written = str(gallery.as_json([text]))
        assert "<" not in written
        written.encode("utf-8")


def test_nobody_chose_the_examples():
    rows = samples(0.5)
    chosen = gallery.choose(rows, 6)
    assert [s.modality for s in chosen] == ["mri", "mri", "ct", "ct", "xray", "xray"]
    assert {s.id for s in gallery.choose(list(reversed(rows)), 6)} == {s.id for s in chosen}
    assert len(gallery.choose(rows[:4], 6)) == 4


def test_without_scripts_a_few_examples_stand_there():
    page = Page(render_report(story(), picture))
    assert len(page.all("article")) == 6
    assert "Without scripts this page shows 6 answers of GRPO" in page.text


def test_highlight_keeps_every_character_and_closes_every_tag():
    for text in ("</think><think><answer>", "<think>a<think>b", "a</answer>b<answer>c</answer>d", HOSTILE, "<THINK>x"):
        page = Page(str(gallery.highlight(text)))
        assert page.text == text
        assert not page.errors
    assert "1000 more characters" in gallery.highlight("x" * 5000)
    assert "wrote nothing" in gallery.highlight(" \n")


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    whole = story()
    bad = [replace(s, text=HOSTILE, question_type=HOSTILE) for s in whole.models["grpo"]["image"]]
    path = tmp_path_factory.mktemp("report") / "report.html"
    models = whole.models | {"grpo": whole.models["grpo"] | {"image": bad}}
    path.write_text(render_report(replace(whole, models=models), picture), encoding="utf-8")
    return whole, path


def dump(address, profile):
    """The page as the browser has it once its scripts have run."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    return subprocess.run([CHROMIUM, *words, address], capture_output=True, text=True, timeout=120, check=True).stdout


PRESSES = """<script>
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const shown = () => document.getElementById("found").textContent.split(" ")[0];
const seen = [];
const after = (...keys) => { keys.forEach(press); seen.push(shown()); };
after("n", "j", "/", "?");
document.querySelector("a").focus();
after("n");
document.getElementById("gallery").focus();
after("n");
after("x");
after("n");
press("?");
seen.push(String(document.getElementById("keys").open));
document.title = seen.join(" ");
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the gallery's script is not tried")
def test_keys_act_only_while_the_focus_is_in_the_gallery(hostile_report, tmp_path):
    """Neither on the page nor on a link above; in the gallery they turn pages, also after "x" took away the card with the focus."""
    html = hostile_report[1].read_text(encoding="utf-8")
    path = tmp_path / "pressed.html"
    path.write_text(re.sub("<meta http-equiv=[^>]*>", "", html).replace("</body>", f"{PRESSES}</body>"), encoding="utf-8")
    assert "</body>" in html
    title = re.search("<title>(.*)</title>", dump(f"file://{path}", tmp_path / "profile"))[1]
    assert title == "1–10 1–10 11–20 1–10 11–20 true"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the gallery's script is not tried")
def test_a_browser_filters_by_the_address(hostile_report, tmp_path):
    whole, path = hostile_report

    def browse(state):
        dom = dump(f"file://{path}#cases?{state}", tmp_path / "profile")
        return re.search(r'id="gallery" [^>]*data-found="(\d+)"', dom)[1], dom

    base, trained = (whole.models[name]["image"] for name in ("base", "grpo"))
    wins = sum(a.correct and not b.correct for b, a in zip(base, trained, strict=True))
    found, dom = browse("outcome=wins")
    assert int(found) == wins
    assert dom.count('<article class="card"') == 10
    assert f"1–10 of {wins} · GRPO right, Base wrong" in dom
    assert "<img src=x" not in dom and "&lt;img src=x" in dom
    blank = sum(s.correct for s in whole.models["grpo"]["blank"] if s.modality == "ct")
    assert int(browse("arm=blank&modality=ct&outcome=right")[0]) == blank


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the gallery's script is not tried")
def test_a_browser_counts_what_the_table_counts_where_answers_could_not_be_had_and_ignores_what_is_nowhere(tmp_path):
    """GRPO is right in all of 120; the base is wrong in 90 of them, and 30 of its answers are lost."""
    after = [replace(s, correct=True) for s in samples(0.9)]
    before = [replace(s, correct=False, **({"status": "failed", "answer": None} if i % 4 == 0 else {})) for i, s in enumerate(after)]
    path = tmp_path / "report.html"
    path.write_text(render_report(story(models={"base": {"image": before}, "grpo": {"image": after}}), picture), encoding="utf-8")
    found = {}
    for state in ("outcome=wins", "modality=MRI&type=x&status=y&kind=z&toString=1"):
        dom = dump(f"file://{path}#cases?{state}", tmp_path / "profile")
        found[state] = int(re.search(r'id="gallery" [^>]*data-found="(\d+)"', dom)[1])
    assert list(found.values()) == [90, 120] and re.search('#cases[?][^"]*outcome=wins[^"]*">90<', dom)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the gallery's script is not tried")
def test_a_browser_tells_the_kinds_of_question_apart(tmp_path):
    """Free answers say how far their words overlap and what the judge says; the links of closed tables leave them out."""
    path = tmp_path / "report.html"
    path.write_text(render_report(story(open={"grpo": {"image": free(judged=True)}}), picture), encoding="utf-8")
    found = {kind: dump(f"file://{path}#cases?kind={kind}", tmp_path / "profile") for kind in ("", "open", "closed")}
    assert [int(re.search(r'data-found="(\d+)"', dom)[1]) for dom in found.values()] == [124, 4, 120]
    assert "✗ wrong, F1 0.67 · judge: right" in found["open"] and "Reference: <b>left lung</b>" in found["open"]
    assert "kind=closed" in re.search('#cases[?][^"]*outcome=wins[^"]*', found[""])[0]
