"""Question sets of the hub: parquet files with pictures inside, in a folder here or fetched, as a data set and for ``data convert``."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import check_images
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from PIL import Image

from medvlm_r1.commands import main as cli
from medvlm_r1.data import hub, parquet
from medvlm_r1.data.convert import convert
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.data.leak import components, require_apart
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.errors import DataError, ImageError

arrow = pytest.importorskip("pyarrow")
tables = pytest.importorskip("pyarrow.parquet")
CELL = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})  # how the hub keeps a picture


def png(grey):
    file = io.BytesIO()
    Image.new("L", (8, 6), grey).save(file, "PNG")
    return file.getvalue()


def cell(grey, path=None):
    return {"bytes": png(grey), "path": path}


def write(path, rows, image=CELL, row_group_size=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = arrow.Table.from_pylist(rows)
    if "image" in rows[0] and image is not None:
        whole = whole.set_column(whole.schema.get_field_index("image"), "image", arrow.array([row["image"] for row in rows], image))
    tables.write_table(whole, path, row_group_size=row_group_size)


def row(grey, question="Is there a mass?", answer="yes"):
    return {"image": cell(grey), "question": question, "answer": answer}


@pytest.fixture
def rad(tmp_path):
    """A set in the hub's layout: five train rows with three pictures, three test rows, one of them without an answer."""
    src = tmp_path / "vqa-rad"
    write(src / "data/train-00000-of-00001-eb8844602202be60.parquet", [row(1), row(1, "Where?", "Left lung"), row(2), row(3), row(2, "Is it large?", "No.")])
    write(src / "data/test-00000-of-00001-e5bc3d208bb4deeb.parquet", [row(1, "Is it normal?", "no"), row(9), row(8, "Why?", "")])
    (src / "README.md").write_text("a card")
    return src


class FakeHub:
    """Stands in for snapshot_download: revisions of one set, as folders here."""

    def __init__(self, **revisions):
        self.revisions, self.asked = revisions, []

    def __call__(self, repo, *, repo_type, revision, allow_patterns):
        self.asked.append((repo, repo_type, revision, tuple(allow_patterns)))
        found = self.revisions.get(revision or "main")
        if found is None:
            raise RevisionNotFoundError("no such revision", response=_Response())
        return str(found)


class _Response:
    headers, request, status_code = {}, None, 404


def fetched(fake):
    return lambda wanted: hub.fetch(wanted, fake)


# ---------------------------------------------------------------- a folder of parquet files


def test_a_folder_of_parquet_files_is_a_data_set(rad):
    data = load_dataset(str(rad))
    assert [(e.id, e.split, e.options, e.answer) for e in data.where(split="train")] == [
        ("train-00000-of-00001-eb8844602202be60-00000", "train", ("yes", "no"), "yes"),
        ("train-00000-of-00001-eb8844602202be60-00001", "train", (), "Left lung"),
        ("train-00000-of-00001-eb8844602202be60-00002", "train", ("yes", "no"), "yes"),
        ("train-00000-of-00001-eb8844602202be60-00003", "train", ("yes", "no"), "yes"),
        ("train-00000-of-00001-eb8844602202be60-00004", "train", ("yes", "no"), "no"),
    ]
    assert {(e.modality, e.source) for e in data} == {("unknown", "vqa-rad")}
    assert data.notes == (f'{rad}: 1 of 8 rows left out: 1 no answer; the first is test-00000-of-00001-e5bc3d208bb4deeb.parquet: item 3 ("Why?")',)


def test_the_filter_and_the_single_file(rad):
    assert len(load_dataset(f"{rad}?split=test")) == 2 and len(load_dataset(f"{rad}/data?split=test")) == 2
    assert len(load_dataset(str(next(rad.rglob("train*"))))) == 5
    with pytest.raises(DataError, match='no question has split="tset"; did you mean "test"'):
        load_dataset(f"{rad}?split=tset")


def test_pictures_are_opened_where_they_lie_bit_for_bit(rad):
    before = {path: path.read_bytes() for path in rad.rglob("*") if path.is_file()}
    data = load_dataset(str(rad))
    check_images(data)
    shown = [load_image(e.images[0]) for e in data.where(split="train")]
    assert [content_hash(image) for image in shown] == [content_hash(Image.new("RGB", (8, 6), (grey,) * 3)) for grey in (1, 1, 2, 3, 2)]
    assert {path: path.read_bytes() for path in rad.rglob("*") if path.is_file()} == before  # nothing was unpacked beside them


