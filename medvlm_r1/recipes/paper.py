"""MedVLM-R1 as published (Pan et al. 2025, arXiv 2502.19634; authors' code of 2025-09-17).

What differs from the authors' script is in docs/algorithm.md: 600 questions as
in the abstract, and prompts are never cut.
"""

from medvlm_r1.grpo.trainer import GRPOConfig
from medvlm_r1.sft.trainer import SFTConfig


def grpo() -> GRPOConfig:
    """300 steps of 4 prompts, G = 4, lr 1e-6, beta 0.04, full fine-tune in bf16."""
    return GRPOConfig()


def sft() -> SFTConfig:
    """The same 600 questions, letters as targets."""
    return SFTConfig()
