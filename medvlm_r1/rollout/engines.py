"""The engine in this process for a policy: the fast one where its family is known, the model's own ``generate`` where not."""

from collections.abc import Callable

from medvlm_r1.models.general import GeneralPolicy
from medvlm_r1.models.policy import Policy
from medvlm_r1.rollout.general import GeneralEngine
from medvlm_r1.rollout.local import LocalEngine

Seen = Callable[[list[int]], None]


def local(policy: Policy, learning: bool = False, seen: Seen | None = None) -> LocalEngine | GeneralEngine:
    """``learning`` and ``seen``: see LocalEngine."""
    return GeneralEngine(policy, seen) if isinstance(policy, GeneralPolicy) else LocalEngine(policy, learning=learning, seen=seen)
