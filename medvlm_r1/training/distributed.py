"""Many processes as one run: who this process is among them, and the few things that they tell each other.

torchrun starts the processes and names them in the environment; ``joined`` makes them one run, ``current`` is this
process's place in it. A process that was started alone is a world of one, for which everything here is the identity.

Every rank knows all questions and all rollouts of a step, writes and learns its share of them, and adds its gradients to the
others'. Rank 0 alone writes files and speaks. What is told is JSON: no pickle.

Legend: P prompts of a step.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from medvlm_r1.console import hush
from medvlm_r1.errors import ConfigError, MedVLMError, RunError
from medvlm_r1.training.batches import micro_batches
from medvlm_r1.training.parent import die_with_parent

T = TypeVar("T")
PATIENCE_S = "MEDVLM_PATIENCE_S"  # how long a rank waits for the others: a reward may be slow. A link that is cut is noticed after so long
BUCKET_ELEMENTS = 2**26  # of gradients that are sent at once: 256 MB of float32


@dataclass(frozen=True)
class Devices:
    """How a run uses many devices. Whole replicas unless ``shard`` cuts the weights among them (training.sharding).

    ``recompute``: activations are computed again in the backward pass instead of kept, a third more work for a fraction of the memory.

    >>> Devices()
    Devices(shard=False, recompute=False)
    """

    shard: bool = False
    recompute: bool = False


@dataclass(frozen=True)
class World:
    """One process among ``size``. The defaults are a process alone.

    >>> World().mine("abc"), World(rank=1, size=2).mine("abcde")
    (['a', 'b', 'c'], ['b', 'd'])
    >>> World().total(3), World().merge({"kl": 0.5})
    (3, {'kl': 0.5})
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Is this the rank that writes and speaks?"""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> list[T]:
        """This rank's, dealt in turn."""
        return list(items[self.rank :: self.size])

    def together(self, mine: Sequence[T], pack: Callable[[T], Any], unpack: Callable[[Any], T]) -> list[T]:
        """All ranks' items in the order from which ``mine`` dealt them; ``pack`` makes JSON of one."""
        if self.size == 1:
            return list(mine)
        dealt = self.every([pack(item) for item in mine])
        return [unpack(dealt[n % self.size][n // self.size]) for n in range(sum(map(len, dealt)))]

    def total(self, number: float) -> float:
        """The sum over all ranks."""
        return sum(self.every(number))

    def most(self, number: int) -> int:
        """The largest of all ranks."""
        return max(self.every(number))

    def merge(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums by name over all ranks; one that had nothing to count need not name them."""
        ranks = self.every(dict(sums))
        return {name: sum(rank[name] for rank in ranks if name in rank) for name in dict.fromkeys(name for rank in ranks for name in rank)}

    def first(self, work: Callable[..., Any], *args: Any) -> Any:
        """Rank 0 does it while the others wait, and tells them what came of it (JSON). What it raises ends them too."""
        return self.every(work(*args) if self.leads else None)[0]

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Every gradient becomes the sum of all ranks'. One that no rank has stays None: AdamW counts a parameter's own steps."""
        parameters = [p for p in parameters if not isinstance(p, DTensor)]  # FSDP2 adds up its own
        if self.size == 1 or not parameters:
            return
        held = self.reduce(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device), dist.ReduceOp.MAX)
        for bucket in _buckets([p for p, is_held in zip(parameters, held.tolist(), strict=True) if is_held]):
            flat = self.reduce(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket]), dist.ReduceOp.SUM)
            for p, gradient in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = gradient.view_as(p)

    def every(self, value: Any) -> list[Any]:
        """What each rank says, by rank; all ranks must ask. JSON keeps a float to its last bit."""
        if self.size == 1:
            return [value]
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(said)]))
        longest = int(max(map(int, sizes)))
        heard = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(heard, torch.cat([said, said.new_zeros(longest - len(said))]))
        return [json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(heard, sizes, strict=True)]

    def reduce(self, tensor: torch.Tensor, how: Any) -> torch.Tensor:
        """``tensor`` over all ranks, in place."""
        dist.all_reduce(tensor, how)
        return tensor


