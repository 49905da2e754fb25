"""Splits by group, and the paper's own parts."""

import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from medvlm_r1.data import split as module
from medvlm_r1.data.convert import sift
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.leak import leaks
from medvlm_r1.data.readers import CORPORA
from medvlm_r1.data.split import PAPER_SHA256, checksum, fingerprint, paper_fingerprints, paper_split, save, split
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.types import Example

SHARED = Path(__file__).parents[2] / "shared" / "data" / "omnimedvqa_text"


def question(n, modality="ct", group=""):
    return Example(f"q{n:03d}", (f"{n}.png",), "Which?", ("a", "b"), "a", modality, group=group)


PATIENTS = [question(n, "ct" if n < 100 else "mri", f"p{n // 4}") for n in range(200)]


def sides(examples):
    return {e.id: e.split for e in examples}


def test_no_group_is_cut_and_each_modality_gives_its_share():
    done = split(PATIENTS, 0.2, seed=3)
    parts = {name: [e for e in done if e.split == name] for name in ("train", "test")}
    assert Counter(e.modality for e in parts["test"]) == {"ct": 20, "mri": 20}
    assert {e.group for e in parts["train"]}.isdisjoint(e.group for e in parts["test"])
    assert leaks(parts["train"], parts["test"]) == []
    assert [e.id for e in done] == [e.id for e in PATIENTS]  # the order stays


def test_the_draw_depends_on_seed_and_ids_alone():
    assert sides(split(PATIENTS, 0.2, 3)) == sides(split(PATIENTS[::-1], 0.2, 3)) != sides(split(PATIENTS, 0.2, 4))
    # By hand: of these four, SHA-256 of "0\nq003" is the least (44544ab8…).
    four = [question(n) for n in range(4)]
    assert [id for id, side in sides(split(four, 0.25, 0)).items() if side == "test"] == ["q003"]


def test_one_picture_ties_two_groups():
    rows = [question(n, group=f"p{n}") for n in range(20)]
    rows[7] = Example("q007", ("3.png",), "Which?", ("a", "b"), "a", "ct", group="p7")
    done = sides(split(rows, 0.5, 0))
    assert done["q007"] == done["q003"]


def test_what_cannot_be_split_is_refused():
    with pytest.raises(DataError, match="between 0 and 1, got 20"):
        split(PATIENTS, 20)
    with pytest.raises(DataError, match="nothing is left for the (train|test) part: 4 questions hang together"):
        split([question(n, group="one") for n in range(4)], 0.2)


def test_a_saved_split_is_read_by_its_parts(tmp_path):
    report = save(split(PATIENTS, 0.2, 0), tmp_path / "out")
    assert report == json.loads((tmp_path / "out/split.json").read_text())
    test = load_dataset(f"{tmp_path / 'out'}?split=test")
    assert len(test) == report["test"]["questions"] == 40 and checksum(test) == report["test"]["content_sha256"]
    with pytest.raises(RunError, match="already holds a manifest"):
        save(PATIENTS, tmp_path / "out")


# ---------------------------------------------------------------- the paper


def test_a_fingerprint_is_of_the_question_not_of_its_copy():
    one = Example("q1", ("images/a.png",), "Which plane?", ("axial", "Coronal"), "axial", "mri")
    assert fingerprint(one) == fingerprint(Example("x", ("/b/a.png",), "which  plane?", ("coronal", "axial"), "Axial", "ct"))
    for other in (("b.png", "Which plane?", "axial"), ("a.png", "Which side?", "axial"), ("a.png", "Which plane?", "Coronal")):
        assert fingerprint(Example("q1", (other[0],), other[1], ("axial", "Coronal"), other[2], "mri")) != fingerprint(one)


def test_the_list_is_whole_and_holds_no_text():
    lines = (Path(module.__file__).parent / "paper_test_900.txt").read_text().splitlines()
    assert len(paper_fingerprints()) == 900
    assert all(line.startswith("#") or re.fullmatch("[0-9a-f]{16}", line) for line in lines)


def paper(monkeypatch, test):
    """Lets these questions stand for the 900."""
    monkeypatch.setattr(module, "paper_fingerprints", lambda: frozenset(map(fingerprint, test)))
    monkeypatch.setattr(module, "PAPER_SHA256", checksum(test))


def test_the_600_share_nothing_with_the_900(monkeypatch):
    test = [question(n, modality) for n, modality in enumerate(["mri"] * 3 + ["ct"] * 3 + ["xray"] * 3)]
    rest = [question(n, "mri", f"p{n // 2}") for n in range(100, 700)]  # all of them are needed
    same_file = Example("same-file", ("0.png",), "Another?", ("a", "b"), "b", "mri")
    same_name = Example("same-name", ("elsewhere/1.png",), "Another?", ("a", "b"), "b", "mri")
    same_group = Example("same-group", ("77.png",), "Another?", ("a", "b"), "b", "mri", group="tested patient")
    test[2] = replace(test[2], group="tested patient")
    copy = Example("copy", ("elsewhere/2.png",), "Which?", ("a", "b"), "a", "mri")  # one of the 900 again
    paper(monkeypatch, test)
    done = paper_split([*rest, same_file, same_name, same_group, *test, copy], seed=0)
    assert [e.split for e in done] == ["train"] * 600 + ["test"] * 9
    assert [e.id for e in done[600:]] == [e.id for e in test]
    train = {e.id for e in done[:600]}
    assert len(train) == 600 and train <= {e.id for e in rest}
    more = [*test, *rest, *(question(n, "mri") for n in range(700, 900))]
    draws = [[e.id for e in paper_split(rows, seed)[:600]] for rows, seed in ((more, 0), (more[::-1], 0), (more, 1))]
    assert draws[0] == draws[1] and set(draws[0]) != set(draws[2])
    assert paper_split(rest, seed=0, test=test)[600:] == done[600:]  # the 900 from a file of their own


def test_missing_questions_are_counted(monkeypatch):
    test = [question(n, modality) for n, modality in enumerate(["mri", "ct", "xray"])]
    paper(monkeypatch, test)
    with pytest.raises(DataError, match=r"found 1 mri, 1 ct, 0 xray of .* --test-set"):
        paper_split(test[:2])
    with pytest.raises(DataError, match="5 MRI questions share nothing .* trains on 600"):
        paper_split([*test, *(question(n, "mri") for n in range(10, 15))])


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/omnimedvqa_text is not here")
def test_the_authors_900():
    test = sift(CORPORA["huatuo-eval"](SHARED / "medvlm_r1_test_900.json")).examples
    assert checksum(test) == PAPER_SHA256
    with gzip.open(SHARED / "omnimedvqa_items.jsonl.gz") as file:
        names = {Path(json.loads(line)["image"][0]).name for line in file}
    done = paper_split(load_dataset(f"{SHARED / 'omnimedvqa_items.jsonl.gz'}?modality=mri"), seed=0, test=test)
    assert Counter((e.split, e.modality) for e in done) == {("train", "mri"): 600, ("test", "mri"): 300, ("test", "ct"): 300, ("test", "xray"): 300}
    tested = {Path(e.images[0]).name for e in done if e.split == "test"}
    assert len(tested & names) > 500  # the two sources do overlap …
    assert tested.isdisjoint(Path(e.images[0]).name for e in done if e.split == "train")  # … and training keeps clear of it
