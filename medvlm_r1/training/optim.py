"""AdamW with a schedule and gradient clipping, as one object with exact state.

The state is plain tensors and numbers, so that a checkpoint needs no pickle.
"""

import math
from dataclasses import dataclass

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from medvlm_r1.errors import NotFiniteError
from medvlm_r1.training.distributed import current
from medvlm_r1.training.shards import Stored, as_cut

SCHEDULES = ("linear", "constant")
WIDENED_TOGETHER = 64  # parameters
MOST_SKIPPED = 3  # steps in a row that may be skipped: one bad batch is chance, as many are the weights or the rate


@dataclass(frozen=True)
class OptimConfig:
    """The paper's optimiser; ``schedule`` "linear" falls to zero at the last step."""

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "linear"
    max_grad_norm: float = 1.0


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The rate of the optimiser step number ``step``, counted from 0.

    >>> c = OptimConfig(lr=1.0, warmup_steps=2)
    >>> [round(learning_rate(c, step, 6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    return config.lr * (total_steps - step) / (total_steps - config.warmup_steps)


class Optimizer:
    """Steps the trainable parameters of one model.

    Parameters below float32 have a master copy in float32, which is what is
    stepped: at the paper's rate of 1e-6 a step is smaller than the distance
    between neighbouring bfloat16 numbers, and 98 % of the weights would stay.

    ``loss`` is the update's, told before ``step``; ``norm`` that of the last gradient. ``skipped`` counts the updates
    that moved nothing, ``skipped_in_a_row`` those since the last that did.
    """

    def __init__(self, model: torch.nn.Module, config: OptimConfig, total_steps: int) -> None:
        self.config, self.total_steps, self.steps = config, total_steps, 0
        self.skipped, self.skipped_in_a_row, self.loss, self.norm = 0, 0, 0.0, 0.0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().float() for name, p in self.named.items() if p.dtype != torch.float32}
        self.cut = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self.stepped = self.named | self.masters
        self.adamw = torch.optim.AdamW(
            self.stepped.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
            fused=True,
        )  # fmt: skip

    @property
    def lr(self) -> float:
        """The rate of the last step, taken or skipped."""
        return learning_rate(self.config, max(0, self.steps - 1), self.total_steps)

    def step(self, is_last: bool = True) -> float:
        """Add up all ranks' gradients, clip, step, clear; returns the gradient norm before clipping.

        A step of the run may update several times, all at one rate; the last one ends it.

        Where the norm or ``loss`` is not finite, weights and moments stay as they are, and only time goes on: a
        step has its number, its batch and its rate whether or not it moves anything. One infinite entry would make
        every weight NaN, and it shows in the norm, which is read in any case.
        """
        on_gpu = current().size == 1 and any(p.is_cuda for p in self.stepped.values())  # many ranks add up in float32 before anything is clipped
        self.norm = self._norm() if on_gpu else self._clipped_norm()
        if moves := self.sound and math.isfinite(self.norm):
            self.adamw.param_groups[0]["lr"] = learning_rate(self.config, self.steps, self.total_steps)
            if on_gpu:
                self._widen()
                setattr(self.adamw, "grad_scale", self._scale())  # noqa: B010 (what fused AdamW looks for, and its class does not name)
            self.adamw.step()
            self._round()
        for p in (*self.named.values(), *self.masters.values()):
            p.grad = None
        for module in self.cut:  # what a pass has put together is old now
            module.reshard()
        self.steps += is_last
        self.skipped += not moves
        self.skipped_in_a_row = 0 if moves else self.skipped_in_a_row + 1
        return self.norm

    @property
    def sound(self) -> bool:
        """Was the last loss finite? Else the weights that gave it are in doubt, and not to be kept."""
        return math.isfinite(self.loss)

    def check(self) -> None:
        """Raises NotFiniteError where MOST_SKIPPED steps in a row were skipped, or the run would end on weights in doubt."""
        if self.skipped_in_a_row >= MOST_SKIPPED or (not self.sound and self.steps == self.total_steps):
            many = f"{self.skipped_in_a_row} steps in a row" if self.skipped_in_a_row > 1 else "the last step"
            raise NotFiniteError(
                f"step {self.steps} came to loss {self.loss:.4g} and gradient norm {self.norm:.4g}, and {many} moved nothing; lower optim.lr "
                f"(now {self.config.lr:g}) and start again in another --run-dir, with --model from the last checkpoint if one was saved"
            )

    def _clipped_norm(self) -> float:
        """The norm; masters have their gradients now, and no gradient is longer than it may be."""
        for name, master in self.masters.items():
            p = self.named[name]
            master.grad, p.grad = None if p.grad is None else p.grad.float(), None
        current().sum_gradients(list(self.stepped.values()))
        norm = torch.nn.utils.clip_grad_norm_(self.stepped.values(), self.config.max_grad_norm)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def _norm(self) -> float:
        """The norm of the gradients as they are, in float32: on a GPU they are read once for it, and clipped as AdamW reads them."""
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).norm().item() if gradients else 0.0

    @torch.no_grad()
    def _widen(self) -> None:
        """Masters get their gradients in float32: one kernel for many, where a copy each would keep the host busy; and few at a time, so that
        what they were makes room."""
        learnt = [(self.named[name], master) for name, master in self.masters.items() if self.named[name].grad is not None]
        for at in range(0, len(learnt), WIDENED_TOGETHER):
            some = learnt[at : at + WIDENED_TOGETHER]
            for _, master in some:
                master.grad = torch.empty_like(master)
            wide, narrow = ([p.grad for p in each if p.grad is not None] for each in zip(*((master, p) for p, master in some), strict=True))
            torch._foreach_copy_(wide, narrow)
            for p, _ in some:
                p.grad = None

    def _scale(self) -> torch.Tensor | None:
        """What fused AdamW divides gradients by, so that their norm is what it may be at most; None where it is."""
        excess = (self.norm + 1e-6) / self.config.max_grad_norm
        return torch.full((), excess, dtype=torch.float32, device=next(iter(self.stepped.values())).device) if excess > 1 else None

    @torch.no_grad()
    def _round(self) -> None:
        if self.masters:
            torch._foreach_copy_([self.named[name] for name in self.masters], list(self.masters.values()))

    def state(self) -> dict[str, torch.Tensor]:
        """Master weights, moments and steps by parameter name; no moments before the first step that had a gradient; what was skipped."""
        moments = {f"{key}/{name}": value for name, p in self.stepped.items() for key, value in self.adamw.state.get(p, {}).items()}
        skipped = {"skipped": torch.tensor([self.skipped, self.skipped_in_a_row])}
        masters = self.masters | {name: p.detach() for name, p in self.named.items() if isinstance(p, DTensor)}
        return {f"master/{name}": master for name, master in masters.items()} | moments | skipped

    def load(self, state: Stored, steps: int) -> None:
        """Go on from ``steps`` as if there had been no interruption."""
        self.steps = steps
        if "skipped" in state:  # earlier versions counted none
            self.skipped, self.skipped_in_a_row = state.rows("skipped", range(2)).tolist()
        for name, master in self.masters.items():
            master.copy_(state.like(f"master/{name}", master))
        for name, p in self.named.items():
            if isinstance(p, DTensor) and f"master/{name}" in state:
                p.to_local().detach().copy_(state.like(f"master/{name}", p))
        for name, p in self.stepped.items():
            if f"exp_avg/{name}" in state:
                # A parameter's own steps: those without a gradient (no image, no group to learn from) do not count.
                self.adamw.state[p] = {key: as_cut(state.like(f"{key}/{name}", p).to(p.device, copy=True), p) for key in ("step", "exp_avg", "exp_avg_sq")}
