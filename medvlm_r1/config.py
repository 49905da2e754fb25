"""Load, override and fingerprint a configuration. No field lives here.

A configuration is a frozen dataclass of plain values and further such
dataclasses, declared beside the code that reads it.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from medvlm_r1.errors import ConfigError, nearest
from medvlm_r1.files import digest


def override(config: Any, assignments: list[str]) -> Any:
    """A copy of ``config`` with ``key=value`` assignments applied, dots descending.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Optim:
    ...     lr: float = 1e-6
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     steps: int = 300
    ...     optim: Optim = Optim()
    >>> override(Config(), ["optim.lr=2e-4", "steps=10"])
    Config(steps=10, optim=Optim(lr=0.0002))
    """
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f'--set "{assignment}" has no "="; write --set key=value')
        config = _replace(config, key.split("."), value, key)
    return config


def changed(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of ``config`` with these values, dots descending: Python's own, or text as it stands behind ``--set``.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     steps: int = 300
    ...     betas: tuple[float, float] = (0.9, 0.99)
    >>> changed(Config(), {"steps": 10, "betas": [0.9, 1]})
    Config(steps=10, betas=(0.9, 1.0))
    """
    for key, value in values.items():
        config = _replace(config, key.split("."), value, key)
    return config


def _replace(config: Any, path: list[str], value: Any, key: str) -> Any:
    kinds = typing.get_type_hints(type(config))
    if len(path) == 1 and (older := getattr(config, "OLDER", {}).get(path[0])):  # a key that has another name now
        kind, understood = older
        return understood(config, _convert(value, kind, key))
    if path[0] not in kinds:
        raise ConfigError(f'unknown key "{key}": no "{path[0]}" here{nearest(path[0], kinds)}')
    old = getattr(config, path[0])
    if len(path) == 1 and isinstance(value, str) and hasattr(old, "named"):
        value = old.named(value)  # a group of keys whose usual combinations have names
    if len(path) > 1 and not dataclasses.is_dataclass(old):
        raise ConfigError(f'unknown key "{key}": "{path[0]}" is a value and has no keys of its own')
    if len(path) == 1 and dataclasses.is_dataclass(old):
        if type(value) is type(old):
            return dataclasses.replace(config, **{key.rpartition(".")[2]: value})
        if isinstance(value, Mapping) or str(value).startswith("{"):
            for name, inner in _convert(value, dict, key).items():
                old = _replace(old, [name], inner, f"{key}.{name}")
            return dataclasses.replace(config, **{path[0]: old})
        inside = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(old))
        raise ConfigError(f'"{key}" is a group of keys; set one of {inside}')
    new = _replace(old, path[1:], value, key) if len(path) > 1 else _convert(value, kinds[path[0]], key)
    return dataclasses.replace(config, **{path[0]: new})


def _convert(value: Any, kind: Any, key: str) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    try:
        if not isinstance(value, str):
            return _checked(value, kind)
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        if kind is int:
            return _whole(value)
        if kind is float and value.strip().lower().endswith("nan"):
            raise ValueError("not a number")
        return kind(value) if kind in (float, str) else _checked(json.loads(value), kind)
    except (ValueError, KeyError, OverflowError, RecursionError) as error:
        name = kind.__name__ if kind in (bool, int, float) else f"{kind} written as JSON"
        raise ConfigError(f'"{key}" wants {name}, got "{value}"') from error


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        if float(value).is_integer():
            return int(float(value))  # 1e3 is what people write
        raise


def _checked(value: Any, kind: Any) -> Any:
    """A value of JSON or Python as ``kind`` wants it; ValueError where it does not fit."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = inner or (Any, ...)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return tuple(_checked(item, want) for item, want in zip(value, kinds, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _checked(item, inner[1] if inner else Any) for key, item in value.items()}
    if origin is float and not isinstance(value, bool) and isinstance(value, Real):
        return float(value)
    if origin is int and not isinstance(value, bool) and isinstance(value, Integral):
        return int(value)  # numpy's too, of which sweeps are made
    if origin is Any or type(value) is origin:
        return value
    raise ValueError(f"{value!r} is no {kind}")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def code(config: Any) -> dict[str, str]:
    """What a configuration says of code that it names, by name: a hash each. Only one that has a method ``code`` names any."""
    return config.code() if hasattr(config, "code") else {}


def fingerprint(config: Any) -> str:
    """Twelve hex digits that change when any value does, or code that it names; a field marked as a ``place`` is where something is, not what.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     steps: int = 300
    >>> fingerprint(Config()) == fingerprint(Config(300)) != fingerprint(Config(301))
    True
    """
    text = json.dumps(_without_places(config, to_dict(config)), sort_keys=True)
    return digest(text + (json.dumps(named, sort_keys=True) if (named := code(config)) else ""))[:12]


def _without_places(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    kept = [field.name for field in dataclasses.fields(config) if not field.metadata.get("place")]
    return {name: _without_places(inner, values[name]) if dataclasses.is_dataclass(inner := getattr(config, name)) else values[name] for name in kept}


def secret(name: str) -> str:
    """What an environment variable holds, "" if nothing: keys do not belong into commands, which others can read."""
    return os.environ.get(name, "")
