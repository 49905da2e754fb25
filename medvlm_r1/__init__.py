"""MedVLM-R1: teach a vision-language model to reason about radiology images.

Research use only. Not for diagnosis. From Python (docs/python.md): a name of ``__all__`` is loaded when it is first used.

>>> import medvlm_r1
>>> medvlm_r1.dataset("phantom:mri?split=test")
Dataset(300 examples)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
INTENDED_USE = "Research use only. Not for diagnosis."
__all__ = [
    "INTENDED_USE", "Answer", "Dataset", "Evaluation", "Example", "Model", "Run", "__version__",
    "audit_data", "compare", "dataset", "evaluate", "load", "load_image", "recipe", "reward", "train",
]  # fmt: skip
_HOMES = {
    "Answer": "rollout.answer", "Dataset": "data.dataset", "Evaluation": "report.comparing", "Example": "types", "Model": "launch.asking",
    "Run": "launch.api", "audit_data": "launch.api", "compare": "launch.api", "dataset": "launch.api", "evaluate": "launch.api",
    "load": "launch.asking", "load_image": "data.images", "recipe": "launch.api", "reward": "launch.api", "train": "launch.api",
}  # fmt: skip

if TYPE_CHECKING:
    from medvlm_r1.data.dataset import Dataset
    from medvlm_r1.data.images import load_image
    from medvlm_r1.launch.api import Run, audit_data, compare, dataset, evaluate, recipe, reward, train
    from medvlm_r1.launch.asking import Model, load
    from medvlm_r1.report.comparing import Evaluation
    from medvlm_r1.rollout.answer import Answer
    from medvlm_r1.types import Example
else:  # unseen by type checkers, to whom it would make every misspelt name right

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        globals()[name] = value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
