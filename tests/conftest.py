"""Small real things that many tests share: a tiny model, a few questions, pictures from memory."""

import fake_endpoint
import hub_model
import numpy as np
import pytest
import torch
from PIL import Image

from medvlm_r1.commands import main as cli
from medvlm_r1.errors import ImageError
from medvlm_r1.models import nano
from medvlm_r1.models.encode import Encoder
from medvlm_r1.models.families import prepare
from medvlm_r1.preflight.sifting import openable
from medvlm_r1.rollout.local import LocalEngine
from medvlm_r1.types import Example, Rollout, RolloutGroup

TEXTS = ["Which plane is this?\nA) axial\nB) coronal\nThink first, then answer.<think>Ears.</think>\n<answer>B</answer>"] * 4
# A GRPO run that learns from a taught model: letters alone, a reward for the form and one for the letter.
SMALL = (
    "template=direct", 'rewards={"direct_format": 1, "accuracy": 1}', "steps=4", "prompts_per_step=4", "sampling.n=4",
    "sampling.max_tokens=12", "optim.lr=1e-3", "dtype=float32", "max_pixels=3136", "save_every=100",
)  # fmt: skip


def picture(reference: str) -> Image.Image:
    """Noise that depends on the reference alone; "wide" ones have another shape."""
    size = (56, 112) if "wide" in reference else (84, 84)
    values = np.random.default_rng(sum(reference.encode())).integers(0, 255, size, dtype=np.uint8)
    return Image.fromarray(values)


def check_images(data):
    """Open every picture; an ImageError names the first question whose picture fails."""
    _, lost = openable(data)
    if lost:
        raise ImageError(lost[0].reason)


@pytest.fixture(scope="session")
def tokenizer():
    return nano.build_tokenizer(TEXTS)


@pytest.fixture
def policy(tokenizer):
    torch.set_num_threads(1)
    return prepare(nano.new_model(tokenizer, seed=1), Encoder(tokenizer, nano.build_image_processor(), picture))


@pytest.fixture
def examples():
    return [
        Example("q1", ("a.png",), "Which plane is this?", ("axial", "coronal"), "axial", "mri", "plane", "p1"),
        Example("q2", ("wide.png",), "Which?", ("coronal", "axial", "sagittal"), "axial", "mri", "plane", "p2"),
        Example("q3", ("a.png", "b.png"), "Which of the two images is axial?", ("first", "second"), "second", "ct", "plane", "p3"),
    ]


def mismatch(policy, prompts, sampling):
    """The largest |Δ log p| between what sampling says of its tokens and what training computes; and the tokens."""
    completions_PG = LocalEngine(policy).generate(prompts, sampling)
    rollouts = [tuple(Rollout(c, {}) for c in completions_G) for completions_G in completions_PG]
    batch = policy.encoder.groups([RolloutGroup(p, r, sampling.min_tokens) for p, r in zip(prompts, rollouts, strict=True)])
    trained = policy.logprobs(batch)[batch.mask_RC.bool()]
    written = [c for completions_G in completions_PG for c in completions_G]
    sampled = torch.tensor([x for c in written for x in c.logprobs])
    return (trained - sampled).abs().max(), {i for c in written for i in c.token_ids}


def like_to_end(policy, strength):
    """Its stop token is likelier than chance would have it; at 50, by far the likeliest."""
    with torch.no_grad():
        policy.model.lm_head.weight[policy.stop_ids[0]] = strength * policy.model.lm_head.weight.mean(0).sign()


def transformers_way(policy):
    """The same weights through transformers' unchanged vision attention and patch convolution."""
    visual = policy.model.model.visual
    visual.set_attn_implementation("sdpa")
    del visual.patch_embed.forward


@pytest.fixture
def serve():
    """Starts endpoints that answer in turn with what they are given: (status, headers, body)."""
    servers = []

    def start(*answers):
        servers.append(fake_endpoint.Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def hub_dir(tmp_path_factory):
    """A Qwen2-VL directory as the hub ships it, tiny, with random weights."""
    return hub_model.write(tmp_path_factory.mktemp("hub") / "Qwen2-VL-tiny-Instruct")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Anyone's images: RGB and grey PNG, JPEG, 16 bit, transparent; one question has two of them."""
    return hub_model.write_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def taught(hub_dir, manifest, tmp_path_factory):
    """The tiny model after a little SFT: it often answers with a letter, so that rewards differ."""
    torch.set_num_threads(1)
    run_dir = tmp_path_factory.mktemp("runs") / "taught"
    values = ("template=direct", "steps=60", "prompts_per_step=4", "optim.lr=5e-3", "dtype=float32", "max_pixels=3136", "save_every=60")
    sets = [part for value in values for part in ("--set", value)]
    assert cli.main(["sft", "paper", "--model", str(hub_dir), "--data", str(manifest), *sets, "--run-dir", str(run_dir)]) == 0
    return run_dir / "checkpoints" / "step-60"


@pytest.fixture
def command(capsys):
    """Runs one command in this process: (exit code, stdout, stderr)."""
    torch.set_num_threads(1)

    def run(*words):
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused with one sentence on stderr, after any progress, that holds all ``parts``."""

    def check(words, *parts):
        code, out, err = command(*words)
        assert code == 2, err
        assert out == ""
        *before, sentence = err.strip().splitlines()
        assert all(line.startswith(("step ", "image ", "blank ", "fetching ", "learns ", "frozen ")) for line in before), err
        assert sentence.startswith("medvlm-r1"), err
        for part in parts:
            assert str(part) in sentence, sentence

    return check


def train(model, data, run_dir, *more, values=SMALL):
    return ["train", "paper", "--model", model, "--data", data, *(w for v in values for w in ("--set", v)), "--run-dir", run_dir, *more]


@pytest.fixture(scope="module")
def chromium():
    """A browser; skips where there is none."""
    pytest.importorskip("playwright.sync_api", reason="pages are tried in a browser: pip install playwright")
    import viewer_kit  # a server's libraries, which few tests want

    if viewer_kit.CHROMIUM is None:
        pytest.skip("no Chromium here: nobody has looked at the page")
    with viewer_kit.browser() as found:
        yield found


@pytest.fixture(scope="module")
def files():
    """The process that opens files."""
    from medvlm_r1.serving.file_client import Files

    opener = Files()
    opener.start()
    yield opener
    opener.close()
