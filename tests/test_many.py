"""The plan for many GPUs against numbers worked out by hand."""

import re
from pathlib import Path

import pytest

from medvlm_r1.models.adapt import Trainable
from medvlm_r1.preflight import many
from medvlm_r1.preflight.forecast import learning
from medvlm_r1.preflight.many import H100, Layout, fit, memory, seconds
from medvlm_r1.preflight.memory import PAPER, plan
from medvlm_r1.preflight.shape import QWEN2_VL_2B, QWEN2_VL_7B, QWEN2_VL_72B
from medvlm_r1.training.distributed import Devices

CUT, TWICE = Layout(Devices(shard=True)), Layout(Devices(shard=True, recompute=True))


@pytest.mark.parametrize(("shape", "tied"), [(QWEN2_VL_2B, 1), (QWEN2_VL_7B, 2), (QWEN2_VL_72B, 2)])
def test_published_sizes_are_what_their_parts_come_to(shape, tied):
    """A tower that hands on 1,536 numbers has 665,271,296 parameters, and 5,121 more for each one more."""
    h, kv, m = shape.hidden, shape.kv_size, shape.mlp
    text = shape.layers * (2 * h * h + 2 * h * kv + 3 * h * m + h + 2 * kv + 2 * h) + h
    assert shape.parameters == text + 665_271_296 + 5121 * (h - 1536) + tied * shape.vocabulary * h
    frozen = learning(shape, Trainable(freeze=("vision",)))
    assert shape.parameters - frozen.trainable == 665_271_296 + 5121 * (h - 1536)


def test_a_replica_takes_what_one_gpu_takes():
    assert memory(QWEN2_VL_2B, PAPER, 64, Layout()) == plan(QWEN2_VL_2B, PAPER).sizes(on_host=False)


def test_what_is_cut_falls_with_the_gpus_and_the_rest_stays():
    """Masters and moments take 12 bytes a parameter, gradients 4, the reference 2 but for its tower."""
    shared = 16 * QWEN2_VL_7B.parameters + 2 * (QWEN2_VL_7B.parameters - QWEN2_VL_7B.tower.weights)
    at = {size: memory(QWEN2_VL_7B, PAPER, size, CUT)["update"] for size in (8, 16)}
    assert at[8] - at[16] == pytest.approx(shared / 16, rel=1e-6)


def test_computing_twice_keeps_each_layers_input_and_one_layer():
    tokens, patches = PAPER.micro_tokens, PAPER.micro_prompts * PAPER.patches
    inputs = tokens * 28 * 3584 * 2 + patches * 32 * 1280 * 2
    kept = many.activation_bytes(QWEN2_VL_7B, PAPER, recompute=True)
    assert inputs < kept < inputs + 0.06 * many.activation_bytes(QWEN2_VL_7B, PAPER, recompute=False)
    assert memory(QWEN2_VL_7B, PAPER, 8, TWICE)["update"] < memory(QWEN2_VL_7B, PAPER, 8, CUT)["update"]


def test_a_step_by_hand():
    """Decoding reads the decoder's bfloat16 weights once a token; sending two copies of float32 gradients over 35 GB/s takes what it takes."""
    one, many_ = seconds(QWEN2_VL_2B, PAPER, 1, Layout()), seconds(QWEN2_VL_2B, PAPER, 1024, Layout())
    assert one["rollout"] > 512 * 2 * (QWEN2_VL_2B.parameters - QWEN2_VL_2B.tower.weights) / H100.read
    assert many_["update"] - one["update"] == pytest.approx(8 * QWEN2_VL_2B.parameters / 35e9, rel=2e-3)
    assert many_["rollout"] == one["rollout"]


def test_the_largest_is_served_and_fits_no_single_machine():
    assert fit(QWEN2_VL_72B, PAPER, 8).layout is None
    found = fit(QWEN2_VL_72B, PAPER, 1024)
    assert found.layout is not None and found.layout.served and found.peak < 0.9 * H100.memory


def test_the_doctor_prints_a_line_a_size(command):
    code, out, _ = command("doctor", "paper", "--model", "Qwen/Qwen2-VL-72B-Instruct", "--many")
    lines = [line.split() for line in out.splitlines()]
    assert out.splitlines()[-13:] == command("doctor", "paper", "--model", "Qwen/Qwen2-VL-72B-Instruct", "--many", "--card", "80")[1].splitlines()[-13:]
    assert code == 1 and ["1024"] in [words[:1] for words in lines] and "TFLOP/s" in out  # one device here is not enough


def test_the_page_shows_what_the_doctor_prints(command):
    """docs/scale.md: of three models a column each, rounded, with its own words for a layout."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    for column, size in enumerate(("2B", "7B", "72B"), start=1):
        lines = command("doctor", "paper", "--model", f"Qwen/Qwen2-VL-{size}-Instruct", "--many")[1].splitlines()
        rows = [re.fullmatch(r" +(\d+) +([\d.]+) +(?:([\d.]+ s) +[\d.]+)? +(\S.*)", line) for line in lines]
        for gpus, gb, time, layout in (row.groups() for row in rows if row):
            told = f", {time}, {layout.replace('replicas', 'whole').removesuffix(', served')}" if time else f": {layout}"
            cells = next(line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| {int(gpus):,} |"))
            assert cells[column] == f"{float(gb):,.0f} GB{told}"
