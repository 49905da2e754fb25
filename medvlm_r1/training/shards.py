"""An optimiser's state in as many files as there are ranks, which any other number of ranks can read; and whether files are whole.

Each rank writes ``state-00001-of-00002.safetensors``, a process alone ``state.safetensors``. Of tensors that every rank has, each writes
some; of those that are cut by rows (FSDP2's DTensor), each writes its own rows, and the header says where they begin. torch.distributed.checkpoint
would keep its table of contents in a pickle, which we do not open.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

FILES = "files.json"
CHUNK_BYTES = 2**24


def name_of(rank: int, size: int) -> str:
    """
    >>> name_of(0, 1), name_of(1, 4)
    ('state.safetensors', 'state-00002-of-00004.safetensors')
    """
    return "state.safetensors" if size == 1 else f"state-{rank + 1:05}-of-{size:05}.safetensors"


def rows_of(count: int, rank: int, size: int) -> range:
    """The rows of ``count`` that a rank holds, as FSDP2 cuts them.

    >>> [rows_of(5, rank, 3) for rank in range(3)], rows_of(1, 2, 3)
    ([range(0, 2), range(2, 4), range(4, 5)], range(1, 1))
    """
    each = -(-count // size)
    return range(min(count, rank * each), min(count, (rank + 1) * each))


def own_rows(tensor: DTensor) -> range:
    """The rows of a cut tensor that this rank holds."""
    return rows_of(tensor.shape[0], tensor.device_mesh.get_local_rank(), tensor.device_mesh.size())


def as_cut(local: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's rows as a part of a tensor that is cut as ``like`` is; a number, and what is not cut, as it is."""
    if not isinstance(like, DTensor) or not local.dim():
        return local
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


@dataclass(frozen=True)
class Part:
    """This rank's part of a state: the name of its file, tensors, and what the header says.

    >>> Part("state.safetensors", {}, {"steps": "300"}).name
    'state.safetensors'
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, str]

    def write(self, folder: Path) -> Path:
        """Into a folder; returns the file."""
        save_file(dict(self.tensors), folder / self.name, metadata=dict(self.about))
        return folder / self.name


def part(state: Mapping[str, torch.Tensor], steps: int, place: tuple[int, int], copied: Callable[[torch.Tensor], torch.Tensor]) -> Part:
    """What the rank at ``place`` (rank, of how many) writes of a state; each tensor ``copied``."""
    rank, size = place
    cut = {name: tensor for name, tensor in state.items() if isinstance(tensor, DTensor)}
    mine = {name: tensor for n, (name, tensor) in enumerate((k, v) for k, v in state.items() if k not in cut) if n % size == rank}
    rows = {name: local(tensor) for name, tensor in cut.items()}
    about = {"steps": str(steps)} | ({"rows": json.dumps({name: [own_rows(t).start, *t.shape] for name, t in cut.items()})} if cut else {})
    kept = mine | {name: tensor for name, tensor in rows.items() if len(tensor)}
    return Part(name_of(rank, size), {name: copied(tensor) for name, tensor in kept.items()}, about)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local().contiguous() if isinstance(tensor, DTensor) else tensor


class Stored:
    """The state in a folder, by name; a tensor is read when it is asked for, and of one that is cut only the rows that are wanted."""

    def __init__(self, folder: Path) -> None:
        self._files: list[Any] = [safe_open(file, "pt") for file in sorted(folder.glob("state*.safetensors"))]
        self._places: dict[str, list[tuple[int, Any]]] = {}
        self._shapes: dict[str, list[int]] = {}
        for file in self._files:
            starts = json.loads((file.metadata() or {}).get("rows", "{}"))
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                first, *shape = starts.get(name, [0, *file.get_slice(name).get_shape()])
                self._places.setdefault(name, []).append((first, file))
                self._shapes[name] = shape

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def like(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What is stored, cut as ``tensor`` is cut; its local rows where it is."""
        if not isinstance(tensor, DTensor):
            return self.rows(name, range(self._shapes[name][0]) if self._shapes[name] else range(1))
        return self.rows(name, own_rows(tensor))

    def rows(self, name: str, wanted: range) -> torch.Tensor:
        """Some rows of a stored tensor, whichever files hold them; a number without rows is whole."""
        if not self._shapes[name]:
            return self._places[name][0][1].get_tensor(name)
        parts = []
        for first, file in sorted(self._places[name], key=lambda place: place[0]):
            part = file.get_slice(name)
            start, stop = max(wanted.start, first), min(wanted.stop, first + part.get_shape()[0])
            if start < stop or not wanted:
                parts.append(part[max(start - first, 0) : max(stop - first, 0)])
        return torch.cat(parts) if len(parts) > 1 else parts[0]


# ---------------------------------------------------------------- are files whole?


def print_of(file: Path) -> list[int]:
    """A file's size and CRC-32: enough to see that it was torn, or copied in part."""
    size, crc = 0, 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def note(folder: Path, prints: Mapping[str, list[int]]) -> None:
    """Write down what the files of a checkpoint are, by path below it."""
    (folder / "trainer" / FILES).write_text(json.dumps(prints, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint: a file that is gone, cut off or changed; "" where nothing is, or where it says nothing of its files."""
    noted = folder / "trainer" / FILES
    if not noted.exists():
        return ""
    try:
        prints = json.loads(noted.read_text(encoding="utf-8"))
    except ValueError:
        return f'"trainer/{FILES}" cannot be read'
    for name, (size, crc) in prints.items():
        file = folder / name
        if not file.exists():
            return f'"{name}" is missing'
        if file.stat().st_size != size:
            return f'"{name}" has {file.stat().st_size} of {size} bytes'
        if print_of(file) != [size, crc]:
            return f'"{name}" holds other bytes than were written'
    return ""
