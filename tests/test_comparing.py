"""``medvlm-r1 compare``: pairs, names, and what it refuses."""

import json

import pytest

from medvlm_r1.commands import main as cli
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.report import comparing


def samples(right, arm="image", options=("left", "right")):
    return [
        Sample(f"q{i}", "mri", "side", f"p{i}", "Which side?", options, "A", (), arm, "<answer>A</answer>", "A" if i < right else "B",
               "answered", i < right, 5)
        for i in range(40)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    def make(name, right, **more):
        place = tmp_path / name
        place.mkdir()
        arms = {"image": samples(right, **more), "blank": samples(20, "blank", **more)}
        for arm, rows in arms.items():
            write_samples(place / f"samples-{arm}.jsonl", rows)
        found = metrics.summary(arms, {}, [("image", "blank")]) | {"settings": {"data": "phantom:mri"}}
        (place / "summary.json").write_text(json.dumps(found))
        return place

    return make


def test_every_two_are_tested_and_p_is_adjusted_for_their_number(folder, tmp_path, capsys):
    places = [folder("base", 20), folder("sft", 22), folder("grpo", 38)]
    assert cli.main(["compare", str(places[0]), f"SFT={places[1]}", str(places[2]), "--out", str(tmp_path / "all"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "all" / "summary.json").read_text())
    assert list(summary["paired"]) == ["grpo-SFT", "grpo-base", "SFT-base"] and list(summary["models"]) == ["base", "SFT", "grpo"]
    pairs = summary["paired"]
    assert [round(40 * pair["mean_difference"]) for pair in pairs.values()] == [16, 18, 2]
    assert pairs["grpo-base"]["greedy"]["gained"] == 18 and pairs["grpo-base"]["greedy"]["p_mcnemar"] == 2 / 2**18
    assert pairs["grpo-base"]["p_holm"] == pytest.approx(3 * pairs["grpo-base"]["p"])
    page = (tmp_path / "all" / "report.html").read_text()
    assert "SFT" in page and "grpo" in page and "Research use only" in page


def test_the_terminal_shows_the_first_screen_by_todays_rule(folder, tmp_path, capsys):
    """40 patients: the one model is right with half of its pictures, as without; the other with all of them. No other picture was asked."""
    old = folder("old", 20)
    found = json.loads((old / "summary.json").read_text())
    (old / "summary.json").write_text(json.dumps(found | {"looking": {"level": "looks", "sentence": "By an older rule."}}))
    assert cli.main(["compare", str(old), str(folder("new", 40)), "--out", str(tmp_path / "both")]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("old: 50.0 % right (") and "chance 50.0); not shown to look. MRI: not shown to look (it is not ahead of chance)" in first
    assert (
        second.startswith("new: 100.0 % right (")
        and "chance 50.0); unclear. MRI: unclear (it was not asked with another question's picture). +50.0 points" in second
    )
    models = json.loads((tmp_path / "both" / "summary.json").read_text())["models"]
    assert [model["looking"]["level"] for model in models.values()] == ["not shown to look", "unclear"]


def test_the_same_folders_again_write_the_same_bytes(folder, tmp_path):
    words = ["compare", str(folder("a", 10)), str(folder("b", 30)), "--out", str(tmp_path / "both")]
    assert cli.main(words) == 0
    before = [(tmp_path / "both" / name).read_bytes() for name in ("report.html", "summary.json")]
    assert cli.main(words) == 0
    assert [(tmp_path / "both" / name).read_bytes() for name in ("report.html", "summary.json")] == before


def test_what_cannot_be_compared_is_refused(folder, tmp_path, refused):
    good, other = folder("good", 20), folder("other", 20, options=("left", "both"))
    out = ["--out", tmp_path / "out"]
    assert cli.main(["compare", str(good), str(folder("better", 30)), "--out", str(tmp_path / "both")]) == 0
    refused(["compare", good, tmp_path / "both", *out], "is a comparison", "good, better")
    refused(["compare", good, other, *out], '"q0"', "other options")
    refused(["compare", good, f"good={other}", *out], 'two evaluations are called "good"', "NAME=")
    refused(["compare", good, tmp_path / "gone", *out], "gone", "medvlm-r1 eval")
    (other / "summary.json").write_text("{}")
    refused(["compare", good, other, *out], "other/summary.json", "is no summary of an evaluation")
    (good / "samples-image.jsonl").write_text("{}\n")
    refused(["compare", good, other, *out], "samples-image.jsonl, line 1")
    (good / "samples-image.jsonl").unlink()
    refused(["compare", good, other, *out], "samples-image.jsonl")
    assert not (tmp_path / "out").exists()
    refused(["compare", other, "--out", other], "in use", "--out")


def test_other_pictures_are_told_and_an_export_does_not_stop_the_same_again(folder, tmp_path, capsys):
    places, words = [folder("a", 10), folder("b", 30)], ["--out", str(tmp_path / "both")]
    assert cli.main(["compare", *map(str, places), *words]) == 0
    assert "same pictures" not in capsys.readouterr().err
    for place, sha256 in zip(places, ("dd400c" * 10, "82c9d6" * 10), strict=True):
        found = json.loads((place / "summary.json").read_text())
        found["settings"]["made"] = {"sha256": {"pictures": sha256}}
        (place / "summary.json").write_text(json.dumps(found))
    (tmp_path / "both" / "export").mkdir()
    assert cli.main(["compare", *map(str, places), *words]) == 0
    note = "The models did not see the same pictures (SHA-256 of their pixels: a dd400cdd400c, b 82c9d682c9d6)"
    assert note in capsys.readouterr().err.replace("\n", " ") and note in (tmp_path / "both" / "report.html").read_text()


def test_a_name_that_no_page_can_hold_is_shown_as_far_as_it_goes(folder, tmp_path):
    assert comparing.named("caf\udce9/")[0] == "caf?"
    strange = folder("caf\udce9", 30)
    assert cli.main(["compare", str(folder("a", 10)), str(strange), "--out", str(tmp_path / "both")]) == 0


def test_a_name_may_hold_an_equals_sign(tmp_path):
    (tmp_path / "lr=2").mkdir()
    assert comparing.named(str(tmp_path / "lr=2"))[0] == "lr=2"
