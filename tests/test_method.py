"""What a paper reports beside the results: where every question went, and what is said of how it was done."""

from dataclasses import replace

from report_story import Page, picture, samples, story

from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.method import OF_PHANTOMS, REFERENCE, UNKNOWN, flows, items, settings_of
from medvlm_r1.report.tables import tables

MADE = {
    "hardware": {"processor": "Xeon", "cores": 2, "memory_gib": 15.6}, "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "sha256": {"model": "0123456789abcdef", "pictures": "f" * 64}, "prompts": {"with options": "<user>{question}</user>"},
    "read": {"questions": 130, "notes": ["q.jsonl: 3 lines left out"]},
}  # fmt: skip
OWN = {"model": "nano", "template": "think", "max_tokens": 48, "made": MADE}


def holed():
    """120 questions; 30 without a completion, 10 cut off; the arm blank can ask 90 of them."""
    image = [replace(s, status="failed" if i < 30 else "truncated" if i < 40 else "answered", correct=i >= 40) for i, s in enumerate(samples(0.9))]
    return {"image": image, "blank": [replace(s, arm="blank", status="answered") for s in image[20:110]]}


def test_every_question_is_somewhere_in_the_flow():
    whole = story(models={"nano": holed()}, is_lineage=False)
    image, blank = flows(whole)
    assert (image.eligible, image.not_asked, image.asked, image.failed, image.compared) == (120, 0, 120, 30, None)
    assert image.statuses == {"failed": 30, "truncated": 10, "answered": 80}
    assert (blank.eligible, blank.not_asked, blank.asked, blank.failed, blank.compared) == (120, 30, 90, 0, 80)  # 10 of the 90 failed with their own pictures
    page = Page(render_report(whole, picture))
    assert "30 without a completion: wrong in accuracies, left out of comparisons" in page.text and "10 cut off, 0 not read, 0 abstained: wrong" in page.text


def test_a_question_that_is_asked_several_times_is_one_question_and_several_answers():
    arms = {"image": samples(0.9), "rotate": [replace(s, arm="rotate") for s in samples(0.9) * 3]}
    rotate = flows(story(models={"nano": arms}))[1]
    assert (rotate.asked, rotate.not_asked, sum(rotate.statuses.values())) == (120, 0, 360)


def test_what_was_recorded_is_told_and_what_was_not_is_called_unknown():
    told = dict(items(story(models={"nano": {"image": samples(0.9)}}, settings=OWN)))
    assert told["Hardware"] == "Xeon, 2 cores, 15.6 GiB of memory" and told["Software"] == "Python 3.11.7, PyTorch 2.13.0"
    assert told["Prompt with options"] == "Template think, as sent:\n<user>{question}</user>"
    assert "3 lines left out" in told["Eligible"] and "130" in told["Eligible"] and "f" * 64 in told["Questions"] and "0123456789abcdef" in told["Model"]
    old = dict(items(story(models={"nano": {"image": samples(0.9)}}, settings={})))
    assert old["Hardware"] == old["Software"] == old["Prompt"] == UNKNOWN and UNKNOWN in old["Model"] and UNKNOWN in old["Questions"]


def test_what_models_share_is_said_once():
    models = {"a": {"image": samples(0.9)}, "b": {"image": samples(0.5)}}
    other = OWN | {"model": "big", "made": MADE | {"hardware": MADE["hardware"] | {"gpu": "H100"}}}
    told = dict(items(story(models=models, settings={"a": OWN, "b": other}, is_lineage=False)))
    assert {"Software", "Prompt with options", "Hardware, a", "Hardware, b", "Model, a", "Model, b"} <= told.keys() and told["Hardware, b"].startswith("H100, ")
    assert settings_of(story(models=models, settings={"a": OWN}), "b") == {"a": OWN}


def test_the_reference_standard_is_known_where_pictures_are_drawn():
    drawn = [replace(s, images=("phantom:mri/test/0",)) for s in samples(0.9)]
    assert [dict(items(story(models={"m": {"image": part}})))["Reference standard"] for part in (drawn, samples(0.9))] == [OF_PHANTOMS, REFERENCE]


def test_tables_say_what_the_page_says():
    whole = story()
    page = Page(render_report(whole, picture)).text
    found = {table.name: table for table in tables(whole)}
    assert list(found) == ["accuracy", "differences", "arms", "subgroups", "flow"]
    assert all(len(row) == len(table.columns) for table in found.values() for row in table.rows)
    for row in found["accuracy"].rows:
        assert all(part in page for cell in row for part in cell.rstrip(")").split(" ("))
    assert [row[0] for row in found["differences"].rows[:2]] == ["GRPO − SFT, greedy", "GRPO − SFT, sampled"]
