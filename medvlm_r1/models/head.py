"""The last product of a pass, where only the tokens that were chosen count: one kernel on a GPU.

Legend: T tokens, V vocabulary.
"""

import torch

from medvlm_r1.models.fused import fused


@fused
def logprob_of(
    logits_TV: torch.Tensor, ids_T: torch.Tensor, banned_V: torch.Tensor, ends_V: torch.Tensor, early_T: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Of each row's logits one token's log-probability (T,), as ``Policy.log_softmax`` has it: compiled, no row is written in float32.

    >>> none = torch.tensor([False, False, False])
    >>> logprob_of(torch.zeros(1, 3), torch.tensor([2]), torch.tensor([True, False, False]), none, None, 1.0)
    tensor([-0.6931])
    """
    logits = logits_TV.float().masked_fill(banned_V, -torch.inf)
    if early_T is not None:
        logits = logits.masked_fill(early_T.unsqueeze(1) & ends_V, -torch.inf)
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1).gather(1, ids_T.unsqueeze(1)).squeeze(1)
