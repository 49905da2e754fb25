"""What of a model learns: freeze switches for its parts, and LoRA on the text decoder's matrices.

LoRA (arXiv 2106.09685) leaves a matrix W as it is and learns B and A of a low
rank: the layer computes W x + B A x · alpha / rank. B starts at zero, so that an
untrained adapter changes nothing. peft makes the layers; nobody else imports it.
"""

import copy
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medvlm_r1.console import notice
from medvlm_r1.errors import ConfigError, ModelError, install, nearest
from medvlm_r1.models.lora import is_adapted

# While transformers loads, it switches off the tying of weights and their first values for the whole process.
_LOADING = threading.Lock()
PARTS = ("vision", "embeddings", "text")
TEXT_DECODERS = ("language_model", "text_model")  # how transformers calls a text decoder; the rest of a model sees
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = Path("adapter") / "adapter_model.safetensors"  # a folder of its own: beside config.json transformers would add it once more


@dataclass(frozen=True)
class LoRA:
    """Adapters on matrices of every layer of the text decoder; rank 0: none.

    >>> LoRA(rank=16).targets[:2]
    ('q_proj', 'k_proj')
    """

    rank: int = 0
    alpha: int = 32
    targets: tuple[str, ...] = TARGETS


@dataclass(frozen=True)
class Trainable:
    """What of a model learns: all of it, if nothing is said.

    ``freeze`` names parts that stay as they are: "vision" (tower and merger), "embeddings" (a tied
    head included), "text" (the decoder). With LoRA the adapters learn in the place of text and embeddings.

    >>> Trainable(freeze=("vision",), lora=LoRA(rank=16)).lora.alpha
    32
    """

    freeze: tuple[str, ...] = ()
    lora: LoRA = LoRA()


@dataclass(frozen=True)
class Part:
    """One line of the table of what learns.

    >>> print(Part("vision", learning=0, frozen=665_271_296))
    frozen  vision         665,271,296
    """

    name: str
    learning: int
    frozen: int

    def __str__(self) -> str:
        counts = {"learns": self.learning, "frozen": self.frozen}
        return "\n".join(f"{word}  {self.name:<10}{count:>16,}" for word, count in counts.items() if count)


def check(trainable: Trainable) -> None:
    """Every name and number. Raises ConfigError with the nearest."""
    lora = trainable.lora
    for key, names, known in (("freeze", trainable.freeze, PARTS), ("lora.targets", lora.targets, TARGETS)):
        for name in names:
            if name not in known:
                raise ConfigError(f'"trainable.{key}" holds an unknown name "{name}"{nearest(name, known)}')
        if len(set(names)) < len(names):
            raise ConfigError(f'"trainable.{key}" names something twice: {", ".join(names)}; name each once')
    if not 0 <= lora.rank <= 2**14 or lora.alpha < 1:
        raise ConfigError(f"trainable.lora wants a rank from 0 to {2**14} and an alpha of 1 or more, got {lora.rank} and {lora.alpha}")
    if lora.rank and not lora.targets:
        raise ConfigError(f'"trainable.lora.targets" is empty, so nothing would be adapted; name some of {", ".join(TARGETS)}')
    if lora.rank and (idle := [part for part in trainable.freeze if part != "vision"]):
        raise ConfigError(f'freezing "{idle[0]}" changes nothing: LoRA holds text and embeddings already; take it out of trainable.freeze')


def part_of(name: str) -> str:
    """The part that a parameter belongs to.

    >>> [part_of(name) for name in ("model.visual.merger.mlp.0.bias", "model.connector.proj.weight", "lm_head.weight")]
    ['vision', 'vision', 'embeddings']
    >>> part_of("model.language_model.norm.weight"), part_of("model.text_model.norm.weight")
    ('text', 'text')
    >>> part_of("model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'adapters'
    """
    if ".lora_" in name:
        return "adapters"
    if "embed_tokens." in name or "lm_head." in name:
        return "embeddings"
    return "text" if any(f".{decoder}." in name for decoder in TEXT_DECODERS) else "vision"


def adapt(model: Any, trainable: Trainable, seed: int = 0) -> Any:
    """Freeze parts of a loaded model and put adapters in, in place; ``seed`` draws their first values.

    Raises ConfigError where a switch freezes nothing or nothing is left to learn.
    """
    check(trainable)
    if trainable.lora.rank:
        _insert(model, trainable.lora, seed)
    for part in trainable.freeze:
        mine = [p for name, p in model.named_parameters() if part_of(name) == part and p.requires_grad]
        if not mine:
            raise ConfigError(f'freezing "{part}" changes nothing: this model has no such weights; take it out of trainable.freeze')
        for p in mine:
            p.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"trainable.freeze={list(trainable.freeze)} leaves nothing to learn; take one out, or set trainable.lora.rank=16")
    return model


