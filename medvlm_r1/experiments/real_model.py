"""A decoder and a tower put together as a FastVLM: what transformers loads as it stands, before anything is learnt."""

from typing import Any

import numpy as np
import torch
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, GenerationConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from medvlm_r1.data.images import load_image
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.models.fast_vlm import FAST_VLM
from medvlm_r1.models.policy import Policy

IMAGE, END = "<image>", "<|im_end|>"
CELL_PX = 32  # of the tower: all its strides together
GREY, SPREAD = 127.0, 128.0  # what Lite0 takes off a pixel of 0 to 255, and divides by
CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% if turn.content is string %}{{ turn.content }}{% else %}{% for part in turn.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def assemble(words: Any, tokenizer: Any, tower: Any, seed: int) -> Policy:
    """The policy: the decoder's weights and the tower's as they are, a projector drawn by ``seed``, one more token for a picture's cells."""
    torch.manual_seed(seed)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    tokenizer.chat_template, side = CHAT, tower.config.image_size
    image_id, end = (tokenizer.convert_tokens_to_ids(name) for name in (IMAGE, END))
    text = {key: value for key, value in words.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    config = FastVlmConfig(
        text_config=text | {"vocab_size": max(len(tokenizer), words.config.vocab_size)}, vision_config=tower.config.to_dict(),
        image_token_index=image_id, image_seq_length=(side // CELL_PX) ** 2, tie_word_embeddings=True,
    )  # fmt: skip
    config.reasoning_template = "think"
    model: Any = FastVlmForConditionalGeneration(config)
    _fill(model, words, tower)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end)
    told = (FAST_VLM.tile_tokens(config), FAST_VLM.processor(config))
    context = config.get_text_config().max_position_embeddings
    return prepare(model.float(), Encoder(tokenizer, image_processor(side), load_image, context, FAST_VLM, *told))


@torch.no_grad()
def _fill(model: Any, words: Any, tower: Any) -> None:
    inner = model.model
    inner.vision_tower.load_state_dict(tower.state_dict())
    state, embeddings = words.model.state_dict(), inner.language_model.embed_tokens.weight
    known = state.pop("embed_tokens.weight")
    embeddings.zero_()
    embeddings[: len(known)] = known
    inner.language_model.load_state_dict(state, strict=False)
    model.tie_weights()
    for layer, spread in ((inner.multi_modal_projector.linear_1, 1.0), (inner.multi_modal_projector.linear_2, 0.1)):
        layer.weight.normal_(std=spread * layer.in_features**-0.5)
        layer.bias.zero_()


def image_processor(side: int) -> CLIPImageProcessorPil:
    """The whole picture as a square of ``side`` pixels."""
    size = {"height": side, "width": side}
    return CLIPImageProcessorPil(size=size, do_center_crop=False, resample=3, image_mean=[GREY / 255] * 3, image_std=[SPREAD / 255] * 3)


def as_pixels(grey_NSS: np.ndarray) -> torch.Tensor:
    """What the image processor makes of grey squares of the right size, (N, 3, S, S).

    >>> as_pixels(np.array([[[127, 255]]], dtype=np.uint8))[0, :, 0].tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    return ((torch.from_numpy(grey_NSS).float() - GREY) / SPREAD)[:, None].expand(-1, 3, -1, -1)
