"""The policy-gradient loss and the KL penalty, as pure functions of log-probabilities.

Legend: R completion rows, C completion tokens. Logarithms are natural.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LossConfig:
    """The paper's loss: one on-policy update, k3 penalty at 0.04, mean within a sequence, then over sequences."""

    kl_beta: float = 0.04
    kl: str = "k3"
    clip_low: float = 0.2
    clip_high: float = 0.2


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


def surrogate(ratio_RC: torch.Tensor, advantages_R: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """-min(ratio A, clip(ratio) A) per token (PPO 1707.06347, equation 7).

    On-policy the ratio is 1 and its gradient that of log p.

    >>> ratio = torch.tensor([[1.0], [1.5], [0.5], [0.5]])
    >>> surrogate(ratio, torch.tensor([1.0, 1.0, 1.0, -1.0]), LossConfig())[:, 0].tolist()
    [-1.0, -1.2000000476837158, -0.5, 0.800000011920929]
    """
    clipped_RC = ratio_RC.clamp(1 - config.clip_low, 1 + config.clip_high)
    return -torch.minimum(ratio_RC * advantages_R[:, None], clipped_RC * advantages_R[:, None])


def sequence_mean(values_RC: torch.Tensor, mask_RC: torch.Tensor) -> torch.Tensor:
    """The mean over each row's real tokens, (R,).

    >>> sequence_mean(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])).tolist()
    [2.0, 5.0]
    """
    return (values_RC * mask_RC).sum(1) / mask_RC.sum(1).clamp(min=1)
