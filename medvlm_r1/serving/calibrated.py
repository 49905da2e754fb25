"""How often a model is right when it is this sure, measured on questions that it was not trained on.

The file that ``medvlm-r1 calibrate`` writes, and what it makes of a probability. Blocks of confidences, each with its share of
right answers: pooled until they rise (Ayer et al. 1955, isotonic regression), each with its questions and interval.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.clinical.record import Calibration as Rests
from medvlm_r1.clinical.record import Confidence
from medvlm_r1.errors import ConfigError, DataError
from medvlm_r1.evaluation.measuring.statistics import wilson

LEAST_OF_A_BLOCK = 20


@dataclass(frozen=True)
class Block:
    """Answers whose probability was ``low`` or more, up to the next block: of ``n``, this ``share`` was right.

    >>> Block(0.9, 40, 0.8, (0.652, 0.895)).share
    0.8
    """

    low: float
    n: int
    share: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """``identity``: of the model, so that no other goes by it. ``threshold``: below this share there is no answer.

    >>> c = Calibration("ab", "phantom:mri?split=test", "think", 80, (Block(0.0, 40, 0.5, (0.35, 0.65)), Block(0.9, 40, 0.8, (0.65, 0.9))), 0.6)
    >>> c.block(0.95).share, c.block(0.2).share
    (0.8, 0.5)
    >>> Calibration("ab", c.data, "think", 40, c.blocks[1:]).block(0.2)
    """

    identity: str
    data: str
    template: str
    n: int
    blocks: tuple[Block, ...]
    threshold: float = 0.0

    def block(self, probability: float) -> Block | None:
        """Where a probability falls; None below all that were measured."""
        return max((block for block in self.blocks if block.low <= probability), key=lambda block: block.low, default=None)

    def said(self, block: Block) -> dict[str, Any]:
        """What stands beside the number: of which set, how many, and how far the share may be from the truth."""
        return {"set": self.data, "n": block.n, "n_of_set": self.n, "ci95": list(block.ci95)}


def reported(value: float | None, on: Mapping[str, Any] | None) -> Confidence | None:
    """As reports have it; a set is called by its name, without the folders that it lies in.

    >>> reported(0.8, {"set": "/data/ward 3/held-out.jsonl", "n": 40, "n_of_set": 80, "ci95": [0.65, 0.9]}).calibration.name
    'held-out.jsonl'
    """
    if value is None or on is None:
        return None
    low, high = on["ci95"]
    return Confidence(value, Rests(Path(on["set"]).name, on["n"], (low, high), on["n_of_set"]))


def blocks(confidences: Sequence[float], correct: Sequence[bool], design: float = 1.0, cut: float = math.inf) -> tuple[Block, ...]:
    """Rising blocks of at least LEAST_OF_A_BLOCK questions each. ``design``: see ``clusters.design_effect``. At ``cut`` a block begins.

    Equal confidences stay together, and a few that are surer go with those below them, never a few with many surer ones:
    fewer than LEAST_OF_A_BLOCK at the lower end, below a large block, are in none.

    >>> [(b.low, b.n, b.share) for b in blocks([0.5] * 20 + [0.9] * 20, [1, 0] * 10 + [1] * 19 + [0])]
    [(0.5, 20, 0.5), (0.9, 20, 0.95)]
    >>> [(b.low, b.n, b.share) for b in blocks([0.5] * 20 + [0.9] * 20, [1] * 20 + [1, 0] * 10)]      # surer and less often right: pooled
    [(0.5, 40, 0.75)]
    >>> [(b.low, b.n, b.share) for b in blocks([0.3] * 19 + [1.0] * 150, [0] * 19 + [1] * 150)]
    [(1.0, 150, 1.0)]
    """
    rights: dict[float, list[bool]] = {}
    for confidence, right in zip(confidences, correct, strict=True):
        rights.setdefault(confidence, []).append(bool(right))
    ties = [_Pool(low, len(of_it), sum(of_it)) for low, of_it in sorted(rights.items())]
    pooled = [*_pooled([tie for tie in ties if tie.low < cut]), *_pooled([tie for tie in ties if tie.low >= cut], keeps_all=True)]
    while (n := _falling(pooled)) is not None:
        pooled[n : n + 2] = [pooled[n] + pooled[n + 1]]
    return tuple(Block(pool.low, pool.n, pool.right / pool.n, _rounded(wilson(pool.right / design, pool.n / design))) for pool in pooled)


@dataclass(frozen=True)
class _Pool:
    """Answers from a confidence on: how many, and how many are right.

    >>> _Pool(0.5, 20, 10) + _Pool(0.9, 5, 5)
    _Pool(low=0.5, n=25, right=15)
    """

    low: float
    n: int
    right: int

    def __add__(self, other: "_Pool") -> "_Pool":
        return _Pool(min(self.low, other.low), self.n + other.n, self.right + other.right)


def _pooled(ties: Sequence[_Pool], keeps_all: bool = False) -> list[_Pool]:
    """From the surest down, each of at least LEAST_OF_A_BLOCK; what is left at the lower end joins a block that is not much larger, or none unless it ``keeps_all``."""
    found: list[_Pool] = []  # the surest first
    for tie in reversed(ties):
        if found and found[-1].n < LEAST_OF_A_BLOCK:
            found[-1] += tie
        else:
            found.append(tie)
    if len(found) > 1 and found[-1].n < LEAST_OF_A_BLOCK and (keeps_all or found[-2].n < 2 * LEAST_OF_A_BLOCK):
        found[-2:] = [found[-2] + found[-1]]
    return [pool for pool in reversed(found) if keeps_all or pool.n >= LEAST_OF_A_BLOCK]


def _falling(pooled: Sequence[_Pool]) -> int | None:
    """The first block that is followed by one of no higher share."""
    return next((n for n, (a, b) in enumerate(itertools.pairwise(pooled)) if b.right * a.n <= a.right * b.n), None)


def _rounded(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 4), round(pair[1], 4)


def write(path: Path, calibration: Calibration) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Calibration:
    """Raises DataError where the file is none of ``medvlm-r1 calibrate``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["blocks"] = tuple(Block(**{**block, "ci95": tuple(block["ci95"])}) for block in values["blocks"])
        found = Calibration(**values)
        if not found.blocks:
            raise ValueError("no blocks")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'"{path}" is no calibration ({error}); make one with medvlm-r1 calibrate … --out {path}') from error
    return found


def require(calibration: Calibration, about: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError where it was measured of another model than this, or with the question put otherwise."""
    for name in ("identity", "template"):
        found, wanted = getattr(calibration, name), about[name]
        if found != wanted:
            raise ConfigError(f'"{path}" was measured with the {name} "{found}", this is "{wanted}"; make another with medvlm-r1 calibrate')
