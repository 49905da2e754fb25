"""Perceptual hashes, the search for near ones, and what is counted as a twin."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from medvlm_r1.audit.duplicates import duplicates, n_pictures
from medvlm_r1.audit.hashing import NEAR_BITS, Failure, fingerprints, near_pairs, perceptual_hash
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ImageError
from medvlm_r1.types import Example

OPENRAD = Path(__file__).parents[2] / "shared" / "data" / "openrad"


def scene(seed, side=120):
    """A smooth random picture: blurred noise, stretched to all grey levels."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(side / 15)), dtype=float)
    return Image.fromarray(np.uint8(255 * (blurred - blurred.min()) / np.ptp(blurred)))


def bits_between(a, b):
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


def test_the_hash_bears_size_contrast_and_compression_but_no_other_picture(tmp_path):
    picture = scene(1)
    picture.save(tmp_path / "poor.jpg", quality=30)
    copies = [picture.resize((300, 300)), picture.point(lambda level: 40 + level // 2), Image.open(tmp_path / "poor.jpg"), picture.convert("RGB")]
    assert [bits_between(picture, copy) <= NEAR_BITS for copy in copies] == [True] * 4
    assert min(bits_between(picture, scene(seed)) for seed in range(2, 30)) > 10
    assert bits_between(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 10  # as the docs say


def test_near_pairs_are_those_of_brute_force():
    rng = np.random.default_rng(5)
    seeds = rng.integers(0, 2**64, 60, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, size=n, replace=False)) for n in (1, 2, 3, 3, 4, 5)], dtype=np.uint64)
    hashes = np.unique(np.concatenate([seeds, *(seeds ^ flip for flip in flips)]))
    wanted = [[i, j] for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if int(hashes[i] ^ hashes[j]).bit_count() <= NEAR_BITS]
    assert near_pairs(hashes).tolist() == wanted
    assert len(wanted) > 240  # four flips of sixty are near, and some flips are near each other


@pytest.mark.parametrize("bits", [(0, 16, 32), (1, 2, 3), (15, 31, 63), (48, 47, 16)])
def test_three_bits_are_found_wherever_they_lie(bits):
    other = sum(1 << bit for bit in bits)
    assert near_pairs(np.array([0, other], dtype=np.uint64)).tolist() == [[0, 1]]
    assert near_pairs(np.array([0, other ^ (1 << 40)], dtype=np.uint64)).tolist() == []


def test_no_hash_and_one_hash_have_no_pairs():
    for n in (0, 1):
        assert near_pairs(np.zeros(n, dtype=np.uint64)).shape == (0, 2)


def test_fingerprints_keep_the_order_and_count_the_broken():
    pictures = {f"{i}.png": scene(i) for i in range(5)}

    def open_one(reference):
        if reference not in pictures:
            raise ImageError(f"{reference} is torn")
        return pictures[reference]

    found = list(fingerprints(["0.png", "x.png", "4.png"], open_one))
    assert [f.reference for f in found] == ["0.png", "x.png", "4.png"]
    assert found[1] == Failure("x.png", "x.png is torn")
    assert found[2].bits == perceptual_hash(pictures["4.png"])


@pytest.fixture
def folder(tmp_path):
    """Pictures a, b, c, d, e; a2 is a's file again, a3 a as a small JPEG, b2 is b's file; torn.png is none."""
    for i, name in enumerate("abcde"):
        scene(i).save(tmp_path / f"{name}.png")
    for name, copy in (("a", "a2"), ("b", "b2")):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{name}.png").read_bytes())
    scene(0).resize((70, 70)).save(tmp_path / "a3.jpg", quality=30)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    return tmp_path


def asked(folder, *names, group=""):
    return [Example(f"{name}-{group}", (str(folder / name),), "What?", (), name[0], "mri" if name[0] == "a" else "ct", group=group) for name in names]


def count(report, where):
    return report[where]["exact"], report[where]["near"]


