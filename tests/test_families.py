"""A Qwen2-VL directory as the hub ships it: loaded, asked, trained, saved, loaded again."""

import json

import pytest
import torch
from hub_model import CHAT_TEMPLATE
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from medvlm_r1.commands import main as cli
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.models.families import load_policy
from medvlm_r1.models.qwen import image_tokens
from medvlm_r1.reasoning import render
from medvlm_r1.types import Completion, Rollout, RolloutGroup

BUDGET = 401408  # the paper's: 512 visual tokens

# shared/docs/paper.md, byte for byte.
TRAINING_PROMPT = (
    "\n        {Question} \n        Your task: \n        1. Think through the question step by step, enclose your reasoning process "
    "in <think>...</think> tags. \n        2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> "
    "tags.\n        3. No extra information or text outside of these tags.\n        "
)
EVALUATION_PROMPT = TRAINING_PROMPT.replace(" " * 8, " " * 4)
QUESTION = "Which plane is this?\nA) axial\nB) coronal"


@pytest.fixture(scope="module")
def hub_policy(hub_dir):
    torch.set_num_threads(1)
    return load_policy(str(hub_dir), load_image, "bfloat16", BUDGET)


@pytest.fixture(scope="module")
def questions(manifest):
    return {example.id: example for example in load_dataset(str(manifest))}


@pytest.fixture(scope="module", params=["train", "sft"])
def trained(request, hub_dir, manifest, tmp_path_factory):
    """The paper's recipe as it is, but for its length."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("runs") / request.param
    values = ["steps=2", "optim.lr=1e-2", *(["sampling.max_tokens=12"] if request.param == "train" else [])]
    words = [request.param, "paper", "--model", str(hub_dir), "--data", str(manifest), "--run-dir", str(run)]
    assert cli.main([*words, *(part for value in values for part in ("--set", value))]) == 0
    return run / "checkpoints" / "step-2"


# ---------------------------------------------------------------- the prompt


@pytest.mark.parametrize(("template", "prompt"), [("paper-train", TRAINING_PROMPT), ("paper-eval", EVALUATION_PROMPT)])
def test_the_conversation_is_the_papers_byte_for_byte(hub_policy, questions, template, prompt):
    """Qwen's template adds its system turn once; nothing of ours is added."""
    example = questions["q4"]  # two images
    encoder = hub_policy.encoder
    images = ["<|image_pad|>" * image_tokens(encoder.pixels(name).grid_thw, 2) for name in example.images]
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + "".join(f"<|vision_start|>{pads}<|vision_end|>" for pads in images)
        + prompt.replace("{Question}", QUESTION)
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = encoder.prompt_ids(render(example, template))
    assert encoder.tokenizer.decode(ids) == expected
    # As Qwen's own processor does it: placeholders repeated in the text, then one pass of the tokenizer.
    assert ids == encoder.tokenizer(expected, add_special_tokens=False)["input_ids"]
    assert len(images) == 2 and len(set(images)) == 2


def test_the_image_token_is_one_token_and_the_models_own(hub_policy):
    config, tokenizer = hub_policy.model.config, hub_policy.encoder.tokenizer
    assert tokenizer("<|image_pad|>", add_special_tokens=False)["input_ids"] == [config.image_token_id] == [hub_policy.encoder.image_id]
    assert config.image_token_id in hub_policy.banned_ids


def test_both_of_the_models_ends_end_a_completion(hub_policy):
    """generation_config.json names two; its top_k = 1 and temperature are not read by the engine (test_local_engine)."""
    assert hub_policy.encoder.tokenizer.convert_ids_to_tokens(list(hub_policy.stop_ids)) == ["<|im_end|>", "<|endoftext|>"]


def test_max_pixels_bounds_the_visual_tokens(hub_dir, hub_policy, questions):
    name = questions["q5"].images[0]  # 1200 x 900
    assert image_tokens(hub_policy.encoder.pixels(name).grid_thw, 2) == 19 * 26 <= 512
    unbounded = load_policy(str(hub_dir), load_image)
    height, width = smart_resize(900, 1200, 28, 3136, 12845056)
    assert image_tokens(unbounded.encoder.pixels(name).grid_thw, 2) == height * width // 28**2 > 1300


