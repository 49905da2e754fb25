"""One model, one question set, several arms, one report."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.progress import Progress

from medvlm_r1.audit.prior import TEXTS_LEARNT, TextPrior
from medvlm_r1.console import follow, notice, stderr
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.parts import trained_on
from medvlm_r1.errors import ConfigError, RunError, nearest
from medvlm_r1.evaluation.asking.arms import ARMS, FORCED, Asked, prompts_of
from medvlm_r1.evaluation.asking.meanings import DEFAULT_ARMS, MEANINGS
from medvlm_r1.evaluation.asking.run import EvalConfig, answers
from medvlm_r1.evaluation.measuring import metrics
from medvlm_r1.evaluation.measuring.by_prior import by_prior
from medvlm_r1.evaluation.measuring.looking import NOT_TESTED, Looking, judge
from medvlm_r1.evaluation.measuring.reasons import reasons
from medvlm_r1.evaluation.measuring.unread import unread
from medvlm_r1.evaluation.samples import Sample, write_samples
from medvlm_r1.files import output_errors
from medvlm_r1.launch.answering import Answerer, answerer
from medvlm_r1.launch.judging import judge_all, judge_at
from medvlm_r1.launch.loading import memory_errors
from medvlm_r1.launch.provenance import Made, made
from medvlm_r1.launch.request import Request
from medvlm_r1.models.policy import Policy
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.story import Story
from medvlm_r1.rollout.dialect import MEANING
from medvlm_r1.rollout.engines import local
from medvlm_r1.rollout.guarded import Guarded
from medvlm_r1.types import Example
from medvlm_r1.wording import called

ALL = "all"
SETTINGS = ("model", "data", "train", "samples", "probs", "max_tokens", "max_pixels", "dtype")
LENIENT = (ALL, DEFAULT_ARMS)  # nobody asked for each of these arms by name


@dataclass
class Part:
    """The questions with options, or those without, and their samples by arm: they never share a table, a partner or a file.

    >>> Part("open", []).file("blank")
    'open-blank.jsonl'
    """

    kind: str
    examples: Sequence[Example]
    arms: metrics.Arms = field(default_factory=dict)

    def file(self, arm: str) -> str:
        """Where the samples of an arm go."""
        return f"{self.kind}-{arm}.jsonl"

    def asked(self, template: str) -> Asked:
        """What its next arm builds on."""
        return Asked(self.examples, template, {sample.id: sample for sample in self.arms.get("image", ())})


def evaluate(request: Request, loaded: Policy | None = None) -> dict[str, Any]:
    """Evaluate every arm, write samples, summary.json and report.html; returns the summary.

    Completions are recorded as they come: the same request again asks only for those that are missing.
    ``loaded``: the request's model, where it is in memory already.
    """
    names = arm_names(request.arms)
    check_out(request)
    examples, record = load_dataset(request.data), request.cache or request.out / "completions.jsonl"
    for note in filter(None, (*examples.notes, trained_on(examples, request.data))):
        notice(note)
    closed, free = Part("samples", [e for e in examples if e.options]), Part("open", [e for e in examples if not e.options])
    _check_in_domain(request.in_domain, closed.examples or free.examples)
    if request.judge and not free.examples:
        raise ConfigError("--judge has nothing to judge: every question has options; drop it")
    train = load_dataset(request.train) if request.train else None
    judges = judge_at(request.judge, request.timeout) if request.judge else None
    with memory_errors():
        asked = answerer(request, examples, record, loaded)
        with closing(asked.engine):
            _check_arms(asked, (closed, free), names, request.arms)
            with output_errors(request.out):
                request.out.mkdir(parents=True, exist_ok=True)
            _ask_all(asked, (closed, free), names, request)
    _say_why_missing([*closed.arms.values(), *free.arms.values()])
    settings = {key: getattr(request, key) for key in SETTINGS if key not in asked.unused} | ({"dtype": asked.dtype} if asked.dtype else {})
    settings |= {"template": asked.template, "answered_by": asked.identity} | ({"in_domain": request.in_domain} if request.in_domain else {})
    settings |= {"not_taken_by_the_endpoint": {name: MEANING[name] for name in sorted(asked.engine.without)}} if asked.engine.without else {}
    model_sha256 = asked.identity.split()[0] if asked.as_sent else ""
    settings["made"] = made(Made(examples, asked.template, asked.as_sent, model_sha256, examples.notes))
    judged_by = None
    if judges:
        free.arms, judged_by = judge_all(judges, free.arms, record)
        settings["judge"] = judged_by["model"]
        _save(free, free.arms, request.out)
    settings |= {"trained_under": list(asked.trained_under)} if asked.trained_under else {}
    return _tell(_story(request, settings, closed, free, TextPrior(closed.examples, train)), judged_by, request.out)


def _story(request: Request, settings: dict[str, Any], closed: Part, free: Part, prior: TextPrior) -> Story:
    model, under = called(request.model), settings.get("trained_under", ())
    told = {"text_prior": prior.measure(TEXTS_LEARNT)} if closed.examples else {}
    by_texts = by_prior(closed.arms, prior.points(TEXTS_LEARNT)) if closed.examples else {}
    open_arms = {model: free.arms} if free.examples else {}
    return Story(
        f"{model} on {request.data}", {model: closed.arms}, baselines=told, settings=settings, open=open_arms, by_prior={model: by_texts}, trained_under={model: under}
    )  # fmt: skip


def _say_why_missing(arms: Sequence[Sequence[Sample]]) -> None:
    """A wrong key, a model without eyes, a template that is not its own fail every question alike: the first reason is mostly the one."""
    failed = [sample for samples in arms for sample in samples if sample.status == "failed"]
    if failed:
        notice(f'no answer to question "{failed[0].id}", the first of {len(failed)}: {failed[0].text}')
    if silent := next(filter(None, map(unread, arms)), ""):
        notice(silent)


def _tell(story: Story, judged_by: dict[str, Any] | None, out: Path) -> dict[str, Any]:
    """Write summary.json and report.html of one model; returns the summary."""
    closed, free = story.models[story.trained], story.open.get(story.trained, {})
    arms = list(dict.fromkeys((*closed, *free)))
    summary = _closed_summary(closed, story)
    if free:
        summary["open"] = story.open_numbers[story.trained] | {"judged_by": judged_by}
    summary["failed"] = {name: sum(s.status == "failed" for s in (*closed.get(name, ()), *free.get(name, ()))) for name in arms}
    summary["settings"] = story.settings
    with output_errors(out):
        (out / "report.html").write_text(render_report(story, load_image), encoding="utf-8")
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _closed_summary(arms: metrics.Arms, story: Story) -> dict[str, Any]:
    """The numbers of questions with options; without any, nothing was tested."""
    if not arms:
        untold = Looking(NOT_TESTED, "No question has options, and this verdict is one of questions with options.", {})
        return {"arms": {}, "overall": {}, "paired": {}, "baselines": {}, "looking": asdict(untold)}
    summary = metrics.summary(arms, story.baselines, [("image", name) for name in arms if name != "image"])
    in_domain = story.settings.get("in_domain")
    against = {name: pair for name in arms if (pair := summary["paired"].get(f"image-{name}"))}
    return summary | {
        "looking": asdict(judge(arms, against, story.trained_under[story.trained])),
        "by_prior": story.by_prior[story.trained],
        "reasoning": reasons(arms),
        "gap": metrics.out_of_distribution_gap(arms["image"], in_domain) if in_domain else None,
    }


def _check_arms(asked: Answerer, parts: Sequence[Part], names: Sequence[str], given: str) -> None:
    """An arm that was named and can ask nothing is refused before the first answer."""
    for name in names if given not in LENIENT else ():
        if name not in FORCED:
            _askable(name, parts, asked.template)


def _askable(name: str, parts: Sequence[Part], template: str, given: str = "") -> list[Part]:
    """The parts of which an arm can ask something. Raises DataError where it is none, and the arm was named."""
    found = [part for part in parts if ARMS[name](part.asked(template))]
    if not found and given not in LENIENT:
        prompts_of(name, Asked((), template))  # says why
    return found


def _check_in_domain(modality: str | None, examples: Sequence[Example]) -> None:
    known = {example.modality for example in examples}
    if modality and modality not in known:
        raise ConfigError(f'--in-domain "{modality}" is the modality of no question{nearest(modality, known)}')


def _ask_all(asked: Answerer, parts: Sequence[Part], names: Sequence[str], request: Request) -> None:
    """Fill each part's arms; samples are written as soon as an arm of a part is done."""
    with Progress(console=stderr()) as progress:
        for name in names:
            askable = _askable(name, parts, asked.template, request.arms)
            if not askable:
                notice(f'left out: the arm "{name}" ({MEANINGS[name]}) can ask none of these questions')
                continue
            bar = progress.add_task(name, total=sum(len(part.examples) for part in askable))
            config = EvalConfig(asked.template, 0 if name in FORCED else request.samples, request.max_tokens, arm=name)
            probe = asked.probe if request.probs and name not in FORCED else None
            done = 0
            for part in askable:
                answered = part.asked(asked.template).answered
                samples = answers(asked.engine, part.examples, config, follow(progress, bar, done), answered, probe)
                part.arms[name] = samples
                done += len(samples)
                _save(part, {name: samples}, request.out)
            progress.update(bar, total=done)


