"""The study on real pictures: what is dropped, what the base is taught, and the whole of it in its smallest form."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from rich.console import Console

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import DataError, RunError
from medvlm_r1.evaluation.samples import Sample, read_samples
from medvlm_r1.experiments import openrad, openrad_base, study
from medvlm_r1.experiments.nano_base import Stage
from medvlm_r1.types import Example

LABELS = {"mri": ("glioma", "no tumor"), "ct": ("COVID-19", "no COVID-19"), "xray": ("normal", "pneumonia")}
SIZES = openrad.Sizes(
    openrad.Split(test=4, reserve=4), train=3, base=openrad_base.BaseConfig((Stage(2, 4, {"question": 0.5, "teacher": 0.5}, 1e-3),)),
    changes={"steps": 1, "prompts_per_step": 2, "save_every": 1},
)  # fmt: skip
OPENRAD = Path(__file__).parents[2] / "shared" / "data" / "openrad"


def picture(seed, side=90):
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 20), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6)), dtype=float)
    return Image.fromarray(np.uint8(255 * (blurred - blurred.min()) / np.ptp(blurred)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of each label to train, three to test; of the tests one is a training picture again, one is of a training patient."""
    return filled(tmp_path_factory.mktemp("folder"), LABELS)


def filled(root, of_modality):
    rows = [
        (f"{m}/{label.split()[0]}-{split}-{n}.jpg", m, label, split)
        for m, labels in of_modality.items() for label in labels for split, count in (("train", 6), ("test", 3)) for n in range(count)
    ]  # fmt: skip
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "modality", "label", "split", "group"])
        for seed, (name, modality, label, split) in enumerate(rows):
            (root / modality).mkdir(exist_ok=True)
            picture(seed).save(root / name, quality=90)
            is_cut = name in ("xray/normal-test-0.jpg", "xray/normal-train-0.jpg")
            table.writerow([name, modality, label, split, "patient-1" if is_cut else f"patient-of-{name}"])
    load_image(str(root / "mri/glioma-train-5.jpg")).resize((200, 180)).save(root / "mri/glioma-test-0.jpg", quality=60)
    return root


def tell(folder, out, seeds=2, sizes=SIZES):
    return openrad.run(folder, out, seeds, sizes=sizes)


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("told") / "study"
    return out, tell(folder, out), json.loads((out / "study.json").read_text())


def test_a_test_picture_with_a_twin_or_a_patient_in_training_is_dropped(told):
    out, _, result = told
    assert result["data"]["dropped_from_test"] == {
        "mri": {"of": 6, "twin": 1, "group": 0}, "ct": {"of": 6, "twin": 0, "group": 0}, "xray": {"of": 6, "twin": 0, "group": 1},
    }  # fmt: skip
    ids = {e.id for e in load_dataset(str(out / "questions" / "test.jsonl"))}
    assert ids.isdisjoint({"mri/glioma-test-0.jpg", "xray/normal-test-0.jpg"})


def test_the_test_has_no_label_more_often_than_its_share_and_so_no_text_prior(told):
    _, _, result = told
    assert result["data"]["questions"]["test"] == {m: dict.fromkeys(labels, 2) for m, labels in LABELS.items()}
    assert [result["text_prior"][m]["accuracy"] for m in ("ct", "xray")] == [0.5, 0.5]


def test_the_base_never_sees_what_the_arms_train_on(told):
    out, _, _result = told
    names = ("base", "reserve", "train-0", "train-1", "test")
    parts = {name: {e.id for e in load_dataset(str(out / "questions" / f"{name}.jsonl"))} for name in names}
    assert len(parts["reserve"]) == 4 and len(parts["base"]) == 12 + 12 + 8
    assert parts["base"].isdisjoint(parts["reserve"]) and parts["train-0"] < parts["reserve"] and parts["train-1"] < parts["reserve"]
    assert parts["train-0"] != parts["train-1"]
    assert parts["test"].isdisjoint(parts["base"] | parts["reserve"])


def test_every_number_comes_from_the_samples_of_all_seeds(told):
    out, text, result = told
    assert set(result["arms"]) == set(openrad.ARMS)
    right = [sum(s.correct for s in read_samples(out / f"seed-{seed}" / "grpo.jsonl") if s.modality == "ct") / 4 for seed in range(2)]
    cell = result["arms"]["grpo"]["ct"]
    assert cell["accuracy_seeds"] == right and cell["accuracy"] == pytest.approx(sum(right) / 2)
    assert cell["accuracy_ci95"][0] <= cell["accuracy"] <= cell["accuracy_ci95"][1]
    assert result["paired"]["grpo-sft"].keys() == {"all", "mri", "ct", "xray"}
    assert "| GRPO minus | all three | MRI | CT | X-ray |" in text and text + "\n" == (out / "study.md").read_text()


