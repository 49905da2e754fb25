"""How a page writes its numbers and names, and how short texts are compared."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

MODALITIES = {"mri": "MRI", "ct": "CT", "xray": "X-ray", "oct": "OCT", "us": "Ultrasound", "ultrasound": "Ultrasound"}


def modality_name(name: str) -> str:
    """As a reader writes it; unknown ones as they come."""
    return MODALITIES.get(name, name)


def called(model: str) -> str:
    """What a reader calls a model.

    >>> called("runs/mine/checkpoints/step-300"), called("Qwen/Qwen2-VL-2B-Instruct"), called("http://127.0.0.1:8000/v1#big")
    ('mine, step-300', 'Qwen/Qwen2-VL-2B-Instruct', 'big')
    """
    place = Path(model)
    if place.parent.name == "checkpoints":
        return f"{place.parent.parent.name}, {place.name}"
    return (model.partition("#")[2] or model) if "://" in model else place.name if place.is_absolute() else model


def decimal(value: float) -> str:
    """All its digits and no exponent, as a place in a file is written.

    >>> decimal(40.0), decimal(-600.5), decimal(1.2345e-6)
    ('40.0', '-600.5', '0.0000012345')
    """
    return format(Decimal(repr(float(value))), "f")


def percent(fraction: float) -> str:
    """One decimal, without the sign: 0.7822 is "78.2"."""
    return f"{100 * fraction:.1f}"


def points(difference: float) -> str:
    """A difference in percentage points, with its sign.

    >>> points(0.171), points(-0.02), points(0.0001)
    ('+17.1', '−2.0', '0.0')
    """
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


NO_INTERVAL = "no interval: fewer than three patients"


def interval(ci95: Sequence[float] | None, signed: bool = False) -> str:
    """Two per cents; ``signed`` for differences. None: too few patients to know how much they differ.

    >>> interval([0.754, 0.808]), interval([-0.01, 0.2], signed=True), interval(None)
    ('75.4–80.8', '−1.0 to +20.0', 'no interval: fewer than three patients')
    """
    if ci95 is None:
        return NO_INTERVAL
    return f"{points(ci95[0])} to {points(ci95[1])}" if signed else f"{percent(ci95[0])}–{percent(ci95[1])}"


def coefficient(value: float) -> str:
    """Two decimals, and no minus before nothing.

    >>> coefficient(0.384), coefficient(-0.25), coefficient(-0.001)
    ('0.38', '−0.25', '0.00')
    """
    text = f"{value:.2f}".replace("-", "−")
    return "0.00" if text == "−0.00" else text


def p_value(p: float) -> str:
    """Three decimals, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(4.21), duration(75)
    ('4.2 s', '1 min 15 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings in lines.

    >>> list(flat({"optim": {"lr": 1e-6, "betas": (0.9, 0.99)}}))
    [('optim.lr', '1e-06'), ('optim.betas', '0.9, 0.99')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@lru_cache(maxsize=1 << 17)
def normal(option: str) -> str:
    """An option as it is counted: without case, and without the full stop that some writers set and some do not.

    >>> normal(" Acute infarct. ")
    'acute infarct'
    """
    return option.strip().lower().rstrip(".")