def test_several_images_give_what_transformers_gives(hub_dir, questions):
    """The loaded weights, old names and shards, against transformers' own model from the same directory."""
    policy = load_policy(str(hub_dir), load_image, "float32", BUDGET)
    theirs = AutoModelForImageTextToText.from_pretrained(hub_dir, dtype=torch.float32).eval()
    encoder, prompt = policy.encoder, render(questions["q4"], "paper-train")
    completion = tuple(encoder.tokenizer("<think>The ears.</think>\n<answer>B</answer>")["input_ids"])
    ours = policy.logprobs(encoder.groups([RolloutGroup(prompt, (Rollout(Completion(completion, (), "", True), {}),))]))[0]
    start = encoder.prompt_ids(prompt)
    ids, pixels = torch.tensor([[*start, *completion]]), [encoder.pixels(name) for name in prompt.example.images]
    with torch.no_grad():
        logits = theirs(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == encoder.image_id).int(),
            pixel_values=torch.cat([image.patches for image in pixels]), image_grid_thw=torch.tensor([image.grid_thw for image in pixels]),
        ).logits[0, len(start) - 1 : -1]  # fmt: skip
    logits[:, policy.banned_ids] = -torch.inf
    torch.testing.assert_close(ours, logits.log_softmax(-1).gather(1, ids[0, len(start) :, None])[:, 0], atol=1e-5, rtol=1e-5)


def test_what_a_frozen_model_keeps_does_not_depend_on_the_company_it_was_met_in(hub_dir, questions):
    """A resumed run meets the images in another order; the last bit must be the same."""
    policy = load_policy(str(hub_dir), load_image, max_pixels=3136)
    ask = {name: policy.encoder.prompts([render(questions[name], "think")]) for name in ("q1", "q2", "q3", "q4", "q5")}
    alone = {name: policy.frozen_copy().image_embeds(batch) for name, batch in ask.items()}
    for names in (("q1", "q2", "q3", "q5"), ("q5", "q4")):
        reference = policy.frozen_copy()
        reference.image_embeds(policy.encoder.prompts([render(questions[name], "think") for name in names]))
        assert all(torch.equal(reference.image_embeds(ask[name]), alone[name]) for name in names)


# ---------------------------------------------------------------- the checkpoint


def test_the_checkpoint_has_every_file_and_loads_as_it_stands(hub_dir, trained):
    names = {file.name for file in trained.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    assert [file.name for file in trained.glob("*.safetensors")] == ["model.safetensors"]  # vLLM takes all that lie here for weights
    ours, theirs = AutoTokenizer.from_pretrained(trained), AutoTokenizer.from_pretrained(hub_dir)
    assert ours.chat_template == theirs.chat_template == CHAT_TEMPLATE
    assert ours.get_vocab() == theirs.get_vocab() and ours.all_special_tokens == theirs.all_special_tokens
    assert type(AutoImageProcessor.from_pretrained(trained)) is type(AutoImageProcessor.from_pretrained(hub_dir))
    saved, before = GenerationConfig.from_pretrained(trained), GenerationConfig.from_pretrained(hub_dir)
    assert (saved.eos_token_id, saved.pad_token_id, saved.top_k) == (before.eos_token_id, before.pad_token_id, before.top_k)
    model, info = AutoModelForImageTextToText.from_pretrained(trained, output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not any(info.values())


def test_weights_keep_the_names_that_the_hub_gives_them(hub_dir, trained):
    """vLLM and older transformers read these names."""
    index = json.loads((hub_dir / "model.safetensors.index.json").read_text())["weight_map"]
    weights = load_file(trained / "model.safetensors")
    assert weights.keys() == index.keys()
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}


def test_training_moves_vision_and_language(hub_dir, trained):
    """Random weights earn no reward, so that GRPO has nothing to follow here; test_cli trains a taught model."""
    index = json.loads((hub_dir / "model.safetensors.index.json").read_text())["weight_map"]
    after = load_file(trained / "model.safetensors")
    moved = {name for name, file in index.items() if not torch.equal(after[name], load_file(hub_dir / file)[name])}
    expected = {name for name in index if "layers.0.mlp" in name or "blocks.0.mlp.fc1.weight" in name}
    assert moved >= expected if trained.parts[-3] == "sft" else not moved


def test_it_remembers_its_image_budget_and_its_prompt(trained):
    again = load_policy(str(trained), load_image)
    assert dict(again.encoder.image_processor.size) == {"shortest_edge": 3136, "longest_edge": BUDGET}
    assert again.template == ("paper-eval" if trained.parts[-3] == "train" else "paper-direct")


def test_it_is_asked_and_evaluated(trained, manifest, tmp_path, capsys):
    assert cli.main(["eval", "--model", str(trained), "--data", str(manifest), "--out", str(tmp_path / "eval"), "--max-tokens", "4"]) == 0
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["arms"]["image"]["ct"]["n"] == 3
    capsys.readouterr()
    picture = str(manifest.parent / "deep.png")
    words = ["ask", "--model", str(trained), picture, "Which plane is this?", "--options", "axial", "coronal", "--max-tokens", "4", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["option_probs"].keys() == {"A", "B"}


def test_bfloat16_is_asked_for_by_name(hub_dir, manifest, capsys):
    words = ["ask", "--model", str(hub_dir), str(manifest.parent / "large.png"), "Which?", "--max-tokens", "2", "--dtype", "bfloat16"]
    assert cli.main([*words, "--max-pixels", "3136"]) == 0
    assert "Research use only" in capsys.readouterr().out
