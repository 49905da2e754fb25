"""Manifests as other programs write them: read as they were meant, with a word of what was changed, or refused in one sentence."""

import gzip
import json
import re

import pytest

from medvlm_r1.data.clean import clean, torn
from medvlm_r1.data.dataset import Dataset, load_dataset
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example

ROW = {"id": "q1", "image": ["im/a.png"], "question": "Which side?", "options": ["left", "right"], "answer": "right", "modality": "mri"}
TIDIED = "stray spaces, line breaks or invisible signs tidied"
TAGS = "picture tags taken out of the question"
LETTERS = "letters taken off the options"


def row(**changes):
    return {**ROW, **changes}


def write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def read(tmp_path, **changes):
    """The one question of a manifest, and what was said about it, without place and count."""
    data = load_dataset(write(tmp_path / "m.jsonl", row(**changes)))
    return data[0], [note.removeprefix(f"{tmp_path / 'm.jsonl'}: ").removesuffix(" (1 of 1, the first in line 1)") for note in data.notes]


def refusal(tmp_path, **changes):
    path = write(tmp_path / "m.jsonl", row(**changes))
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:1: ") and "\n" not in text
    return text.removeprefix(f"{path}:1: ")


# ---------------------------------------------------------------- files

TWO = [row(id="q1"), row(id="q2", question="Où est la lésion ?")]
LINES = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in TWO)
FILES = {
    "byte order mark": LINES.encode("utf-8-sig"),
    "two files with marks, joined": b"".join(line.encode("utf-8-sig") for line in LINES.splitlines(keepends=True)),
    "Windows' line ends": LINES.replace("\n", "\r\n").encode(),
    "old Mac's line ends": LINES.replace("\n", "\r").encode(),
    "no end at the end": LINES.rstrip("\n").encode(),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "UTF-32": LINES.encode("utf-32"),
    "one array": json.dumps(TWO).encode(),
    "a pretty array": b"\n" + json.dumps(TWO, indent=2).encode("utf-8-sig"),
    "gzipped": gzip.compress(LINES.encode()),
    "gzipped UTF-16 array": gzip.compress(json.dumps(TWO).encode("utf-16")),
}


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz", "m.json", "m.ndjson"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_by_what_it_holds_and_not_by_its_name(tmp_path, kind, name):
    (tmp_path / name).write_bytes(FILES[kind])
    data = load_dataset(str(tmp_path / name))
    assert [(e.id, e.question) for e in data] == [("q1", "Which side?"), ("q2", "Où est la lésion ?")] and data.notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES.encode("latin-1"), "m.jsonl:2: not UTF-8 .*; save the file as UTF-8"),
        (LINES.encode("utf-16")[:-1], "m.jsonl:1: not UTF-8 .*; save the file as UTF-8"),
        (gzip.compress(LINES.encode("latin-1")), "m.jsonl:2: not UTF-8"),
        (gzip.compress(LINES.encode())[:-12], "m.jsonl:2: cannot be read .*copy the file again"),
        (b"PK\x03\x04....", "m.jsonl is a zip archive or a spreadsheet, not text; unpack"),
        (b"\x28\xb5\x2f\xfd....", "m.jsonl is a zstd archive, not text; unpack"),
        (b"PAR1....", "m.jsonl is a parquet file, not text"),
        (b"[]", "m.jsonl is empty"),
        (b"[1, 2]", "m.jsonl: item 1: a line must be a JSON object"),
        (json.dumps(ROW, indent=1).encode(), "m.jsonl:1: no JSON .*: {; write one JSON object a line, or all of them in one array"),
        (json.dumps([ROW, ROW]).encode(), 'm.jsonl: item 2: the id "q1" already stands in item 1'),
        (LINES.replace('"answer": "right"', '"answer": "left", "answer": "right"').encode(), 'm.jsonl:1: no JSON .*the key "answer" stands there twice'),
    ],
)
def test_a_file_that_cannot_be_read_says_what_it_is(tmp_path, content, message):
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "m.jsonl"))


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("field", ["id", "question", "answer", "modality", "question_type", "group", "source", "reasoning", "split", "options", "image"])
@pytest.mark.parametrize("half", ["\ud83d", "\ude00"])
def test_half_a_character_is_named_in_every_field(tmp_path, field, half):
    text = f"side {half}?"
    said = refusal(tmp_path, **{field: [text, "right"] if field in ("options", "image") else text})
    assert said == f'"{field}" holds half a character ({ascii(half)[1:-1]}); write the whole character, or take it out'


def test_both_halves_are_a_character(tmp_path):
    assert read(tmp_path, question="side 😀?")[0].question == "side 😀?"


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("question", "side\0?", "side ?"),
        ("question", "Two\r\nlines ", "Two\nlines "),
        ("question", "left\u200bsided\ufeff", "leftsided"),
        ("question", "Le\u0301sion\u00a0?", "Lésion ?"),
        ("options", ["left", " right\t"], ("left", "right")),
        ("options", ["left\nB) fake", "right"], ("left B) fake", "right")),
        ("options", ["left", "right\u200b"], ("left", "right")),
        ("answer", "right ", "right"),
        ("group", "patient\t7\n", "patient 7"),
        ("split", " test", "test"),
    ],
)
def test_what_nobody_sees_is_tidied_and_counted(tmp_path, field, written, meant):
    example, said = read(tmp_path, **{field: written})
    assert (getattr(example, field), said) == (meant, [TIDIED])


