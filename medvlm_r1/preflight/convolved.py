"""What a backward pass keeps of a picture in a tower of convolutions: no formula in widths and layers says it, so the tower is run without numbers."""

import copy
from typing import Any

import torch

from medvlm_r1.models.family import Family
from medvlm_r1.models.fast_vlm import cell_px

TOGETHER = 2  # of one picture alone the projector takes the map as it lies; of several a copy, which is kept too
_FOUND: dict[tuple[str, int, int], int] = {}


def kept(model: Any, family: Family, cells: int) -> int:
    """Numbers that autograd keeps of one picture of so many cells, pixels and projector included, where all of the tower learns.

    Everything is on the meta device: no memory is taken, and what is frozen in ``model`` does not matter. A plan asks several times, of one tower.
    """
    config = model.config
    key = config.vision_config.to_json_string(), config.get_text_config().hidden_size, cells
    if key not in _FOUND:
        _FOUND[key] = _run(model, family, cells)
    return _FOUND[key]


def _run(model: Any, family: Family, cells: int) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    bare = copy.deepcopy(model, {id(tensor): _empty(tensor) for tensor in tensors}).eval()
    own = {tensor.untyped_storage()._cdata for tensor in (*bare.parameters(), *bare.buffers())}
    side = round(cells**0.5) * cell_px(model.config)
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage  # held, so that its address stays its own
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        family.embed(bare, torch.empty(TOGETHER, 3, side, side, device="meta"), torch.ones(TOGETHER, 3, dtype=torch.long))
    return sum(storage.nbytes() for storage in found.values()) // (4 * TOGETHER)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    bare = torch.empty_like(tensor, device="meta", dtype=dtype)
    return torch.nn.Parameter(bare) if isinstance(tensor, torch.nn.Parameter) else bare
