"""What TRL's own loss says of the same log-probabilities: values and gradients, for tests/test_losses.py. Runs in TRL's own environment.

    runs/bench/trl-env/bin/python benchmarks/_systems/trl_losses.py benchmarks/results/trl-losses.json

``GRPOTrainer._compute_loss`` is called as it is, on an object that holds its settings and hands out made-up log-probabilities
in float64 in place of a model's.
"""

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

LIMIT = 8
LENGTHS = (6, 1, 4, 3)
BOUNDS = {"epsilon_low": 0.2, "epsilon_high": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "beta": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "gspo with wide bounds": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "cispo with a narrow bound": {"loss_type": "cispo", "epsilon_high": 1.2},
    "sapo": {"loss_type": "sapo"},
    "truncated": {"loss_type": "grpo", "trust": (None, 1.1)},
    "masked": {"loss_type": "grpo", "trust": (0.9, 1.1)},
}


def inputs() -> dict[str, torch.Tensor]:
    """Four rows of at most six tokens; ratios from 0.5 to 1.6."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = (len(LENGTHS), max(LENGTHS))
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]).double()
    old = -2 * drawn(*shape)
    now, sampled, reference = old + 1.2 * (drawn(*shape) - 0.6), old + 0.4 * (drawn(*shape) - 0.5), old + drawn(*shape) - 0.5
    advantages = torch.tensor([1.2, -0.7, -1.1, 0.6], dtype=torch.float64)
    return {"now": now * mask, "old": old * mask, "sampled": sampled * mask, "reference": reference * mask, "advantages": advantages, "mask": mask}


def ask(given: dict[str, torch.Tensor], case: dict[str, Any]) -> dict[str, Any]:
    """The loss and its gradient by each log-probability."""
    now, mask = given["now"].clone().requires_grad_(), given["mask"]
    low, high = case.get("trust", (None, None))
    held = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (now, torch.zeros_like(now), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=case.get("beta", 0.0), loss_type=case["loss_type"],
        importance_sampling_level=case.get("importance_sampling_level", "token"), use_vllm="trust" in case, vllm_importance_sampling_correction=True,
        epsilon_low=case.get("epsilon_low", 0.2), epsilon_high=case.get("epsilon_high", 0.2), model=SimpleNamespace(training=True),
        args=SimpleNamespace(
            delta=None, use_bias_correction_kl=False, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, steps_per_generation=1
        ),
        current_gradient_accumulation_steps=1, max_completion_length=LIMIT, _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    ids = torch.zeros_like(mask).long()
    batch = {
        "prompt_ids": ids[:, :1], "prompt_mask": mask[:, :1], "completion_ids": ids, "completion_mask": mask, "advantages": given["advantages"],
        "old_per_token_logps": given["old"], "ref_per_token_logps": given["reference"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if "trust" in case:  # TRL has these lines inside a longer function; only how the weights are used is its own here
        weight = (given["old"] - given["sampled"]).exp()
        batch["importance_sampling_ratio"] = weight.clamp(max=high) if low is None else weight.masked_fill((weight < low) | (weight > high), 0.0)
    loss = GRPOTrainer._compute_loss(held, None, batch)
    loss.backward()
    clipped = [values[0] for name, values in held._metrics["train"].items() if name in ("clip_ratio/region_mean", "cispo_clip_ratio")]
    return {"settings": BOUNDS | case, "loss": loss.item(), "gradient": now.grad.tolist(), "clipped": clipped[0] if clipped else None}


def main() -> None:
    given, penalty = inputs(), get_soft_overlong_punishment(100, 20)
    result = {
        "versions": {name: version(name) for name in ("trl", "torch", "transformers")},
        "limit": LIMIT,
        "inputs": {name: values.tolist() for name, values in given.items()},
        "cases": {name: ask(given, case) for name, case in CASES.items()},
        "overlong of 100": {str(n): penalty([[1] * n])[0] for n in (10, 80, 81, 90, 99, 100)},
    }
    lines = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in result.pop("cases").items()]
    rest = json.dumps(result)[1:-1]
    Path(sys.argv[1]).write_text("{" + rest + ', "cases": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
