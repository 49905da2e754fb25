"""The cell that was answered is outlined on the picture, in the report and on the page, with the same in words."""

import re
from dataclasses import replace

import pytest
import viewer_kit
from reading_kit import Desk, TakenFor, Ward, WardAtAPort
from report_story import Page, picture, samples, story
from serving_kit import Scripted, png

from medvlm_r1.cells import CELLS
from medvlm_r1.report import gallery
from medvlm_r1.report.evaluation_page import render_report

ASKED, OPTIONS = "Where on screen, not in the patient, is the lesion?", ("upper left", "centre", "lower right")


def report(question=ASKED):
    """Model "grpo" answers "A", upper left, where "B", the centre, is right."""
    rows = [replace(s, question=question, options=OPTIONS, question_type="place", gold="B", answer="A", correct=False) for s in samples(0.5, n=4)]
    return render_report(story(models={"base": {"image": rows}, "grpo": {"image": rows}}, curves={}), picture)


def test_the_pages_list_of_cells_is_ours():
    script = next(route for route in viewer_kit.static_files.static() if route.path == "/page/cells.js")
    text = (viewer_kit.static_files.files("medvlm_r1.reading") / "static" / "cells.js").read_text(encoding="utf-8")
    assert script.is_open and tuple(re.findall(r'"([a-z ]+)"', re.search(r"CELLS = \[(.*?)\]", text)[1])) == CELLS


def test_a_question_for_a_cell_is_outlined_and_no_other():
    asking = Page(report())
    outlines = [attrs for attrs in asking.all("span") if attrs.get("class", "").startswith("cell ")]
    assert [(o["class"], o["style"]) for o in outlines[:2]] == [("cell answered", "grid-area: 1 / 1"), ("cell correct", "grid-area: 2 / 2")]
    assert "On screen, not in the patient: answered upper left (line), correct centre (dashes)" in asking.text
    assert asking.data()["cells"] == list(CELLS) and all(q["cells"] == 1 for q in asking.data()["questions"])
    other = Page(report("Which zone of the lung is it?"))
    assert not any(attrs.get("class", "").startswith("cell ") for attrs in other.all("span"))
    assert not any("cells" in q for q in other.data()["questions"]) and not other.errors and not asking.errors


def test_an_answer_that_is_none_marks_the_right_cell_alone():
    row = replace(samples(0.5)[0], question=ASKED, options=OPTIONS, gold="C", answer=None, status="unparsed")
    assert gallery.marks(row) == {"correct": "lower right"}


def share(page, outline, image):
    """Left, top, width and height of an outline, in parts of its picture, both at one moment after the picture has come."""
    one, whole = page.evaluate(
        """async ([outline, image]) => {
          const picture = document.querySelector(image);
          await picture.decode();
          return [outline, image].map((where) => document.querySelector(where).getBoundingClientRect().toJSON());
        }""",
        [outline, image],
    )
    return [
        (one["x"] - whole["x"]) / whole["width"],
        (one["y"] - whole["y"]) / whole["height"],
        one["width"] / whole["width"],
        one["height"] / whole["height"],
    ]


def test_the_report_outlines_the_answered_ninth_of_the_picture(chromium, tmp_path):
    (tmp_path / "report.html").write_text(report(), encoding="utf-8")
    page = chromium.new_page()
    page.goto(f"file://{tmp_path}/report.html#cases?outcome=all")
    assert share(page, ".cell.answered", ".marked img") == pytest.approx([0, 0, 1 / 3, 1 / 3], abs=0.01)
    left, top, width, height = share(page, ".cell.correct", ".marked img")
    assert 1 / 3 < left < 0.4 and 1 / 3 < top < 0.4 and left + width < 2 / 3 and top + height < 2 / 3
    assert page.locator(".where").first.inner_text() == "On screen, not in the patient: answered upper left (line), correct centre (dashes)"
    page.close()


@pytest.mark.parametrize("question, options, outlined", [(ASKED, OPTIONS, True), ("Which zone of the lung is it?", OPTIONS, False)])
def test_the_page_outlines_what_the_model_answered(chromium, files, question, options, outlined):
    backend = Scripted("<think>On screen: lower right. Hence lower right.</think><answer>C</answer>", probs=(0.1, 0.1, 0.8))
    with WardAtAPort(Ward(backend=backend, files=TakenFor(files))) as at:
        desk = Desk(chromium, at.address)
        desk.drop(png((200, 150)))
        desk.ask(question, options)
        answer = desk.answered()
        answer.locator(".seen summary").click()
        answer.locator(".seen img").wait_for()
        assert answer.locator(".cell").count() == outlined
        assert answer.locator(".letter + .note").all_inner_texts() == ["Left and right are the screen's, not the patient's."] * outlined
        if outlined:
            answer.get_by_text("The bytes shown here have this hash.").wait_for()
            assert share(desk.page, ".seen .cell", ".seen img") == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3], abs=0.01)
            assert answer.locator(".seen img").get_attribute("alt") == "The picture that the model was given. Outlined: lower right, as on the screen"
            assert "Outlined: lower right, the model's answer. Left and right are the screen's, not the patient's." in answer.locator(".seen").inner_text()
        assert desk.foreign == [] and desk.faults == []
        desk.context.close()
