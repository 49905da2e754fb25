"""What the newer Qwen models have that Qwen2-VL has not, and that the tiny ones really use it."""

from dataclasses import replace

import family_models
import pytest
import torch
from PIL import Image

from medvlm_r1.models.families import load_policy
from medvlm_r1.reasoning import render


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def policy(request, tmp_path):
    torch.set_num_threads(1)
    return load_policy(str(family_models.write(request.param, tmp_path)), family_models.picture)


def states(policy, number):
    """The last state of one question's prompt."""
    with torch.no_grad():
        return policy.frozen_copy().prefill(policy.encoder.prompts([render(family_models.examples()[number], "think")])).last_PH


@pytest.mark.parametrize("policy", ["qwen2_5_vl"], indirect=True)
def test_windows_matter_where_a_picture_spans_several(policy):
    """252 x 168 px are three rows of two windows of 112 px; 84 x 84 px lie within one."""
    small, large = states(policy, 0), states(policy, 1)
    policy.model.model.visual.fullatt_block_indexes = [0, 1, 2, 3]
    torch.testing.assert_close(states(policy, 0), small)
    assert (states(policy, 1) - large).abs().max() > 0.01


@pytest.mark.parametrize("policy", ["qwen3_vl"], indirect=True)
def test_deepstack_reaches_the_decoder(policy):
    batch = policy.encoder.prompts([render(example, "think") for example in family_models.examples()])
    assert policy.image_embeds(batch).shape == (int((batch.ids_PL == policy.encoder.image_id).sum()), 4, 64)
    before = states(policy, 1)
    for merger in policy.model.model.visual.deepstack_merger_list:
        torch.nn.init.zeros_(merger.linear_fc2.weight), torch.nn.init.zeros_(merger.linear_fc2.bias)
    assert (states(policy, 1) - before).abs().max() > 0.01


def test_still_images_do_not_ask_for_seconds(policy):
    """Positions are transformers' own; Qwen2.5-VL's tokens_per_second spaces the frames of a video."""
    for example in family_models.examples():
        ids = policy.encoder.prompt_ids(render(example, "think"))
        grids = [policy.encoder.pixels(reference).grid_thw for reference in example.images]
        row = torch.tensor([ids])
        kinds = (row == policy.encoder.image_id).int()
        expected, _ = policy.model.model.get_rope_index(row, kinds, torch.tensor(grids), attention_mask=torch.ones_like(row))
        assert torch.equal(policy.encoder.family.positions(ids, policy.encoder.image_id, grids, policy.encoder.merge), expected[:, 0])


def test_blank_images_of_two_shapes_are_two_images(policy):
    """Their patches are equal byte for byte, their positions are not."""
    sizes = {"lying": (224, 112), "standing": (112, 224)}
    encoder = replace(policy.encoder, load_image=lambda name: Image.new("RGB", sizes[name]))
    lying, standing = encoder.pixels("lying"), encoder.pixels("standing")
    assert torch.equal(lying.patches, standing.patches) and lying.key != standing.key
