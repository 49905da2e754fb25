"""DICOM and NIfTI files made here, opened by reference; grey levels worked out by hand."""

import numpy as np
import pytest
from drawn_files import save_dicom, save_nifti

from medvlm_r1.data.images import load_image
from medvlm_r1.data.window import bounds, window
from medvlm_r1.errors import ImageError

pydicom = pytest.importorskip("pydicom")


def levels(reference):
    return np.asarray(load_image(str(reference)))[..., 0].tolist()


# ---------------------------------------------------------------- DICOM

# Stored 0..4 of slope 100, intercept -200 are -200 -100 0 100 200.
RESCALED = {"RescaleSlope": 100, "RescaleIntercept": -200}


def test_rescale_and_linear_window(tmp_path):
    """PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255; at c 0, w 201: (x + 0.5) / 200 + 0.5."""
    file = save_dicom(tmp_path / "a.dcm", [[0, 1, 2, 3, 4]], **RESCALED, WindowCenter=0, WindowWidth=201)
    # -99.5/200 + .5 = .0025 -> 0.6; .5/200 + .5 = .5025 -> 128.1; 100.5/200 + .5 > 1
    assert levels(file) == [[0, 1, 128, 255, 255]]


def test_linear_exact_and_sigmoid(tmp_path):
    exact = save_dicom(tmp_path / "e.dcm", [[0, 1, 2, 3, 4]], **RESCALED, WindowCenter=0, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    assert levels(exact) == [[0, 64, 128, 191, 255]]  # (x / 400 + .5) * 255: 63.75, 127.5, 191.25
    sigmoid = save_dicom(tmp_path / "s.dcm", [[0, 1, 2, 3, 4]], **RESCALED, WindowCenter=0, WindowWidth=400, VOILUTFunction="SIGMOID")
    assert levels(sigmoid) == [[30, 69, 128, 186, 225]]  # 255 / (1 + exp(-4 x / 400))


def test_the_first_of_several_windows_is_taken_and_a_named_one_wins(tmp_path):
    file = save_dicom(tmp_path / "a.dcm", [[0, 1, 2, 3, 4]], **RESCALED, WindowCenter=[0, 500], WindowWidth=[201, 10])
    assert levels(file) == [[0, 1, 128, 255, 255]]
    assert levels(f"{file}#center=-100&width=2") == [[0, 255, 255, 255, 255]]


def test_our_window_is_the_standards(tmp_path):
    """The bounds used for NIfTI, against pydicom's own formula, over every level and several windows."""
    values = np.arange(-1100, 1100, 7)[None]
    for center, width in ((40, 400), (-600, 1500), (0, 2), (35, 80)):
        file = save_dicom(tmp_path / "a.dcm", values, dtype=np.int16, WindowCenter=center, WindowWidth=width)
        assert levels(file) == np.asarray(window(values.astype(float), *bounds(center, width))).tolist()


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    file = save_dicom(tmp_path / "a.dcm", [[0, 1, 2, 3, 4]], **RESCALED, WindowCenter=0, WindowWidth=201, PhotometricInterpretation="MONOCHROME1")
    assert levels(file) == [[255, 254, 127, 0, 0]]


def test_without_a_window_percentiles_are_taken_and_padding_left_out(tmp_path):
    ramp = np.arange(1000, 2001, dtype=np.int16)  # 0.5 and 99.5 percentiles: 1005 and 1995
    file = save_dicom(tmp_path / "a.dcm", ramp[None], dtype=np.int16)
    row = levels(file)[0]
    assert (row[5], row[6], row[500], row[995], row[1000]) == (0, 0, 128, 255, 255)
    assert row[10] == 1  # 5 / 990 * 255 = 1.29
    padded = save_dicom(tmp_path / "p.dcm", np.append(ramp, [-2000] * 500)[None], dtype=np.int16, PixelPaddingValue=-2000)
    assert levels(padded)[0] == row + [0] * 500


def test_a_voi_lut_comes_before_a_window(tmp_path):
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [3, 1, 16], [0, 65535, 13107]  # 1 -> black, 2 -> white, 3 and above -> a fifth
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "US"
    file = save_dicom(tmp_path / "a.dcm", [[0, 1, 2, 3, 4]], VOILUTSequence=[lut], WindowCenter=2, WindowWidth=4)
    assert levels(file) == [[0, 0, 255, 51, 51]]


def test_frames_are_counted_from_0(tmp_path):
    file = save_dicom(tmp_path / "a.dcm", [[[0, 10]], [[10, 0]]], WindowCenter=5.5, WindowWidth=11)
    assert levels(file) == levels(f"{file}#frame=0") == [[0, 255]]
    assert levels(f"{file}#frame=1") == [[255, 0]]
    with pytest.raises(ImageError, match="no frame 2; it has 2"):
        load_image(f"{file}#frame=2")


def test_enhanced_objects_keep_their_window_per_frame(tmp_path):
    def item(**values):
        made = pydicom.Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    shared = item(PixelValueTransformationSequence=[item(RescaleSlope=100, RescaleIntercept=-200)])
    windows = [item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=201)]) for center in (0, 100)]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": windows}
    file = save_dicom(tmp_path / "a.dcm", [[[0, 1, 2, 3, 4]]] * 2, **groups)
    assert levels(f"{file}#frame=0") == [[0, 1, 128, 255, 255]]
    assert levels(f"{file}#frame=1") == [[0, 0, 1, 128, 255]]


