"""Each corpus in its own layout, with the faults that its real copies have, against the manifest it must become."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data.convert import convert
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.readers import CORPORA
from medvlm_r1.errors import DataError, ImageError, RunError

OPENRAD = Path(__file__).parents[2] / "shared" / "data" / "openrad"


def picture(path, grey=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6), grey).save(path)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def converted(corpus, src, out, **options):
    """(rows of the manifest by id, reasons of the rejected by id, report)."""
    report = convert(corpus, src, out, **options)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert report["rows"] == len(lines) + len(rejected) and sum(report["rejected"].values()) == len(rejected)
    return {row["id"]: row for row in lines}, {row["id"]: row["reason"] for row in rejected}, report


# ---------------------------------------------------------------- OmniMedVQA


def omni(number, **changes):
    row = {
        "dataset": "Chest CT Scan", "question_id": f"chest_{number}", "question_type": "Modality Recognition",
        "question": "What imaging technique is this?", "gt_answer": "CT", "image_path": f"Images/Chest CT Scan/test/{number}.png",
        "option_A": "MRI", "option_B": "CT", "option_C": "X-ray", "option_D": "PET", "modality_type": "CT(Computed Tomography)",
    }  # fmt: skip
    return {key: value for key, value in (row | changes).items() if value is not ...}


@pytest.fixture
def omnimedvqa(tmp_path):
    src = tmp_path / "OmniMedVQA"
    rows = [
        omni(0),
        omni(1, option_C=..., option_D=...),
        omni(2, modality_type=..., modality="MR (Mag-netic Resonance Imaging)"),
        omni(3, gt_answer="ct."),
        omni(4, gt_answer="Ultrasound"),
        omni(5, image_path="Images/Chest CT Scan/test/gone.png"),
        omni(6),  # its picture is cut short
        omni(7, option_A="CT"),  # two right letters
        omni(8, option_A="PET"),  # a distractor twice is only odd
        omni(9, option_C="", option_D=None),
        omni(10, question=""),
        omni(0),  # repeats the first
        omni(0, question="Which technique?", image_path="Images/Chest CT Scan/test/1.png"),  # another question under its id
        omni(11, option_B=..., option_C=..., option_D=..., gt_answer="MRI"),
        omni(12, option_A=..., option_B=..., option_C=..., option_D=...),  # no open question: its options are lost
    ]
    for number in range(13):
        picture(src / f"Images/Chest CT Scan/test/{number}.png")
    broken = src / "Images/Chest CT Scan/test/6.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    write_json(src / "QA_information/Open-access/Chest CT Scan.json", rows)
    xray = omni(0, dataset="MIAS", question_id="mias_0", modality_type="X-Ray", question_type="Disease Diagnosis", image_path="Images/MIAS/a.jpg")
    picture(src / "Images/MIAS/a.jpg")
    write_json(src / "QA_information/Restricted-access/MIAS.json", [xray])
    return src


def test_omnimedvqa(omnimedvqa, tmp_path):
    rows, rejected, report = converted("omnimedvqa", omnimedvqa, tmp_path / "out")
    assert rows["chest_0"] == {
        "id": "chest_0", "image": ["../OmniMedVQA/Images/Chest CT Scan/test/0.png"], "question": "What imaging technique is this?",
        "options": ["MRI", "CT", "X-ray", "PET"], "answer": "CT", "modality": "ct", "question_type": "modality-recognition",
        "group": "Images/Chest CT Scan/test/0.png", "source": "OmniMedVQA/Chest CT Scan",
    }  # fmt: skip
    assert list(rows) == ["chest_0", "chest_1", "chest_2", "chest_3", "chest_8", "chest_9", "chest_0~2", "mias_0"]
    assert rows["chest_1"]["options"] == rows["chest_9"]["options"] == ["MRI", "CT"]
    assert (rows["chest_2"]["modality"], rows["mias_0"]["modality"]) == ("mri", "xray")
    assert rows["chest_3"]["answer"] == "CT"
    assert rejected == {
        "chest_4": "answer not among the options", "chest_5": "image missing", "chest_6": "image broken",
        "chest_7": "answer stands twice among the options", "chest_10": "no question", "chest_0": "repeats another row",
        "chest_11": "fewer than 2 options", "chest_12": "fewer than 2 options",
    }  # fmt: skip
    assert report["repaired"] == {"answer spelled otherwise": 1, "id repeated, numbered": 1}
    assert report["modality"] == {"ct": 6, "mri": 1, "xray": 1}
    assert [e.id for e in load_dataset(str(tmp_path / "out"))] == list(rows)
    assert load_image(load_dataset(str(tmp_path / "out"))[0].images[0]).size == (8, 6)


def test_one_table_of_omnimedvqa_finds_its_pictures(omnimedvqa, tmp_path):
    rows, _, _ = converted("omnimedvqa", omnimedvqa / "QA_information/Restricted-access/MIAS.json", tmp_path / "out")
    assert rows["mias_0"]["image"] == ["../OmniMedVQA/Images/MIAS/a.jpg"]


def test_a_rejected_row_says_where_and_what(omnimedvqa, tmp_path):
    convert("omnimedvqa", omnimedvqa, tmp_path / "out")
    first = json.loads((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()[0])
    assert first == {"id": "chest_4", "where": "Chest CT Scan.json: item 5", "reason": "answer not among the options", "detail": "Ultrasound"}


@pytest.mark.parametrize(("check", "broken"), [("quick", True), ("full", True), ("none", False)])
def test_how_deep_pictures_are_looked_into(omnimedvqa, tmp_path, check, broken):
    _rows, rejected, report = converted("omnimedvqa", omnimedvqa, tmp_path / "out", check=check)
    assert ("chest_6" in rejected) == broken == ("chest_5" in rejected)
    assert report["images_checked"] == check


def test_only_a_full_check_sees_damage_inside(tmp_path):
    """The quick check reads header and end; this is the price of its speed, and training decodes every picture anyway."""
    src = tmp_path / "src"
    for name in ("a/1.png", "b/2.png"):
        picture(src / name)
    damaged = src / "b/2.png"
    data = bytearray(damaged.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(ImageError):
        load_image(str(damaged))
    assert converted("image-folder", src, tmp_path / "quick", check="quick")[1] == {}
    assert converted("image-folder", src, tmp_path / "full", check="full")[1] == {"b/2.png": "image broken"}


def test_a_jpeg_with_something_behind_its_end_is_whole(tmp_path):
    """Scanners pad files; where the quick look fails, the decoder has the last word."""
    for name in ("a/1.jpg", "b/2.jpg"):
        path = picture(tmp_path / "src" / name)
        path.write_bytes(path.read_bytes() + b"\0" * 500)
    assert converted("image-folder", tmp_path / "src", tmp_path / "out")[1] == {}


def test_copied_pictures_travel_with_the_manifest(omnimedvqa, tmp_path):
    rows, _, _ = converted("omnimedvqa", omnimedvqa, tmp_path / "out", copy=True)
    assert rows["chest_0"]["image"] == ["images/Images/Chest CT Scan/test/0.png"]
    (tmp_path / "out").rename(tmp_path / "moved")
    assert load_image(load_dataset(str(tmp_path / "moved"))[0].images[0]).size == (8, 6)


# ---------------------------------------------------------------- HuatuoGPT-Vision's evaluation set


def test_huatuo_eval(tmp_path):
    row = {
        "image": ["images/brain1.png"], "question": "What is apparent?", "options": ["Hemorrhage", "Acute infarct"], "answer": "Acute infarct",
        "dataset": "OmniMedVQA", "subset": "MR (Mag-netic Resonance Imaging)",
    }  # fmt: skip
    rows = [row, row | {"image": ["images/brain1.png", "images/brain2.png"]}, row | {"image": []}, row | {"answer": "B"}, row | {"options": None}]
    for name in ("brain1", "brain2"):
        picture(tmp_path / f"src/images/{name}.png")
    write_json(tmp_path / "src/medical_evaluation.json", rows)
    rows, rejected, _ = converted("huatuo-eval", tmp_path / "src", tmp_path / "out")
    assert rows["medical_evaluation-00000"] == {
        "id": "medical_evaluation-00000", "image": ["../src/images/brain1.png"], "question": "What is apparent?",
        "options": ["Hemorrhage", "Acute infarct"], "answer": "Acute infarct", "modality": "mri", "group": "images/brain1.png", "source": "OmniMedVQA",
    }  # fmt: skip
    assert rows["medical_evaluation-00001"]["image"] == ["../src/images/brain1.png", "../src/images/brain2.png"]
    assert rows["medical_evaluation-00004"]["options"] == []  # an open question
    assert rejected == {"medical_evaluation-00002": "no image", "medical_evaluation-00003": "answer not among the options"}


# ---------------------------------------------------------------- VQA-RAD, SLAKE, PathVQA


def test_vqa_rad(tmp_path):
    row = {
        "qid": 1, "phrase_type": "freeform", "image_name": "synpic1.jpg", "image_organ": "HEAD", "question": "Is there a mass?", "answer": "Yes",
        "answer_type": "CLOSED ", "question_type": "PRES",
    }  # fmt: skip
    others = [
        {"qid": 2, "phrase_type": "test_para", "image_organ": "CHEST", "question": "Where?", "answer": "Right lung", "answer_type": "OPEN"},
        {"qid": 3, "image_organ": "ABD", "question": "How many?", "answer": 2, "answer_type": "OPEN"},
        {"qid": 4, "image_name": "gone.jpg"},
        {"qid": 5, "answer": None},
    ]
    picture(tmp_path / "src/VQA_RAD Image Folder/synpic1.jpg")
    write_json(tmp_path / "src/VQA_RAD Dataset Public.json", [row, *(row | other for other in others)])
    rows, rejected, _ = converted("vqa-rad", tmp_path / "src", tmp_path / "out")
    assert rows["vqa-rad-1"] == {
        "id": "vqa-rad-1", "image": ["../src/VQA_RAD Image Folder/synpic1.jpg"], "question": "Is there a mass?", "options": ["yes", "no"],
        "answer": "yes", "modality": "ct-or-mri", "question_type": "pres", "group": "synpic1.jpg", "source": "VQA-RAD", "split": "train",
    }  # fmt: skip
    assert [(rows[f"vqa-rad-{n}"][key], rows[f"vqa-rad-{n}"]["options"]) for n, key in ((2, "answer"), (3, "answer"))] == [("Right lung", []), ("2", [])]
    assert [(r["modality"], r["split"]) for r in rows.values()] == [("ct-or-mri", "train"), ("xray", "test"), ("ct", "train")]
    assert rejected == {"vqa-rad-4": "image missing", "vqa-rad-5": "no answer"}


def test_vqa_rad_of_the_hub_exported_to_json_lines(tmp_path):
    picture(tmp_path / "src/a.jpg")
    (tmp_path / "src/test.jsonl").write_text(json.dumps({"image": "a.jpg", "question": "Is it normal?", "answer": "no"}) + "\n")
    rows, _, _ = converted("vqa-rad", tmp_path / "src", tmp_path / "out")
    assert rows["vqa-rad-test-00000"]["split"] == "test" and rows["vqa-rad-test-00000"]["modality"] == "unknown"


def test_slake(tmp_path):
    row = {
        "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Which organ is it?", "answer": "Liver", "q_lang": "en", "location": "Abdomen",
        "modality": "CT", "answer_type": "OPEN", "base_type": "vqa", "content_type": "Organ", "triple": ["vhead", "_", "_"], "qid": 0,
    }  # fmt: skip
    chinese = {"qid": 1, "question": "这是什么器官?", "answer": "肝脏", "q_lang": "zh"}
    mislabelled = {"qid": 2, "question": "有肿瘤吗?", "answer": "No"}
    closed = {"qid": 3, "question": "Is it healthy?", "answer": "No", "answer_type": "CLOSED", "modality": "MRI"}
    picture(tmp_path / "src/imgs/xmlab1/source.jpg")
    write_json(tmp_path / "src/train.json", [row, row | chinese, row | mislabelled])
    write_json(tmp_path / "src/validation.json", [row | closed])
    write_json(tmp_path / "src/mask.json", {"1": "background"})  # no question set
    rows, rejected, report = converted("slake", tmp_path / "src", tmp_path / "out")
    assert rows["slake-0"] == {
        "id": "slake-0", "image": ["../src/imgs/xmlab1/source.jpg"], "question": "Which organ is it?", "options": [], "answer": "Liver",
        "modality": "ct", "question_type": "organ", "group": "xmlab1", "source": "SLAKE", "split": "train",
    }  # fmt: skip
    assert (rows["slake-3"]["options"], rows["slake-3"]["answer"], rows["slake-3"]["split"]) == (["yes", "no"], "no", "validation")
    assert rejected == {"slake-1": "not English", "slake-2": "not English"} and report["rejected"] == {"not English": 2}


def test_path_vqa(tmp_path):
    picture(tmp_path / "src/pics/1.jpg")
    write_csv(tmp_path / "src/train.csv", [{"image": "pics/1.jpg", "question": "Where are the cells?", "answer": "in the wall"}])
    write_csv(tmp_path / "src/test.csv", [{"image": "pics/1.jpg", "question": "Are they large?", "answer": "YES"}])
    rows, _, _ = converted("path-vqa", tmp_path / "src", tmp_path / "out")
    assert rows["path-vqa-train-00000"] == {
        "id": "path-vqa-train-00000", "image": ["../src/pics/1.jpg"], "question": "Where are the cells?", "options": [], "answer": "in the wall",
        "modality": "pathology", "group": "pics/1.jpg", "source": "PathVQA", "split": "train",
    }  # fmt: skip
    assert (rows["path-vqa-test-00000"]["options"], rows["path-vqa-test-00000"]["answer"]) == (["yes", "no"], "yes")


# ---------------------------------------------------------------- PMC-VQA


def test_pmc_vqa(tmp_path):
    row = {
        "Figure_path": "PMC1064097_F1.jpg", "Question": "What is the uptake pattern?", "Answer": "Focal uptake", "Choice A": " A:Diffuse uptake ",
        "Choice B": " B:Focal uptake ", "Choice C": " C: No uptake ", "Choice D": " D:Ring ", "Answer_label": "B",
    }  # fmt: skip
    others = [
        {"Answer": "Diffuse uptake"},  # the letter says B
        {"Answer": "Nodular uptake"},  # among no choices
        {"Answer_label": "E"},
        {"Figure_path": "PMC2_F2.jpg"},  # not there
        {"Answer": "focal uptake."},
    ]
    picture(tmp_path / "src/images/PMC1064097_F1.jpg")
    write_csv(tmp_path / "src/train.csv", [row, *(row | other for other in others)])
    newer = {"index": 7, "Figure_path": row["Figure_path"], "Caption": "A, b", "Question": "Which?", **{k: v for k, v in row.items() if "Choice" in k}}
    write_csv(tmp_path / "src/test_2.csv", [newer | {"Answer": "C", "split": "test"}])
    rows, rejected, _ = converted("pmc-vqa", tmp_path / "src", tmp_path / "out")
    assert rows["pmc-vqa-train-0"] == {
        "id": "pmc-vqa-train-0", "image": ["../src/images/PMC1064097_F1.jpg"], "question": "What is the uptake pattern?",
        "options": ["Diffuse uptake", "Focal uptake", "No uptake", "Ring"], "answer": "Focal uptake", "modality": "unknown", "group": "PMC1064097",
        "source": "PMC-VQA", "split": "train",
    }  # fmt: skip
    assert (rows["pmc-vqa-test_2-7"]["answer"], rows["pmc-vqa-test_2-7"]["split"]) == ("No uptake", "test")
    assert rows["pmc-vqa-train-5"]["answer"] == "Focal uptake"
    differ = "choice and answer differ"
    assert rejected == {"pmc-vqa-train-1": differ, "pmc-vqa-train-2": differ, "pmc-vqa-train-3": differ, "pmc-vqa-train-4": "image missing"}


# ---------------------------------------------------------------- any folder of labelled pictures


def test_sub_folders_name_the_labels(tmp_path):
    for name in ("train/CT/cyst/1.png", "train/CT/mass/2.png", "test/CT/normal/3.png", "test/CT/stone/4.png", "test/CT/scar/5.png", "test/X-Ray/normal/6.png"):
        picture(tmp_path / "src" / name)
    rows, rejected, _ = converted("image-folder", tmp_path / "src", tmp_path / "out")
    first = rows["train/CT/cyst/1.png"]
    assert {key: first[key] for key in ("question", "answer", "modality", "split", "group")} == {
        "question": "What does this CT image show?", "answer": "cyst", "modality": "ct", "split": "train", "group": "train/CT/cyst/1.png",
    }  # fmt: skip
    assert all(len(set(row["options"])) == 4 and set(row["options"]) <= {"cyst", "mass", "normal", "stone", "scar"} for row in rows.values())
    assert rejected == {"test/X-Ray/normal/6.png": "the only label of its modality"}
    again, _, _ = converted("image-folder", tmp_path / "src", tmp_path / "again")
    assert [row["options"] for row in again.values()] == [row["options"] for row in rows.values()]


def folders(tmp_path, *names):
    for name in names:
        picture(tmp_path / "src" / name)
    return tmp_path / "src"


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("train/CT/cyst/patient-c0/1.png", "train/CT/mass/patient-m0/1.png"), ""),
        (("train/CT/patient-c0/cyst/1.png", "train/CT/patient-m0/mass/1.png"), ""),
        (("train/CT/cyst/Pat_c0/study-1/1.png", "train/CT/mass/sub-m0/ses-2/1.png"), ""),
        (("train/CT/cyst/P0/1.png", "train/CT/mass/P1/1.png"), "split/modality/label/patient"),
        (("train/CT/P0/cyst/1.png", "train/CT/P1/mass/1.png"), "split/modality/patient/label"),
        (("train/CT/cyst/P0/T1/1.png", "train/CT/mass/P1/T2/1.png"), "split/modality/label/patient/-"),
        (("cyst/CT/train/1.png", "mass/CT/train/1.png"), "label/modality/split"),
        (("data/train/CT/cyst/1.png", "data/train/CT/mass/1.png"), ""),  # a folder too high
        (("cyst/train/1.png", "mass/train/1.png"), ""),
    ],
)
def test_whatever_the_nesting_the_label_is_the_label(tmp_path, names, layout):
    rows, rejected, _ = converted("image-folder", folders(tmp_path, *names), tmp_path / "out", layout=layout)
    assert [(row["answer"], sorted(row["options"])) for row in rows.values()] == [("cyst", ["cyst", "mass"]), ("mass", ["cyst", "mass"])]
    assert {row["split"] for row in rows.values()} == {"train"} and rejected == {}
    patients = [part for name in names for part in name.split("/") if part[0].lower() in "ps" and any(c.isdigit() for c in part) and "." not in part]
    groups = [row["group"] for row in rows.values()]
    assert groups == (patients if len(patients) == 2 else [p for p in patients if not p.startswith(("study", "ses"))] if patients else list(names))


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        (("CT/cyst/P0/1.png", "CT/mass/P1/1.png"), ("modality/label/patient", "modality/patient/label")),
        (("cyst/images/1.png", "cyst/masks/1.png", "mass/images/2.png"), ("label/patient", "patient/label")),
        (("cyst/1.png", "mass/P1/1.png"), ("label/patient", "patient/label")),  # not all at one depth
        (("a/MRI/1.png", "b/CT/2.png"), ("label/modality", "patient/label")),
        (("a/P1/S1/1.dcm.png", "b/P2/S2/1.png"), ("-/label/patient", "-/patient/label")),
    ],
)
def test_nesting_with_two_readings_is_refused_with_both(tmp_path, names, readings):
    with pytest.raises(DataError, match="can be read in two ways: ") as caught:
        convert("image-folder", folders(tmp_path, *names), tmp_path / "out")
    assert all(f"(--layout {reading})" in str(caught.value) for reading in readings) and not (tmp_path / "out").exists()


def test_a_folder_named_in_the_layout_is_the_only_one_taken(tmp_path):
    src = folders(tmp_path, "COVID/images/a.png", "COVID/masks/a.png", "Normal/images/b.png", "Normal/c.png")
    rows, rejected, _ = converted("image-folder", src, tmp_path / "out", layout="label/images")
    assert [(id, row["answer"]) for id, row in rows.items()] == [("COVID/images/a.png", "COVID"), ("Normal/images/b.png", "Normal")]
    assert rejected == dict.fromkeys(("COVID/masks/a.png", "Normal/c.png"), "not where the layout says")


@pytest.mark.parametrize(
    ("corpus", "layout", "message"),
    [
        ("image-folder", "modality/lable", 'names the label 0 times; .*did you mean "label"'),
        ("image-folder", "label/label", "names the label 2 times"),
        ("image-folder", "label/label/x", "names the label 2 times"),
        ("slake", "label", 'a layout, "label", is of folders of pictures, and slake has its own'),
    ],
)
def test_a_layout_that_cannot_be(tmp_path, corpus, layout, message):
    with pytest.raises(DataError, match=message):
        convert(corpus, folders(tmp_path, "cyst/1.png"), tmp_path / "out", layout=layout)


@pytest.mark.parametrize("name", ["train/1.png", "patient-1/1.png", "test/patient-1/1.png"])
def test_folders_that_name_no_label_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="lies in no folder that names a label; it wants labels.csv"):
        convert("image-folder", folders(tmp_path, name), tmp_path / "out")


def test_what_a_mac_leaves_beside_the_pictures_is_none(tmp_path):
    src = folders(tmp_path, "cyst/1.png", "mass/2.png")
    for name in ("__MACOSX/cyst/._1.png", "cyst/._1.png", ".Trash/x/3.png", "cyst/Thumbs.db"):
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_bytes(b"\0\5\x16\7")
    rows, rejected, _ = converted("image-folder", src, tmp_path / "out")
    assert list(rows) == ["cyst/1.png", "mass/2.png"] and rejected == {}


def test_a_file_name_that_is_no_utf_8_is_rejected_by_name(tmp_path):
    src = folders(tmp_path, "cyst/1.png", "mass/2.png")
    (src / "cyst/1.png").rename(src / "cyst" / b"Ga\xf1o.png".decode("utf-8", "surrogateescape"))
    picture(src / "cyst/3.png")
    rows, rejected, _ = converted("image-folder", src, tmp_path / "out")
    assert list(rows) == ["cyst/3.png", "mass/2.png"] and rejected == {"cyst/Ga\udcf1o.png": "half a character"}


# ---------------------------------------------------------------- tables as programs write them


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_table_of_any_program(tmp_path, delimiter, encoding, end):
    folders(tmp_path, "1.png", "2.png")
    lines = [("file", "label"), ("1.png", '"Zyste, groß"'), ("2.png", "Tumor")]
    (tmp_path / "src/labels.csv").write_bytes((end.join(map(delimiter.join, lines)) + end).encode(encoding))
    rows, _, _ = converted("image-folder", tmp_path / "src", tmp_path / "out")
    assert [row["answer"] for row in rows.values()] == ["Zyste, groß", "Tumor"]


def test_a_table_that_is_no_utf_8_says_to_save_it_so(tmp_path):
    folders(tmp_path, "1.png")
    (tmp_path / "src/labels.csv").write_bytes("file,label\n1.png,groß\n".encode("latin-1"))
    with pytest.raises(DataError, match="labels.csv:2: not UTF-8 .*; save the file as UTF-8"):
        convert("image-folder", tmp_path / "src", tmp_path / "out")


def test_a_corpus_is_cleaned_as_a_manifest_is(tmp_path):
    base = {"image": ["a.png"], "question": "<image>\nWhich?", "options": ["A. left", "B. right"], "answer": "B", "subset": "CT"}
    rows = [base, base | {"question": "side \ud83d?"}, base | {"question": "In <image>, which?"}, base | {"answer": True}]
    picture(tmp_path / "src/a.png")
    (tmp_path / "src/set.json").write_text(json.dumps(rows))
    rows, rejected, report = converted("huatuo-eval", tmp_path / "src", tmp_path / "out")
    assert [(row["question"], row["options"], row["answer"]) for row in rows.values()] == [("Which?", ["left", "right"], "right")]
    assert rejected == {"set-00001": "half a character", "set-00002": "picture tag inside a text", "set-00003": "no answer"}
    assert report["repaired"] == {"picture tags taken out of the question": 1, "letters taken off the options": 1}


def test_pictures_by_url_in_a_corpus(tmp_path):
    base = {"question": "Which?", "options": ["left", "right"], "answer": "left", "subset": "CT"}
    rows = [base | {"image": [image]} for image in ("https://example.org/a.png", f"file://{tmp_path}/src/a.png", "im\\b.png")]
    picture(tmp_path / "src/a.png")
    picture(tmp_path / "src/im/b.png")
    (tmp_path / "src/set.json").write_text(json.dumps(rows))
    rows, rejected, _ = converted("huatuo-eval", tmp_path / "src", tmp_path / "out")
    assert [row["image"] for row in rows.values()] == [["../src/a.png"], ["../src/im/b.png"]]
    assert rejected == {"set-00000": "image broken"}


def test_any_table_of_questions(tmp_path):
    base = {"id": "t1", "image": "a.png", "question": "Which?", "answer": "left", "modality": "MRI", "patient_id": "p7", "split": "dev"}
    rows = [
        base | {"options": ["left", "right"]},
        base | {"id": "t2", "choices": {"A": "left", "B": "right"}, "answer": "B"},
        base | {"id": "t3", "option_A": "left", "option_B": "right"},
        base | {"id": "t6", "option_A": "left", "option_B": "right", "answer": "B"},
        base | {"id": "t4", "answer": "Yes"},
        base | {"id": "t5", "answer": "meningioma"},
    ]
    picture(tmp_path / "src/a.png")
    write_json(tmp_path / "src/questions.json", rows)
    rows, _, _ = converted("table", tmp_path / "src", tmp_path / "out")
    assert [(row["options"], row["answer"]) for row in rows.values()] == [
        (["left", "right"], "left"), (["left", "right"], "right"), (["left", "right"], "left"), (["left", "right"], "right"), (["yes", "no"], "yes"), ([], "meningioma"),
    ]  # fmt: skip
    assert {(row["modality"], row["group"], row["split"]) for row in rows.values()} == {("mri", "p7", "dev")}


def test_options_in_the_cells_of_a_csv(tmp_path):
    """As JSON or as Python writes them; what is no list would be asked as an open question, and is not asked."""
    folders(tmp_path, "a.png")
    base = {"image": "a.png", "question": "Which?", "answer": "right"}
    cells = ('["left", "right"]', "['left', 'right']", '{"A": "left", "B": "right"}', "[]", "", "A. left; B. right", "[left")
    write_csv(tmp_path / "src/questions.csv", [base | {"id": f"q{n}", "options": cell} for n, cell in enumerate(cells)])
    rows, rejected, _ = converted("table", tmp_path / "src", tmp_path / "out")
    assert {id: row["options"] for id, row in rows.items()} == {"q0": ["left", "right"], "q1": ["left", "right"], "q2": ["left", "right"], "q3": [], "q4": []}
    assert rejected == {"q5": "options are no list", "q6": "options are no list"}
    write_json(tmp_path / "sets/set.json", [{"image": "a.png", "question": "Which?", "options": "left; right", "answer": "left", "subset": "CT"}])
    with pytest.raises(DataError, match="the first: set.json: item 1, options are no list"):
        convert("huatuo-eval", tmp_path / "sets", tmp_path / "other")


def test_a_table_of_labels(tmp_path):
    for name in ("1.png", "2.png", "ct/3.png"):
        picture(tmp_path / "src" / name)
    table = [
        {"file": "1.png", "label": "left", "modality": "X-Ray", "split": "test", "group": "p1"},
        {"file": "2.png", "label": "right", "modality": "X-Ray", "split": "", "group": ""},
        {"file": "ct/3.png", "label": "", "modality": "", "split": "", "group": ""},
    ]
    write_csv(tmp_path / "src/labels.csv", table)
    rows, rejected, _ = converted("image-folder", tmp_path / "src", tmp_path / "out")
    assert [(row["answer"], sorted(row["options"]), row["modality"], row["group"]) for row in rows.values()] == [
        ("left", ["left", "right"], "xray", "p1"), ("right", ["left", "right"], "xray", "2.png"),
    ]  # fmt: skip
    assert rows["1.png"]["split"] == "test" and "split" not in rows["2.png"]
    assert list(rejected) == ["ct/3.png"]


def test_the_place_of_the_answer_tells_nothing(tmp_path):
    """Of 400 questions with 4 options each letter is right about 100 times (3 sigma: 26)."""
    write_csv(tmp_path / "labels.csv", [{"file": f"{n}.png", "label": "abcd"[n % 4]} for n in range(400)])
    rows, _, _ = converted("image-folder", tmp_path, tmp_path / "out", check="none")
    places = [row["options"].index(row["answer"]) for row in rows.values()]
    assert all(74 <= places.count(place) <= 126 for place in range(4))


def test_slices_of_a_volume_are_labelled_by_their_reference(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    import numpy as np

    (tmp_path / "src").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "src/head.nii.gz")
    rows = [{"file": f"head.nii.gz#axis=2&slice={n}", "label": label} for n, label in ((1, "skull base"), (4, "vertex"), (9, "vertex"))]
    write_csv(tmp_path / "src/labels.csv", rows)
    rows, rejected, _ = converted("image-folder", tmp_path / "src", tmp_path / "out", copy=True)
    assert [row["image"] for row in rows.values()] == [["images/head.nii.gz#axis=2&slice=1"], ["images/head.nii.gz#axis=2&slice=4"]]
    assert rejected == {"head.nii.gz#axis=2&slice=9": "image broken"}
    assert load_image(load_dataset(str(tmp_path / "out"))[0].images[0]).size == (4, 5)


def test_pictures_of_one_name_in_two_folders_are_copied_apart(tmp_path):
    for grey, place in ((10, "images/1.png"), (200, "a/images/1.png")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), grey).save(tmp_path / place)
    (tmp_path / "a/b").mkdir()
    rows = [{"id": f"q{n}", "image": image, "question": "Which?", "answer": "left"} for n, image in enumerate(("../../images/1.png", "../images/1.png"))]
    write_json(tmp_path / "a/b/set.json", rows)
    rows, _, _ = converted("table", tmp_path / "a/b", tmp_path / "out", copy=True)
    assert [load_image(str(tmp_path / "out" / row["image"][0])).getpixel((0, 0))[0] for row in rows.values()] == [10, 200]


@pytest.mark.skipif(not OPENRAD.is_dir(), reason="shared/data/openrad is not here")
def test_real_labelled_images(tmp_path):
    rows, rejected, report = converted("image-folder", OPENRAD, tmp_path / "out")
    assert len(rows) == 7361 and rejected == {} and report["modality"] == {"ct": 533, "mri": 4600, "xray": 2228}
    assert sorted(rows["mri/00000.jpg"]["options"]) == ["glioma", "meningioma", "no tumor", "pituitary"]


# ---------------------------------------------------------------- the source as a whole


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_folder_of_something_else_is_refused_with_the_layout(corpus, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=f"{tmp_path.name}.*(has|wants|is one)"):
        convert(corpus, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="nowhere"):
        convert(corpus, tmp_path / "nowhere", tmp_path / "out")


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "train.json").write_text('[{"img_name": ')
    with pytest.raises(DataError, match=r"train.json: no JSON \(Expecting value at column 15\): .*copy the file again"):
        convert("slake", tmp_path, tmp_path / "out")
    (tmp_path / "train.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="train.json: item 1 must be a JSON object"):
        convert("slake", tmp_path, tmp_path / "out")


def test_a_source_without_one_good_row_is_refused_with_its_first_fault(tmp_path):
    write_json(tmp_path / "train.json", [{"qid": 3, "q_lang": "zh", "question": "?", "answer": "x"}])
    with pytest.raises(DataError, match="no row .* 1 rejected .*item 1, not English"):
        convert("slake", tmp_path, tmp_path / "out")


def test_a_manifest_is_not_overwritten(omnimedvqa, tmp_path):
    convert("omnimedvqa", omnimedvqa, tmp_path / "out")
    with pytest.raises(RunError, match="already holds a manifest"):
        convert("omnimedvqa", omnimedvqa, tmp_path / "out")


def test_the_same_source_gives_the_same_bytes(omnimedvqa, tmp_path):
    for name in ("one", "two"):
        convert("omnimedvqa", omnimedvqa, tmp_path / name)
    assert (tmp_path / "one/manifest.jsonl").read_bytes() == (tmp_path / "two/manifest.jsonl").read_bytes()


def test_an_unknown_corpus_is_named(tmp_path):
    with pytest.raises(DataError, match='"slaek" is unknown; did you mean "slake"'):
        convert("slaek", tmp_path, tmp_path / "out")
