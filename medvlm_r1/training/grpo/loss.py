"""The policy-gradient losses, as pure functions of log-probabilities put together from four tables.

    loss = REDUCE(TRUST * SURROGATES + kl_beta * KL)

``LOSSES`` names the combinations that papers gave names to; docs/losses.md says which to take when.

Legend: R completion rows, C completion tokens. Logarithms are natural.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LossConfig:
    """The paper's loss: clipped ratios, k3 penalty at 0.04, mean within a sequence, then over sequences.

    ``clip_low``, ``clip_high``: how far a ratio may fall below and rise above 1 ("cispo" has no lower bound).
    ``temperature_up``, ``temperature_down``: of "sapo", for advantages above zero and for the others.
    ``trust_least``, ``trust_most``: bounds of the trainer's probability over the sampler's.
    """

    surrogate: str = "ppo"
    reduce: str = "sequence"
    trust: str = "none"
    kl_beta: float = 0.04
    kl: str = "k3"
    clip_low: float = 0.2
    clip_high: float = 0.2
    temperature_up: float = 1.0
    temperature_down: float = 1.05
    trust_least: float = 0.5
    trust_most: float = 2.0


@dataclass(frozen=True)
class Evidence:
    """All that a loss may look at. Only ``now_RC`` has a gradient.

    now_RC: log-probabilities under the weights that learn; old_RC: under those of the step's first pass; sampled_RC: as
    the sampler said; reference_RC: under the reference, None without a penalty. mask_RC: 1 at real tokens.

    >>> zero = torch.zeros(1, 2)
    >>> Evidence(zero, zero, zero, None, torch.ones(1), torch.ones(1, 2)).now_RC.shape
    torch.Size([1, 2])
    """

    now_RC: torch.Tensor
    old_RC: torch.Tensor
    sampled_RC: torch.Tensor
    reference_RC: torch.Tensor | None
    advantages_R: torch.Tensor
    mask_RC: torch.Tensor


@dataclass(frozen=True)
class Totals:
    """What a step holds, over all its micro-batches: each adds its share of one mean.

    ``limit``: the most tokens that a completion may have.

    >>> Totals(rows=16, tokens=2400, limit=512).rows
    16
    """

    rows: int
    tokens: int
    limit: int


# ---------------------------------------------------------------- what a token's change is worth


def ppo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """-min(r A, clip(r) A) per token, r = p / p_old (PPO 1707.06347, equation 7; GRPO 2402.03300).

    | r   | A  | term | its derivative by log p |
    |-----|----|------|-------------------------|
    | 1   | 1  | -1   | -1                      |
    | 1.5 | 1  | -1.2 | 0                       |
    | 0.5 | 1  | -0.5 | -0.5                    |
    | 1.5 | -1 | 1.5  | 1.5                     |
    | 0.5 | -1 | 0.8  | 0                       |
    """
    return _clipped((e.now_RC - e.old_RC).exp(), e.advantages_R, config)


def gspo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """The same with one ratio for a sequence, the geometric mean of its tokens' (GSPO 2507.18071).

    Each token's own probability carries the gradient. Log ratios of 0.2 and -0.1 make the ratio exp(0.05) = 1.0513 at both.
    """
    mean_R1 = sequence_mean(e.now_RC - e.old_RC, e.mask_RC).detach()[:, None]
    return _clipped(mean_R1.exp() * (e.now_RC - e.now_RC.detach()).exp(), e.advantages_R, config)


def cispo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """-sg(min(r, 1 + clip_high)) A log p: no token loses its gradient (CISPO 2506.13585).

    With clip_high = 4, r = 1.5 and A = 1 the derivative by log p is -1.5.
    """
    weight_RC = (e.now_RC - e.old_RC).exp().clamp(max=1 + config.clip_high).detach()
    return -weight_RC * e.advantages_R[:, None] * e.now_RC


def sapo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """-(4 / t) sigmoid(t (r - 1)) A: a gate that closes smoothly (SAPO 2511.20347).

    | r   | A | term   | its derivative by log p |
    |-----|---|--------|-------------------------|
    | 1   | 1 | -2     | -1                      |
    | 1.5 | 1 | -2.490 | -1.410                  |
    """
    ratio_RC, advantages_R1 = (e.now_RC - e.old_RC).exp(), e.advantages_R[:, None]
    warmth_R1 = torch.where(advantages_R1 > 0, config.temperature_up, config.temperature_down)
    return -4 / warmth_R1 * (warmth_R1 * (ratio_RC - 1)).sigmoid() * advantages_R1


def _clipped(ratio_RC: torch.Tensor, advantages_R: torch.Tensor, config: LossConfig) -> torch.Tensor:
    clipped_RC = ratio_RC.clamp(1 - config.clip_low, 1 + config.clip_high)
    return -torch.minimum(ratio_RC * advantages_R[:, None], clipped_RC * advantages_R[:, None])


Surrogate = Callable[[Evidence, LossConfig], torch.Tensor]
SURROGATES: dict[str, Surrogate] = {"ppo": ppo, "gspo": gspo, "cispo": cispo, "sapo": sapo}

# ---------------------------------------------------------------- how far the sampler is believed


def importance(e: Evidence) -> torch.Tensor:
    """The trainer's probability of a token over the sampler's: 1 where an engine computes what we compute."""
    return (e.old_RC - e.sampled_RC).exp().detach()


def truncated(e: Evidence, config: LossConfig) -> torch.Tensor:
    """min(w, trust_most): a few tokens that an engine thinks unlikely must not decide a step (truncated importance sampling, Yao et al. 2025)."""
    return importance(e).clamp(max=config.trust_most)


def masked(e: Evidence, config: LossConfig) -> torch.Tensor:
    """w within its bounds, 0 outside: what the two disagree on teaches nothing (IcePop 2510.18855)."""
    weight_RC = importance(e)
    return weight_RC * ((weight_RC >= config.trust_least) & (weight_RC <= config.trust_most))


TRUST: dict[str, Surrogate] = {"none": lambda e, config: torch.ones_like(e.old_RC), "truncated": truncated, "masked": masked}

# ---------------------------------------------------------------- the penalty


def k3(logprobs_RC: torch.Tensor, reference_RC: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log p_ref - log p: never negative, low variance (Schulman 2020).

    | d      | k3     |
    |--------|--------|
    | 0      | 0      |
    | log 2  | 0.3069 |
    | -log 2 | 0.1931 |

    >>> log2 = torch.tensor([2.0]).log()
    >>> [round(k3(torch.zeros(1), d).item(), 4) for d in (0 * log2, log2, -log2)]
    [0.0, 0.3069, 0.1931]
    """
    difference = reference_RC - logprobs_RC
    return difference.exp() - difference - 1