def test_what_is_finished_is_not_done_again(told, folder):
    out, text, _ = told
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.suffix in (".safetensors", ".jsonl")}
    assert tell(folder, out) == text
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_another_size_in_the_same_place_is_refused(told, folder):
    with pytest.raises(RunError, match="choose another --run-dir"):
        tell(folder, told[0], sizes=openrad.Sizes())


def test_a_folder_without_a_modality_is_refused(folder, tmp_path):
    (tmp_path / "mri").symlink_to(folder / "mri")
    rows = [line for line in (folder / "labels.csv").read_text().splitlines() if line.startswith(("file", "mri"))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="leaves no ct picture"):
        openrad.prepare(tmp_path, tmp_path / "out", SIZES.split, Console(file=io.StringIO()))


class Policy:
    """As much of one as a ward asks for before it collates."""

    class encoder:
        tokenizer = None


def test_lessons_tell_what_the_picture_shows_under_any_order_of_the_options(tmp_path):
    examples = []
    for n, label in enumerate(("glioma", "no tumor", "glioma", "glioma")):
        picture(n).resize((84, 84)).save(tmp_path / f"{n}.png")
        examples.append(Example(str(n), (str(tmp_path / f"{n}.png"),), "What?", ("glioma", "no tumor"), label, "mri"))
    ward, rng = openrad_base.Ward(Policy, examples), np.random.default_rng(0)
    drawn = [ward.lesson(rng, "question") for _ in range(200)]
    for lesson in drawn:
        answer = examples[lesson.picture % 4].answer
        letter = "A" if f"A) {answer}\n" in lesson.prompt else "B"
        assert lesson.completion == f"<think>MRI. Finding: {answer}. Hence {answer}.</think>\n<answer>{letter}</answer>"
    assert 60 < sum("A) glioma" in lesson.prompt for lesson in drawn) < 140
    assert 60 < sum(lesson.picture % 4 == 1 for lesson in drawn) < 140  # one picture of four: labels are drawn equally
    assert max(lesson.picture for lesson in drawn) < 4 * openrad_base.VARIANTS
    assert {ward.lesson(rng, "lookup").picture for _ in range(5)} == {None}


def test_a_pools_variants_are_the_picture_mirrored_and_moved():
    pixels = np.arange(2 * 84 * 84).reshape(2, 84, 84)
    pool = openrad_base.variants(pixels)
    assert len(pool) == 2 * openrad_base.VARIANTS
    assert (pool[1] == pixels[1]).all() and (pool[2 * 5 + 1] == pixels[1, :, ::-1]).all()
    assert pool[2 * 1 + 1][5, 3] == pixels[1, 0, 0]


def test_the_study_compares_arms_as_worked_out_by_hand():
    question = Sample("q", "mri", "label", "g", "What?", ("a", "b"), "A", (), "image", "", None, "unparsed", correct=False, n_tokens=0)
    before = [[replace(question, id=str(n), group=str(n), sampled_answers=(question.gold if n == 0 else None, None)) for n in range(4)]]
    after = [[replace(s, sampled_answers=(s.gold, None)) for s in before[0]]]
    assert study.paired(after, before, {"mri": ("mri",)})["mri"]["mean_difference"] == pytest.approx((0 + 3 * 0.5) / 4)


@pytest.mark.skipif(not OPENRAD.exists(), reason=f"{OPENRAD} is not here: the open radiographs are not part of the product")
def test_the_x_ray_parts_share_patients_which_fall_out_of_the_test():
    with (OPENRAD / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "xray"]
    asked = [Example(r["file"], (), "What?", (), r["label"], "xray", group=r["group"], split=r["split"]) for r in rows]
    clean, fallen = openrad.without_trained(*([e for e in asked if e.split == split] for split in ("train", "test")))
    assert fallen["xray"]["of"] == 300 and fallen["xray"]["group"] > 0 and fallen["xray"]["twin"] == 0
    assert len(clean) == 300 - fallen["xray"]["group"]


def test_pictures_whose_names_differ_behind_the_suffix_are_kept_apart(tmp_path):
    """As slices of one volume do, and files of one stem."""
    kept = []
    for id, grey in (("7.png", 200), ("7.jpg", 20), ("head.nii.gz#axis=2&slice=0", 90)):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{grey}.png")
        example = Example(id, (str(tmp_path / f"{grey}.png"),), "Which?", ("a", "b"), "a", "mri")
        kept.append(openrad.squeezed(example, tmp_path / "squeezed", 4).images[0])
    assert [load_image(reference).getpixel((0, 0))[0] for reference in kept] == [200, 20, 90]
