"""With how many pixels of its images a prompt fits a model."""

from collections.abc import Callable


def budget_that_fits(length: Callable[[int], int], text: int, limit: int, largest: int) -> int | None:
    """The pixels of an image, in whole squares of 28, with which a prompt takes at most ``limit`` tokens; None where none do.

    ``length`` tells the tokens of the whole prompt, ``text`` those of it that are no image's. What is returned has been tried.

    >>> budget_that_fits(lambda pixels: 100 + pixels // 784, 100, 1124, largest=12_000_000)
    802816
    >>> budget_that_fits(lambda pixels: 100 + 64 * (1 + pixels // 50176), 100, 200, largest=401408), budget_that_fits(lambda pixels: 100, 100, 90, 784)
    (41552, None)
    """
    pixels = largest // 784 * 784 if text < limit else 0
    while pixels >= 784 and (tokens := length(pixels)) > limit:
        pixels = int(pixels * min(0.95, (limit - text) / (tokens - text))) // 784 * 784
    return pixels or None
