"""How a published checkpoint is asked by its authors, under a name: ``--preset`` of ``eval``, ``ask``, ``serve``, ``train`` and ``sft``.

Where each is read, and whether its words were compared to the byte with the authors' own (``tests/test_presets.py`` holds their hashes):

| preset | the words, and where | answers |
|---|---|---|
| medvlm-r1 | JZPeterPan/MedVLM-R1, src/eval/test_qwen2vl_med.py and src/open-r1-multimodal/src/open_r1/grpo.py; compared | greedy, 512 tokens |
| med-r1 | Yuxiang-Lai117/Med-R1 at 88d76c7, src/eval_vqa/test_qwen2vl_vqa.py, ..._nothink.py and src/r1-v/src/open_r1/grpo_vqa.py; options as in Splits/; compared | greedy, 256 |
| medgemma | Google-Health/medgemma at ff57e8c: system turn, temperature 0 and 500 tokens in notebooks/quick_start_with_model_garden.ipynb, options in fine_tune_with_hugging_face.ipynb; compared. Nothing in them asks for a letter; the prompts of the report's tables (arXiv 2507.05201) are not checked | greedy, 500 |
| lingshu | alibaba-damo-academy/MedEvalKit at 9b12e3b, utils/question_formats.py without reasoning, options in utils/OmniMedVQA, eval.sh; compared. The checkpoint's name is not checked | greedy (temperature 0, top_p 0.0001), 8192 |
| huatuogpt-vision | the authors' repository (FreedomIntelligence/HuatuoGPT-Vision at a6476ac) has no evaluation: the words are llava_prompt of eval.py in xk-huang/HuatuoGPT-Vision, compared with that and not with the authors'. cli.py samples at temperature 0.2 with a repetition penalty of 1.2; here answers are greedy, without one | 512 |

Images are put before the text, as everywhere here; MedGemma's notebooks put them behind it. Turns are the checkpoint's own chat template's.
"""

from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import Any

from medvlm_r1.errors import ConfigError
from medvlm_r1.reasoning import EVALUATED_AS


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
# No model: Med-R1 is a checkpoint for each modality, HuatuoGPT-Vision must be converted first; --model names the copy.
PRESETS = {
    "medvlm-r1": Preset("JZPeterPan/MedVLM-R1", "paper-eval"),
    "med-r1": Preset(None, "med-r1", 256),
    "medgemma": Preset("google/medgemma-4b-it", "medgemma", 500),
    "lingshu": Preset("lingshu-medical-mllm/Lingshu-7B", "lingshu", 8192),
    "huatuogpt-vision": Preset(None, "huatuo"),
}
TRAINED_AS = {evaluated: trained for trained, evaluated in EVALUATED_AS.items()}


def trained(preset: str | None) -> dict[str, Any]:
    """What a preset changes in a recipe: the model, and the words of its training; how long answers may be is the recipe's.

    >>> trained("medvlm-r1"), trained("med-r1"), trained(None)
    ({'model': 'JZPeterPan/MedVLM-R1', 'template': 'paper-train'}, {'template': 'med-r1-train'}, {})
    """
    if preset is None:
        return {}
    model, template = PRESETS[preset].model, str(PRESETS[preset].template)
    return ({"model": model} if model else {}) | {"template": TRAINED_AS.get(template, template)}


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
