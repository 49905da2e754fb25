"""NIfTI files as they are found: every type of voxel, names that lie, headers that contradict themselves."""

import gzip
import struct

import drawn_files as drawn
import nibabel
import numpy as np
import pytest

from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ImageError

VOLUME = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # right, front, head growing; slice 3 holds 3 7 11 (left), 15 19 23 (right)
WINDOW = {"cal_min": 3, "cal_max": 23}
SHOWN = [[204 + 51, 102], [204, 51], [153, 0]]  # front to back, the patient's right first: 23 11, 19 7, 15 3; (x - 3) / 20 * 255


def levels(path, place="#slice=3"):
    return np.asarray(load_image(f"{path}{place}"))[..., 0].tolist()


def refused(path, *parts, place="#slice=3"):
    with pytest.raises(ImageError) as caught:
        load_image(f"{path}{place}")
    sentence = str(caught.value)
    assert "\n" not in sentence and str(path) in sentence and all(part in sentence for part in parts), sentence


def patched(path, at, form, *values):
    """The file with numbers written over its header."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_type_of_number(tmp_path, kind, version):
    assert levels(drawn.save_nifti(tmp_path / "a.nii", VOLUME, kind=kind, version=version, **WINDOW)) == SHOWN


def coloured(names, **values):
    volume = np.zeros((2, 3, 4), [(name, "u1") for name in names])
    for name, value in values.items():
        volume[name] = value
    return volume


def test_colour_is_shown_as_it_is_and_opacity_laid_over_white(tmp_path):
    plain = coloured("RGB", R=10, G=20, B=30)
    file = drawn.save_nifti(tmp_path / "a.nii.gz", plain, kind=plain.dtype)
    assert np.asarray(load_image(f"{file}#slice=3"))[0, 0].tolist() == [10, 20, 30]
    clear = coloured("RGBA", R=10, G=20, B=30)
    clear["A"][1, 2] = 255  # right, front
    file = drawn.save_nifti(tmp_path / "b.nii.gz", clear, kind=clear.dtype)
    assert np.asarray(load_image(f"{file}#slice=3"))[:2, 0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_colour_has_no_slope(tmp_path):
    """nifti1.h: scl_slope does not apply to DT_RGB24."""
    volume = coloured("RGB", G=100)
    file = patched(drawn.save_nifti(tmp_path / "a.nii", volume, kind=volume.dtype), 112, "<ff", 2.0, 5.0)
    assert np.asarray(load_image(f"{file}#slice=0"))[0, 0].tolist() == [0, 100, 0]


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_complex_numbers_are_refused_with_what_to_do(tmp_path, kind):
    refused(drawn.save_nifti(tmp_path / "a.nii.gz", VOLUME * (1 + 1j), kind=kind), "complex numbers; write their magnitude")


def test_nan_is_background_and_no_part_of_the_window(tmp_path):
    values = np.arange(1001.0).reshape(1, 7, 143)
    whole = levels(drawn.save_nifti(tmp_path / "a.nii", values, kind=np.float32), "#axis=0&slice=0")
    values = np.concatenate([values, np.full((1, 7, 143), np.nan)])
    values[1, 0, :2] = np.inf, -np.inf
    file = drawn.save_nifti(tmp_path / "b.nii", values, kind=np.float32)
    assert levels(file, "#axis=0&slice=0") == whole and whole[0][1] == 219  # (857 - 5) / 990 * 255
    background = levels(file, "#axis=0&slice=1")
    assert background[142][6] == 255 and sum(map(sum, background)) == 255
    refused(drawn.save_nifti(tmp_path / "c.nii", values * np.nan, kind=np.float32), "only NaN", place="#axis=0&slice=0")


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 0.0), (0.0, 7.0), (np.nan, np.nan)])
def test_slope_0_or_nan_is_none(tmp_path, slope, intercept):
    """nifti1.h: scaled only where scl_slope is not 0."""
    assert levels(patched(drawn.save_nifti(tmp_path / "a.nii", VOLUME, **WINDOW), 112, "<ff", slope, intercept)) == SHOWN


def test_a_slope_is_applied_before_the_window(tmp_path):
    file = drawn.save_nifti(tmp_path / "a.nii", VOLUME, cal_min=1, cal_max=41)
    assert levels(patched(file, 112, "<ff", 2.0, -5.0)) == SHOWN  # 2 x - 5 between 1 and 41


@pytest.mark.parametrize("bounds", [(np.nan, np.nan), (0.0, np.inf), (5.0, 5.0), (9.0, 1.0)])
def test_bounds_that_bound_nothing_are_no_window(tmp_path, bounds):
    file = drawn.save_nifti(tmp_path / "a.nii", VOLUME)
    wanted = levels(file)
    assert levels(patched(file, 124, "<ff", bounds[1], bounds[0])) == wanted


def test_the_content_says_whether_it_is_compressed(tmp_path):
    zipped = drawn.save_nifti(tmp_path / "a.nii.gz", VOLUME, **WINDOW).read_bytes()
    for name, data in (("a.nii", zipped), ("b.nii.gz", gzip.decompress(zipped)), ("head", zipped), ("scan.png", zipped)):
        (tmp_path / name).write_bytes(data)
        assert levels(tmp_path / name) == SHOWN
    (tmp_path / "c.nii").write_bytes(gzip.compress(b"no header" * 99))
    refused(tmp_path / "c.nii", "compressed with gzip); unpack it")


def test_two_dimensions_are_one_slice_and_more_than_three_are_volumes(tmp_path):
    flat = nibabel.Nifti1Image(np.array([[0, 1, 2], [3, 4, 5]], np.int16), np.eye(4))
    flat.header["cal_max"] = 5
    nibabel.save(flat, tmp_path / "a.nii")
    assert levels(tmp_path / "a.nii", "") == [[255, 102], [204, 51], [153, 0]]
    five = drawn.save_nifti(tmp_path / "b.nii.gz", np.stack([[VOLUME * 0, VOLUME]], 0).transpose(2, 3, 4, 0, 1), **WINDOW)
    assert levels(five, "#slice=3&volume=1") == SHOWN
    assert levels(five) == [[0, 0]] * 3
    refused(five, "no volume 2; it has 2", place="#slice=3&volume=2")
    line = nibabel.Nifti1Image(np.zeros(5, np.int16), np.eye(4))
    nibabel.save(line, tmp_path / "c.nii")
    refused(tmp_path / "c.nii", "has 1 dimensions")


@pytest.mark.parametrize("matrix", [np.zeros((3, 4)), np.full((3, 4), np.nan)])
def test_an_affine_that_says_nothing_is_named(tmp_path, matrix):
    file = patched(drawn.save_nifti(tmp_path / "a.nii", VOLUME), 280, "<12f", *matrix.ravel())
    refused(file, "does not say how its axes lie")


def test_headers_that_claim_too_much_are_refused_first(tmp_path):
    file = patched(drawn.save_nifti(tmp_path / "a.nii", VOLUME), 40, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    refused(file, "is too large")
    refused(patched(file, 40, "<8h", 3, 500, 500, 500, 1, 1, 1, 1), "it says 500 x 500 x 500 voxels")
    refused(patched(file, 40, "<8h", 3, 2, -3, 4, 1, 1, 1, 1), "truncated or corrupt")
    small = patched(drawn.save_nifti(tmp_path / "b.nii", np.zeros((9, 9, 9))), 40, "<8h", 3, 600, 600, 600, 1, 1, 1, 1)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(small.read_bytes()))
    refused(tmp_path / "b.nii.gz", "it says 600 x 600 x 600 voxels")


def test_a_type_of_voxel_that_is_unknown_is_named(tmp_path):
    refused(patched(drawn.save_nifti(tmp_path / "a.nii", VOLUME), 70, "<hh", 1, 1), "truncated or corrupt (data code 1")