def test_an_open_answer_keeps_its_lines(tmp_path):
    example, said = read(tmp_path, options=[], answer="Two findings:\n- effusion\n- mass")
    assert (example.answer, said) == ("Two findings:\n- effusion\n- mass", [])


@pytest.mark.parametrize("question", ["Which side? ", "\tTwo\nlines\n"])
def test_spaces_that_change_nothing_are_left_alone(tmp_path, question):
    """Prompts stay what they were, byte for byte."""
    example, said = read(tmp_path, question=question)
    assert (example.question, said) == (question, [])


def test_letters_of_other_scripts_stay(tmp_path):
    text = "می‌خواهم 肺 ä"  # a zero-width non-joiner is part of the first word
    assert read(tmp_path, question=text) == (Example("q1", (str(tmp_path / "im/a.png"),), text, ("left", "right"), "right", "mri"), [])


@pytest.mark.parametrize(
    ("images", "question", "meant"),
    [
        (1, "<image>\nWhich side?", "Which side?"),
        (1, "Which side?\n<image>", "Which side?"),
        (1, "<|vision_start|><|image_pad|><|vision_end|>Which side?", "Which side?"),
        (1, "<|image_1|>\nWhich side?", "Which side?"),
        (2, "<image> <image>\nWhich side?", "Which side?"),
        (2, "<image 1>\nWhich side?<image 2>", "Which side?"),
    ],
)
def test_picture_tags_around_the_question_are_taken_out(tmp_path, images, question, meant):
    example, said = read(tmp_path, image=[f"{n}.png" for n in range(images)], question=question)
    assert (example.question, said) == (meant, [TAGS])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": "Look at <image> and answer."}, "in their places"),
        ({"question": "<image>"}, '"question" is empty'),
        ({"question": "<image><image> Which side?"}, "2 picture tags .* 1 pictures"),
        ({"question": "<image> Which side?", "image": []}, "1 picture tags .* 0 pictures"),
        ({"question": "<image 2><image 1> Which side?", "image": ["a.png", "b.png"]}, "in their places"),
        ({"options": ["<image 1>", "right"]}, "an option is a picture"),
    ],
)
def test_picture_tags_whose_place_means_something_are_refused(tmp_path, changes, said):
    assert re.search(said, refusal(tmp_path, **changes))


@pytest.mark.parametrize("form", ["{}. {}", "{}.{}", "{}) {}", "({}) {}", "[{}] {}", "{}: {}", "{}、{}"])
@pytest.mark.parametrize("letters", ["AB", "ab"])
@pytest.mark.parametrize("answer", ["{form}", "right", "B", "b)", "(B)", "B. Right."])
def test_options_lose_their_letters_and_a_letter_is_an_answer_then(tmp_path, form, letters, answer):
    options = [form.format(letter, text) for letter, text in zip(letters, ("left", "right"), strict=True)]
    example, said = read(tmp_path, options=options, answer=options[1] if answer == "{form}" else answer)
    assert (example.options, example.answer, said) == (("left", "right"), "right", [LETTERS])


@pytest.mark.parametrize("options", [["E. coli", "B. cereus"], ["A. left", "right"], ["B. left", "A. right"], ["A", "B"], ["A.", "B."], ["a left", "b right"]])
def test_what_only_looks_like_letters_stays(tmp_path, options):
    example, said = read(tmp_path, options=options, answer=options[1])
    assert (example.options, example.answer, said) == (tuple(options), options[1], [])


def test_an_object_of_letters_is_a_list_of_options(tmp_path):
    example, _ = read(tmp_path, options={"A": "left", "B": "right"}, answer="B")
    assert (example.options, example.answer) == (("left", "right"), "right")
    assert '"options" must be a list of texts' in refusal(tmp_path, options={"B": "left", "A": "right"})


def test_a_letter_whose_options_have_none_is_refused(tmp_path):
    """ "A" could be the blood group that somebody forgot among the options."""
    assert "it must be an option's text, not its letter" in refusal(tmp_path, options=["B", "AB"], answer="A")


@pytest.mark.parametrize("answer", ["Right", "right.", " RIGHT "])
def test_an_answer_spelled_otherwise_is_its_option(tmp_path, answer):
    example, said = read(tmp_path, answer=answer)
    assert example.answer == "right" and said[-1] == "answer spelled otherwise"


def test_an_answer_that_two_options_spell_is_not_guessed(tmp_path):
    assert "is not among the options" in refusal(tmp_path, options=["Right", "right."], answer="RIGHT")