def test_twins_within_and_across(folder):
    test = asked(folder, "a.png", "b.png", "c.png")
    report = duplicates(test, asked(folder, "a2.png", "a3.jpg", "b2.png", "d.png"), load_image, "files", lambda n: None)
    assert count(report, "across") == (2, 2) and count(report, "within") == (0, 0)
    assert report["across"]["near_by_modality"] == {"mri": 1, "ct": 1}
    assert (report["pictures"], report["hashed"], report["shared_references"]) == (3, 3, 0)
    pairs = {(Path(p["reference"]).name, Path(p["other"]).name, p["exact"], p["answers"]) for p in report["examples"]}
    assert ("b.png", "b2.png", True, ("b", "b")) in pairs and {p[0] for p in pairs} == {"a.png", "b.png"}


def test_a_near_twin_is_found_from_either_side(folder):
    one, other = Image.open(folder / "a.png"), Image.open(folder / "a3.jpg")
    assert bits_between(one, other) > 0  # else they are of one class, and no neighbours are asked
    for test, train in (("a.png", "a3.jpg"), ("a3.jpg", "a.png")):
        near = duplicates(asked(folder, test, "c.png"), asked(folder, train), load_image, "files", lambda n: None)
        assert count(near, "across") == (0, 1)
        assert [p["exact"] for p in near["examples"]] == [False]


def test_twins_of_one_group_are_no_finding_within_a_set(folder):
    same = duplicates(asked(folder, "a.png", "a2.png", "a3.jpg", group="p1"), None, load_image, "files", lambda n: None)
    assert count(same, "within") == (0, 0) and same["across"] is None and same["examples"] == []
    other = [*asked(folder, "a.png", "a2.png", group="p1"), *asked(folder, "a3.jpg", group="p2"), *asked(folder, "b.png", group="p3")]
    report = duplicates(other, None, load_image, "files", lambda n: None)
    assert count(report, "within") == (0, 3)


def test_a_hash_in_a_name_is_no_place_in_a_file(folder):
    for name in ("case #3.png", "case #4.png"):
        shutil.copy(folder / "a.png", folder / name)
    rows = [*asked(folder, "case #3.png", group="p1"), *asked(folder, "case #4.png", group="p2")]
    report = duplicates(rows, None, load_image, "files", lambda n: None)
    assert report["skipped"]["missing"] == 0 and count(report, "within") == (2, 2)


def test_what_is_not_opened_is_counted(folder):
    rows = [*asked(folder, "a.png", "gone.png", "torn.png"), Example("p", ("phantom:mri/test/0",), "?", (), "x", "mri")]
    heard = []
    report = duplicates(rows, None, load_image, "files", heard.append)
    assert report["skipped"] == {"missing": 1, "unreadable": 1, "drawn": 1, "not_asked": 0}
    assert report["hashed"] == 1 and "torn.png" in report["reasons"][0]
    assert sum(heard) == n_pictures(rows, None, "files") == 2
    assert duplicates(rows, None, load_image, "all", heard.append)["hashed"] == 2
    assert duplicates(rows, None, load_image, "none", heard.append)["skipped"]["not_asked"] == 4


def test_a_file_that_both_sides_name_needs_no_hash(folder):
    report = duplicates(asked(folder, "a.png", "b.png"), asked(folder, "b.png", "c.png"), load_image, "none", lambda n: None)
    assert report["shared_references"] == 1


@pytest.mark.skipif(not OPENRAD.exists(), reason=f"{OPENRAD} is not here: the open radiographs are not part of the product")
def test_the_mri_source_is_known_for_near_duplicates_between_its_folders():
    with (OPENRAD / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "mri" and (row["split"] == "test" or row["label"] == "no tumor")]
    sides = {"train": [], "test": []}
    for row in rows:
        sides[row["split"]].append(Example(row["file"], (str(OPENRAD / row["file"]),), "What?", (), row["label"], "mri", group=row["group"]))
    report = duplicates(sides["test"], sides["train"], load_image, "files", lambda n: None)
    assert report["hashed"] == 600 and report["across"]["exact"] == 33
    assert 105 <= report["across"]["near"] <= 125
    assert {p["where"] for p in report["examples"]} == {"across", "within"}
