"""Is every answer that contradicts its thought marked, and what are answers worth with and without those?

    .venv/bin/python benchmarks/contradictions.py --json benchmarks/results/contradictions.json

The model is the embedded one after 60 steps of GRPO, trained here (two minutes) or found in the run that is named. All held-out questions of the phantom go to ``medvlm-r1 serve`` over HTTP. The embedded model ends its thoughts with "Hence …."; what
stands there is read here by that form alone, and by none of the product's code: where it is an option and another one was
answered, the message must carry the warning "thought", and have no answer.
"""

import argparse
import asyncio
import base64
import datetime
import io
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import openai

from medvlm_r1.commands import main as cli
from medvlm_r1.data.images import load_image
from medvlm_r1.data.phantom import sets
from medvlm_r1.evaluation.measuring.statistics import wilson
from medvlm_r1.launch.training import trained_model
from medvlm_r1.types import LETTERS, Example

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

from our_server import OurServer
from processes import commit, hardware, say, write_json

MODALITIES = ("mri", "ct", "xray")
AT_ONCE, STEPS = 64, 60


def concluded(thought: str, options: tuple[str, ...]) -> str:
    """The letter of the option behind the last "Hence", or "".

    >>> concluded("Dark there, bright here. Hence left. Hence right.", ("left", "right")), concluded("Hence both.", ("left", "right"))
    ('B', '')
    """
    said = re.findall(r"\bhence ([^.]*)", thought, re.IGNORECASE)
    texts = [option.lower().rstrip(".") for option in options]
    return LETTERS[texts.index(said[-1].strip().lower())] if said and said[-1].strip().lower() in texts else ""


async def messages(url: str, model: str, examples: list[Example], drawn: int) -> list[list[dict[str, Any]]]:
    """For each question the messages: the greedy one, or so many drawn ones."""
    client, places = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600), asyncio.Semaphore(AT_ONCE)

    async def one(n: int, example: Example) -> list[dict[str, Any]]:
        async with places:
            data = io.BytesIO()
            load_image(example.images[0]).save(data, "PNG")
            shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"}}
            content: Any = [shown, {"type": "text", "text": example.question}]
            chosen: dict[str, Any] = {"n": drawn, "temperature": 1.0, "seed": n} if drawn else {}
            extra = {"medical": {"options": example.options}}
            found = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": content}], max_tokens=48, extra_body=extra, **chosen
            )
            return [choice.message.model_dump() for choice in found.choices]

    return await asyncio.gather(*(one(n, example) for n, example in enumerate(examples)))


def judged(examples: list[Example], found: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Counts over all messages. Right is what was written in the answer's tag, whatever its status."""
    rows = []
    for example, answers in zip(examples, found, strict=True):
        right = LETTERS[example.options.index(example.answer)]
        for message in answers:
            medical = message["medical"]
            meant = concluded(message["reasoning"], example.options)
            rows.append({
                "contradicts": bool(meant and medical["written"] and meant != medical["written"]),
                "warned": any(warned["code"] == "thought" for warned in medical["warnings"]),
                "shown": bool(message["content"] or medical["answer"] or medical["option_probs"]),
                "right": medical["written"] == right,
            })  # fmt: skip
    warned, others = [row for row in rows if row["warned"]], [row for row in rows if not row["warned"]]
    contradicting = [row for row in rows if row["contradicts"]]
    return {
        "answers": len(rows),
        "contradicting": len(contradicting),
        "of_them_warned": sum(row["warned"] for row in contradicting),
        "warned": len(warned),
        "warned_but_shown": sum(row["shown"] for row in warned),
        "accuracy_all": accuracy(rows),
        "accuracy_without_warned": accuracy(others),
        "accuracy_warned": accuracy(warned) if warned else None,
    }


def accuracy(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of right letters, with Wilson's interval.

    >>> accuracy([{"right": True}, {"right": False}])["share"]
    0.5
    """
    right = sum(row["right"] for row in rows)
    return {"n": len(rows), "right": right, "share": round(right / len(rows), 4), "ci95": [round(end, 4) for end in wilson(right, len(rows))]}


def grpo_model(run: Path | None, folder: Path) -> Path:
    """The newest model of a run; without one, of a training made here."""
    if run is None:
        run = folder / "run"
        if cli.main(["train", "nano", "--set", f"steps={STEPS}", "--run-dir", str(run)]):
            raise SystemExit("the training is not complete")
    return trained_model(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="the run directory of a training; trained here if left out")
    parser.add_argument("--drawn", type=int, default=4, help="answers drawn at temperature 1 for each question, beside the greedy one")
    parser.add_argument("--questions", type=int, default=300, help="of each modality")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    examples = [example for modality in MODALITIES for example in sets.load(modality, "test")[: args.questions]]
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "command": shlex.join(["benchmarks/contradictions.py", *(Path(word).name if word == str(args.run) else word for word in sys.argv[1:])]),
        "grpo_steps": STEPS,
        "commit": commit(), "hardware": hardware(), "questions": len(examples), "ways": {}, "claim": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, OurServer(str(grpo_model(args.run, Path(folder))), Path(folder) / "log") as server:
        model = next(iter(openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").models.list())).id
        for drawn in (0, args.drawn):
            name = f"{drawn} drawn" if drawn else "greedy"
            way = result["ways"][name] = judged(examples, asyncio.run(messages(server.url, model, examples, drawn)))
            holds = all(each["of_them_warned"] == each["contradicting"] and not each["warned_but_shown"] for each in result["ways"].values())
            result["claim"] = {"all_warned_none_shown": holds}
            if args.json:
                write_json(args.json, result)
            say(f"{name}: {way['contradicting']} of {way['answers']} contradict, {way['of_them_warned']} of these and {way['warned']} in all warned of; "
                f"right {way['accuracy_all']['share']:.1%}, without the warned {way['accuracy_without_warned']['share']:.1%}")  # fmt: skip
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