def test_equal_pictures_have_one_reference_so_that_no_split_cuts_them(rad):
    train, test = (load_dataset(f"{rad}?split={split}") for split in ("train", "test"))
    file = next(rad.rglob("train*"))
    whole = load_dataset(str(rad))
    assert [e.images[0].rpartition("#")[2] for e in whole.where(split="train")] == ["row=0", "row=0", "row=2", "row=3", "row=2"] or whole
    assert len({e.images for e in whole}) == 4 and len(components(list(whole))) == 4
    assert file.name in train[4].images[0]
    with pytest.raises(DataError, match=r"1 of 5|2 of 5 training questions .* have the (file|group)"):
        require_apart(train, test)


def test_several_pictures_a_row(tmp_path):
    rows = [{"image": [cell(1), cell(2)], "question": "Which is darker?", "options": ["first", "second"], "answer": "first"}]
    write(tmp_path / "s/data/test-00000-of-00001.parquet", rows, arrow.list_(CELL))
    (example,) = load_dataset(str(tmp_path / "s"))
    assert [load_image(reference).getpixel((0, 0))[0] for reference in example.images] == [1, 2]
    assert [reference.rpartition("#")[2] for reference in example.images] == ["row=0&picture=0", "row=0&picture=1"]


def test_plain_bytes_and_a_view_of_them(tmp_path):
    write(tmp_path / "s/test.parquet", [{"image": png(7), "question": "Is it?", "answer": "no"}], arrow.binary())
    (example,) = load_dataset(str(tmp_path / "s"))
    assert load_image(example.images[0]).getpixel((0, 0)) == (7, 7, 7)
    assert load_image(f"blank:{example.images[0]}").getpixel((0, 0)) == (128, 128, 128)


def test_the_columns_of_the_evaluation_data_with_paths_beside_them(tmp_path):
    """Medical_Multimodal_Evaluation_Data as the hub converts it: paths, and no pictures inside."""
    both = {"question": "What is apparent?", "options": ["Hemorrhage", "Acute infarct"], "answer": "Acute infarct", "dataset": "OmniMedVQA"}
    rows = [
        both | {"image": ["images/brain1.png"], "subset": "MR (Mag-netic Resonance Imaging)"},
        both | {"image": ["images/gone.png"], "subset": "CT(Computed Tomography)"},
    ]
    write(tmp_path / "s/default/test/0000.parquet", rows, None)
    (tmp_path / "s/default/test/images").mkdir()
    (tmp_path / "s/default/test/images/brain1.png").write_bytes(png(3))
    data = load_dataset(str(tmp_path / "s"))
    assert [(e.modality, e.split, e.answer, e.source, e.options) for e in data] == [
        ("mri", "test", "Acute infarct", "OmniMedVQA", ("Hemorrhage", "Acute infarct"))
    ]
    assert '1 of 2 rows left out: 1 the picture "gone.png" is not inside and not beside' in data.notes[0]
    (tmp_path / "s/default/test/images/brain1.png").unlink()
    with pytest.raises(DataError, match='has no question that can be used: .*"brain1.png" is not inside and not beside'):
        load_dataset(str(tmp_path / "s"))


def test_an_index_as_the_answer_is_not_guessed(tmp_path):
    write(tmp_path / "s/test.parquet", [{"image": cell(1), "question": "Which?", "choices": ["left", "right"], "answer": 1}])
    with pytest.raises(DataError, match="the answer is a number, which may count from 0 or from 1"):
        load_dataset(str(tmp_path / "s"))


def test_what_is_cleaned_is_counted(tmp_path):
    rows = [{"image": cell(n), "question": "<image>\nWhich?", "options": ["A. left", "B. right"], "answer": "B", "modality": "MRI"} for n in range(3)]
    write(tmp_path / "s/test.parquet", rows)
    data = load_dataset(str(tmp_path / "s"))
    assert (data[0].question, data[0].options, data[0].answer, data[0].modality) == ("Which?", ("left", "right"), "right", "mri")
    assert [note.removeprefix(f"{tmp_path / 's'}: ") for note in data.notes] == [
        "picture tags taken out of the question (3 of 3)",
        "letters taken off the options (3 of 3)",
    ]


