"""Which decoders of transformers ours computes: the others are refused by name."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm

from medvlm_r1.errors import ModelError
from medvlm_r1.models import decoder as ours
from medvlm_r1.models.decoder import Added, strange
from medvlm_r1.models.families import prepare
from medvlm_r1.models.family import turned
from medvlm_r1.models.gemma import by_kind
from medvlm_r1.models.norms import computed
from medvlm_r1.models.sight import kinds, windows
from medvlm_r1.models.tiles import INTERNVL
from medvlm_r1.models.tree import Rows, Tree

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2} | HEADS
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "decoder_sparse_step": 1}


def decoder(kind, **more):
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **more))


UNCAPPED = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 8, "query_pre_attn_scalar": 6, "sliding_window": 4}
COMPUTED = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "a window in one layer": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "a window everywhere": ("mistral", {"sliding_window": 4}),
    "no window": ("mistral", {"sliding_window": None}),
    "norms of 1 + weight": ("gemma", {"head_dim": 8}),
    "four norms": ("gemma2", UNCAPPED),
    "norms of heads": ("gemma3_text", UNCAPPED | {"layer_types": ["sliding_attention", "full_attention"]}),
}


@pytest.mark.parametrize(("kind", "more"), COMPUTED.values(), ids=COMPUTED)
def test_a_decoder_is_computed(kind, more):
    """Two rows of 9 and 5 tokens one after another, against transformers' own of each alone."""
    torch.manual_seed(0)
    text = AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **more)).eval()
    with torch.no_grad():
        for p in text.parameters():
            p.add_(0.3 * torch.randn(p.shape))
        assert strange(text) is None
        rows = [torch.randint(2, 32, (1, length)) for length in (9, 5)]
        lengths = Rows(torch.tensor([9, 5]))
        rotary = by_kind if kind == "gemma3_text" else turned
        both = {each: ours.Rotary.of(*rotary(text, lengths.place_T.expand(3, -1), each)) for each in kinds(text.config)}
        layers = [lambda *given, layer=layer: ours.through(ours.Live(layer), *given) for layer in text.layers]
        tree = Tree.of_prompts(lengths, windows(text.config))
        found = text.norm(ours.run(layers, text.embed_tokens(torch.cat(rows, 1)[0]), ours.Turns(both, kinds(text.config)), tree.attend))
        for mine, row in zip(found.split([9, 5]), rows, strict=True):
            torch.testing.assert_close(mine, text(input_ids=row).last_hidden_state[0], atol=1e-5, rtol=1e-5)


OTHERS = {
    "experts": ("qwen3_moe", EXPERTS, "SparseMoe"),
    "another kind of attention": ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
    "scores that are capped": ("gemma2", {}, "attn_logit_softcapping = 50.0"),
    "logits that are capped": ("gemma3_text", {"final_logit_softcapping": 30.0, "head_dim": 8}, "final_logit_softcapping = 30.0"),
    "text that sees what comes": ("gemma3_text", {"use_bidirectional_attention": True, "head_dim": 8}, "use_bidirectional_attention"),
    "scaled scores": ("granite", {"attention_multiplier": 0.5}, "0.5"),
}


@pytest.mark.parametrize(("kind", "more", "part"), OTHERS.values(), ids=OTHERS)
def test_others_are_refused_by_what_differs(kind, more, part):
    text = decoder(kind, **more)
    assert part in strange(text)
    model = SimpleNamespace(model=SimpleNamespace(language_model=text), config=SimpleNamespace(text_config=text.config))
    with pytest.raises(ModelError, match=f'"{kind}".*not supported'):
        prepare(model, SimpleNamespace(family=INTERNVL))


def test_a_norm_is_known_by_what_it_computes():
    text = decoder("llama")
    text.layers[1].input_layernorm = torch.nn.LayerNorm(16)
    assert strange(text).startswith("LayerNorm is no RMSNorm")
    assert not computed(Gemma4RMSNorm(2))  # as Gemma's by its fields, and its weight is no difference from one


def test_features_are_added_behind_the_first_layers_at_their_places():
    added = Added(torch.tensor([1]), torch.tensor([[[5.0], [7.0]]]))  # one token, two layers
    x_TH = torch.zeros(2, 1)
    assert [added.behind(layer, x_TH).flatten().tolist() for layer in (-1, 0, 1, 2)] == [[0, 0], [0, 5], [0, 7], [0, 0]]
