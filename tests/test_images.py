"""Pictures of every kind, whole and broken."""

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.data.images import OPENERS, content_hash, load_image, scheme_of
from medvlm_r1.errors import ImageError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", OPENERS)
def test_every_kind_opens_as_rgb(tmp_path, suffix):
    image = load_image(save(tmp_path / f"a{suffix}", NOISE))
    assert (image.mode, image.size) == ("RGB", (48, 64))
    lossy = suffix in (".jpg", ".jpeg")
    assert lossy or (np.asarray(image) == NOISE).all()


def test_the_suffix_may_be_in_capitals(tmp_path):
    assert load_image(save(tmp_path / "a.PNG", NOISE)).size == (48, 64)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("top", [4095, 65535])
def test_16_bit_grey_levels_keep_their_order(tmp_path, suffix, top):
    """Pillow's own conversion clips everything above 255 to white."""
    ramp = np.linspace(100, top, 256 * 4).astype(np.uint16).reshape(4, 256)
    levels = np.asarray(load_image(save(tmp_path / f"a{suffix}", ramp)))[..., 0].ravel().astype(int)
    assert levels[0] == 0 and levels[-1] == 255
    assert (np.diff(levels) >= 0).all() and len(set(levels)) == 256


def test_a_constant_16_bit_image_is_black(tmp_path):
    assert np.asarray(load_image(save(tmp_path / "a.png", np.full((4, 4), 900, np.uint16)))).max() == 0


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    image = load_image(save(tmp_path / "a.png", pixels))
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((10, 20, 30), (255, 255, 255))


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(save(tmp_path / "a.jpg", NOISE, exif=exif)).size == (64, 48)


@pytest.mark.parametrize("suffix", OPENERS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_noticed(tmp_path, suffix, part):
    whole = tmp_path / f"whole{suffix}"
    save(whole, NOISE)
    data, cut = whole.read_bytes(), tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError) as caught:
        load_image(str(cut))
    assert str(cut) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"<html>404</html>" * 50, "is not an image"),
        ("a.gif", b"GIF89a", 'unknown suffix ".gif"; convert it to one of .png'),
        ("a", b"x", 'unknown suffix ""'),
    ],
)
def test_a_file_that_is_no_picture(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_is_named_with_its_neighbour(tmp_path):
    save(tmp_path / "00017.png", NOISE)
    with pytest.raises(ImageError, match=r'is missing; did you mean "00017.png"'):
        load_image(str(tmp_path / "0017.png"))
    with pytest.raises(ImageError, match="is missing; copy it into"):
        load_image(str(tmp_path / "nowhere" / "x.png"))


def test_a_folder_is_no_picture(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match="is no file"):
        load_image(str(tmp_path / "a.png"))


@pytest.mark.parametrize("reference", ["phantm:mri/train/3", "gopher://example.org/a.png"])
def test_an_unknown_scheme_is_named(reference):
    with pytest.raises(ImageError, match="is of the unknown kind"):
        load_image(reference)


def test_a_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "scan:1.png", NOISE)
    assert scheme_of("scan:1.png") == "scan"
    assert load_image("scan:1.png").size == (48, 64)


def test_a_drawn_picture_opens_by_its_reference():
    one, same, other = (load_image(f"phantom:mri/test/{n}") for n in (0, 0, 1))
    assert one.mode == "RGB"
    assert content_hash(one) == content_hash(same) != content_hash(other)


def test_content_hash_sees_pixels_size_and_mode_but_not_the_file(tmp_path):
    flat = Image.fromarray(NOISE)
    assert content_hash(load_image(save(tmp_path / "a.png", NOISE))) == content_hash(load_image(save(tmp_path / "a.bmp", NOISE)))
    variants = [flat, flat.resize((24, 128)), Image.frombytes("RGB", (64, 48), flat.tobytes()), flat.convert("L")]
    changed = NOISE.copy()
    changed[5, 5, 0] ^= 1
    assert len({content_hash(image) for image in [*variants, Image.fromarray(changed)]}) == 5
