"""The guard between training and test, and the parts that no split may cut."""

import pytest
from PIL import Image

from medvlm_r1.data.leak import components, leaks, require_apart
from medvlm_r1.errors import DataError
from medvlm_r1.types import Example


def question(name, *images, group="", source=""):
    return Example(name, images, "Which?", ("a", "b"), "a", "ct", group=group, source=source)


def flat(reference):
    """A picture whose grey is the number in its name."""
    return Image.new("RGB", (4, 4), (int("".join(c for c in reference if c.isdigit())),) * 3)


TEST = [question("t1", "1.png", group="p1", source="A"), question("t2", "vol.nii.gz#axis=2&slice=5", group="p2", source="A")]


@pytest.mark.parametrize(
    ("train", "shared"),
    [
        (question("q", "./sub/../1.png"), "the file"),
        (question("q", "7.png", "1.png"), "the file"),
        (question("q", "vol.nii.gz#axis=2&slice=6"), "the file"),  # another slice of the same patient
        (question("q", "7.png", group="p1", source="A"), "the group"),
        (question("q", "7.png", group="p1", source="B"), ""),  # patient 1 of another source
        (question("q", "7.png"), ""),
    ],
)
def test_what_is_shared(train, shared):
    assert [leak.kind for leak in leaks([question("clean", "9.png"), train], TEST)] == ([shared] if shared else [])


def test_a_link_is_the_file_it_points_to(tmp_path):
    flat("1").save(tmp_path / "1.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "1.png")
    assert leaks([question("q", str(tmp_path / "link.png"))], [question("t", str(tmp_path / "1.png"))])


def test_training_on_a_test_picture_is_refused_by_name():
    with pytest.raises(DataError, match=r'1 of 2 training questions .* "q" and the test question "t1" have the file ".*1.png" in common'):
        require_apart([question("clean", "9.png"), question("q", "1.png")], TEST[:1], flat)


def test_the_same_pixels_under_another_name_are_found():
    train, test = [question("q5", "copy-of-5.png")], [question("t5", "5.png")]
    with pytest.raises(DataError, match='"q5" and the test question "t5" have the pixels of "5.png" in common'):
        require_apart(train, test, flat)
    require_apart(train, test, None)  # without looking
    require_apart([question("q6", "6.png")], test, flat)


def test_two_copies_on_disk_are_found(tmp_path):
    flat("5").save(tmp_path / "a.png")
    flat("5").save(tmp_path / "b.bmp")
    with pytest.raises(DataError, match="the pixels of"):
        require_apart([question("q", str(tmp_path / "a.png"))], [question("t", str(tmp_path / "b.bmp"))])


def test_components_follow_chains_in_any_order():
    rows = [question("a", "1"), question("b", "2", group="g"), question("c", "3", group="h"), question("d", "1", "2"), question("e", "4", group="h")]
    for order in (rows, rows[::-1]):
        assert sorted(sorted(e.id for e in part) for part in components(order)) == [["a", "b", "d"], ["c", "e"]]


def test_questions_without_picture_and_group_stand_alone():
    assert len(components([question("a"), question("b")])) == 2
