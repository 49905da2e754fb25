"""The policy-gradient losses, as pure functions of log-probabilities put together from four tables.

    loss = mean over rows of REDUCE(TRUST * SURROGATES + kl_beta * KL)

``LOSSES`` names the combinations that papers gave names to; docs/losses.md says which to take when.

Legend: R completion rows, C completion tokens. Logarithms are natural.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from medvlm_r1.errors import ConfigError, nearest


@dataclass(frozen=True)
class LossConfig:
    """The paper's loss: clipped ratios, k3 penalty at 0.04, mean within a sequence, then over sequences.

    ``surrogate``, ``reduce``, ``trust`` and ``kl`` are lines of the tables below; ``--set update.loss=NAME`` takes all values of LOSSES.
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

    @classmethod
    def named(cls, name: str) -> "LossConfig":
        """One of LOSSES. Raises ConfigError with the names that there are.

        >>> LossConfig.named("gspo").clip_high
        0.0004
        """
        if name not in LOSSES:
            raise ConfigError(f'unknown loss "{name}"{nearest(name, LOSSES)}')
        return LOSSES[name]


@dataclass(frozen=True)
class Evidence:
    """All that a loss may look at. Only ``now_RC`` has a gradient.

    now_RC: log-probabilities under the weights that learn; old_RC: under those before the step's first update; sampled_RC: as
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
    """What an update holds, over all its micro-batches: each adds its share of one mean.

    ``limit``: the most tokens that a completion may have; only "constant" asks.

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
    return _smaller(token_ratio(e), e.advantages_R, config)


def gspo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """The same with one ratio for a sequence, the geometric mean of its tokens' (GSPO 2507.18071).

    Each token's own probability carries the gradient. Log ratios of 0.2 and -0.1 make the ratio exp(0.05) = 1.0513 at both.
    """
    return _smaller(sequence_ratio(e) * (e.now_RC - e.now_RC.detach()).exp(), e.advantages_R, config)


def cispo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """-sg(min(r, 1 + clip_high)) A log p: no token loses its gradient (CISPO 2506.13585).

    With clip_high = 4, r = 1.5 and A = 1 the derivative by log p is -1.5.
    """
    weight_RC = token_ratio(e).clamp(max=1 + config.clip_high).detach()
    return -weight_RC * e.advantages_R[:, None] * e.now_RC


def sapo(e: Evidence, config: LossConfig) -> torch.Tensor:
    """-(4 / t) sigmoid(t (r - 1)) A: a gate that closes smoothly (SAPO 2511.20347).

    | r   | A | term   | its derivative by log p |
    |-----|---|--------|-------------------------|
    | 1   | 1 | -2     | -1                      |
    | 1.5 | 1 | -2.490 | -1.410                  |
    """
    ratio_RC, advantages_R1 = token_ratio(e), e.advantages_R[:, None]
    warmth_R1 = torch.where(advantages_R1 > 0, config.temperature_up, config.temperature_down)
    return -((warmth_R1 * (ratio_RC - 1)).sigmoid() * 4 / warmth_R1) * advantages_R1


def token_ratio(e: Evidence) -> torch.Tensor:
    """p / p_old of every token (R, C)."""
    return (e.now_RC - e.old_RC).exp()


def sequence_ratio(e: Evidence) -> torch.Tensor:
    """The geometric mean of a sequence's ratios (R, 1), without a gradient."""
    return sequence_mean(e.now_RC - e.old_RC, e.mask_RC).detach()[:, None].exp()


def _smaller(ratio_RC: torch.Tensor, advantages_R: torch.Tensor, config: LossConfig) -> torch.Tensor:
    clipped_RC = ratio_RC.clamp(1 - config.clip_low, 1 + config.clip_high)
    return -torch.minimum(ratio_RC * advantages_R[:, None], clipped_RC * advantages_R[:, None])


def _beyond(ratio_RC: torch.Tensor, advantages_R: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """Where the bound bites: above it for what did better than its group, below it for what did worse."""
    better_R1, worse_R1 = advantages_R[:, None] > 0, advantages_R[:, None] < 0
    return (better_R1 & (ratio_RC > 1 + config.clip_high)) | (worse_R1 & (ratio_RC < 1 - config.clip_low))


Term = Callable[[Evidence, LossConfig], torch.Tensor]


class Surrogate(NamedTuple):
    """What each token adds (R, C), and for which tokens a bound changes it (R, C)."""

    term: Term
    clipped: Term


SURROGATES: dict[str, Surrogate] = {
    "ppo": Surrogate(ppo, lambda e, config: _beyond(token_ratio(e), e.advantages_R, config)),
    "gspo": Surrogate(gspo, lambda e, config: _beyond(sequence_ratio(e), e.advantages_R, config).expand_as(e.now_RC)),
    "cispo": Surrogate(cispo, lambda e, config: token_ratio(e) > 1 + config.clip_high),
    "sapo": Surrogate(sapo, lambda e, config: torch.zeros_like(e.mask_RC)),
}

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


TRUST: dict[str, Term] = {"none": lambda e, config: torch.ones_like(e.old_RC), "truncated": truncated, "masked": masked}

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

# ---------------------------------------------------------------- what a token weighs in its row's loss (R,); the loss is the mean over rows


def sequence_mean(values_RC: torch.Tensor, mask_RC: torch.Tensor) -> torch.Tensor:
    """The mean over each row's real tokens, (R,).

    >>> sequence_mean(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])).tolist()
    [2.0, 5.0]
    """
    return (values_RC * mask_RC).sum(1) / mask_RC.sum(1).clamp(min=1)


def by_sequence(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every sequence alike: a token weighs 1 / n, n its sequence's tokens (GRPO 2402.03300)."""
    return sequence_mean(values_RC, mask_RC)


def by_token(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every token alike: one over the mean length of the update's sequences (DAPO 2503.14476)."""
    return (values_RC * mask_RC).sum(1) * (totals.rows / totals.tokens)


def by_limit(values_RC: torch.Tensor, mask_RC: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every token alike in every step: 1 / limit, so that no length is favoured (Dr. GRPO 2503.20783)."""
    return (values_RC * mask_RC).sum(1) / totals.limit


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
    loss_RC = TRUST[config.trust](e, config) * SURROGATES[config.surrogate].term(e, config)
    return loss_RC if e.reference_RC is None else loss_RC + config.kl_beta * KL[config.kl](e.now_RC, e.reference_RC)


def losses(e: Evidence, config: LossConfig, totals: Totals) -> torch.Tensor:
    """Each row's loss (R,); that of an update is the mean over all its rows."""
    return REDUCE[config.reduce](terms(e, config), e.mask_RC, totals)


def staleness(e: Evidence, config: LossConfig) -> dict[str, torch.Tensor]:
    """How far the data are from the weights that learn, a mean over each row's tokens (R,): p / p_old, what is clipped, the weight of TRUST."""
    means = {"ratio": token_ratio(e), "clip_fraction": SURROGATES[config.surrogate].clipped(e, config), "trust_weight": TRUST[config.trust](e, config)}
    return {name: sequence_mean(values_RC.detach(), e.mask_RC) for name, values_RC in means.items()}
