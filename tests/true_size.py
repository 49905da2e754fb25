"""Steps of Qwen2-VL-2B's true widths on a GPU that is not there, by shapes alone: no weights, no memory.

python tests/true_size.py       prints what a whole step of all 28 layers and 32 blocks takes, by count (a minute)
"""

import gc
from dataclasses import dataclass, replace

import hub_model
import pretended
import torch
from pretended import BOOK
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder, key_of
from medvlm_r1.models.families import prepare
from medvlm_r1.models.family import Pixels
from medvlm_r1.models.policy import HEAD_CHUNK_ELEMENTS
from medvlm_r1.preflight.memory import Workload, plan
from medvlm_r1.preflight.shape import ModelShape
from medvlm_r1.training.batches import micro_batches
from medvlm_r1.training.grpo.advantage import grpo
from medvlm_r1.training.grpo.update import Learner, UpdateConfig, update
from medvlm_r1.training.optim import OptimConfig, Optimizer
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

P = G = 4
BUDGET = 6144


@dataclass(frozen=True)
class Counted:
    """Bytes: the most that lived during an update, what autograd kept among them, and the plan's figure."""

    peak: int
    planned: int
    phases: dict[str, int]
    flops: dict[str, int]


def policy_of(tokenizer, layers, depth):
    """Without numbers, on the pretended GPU."""
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in nano.SPECIAL}
    ids = {token: special.get(token, 5) for token in hub_model.SPECIAL}
    size = replace(hub_model.FULL, layers=layers, vision_depth=depth)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**hub_model._config(size, ids, 0))).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=special["<|im_end|>"], pad_token_id=special["<|endoftext|>"])
    pretended.move(model, numbers=False)
    return prepare(model, Encoder(tokenizer, nano.build_image_processor(), lambda _: None))


def prompts_of(encoder, image_tokens, length, count):
    """Prompts of so many tokens, each with a picture of its own, as if the encoder had prepared them."""
    made = []
    for n in range(count):
        reference = f"grey-{n}"
        side = 2 * max(k for k in range(1, int(image_tokens**0.5) + 1) if image_tokens % k == 0)
        patches = torch.zeros(4 * image_tokens, 1176, dtype=torch.bfloat16).pin_memory()
        encoder._pixels.put(reference, Pixels(patches, (1, side, 4 * image_tokens // side), reference), 1)
        prompt = Prompt(Example(reference, (reference,), "?", ("a", "b"), "a", "mri"), "?")
        ids = [400] * 20 + [encoder.image_id] * image_tokens + [401] * (length - image_tokens - 20)
        encoder._ids.put(key_of(prompt), ids, length)
        made.append(prompt)
    return made


def groups_of(prompts, completion):
    return [RolloutGroup(p, (Rollout(Completion((400,) * completion, (0.0,) * completion, "", finished=False), {}),) * G) for p in prompts]


def update_peak(tokenizer, completion, layers, depth, image_tokens=512, length=768):
    """An update that follows a rollout: what lives at most, beside the plan for that workload."""
    gc.collect()  # else what an earlier model leaves behind would go away meanwhile
    with pretended.gpu(numbers=False):
        before = BOOK.live
        policy = policy_of(tokenizer, layers, depth)
        prompts = prompts_of(policy.encoder, image_tokens, length, P)
        learner = Learner(policy, policy.frozen_copy(), Optimizer(policy.model, OptimConfig(), 300), UpdateConfig(tokens_per_micro_batch=BUDGET))
        packed = policy.packed()
        optimizer_step = learner.optimizer.step

        def step(*args, **kwargs):
            with BOOK.during("step"):
                return optimizer_step(*args, **kwargs)

        learner.optimizer.step = step
        for p in policy.model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer_step()  # so that the moments are there
        BOOK.clear()
        with torch.no_grad():
            for layer in packed:
                layer.load(P * G)
        with BOOK.during("remember"), torch.no_grad():
            policy.remember(policy.encoder.prompts(prompts))
        with BOOK.during("update"):
            update(learner, groups_of(prompts, completion), [grpo([0, 1, 2, 0])] * P)
        phases = {phase: BOOK.peak[phase] - before for phase in ("remember", "update", "step")}
        shape = ModelShape.of(policy.model)
        together = max(len(part) for part in micro_batches([length + G * completion] * P, range(P), BUDGET))
        work = Workload(P, G, length, completion, 4 * image_tokens, P, together, completion, HEAD_CHUNK_ELEMENTS // shape.vocabulary)
        planned = plan(shape, work)
        sizes = planned.sizes(on_host=False)
        flops = {phase: sum(n for (where, _), n in BOOK.flops.items() if where == phase) for phase in ("remember", "update")}
        return Counted(phases["update"], sizes["update"], phases, flops)


def tower_kernels(tokenizer, depth):
    """Kernels of four images through a tower of so many blocks, what comes before and after included."""
    with pretended.gpu(numbers=False):
        policy = policy_of(tokenizer, 1, depth)
        batch = policy.encoder.prompts(prompts_of(policy.encoder, 512, 768, P))
        BOOK.clear()
        with torch.no_grad():
            policy.remember(batch)
        return BOOK.total(BOOK.kernels)


if __name__ == "__main__":
    words = nano.build_tokenizer(["a b c think answer Which plane is this? A) axial B) coronal Think first."] * 4)
    found = update_peak(words, 150, 28, 32, image_tokens=256, length=376)  # benchmarks/_systems/costs.py: 5.92, and 17.47 + 46.47
    print(
        "paper_run's step:",
        {phase: f"{n / 1e12:.2f} TFLOP" for phase, n in found.flops.items()},
        f"{found.peak / 1e9:.1f} GB, {found.planned / 1e9:.1f} planned",
        flush=True,
    )
    for completion in (512, 320, 192, 150):
        found = update_peak(words, completion, 28, 32)
        print(f"completions of {completion}: ", {k: f"{v / 1e9:.1f} GB" for k, v in found.phases.items()}, f"planned {found.planned / 1e9:.1f} GB", flush=True)
