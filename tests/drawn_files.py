"""Picture files drawn for the tests: DICOM, NIfTI, and the PNG and TIFF kinds that Pillow cannot write."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np

try:  # tests that draw a DICOM file skip where pydicom is not installed
    import pydicom
except ModuleNotFoundError:
    pydicom = None

RAMP = np.arange(0, 256, dtype=np.uint16).reshape(16, 16)


def dicom(pixels, *, syntax=None, **values):
    """A minimal data set; ``pixels`` (frames, rows, columns) or (rows, columns), uint16 or int16 unless said otherwise.

    A value None takes the element away, "" empties it; bytes as ``PixelData`` stand for what ``pixels`` would give.
    """
    pixels = np.asarray(pixels, values.pop("dtype", np.uint16))
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "CT", "MONOCHROME2", 1
    is_colour = values.get("SamplesPerPixel") == 3
    frames = pixels.shape[0] if pixels.ndim == 3 and not is_colour else 1
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if is_colour else pixels.shape[-2:]
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">")).tobytes()
    if syntax and syntax.is_encapsulated and "PixelData" not in values:
        dataset.PixelData = pydicom.encaps.encapsulate([pixels.tobytes()])
    for name, value in values.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    return dataset


def save_dicom(path, pixels, **values):
    """The same as a file."""
    dicom(pixels, **values).save_as(path, enforce_file_format=True)
    return path


def bare(dataset, implicit=True, little=True):
    """The bytes of a data set without preamble, mark and file meta information."""
    file = pydicom.filebase.DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = implicit, little
    pydicom.filewriter.write_dataset(file, pydicom.Dataset({tag: dataset[tag] for tag in dataset.keys()}))
    return file.getvalue()


def with_element(dataset, keyword, vr, value):
    """The same, explicit VR little endian, with an element as a careless writer would put it, whatever the standard says of it."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    before, after = (pydicom.Dataset({t: dataset[t] for t in dataset.keys() if where(t)}) for where in (lambda t: t < tag, lambda t: t > tag))
    length = struct.pack("<HL", 0, len(value)) if vr in ("SQ", "OB", "OW", "OF", "OD", "UN") else struct.pack("<H", len(value))
    element = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value
    return bare(before, implicit=False) + element + bare(after, implicit=False)


def item(**values):
    """One item of a sequence."""
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def lut(descriptor, entries, vr="US"):
    """An item of a modality or VOI LUT sequence; ``entries`` numbers, or bytes."""
    made = item(LUTDescriptor=descriptor, LUTData=entries)
    made["LUTDescriptor"].VR, made["LUTData"].VR = "SS" if descriptor[1] < 0 else "US", vr
    return made


def palette(red, green, blue, first=0, bits=16, segmented=False):
    """The elements of a palette; numbers of 16 bits."""
    values = {}
    for colour, entries in (("Red", red), ("Green", green), ("Blue", blue)):
        n_entries = 4 if segmented else len(entries)
        values[f"{colour}PaletteColorLookupTableDescriptor"] = [n_entries, first, bits]
        values[f"{'Segmented' if segmented else ''}{colour}PaletteColorLookupTableData"] = np.array(entries, "<u2").tobytes()
    return values


def save_nifti(path, volume, orientation="RAS", kind=np.int16, version=1, **header):
    """``volume`` is given in RAS+ order and stored in ``orientation``."""
    image = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version](np.asarray(volume, kind), np.diag([2.0, 2, 2, 1]), dtype=kind)
    if orientation != "RAS":
        wanted = nibabel.orientations.axcodes2ornt(orientation)
        image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted))
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def png16(path, levels, transparent=None):
    """A PNG of 16 bits; ``levels`` (height, width) grey, or (height, width, 2, 3 or 4) with opacity, colour, both."""
    levels = np.asarray(levels, np.uint16)
    channels = 1 if levels.ndim == 2 else levels.shape[2]
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    chunks = [(b"IHDR", head), *([(b"tRNS", np.array(transparent, ">u2").tobytes())] if transparent is not None else [])]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tiff(path, levels, *, order="<", photometric=None, deflated=False, planes=False, pages=1):
    """A TIFF of any NumPy type; ``levels`` (height, width) or (height, width, samples); ``pages`` of it, each less by one."""
    levels = np.asarray(levels)
    samples = 1 if levels.ndim == 2 else levels.shape[2]
    bits, form = 8 * levels.itemsize, {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    file, after = BytesIO(), 8
    file.write({"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HL", 42, 8))
    for page in range(pages):
        shown = np.moveaxis(levels, -1, 0) if planes else levels
        data = (shown - levels.dtype.type(page)).astype(levels.dtype.newbyteorder(order)).tobytes()
        strips = [data[n * len(data) // samples : (n + 1) * len(data) // samples] for n in range(samples)] if planes else [data]
        strips = [zlib.compress(strip) for strip in strips] if deflated else strips
        n_tags = 11
        at = after + 2 + 12 * n_tags + 4
        words = np.array([bits] * samples + [form] * samples, f"{order}u2").tobytes()
        lists = np.array([at + len(words) + 8 * len(strips) + sum(map(len, strips[:n])) for n in range(len(strips))] + [*map(len, strips)], f"{order}u4")
        tags = [
            (256, 4, 1, levels.shape[1]), (257, 4, 1, levels.shape[0]), (258, 3, samples, bits if samples == 1 else at),
            (259, 3, 1, 8 if deflated else 1), (262, 3, 1, (2 if samples > 2 else 1) if photometric is None else photometric),
            (273, 4, len(strips), int(lists[0]) if len(strips) == 1 else at + len(words)), (277, 3, 1, samples),
            (278, 4, 1, levels.shape[0]), (279, 4, len(strips), len(strips[0]) if len(strips) == 1 else at + len(words) + 4 * len(strips)),
            (284, 3, 1, 2 if planes else 1), (339, 3, samples, form if samples == 1 else at + 2 * samples),
        ]  # fmt: skip
        body = b"".join(strips)
        after = at + len(words) + lists.nbytes + len(body)
        file.write(struct.pack(f"{order}H", n_tags))
        for tag, kind, count, value in tags:
            value_bytes = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}L", value)
            file.write(struct.pack(f"{order}HHL", tag, kind, count) + value_bytes)
        file.write(struct.pack(f"{order}L", after if page + 1 < pages else 0) + words + lists.tobytes() + body)
    Path(path).write_bytes(file.getvalue())
    return path
