"""Keys and values of a prompt, kept once and shared by all completions that continue it.

The classes stand in for a transformers cache: a decoder layer hands its new
keys and values to ``update`` and attends to what comes back. Everything on the
training path is out of place, so gradients reach the prompt and the images.

Legend: P prompts, R completion rows, H key-value heads, L prompt tokens,
C completion tokens, D head size.
"""

import torch


class Prefill:
    """First pass: remembers what each layer computed for the prompts."""

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, keys_PHLD: torch.Tensor, values_PHLD: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        self.layers.append((keys_PHLD, values_PHLD))
        return keys_PHLD, values_PHLD

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class Continue:
    """Second pass: every completion row sees its own prompt's keys before its own."""

    def __init__(self, prefix: Prefill, prompt_of_R: torch.Tensor) -> None:
        self.prefix, self.prompt_of_R = prefix, prompt_of_R

    def update(
        self, keys_RHCD: torch.Tensor, values_RHCD: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys_PHLD, values_PHLD = self.prefix.layers[layer]
        return (
            torch.cat([keys_PHLD[self.prompt_of_R], keys_RHCD], 2),
            torch.cat([values_PHLD[self.prompt_of_R], values_RHCD], 2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix.layers[0][0].shape[2]


class Decode:
    """Token by token, without gradients: static buffers that are written in place.

    ``keep`` drops finished rows, so that the work shrinks with the batch.
    """

    def __init__(self, prefix: Prefill, prompt_of_R: torch.Tensor, max_tokens: int) -> None:
        self.length = prefix.layers[0][0].shape[2]
        self.layers = [
            tuple(_with_room(half[prompt_of_R], max_tokens) for half in layer) for layer in prefix.layers
        ]

    def update(self, keys_RH1D: torch.Tensor, values_RH1D: torch.Tensor, layer: int, *_: object) -> tuple[torch.Tensor, ...]:
        for buffer, new in zip(self.layers[layer], (keys_RH1D, values_RH1D), strict=True):
            buffer[:, :, self.length] = new[:, :, 0]
        return tuple(buffer[:, :, : self.length + 1] for buffer in self.layers[layer])

    def advance(self) -> None:
        self.length += 1

    def keep(self, rows: torch.Tensor) -> None:
        self.layers = [tuple(buffer[rows] for buffer in layer) for layer in self.layers]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length


def _with_room(x_RHLD: torch.Tensor, tokens: int) -> torch.Tensor:
    room = x_RHLD.new_empty(*x_RHLD.shape[:2], tokens, x_RHLD.shape[3])
    return torch.cat([x_RHLD, room], 2)