def _buckets(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for p in parameters:
        if bucket and sum(q.numel() for q in bucket) + p.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def shares(tokens_P: Sequence[int], live_P: Sequence[int], size: int) -> list[list[int]]:
    """The live groups' indices by rank, so that no rank has many more tokens than another.

    A group stays with the rank that wrote it, which has its images encoded, unless moving it lowers the larger of two loads.

    >>> shares([900, 100, 500, 300], live_P=range(4), size=2)
    [[0], [1, 2, 3]]
    >>> shares([400, 400, 400, 400], live_P=[0, 1, 3], size=2), shares([400], live_P=[0], size=1)
    ([[0], [1, 3]], [[0]])
    """
    found = [[p for p in live_P if p % size == rank] for rank in range(size)]
    while True:
        loads = [sum(tokens_P[p] for p in share) for share in found]
        busiest, idlest = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[busiest] - loads[idlest]
        movable = [p for p in found[busiest] if tokens_P[p] < gap]
        if not movable:
            return [sorted(share) for share in found]
        moved = min(movable, key=lambda p: abs(gap - 2 * tokens_P[p]))  # the one that leaves the two most alike
        found[busiest].remove(moved)
        found[idlest].append(moved)


def own_micro_batches(tokens_P: Sequence[int], live_P: Sequence[int], budget: int, is_cut: bool) -> list[tuple[list[int], float]]:
    """This rank's share of the live groups in micro-batches, each with its weight.

    A model that ``is_cut`` among the ranks is put together anew in every pass, so all ranks make as many: spare ones go over the shortest
    group, at weight 0.

    >>> own_micro_batches([400, 300, 500, 2000, 100], live_P=[0, 1, 3, 4], budget=1000, is_cut=False)
    [([0, 1], 1.0), ([3], 1.0), ([4], 1.0)]
    """
    world = current()
    own = [(part, 1.0) for part in micro_batches(tokens_P, shares(tokens_P, live_P, world.size)[world.rank], budget)]
    missing = world.most(len(own)) - len(own) if is_cut else 0
    shortest = min(range(len(tokens_P)), key=tokens_P.__getitem__, default=0)
    return own + [([shortest], 0.0)] * missing


# ---------------------------------------------------------------- this process

ALONE = World()
_current: ContextVar[World] = ContextVar("world")


def current() -> World:
    """This process's place; a world of one unless it was ``joined``."""
    return _current.get(ALONE)


def restarted() -> bool:
    """Did torchrun, or Slurm, start this run again after it was lost? Then it goes on by itself."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


class Unheard:
    """In the place of what writes and speaks, on every rank but the first; a context manager."""

    def log(self, *_: Any) -> None:
        """Nothing."""

    def __enter__(self) -> "Unheard":
        return self

    def __exit__(self, *_: object) -> None:
        return


def lead(make: Callable[..., T], *args: Any) -> T | Unheard:
    """What ``make`` makes where this rank leads.

    >>> lead(dict)
    {}
    """
    return make(*args) if current().leads else Unheard()


@contextmanager
def joined() -> Iterator[World]:
    """Become one run with the processes that torchrun started beside this one, and leave it at the end.

    Whatever ends one rank ends all, and one of them says why: the first that fails. The others exit without a word.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield current()
        return
    _start(rank)
    token = _current.set(World(rank, size))
    try:
        yield current()
    except KeyboardInterrupt:
        raise _only(rank == 0, KeyboardInterrupt(), 130) from None
    except MedVLMError as error:
        raise _only(_is_first(), error, 2) from None
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        lost = RunError(f"another process of this run has ended; go on with --resume, or give torchrun --max-restarts ({str(error).splitlines()[0][:120]})")
        raise _only(_is_first(), lost, 1) from error
    else:
        dist.destroy_process_group()
    finally:
        _current.reset(token)


def _start(rank: int) -> None:
    if rank:
        hush()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_patience())


def _patience() -> timedelta:
    said = os.environ.get(PATIENCE_S, "600")
    if not said.isdecimal() or not int(said):
        raise ConfigError(f'{PATIENCE_S} wants a whole number of seconds, got "{said}"')
    return timedelta(seconds=int(said))


def _only(speaks: bool, error: BaseException, code: int) -> BaseException:
    return error if speaks else SystemExit(code)


def _is_first() -> bool:
    """Is no rank ahead of this one in failing? Told through torchrun's store, which outlives the ranks."""
    store = dist.distributed_c10d._get_default_store()
    try:
        return store.add(f"failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except RuntimeError:  # it was rank 0's, and rank 0 is gone
        return False


def _is_lost(error: RuntimeError) -> bool:
    """Is this how gloo and nccl say that they wait for nobody?"""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection"))
