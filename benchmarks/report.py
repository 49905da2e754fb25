"""What the report of a large evaluation costs: seconds to make, megabytes, and how soon a browser answers.

    .venv/bin/python benchmarks/report.py [--questions 10000] [--keep FILE] [--json FILE]

Made-up samples of one model under four arms, with a drawn PNG for every question. benchmarks/README.md says what is measured.
"""

import argparse
import datetime
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.report.evaluation_page import render_report
from medvlm_r1.report.story import Story
from medvlm_r1.types import LETTERS

sys.path.insert(0, str(Path(__file__).parent / "_systems"))

import itertools

from processes import commit, hardware, say, write_json

SIDE_PX, SAMPLED = 224, 4
RATES = {"image": 0.78, "blank": 0.36, "noise": 0.35, "mismatch": 0.41}  # share right under each arm
CLAIM = {"seconds": 60, "megabytes": 60}
VIEWS = {"open": "", "filter": "outcome=wins&modality=ct", "search": "q=effusion+left"}
TYPES = ("modality", "plane", "finding", "side", "size", "severity")
WORDS = ["opacity", "effusion", "nodule", "margin", "left", "right", "lobe", "signal", "contrast", "plane", "cortex", "density", "pleura", "no", "clear"]


def draw(path: Path, rng: np.random.Generator) -> None:
    """A grey blob on a soft ground: as hard to store as a radiograph, and quick to draw."""
    ground = Image.fromarray(rng.integers(20, 120, (14, 14), dtype=np.uint8)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    grain = rng.integers(0, 12, (SIDE_PX, SIDE_PX), dtype=np.uint8)
    y, x = np.ogrid[:SIDE_PX, :SIDE_PX]
    cx, cy, radius = rng.integers(60, 160, 3)
    body = ((x - cx) ** 2 + (y - cy) ** 2 < radius**2) * np.uint8(90)
    Image.fromarray(np.asarray(ground) + grain + body).save(path, compress_level=1)


def samples(folder: Path, questions: int, arm: str) -> list[Sample]:
    """One arm's samples: about 300 characters of reasoning each, and shorter sampled ones."""
    rng, found = random.Random(arm), []
    for i in range(questions):
        letter = "A" if rng.random() < RATES[arm] else rng.choice("BCD")
        texts = [f"<think>{' '.join(rng.choices(WORDS, k=n))}</think>\n<answer>{letter}</answer>" for n in (40, *[12] * SAMPLED)]
        own, other = f"{folder}/{i:05d}.png", f"{folder}/{(i + 3) % questions:05d}.png"
        shown = {"image": own, "mismatch": other}.get(arm, f"{arm}:{own}")
        options = tuple(f"{word} in view {i % 97}" for word in WORDS[:4])
        about = (f"case-{i:05d}", ("mri", "ct", "xray")[i % 3], TYPES[i // 3 % 6], f"patient-{i // 2}", f"What is seen at the {WORDS[i % 15]}?")
        said = (texts[0], letter, "answered", letter == LETTERS[0], 90, (letter,) * SAMPLED, tuple(texts[1:]))
        found.append(Sample(*about, options, LETTERS[0], (shown,), arm, *said))
    found[0] = replace(found[0], text="<think>", answer=None, status="truncated", correct=False)
    return found


def browse(page: Path, chromium: str) -> dict[str, float]:
    """Milliseconds, as the page's own script counts them: from the start of loading to the first answers, and for one filter or search."""
    found: dict[str, float] = {}
    for name, state in VIEWS.items():
        with tempfile.TemporaryDirectory() as profile:
            words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom", f"file://{page}#cases?{state}"]
            dom = subprocess.run([chromium, *words], capture_output=True, text=True, timeout=300, check=True).stdout
        element = re.search(r'<section id="gallery"[^>]*>', dom)[0]
        clock = "ready" if name == "open" else "filter"
        found[f"{name}_ms"] = float(re.search(rf'data-{clock}-ms="([\d.]+)"', element)[1])
        found[f"{name}_found"] = int(re.search(r'data-found="(\d+)"', element)[1])
    return found


def measure(questions: int, keep: Path | None) -> dict[str, Any]:
    """Draw, render, write, open."""
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        folder, rng = Path(name), np.random.default_rng(0)
        for i in range(questions):
            draw(folder / f"{i:05d}.png", rng)
        arms = {arm: samples(folder, questions, arm) for arm in RATES}
        say(f"{questions:,} pictures drawn")
        marks: list[tuple[str, float]] = []
        story = Story(f"{questions:,} questions, made up", {"made-up model": arms})
        html = render_report(story, load_image, lambda phase: marks.append((phase, time.perf_counter())))
        marks.append(("write", time.perf_counter()))
        page = keep or folder / "report.html"
        page.write_text(html, encoding="utf-8")
        marks.append(("", time.perf_counter()))
        seconds = {phase: round(end - start, 2) for (phase, start), (_, end) in itertools.pairwise(marks)}
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        return {
            "seconds": seconds | {"total": round(marks[-1][1] - marks[0][1], 2)},
            "megabytes": round(page.stat().st_size / 1e6, 1),
            "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "browser": browse(page.resolve(), chromium) if chromium else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="where the page is to stay")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.questions, args.keep)
    holds = {what: (found["seconds"]["total"] if what == "seconds" else found[what]) <= most for what, most in CLAIM.items()}
    result = {
        "setting": {"questions": args.questions, "arms": list(RATES), "side_px": SIDE_PX, "sampled": SAMPLED},
        **found,
        "claim": CLAIM | {"holds": all(holds.values())},
        "hardware": hardware(None),
        "versions": {name: version(name) for name in ("pillow", "numpy", "jinja2")},
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if args.json:
        write_json(args.json, result)
    print(f"{result['megabytes']} MB in {found['seconds']['total']} s: {found['seconds']}\nbrowser: {found['browser'] or 'none found'}")


if __name__ == "__main__":
    main()
