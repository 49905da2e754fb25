"""Which decoders of transformers ours computes: the others are refused by name."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModel

from medvlm_r1.errors import ModelError
from medvlm_r1.models.decoder import Added, strange
from medvlm_r1.models.families import prepare
from medvlm_r1.models.tiles import INTERNVL

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2} | HEADS
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "decoder_sparse_step": 1}


def decoder(kind, **more):
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **more))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_llamas_kind_is_computed(kind):
    more = {"sliding_window": None} if kind == "mistral" else {}
    assert strange(decoder(kind, **more)) is None


OTHERS = {
    "a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "every earlier token"),
    "a window everywhere": ("mistral", {"sliding_window": 8}, "every earlier token"),
    "experts": ("qwen3_moe", EXPERTS, "SparseMoe"),
    "four norms": ("gemma2", {"layer_types": ["full_attention"] * 2}, "pre_feedforward_layernorm"),
    "a norm of 1 + weight": ("gemma", {}, "GemmaRMSNorm"),
    "scaled scores": ("granite", {"attention_multiplier": 0.5}, "0.5"),
}


@pytest.mark.parametrize(("kind", "more", "part"), OTHERS.values(), ids=OTHERS)
def test_others_are_refused_by_what_differs(kind, more, part):
    text = decoder(kind, **more)
    assert part in strange(text)
    model = SimpleNamespace(model=SimpleNamespace(language_model=text), config=SimpleNamespace(text_config=text.config))
    with pytest.raises(ModelError, match=f'"{kind}".*not supported'):
        prepare(model, SimpleNamespace(family=INTERNVL))


def test_features_are_added_behind_the_first_layers_at_their_places():
    added = Added(torch.tensor([1]), torch.tensor([[[5.0], [7.0]]]))  # one token, two layers
    x_TH = torch.zeros(2, 1)
    assert [added.behind(layer, x_TH).flatten().tolist() for layer in (-1, 0, 1, 2)] == [[0, 0], [0, 5], [0, 7], [0, 0]]
