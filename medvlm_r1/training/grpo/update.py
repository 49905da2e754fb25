"""The half of a step in which the policy learns: one optimiser step from scored groups, or several.

Legend: P prompts, G rollouts of one prompt, R completion rows, C completion tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from medvlm_r1.models.policy import Policy
from medvlm_r1.models.sent import sent
from medvlm_r1.training.distributed import current, own_micro_batches
from medvlm_r1.training.grpo.loss import KL, Evidence, LossConfig, Totals, losses, sequence_mean, staleness
from medvlm_r1.training.optim import Optimizer
from medvlm_r1.training.stopwatch import Stopwatch
from medvlm_r1.types import RolloutGroup, TokenBatch


@dataclass(frozen=True)
class UpdateConfig:
    """The loss, how often it is followed, and how many tokens a micro-batch holds at most: prompts, images and completions, each once.

    The groups of a step are cut into ``mini_batches``, an optimiser step each, and all of them are gone through ``epochs`` times.
    """

    loss: LossConfig = LossConfig()
    epochs: int = 1
    mini_batches: int = 1
    temperature: float = 1.0
    tokens_per_micro_batch: int = 6144

    @property
    def is_on_policy(self) -> bool:
        """Are the weights that learn always the ones that sampled, as far as the loss knows?"""
        return self.epochs * self.mini_batches == 1 and self.loss.trust == "none"


@dataclass
class Learner:
    """A policy under training: what it is compared with, what moves it, where the time goes."""

    policy: Policy
    reference: Policy | None
    optimizer: Optimizer
    config: UpdateConfig
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass
class Part:
    """The groups of a micro-batch; what was said of their tokens (R, C) before the first update is kept for the later ones.

    ``weight``: 0 where the pass is made for other ranks' sake alone.
    """

    groups: list[RolloutGroup]
    advantages: list[float]
    weight: float = 1.0
    old_RC: torch.Tensor | None = None
    reference_RC: torch.Tensor | None = None


@dataclass(frozen=True)
class MiniBatch:
    """What one optimiser step learns from."""

    totals: Totals
    parts: list[Part]


def update(learner: Learner, groups_P: Sequence[RolloutGroup], advantages_PG: Sequence[Sequence[float]]) -> dict[str, float]:
    """Loss, backward and the step's updates over all groups; returns the step's metrics (``skipped_steps``: of the run, up to now).

    Each micro-batch encodes its images and prompts once. The gradient is that
    of the mean over all rows, however the rows are cut into micro-batches.
    Without a penalty a group whose advantages are all zero has no gradient and
    is left out; with one its KL term remains, as in the paper. Of many processes each takes its share of the groups.
    """
    groups_P, advantages_PG = taught(groups_P, advantages_PG)
    live_P = [p for p in range(len(groups_P)) if learner.reference is not None or any(advantages_PG[p])]
    plan = _plan(learner, groups_P, advantages_PG, live_P) * learner.config.epochs
    if len(plan) > 1:
        _remember_old(learner, plan)
    sums: dict[str, float] = {}
    norms = []
    for n, mini_batch in enumerate(plan):
        for name, value in _backward(learner, mini_batch).items():
            sums[name] = sums.get(name, 0.0) + value
        with learner.watch("update"):
            norms.append(learner.optimizer.step(is_last=n + 1 == len(plan)))
        learner.policy.version += 1
    live = learner.config.epochs * sum(len(groups_P[p].rollouts) for p in live_P)
    means = {name: total / max(1, live) for name, total in sums.items()}
    skipped = {"skipped_groups": len(groups_P) - len(live_P), "skipped_steps": learner.optimizer.skipped}
    return means | {"grad_norm": sum(norms) / len(norms), "lr": learner.optimizer.lr} | skipped


def taught(groups_P: Sequence[RolloutGroup], advantages_PG: Sequence[Sequence[float]]) -> tuple[list[RolloutGroup], list[Sequence[float]]]:
    """The groups that teach, and their advantages; what is only measured is no part of an update."""
    places = [p for p, group in enumerate(groups_P) if group.weight]
    return [groups_P[p] for p in places], [advantages_PG[p] for p in places]


def _plan(learner: Learner, groups_P: Sequence[RolloutGroup], advantages_PG: Sequence[Sequence[float]], live_P: Sequence[int]) -> list[MiniBatch]:
    """The mini-batches of one epoch: groups as they come, nearly as many in each. Groups that are left out count as rows all the same."""
    tokens_P = [learner.policy.tokens_of(group) for group in groups_P]
    count, plan = learner.config.mini_batches, []
    for m in range(count):
        mine_P = range(len(groups_P) * m // count, len(groups_P) * (m + 1) // count)
        cut = own_micro_batches(tokens_P, [p for p in live_P if p in mine_P], learner.config.tokens_per_micro_batch, learner.policy.is_cut)
        parts = [Part([groups_P[p] for p in part], [a for p in part for a in advantages_PG[p]], weight) for part, weight in cut]
        lengths_R = [len(rollout.completion.token_ids) for p in mine_P for rollout in groups_P[p].rollouts]
        plan.append(MiniBatch(Totals(len(lengths_R), sum(lengths_R), max(groups_P[p].prompt.max_tokens for p in mine_P)), parts))
    return plan


def _remember_old(learner: Learner, plan: Sequence[MiniBatch]) -> None:
    """Score every part by the weights that sampled, in the company in which it will learn."""
    with learner.watch("old"), torch.no_grad():
        for part in (part for mini_batch in plan for part in mini_batch.parts if part.old_RC is None):
            part.old_RC = learner.policy.logprobs(learner.policy.encoder.groups(part.groups), learner.config.temperature)


def _backward(learner: Learner, mini_batch: MiniBatch) -> dict[str, float]:
    """Gradients of the mean loss over the rows of a mini-batch; returns sums over its rows of what to report."""
    told: list[dict[str, torch.Tensor]] = []
    for part in mini_batch.parts:
        batch = learner.policy.encoder.groups(part.groups)
        if part.reference_RC is None:
            part.reference_RC = _reference(learner, batch)
        with learner.watch("update"), learner.policy.images.cut_off():
            evidence = _evidence(learner, part, batch)
            loss_R = losses(evidence, learner.config.loss, mini_batch.totals)
            (part.weight * loss_R.sum() / mini_batch.totals.rows).backward()
        told.append({name: part.weight * values_R.sum() for name, values_R in (_metrics(learner, evidence) | {"loss": loss_R.detach()}).items()})
    with learner.watch("update"):
        learner.policy.images.backward()
    sums = current().merge(_read(told))
    learner.optimizer.loss = sums.get("loss", 0.0)
    return sums


def _read(told: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """What all micro-batches told, added up by name: read at once, since a GPU must finish its work to be read."""
    if not told:
        return {}
    rows = torch.stack([torch.stack([value.float() for value in each.values()]) for each in told]).tolist()
    return {name: sum(column) for name, column in zip(told[0], zip(*rows, strict=True), strict=True)}


def _reference(learner: Learner, batch: TokenBatch) -> torch.Tensor | None:
    """Log-probabilities under the reference policy; none where nothing would use them."""
    if learner.reference is None:
        return None
    with learner.watch("reference"), torch.no_grad():
        return learner.reference.logprobs(batch, learner.config.temperature)


def _evidence(learner: Learner, part: Part, batch: TokenBatch) -> Evidence:
    now_RC = learner.policy.logprobs(batch, learner.config.temperature)
    old_RC = now_RC.detach() if part.old_RC is None else part.old_RC  # one update: the policy that sampled is this one
    told = (_sampled(part.groups, batch), torch.tensor(part.advantages), batch.mask_RC)
    sampled_RC, advantages_R, mask_RC = (sent(each, now_RC.device) for each in told)
    return Evidence(now_RC, old_RC, sampled_RC, part.reference_RC, advantages_R, mask_RC)


def _metrics(learner: Learner, e: Evidence) -> dict[str, torch.Tensor]:
    """What to report of each row (R,); where the data may be stale, how much they are."""
    config, now_RC = learner.config, e.now_RC.detach()
    metrics = {
        "completion_length": e.mask_RC.sum(1),
        "entropy": sequence_mean(-now_RC, e.mask_RC),
        "sampler_mismatch": sequence_mean((e.old_RC - e.sampled_RC).abs(), e.mask_RC),
    }
    if e.reference_RC is not None:
        metrics["kl"] = sequence_mean(KL[config.loss.kl](now_RC, e.reference_RC), e.mask_RC)
    return metrics | ({} if config.is_on_policy else staleness(e, config.loss))


def _sampled(groups: Sequence[RolloutGroup], batch: TokenBatch) -> torch.Tensor:
    """The sampler's own log-probabilities (R, C)."""
    sampled_RC = torch.zeros(batch.ids_RC.shape)
    for r, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        sampled_RC[r, : len(rollout.completion.logprobs)] = torch.tensor(rollout.completion.logprobs)
    return sampled_RC
