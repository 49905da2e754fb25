"""Pictures of a page: each once, within a budget, the same bytes every time."""

import base64
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.errors import ImageError
from medvlm_r1.report.thumbnails import picture, thumbnails


def speckled(reference):
    """Noise of 400 x 200 px, hard to store."""
    levels = np.random.default_rng(int(reference)).integers(0, 256, (200, 400), dtype=np.uint8)
    return Image.fromarray(levels).convert("RGB")


def opened(shot):
    return Image.open(io.BytesIO(base64.b64decode(shot.url.removeprefix("data:image/jpeg;base64,"))))


def test_few_pictures_are_as_large_as_the_page_shows_them():
    [shot] = thumbnails(["7"], speckled).values()
    assert (shot.width_px, shot.height_px) == (400, 200)
    assert opened(shot).size == (320, 160)
    assert opened(shot).mode == "L"  # three equal channels are one


def test_each_picture_once_and_in_order():
    seen = Counter()

    def load(reference):
        seen[reference] += 1
        return speckled(reference)

    assert list(thumbnails(["3", "1", "3", "2"], load)) == ["3", "1", "2"]
    assert max(seen.values()) <= 2  # once to find the size, once to be shown


@pytest.mark.parametrize("budget", [2_000_000, 300_000, 100_000])
def test_all_pictures_stay_within_the_budget(budget):
    found = thumbnails(map(str, range(40)), speckled, budget)
    total = sum(len(shot.url) for shot in found.values())
    assert total <= budget
    assert total > budget / 4 or opened(found["0"]).size == (320, 160)


def test_the_same_pictures_give_the_same_bytes():
    assert thumbnails(map(str, range(9)), speckled) == thumbnails(map(str, range(9)), speckled)


def test_what_cannot_be_opened_says_so_and_costs_nothing():
    def load(reference):
        if reference == "gone":
            raise ImageError('image "gone" is missing')
        return speckled(reference)

    found = thumbnails(["gone", "1"], load)
    assert (found["gone"].url, found["gone"].missing) == ("", 'image "gone" is missing')
    assert found["1"].url
    assert thumbnails([], load) == {}


def test_colour_and_odd_modes():
    colour = picture("a", lambda _: Image.new("RGB", (60, 30), (200, 30, 30)))
    assert opened(colour).mode == "RGB"
    assert opened(colour).size == (60, 30)  # never enlarged
    assert picture("a", lambda _: Image.new("RGBA", (2000, 3))).url.startswith("data:image/jpeg")