@pytest.mark.parametrize("written", ["MRI", "mri ", "MR", "Magnetic Resonance Imaging", "MR (Mag-netic Resonance Imaging)"])
def test_a_modality_has_one_name(tmp_path, written):
    path = write(tmp_path / "m.jsonl", row(), row(id="q2", modality=written), row(id="q3", modality="МРТ"))
    data = load_dataset(path)
    assert [e.modality for e in data] == ["mri", "mri", "мрт"]
    assert [e.id for e in load_dataset(f"{path}?modality=mri")] == [e.id for e in load_dataset(f"{path}?modality={written}")] == ["q1", "q2"]


def test_each_kind_is_said_once_with_its_count_and_first_place(tmp_path):
    path = write(tmp_path / "m.jsonl", row(), *(row(id=f"q{n}", modality="MRI", answer="Right") for n in range(2, 5)))
    assert load_dataset(f"{path}?answer=right").notes == (
        f"{path}: answer spelled otherwise (3 of 4, the first in line 2)",
        f'{path}: modality "MRI" read as "mri" (3 of 4, the first in line 2)',
    )


def test_an_answer_that_stands_twice_is_named(tmp_path):
    _, said = read(tmp_path, options=["left", "left\u200b"], answer="left")
    assert said == [TIDIED, "the answer stands twice among the options, and its first letter alone counts as right"]


# ---------------------------------------------------------------- numbers and nothing


@pytest.mark.parametrize(
    ("changes", "field", "meant"),
    [
        ({"id": 17}, "id", "17"),
        ({"group": 3}, "group", "3"),
        ({"group": 3.0}, "group", "3"),  # what a table with gaps makes of 3
        ({"group": None}, "group", ""),
        ({"split": float("nan")}, "split", ""),
        ({"options": [1, 2], "answer": 2}, "answer", "2"),
        ({"options": [0.5, 2.0], "answer": "2"}, "options", ("0.5", "2")),
        ({"options": [], "answer": 3}, "answer", "3"),
    ],
)
def test_a_number_is_read_where_it_can_mean_one_thing_only(tmp_path, changes, field, meant):
    example, said = read(tmp_path, **changes)
    assert (getattr(example, field), said) == (meant, [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": 0}, '"answer" must be an option\'s text, got 0, which may count from 0 or from 1'),
        ({"options": ["1", "2"], "answer": 1}, "which may count from 0 or from 1"),
        ({"answer": None}, '"answer" must be a text, got null'),
        ({"question": float("nan")}, '"question" must be a text, got NaN'),
        ({"group": [3]}, '"group" must be a text, got [3]'),
        ({"options": ["left", 2]}, '"options" must be a list of texts'),
        ({"options": [True, False]}, '"options" must be a list of texts'),
        ({"image": "im/\0.png"}, '"image" holds a control character'),
    ],
)
def test_a_number_or_nothing_that_would_be_a_guess_is_refused(tmp_path, changes, said):
    assert said in refusal(tmp_path, **changes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "1", "image": "a.png", "conversations": []}, '"question" is missing; "conversations" is a conversation'),
        ({"id": "1", "image": "a.png", "problem": "Which?", "solution": "B"}, '"question" is missing; rename "problem" to "question"'),
        ({"id": "1", "image": "a.png", "question": "Which?", "choices": [], "answer": "x"}, '"options" is missing; rename "choices" to "options"'),
    ],
)
def test_another_trainers_keys_are_known(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        load_dataset(write(tmp_path / "m.jsonl", line))


# ---------------------------------------------------------------- filters


def test_a_key_twice_takes_either_value(tmp_path):
    path = write(tmp_path / "m.jsonl", *(row(id=split, split=split) for split in ("train", "val", "test")))
    assert [e.id for e in load_dataset(f"{path}?split=train&split=val")] == ["train", "val"]
    data = Dataset(list(load_dataset(path)))
    assert [e.id for e in data.where(split=("test", "val"))] == ["val", "test"]
    with pytest.raises(DataError, match='no question has split="tset"; did you mean "test"'):
        data.where(split=("train", "tset"))


# ---------------------------------------------------------------- long


def test_a_very_long_line_is_read(tmp_path):
    assert len(read(tmp_path, question="word " * 200_000 + "?")[0].question) == 1_000_001


def test_what_is_clean_is_the_same_object():
    example = Example("q1", ("a.png",), "Which\nside?", ("left", "right"), "right", "mri", group="é")
    assert clean(example) == (example, []) and clean(example)[0] is example and torn(example) == ""


def test_a_letter_that_is_also_another_options_text_is_not_guessed_at(tmp_path):
    """B is the second option's letter and the third option's text: a blood group, say."""
    with pytest.raises(DataError, match='"B"'):
        load_dataset(write(tmp_path / "m.jsonl", row(options=["A. AB", "B. A", "C. B"], answer="B")))
    (same,) = load_dataset(write(tmp_path / "n.jsonl", row(options=["A. A", "B. B", "C. AB"], answer="B")))
    assert (same.options, same.answer) == (("A", "B", "AB"), "B")