def k2(logprobs_RC: torch.Tensor, reference_RC: torch.Tensor) -> torch.Tensor:
    """d² / 2: as a loss, its gradient is that of the true KL divergence, which k3's is not.

    >>> k2(torch.zeros(1), torch.full((1,), 2.0)).item()
    2.0
    """
    return (reference_RC - logprobs_RC) ** 2 / 2


KL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k3": k3, "k2": k2}

# ---------------------------------------------------------------- what a token weighs


def sequence_mean(values_RC: torch.Tensor, mask_RC: torch.Tensor) -> torch.Tensor:
    """The mean over each row's real tokens, (R,).

    >>> sequence_mean(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])).tolist()
    [2.0, 5.0]
    """
    return (values_RC * mask_RC).sum(1) / mask_RC.sum(1).clamp(min=1)


def by_sequence(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every sequence alike: a token weighs 1 / (R n), n its sequence's tokens (GRPO 2402.03300)."""
    return sequence_mean(values_RC, mask_RC).sum() / totals.rows


def by_token(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every token alike: 1 / all tokens of the step (DAPO 2503.14476)."""
    return (values_RC * mask_RC).sum() / totals.tokens


def by_limit(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every token alike in every step: 1 / (R limit), so that no length is favoured (Dr. GRPO 2503.20783)."""
    return (values_RC * mask_RC).sum() / (totals.rows * totals.limit)


Reduce = Callable[[torch.Tensor, torch.Tensor, Totals], torch.Tensor]
REDUCE: dict[str, Reduce] = {"sequence": by_sequence, "token": by_token, "constant": by_limit}

# ---------------------------------------------------------------- all together

LOSSES = {
    "grpo": LossConfig(),
    "dr_grpo": LossConfig(reduce="constant", kl_beta=0.0),
    "dapo": LossConfig(reduce="token", kl_beta=0.0, clip_high=0.28),
    "gspo": LossConfig("gspo", kl_beta=0.0, clip_low=3e-4, clip_high=4e-4),
    "cispo": LossConfig("cispo", reduce="token", kl_beta=0.0, clip_high=4.0),
    "sapo": LossConfig("sapo", kl_beta=0.0),
}


def terms(e: Evidence, config: LossConfig) -> torch.Tensor:
    """What each token adds (R, C), before it is weighed."""
    loss_RC = TRUST[config.trust](e, config) * SURROGATES[config.surrogate](e, config)
    return loss_RC if e.reference_RC is None else loss_RC + config.kl_beta * KL[config.kl](e.now_RC, e.reference_RC)


def loss(e: Evidence, config: LossConfig, totals: Totals) -> torch.Tensor:
    """This micro-batch's share of the step's loss; the shares of a step add up to it."""
    return REDUCE[config.reduce](terms(e, config), e.mask_RC, totals)
