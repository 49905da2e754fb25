"""The page in a browser: a whole reading by keyboard, what cannot be got round, words that attack, and what a screen reader is told.

Skips where there is no playwright or no chromium; the check of accessibility also where AXE names no axe.min.js (npm pack axe-core).
"""

import csv
import io
import os
from pathlib import Path

import pytest
import viewer_kit
from reading_kit import Desk, TakenFor, Ward, WardAtAPort, cases
from serving_kit import Scripted, png

from medvlm_r1.reading import study
from medvlm_r1.serving.calibrated import Block, Calibration
from medvlm_r1.serving.people import People

pytest.importorskip("playwright.sync_api", reason="the page is tried in a browser: pip install playwright")
pytestmark = pytest.mark.skipif(viewer_kit.CHROMIUM is None, reason="no Chromium here: nobody has looked at the page")

CALIBRATED = Calibration(
    "abc float32", "/data/ward 3/held-out.jsonl", "think", 200, (Block(0.0, 100, 0.5, (0.4, 0.6)), Block(0.75, 100, 0.9, (0.83, 0.95))), 0.6
)
STATUSES = {
    "answered": Scripted(), "abstained": Scripted(probs=(0.4, 0.3, 0.3)), "unparsed": Scripted("<think>Dark.</think><answer>nothing</answer>"),
    "truncated": Scripted("<think>Dark on the", end="length"), "contradicted": Scripted("<think>Hence right.</think><answer>A</answer>"),
}  # fmt: skip


@pytest.fixture
def ward(tmp_path, files):
    """Makes a server with a page, at a port; its log in the test's folder."""

    def made(instance=None, **changes):
        return WardAtAPort(Ward(tmp_path, files=TakenFor(files, instance), **changes))

    return made


@pytest.fixture
def desks(chromium):
    """Opens pages; each must have said nothing in its console and asked nobody else."""
    opened = []

    def desk(at, quiet=True, **options):
        made = Desk(chromium, at.address, **options)
        opened.append((made, quiet))
        return made

    yield desk
    for made, quiet in opened:
        assert made.foreign == [] and (not quiet or made.faults == [])
        assert made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        made.context.close()