def _save(part: Part, arms: metrics.Arms, out: Path) -> None:
    with output_errors(out):
        for name, samples in arms.items():
            write_samples(out / part.file(name), samples)


def arm_names(text: str) -> list[str]:
    """``--arms`` as a list, "image" first, each name once; raises ConfigError for an unknown one or where "image" is missing.

    >>> arm_names("blank, image,image")
    ['image', 'blank']
    """
    names = list(ARMS) if text == ALL else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ARMS:
            raise ConfigError(f'unknown arm "{name}"{nearest(name, ARMS)}')
    if "image" not in names:
        raise ConfigError(f'--arms "{text}" lacks "image", which the others are compared with; write --arms image,blank')
    return sorted(dict.fromkeys(names), key=list(ARMS).index)


def check_out(request: Request) -> None:
    """Raises RunError unless ``out`` is new, empty, or what this very evaluation left, or one that was stopped or had failures."""
    out = request.out
    with output_errors(out):
        if (out / "summary.json").exists() and not _goes_on(out / "summary.json", request):
            spare = f"; with --cache {record} nothing is asked twice" if (record := out / "completions.jsonl").exists() else ""
            raise RunError(f"{out} already holds another evaluation, or a run; choose another --out{spare}")
        ours = ("samples-*.jsonl", "open-*.jsonl", "completions.jsonl", "summary.json", "report.html", "export")
        others = [file.name for file in out.iterdir() if not any(map(file.match, ours))] if out.exists() else []
    if others:
        raise RunError(f'{out} is not empty (it holds "{others[0]}"); choose another --out')


