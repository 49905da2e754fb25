"""Folders that transformers, peft and other tools write and somebody calls a model: those that are one load as it, the others are named."""

import json
import shutil
import sys

import family_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm_r1.errors import ModelError
from medvlm_r1.models.families import FAMILIES, load_policy, locate
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.local import LocalEngine

PROMPT = render(family_models.examples()[0], "think")


def edit(file, **changes):
    """Change keys of a JSON object; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def weights_of(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def rewrite(folder, weights):
    """All weights in one file."""
    for file in folder.glob("model*"):
        file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def model(hub_dir, tmp_path):
    """A copy of a model as the hub ships it, to be written otherwise."""
    return shutil.copytree(hub_dir, tmp_path / "model")


@pytest.fixture(scope="module")
def wanted(hub_dir):
    return written(load_policy(str(hub_dir), family_models.picture))


def written(policy):
    """The ids of a prompt with a picture, and what follows it."""
    torch.set_num_threads(1)
    [[completion]] = LocalEngine(policy).generate([PROMPT], Sampling(1, 0.0, 6))
    return policy.encoder.prompt_ids(PROMPT), completion.token_ids, [round(logprob, 3) for logprob in completion.logprobs], set(policy.stop_ids)


# ---------------------------------------------------------------- what transformers wrote loads


def one_file_for_all_processors(folder):
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "do_pad": None,
        "device": None,
    }
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings, "processor_class": "Qwen2VLProcessor"}))


def size_by_bounds(folder):
    edit(folder / "preprocessor_config.json", size={"min_pixels": 3136, "max_pixels": 12845056}, min_pixels=None, max_pixels=None)


def size_by_edges(folder):
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 3136, "longest_edge": 12845056}, min_pixels=None, max_pixels=None)


def template_in_its_json(folder):
    edit(folder / "tokenizer_config.json", chat_template=None)


def template_of_the_tokenizer(folder):
    (folder / "chat_template.json").unlink()


def template_by_names(folder):
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}])


def template_in_jinja(folder):
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    edit(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text(template)


def template_of_the_processor(folder):
    """The tokenizer's own knows of no pictures."""
    edit(folder / "tokenizer_config.json", chat_template="{% for turn in messages %}{{ '<|im_start|>' + turn.content }}{% endfor %}")


def weights_in_one_file(folder):
    rewrite(folder, weights_of(folder))


def weights_by_new_names(folder):
    new = {name.replace("model.", "model.language_model.", 1).replace("visual.", "model.visual.", 1): t for name, t in weights_of(folder).items()}
    assert "model.language_model.norm.weight" in new and "model.visual.merger.ln_q.weight" in new
    rewrite(folder, new)


def half_precision(folder):
    rewrite(folder, {name: tensor.half() for name, tensor in weights_of(folder).items()})
    edit(folder / "config.json", torch_dtype="float16")


