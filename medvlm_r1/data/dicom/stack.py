"""All frames of a DICOM file before their window, each with the rule by which ``open_dicom`` would show it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.data.dicom import geometry
from medvlm_r1.data.dicom.colour import to_colour
from medvlm_r1.data.dicom.elements import GREY_MACROS, Elements
from medvlm_r1.data.dicom.grey import Rule, rescaled, rule_of, windows_of
from medvlm_r1.data.dicom.shape import GREY, INVERTED, Shape, shape_of
from medvlm_r1.data.dicom.source import PICTURE, Source, decode, pixels_of, read
from medvlm_r1.data.foreign import require_pixels
from medvlm_r1.data.stack import Plane, Stack, one_after_the_other, packed, require_room

_MOST_WINDOWS = 8


def dicom_stack(path: Path) -> Stack:
    """Raises ImageError, and nothing else, for a file that cannot be shown."""
    source = read(path, (*PICTURE, *geometry.GEOMETRY))
    keyword = pixels_of(source)
    shape = shape_of(source.elements, keyword)
    require_pixels(shape.columns, shape.rows, str(path))
    is_grey = shape.photometric_interpretation in GREY
    n_bytes = -(-shape.bits_allocated // 8) if is_grey else 3
    require_room(shape.rows * shape.columns * shape.number_of_frames * n_bytes, str(path))
    first = source.elements.of_frame(0, (*GREY_MACROS, *geometry.MACROS))
    frames = [decode(source, shape, keyword, number) for number in range(shape.number_of_frames)]
    if is_grey:
        samples, rules, numbers = _grey(frames, source)
        notes = ["percentiles"] if rules[0]["function"] == "PERCENTILES" else []
    else:
        samples = np.stack([np.asarray(to_colour(frame, source.elements, shape, source.big_endian)) for frame in frames])
        rules, numbers, notes = [], [0], ["colour"]
    require_room(samples.nbytes, str(path))
    plane, more = _plane(source.elements, first, shape)
    return Stack(
        "dicom",
        samples,
        {"frames": plane},
        rules,
        numbers,
        _windows(first) if is_grey else [],
        geometry.modality(first),
        geometry.unit(first) if is_grey and keyword == "PixelData" else "",
        shape.photometric_interpretation == INVERTED,
        [*notes, *more, *geometry.notes(first)],
    )


def _grey(frames: list[np.ndarray], source: Source) -> tuple[np.ndarray, list[dict[str, Any]], list[int]]:
    """The samples of all frames, the rules that they have, and which of them is whose."""
    shown = list(_shown(frames, source))
    samples = packed(np.stack([stored for stored, _, _ in shown]))
    rules: list[dict[str, Any]] = []
    numbers = []
    for _, line, rule in shown:
        told = {**line, **_told(rule), **_levels(rule, line, samples)}
        if told not in rules:
            rules.append(told)
        numbers.append(rules.index(told))
    return samples, rules, numbers if len(rules) > 1 else [0]


def _shown(frames: list[np.ndarray], source: Source) -> Iterator[tuple[np.ndarray, dict[str, float], Rule]]:
    """Of each frame what is sent, the line that makes values of it, and the rule for those. Values that are no line over what is stored are sent themselves."""
    for number, pixels in enumerate(frames):
        elements = source.elements.of_frame(number)
        values = rescaled(pixels, elements, source.big_endian)
        rule = rule_of(values, pixels, elements, source.big_endian)
        slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
        if values is not pixels and values.dtype == np.float64:
            yield pixels, {"slope": 1.0 if slope is None else slope, "intercept": intercept or 0.0}, rule
        else:
            yield values, {"slope": 1.0, "intercept": 0.0}, rule


def _told(rule: Rule) -> dict[str, Any]:
    told: dict[str, Any] = {"function": rule.function, "low": float(rule.low), "high": float(rule.high), "window": rule.window}
    return told | ({"first": rule.table.first, "entries": rule.table.entries.tolist()} if rule.table else {})


def _levels(rule: Rule, line: Mapping[str, float], samples: np.ndarray) -> dict[str, Any]:
    """Of a SIGMOID the grey level of each stored value: another machine's exponential may differ in its last bit."""
    if rule.function != "SIGMOID" or samples.dtype.kind == "f":
        return {}
    known = np.arange(int(samples.min()), int(samples.max()) + 1)
    shown = rule.grey((known * line["slope"] + line["intercept"])[None])
    return {"levels": {"first": int(known[0]), "entries": np.asarray(shown)[0].tolist()}}


def _windows(elements: Elements) -> list[dict[str, Any]]:
    found = enumerate(windows_of(elements)[:_MOST_WINDOWS])
    return [{"center": pair[0], "width": pair[1], "name": geometry.window_name(elements, number)} for number, pair in found if pair]


def _plane(elements: Elements, first: Elements, shape: Shape) -> tuple[Plane, list[str]]:
    """And the codes of what its header leaves open."""
    every = (
        [elements.of_frame(number, geometry.MACROS) for number in range(shape.number_of_frames)]
        if elements.items("PerFrameFunctionalGroupsSequence")
        else [first]
    )
    found = [geometry.sides(one) for one in every]
    spacing, scale = geometry.spacing(first)
    if any(geometry.spacing(one) != (spacing, scale) for one in every):  # no one scale for all
        spacing, scale = None, ""
    sides = [one for one, _ in found]
    plane = one_after_the_other((shape.number_of_frames, shape.rows, shape.columns))
    missing = [why for why in dict.fromkeys(why for _, why in found) if why] + (
        ["detector-spacing"] if scale == "detector" else [] if scale else ["no-spacing"]
    )
    return replace(plane, sides=sides if any(one != sides[0] for one in sides) else sides[:1], spacing=spacing, scale=scale), missing
