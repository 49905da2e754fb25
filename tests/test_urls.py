"""Pictures named by a URL: what is here is read by the ordinary loader, what is elsewhere is refused with one true sentence."""

import base64
import gzip
import io
import json
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
from conftest import check_images
from PIL import Image

from medvlm_r1.audit.duplicates import duplicates
from medvlm_r1.data import urls
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import content_hash, load_image
from medvlm_r1.data.leak import leaks, require_apart
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.data.probe import quick, size_of
from medvlm_r1.errors import DataError, ImageError

PICTURE = Image.fromarray(np.arange(12 * 10, dtype=np.uint8).reshape(12, 10))


def encoded(kind="PNG", picture=PICTURE):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def data_url(content, media_type="image/png"):
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest whose questions show these pictures; returns its questions."""
    PICTURE.save(tmp_path / "a b.png")

    def write(*images):
        rows = [
            {"id": f"q{n}", "image": image, "question": "Which?", "options": ["left", "right"], "answer": "left", "modality": "ct"}
            for n, image in enumerate(images)
        ]
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_dataset(str(tmp_path / "m.jsonl"))

    return write


# ---------------------------------------------------------------- the web


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://a.b/c.dcm?x=1#frame=3", "HTTPS://example.org/a.png", "s3://bucket/a.png"])
def test_a_picture_on_the_web_is_refused_in_one_true_sentence(manifest, url):
    data = manifest("a b.png", url)
    check_images(data.head(1))
    shown = url.replace("HTTPS", "https")
    with pytest.raises(ImageError) as caught:
        check_images(data)
    assert str(caught.value) == f'question "q1": image "{shown}" is on the web, and no picture is fetched from there; download it, and name the file'


def test_a_scheme_that_nobody_knows_stays_as_it_was_written(manifest):
    with pytest.raises(ImageError, match='image "gopher://a.b/c.png" is of the unknown kind "gopher:"'):
        check_images(manifest("gopher://a.b/c.png"))


# ---------------------------------------------------------------- file:


@pytest.mark.parametrize("form", ["file://{path}", "file://localhost{path}", "file:{path}", "FILE://{path}", "file:a%20b.png", "a b.png", ".\\a b.png"])
def test_a_file_url_is_the_file(manifest, tmp_path, form):
    data = manifest(form.format(path=quote(str(tmp_path / "a b.png"))))
    assert data[0].images == (str(tmp_path / "a b.png"),)
    assert content_hash(load_image(data[0].images[0])) == content_hash(PICTURE.convert("RGB"))


def test_a_file_url_is_opened_where_no_manifest_is(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    assert load_image(f"file://{tmp_path}/a.png").size == (10, 12)


def test_a_file_of_another_machine_is_refused(manifest):
    with pytest.raises(ImageError, match='image "file://nas/scans/a.png" is a file of another machine; copy it here'):
        check_images(manifest("file://nas/scans/a.png"))


def test_a_place_in_a_file_stays(manifest, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    (reference,) = manifest(f"file://{tmp_path}/v.nii.gz#axis=2&slice=3")[0].images
    assert reference == f"{tmp_path}/v.nii.gz#axis=2&slice=3" and load_image(reference).size == (4, 5)


# ---------------------------------------------------------------- paths of other systems


@pytest.mark.parametrize("written", ["im\\sub\\a.png", "im/sub\\a.png", ".\\im\\sub\\a.png"])
def test_backslashes_are_slashes(manifest, tmp_path, written):
    (tmp_path / "im/sub").mkdir(parents=True)
    PICTURE.save(tmp_path / "im/sub/a.png")
    assert manifest(written)[0].images == (str(tmp_path / "im/sub/a.png"),)


def test_a_backslash_that_is_part_of_a_name_stays(manifest, tmp_path):
    PICTURE.save(tmp_path / "im\\a.png")
    assert manifest("im\\a.png")[0].images == (str(tmp_path / "im\\a.png"),)


def test_the_home_folder(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert manifest("~/a b.png")[0].images == (str(tmp_path / "a b.png"),)


# ---------------------------------------------------------------- data:


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_data_url_is_its_picture_whatever_it_calls_itself(manifest, kind):
    data = manifest(data_url(encoded(kind), "image/jpeg"))
    assert content_hash(load_image(data[0].images[0])) == content_hash(PICTURE.convert("RGB"))


def test_a_data_url_goes_through_the_loader_with_all_its_rules():
    """16 bits are stretched as those of a file: 0 to 60000 becomes 0 to 255."""
    deep = Image.fromarray(np.array([[0, 30000, 60000]], dtype=np.uint16))
    assert [load_image(data_url(encoded("PNG", deep))).getpixel((x, 0))[0] for x in range(3)] in ([0, 127, 255], [0, 128, 255])


def test_a_volume_in_a_data_url(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    packed = (tmp_path / "v.nii.gz").read_bytes()
    for content in (packed, gzip.decompress(packed)):
        assert load_image(f"{data_url(content, 'application/octet-stream')}#axis=2&slice=3").size == (4, 5)


@pytest.mark.parametrize(
    "change",
    [lambda url: url.rstrip("="), lambda url: url[:60] + "\n " + url[60:], lambda url: url.replace("+", "%2B"), lambda url: url.replace("base64", "BASE64")],
)
def test_base64_as_others_write_it(change):
    assert load_image(change(data_url(encoded()))).size == (10, 12)


def test_a_data_url_without_base64():
    assert load_image("data:image/bmp," + quote(encoded("BMP"))).size == (10, 12)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", 'image "data:image/png;base64,iVBORw0KGgo=" is a PNG file that is damaged'),
        ("data:image/png;base64,iVB*", "is no base64"),
        ("data:image/png;base64,", "holds no picture"),
        ("data:image/png;base64", "holds no picture"),
        (data_url(b"GIF89a" + bytes(50), "image/gif"), r"begins with b'GIF8', as no picture does that is read here; make it a PNG"),
        (data_url(encoded()[:-30]), r'image "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAA…" is truncated or corrupt'),
    ],
)
def test_a_data_url_that_holds_no_picture_says_so(manifest, url, message):
    with pytest.raises(ImageError, match=message) as caught:
        check_images(manifest(url))
    assert str(caught.value).startswith('question "q0": ') and "/tmp" not in str(caught.value)


def test_the_size_of_a_data_url_is_bounded(monkeypatch):
    monkeypatch.setattr(urls, "MOST_BYTES", 2**20)
    with pytest.raises(ImageError, match=r'image "data:image/png;base64,A{26}…" holds 1,400,000 signs, more than 1 MiB; write it into a file') as caught:
        load_image("data:image/png;base64," + "A" * 1_400_000)
    assert len(str(caught.value)) < 200


def test_the_same_data_url_is_the_same_picture_for_leaks_and_split(manifest, tmp_path):
    url = data_url(encoded())
    a, b, c = manifest(url, url, "a b.png")
    assert [leak.kind for leak in leaks([a], [b])] == ["the file"] and leaks([a], [c]) == []
    with pytest.raises(DataError, match="the pixels of"):
        require_apart([a], [c])


def test_a_data_url_is_looked_at_by_audit_and_inspect_and_written_as_it_is(manifest, tmp_path):
    url = data_url(encoded())
    data = manifest(url, "a b.png")
    quick(url)
    assert size_of(url) == (10, 12)
    assert duplicates(data, None, load_image, "files", lambda n: None)["hashed"] == 2
    (tmp_path / "out").mkdir()
    write_manifest(tmp_path / "out/manifest.jsonl", data)
    again = load_dataset(str(tmp_path / "out"))
    assert again[0].images == (url,) and Path(again[1].images[0]).resolve() == tmp_path / "a b.png"


def test_a_view_of_a_data_url():
    assert load_image(f"blank:{data_url(encoded())}").getcolors() == [(120, (128, 128, 128))]


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load_image(data_url(encoded()))
    assert list(tmp_path.iterdir()) == []
