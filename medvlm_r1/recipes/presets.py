"""How a published checkpoint was asked by its authors, under a name: ``--preset`` of ``eval`` and ``ask``."""

from argparse import Namespace
from dataclasses import asdict, dataclass

from medvlm_r1.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A model and the settings that belong to it; None leaves a setting to the model.

    >>> PRESETS["medvlm-r1"].template
    'paper-eval'
    """

    model: str | None = None
    template: str | None = None
    max_tokens: int = 512
    max_pixels: int | None = None


# max_pixels: the authors' 401408 of training is not applied in their test, so the checkpoint's own processor decides.
PRESETS = {"medvlm-r1": Preset("JZPeterPan/MedVLM-R1", "paper-eval", 512, None)}


def apply(arguments: Namespace) -> None:
    """Fill in what the command line leaves open; answers are greedy in any case.

    Only the model may be named beside a preset (a copy of it on this machine). Raises ConfigError for
    anything else that is said twice, and where no model is named.
    """
    chosen = Preset() if arguments.preset is None else PRESETS[arguments.preset]
    for key, value in asdict(chosen).items():
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)
        elif arguments.preset and key != "model":
            option, given = f"--{key.replace('_', '-')}", getattr(arguments, key)
            raise ConfigError(f"--preset {arguments.preset} fixes {option}, and {option} {given} is given too; drop one of them")
    if arguments.model is None:
        raise ConfigError("no model: give --model with a directory, a hub id or nano, or --preset with a published one")
