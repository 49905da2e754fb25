"""What an evaluation costs over its engine, and how much faster it answers than one prompt at a time with transformers.

    .venv/bin/python benchmarks/evaluate.py [--questions 300] [--rounds 5] [--json FILE]

The embedded model on the phantom, greedy; benchmarks/README.md says what is measured.
"""

import argparse
import datetime
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from processes import commit, environ, hardware, say, write_json

ARMS = ("image", "blank")
MOST_OVERHEAD, LEAST_RATIO, LEAST_EQUAL = 0.05, 8.0, 0.99


class Timed:
    """An engine and the seconds spent in it."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, 0.0

    def generate(self, prompts: Sequence[Any], sampling: Any) -> Any:
        start = time.perf_counter()
        completions = self.engine.generate(prompts, sampling)
        self.seconds += time.perf_counter() - start
        return completions


class Bench:
    """The embedded model twice: as our evaluation asks it, and as transformers loads and runs it."""

    def __init__(self, questions: int, max_tokens: int) -> None:
        import torch
        from transformers import Qwen2VLForConditionalGeneration

        from medvlm_r1.data.dataset import load_dataset
        from medvlm_r1.evaluation.asking.arms import Asked, prompts_of
        from medvlm_r1.launch.loading import load_model
        from medvlm_r1.models.families import locate

        self.max_tokens = max_tokens
        self.policy = load_model("nano")
        self.examples = list(load_dataset("phantom:mri?split=test"))[:questions]
        self.prompts = [prompt for arm in ARMS for prompt in prompts_of(arm, Asked(self.examples, self.policy.template))]
        self.inputs = [self._inputs(prompt) for prompt in self.prompts]  # pictures and tokens are prepared here, for both
        self.theirs = Qwen2VLForConditionalGeneration.from_pretrained(locate("nano"), dtype=torch.float32).eval()

    def _inputs(self, prompt: Any) -> dict[str, Any]:
        import torch

        batch = self.policy.encoder.prompts([prompt])
        is_image = (batch.ids_PL == self.policy.encoder.image_id).int()
        return {"input_ids": batch.ids_PL, "attention_mask": batch.mask_PL, "mm_token_type_ids": is_image,
                "pixel_values": torch.cat(batch.pixels), "image_grid_thw": batch.grid_N3}  # fmt: skip

    def evaluate(self, folder: Path) -> tuple[dict[str, float], list[str | None]]:
        """One whole evaluation with its record and its files: seconds, and the letters."""
        from medvlm_r1.evaluation.asking.run import EvalConfig, answers
        from medvlm_r1.evaluation.measuring.metrics import summary
        from medvlm_r1.evaluation.samples import write_samples
        from medvlm_r1.rollout.local import LocalEngine
        from medvlm_r1.rollout.recorded import Recorded

        start, letters, arms = time.perf_counter(), [], {}
        engine = Timed(LocalEngine(self.policy))
        record = Recorded(engine, folder / "completions.jsonl", "nano", lambda reference: self.policy.encoder.pixels(reference).key)
        for arm in ARMS:
            samples = answers(record, self.examples, EvalConfig(self.policy.template, 0, self.max_tokens, arm=arm))
            write_samples(folder / f"samples-{arm}.jsonl", samples)
            arms[arm] = samples
            letters += [sample.answer for sample in samples]
        total_s = time.perf_counter() - start
        summary(arms, {}, [("image", "blank")])
        return {"total_s": total_s, "engine_s": engine.seconds, "summary_s": time.perf_counter() - start - total_s}, letters

    def one_at_a_time(self, rows: Sequence[int]) -> tuple[float, list[str | None]]:
        """These prompts through transformers' own generate: seconds, and the letters."""
        import torch

        from medvlm_r1.reasoning import read

        stops, tokenizer = list(self.policy.stop_ids), self.policy.encoder.tokenizer
        start, written = time.perf_counter(), []
        with torch.no_grad():
            for row in rows:
                ids = self.theirs.generate(
                    **self.inputs[row], max_new_tokens=self.max_tokens, do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
                )
                written.append(ids[0, self.inputs[row]["input_ids"].shape[1] :])
        seconds = time.perf_counter() - start
        texts = [tokenizer.decode([i for i in ids.tolist() if i not in stops], skip_special_tokens=False) for ids in written]
        return seconds, [read(text, self.prompts[row]).answer for text, row in zip(texts, rows, strict=True)]


