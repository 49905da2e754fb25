"""Readers of published question sets, by name. A new corpus is one function and one line here."""

from collections.abc import Callable, Iterator
from pathlib import Path

from medvlm_r1.data.readers.found import Found
from medvlm_r1.data.readers.huatuo_eval import huatuo_eval
from medvlm_r1.data.readers.image_folder import image_folder
from medvlm_r1.data.readers.omnimedvqa import omnimedvqa
from medvlm_r1.data.readers.path_vqa import path_vqa
from medvlm_r1.data.readers.pmc_vqa import pmc_vqa
from medvlm_r1.data.readers.slake import slake
from medvlm_r1.data.readers.table import table
from medvlm_r1.data.readers.vqa_rad import vqa_rad

Reader = Callable[[Path], Iterator[Found]]

CORPORA: dict[str, Reader] = {
    "omnimedvqa": omnimedvqa,
    "huatuo-eval": huatuo_eval,
    "vqa-rad": vqa_rad,
    "slake": slake,
    "path-vqa": path_vqa,
    "pmc-vqa": pmc_vqa,
    "image-folder": image_folder,
    "table": table,
}
