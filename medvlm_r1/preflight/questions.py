"""What is checked of the questions before step 1: no late step may fail on a question or a picture that was there to see."""

from collections.abc import Sequence
from dataclasses import replace

from medvlm_r1.console import notice
from medvlm_r1.data.clean import torn
from medvlm_r1.data.dataset import load_dataset, parsed
from medvlm_r1.data.leak import require_apart
from medvlm_r1.data.parts import to_train
from medvlm_r1.errors import DataError
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.sifting import Lost, require_enough, sift, told
from medvlm_r1.preflight.values import Config
from medvlm_r1.reasoning import golds, render
from medvlm_r1.rewards.rubric import BUILT_IN, PENALTIES, ByView, Rubric
from medvlm_r1.training import sft
from medvlm_r1.training.batches import batch_indices
from medvlm_r1.training.grpo import trainer as grpo
from medvlm_r1.types import Completion, Example, Prompt


def questions(spec: str) -> Sequence[Example]:
    """What of the data set behind ``spec`` is trained on: without a split in ``spec``, not its test part."""
    data, (_, filters) = load_dataset(spec), parsed(spec)
    examples, left_out = (data, "") if "split" in filters else to_train(data, spec)
    for note in (*data.notes, *([left_out] if left_out else [])):
        notice(note)
    return examples


def check_apart(config: Config, examples: Sequence[Example]) -> None:
    """Raises DataError where a training question shares a picture or a group with the test set that the configuration names, or with the held-out questions."""
    for spec in dict.fromkeys(filter(None, (config.test, config.held_out.data))):
        require_apart(examples, load_dataset(spec))


def put(config: Config, examples: Sequence[Example]) -> list[Example]:
    """The questions that the run will put, each once, and once more for every picture of another that it is shown with; all where a step may draw others."""
    if isinstance(config, grpo.GRPOConfig):
        return _shown(config, examples)
    steps = (batch_indices(len(examples), config.prompts_per_step, step, config.seed) for step in range(config.steps))
    return [examples[row] for row in sorted({row for rows in steps for row in rows})]


def _shown(config: grpo.GRPOConfig, examples: Sequence[Example]) -> list[Example]:
    """In the order of the questions, each under its own id, whatever it is shown with."""
    asking = config.asking(examples)
    place = {example.id: n for n, example in enumerate(examples)}
    found: dict[tuple[str, tuple[str, ...]], Example] = {}
    for step in range(config.steps) if not config.redraws else ():
        batch = asking.batch(step)
        for example, shown_V in zip(batch, asking.show(step, batch), strict=True):
            found |= {(example.id, shown.example.images): replace(shown.example, id=example.id) for shown in shown_V}
    if config.redraws:  # a partner is a question of the run, and all of them are looked at
        found = {(e.id, e.images): replace(shown.example, id=e.id) for e, shown_V in zip(examples, asking.show(0, examples), strict=True) for shown in shown_V}
    return sorted(found.values(), key=lambda example: place[example.id])


def usable(config: Config, policy: Policy, examples: Sequence[Example]) -> tuple[list[Example], list[Lost]]:
    """The questions, without those that the run would put and this model cannot be asked, or has nothing to learn from.

    Which it puts depends on how many there are, so that leaving some out asks for others, until all fit.
    """
    kept, lost = list(examples), list[Lost]()
    proven: set[tuple[str, tuple[str, ...]]] = set()
    while True:
        asked = [example for example in put(config, kept) if (example.id, example.images) not in proven]
        policy.read_ahead(asked)
        fit, unfit = sift(asked, lambda example: check_example(config, policy, example))
        proven |= {(example.id, example.images) for example in fit}
        lost += {question.id: question for question in unfit}.values()
        if not unfit:
            return kept, lost
        out = {question.id for question in unfit}
        kept = [example for example in kept if example.id not in out]
        if not kept:
            return kept, lost


def held_out(config: Config, policy: Policy, max_tokens: int) -> list[Prompt]:
    """The held-out questions as a run asks them, none where it names none; those that cannot be asked are left out. Raises DataError where many cannot."""
    if not config.held_out.data:
        return []
    examples = list(load_dataset(config.held_out.data))
    kept, lost = sift(examples, lambda example: check_prompt(policy, example, policy.template, max_tokens))
    require_enough(lost, len(examples))
    if lost:
        notice(f"not asked while training: {told(lost, len(examples))}")
    return [replace(render(example, policy.template), max_tokens=max_tokens) for example in kept]


def check_example(config: Config, policy: Policy, example: Example) -> None:
    """Can this question be put, answered in full, and learnt from? Raises DataError or ImageError that names it by id."""
    check_prompt(policy, example, config.template, config.sampling.max_tokens if isinstance(config, grpo.GRPOConfig) else 0)
    if isinstance(config, sft.SFTConfig):
        sft.target(policy, config, example)


def require_learnable(config: Config, policy: Policy, examples: Sequence[Example]) -> None:
    """Does every question fit the model, and can its gold answer earn every reward? Then no late step fails on one.

    Raises DataError, ImageError or RewardError that names the question by id.
    """
    policy.read_ahead(examples)
    for example in examples:
        check_example(config, policy, example)
    if isinstance(config, grpo.GRPOConfig):
        prompts = [render(example, config.template) for example in {example.id: example for example in examples}.values()]
        for rubric in ByView(config.views).rubrics.values():
            check_gold(rubric, prompts)


def check_gold(rubric: Rubric, prompts: Sequence[Prompt]) -> None:
    """Does the answer of every question, in the form that it is asked for, earn something of every reward?

    Raises DataError where a reward of ours gives nothing. Of a user's own nobody can know what it is for: that it
    gives nothing is said, once a reward, and the run goes on.
    """
    unpaid: dict[str, list[str]] = {}
    for prompt in prompts:
        completions = [Completion((), (), text, finished=True) for text in golds(prompt)]
        for name in (name for name in rubric.weights if name not in PENALTIES):
            if not any(rubric.earned(name, completion, prompt) for completion in completions):
                unpaid.setdefault(name, []).append(prompt.example.id)
                if name in BUILT_IN:
                    raise DataError(
                        f'question "{prompt.example.id}": its own answer "{prompt.example.answer}", as the template asks for it, cannot earn the '
                        f'reward "{name}"; give it options, or name another template or other rewards with --set rewards=…'
                    )
    for name, ids in unpaid.items():
        notice(f'warning: the right answer earns nothing of "{name}" in {len(ids)} of {len(prompts)} questions, the first: "{ids[0]}"')


def check_askable(policy: Policy, examples: Sequence[Example], template: str, room: int = 0) -> None:
    """``check_prompt`` for an evaluation: what cannot be asked costs its question only. Raises DataError where that is all of them."""
    kept, lost = sift(examples, lambda example: check_prompt(policy, example, template, room))
    budgets = [question.max_pixels for question in lost if question.max_pixels]
    hint = f"; --max-pixels {min(budgets)} makes {'all' if len(budgets) == len(lost) else len(budgets)} of them fit" if len(budgets) > 1 else ""
    if not kept:
        raise DataError(f"no question can be asked, {told(lost, len(examples))}{hint}")
    if lost:
        notice(f"{told(lost, len(examples), ' will have no answer')}{hint}")


def check_prompt(policy: Policy, example: Example, template: str, room: int = 0) -> None:
    """Can this model be asked this question, with ``room`` for so many tokens of an answer? Raises DataError or ImageError that names it by id."""
    if half := torn(example):
        raise DataError(f'question "{example.id}": {half}, which no tokenizer takes; write the whole character, or take it out')
    policy.encoder.prompt_ids(render(example, template), room)
