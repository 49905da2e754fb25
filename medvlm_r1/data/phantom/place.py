"""Where on the screen a phantom's lesion lies, told from the picture itself.

What differs between a scene's picture and the same without the lesion is the lesion, and what it pushes aside: anatomy,
slice and noise are the same in both.
"""

from functools import lru_cache

import numpy as np

from medvlm_r1.cells import CELLS
from medvlm_r1.data.phantom.render import render
from medvlm_r1.data.phantom.scene import Scene, altered

SIDE_PX = 84  # a multiple of 3
CLEAR = 0.6  # the least share of a lesion that its cell must hold


def cell_of(difference: np.ndarray) -> str:
    """The cell with most of a difference (H, W) that is >= 0, H and W multiples of 3; "" where it holds less than 60 %.

    >>> difference = np.zeros((6, 6))
    >>> difference[0, 5], difference[0, 3] = 3, 2  # 3 of 5 are 60 %
    >>> cell_of(difference)
    'upper right'
    >>> difference[5, 5] = 0.1
    >>> cell_of(difference), cell_of(np.zeros((6, 6)))
    ('', '')
    """
    rows, columns = (side // 3 for side in difference.shape)
    share = difference.reshape(3, rows, 3, columns).sum((1, 3)).ravel()
    return CELLS[share.argmax()] if share.max() >= CLEAR * share.sum() > 0 else ""


def lesion(scene: Scene) -> np.ndarray:
    """What the lesion changes of the picture, grey levels >= 0, float32 (84, 84)."""
    there, gone = (np.asarray(render(one, SIDE_PX), np.float32) for one in (scene, altered(scene, "finding", "none")))
    # Free air is dark; the lung that collapses under it brightens, and is not the lesion.
    return np.maximum(gone - there, 0) if scene.finding == "pneumothorax" else np.abs(there - gone)


@lru_cache(maxsize=4096)
def place_of(scene: Scene) -> str:
    """The cell that a scene's lesion lies in; "" where there is none or more than one, or it lies across cells.

    Two pictures are drawn for it, 40 to 60 ms.

    >>> place_of(Scene("ct", 7, 42, "chest", "axial", "", "nodule", "left", "small", 1, "middle"))
    'middle right'
    >>> place_of(Scene("ct", 7, 42, "chest", "axial", "", "nodule", "left", "small", 2, "middle"))
    ''
    """
    return cell_of(lesion(scene)) if scene.count == 1 else ""