def test_a_manifest_in_the_folder_comes_first(rad):
    convert("vqa-rad", rad, rad / "out")
    (rad / "manifest.jsonl").write_text((rad / "out/manifest.jsonl").read_text().replace('"images/', '"out/images/'))
    assert load_dataset(str(rad))[0].id.startswith("vqa-rad-") and load_dataset(str(rad)).notes == ()


def test_a_manifest_of_parquet_pictures_moves_with_them(rad, tmp_path):
    data = load_dataset(f"{rad}?split=train")
    (tmp_path / "out").mkdir()
    write_manifest(tmp_path / "out/manifest.jsonl", data)
    first = json.loads((tmp_path / "out/manifest.jsonl").read_text().splitlines()[0])
    assert first["image"] == ["parquet:../vqa-rad/data/test-00000-of-00001-e5bc3d208bb4deeb.parquet#row=0"]  # that of the first equal picture
    (tmp_path / "elsewhere").mkdir()
    for name in ("out", "vqa-rad"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert load_image(load_dataset(str(tmp_path / "elsewhere/out"))[0].images[0]).size == (8, 6)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("#row=5", "has no row 5"),
        ("#row=-1", "names no row; write #row=0"),
        ("", "names no row|is missing"),
        ("#row=0&picture=3", "there is no picture in that row"),
    ],
)
def test_a_reference_to_nothing(rad, change, message):
    with pytest.raises(ImageError, match=message):
        load_image(f"parquet:{next(rad.rglob('train*'))}{change}")


def test_a_file_that_is_gone_or_damaged_costs_one_sentence(rad, tmp_path):
    data = load_dataset(f"{rad}?split=test")
    file = next(rad.rglob("test*"))
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ImageError, match='question ".*": image "parquet:.*#row=0".*cannot be read as parquet'):
        check_images(data)
    with pytest.raises(DataError, match="test-.* cannot be read as parquet .*copy the file again"):
        load_dataset(str(rad))
    file.unlink()
    with pytest.raises(ImageError, match="is missing"):
        check_images(data)


def test_a_broken_picture_inside_names_its_row(tmp_path):
    write(tmp_path / "s/test.parquet", [{"image": {"bytes": png(1)[:-30], "path": None}, "question": "Is it?", "answer": "no"}])
    with pytest.raises(ImageError, match=r'question "test-00000": image "parquet:.*/test.parquet#row=0" is truncated'):
        check_images(load_dataset(str(tmp_path / "s")))


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "s/test.parquet"
    for grey in (4, 5):
        write(path, [row(grey)])
        os.utime(path, ns=(grey, grey))
        assert load_image(load_dataset(str(path))[0].images[0]).getpixel((0, 0))[0] == grey


@pytest.mark.parametrize("do", [load_dataset, lambda path: convert("path-vqa", Path(path), Path(path) / "out")])
def test_without_pyarrow_the_remedy_works_from_a_checkout(tmp_path, monkeypatch, do):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r'train.parquet" is a parquet file, which needs pyarrow; .* -m pip install pyarrow$'):
        do(str(tmp_path))
    with pytest.raises(ImageError, match=r"needs pyarrow"):
        load_image(f"parquet:{tmp_path}/train.parquet#row=0")


# ---------------------------------------------------------------- the hub


def test_a_set_of_the_hub_is_fetched_and_read_by_its_own_rules(rad):
    fake = FakeHub(main=rad)
    data = load_dataset("hub:flaviagiammarino/vqa-rad?split=test", fetched(fake))
    assert fake.asked == [("flaviagiammarino/vqa-rad", "dataset", None, ("*.parquet",))]
    assert [(e.id, e.source, e.split) for e in data] == [(f"vqa-rad-test-00000-of-00001-e5bc3d208bb4deeb-0000{n}", "VQA-RAD", "test") for n in (0, 1)]
    assert data.notes[0].startswith("hub:flaviagiammarino/vqa-rad: 1 of 8 rows left out: 1 no answer")
    assert load_image(data[1].images[0]).getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize(("name", "modality", "source"), [("flaviagiammarino/path-vqa", "pathology", "PathVQA"), ("Somebody/else", "unknown", "else")])
