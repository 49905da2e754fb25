"""Damaged files end in a picture or in one sentence, never in another error; ``mutated_files.py`` opens 10,000 of each family."""

import mutated_files
import pytest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", mutated_files.FAMILIES)
def test_a_damaged_file_raises_no_error_but_the_projects_own(tmp_path, family):
    if family == "DICOM":
        pytest.importorskip("pydicom")
    came, _ = mutated_files.open_mutated(family, 250, tmp_path)
    assert came["shown"] > 20 and came["refused"] > 20  # they are neither harmless nor hopeless