def test_colour_passes_through(tmp_path):
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    file = save_dicom(tmp_path / "a.dcm", rgb, dtype=np.uint8, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    assert (np.asarray(load_image(str(file))) == rgb).all()


def test_a_palette_is_looked_up(tmp_path):
    palette = {}
    for n, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = np.array([0, (n + 1) << 12], np.uint16).tobytes()
    file = save_dicom(tmp_path / "a.dcm", [[0, 1]], dtype=np.uint8, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert np.asarray(load_image(str(file))).tolist() == [[[0, 0, 0], [16, 32, 48]]]


def test_a_dicom_file_needs_no_suffix(tmp_path):
    file = save_dicom(tmp_path / "1.2.840.113619", [[0, 10]], WindowCenter=5.5, WindowWidth=11)
    assert levels(file) == [[0, 255]]


def test_dicom_files_that_show_nothing(tmp_path):
    (tmp_path / "text.dcm").write_text("no header here" * 100)
    with pytest.raises(ImageError, match="no DICOM header"):
        load_image(str(tmp_path / "text.dcm"))
    file = save_dicom(tmp_path / "a.dcm", np.zeros((64, 64)))
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(ImageError, match="truncated or corrupt"):
        load_image(str(file))
    dataset = pydicom.dcmread(save_dicom(tmp_path / "b.dcm", [[1]]))
    del dataset.PixelData
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(ImageError, match="holds no pixels"):
        load_image(str(tmp_path / "b.dcm"))


def test_what_follows_the_sign_must_be_known(tmp_path):
    file = save_dicom(tmp_path / "a.dcm", [[1]])
    with pytest.raises(ImageError, match='unknown key "slice"'):
        load_image(f"{file}#slice=1")
    load_image("phantom:mri/test/0").save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="single picture"):
        load_image(f"{tmp_path / 'a.png'}#frame=0")


# ---------------------------------------------------------------- NIfTI


def marked():
    """2 x 3 x 4 voxels (right, front, head growing); 100 at the patient's right front top, 40 at the left front top."""
    volume = np.zeros((2, 3, 4))
    volume[1, 2, 3], volume[0, 2, 3] = 100, 40
    return volume


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_are_in_radiological_convention_however_they_are_stored(tmp_path, orientation, suffix):
    file = save_nifti(tmp_path / f"a{suffix}", marked(), orientation, cal_min=0, cal_max=100)
    # The patient's right is on the left; front (axial) and head (coronal, sagittal) are up.
    assert levels(f"{file}#axis=2&slice=3") == [[255, 102], [0, 0], [0, 0]]
    assert levels(f"{file}#axis=1&slice=2") == [[255, 102], [0, 0], [0, 0], [0, 0]]
    assert levels(f"{file}#axis=0&slice=1") == [[255, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_the_window_of_a_volume(tmp_path):
    volume = np.arange(1000, 2001).reshape(1, 7, 143)
    file = save_nifti(tmp_path / "a.nii", volume)
    flat = [level for row in levels(f"{file}#axis=0&slice=0") for level in row]
    assert (min(flat), max(flat), flat.count(0), flat.count(255)) == (0, 255, 7, 7)  # 1000..1006 and 1994..2000: 0.5 % and what rounds
    shown = [level for row in levels(f"{file}#axis=0&slice=0&center=1500&width=3") for level in row]
    assert sorted(set(shown)) == [0, 64, 191, 255]  # 1499 and 1500 lie a quarter and three quarters between 1498.5 and 1500.5


def test_a_volume_wants_a_slice_that_it_has(tmp_path):
    file = save_nifti(tmp_path / "a.nii.gz", marked())
    with pytest.raises(ImageError, match=r"no slice named; it has 4 axial ones: write a.nii.gz#axis=2&slice=2"):
        load_image(str(file))
    with pytest.raises(ImageError, match=r"no slice 2; it has 2 sagittal"):
        load_image(f"{file}#axis=0&slice=2")
    with pytest.raises(ImageError, match="no axis 3"):
        load_image(f"{file}#axis=3&slice=0")
    with pytest.raises(ImageError, match="no volume 1; it has 1"):
        load_image(f"{file}#slice=0&volume=1")


def test_one_of_several_volumes(tmp_path):
    four = np.stack([marked(), 0 * marked()], axis=-1)
    file = save_nifti(tmp_path / "a.nii", four, cal_max=100)
    assert levels(f"{file}#slice=3")[0] == [255, 102]
    assert levels(f"{file}#slice=3&volume=1")[0] == [0, 0]


def test_broken_volumes(tmp_path):
    (tmp_path / "a.nii").write_text("no header here" * 100)
    with pytest.raises(ImageError, match="no NIfTI header"):
        load_image(f"{tmp_path / 'a.nii'}#slice=0")
    whole = save_nifti(tmp_path / "b.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20))).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated or corrupt"):
        load_image(f"{tmp_path / 'b.nii.gz'}#slice=0")
