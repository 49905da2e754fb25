"""The worst micro-batch first: what does not fit shows in the first seconds, not at step 217."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch

from medvlm_r1.errors import EngineError
from medvlm_r1.models.policy import Policy
from medvlm_r1.preflight.apart import alone
from medvlm_r1.preflight.forecast import Forecast
from medvlm_r1.preflight.memory import Workload
from medvlm_r1.reasoning import render
from medvlm_r1.training.grpo.trainer import GRPOConfig
from medvlm_r1.types import Completion, Example, Prompt, Rollout, RolloutGroup

WORTH = 0.25


def is_worth(forecast: Forecast) -> bool:
    """A plan below a quarter of the free memory fits, whatever it missed: no second is spent on it."""
    return forecast.peak > WORTH * forecast.device.free


def rehearse(forecast: Forecast, policy: Policy, examples: Sequence[Example]) -> None:
    """Forward and backward over the largest micro-batch that these questions can give; nothing of it remains.

    The images of a whole step are held meanwhile, as rollouts leave them, and gone back through at the end.
    Weights, gradients, random numbers and the optimiser are as before, so the run is the same bit for bit. On a GPU
    the room that optimiser and reference will take is held meanwhile. On the CPU it is not: memory that is only
    reserved costs nothing there, and filling it would take as long as a step.

    Raises EngineError with the remedy where it does not fit.
    """
    config = forecast.config
    assert isinstance(config, GRPOConfig)  # SFT has no groups
    batch = policy.encoder.groups(worst_groups(forecast, policy, examples))
    plan, devices = forecast.plan, [] if forecast.device.is_host else [policy.device]
    try:
        with torch.random.fork_rng(devices):
            held = [torch.empty(plan.certain - plan.weights + plan.embeddings, dtype=torch.uint8, device=device) for device in devices]
            policy.remember(policy.encoder.prompts(worst_prompts(forecast, policy, examples, forecast.work.seen)))
            if passes(forecast).micro_prompts < forecast.work.prompts:
                _hold_gradients(policy)
            with policy.images.cut_off():
                policy.logprobs(batch, config.update.temperature).sum().backward()
            policy.images.backward()
            del held
    except torch.OutOfMemoryError as error:
        raise EngineError(f"{describe(forecast)} does not fit {forecast.device.name}; {forecast.remedy()} ({str(error).splitlines()[0]})") from error
    finally:
        policy.images.clear()
        policy.model.zero_grad(set_to_none=True)


def _hold_gradients(policy: Policy) -> None:
    """Of the decoder, as other micro-batches of the step leave them; the tower's come at its end."""
    towers = policy.encoder.family.towers(policy.model) if policy.shares_prompts else ()  # without a family each pass has its own
    tower = {id(p) for module in towers for p in module.parameters()}
    for p in policy.model.parameters():
        if p.requires_grad and id(p) not in tower:
            p.grad = torch.zeros_like(p)


def passes(forecast: Forecast) -> Workload:
    """What goes through the model together: where prompts are not shared, as many groups as its updates put into a micro-batch."""
    work, config = forecast.work, forecast.config
    if forecast.shape.shares_prompts or not isinstance(config, GRPOConfig):
        return work
    one = alone(work, config.update.tokens_per_micro_batch)
    return replace(work, micro_prompts=one.micro_prompts // work.rollouts, micro_completion=one.micro_completion)


def describe(forecast: Forecast) -> str:
    """The micro-batch in words."""
    work = passes(forecast)
    return (
        f"the largest micro-batch ({work.micro_prompts} prompts of about {work.prompt_tokens} tokens, "
        f"{work.rollouts} completions of {work.micro_completion} each)"
    )


def worst_groups(forecast: Forecast, policy: Policy, examples: Sequence[Example]) -> list[RolloutGroup]:
    """The longest prompts and completions as long as make the micro-batch with the most tokens."""
    work = passes(forecast)
    completion = Completion(policy.stop_ids[:1] * work.micro_completion, (0.0,) * work.micro_completion, "", finished=False)
    rollouts = (Rollout(completion, {}),) * work.rollouts
    return [RolloutGroup(prompt, rollouts) for prompt in worst_prompts(forecast, policy, examples, work.micro_prompts)]


def worst_prompts(forecast: Forecast, policy: Policy, examples: Sequence[Example], count: int) -> list[Prompt]:
    """So many of the longest; a step larger than the data wraps around."""
    return list(islice(cycle(longest(policy, forecast.config.template, examples)), count))


def longest(policy: Policy, template: str, examples: Sequence[Example]) -> list[Prompt]:
    """The prompts, longest first. Image tokens count; the encoder has prepared every question already."""
    prompts = [render(example, template) for example in examples]
    return sorted(prompts, key=lambda prompt: len(policy.encoder.prompt_ids(prompt)), reverse=True)
