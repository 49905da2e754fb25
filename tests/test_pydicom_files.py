"""Every DICOM file that pydicom brings for its own tests: a picture, or one true sentence."""

import collections
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
for decoder in ("jpeg_ls", "openjpeg"):
    pytest.importorskip(decoder)

from medvlm_r1.data.images import load_image  # noqa: E402
from medvlm_r1.errors import ImageError  # noqa: E402


def dicom_files():
    data = Path(pydicom.__file__).parent / "data"
    return [p for p in sorted(data.rglob("*")) if p.is_file() and (p.suffix == ".dcm" or p.read_bytes()[128:132] == b"DICM")]


REFUSED = {
    "JPEG-lossy.dcm": "JPEG Extended",  # 12 bits
    "JPGExtended.dcm": "JPEG Extended",
    "SC_rgb_jpeg_gdcm.dcm": "JPEG Lossless",
    "JPEG2000-embedded-sequence-delimiter.dcm": "is too large (3722445056 x 1024 pixels",  # its stream says so
    "MR_truncated.dcm": "8130 bytes are there, not 8192",
    "badVR.dcm": "has NumberOfFrames '1A', which is no number",
    "no_meta.dcm": "no DICOM header",  # begins with a stray byte
    "meta_missing_tsyntax.dcm": "no PhotometricInterpretation",
    "nested_priv_SQ.dcm": "no PhotometricInterpretation",
}


def test_each_is_shown_or_refused_for_a_reason_that_is_true():
    files, came = dicom_files(), collections.Counter()
    for path in files:
        dataset = pydicom.dcmread(path, force=True)
        has_pixels = any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
        try:
            picture = load_image(str(path))
        except ImageError as error:
            sentence = str(error)
            assert "\n" not in sentence and "; " in sentence
            came["refused" if path.name in REFUSED else "no pixels"] += 1
            assert REFUSED[path.name] in sentence if path.name in REFUSED else (not has_pixels and "holds no pixels" in sentence), sentence
        else:
            came["shown"] += 1
            assert path.name not in REFUSED or REFUSED[path.name].startswith("JPEG"), path  # where a decoder is installed that need not be
            assert picture.size == (dataset.Columns, dataset.Rows)
    if len(files) == 192:  # pydicom 3.0.2, with the decoders of the extra "dicom"
        assert (came["no pixels"], came["shown"] + came["refused"]) == (84, 108)
        assert came["shown"] >= 99