def violations(page):
    """What axe finds, by name and place."""
    where = os.environ.get("AXE", "")
    if not Path(where).is_file():
        pytest.skip("AXE names no axe.min.js; npm pack axe-core brings one")
    page.evaluate(Path(where).read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [(one["id"], node["target"], node["failureSummary"]) for one in found for node in one["nodes"]]


# ---------------------------------------------------------------- a reading


def test_a_picture_is_dropped_asked_about_and_answered(ward, desks):
    with ward(calibration=CALIBRATED) as at:
        desk = desks(at)
        desk.page.locator("#ask").wait_for()
        desk.drop(png((200, 150)))
        desk.ask()
        answer = desk.answered()
        assert answer.get_attribute("class") == "answered" and answer.locator(".letter").inner_text() == "A) left"
        said = answer.inner_text()
        for part in (
            "90 % of such answers to the questions named here were right",
            "83 % to 95 %",
            "from 100 answers",
            "held-out.jsonl",
            "200 questions",
            "80 %",
            "15 %",
            "5 %",
        ):
            assert part in said
        assert "ward 3" not in said
        reasoning = answer.locator("details.reasoning")
        assert reasoning.get_attribute("open") is None and "unverified" in reasoning.locator("summary").inner_text()
        assert desk.page.evaluate("document.activeElement.textContent") == "The model's answer"
        answer.locator(".seen summary").click()
        answer.locator(".seen img").wait_for()
        answer.get_by_text("The bytes shown here have this hash.").wait_for()
        assert at.ward.rows("answer")[0]["image_sha256"][0] in answer.locator(".hash").inner_text()
        desk.page.keyboard.press("a")
        assert "you agree. Final answer: A) left" in desk.page.locator("#outcome").inner_text()
        assert desk.page.locator("#banner").is_visible()


def test_a_study_by_keyboard_alone_and_its_table(ward, tmp_path, desks):
    listed = cases(tmp_path, reference="A")
    with ward(cases=listed, people=People(read_first=True)) as at:
        page = desks(at).page
        for own, key in (("b", "a"), ("1", "d"), ("c", "s")):
            page.locator("#own").wait_for()
            assert page.locator("#answer").count() == 0 and "Dark" not in page.content()
            page.keyboard.press(own)
            page.keyboard.press("Enter")
            page.locator("#answer[aria-busy=false]").wait_for()
            if key == "d":  # she answered as the model did, and now finds otherwise
                page.locator("#final-0").focus()
                page.keyboard.press("B")
                page.locator("#answer h2").focus()
            page.keyboard.press(key)
            page.locator("#outcome").wait_for()
            page.keyboard.press("n")
        page.get_by_text("All 3 cases are read.").first.wait_for()
        found = list(csv.DictReader(io.StringIO(study.table(study.reads(study.read_log(at.ward.log))))))
    columns = ("order", "own", "model", "action", "final", "switch")
    assert [[row[name] for name in columns] for row in found] == [
        ["1", "B", "A", "agree", "A", "wrong-right"], ["2", "A", "A", "disagree", "B", "right-wrong"], ["3", "C", "A", "skip", "C", "none"],
    ]  # fmt: skip
    assert all(float(row["seconds_own"]) >= 0 and float(row["seconds_final"]) >= 0 for row in found)


def test_reading_first_survives_a_page_loaded_anew_and_a_second_tab(ward, desks):
    with ward(people=People(read_first=True)) as at:
        desk = desks(at)
        desk.page.locator("#ask").wait_for()
        desk.drop(png((60, 40)))
        bodies = []
        desk.context.on(
            "response", lambda response: bodies.append(response.text() if "/reading/reads" in response.url and "picture" not in response.url else "")
        )
        desk.ask()
        desk.page.locator("#own").wait_for()
        desk.page.reload()
        desk.page.locator("#own").wait_for()
        second = desk.context.new_page()
        second.goto(f"{at.address}/")
        second.locator("#own").wait_for()
        for page in (desk.page, second):
            assert page.locator("#answer").count() == 0
        assert bodies and not any("Dark" in body or "option_probs" in body for body in bodies)
        second.check("#own-1")
        second.click("#own button[type=submit]")
        second.locator("#answer[aria-busy=false]").wait_for()
        assert [row["own"] for row in at.ward.rows("read-own")] == ["B"]


# ---------------------------------------------------------------- what is no answer, and what attacks


@pytest.mark.parametrize("status", STATUSES)
def test_what_is_no_answer_looks_like_none(ward, desks, status):
    with ward(backend=STATUSES[status], calibration=CALIBRATED) as at:
        desk = desks(at)
        desk.page.locator("#ask").wait_for()
        desk.drop(png())
        desk.ask()
        answer = desk.answered()
        stands = status == "answered"
        assert answer.get_attribute("data-status") == status and answer.locator(".letter").count() == stands and answer.locator(".bars").count() == stands
        assert (answer.locator("h2").inner_text() == "No answer") == (not stands)
        assert answer.evaluate("(one) => getComputedStyle(one).borderStyle") == ("solid" if stands else "dashed")
        assert desk.page.locator("[data-action=agree]").count() == stands and ("%" in answer.locator(".body").inner_text()) == (stands or status == "abstained")


NASTY = "<think><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202eDOE</think><answer>A</answer>"


def test_what_a_model_writes_is_text(ward, desks):
    with ward(backend=Scripted(NASTY)) as at:
        desk = desks(at)
        desk.page.on("dialog", lambda dialog: desk.faults.append(dialog.message))
        desk.page.locator("#ask").wait_for()
        desk.drop(png())
        desk.ask(question="<b>Which</b>\u202e side?", options=["<i>left</i>", "\u202eright"])
        answer = desk.answered()
        answer.locator(".reasoning summary").click()
        thought = answer.locator(".thought").inner_text()
        assert "<script>alert(1)</script>" in thought and "␛[31m" in thought and "⟦U+202E⟧DOE" in thought
        assert desk.page.evaluate("document.querySelectorAll('#steps script, #steps img, #steps b, #steps i').length") == 0
        assert "\u202e" not in desk.page.locator("#steps").inner_text() and "\x1b" not in desk.page.content()


def test_faults_are_said_and_nothing_is_lost(ward, desks):
    backend = Scripted(why=(5, 502))
    with ward(backend=backend) as at:
        desk = desks(at, quiet=False)
        desk.page.locator("#ask").wait_for()
        desk.ask()
        assert desk.page.locator("#error").inner_text() == "Open a picture first." and desk.page.input_value("#question") == "Which side?"
        desk.drop(png())
        desk.page.click("#ask button[type=submit]")
        answer = desk.answered()
        assert answer.get_attribute("class") == "no-answer" and "out of order" in answer.inner_text() and answer.locator(".letter").count() == 0
        backend.why = None
        answer.get_by_role("button", name="Try again").click()
        desk.page.locator(".letter").wait_for()


def test_the_key_is_asked_once_and_lies_nowhere(ward, desks):
    key = "a-key-of-sixteen-signs"
    with ward(people=People(key)) as at:
        desk = desks(at, quiet=False)
        desk.page.locator("#key-input").fill("wrong")
        desk.page.keyboard.press("Enter")
        desk.page.get_by_text("none of its keys").wait_for()
        desk.page.locator("#key-input").fill(key)
        desk.page.keyboard.press("Enter")
        desk.page.locator("#ask").wait_for()
        assert not any(key in url for url in desk.requests) and key not in desk.page.content()
        desk.page.reload()
        desk.page.locator("#key-input").wait_for()


def test_a_page_that_waits_for_its_server_takes_no_picture_and_stays_where_it_is(ward, desks):
    """A file that a browser opens by itself would take the place of the page."""
    with ward() as at:
        desk, held = desks(at), []
        desk.page.locator("#ask").wait_for()
        desk.page.route("**/reading/state", lambda route: held.append(route))
        with desk.page.expect_request("**/reading/state"):
            desk.page.reload()
        drops = """() => ["dragover", "drop"].map((name) => !document.dispatchEvent(
            new DragEvent(name, { cancelable: true, dataTransfer: new DataTransfer() })))"""
        assert desk.page.evaluate(drops) == [True, True] and desk.page.locator("#drop").is_hidden()
        held[0].continue_()
        desk.drop(png((60, 40)))
        desk.page.locator("#ask").wait_for()


def test_another_picture_forgets_the_answer_about_the_first(ward, desks):
    with ward() as at:
        desk = desks(at)
        desk.page.locator("#ask").wait_for()
        desk.drop(png((50, 50)))
        desk.ask()
        desk.answered()
        desk.drop(png((60, 60)))
        desk.page.locator("#ask").wait_for()
        assert desk.page.locator("#answer").count() == 0


# ---------------------------------------------------------------- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(ward, tmp_path, desks, scheme):
    with ward(cases=cases(tmp_path), people=People(read_first=True), calibration=CALIBRATED) as at:
        page = desks(at, color_scheme=scheme, bypass_csp=True).page
        page.locator("#own").wait_for()
        found = violations(page)
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.locator("#answer[aria-busy=false]").wait_for()
        page.locator(".reasoning summary").click()
        page.locator(".seen summary").click()
        page.locator(".seen img").wait_for()
        found += violations(page)
        page.locator("#answer h2").focus()
        page.keyboard.press("?")
        page.locator("#help h2").wait_for()
        assert found + violations(page) == []


def test_a_narrow_screen_scrolls_one_way(ward, tmp_path, desks):
    with ward(cases=cases(tmp_path), people=People(read_first=True)) as at:
        page = desks(at, viewport={"width": 320, "height": 640}).page
        page.locator("#own").wait_for()
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.locator("#answer[aria-busy=false]").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_reports_are_saved_from_the_page(ward, desks):
    from test_reading import DICOM

    with ward(DICOM) as at:
        desk = desks(at)
        desk.page.locator("#ask").wait_for()
        desk.drop(png())
        desk.ask()
        desk.answered()
        with desk.page.expect_download() as found:
            desk.page.get_by_role("button", name="FHIR bundle").click()
        assert found.value.suggested_filename == "answer.json" and "DiagnosticReport" in Path(found.value.path()).read_text()
