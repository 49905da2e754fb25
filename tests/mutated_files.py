"""Damaged picture files, seeded: bytes changed, cut, repeated, and headers of one file put before the pixels of another.

    PYTHONPATH=. python tests/mutated_files.py 10000

opens that many of each family and prints what came of them, the slowest, and the memory that it took.
"""

import collections
import io
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import drawn_files as drawn
import numpy as np
from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.errors import ImageError

_NUMBERS = (b"\0\0", b"\xff\xff", b"\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\x80\x7f", b"\0\0\xc0\x7f")
_PNG = b"\x89PNG\r\n\x1a\n"
_GREY = np.arange(1024, dtype=np.uint16).reshape(32, 32)
_COLOUR = np.stack([_GREY % 256] * 3, axis=-1).astype(np.uint8)


def dicom_files(folder: Path) -> list[tuple[Path, str]]:
    """(file, place in it) of every way that a DICOM file may be coded, as far as there is an encoder here."""
    from pydicom import uid

    window = {"WindowCenter": 500, "WindowWidth": 1000}
    groups = {
        "SharedFunctionalGroupsSequence": [drawn.item(PixelValueTransformationSequence=[drawn.item(RescaleSlope=2, RescaleIntercept=-5)])],
        "PerFrameFunctionalGroupsSequence": [drawn.item(FrameVOILUTSequence=[drawn.item(**window)])] * 2,
    }
    rgb = {"dtype": np.uint8, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    plain = {
        "window": (_GREY, window | {"RescaleSlope": 2, "RescaleIntercept": -100}),
        "padding": (_GREY, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9, "BitsStored": 12, "HighBit": 11}),
        "voi": (_GREY, {"VOILUTSequence": [drawn.lut([1024, 0, 16], list(range(1024)))]}),
        "modality": (_GREY, {"ModalityLUTSequence": [drawn.lut([1024, 0, 12], np.arange(1024, dtype="<u2").tobytes(), "OW")], **window}),
        "palette": (_GREY % 8, {"PhotometricInterpretation": "PALETTE COLOR", **drawn.palette(*[[0, 60000, 9000, 1]] * 3)}),
        "segments": (_GREY % 4, {"PhotometricInterpretation": "PALETTE COLOR", **drawn.palette(*[[0, 2, 10, 20, 1, 2, 50]] * 3, segmented=True)}),
        "frames": (np.stack([_GREY, _GREY]), groups | {"PhotometricInterpretation": "MONOCHROME1"}),
        "colour": (_COLOUR, rgb),
        "ybr": (_COLOUR, rgb | {"PhotometricInterpretation": "YBR_FULL"}),
        "bits": (_GREY[:4], {"PixelData": bytes(range(16)), "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}),
        "float": (_GREY, {"FloatPixelData": _GREY.astype("<f4").tobytes(), "PixelData": None, "BitsAllocated": 32}),
    }
    syntaxes = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian)
    files = [
        drawn.save_dicom(folder / f"{name}-{n}.dcm", pixels, syntax=syntax, **dict(values))
        for n, syntax in enumerate(syntaxes)
        for name, (pixels, values) in plain.items()
    ]
    for name, stream, syntax, values in _compressed():
        files.append(drawn.save_dicom(folder / f"{name}.dcm", values.pop("pixels"), syntax=syntax, PixelData=stream, **values))
    for name, (pixels, values) in list(plain.items())[:5]:
        path = folder / f"bare-{name}.dcm"
        path.write_bytes(drawn.bare(drawn.dicom(pixels, **dict(values))))
        files.append(path)
    return [(file, "#frame=1" if "frames" in file.name else "") for file in files]


def _compressed():
    from pydicom import encaps, uid

    def fragment(data):
        return encaps.encapsulate([data])

    rgb = {"pixels": _COLOUR, "dtype": np.uint8, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    rle = drawn.dicom(_GREY)
    rle.compress(uid.RLELossless)
    yield "rle", rle.PixelData, uid.RLELossless, {"pixels": _GREY}
    for name, form, syntax, kind in (("jpeg", "JPEG", uid.JPEGBaseline8Bit, "YBR_FULL_422"), ("j2k", "JPEG2000", uid.JPEG2000Lossless, "YBR_RCT")):
        file = io.BytesIO()
        Image.fromarray(_COLOUR).save(file, form, **({"no_jp2": True} if form == "JPEG2000" else {}))
        yield name, fragment(file.getvalue()), syntax, rgb | {"PhotometricInterpretation": kind}
    file = io.BytesIO()
    Image.fromarray(_GREY * 60).save(file, "JPEG2000", no_jp2=True)
    yield "j2k16", fragment(file.getvalue()), uid.JPEG2000Lossless, {"pixels": _GREY}
    try:
        import jpeg_ls
    except ModuleNotFoundError:
        return
    yield "jls", fragment(bytes(jpeg_ls.encode_array(_GREY))), uid.JPEGLSLossless, {"pixels": _GREY}


def nifti_files(folder: Path) -> list[tuple[Path, str]]:
    """Volumes of every type of voxel, compressed or not, of both versions."""
    volume = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    colour = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour["R"] = volume
    files = [drawn.save_nifti(folder / f"{np.dtype(kind).name}.nii", volume, kind=kind) for kind in (np.uint8, np.int16, np.float32, np.float64, np.complex64)]
    files.append(drawn.save_nifti(folder / "zipped.nii.gz", volume, "LPS", scl_slope=2, cal_max=90))
    files.append(drawn.save_nifti(folder / "second.nii", volume, version=2))
    files.append(drawn.save_nifti(folder / "four.nii.gz", np.stack([volume, volume], -1)))
    files.append(drawn.save_nifti(folder / "colour.nii", colour, kind=colour.dtype))
    return [(file, "#slice=1&volume=1" if "four" in file.name else "#axis=1&slice=2") for file in files]


def png_files(folder: Path) -> list[tuple[Path, str]]:
    """PNG of every depth, and JPEG and BMP with them."""
    image = Image.fromarray(_COLOUR)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image.convert(mode).save(folder / f"{mode}.png")
    Image.fromarray(_GREY * 60).save(folder / "I.png")
    drawn.png16(folder / "colour16.png", np.stack([_GREY * 4] * 3, -1), transparent=[4, 4, 4])
    drawn.png16(folder / "alpha16.png", np.stack([_GREY * 4, _GREY * 60], -1))
    image.save(folder / "a.jpg")
    image.save(folder / "a.bmp")
    image.save(folder / "turned.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    return [(file, "") for file in sorted(folder.iterdir())]


def tiff_files(folder: Path) -> list[tuple[Path, str]]:
    """TIFF of every type and order, in strips and planes, compressed or not."""
    colour = np.stack([_GREY * 4] * 3, -1)
    for n, kind in enumerate((np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.float32)):
        for order in "<>":
            drawn.tiff(folder / f"{n}{ord(order)}.tif", (_GREY % 100).astype(kind), order=order, deflated=n % 2 == 0, pages=2)
            drawn.tiff(folder / f"c{n}{ord(order)}.tif", colour.astype((np.uint8, np.uint16)[n % 2]), order=order, deflated=n > 2, planes=n == 5)
    for compression in ("tiff_lzw", "jpeg", "packbits", "group4"):
        Image.fromarray(_COLOUR).convert("1" if compression == "group4" else "RGB").save(folder / f"{compression}.tif", compression=compression)
    Image.fromarray(_COLOUR).convert("CMYK").save(folder / "cmyk.tif")
    return [(file, "#frame=1" if file.stem.isdigit() and n % 2 else "") for n, file in enumerate(sorted(folder.iterdir()))]


FAMILIES = {"DICOM": dicom_files, "NIfTI": nifti_files, "PNG": png_files, "TIFF": tiff_files}


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """One to three cheap changes, half of them in the header."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        most = max(min(len(changed), draw.choice((400, len(changed)))), 1)
        at = draw.randrange(most)
        kind = draw.randrange(7)
        if kind < 2:
            for _ in range(draw.choice((1, 4, 16))):
                changed[at : at + 1] = bytes([draw.randrange(256)])
                at = draw.randrange(most)
        elif kind == 2:
            number = draw.choice(_NUMBERS)
            changed[at : at + len(number)] = number[:: draw.choice((1, -1))]
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + draw.choice((1, 2, 8, 100))]
        elif kind == 5:
            changed[at:at] = changed[at : at + draw.choice((1, 4, 64, 1000))]
        else:
            changed[:at] = other[:at]
    return _checked(bytes(changed)) if data.startswith(_PNG) and draw.random() < 0.7 else bytes(changed)


def _checked(data: bytes) -> bytes:
    """A PNG with the checksums that its chunks should have, so that what is in them is looked at."""
    made, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        made += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return made + data[at:]


def open_mutated(
    name: str, n_files: int, folder: Path, open_file: Callable[[str, str], object] = lambda path, place: load_image(path + place)
) -> tuple[collections.Counter, tuple[float, str]]:
    """What came of ``n_files`` of a family: "shown" and "refused"; and the CPU seconds and seed of the slowest. Any other error gets out."""
    sources = FAMILIES[name](folder)
    came, slowest = collections.Counter(), (0.0, "")
    for seed in range(n_files):
        draw = random.Random(f"{name} {seed}")
        source, place = draw.choice(sources)
        path = folder / f"mutated{source.suffix if source.suffix != '.gz' else '.nii.gz'}"
        path.write_bytes(mutated(source.read_bytes(), draw.choice(sources)[0].read_bytes(), draw))
        start = time.process_time()
        try:
            open_file(str(path), place)
            came["shown"] += 1
        except ImageError as error:
            came["refused"] += 1
            if "\n" in str(error):
                raise AssertionError(f"{name} {seed}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{name} {seed} ({source.name}{place}): {error!r}") from error
        slowest = max(slowest, (time.process_time() - start, f"seed {seed}, {source.name}"))
    return came, slowest


if __name__ == "__main__":
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as made:
            counts, (seconds, which) = open_mutated(family, int(sys.argv[1]), Path(made))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{family}: {counts['shown']} shown, {counts['refused']} refused; slowest {seconds:.2f} s ({which}); peak {peak} MiB so far", flush=True)