def measure(bench: Bench, rounds: int, threads: int) -> dict[str, Any]:
    """In turns: an evaluation of all prompts, then a part of them one at a time, another part in every round."""
    import torch

    answers = len(bench.prompts)
    ours, theirs, alone, equal = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
        bench.evaluate(_new(folder, "warm-up"))
        bench.one_at_a_time(range(2))
        for number in range(rounds):
            seconds, letters = bench.evaluate(_new(folder, str(number)))
            ours.append(seconds)
            rows = range(number, answers, rounds)
            taken, said = bench.one_at_a_time(rows)
            theirs.append(len(rows) / taken)
            equal += [letters[row] == letter for row, letter in zip(rows, said, strict=True)]
            torch.set_num_threads(1)
            alone.append(len(rows[::2]) / bench.one_at_a_time(rows[::2])[0])
            torch.set_num_threads(threads)
            say(f"round {number + 1}/{rounds}: {answers / seconds['total_s']:.0f} answers/s against {theirs[-1]:.1f}; "
                f"{seconds['total_s'] / seconds['engine_s'] - 1:.1%} over the engine")  # fmt: skip
    return figures(ours, theirs, alone, equal, answers)


def _new(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def figures(ours: list[dict[str, float]], theirs: list[float], alone: list[float], equal: list[bool], answers: int) -> dict[str, Any]:
    """Medians over the rounds, and every round's values.

    >>> found = figures([{"total_s": 2.1, "engine_s": 2.0, "summary_s": 0.4}], [10.0], [12.0], [True] * 4, 420)
    >>> found["overhead"], found["ratio"], found["claims"]
    (0.05, {'two_threads': 20.0, 'one_thread': 16.7}, {'overhead': True, 'ratio': True, 'equal': True})
    """
    overheads = [seconds["total_s"] / seconds["engine_s"] - 1 for seconds in ours]
    rates = [answers / seconds["total_s"] for seconds in ours]
    overhead, rate = round(statistics.median(overheads), 4), statistics.median(rates)
    ratios = [mine / other for mine, other in zip(rates, theirs, strict=True)]
    ratio = {"two_threads": round(statistics.median(ratios), 1), "one_thread": round(rate / statistics.median(alone), 1)}
    share = sum(equal) / len(equal)
    return {
        "systems": {
            "ours": {"answers_per_s": round(rate, 1), "total_s": [round(s["total_s"], 3) for s in ours], "engine_s": [round(s["engine_s"], 3) for s in ours]},
            "transformers": {"answers_per_s": round(statistics.median(theirs), 2), "all": [round(r, 2) for r in theirs]},
            "transformers_one_thread": {"answers_per_s": round(statistics.median(alone), 2), "all": [round(r, 2) for r in alone]},
        },
        "overhead": overhead,
        "summary_s": round(statistics.median(s["summary_s"] for s in ours), 3),
        "overheads": [round(value, 4) for value in overheads],
        "ratio": ratio,
        "ratios": [round(value, 1) for value in ratios],
        "equal_letters": share,
        "compared": len(equal),
        "claims": {"overhead": overhead <= MOST_OVERHEAD, "ratio": min(ratio.values()) >= LEAST_RATIO, "equal": share >= LEAST_EQUAL},
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The figures for a person."""
    systems, ratio = result["systems"], result["ratio"]
    return "\n".join([
        f"ours           {systems['ours']['answers_per_s']:8.1f} answers/s, record and files included; {result['overhead']:.1%} over the engine",
        f"transformers   {systems['transformers']['answers_per_s']:8.1f} answers/s one at a time: ours is {ratio['two_threads']}x as fast",
        f"  on one thread{systems['transformers_one_thread']['answers_per_s']:8.1f} answers/s: {ratio['one_thread']}x",
        f"equal letters  {result['equal_letters']:.1%} of {result['compared']}",
        *(f"the claim about {name} does not hold here" for name, holds in result["claims"].items() if not holds),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = environ(args.threads)
    if any(os.environ.get(name) != wanted[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)  # the library reads them once, when it is loaded
    result = measure(Bench(args.questions, args.max_tokens), args.rounds, args.threads)
    result = {
        "setting": {"model": "nano", "data": "phantom:mri?split=test", "questions": args.questions, "arms": list(ARMS),
                    "max_tokens": args.max_tokens, "threads": args.threads, "rounds": args.rounds},
        **result,
        "hardware": hardware(),
        "versions": {"ours": {name: version(name) for name in ("torch", "transformers")}},
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if args.json:
        write_json(args.json, result)
    print(table(result))


if __name__ == "__main__":
    main()
