"""A made-up story for the tests of the report, and a parser that says whether its page is in order."""

import json
import random
from dataclasses import replace
from html.parser import HTMLParser

from PIL import Image

from medvlm_r1.evaluation.samples import Sample
from medvlm_r1.report.story import Story

HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7*7 }}<!--'


def samples(rate, arm="image", n=40, name="x"):
    rng = random.Random(f"{rate}{arm}{name}")
    rows = []
    for modality in ("mri", "ct", "xray"):
        for i in range(n):
            right = rng.random() < rate
            letter = "A" if right else "B"
            picture = {"blank": f"blank:fake:{modality}-{i}", "mismatch": f"fake:{modality}-{n + i}"}.get(arm, f"fake:{modality}-{i}")
            rows.append(
                Sample(f"{modality}-{i}", modality, ("side", "plane")[i % 2], f"{modality}-p{i // 2}", "Which side?", ("left", "right", "both"),
                       "A", (picture,), arm, f"<think>It is dark.</think><answer>{letter}</answer>", letter, "answered", right, 12, (letter, "A", "B"),
                       (f"<answer>{letter}</answer>", "<answer>A</answer>", "<answer>B</answer>"))
            )  # fmt: skip
    return rows


def story(**changes):
    models = {"base": {"image": samples(0.4)}, "sft": {"image": samples(0.5, name="sft")}, "grpo": {"image": samples(0.9), "blank": samples(0.33, "blank")}}
    curve = [{"step": i, "reward": 1 + i / 10, "kl": float("nan"), "completion_length": 20} for i in range(1, 8)]
    prior = {"text_prior": {m: {"accuracy": 0.3, "ci95": [0.2, 0.4]} for m in ("mri", "ct", "xray")}}
    whole = Story("A story", models, baselines=prior, curves={"grpo": curve}, seconds={"rollout": 3.0, "total": 70.0}, notes=["One.", "Two."],
                  settings={"in_domain": "mri", "optim": {"lr": 1e-4}}, is_lineage=True)  # fmt: skip
    return replace(whole, **changes)


def picture(reference):
    return Image.new("RGB", (84, 60) if "mri" in reference else (700, 500), (30, 60, 90))


class Page(HTMLParser):
    VOID = ("meta", "img", "br", "link", "input", "line", "circle", "path", "rect")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.errors, self.text, self.scripts = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        else:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def code(self):
        return [text for attrs, text in self.scripts if "type" not in attrs]

    def data(self, name="gallery-data"):
        [text] = [text for attrs, text in self.scripts if attrs.get("id") == name]
        return json.loads(text)