def an_added_token(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    last = content["added_tokens"][-1]
    content["added_tokens"].append(last | {"id": last["id"] + 1, "content": "<new>", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def no_padding_token(folder):
    edit(folder / "tokenizer_config.json", pad_token=None)


def a_dtype_by_its_new_name(folder):
    edit(folder / "config.json", torch_dtype=None, dtype="bfloat16")


AS_WRITTEN = [
    one_file_for_all_processors, size_by_bounds, size_by_edges, template_in_its_json, template_of_the_tokenizer, template_by_names,
    template_in_jinja, template_of_the_processor, weights_in_one_file, weights_by_new_names, half_precision, an_added_token,
    no_padding_token, a_dtype_by_its_new_name,
]  # fmt: skip


@pytest.mark.parametrize("change", AS_WRITTEN, ids=lambda change: change.__name__)
def test_it_is_the_same_model_however_it_is_written(model, wanted, change, capsys):
    change(model)
    policy = load_policy(str(model), family_models.picture)
    assert written(policy) == wanted and capsys.readouterr().err == ""
    assert policy.encoder.family.most_pixels(policy.encoder.image_processor) == 12845056
    assert policy.encoder.context == 32768


@pytest.mark.parametrize("kind", family_models.TINY)
def test_every_familys_processor_in_one_file(kind, tmp_path):
    """As transformers writes it since its fifth release, by the name of the processor that runs on a GPU."""
    folder = family_models.write(kind, tmp_path / "hub")
    before = load_policy(str(folder), family_models.picture).encoder.prompt_ids(PROMPT)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    settings["image_processor_type"] = settings["image_processor_type"].removesuffix("Pil") + "Fast"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_policy(str(folder), family_models.picture).encoder.prompt_ids(PROMPT) == before


def test_a_tower_of_another_library_is_refused_by_its_name(tmp_path, monkeypatch):
    """Apple's FastVLM has timm's FastViT."""
    monkeypatch.setitem(sys.modules, "timm", None)
    folder = family_models.write("fast_vlm", tmp_path / "hub")
    edit(folder / "config.json", vision_config={"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "hidden_size": 320})
    with pytest.raises(ModelError, match="pip install timm"):
        load_policy(str(folder), family_models.picture)


# ---------------------------------------------------------------- where an answer ends


ENDS = {
    "no generation_config.json": (None, {}, {"<|im_end|>"}, ""),
    "nowhere": (None, {"eos_token_id": None}, {"<|im_end|>"}, 'answers end with "<|im_end|>", as turns of the chat template do;'),
    "null": ({"eos_token_id": None}, {"eos_token_id": None}, {"<|im_end|>"}, "names none as its end"),
    "another than the template's": ({"eos_token_id": "<|endoftext|>"}, {}, {"<|im_end|>", "<|endoftext|>"}, 'answers end with "<|im_end|>" or "<|endoftext|>"'),
    "of a larger vocabulary": ({"eos_token_id": [151645, 151643]}, {}, {"<|im_end|>"}, "names 151645, 151643 as its end"),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_answer_ends_where_a_turn_of_the_template_does(model, case, capsys):
    settings, config, tokens, says = ENDS[case]
    vocabulary = {row["content"]: row["id"] for row in json.loads((model / "tokenizer.json").read_text())["added_tokens"]}
    (model / "generation_config.json").unlink()
    if settings:
        (model / "generation_config.json").write_text(
            json.dumps({key: vocabulary.get(value, value) if isinstance(value, str) else value for key, value in settings.items()})
        )
    edit(model / "config.json", **config)
    policy = load_policy(str(model), family_models.picture)
    assert {policy.encoder.tokenizer.convert_ids_to_tokens(token) for token in policy.stop_ids} == tokens
    assert says in (err := capsys.readouterr().err) and bool(says) == bool(err)
    if says:  # its checkpoints say it themselves
        policy.save_weights(model.parent / "saved")
        assert json.loads((model.parent / "saved" / "generation_config.json").read_text())["eos_token_id"] == list(policy.stop_ids)


def test_the_end_may_stand_in_text_config_alone(tmp_path, capsys):
    folder = family_models.write("qwen2_5_vl", tmp_path / "hub")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    assert "eos_token_id" not in config
    assert load_policy(str(folder), family_models.picture).stop_ids == (config["text_config"]["eos_token_id"],)
    edit(folder / "config.json", text_config={key: value for key, value in config["text_config"].items() if key != "eos_token_id"})
    assert load_policy(str(folder), family_models.picture).stop_ids == (config["text_config"]["eos_token_id"],)  # the template's
    assert 'answers end with "<|im_end|>"' in capsys.readouterr().err


def test_a_model_that_nothing_ends_is_refused(model):
    for name in ("generation_config.json", "chat_template.json"):
        (model / name).unlink()
    edit(model / "config.json", eos_token_id=None)
    template = "{% for turn in messages %}{% for part in turn.content %}{{ '<|image_pad|>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    edit(model / "tokenizer_config.json", chat_template=template)
    refused(model, 'write its number as "eos_token_id" into generation_config.json')


# ---------------------------------------------------------------- what is no model


def refused(model, *parts):
    with pytest.raises(ModelError) as error:
        load_policy(str(model), family_models.picture)
    sentence = str(error.value)
    assert all(str(part) in sentence for part in parts), sentence
    assert "\n" not in sentence and len(sentence) < 600


QUANTISED = {
    "awq": {"quant_method": "awq", "bits": 4}, "gptq": {"quant_method": "gptq", "bits": 4}, "fp8": {"quant_method": "fp8"},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "compressed-tensors": {"quant_method": "compressed-tensors"},
    "hqq": {"quant_method": "hqq"}, "mxfp4": {"quant_method": "mxfp4"}, "torchao": {"quant_method": "torchao"}, "exl2": {"quant_method": "exl2"},
}  # fmt: skip


@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_model_is_refused_by_its_method(model, method):
    edit(model / "config.json", quantization_config=QUANTISED[method])
    refused(model, f"is quantised ({method})", "give the model that it was made from, or serve it", "--model http://")


@pytest.mark.parametrize("key", ["quantization", "compression_config", "text_config"])
def test_wherever_the_configuration_says_it(model, key):
    how = {"bits": 4, "group_size": 64}
    edit(model / "config.json", **{key: {"quantization_config": how} if key == "text_config" else how})
    refused(model, "is quantised")


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_or_a_file_of_its_own_says_it(model, name):
    (model / name).write_text("{}")
    refused(model, f"is quantised ({name})")


@pytest.mark.parametrize(("dtype", "name"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.uint8, "U8"), (torch.int32, "I32"), (torch.int8, "I8")])
def test_or_the_weights_themselves_do(model, dtype, name):
    rewrite(model, {key: tensor.to(dtype) if "up_proj" in key else tensor for key, tensor in weights_of(model).items()})
    refused(model, f"holds numbers of the kind {name}, so it is quantised", "serve it")


def test_a_table_of_positions_is_no_quantised_weight(model, wanted):
    rewrite(model, weights_of(model) | {"visual.position_ids": torch.arange(4), "visual.mask": torch.ones(2, dtype=torch.bool)})
    assert written(load_policy(str(model), family_models.picture)) == wanted


@pytest.mark.parametrize(
    ("name", "says"),
    {
        "gguf": ("model-Q4_K_M.gguf", "holds a GGUF file"),
        "pickle": ("pytorch_model.bin", "holds its weights as a pickle, which can run code when it is read; convert it where you trust it"),
        "pickles": ("pytorch_model-00001-of-00002.bin", "save_pretrained(NEW) of transformers writes safetensors"),
        "DeepSpeed": ("zero_to_fp32.py", "python zero_to_fp32.py FOLDER NEW --safe_serialization"),
        "nothing": ("optimizer.pt", "has no weights, neither model.safetensors nor its index"),
        "another name": ("weights.safetensors", "has no weights, neither model.safetensors nor its index"),
    }.values(),
)
def test_weights_of_another_kind_are_named(model, name, says):
    for file in model.glob("model*"):
        file.unlink()
    (model / name).write_bytes(b"x")
    refused(model, model, says)


def test_no_pickle_is_read_beside_safetensors(model, wanted):
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert written(load_policy(str(model), family_models.picture)) == wanted


def test_a_shard_that_is_missing_cut_off_or_a_pointer(model):
    shard = model / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    for content, says in {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n": "git lfs pull",
        whole[:-9]: "is cut off; copy it again",
        whole[:100]: "is no safetensors file",
        b"\xff" * 64: "is no safetensors file",
        b"": "is no safetensors file",
    }.items():
        shard.write_bytes(content)
        refused(model, shard, says)
    shard.unlink()
    refused(model, f"lacks {shard.name}, which model.safetensors.index.json names")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(model, value):
    weights = weights_of(model)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    rewrite(model, weights)
    refused(model, '"model.language_model.layers.1.mlp.up_proj.weight" holds numbers that are not finite; take another checkpoint')


def test_a_template_without_pictures_is_refused(model):
    (model / "chat_template.json").unlink()
    for template in ("{% for turn in messages %}{{ '<|im_start|>' + turn.content }}{% endfor %}", "{{ messages[0].content }}", "{{ raise_exception('no') }}"):
        edit(model / "tokenizer_config.json", chat_template=template)
        refused(model, "the chat template cannot ask about a picture (")
    edit(model / "tokenizer_config.json", chat_template=None)
    refused(model, "has no chat template; copy chat_template.jinja, chat_template.json or tokenizer_config.json")


def test_another_layout_of_a_known_model_and_one_that_is_unknown(model):
    edit(model / "config.json", model_type="internvl_chat")
    refused(model, "-hf, such as OpenGVLab/InternVL3-1B-hf")
    edit(model / "config.json", model_type="bert")
    refused(model, 'holds a "bert" model, which is not supported yet; give one of qwen2_vl', "or serve it")


def test_a_configuration_that_is_far_larger_than_its_weights_is_refused_before_it_is_built(model):
    """Another kind's own sizes, billions of parameters, and files that hold some thousands."""
    edit(model / "config.json", model_type="mllama")
    refused(model, "parameters and its weights are", "one source")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", "config.json"])
def test_what_a_model_lacks_is_named(model, name):
    (model / name).unlink()
    for other in ("vocab.json",) if name == "tokenizer.json" else ():
        (model / other).unlink()
    refused(model, f"has no {name}")


# ---------------------------------------------------------------- a folder near a model


@pytest.fixture
def run(model, tmp_path):
    """A run with three checkpoints, of which the last was not finished, as training leaves it."""
    run = tmp_path / "runs" / "mine"
    for step in (3, 20, 100):
        shutil.copytree(model, run / "checkpoints" / f"step-{step}{'.partial' if step == 100 else ''}")
    (run / "config.json").write_text(json.dumps({"fingerprint": "abc", "config": {"model": "nano"}}))
    for name in ("adapter", "trainer"):
        (run / "checkpoints" / "step-20" / name).mkdir()
    (run / "checkpoints" / "step-20" / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}))
    return run


NEAR = {
    "": ("is a run, and no model", 'did you mean "{run}/checkpoints/step-20", the last of 2 models there?'),
    "checkpoints": ("has no config.json", 'did you mean "{run}/checkpoints/step-20", the last of 2 models there?'),
    "..": ("has no config.json", 'did you mean "{run}/checkpoints/step-20"'),
    "checkpoints/step-20/trainer": ("is empty", 'did you mean "{run}/checkpoints/step-20"?'),
    "checkpoints/step-20/adapter": (
        'is an adapter of "Qwen/Qwen2-VL-2B-Instruct", and no model; did you mean "{run}/checkpoints/step-20", where it is merged?',
    ),
    "checkpoints/step-21": ("no model directory", 'did you mean "{run}/checkpoints/step-20"?'),
    "step-3": ("no model directory", 'did you mean "{run}/checkpoints/step-3"?'),
    "checkpoints/step-3/config.json": ("is a file; give the folder that it lies in", "{run}/checkpoints/step-3"),
}


@pytest.mark.parametrize("place", NEAR)
def test_a_folder_around_within_or_beside_a_model(run, place):
    refused((run / place).resolve(), *(part.format(run=run) for part in NEAR[place]))


def test_a_run_that_has_saved_nothing_yet(run):
    shutil.rmtree(run / "checkpoints")
    refused(run, "is a run, and no model; it has saved none yet")


def test_an_adapter_alone_and_one_beside_weights(model, tmp_path):
    (tmp_path / "adapter").mkdir()
    for folder in (tmp_path / "adapter", model):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}))
    refused(tmp_path / "adapter", 'is an adapter of "Qwen/Qwen2-VL-2B-Instruct", and no model; merge it with merge_and_unload() of peft')
    refused(model, 'holds weights and an adapter of "Qwen/Qwen2-VL-2B-Instruct", merged or not')  # transformers would put it on top, unasked


def test_a_folder_of_a_trainer(model, tmp_path):
    for step in (50, 100):
        shutil.copytree(model, tmp_path / "trainer" / f"checkpoint-{step}")
    refused(tmp_path / "trainer", f'did you mean "{tmp_path}/trainer/checkpoint-100", the last of 2 models there?')


def test_what_is_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "empty", "is empty; give one in the Hugging Face layout")
    refused(tmp_path / "model.gguf", "GGUF file", "serve it")
    for name in ("~/mine", "my models/new", "Qwen2-VL-2B-Instruct", "a/b/c"):
        refused(name, f'no model directory "{name}"; give a directory, a hub id such as Qwen/Qwen2-VL-2B-Instruct, or nano')


def test_a_quantised_model_of_the_hub_is_refused_before_its_weights_are_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--some--model-AWQ" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--model-AWQ" / "refs").mkdir()
    (tmp_path / "models--some--model-AWQ" / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelError, match="is quantised \\(awq\\)"):
        locate("some/model-AWQ", download=False)


def test_all_known_kinds_are_tried_here():
    assert {*family_models.TINY, "qwen2_vl"} == set(FAMILIES)
