"""The tower first: linear heads on a picture's tokens name what it shows, and are thrown away.

Reports and answers teach a tower slowly: a few words in fifty depend on the lesion, and a picture costs four times as much.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from medvlm_r1.experiments.nano_pool import PATCHES, Pool, moved, patches
from medvlm_r1.models.policy import Policy
from medvlm_r1.models.qwen import embed_batched

FACTS = ("modality", "body", "plane", "weighting", "finding", "side", "size", "count", "region")
TOKENS = 9


@dataclass(frozen=True)
class Sight:
    """Steps of ``batch`` pictures, of each modality by its share: MRI is the hardest to read."""

    steps: int
    batch: int
    lr: float
    shares: dict[str, float] = field(default_factory=lambda: {"mri": 0.7, "ct": 0.2, "xray": 0.1})


class Heads(torch.nn.Module):
    """One linear layer a fact, over all tokens of a picture."""

    def __init__(self, answers: dict[str, list[str]], width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(TOKENS * width)
        self.facts = torch.nn.ModuleDict({fact: torch.nn.Linear(TOKENS * width, len(known)) for fact, known in answers.items()})

    def loss(self, tokens_NTD: torch.Tensor, facts_NF: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, mean over pictures, summed over facts."""
        seen_ND = self.norm(tokens_NTD.flatten(1))
        return torch.stack([F.cross_entropy(head(seen_ND), facts_NF[:, n]) for n, head in enumerate(self.facts.values())]).sum()


def facts(pool: Pool) -> tuple[dict[str, list[str]], torch.Tensor]:
    """The values of each fact of a scene, and of "cell", sorted; and each picture's places among them, (pictures, facts)."""
    told = {fact: [str(getattr(scene, fact)) for scene in pool.scenes] for fact in FACTS} | {"cell": pool.cells}
    answers = {fact: sorted(set(values)) for fact, values in told.items()}
    return answers, torch.tensor([[answers[fact].index(value) for value in values] for fact, values in told.items()]).T


class Lectures:
    """Batches of pictures, each moved a little, and how well tower and heads name what they show."""

    def __init__(self, policy: Policy, pool: Pool, seed: int) -> None:
        self.policy, self.pool = policy, pool
        answers, self.facts_NF = facts(pool)
        self.by_modality = pool.by_modality()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = Heads(answers, policy.model.config.text_config.hidden_size)

    def loss(self, rng: np.random.Generator, sight: Sight) -> torch.Tensor:
        """Of one batch."""
        of_each = rng.multinomial(sight.batch, list(sight.shares.values()))
        at = np.concatenate([rng.choice(self.by_modality[modality], count) for modality, count in zip(sight.shares, of_each, strict=True)])
        grey_NHW = moved(torch.from_numpy(self.pool.pixels[at]).float() / 255, rng)
        grid_N3 = torch.tensor([[1, PATCHES, PATCHES]]).expand(len(at), -1)
        seen = embed_batched(self.policy.model, patches(grey_NHW, self.policy.encoder.image_processor), grid_N3)
        return self.heads.loss(torch.stack(list(seen)).reshape(len(at), TOKENS, -1), self.facts_NF[at])