def _insert(model: Any, lora: LoRA, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"trainable.lora.rank={lora.rank} needs peft, which is missing ({error}); {install('peft')}") from error
    # By place, not by name alone: vision towers have a gate_proj, too.
    layer = rf".*\.(?:{'|'.join(TEXT_DECODERS)})\.layers\.(\d+)"
    places = rf"{layer}\..*\.({'|'.join(lora.targets)})"
    names = [name for name, _ in model.named_modules()]
    layers = sum(re.fullmatch(layer, name) is not None for name in names)
    adaptable = {found.groups() for found in (re.fullmatch(places, name) for name in names) if found}
    there = Counter(target for _, target in adaptable)
    if missing := ", ".join(target for target in lora.targets if target not in there):
        if not there:
            raise ConfigError(f'"trainable.lora.targets" names {missing}, and no layer of the decoder has one of them; name what it has')
        notice(f"no layer of the decoder has {missing}: adapters learn beside {', '.join(sorted(there))} alone")
    if some := ", ".join(f"{target} {n}" for target, n in sorted(there.items()) if n < layers):
        notice(f"not all of the decoder's {layers} layers get adapters: {some}; the others have no such matrix")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=places, task_type="CAUSAL_LM",
        base_model_name_or_path=model.config._name_or_path,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, p in model.named_parameters():  # peft freezes everything else
        p.requires_grad_(part_of(name) in ("adapters", "vision"))


def table(model: Any) -> list[Part]:
    """Parameters by part: how many learn, how many do not."""
    counts: dict[tuple[str, bool], int] = {}
    for name, p in model.named_parameters():
        key = (part_of(name), p.requires_grad)
        counts[key] = counts.get(key, 0) + p.numel()
    return [Part(part, counts.get((part, True), 0), counts.get((part, False), 0)) for part in dict.fromkeys(part for part, _ in counts)]


# ---------------------------------------------------------------- the same model in another form


def reference(model: Any) -> Any:
    """The model as it is now, without adapters, that never learns.

    What learns is copied; what does not is the same tensors: of an adapted model there is no second copy.
    """
    return _without_adapters(model, (p for p in model.parameters() if not p.requires_grad)).eval().requires_grad_(False)


def merged(model: Any) -> Any:
    """The model with its adapters added into the matrices, in float32 and then rounded; all else is the same tensors."""
    plain = _without_adapters(model, model.parameters())
    for name, layer in adapted(model).items():
        delta = sum(layer.lora_B[a].weight.float() @ layer.lora_A[a].weight.float() * layer.scaling[a] for a in layer.active_adapters)
        weight = layer.base_layer.weight
        plain.get_submodule(name).weight = torch.nn.Parameter((weight.float() + delta).to(weight.dtype), requires_grad=False)
    return plain


def adapted(model: Any) -> dict[str, Any]:
    """The layers that carry adapters, by name."""
    return {name: layer for name, layer in model.named_modules() if is_adapted(layer)}


def _without_adapters(model: Any, shared: Iterable[torch.Tensor]) -> Any:
    """A copy of the modules around the ``shared`` tensors and copies of the others; adapters are left out."""
    plain = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for name, layer in adapted(plain).items():
        owner, _, attribute = name.rpartition(".")
        base = layer.base_layer
        setattr(plain.get_submodule(owner), attribute, base)
    return plain


# ---------------------------------------------------------------- files


def save(model: Any, out: Path) -> None:
    """The model as transformers loads it, adapters merged; the adapters themselves in peft's format beside it.

    The adapters are the exact state: a merged bfloat16 matrix rounds away what is below half a distance of its numbers.
    """
    merged(model).save_pretrained(out)
    tensors = {_peft_name(name): p.detach() for name, p in model.named_parameters() if part_of(name) == "adapters"}
    if tensors:
        (out / ADAPTER).parent.mkdir(parents=True, exist_ok=True)
        model.peft_config["default"].save_pretrained(out / ADAPTER.parent)
        save_file(tensors, out / ADAPTER, metadata={"format": "pt"})


def load(model: Any, weights: dict[str, torch.Tensor], adapters: Mapping[str, torch.Tensor]) -> None:
    """Take over what ``save`` wrote; merged matrices are left out, where the adapters say it exactly. Tied weights may be absent."""
    with _LOADING:
        fresh = type(model).from_pretrained(None, config=model.config, state_dict=weights, dtype=next(model.parameters()).dtype)
    held = {f"{name}.weight" for name in adapted(model)}
    plain = _without_adapters(model, model.parameters())
    plain.load_state_dict({name: value for name, value in fresh.state_dict().items() if name not in held}, strict=not held)
    for name, p in model.named_parameters():
        if part_of(name) == "adapters":
            if (stored := _peft_name(name)) not in adapters:
                raise ModelError(f'the checkpoint has no adapter "{stored}"; copy its folder "{ADAPTER.parent}" back from a backup')
            p.data.copy_(adapters[stored])


def _peft_name(name: str) -> str:
    """
    >>> _peft_name("model.language_model.layers.0.mlp.up_proj.lora_B.default.weight")
    'base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight'
    """
    return f"base_model.model.{name.replace('.default.', '.')}"
