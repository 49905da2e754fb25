"""Views, specs, and every bad line of a manifest."""

import gc
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from medvlm_r1.data.dataset import Dataset, load_dataset
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

ROW = {
    "id": "mri-00017",
    "image": ["images/00017.png"],
    "question": "Which side is the lesion on?",
    "options": ["left", "right"],
    "answer": "left",
    "modality": "mri",
    "question_type": "side",
    "group": "patient-0031",
    "source": "phantom",
}


def row(**changes):
    return {**ROW, **changes}


def without(key):
    return {name: value for name, value in ROW.items() if name != key}


def write(path, rows):
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def examples(n, modality="mri"):
    return [Example(f"{modality}-{i}", (), "Which?", ("a", "b"), "ab"[i % 2], modality) for i in range(n)]


# ---------------------------------------------------------------- views


def test_views_hold_the_same_examples_in_another_order():
    rows = examples(20)
    whole = Dataset(rows)
    shuffled = whole.shuffle(3)
    assert list(shuffled) != rows and sorted(e.id for e in shuffled) == sorted(e.id for e in rows)
    assert [e.id for e in shuffled] == [e.id for e in whole.shuffle(3)] != [e.id for e in whole.shuffle(4)]
    assert list(shuffled.head(5)) == [shuffled[i] for i in range(5)] == list(shuffled[:5])
    assert list(whole) == rows and whole[-1] is rows[-1]  # the original is untouched
    assert (len(whole.head(0)), len(whole.head(99)), len(whole.head(-1))) == (0, 20, 0)
    with pytest.raises(IndexError):
        whole[20]


def test_where_filters_a_view_of_a_view():
    mixed = Dataset(examples(6) + examples(6, "ct")).shuffle(0)
    assert {e.modality for e in mixed.where(modality="ct")} == {"ct"}
    assert len(mixed.where(modality="ct", answer="a")) == 3
    assert list(mixed.where()) == list(mixed)


@pytest.mark.parametrize(
    ("filters", "message"),
    [({"modalty": "ct"}, 'cannot filter by "modalty"; did you mean "modality"'), ({"modality": "mir"}, 'no question has modality="mir"; did you mean "mri"')],
)
def test_where_names_what_it_does_not_know(filters, message):
    with pytest.raises(DataError, match=message):
        Dataset(examples(2)).where(**filters)


def test_mix_shuffles_all_together_and_refuses_a_repeated_id():
    mri, ct = Dataset(examples(10)), Dataset(examples(10, "ct"))
    mixed = mri.mix(ct, seed=1)
    assert len(mixed) == 20 and {e.modality for e in mixed.head(10)} == {"mri", "ct"}
    assert list(mixed) == list(mri.mix(ct, seed=1)) != list(mri.mix(ct, seed=2))
    with pytest.raises(DataError, match='two questions have the id "mri-0"'):
        mri.mix(ct, mri.head(1), seed=1)


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz", "manifest.jsonl", "manifest.jsonl.gz"])
def test_a_manifest_is_read_plain_gzipped_and_by_its_folder(tmp_path, name):
    path = write(tmp_path / name, [ROW, "", row(id="2", image="b.png", options=[], answer="a cyst", split="test")])
    first, second = load_dataset(str(tmp_path) if name.startswith("manifest") else path)
    assert first.images == (str(tmp_path / "images/00017.png"),) and first.letter == "A"
    assert (first.question_type, first.group, first.source) == ("side", "patient-0031", "phantom")
    assert second.images == (str(tmp_path / "b.png"),) and second.letter == ""


def test_absolute_and_drawn_images_stay_as_they_are(tmp_path):
    [example] = load_dataset(write(tmp_path / "a.jsonl", [row(image=["/x/a.png", "phantom:mri/test/1"])]))
    assert example.images == ("/x/a.png", "phantom:mri/test/1")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    assert len(load_dataset(str(tmp_path / "a.jsonl"))) == 1


def test_a_filter_may_name_any_key(tmp_path):
    rows = [row(id=f"{m}-{s}-{n}", modality=m, split=s, fold=n) for m in ("mri", "ct") for s in ("train", "test") for n in (0, 1)]
    path = write(tmp_path / "a.jsonl", rows)
    assert [e.id for e in load_dataset(f"{path}?modality=ct&split=test&fold=1")] == ["ct-test-1"]
    assert len(load_dataset(f"{path}?")) == 8


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("modality=mir", 'no line has modality="mir"; did you mean "mri"'),
        ("modalty=mri", 'cannot filter by "modalty", no line has that key; did you mean "modality"'),
        ("modality=mri&answer=right", "no line passes the whole filter"),
        ("modality", 'the filter "modality" is no key=value'),
        ("modality=", 'the filter "modality=" is no key=value'),
    ],
)
def test_a_filter_that_leaves_nothing_says_why(tmp_path, query, message):
    path = write(tmp_path / "a.jsonl", [ROW, row(id="2", modality="ct", answer="right")])
    with pytest.raises(DataError, match=message):
        load_dataset(f"{path}?{query}")