def test_whose_rules_read_it(rad, name, modality, source):
    data = load_dataset(f"hub:{name}?split=train", fetched(FakeHub(main=rad)))
    assert {(e.modality, e.source) for e in data} == {(modality, source)}


def test_where_the_set_has_other_files_the_hubs_own_copy_is_taken(rad, tmp_path):
    (tmp_path / "none").mkdir()
    fake = FakeHub(main=tmp_path / "none")
    fake.revisions[hub.CONVERTED] = rad
    assert len(load_dataset("hub:a/b?split=train", fetched(fake))) == 5
    assert [asked[2] for asked in fake.asked] == [None, "refs/convert/parquet"]


def test_a_version_and_a_folder_of_it(rad, tmp_path):
    (tmp_path / "whole/en").mkdir(parents=True)
    (rad / "data").rename(tmp_path / "whole/en/data")
    write(tmp_path / "whole/fr/test.parquet", [row(1)])
    fake = FakeHub(**{"v1.0": tmp_path / "whole"})
    assert len(load_dataset("hub:a/b@v1.0/en?split=train", fetched(fake))) == 5
    assert fake.asked == [("a/b", "dataset", "v1.0", ("en/*.parquet",))]


def test_what_cannot_be_had_says_why(tmp_path):
    (tmp_path / "none").mkdir()
    for spec, fake, message in (
        ("hub:a/b", FakeHub(main=tmp_path / "none"), '"hub:a/b" has no parquet files; download its archive, and see `medvlm-r1 data convert'),
        ("hub:a/b@v9", FakeHub(), '"hub:a/b" has no version "v9"'),
        ("hub:vqa-rad", FakeHub(), '"hub:vqa-rad" names no set of the hub; write hub:OWNER/NAME'),
        ("hub:", FakeHub(), "names no set of the hub"),
    ):
        with pytest.raises(DataError, match=message):
            load_dataset(spec, fetched(fake))


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("Name or service not known"), ConnectionError("offline"), PermissionError(13, "no")])
def test_without_a_network_the_remedy_is_a_folder(error):
    def down(*_, **__):
        raise error

    with pytest.raises(DataError, match=r'cannot bring "hub:a/b" here \(.*\); download it where a network is, and give the folder of its parquet files'):
        load_dataset("hub:a/b", fetched(down))


def test_the_command_names_the_fault_and_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["data", "inspect", "hub:nobody/nothing"]) == 2
    assert 'cannot bring "hub:nobody/nothing" here' in capsys.readouterr().err


# ---------------------------------------------------------------- convert


@pytest.mark.parametrize("corpus", ["vqa-rad", "path-vqa", "table"])
def test_convert_unpacks_the_pictures(rad, tmp_path, corpus):
    report = convert(corpus, rad, tmp_path / "out")
    assert (report["questions"], report["rejected"], report["split"]) == (7, {"no answer": 1}, {"test": 2, "train": 5})
    data = load_dataset(f"{tmp_path / 'out'}?split=train")
    assert [Path(e.images[0]).read_bytes() for e in data] == [png(grey) for grey in (1, 1, 2, 3, 2)]
    assert len({e.images for e in data}) == len({e.group for e in data}) == 3


def test_convert_of_the_evaluation_data(tmp_path):
    rows = [{"image": [cell(1), cell(2)], "question": "What?", "options": ["Hemorrhage", "Infarct"], "answer": "Infarct", "dataset": "X", "subset": "X-Ray"}]
    write(tmp_path / "s/data/test-00000-of-00001.parquet", rows, arrow.list_(CELL))
    convert("huatuo-eval", tmp_path / "s", tmp_path / "out")
    (example,) = load_dataset(str(tmp_path / "out"))
    assert (example.modality, example.split, len(example.images)) == ("xray", "test", 2)
    assert [Path(image).read_bytes() for image in example.images] == [png(1), png(2)]


def test_convert_from_the_hub(rad, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", FakeHub(main=rad))
    report = convert("vqa-rad", Path("hub:flaviagiammarino/vqa-rad"), tmp_path / "out")
    assert (report["from"], report["questions"]) == ("vqa-rad", 7)


def test_the_marked_cell_keeps_what_is_no_picture():
    assert parquet.embedded({"bytes": None, "path": "a.png"}, "parquet:t#row=0") == {"bytes": None, "path": "a.png"}
