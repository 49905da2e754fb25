"""Damaged files end in a picture or in one sentence, never in another error; ``mutated_files.py`` opens 10,000 of each family."""

import json
from pathlib import Path

import mutated_files
import pytest

from medvlm_r1.data.stacks import load_stack


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", mutated_files.FAMILIES)
def test_a_damaged_file_raises_no_error_but_the_projects_own(tmp_path, family):
    if family == "DICOM":
        pytest.importorskip("pydicom")
    came, _ = mutated_files.open_mutated(family, 250, tmp_path)
    assert came["shown"] > 20 and came["refused"] > 20  # they are neither harmless nor hopeless


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", mutated_files.FAMILIES)
def test_a_damaged_file_is_paged_through_or_refused(tmp_path, family):
    if family == "DICOM":
        pytest.importorskip("pydicom")
    came, _ = mutated_files.open_mutated(family, 150, tmp_path, lambda path, place: json.dumps(load_stack(Path(path)).header, allow_nan=False))
    assert came["shown"] > 10 and came["refused"] > 10