def test_phantom_sets_load_and_filter():
    assert len(load_dataset("phantom:mri?split=train")) == 600
    sides = load_dataset("phantom:ct?split=test&question_type=side")
    assert 0 < len(sides) < 300 and {e.question_type for e in sides} == {"side"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fantom:mri", 'does not exist; did you mean "phantom:mri"'),
        ("phantom:mir", "mri"),
        ("phantom:mri?splt=test", 'did you mean "split"|cannot filter by "splt"'),
        ("{dir}/manifest.jsnl", r'does not exist; did you mean ".*manifest.jsonl"'),
        ("{dir}/nothing/like/it", "does not exist; give a manifest .* or one of phantom:mri"),
        ("{dir}/empty", "is a folder without manifest.jsonl or parquet files"),
        ("{dir}/table.csv", "is no manifest; its name must end in .jsonl"),
    ],
)
def test_an_unknown_spec_says_the_remedy(tmp_path, spec, message):
    write(tmp_path / "manifest.jsonl", [ROW])
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(DataError, match=message):
        load_dataset(spec.format(dir=tmp_path))


# ---------------------------------------------------------------- bad lines

BAD_LINES = [
    ("{not json", r"no JSON \(.* at column 2\): \{not json; write one JSON object a line"),
    ("[" * 100_000, r"no JSON"),
    ("[1, 2]", r"must be a JSON object \{…\}, got \[1, 2\]"),
    ("{}", 'the key "id" is missing'),
    (without("answer") | {"anwser": "left"}, 'the key "answer" is missing; rename "anwser" to "answer"'),
    (without("image") | {"images": ["a.png"]}, 'the key "image" is missing; rename "images" to "image"'),
    (without("options"), 'the key "options" is missing'),
    (row(answer="lefft"), 'the answer "lefft" is not among the options; did you mean "left"'),
    (row(answer="A"), 'the answer "A" is not among the options.*not its letter'),
    (row(options=["left"]), r'1 options, \["left"\]; give 2 to 10, or \[\] for free text'),
    (row(options=list("abcdefghijk"), answer="a"), "11 options"),
    (row(options="left, right"), '"options" must be a list of texts, got "left, right"'),
    (row(options=["left", 2]), '"options" must be a list of texts'),
    (row(options=[], answer=" "), '"answer" is empty'),
    (row(modality="Mean"), 'the modality "mean" would be taken for the mean over modalities'),
    (row(), 'the id "mri-00017" already stands in line 1'),
    (row(id=""), '"id" is empty'),
    (row(id=True), '"id" must be a text, got true; put it in quotes'),
    (row(question=7), '"question" must be a text, got 7; put it in quotes'),
    (row(question=None), '"question" must be a text, got null'),
    (row(modality="  "), '"modality" is empty'),
    (row(image=7), '"image" must be a path or a list of paths, got 7'),
    (row(image=[None]), '"image" must be a path or a list of paths'),
    (row(image=[""]), '"image" must be a path or a list of paths'),
    (row(image={"path": "a.png"}), '"image" must be a path or a list of paths'),
    (row(question="x" * 10, group=["a"]), '"group" must be a text'),
]


@pytest.mark.parametrize(("bad", "message"), BAD_LINES)
def test_a_bad_line_is_one_sentence_with_file_and_line(tmp_path, bad, message):
    if isinstance(bad, dict) and bad.get("id") == ROW["id"] and bad != ROW:
        bad = bad | {"id": "another"}
    path = write(tmp_path / "a.jsonl", [ROW, "", bad, row(id="last")])
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:3: ") and "\n" not in text and len(text) < 400 + len(path)


def test_a_bad_line_is_found_behind_a_filter_too(tmp_path):
    path = write(tmp_path / "a.jsonl", [ROW, row(id="2", modality="ct", answer="up")])
    with pytest.raises(DataError, match=":2: the answer"):
        load_dataset(f"{path}?modality=mri")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_manifest_says_so(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="is empty"):
        load_dataset(str(tmp_path / "a.jsonl"))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a.jsonl:2: not UTF-8"):
        load_dataset(str(tmp_path / "a.jsonl"))


GZIPPED = gzip.compress("".join(json.dumps(row(id=str(i))) + "\n" for i in range(500)).encode())


@pytest.mark.parametrize("data", [GZIPPED[:-20], GZIPPED[:200] + b"\xff" * 40 + GZIPPED[240:]], ids=["cut", "flipped"])
def test_a_broken_gzip(tmp_path, data):
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read .*copy the file again"):
        load_dataset(str(tmp_path / "a.jsonl.gz"))


# ---------------------------------------------------------------- size


def test_a_question_takes_little_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the length of the folder's name would count
    path = write(Path("m.jsonl"), (json.dumps(row(id=f"mri-{i:06d}", image=f"images/{i:06d}.png")) for i in range(10_000)))
    tracemalloc.start()
    data = load_dataset(path)
    gc.collect()
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.shuffle(0).head(5_000)) == 5_000
    assert kept_bytes / len(data) < 450  # measured: 421 bytes a question
