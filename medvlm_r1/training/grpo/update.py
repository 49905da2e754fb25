"""One optimiser step from scored groups: the half of a step in which the policy learns.

Legend: P prompts, G rollouts of one prompt, R completion rows, C completion tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from medvlm_r1.models.policy import Policy
from medvlm_r1.training.batches import group_tokens, micro_batches
from medvlm_r1.training.grpo.loss import KL, LossConfig, sequence_mean, surrogate
from medvlm_r1.training.optim import Optimizer
from medvlm_r1.training.stopwatch import Stopwatch
from medvlm_r1.types import RolloutGroup, TokenBatch


@dataclass(frozen=True)
class UpdateConfig:
    """The loss, and how many tokens a micro-batch holds at most: prompts, images and completions, each once."""

    loss: LossConfig = LossConfig()
    temperature: float = 1.0
    tokens_per_micro_batch: int = 6144


@dataclass
class Learner:
    """A policy under training: what it is compared with, what moves it, where the time goes."""

    policy: Policy
    reference: Policy | None
    optimizer: Optimizer
    config: UpdateConfig
    watch: Stopwatch = field(default_factory=Stopwatch)


def update(learner: Learner, groups_P: Sequence[RolloutGroup], advantages_PG: Sequence[Sequence[float]]) -> dict[str, float]:
    """Loss, backward and one optimiser step over all groups; returns the step's metrics (``skipped_steps``: of the run, up to now).

    Each micro-batch encodes its images and prompts once. The gradient is that
    of the mean over all rows, however the rows are cut into micro-batches.
    Without a penalty a group whose advantages are all zero has no gradient and
    is left out; with one its KL term remains, as in the paper.
    """
    rows = sum(len(group.rollouts) for group in groups_P)
    live_P = [p for p in range(len(groups_P)) if learner.reference is not None or any(advantages_PG[p])]
    sums: dict[str, float] = {}
    tokens_P = [group_tokens(learner.policy, group) for group in groups_P]
    for part in micro_batches(tokens_P, live_P, learner.config.tokens_per_micro_batch):
        groups = [groups_P[p] for p in part]
        batch = learner.policy.encoder.groups(groups)
        reference_RC = _reference(learner, batch)
        with learner.watch("update"), learner.policy.images.cut_off():
            advantages_R = torch.tensor([a for p in part for a in advantages_PG[p]], device=learner.policy.device)
            loss_R, metrics = _loss(learner, batch, advantages_R, reference_RC, _sampled(groups, batch))
            (loss_R.sum() / rows).backward()
        for name, values_R in metrics.items():
            sums[name] = sums.get(name, 0.0) + values_R.sum().item()
    with learner.watch("update"):
        learner.policy.images.backward()
        learner.optimizer.loss = sums.get("loss", 0.0)
        norm = learner.optimizer.step()
    learner.policy.version += 1
    live = sum(len(groups_P[p].rollouts) for p in live_P)
    means = {name: total / max(1, live) for name, total in sums.items()}
    skipped = {"skipped_groups": len(groups_P) - len(live_P), "skipped_steps": learner.optimizer.skipped}
    return means | {"grad_norm": norm, "lr": learner.optimizer.lr} | skipped


def _reference(learner: Learner, batch: TokenBatch) -> torch.Tensor | None:
    """Log-probabilities under the reference policy; none where nothing would use them."""
    if learner.reference is None:
        return None
    with learner.watch("reference"), torch.no_grad():
        return learner.reference.logprobs(batch, learner.config.temperature)


def _loss(
    learner: Learner, batch: TokenBatch, advantages_R: torch.Tensor, reference_RC: torch.Tensor | None, sampled_RC: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Each row's loss (R,) and what to report of each row."""
    config, mask_RC = learner.config, batch.mask_RC.to(advantages_R.device)
    logprobs_RC = learner.policy.logprobs(batch, config.temperature)
    now_RC = logprobs_RC.detach()  # one update per rollout: the policy that sampled is this one
    loss_RC = surrogate((logprobs_RC - now_RC).exp(), advantages_R, config.loss)
    metrics = {
        "completion_length": mask_RC.sum(1),
        "entropy": sequence_mean(-now_RC, mask_RC),
        "sampler_mismatch": sequence_mean((now_RC - sampled_RC.to(now_RC.device)).abs(), mask_RC),
    }
    if reference_RC is not None:
        kl_RC = KL[config.loss.kl](logprobs_RC, reference_RC)
        loss_RC = loss_RC + config.loss.kl_beta * kl_RC
        metrics["kl"] = sequence_mean(kl_RC.detach(), mask_RC)
    loss_R = sequence_mean(loss_RC, mask_RC)
    return loss_R, metrics | {"loss": loss_R.detach()}


def _sampled(groups: Sequence[RolloutGroup], batch: TokenBatch) -> torch.Tensor:
    """The sampler's own log-probabilities (R, C)."""
    sampled_RC = torch.zeros(batch.ids_RC.shape)
    for r, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        sampled_RC[r, : len(rollout.completion.logprobs)] = torch.tensor(rollout.completion.logprobs)
    return sampled_RC
