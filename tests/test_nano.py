"""The embedded model: its tokenizer, its processor, and what ships."""

import numpy as np
import pytest
import torch
from PIL import Image

from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.questions import ask
from medvlm_r1.experiments import nano_lessons as lessons
from medvlm_r1.experiments.muon import Muon, orthogonal
from medvlm_r1.experiments.nano_base import Classroom, NanoConfig, Stage, new_policy, shape, train
from medvlm_r1.experiments.nano_pool import Pool, load_pool, make_pool, moved, save_pool
from medvlm_r1.experiments.nano_sight import Lectures, Sight, facts
from medvlm_r1.models import nano


@pytest.fixture(scope="module")
def tokenizer():
    return nano.build_tokenizer(lessons.corpus(0, 60))


@pytest.mark.parametrize("text", [
    "Which side is the lesion on?\nA) left\nB) right",
    "Is there pneumoperitoneum under the diaphragm? – 50 % of µ²-cases, naïve",
    "这是什么？ 🩻\t\ttabs",
    "  eight    spaces\n\n\nand lines",
])  # fmt: skip
def test_the_tokenizer_takes_any_text_and_gives_it_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tags_are_single_tokens_and_letters_are_the_same_everywhere(tokenizer):
    ids = tokenizer("B) left</think>\n<answer>B</answer>")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == ["B", ")", " left", "</think>", "\n", "<answer>", "B", "</answer>"]
    assert ids[0] == ids[6]


def test_the_special_tokens_are_qwens(tokenizer):
    for name in nano.SPECIAL:
        assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(name)) == name
    assert tokenizer.eos_token == "<|im_end|>"


def test_habits_are_shares():
    assert sum(lessons.HABITS.values()) == pytest.approx(1.0)


def tiny_pool():
    rng = np.random.default_rng(0)
    scenes = [ask(rng, modality, n).scene for n in range(4) for modality in ("mri", "ct", "xray")]
    return Pool(rng.integers(0, 255, (12, 84, 84), dtype=np.uint8), scenes, [""] * 12)


def test_the_pools_patches_are_the_processors():
    pool, processor = tiny_pool(), nano.build_image_processor()
    expected = processor(images=[Image.fromarray(pool.pixels[3]).convert("RGB")], return_tensors="pt")
    ours = pool.seen(3, processor)
    assert torch.allclose(ours.patches, expected["pixel_values"], atol=1e-5)
    assert [ours.grid_thw] == [tuple(row) for row in expected["image_grid_thw"].tolist()]


def test_a_picture_is_moved_and_its_gain_is_its_own():
    ramp = torch.linspace(0.2, 0.8, 84).expand(84, -1)
    for picture in moved(torch.stack([ramp, ramp.T]), np.random.default_rng(0)):
        assert picture.shape == (84, 84)
    seen = moved(ramp.expand(200, -1, -1), np.random.default_rng(1))
    gain = (seen[:, 40, 50] - seen[:, 40, 30]) / (ramp[0, 50] - ramp[0, 30])
    shift_px = (seen[:, 40, 40] / gain - ramp[0, 40]) / (ramp[0, 1] - ramp[0, 0])
    assert set(shift_px.round().int().tolist()) == {-2, -1, 0, 1, 2}
    assert 0.93 < gain.min() < 0.94 and 1.06 < gain.max() < 1.07


def test_a_pool_is_kept(tmp_path):
    drawn = make_pool(12, seed=3)
    save_pool(drawn, tmp_path / "pool.npz")
    kept = load_pool(tmp_path / "pool.npz")
    assert kept.scenes == drawn.scenes and kept.cells == drawn.cells and (kept.pixels == drawn.pixels).all()
    assert [(scene.modality, scene.patient) for scene in drawn.scenes[3:6]] == [("xray", 1_000_000), ("mri", 1_000_001), ("ct", 1_000_001)]
    assert drawn.cells == [place_of(scene) for scene in drawn.scenes] and any(drawn.cells)


def test_facts_are_told_by_their_places():
    pool = tiny_pool()
    pool.cells[4] = "centre"
    answers, told_NF = facts(pool)
    assert answers["cell"] == ["", "centre"] and told_NF[:, -1].nonzero().tolist() == [[4]]
    for scene, told in zip(pool.scenes, told_NF.tolist(), strict=True):
        named = {fact: answers[fact][place] for fact, place in zip(answers, told, strict=True)}
        assert (named["finding"], named["side"], named["count"]) == (scene.finding, scene.side, str(scene.count))


def test_a_tower_learns_to_see_and_the_words_stay():
    policy, pool = new_policy(0), tiny_pool()
    before = policy.model.lm_head.weight.clone()
    rows = []
    train(NanoConfig(stages=(Sight(26, 12, 3e-3),)), 0, Classroom(policy, pool), rows.append)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert torch.equal(policy.model.lm_head.weight, before)


def test_the_heads_do_not_move_the_random_numbers_of_others():
    policy = new_policy(0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Lectures(policy, tiny_pool(), 1)
    assert torch.equal(torch.rand(3), expected)


def test_the_teacher_has_its_habits_in_their_shares():
    rng = np.random.default_rng(1)
    pool = tiny_pool()
    seen = [lessons.teacher(rng, pool.scenes[0], pool.scenes[3], 0).completion for _ in range(400)]
    empty = sum(any(text.startswith(f"<think>{phrase}") for phrase in lessons.EMPTY_THOUGHTS) for text in seen) / len(seen)
    assert empty == pytest.approx(lessons.HABITS["glance"], abs=0.1)
    assert any(text.startswith("<answer>") for text in seen)
    assert any(not text.startswith("<") for text in seen)


def test_training_lowers_the_loss():
    policy = new_policy(0)
    room = Classroom(policy, tiny_pool())
    rows = []
    config = NanoConfig(stages=(Stage(26, 8, {"caption": 1.0}, 3e-3),))
    train(config, 0, room, rows.append)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_muon_steps_as_torchs_own_does_but_for_bfloat16():
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, 12, 8, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (Muon([ours], lr=0.1, weight_decay=0.02), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"))
    for gradient in gradients:
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.3


def test_a_matrix_becomes_orthogonal_in_either_shape():
    for rows, columns in ((5, 9), (9, 5)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))))
        assert values.min() > 0.6 and values.max() < 1.3


def test_the_schedule_warms_up_and_falls():
    rates = [shape(n / 100) for n in range(100)]
    assert rates.index(max(rates)) == 3
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_the_weights_that_ship_are_small_and_bf16():
    from safetensors import safe_open

    file = nano.BASE_DIR / "model.safetensors"
    assert file.stat().st_size <= 12 * 2**20
    with safe_open(file, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}
