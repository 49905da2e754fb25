"""The pictures that the embedded base learns from: drawn once, with what is known of each."""

import json
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from medvlm_r1.data.phantom.place import place_of
from medvlm_r1.data.phantom.questions import MODALITIES, PLACES, ask
from medvlm_r1.data.phantom.render import render
from medvlm_r1.data.phantom.scene import Scene
from medvlm_r1.models import nano
from medvlm_r1.models.family import Pixels

FIRST_PATIENT = 1_000_000
ROUND = ("mri", "ct", "mri", "xray")  # MRI is the hardest to read
PATCHES = 6  # a side
SHIFT_PX, GAIN = 2, 0.07


@dataclass
class Pool:
    """What was drawn of each picture.

    pixels: grey, uint8 (pictures, 84, 84). cells: where its one lesion lies, "" where that is not clear.
    """

    pixels: np.ndarray
    scenes: list[Scene]
    cells: list[str] = field(default_factory=list)

    def by_modality(self) -> dict[str, list[int]]:
        """The pictures of each."""
        return {m: [n for n, scene in enumerate(self.scenes) if scene.modality == m] for m in MODALITIES}

    def by_cell(self) -> dict[str, dict[str, list[int]]]:
        """The pictures that a place question can be asked about, by modality and cell."""
        found: dict[str, dict[str, list[int]]] = {m: {} for m in MODALITIES}
        for picture, (scene, cell) in enumerate(zip(self.scenes, self.cells, strict=False)):
            if cell in PLACES[scene.modality]:
                found[scene.modality].setdefault(cell, []).append(picture)
        return found

    def seen(self, picture: int, processor: Qwen2VLImageProcessorPil, rng: np.random.Generator | None = None) -> Pixels:
        """What the image processor would give for the picture; with ``rng`` for the picture moved a little."""
        grey_1HW = torch.from_numpy(self.pixels[[picture]]).float() / 255
        grey_1HW = grey_1HW if rng is None else moved(grey_1HW, rng)
        return Pixels.of(patches(grey_1HW, processor), (1, PATCHES, PATCHES), "")


def patches(grey_NHW: torch.Tensor, processor: Qwen2VLImageProcessorPil) -> torch.Tensor:
    """What Qwen's image processor gives for grey pictures of 84 × 84 in 0 to 1: (pictures × 36, 1176), patches in merged order."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    x = ((grey_NHW[:, None].expand(-1, 3, -1, -1) - mean) / std).view(-1, 3, 3, 2, 14, 3, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14)


def moved(grey_NHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures shifted by up to 2 px, their edges drawn out, and up to 7 % brighter or darker."""
    wide = torch.nn.functional.pad(grey_NHW[:, None], (SHIFT_PX,) * 4, mode="replicate")[:, 0]
    height, width = grey_NHW.shape[1:]
    starts = rng.integers(0, 2 * SHIFT_PX + 1, (len(grey_NHW), 2)).tolist()
    shifted = torch.stack([picture[y : y + height, x : x + width] for picture, (y, x) in zip(wide, starts, strict=True)])
    gain = torch.from_numpy(rng.uniform(1 - GAIN, 1 + GAIN, (len(grey_NHW), 1, 1))).float()
    return (shifted * gain).clamp(0, 1)


def make_pool(count: int, seed: int, workers: int = 2) -> Pool:
    """Draw ``count`` scenes in ``workers`` processes, four of each patient: two of MRI."""
    rng = np.random.default_rng(seed)
    scenes = [ask(rng, ROUND[n % 4], FIRST_PATIENT + n // 4).scene for n in range(count)]
    with get_context("fork").Pool(workers) as pool:
        drawn = pool.map(_draw, scenes, chunksize=64)
    return Pool(np.stack([pixels for pixels, _ in drawn]), scenes, [cell for _, cell in drawn])


def _draw(scene: Scene) -> tuple[np.ndarray, str]:
    size = (nano.IMAGE_PX, nano.IMAGE_PX)
    return np.asarray(render(scene).resize(size, Image.Resampling.BICUBIC)), place_of(scene)


def save_pool(pool: Pool, file: Path) -> None:
    """For ``load_pool``."""
    scenes = json.dumps([asdict(scene) for scene in pool.scenes])
    np.savez(file, pixels=pool.pixels, scenes=scenes, cells=pool.cells)


def load_pool(file: Path) -> Pool:
    """As it was saved."""
    with np.load(file) as kept:
        scenes = [Scene(**facts) for facts in json.loads(str(kept["scenes"]))]
        return Pool(kept["pixels"], scenes, kept["cells"].tolist())