def _goes_on(summary: Path, request: Request) -> bool:
    """Had it failures, or is it of this request? A notebook's cells are run again, and the answers come from the record."""
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
        failed = any(found["failed"].values()) or (found.get("open", {}).get("judged_by") or {}).get("failed")
        return bool(failed) or _is_of(found, request)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # not ours


def _is_of(found: dict[str, Any], request: Request) -> bool:
    """Would the request lose no arm and change no setting?"""
    settings, arms = {"in_domain": None} | found["settings"], {*found["arms"], *found.get("open", {}).get("arms", ())}
    came_to_be = {"template": request.template or settings["template"], "dtype": request.dtype or settings.get("dtype")}
    asked = {key: getattr(request, key) for key in (*SETTINGS, "in_domain")} | came_to_be
    judge = settings.get("judge")
    by_same = request.judge in ((judge, judge.partition("#")[0]) if judge else (None,))
    return by_same and all(settings.get(key, value) == value for key, value in asked.items()) and arms <= set(arm_names(request.arms))


def evaluate_policy(
    policy: Policy, examples: Sequence[Example], config: EvalConfig, progress: Callable[[int], None], answered: Mapping[str, Sample] = MappingProxyType({})
) -> list[Sample]:
    """A model in memory under one arm; ``answered``: its samples under "image" by id, for the arms that build on them."""
    return answers(Guarded(local(policy), policy.encoder), examples, config, progress, answered)
