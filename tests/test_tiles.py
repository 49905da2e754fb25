"""Images cut into tiles: what is seen, and what stands for it in the prompt."""

import json
from types import SimpleNamespace

import family_models
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Idefics3Processor
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from medvlm_r1.models import tiles
from medvlm_r1.models.families import load_policy
from medvlm_r1.reasoning import render
from medvlm_r1.training import checkpoint


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (3, 2)])
def test_the_frame_is_that_of_transformers(rows, columns):
    assert tiles.framed(rows, columns, 3) == get_image_prompt_string(rows, columns, 3, tiles.AROUND, "<image>", tiles.WHOLE)


def test_a_whole_prompt_is_that_of_transformers_own_processor(tmp_path):
    """As a checkpoint tells that processor to: a tile takes 4 tokens, where it assumes 169."""
    torch.set_num_threads(1)
    policy = load_policy(str(family_models.write("idefics3", tmp_path / "hub")), family_models.picture)
    checkpoint.save_model(policy, tmp_path / "step-1")
    told = json.loads((tmp_path / "step-1" / "processor_config.json").read_text())
    assert told.pop("processor_class") == "Idefics3Processor"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "step-1")
    processor = Idefics3Processor(policy.encoder.image_processor, tokenizer, chat_template=tokenizer.chat_template, **told)
    for example in family_models.examples():
        prompt = render(example, "think")
        turns = [{"role": "user", "content": [*({"type": "image"} for _ in example.images), {"type": "text", "text": prompt.text}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        pictures = [family_models.picture(reference) for reference in example.images]
        theirs = processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
        assert policy.encoder.prompt_ids(prompt) == theirs["input_ids"][0].tolist()
        ours = torch.cat([policy.encoder.pixels(reference).patches for reference in example.images])
        assert torch.equal(ours, theirs["pixel_values"][0])


def quarters(*values_RC: tuple[int, ...]) -> Image.Image:
    """One value in each square of 56 px."""
    return Image.fromarray(np.kron(np.array(values_RC, dtype=np.uint8), np.ones((56, 56), np.uint8))).convert("RGB")


def centres(pixels, processor):
    """The value in the middle of every tile, as it was in the picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return ((pixels.patches * std + mean) * 255)[:, 0, 28, 28].round().tolist()


def test_tiles_come_row_by_row_and_then_the_whole():
    picture = quarters((0, 50, 100), (150, 200, 250))
    smolvlm, internvl = (family_models.TINY[kind].processor for kind in ("smolvlm", "internvl"))
    framed, cut = tiles.prepare_framed(smolvlm, picture, 4), tiles.prepare_cut(internvl, picture, 4)
    for pixels, processor in ((framed, smolvlm), (cut, internvl)):
        assert pixels.grid_thw == (7, 1, 1) and pixels.patches.shape == (7, 3, 56, 56)
        assert centres(pixels, processor)[:6] == pytest.approx([0, 50, 100, 150, 200, 250], abs=1)
    assert framed.text == tiles.framed(2, 3, 4)
    assert cut.text == "<img>" + "<IMG_CONTEXT>" * 28 + "</img>"


def test_a_picture_of_one_tile_is_seen_once():
    pixels = tiles.prepare_cut(family_models.TINY["internvl"].processor, quarters((70,)), 4)
    assert pixels.text == "<img>" + "<IMG_CONTEXT>" * 4 + "</img>" and pixels.patches.shape == (1, 3, 56, 56)


@pytest.mark.parametrize(("max_pixels", "side", "most_tiles"), [(784, 56, 1), (56 * 56 * 4, 112, 4), (10**6, 168, 6)])
def test_a_budget_of_pixels_is_whole_tiles(max_pixels, side, most_tiles):
    smolvlm = SimpleNamespace(size={"longest_edge": 168}, max_image_size={"longest_edge": 56})
    tiles.framed_shrink(smolvlm, max_pixels)
    assert tiles.framed_most_pixels(smolvlm) == side**2
    internvl = SimpleNamespace(size={"height": 56, "width": 56}, max_patches=6)
    tiles.cut_shrink(internvl, max_pixels)
    assert tiles.cut_most_pixels(internvl) == most_tiles * 56**2


@pytest.mark.parametrize("kind", ["smolvlm", "internvl"])
def test_a_lowered_budget_is_kept_and_its_prompts_are_shorter(tmp_path, kind):
    torch.set_num_threads(1)
    hub = family_models.write(kind, tmp_path / "hub")
    lowered = load_policy(str(hub), family_models.picture, max_pixels=784)
    checkpoint.save_model(lowered, tmp_path / "step-1")
    again, plain = load_policy(str(tmp_path / "step-1"), family_models.picture), load_policy(str(hub), family_models.picture)
    counts = [policy.encoder.pixels("tall-a").grid_thw[0] for policy in (plain, lowered, again)]
    assert counts[1:] == [1, 1] and counts[0] > 4


def test_a_tile_of_zeros_is_an_image_too(tmp_path):
    """transformers takes it for padding."""
    policy = load_policy(str(family_models.write("smolvlm", tmp_path / "hub")), family_models.picture)
    [seen] = tiles.embed_framed(policy.model, torch.zeros(2, 3, 56, 56), torch.tensor([[2, 1, 1]]))
    assert seen.shape == (8, 1, 64)
