"""How a model's turns are written, and what ends them: its chat template and its end tokens, wherever its files say so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from medvlm_r1.errors import ModelError
from medvlm_r1.models.folder import read_json
from medvlm_r1.types import Prompt

_MARK = "medvlm-r1 was here"


def turns(prompt: Prompt, text: str) -> list[dict[str, Any]]:
    """What a chat template is given: this text of the user's behind the images, and a system turn where the prompt has one; else the template may add its own."""
    content = [*({"type": "image"} for _ in prompt.example.images), {"type": "text", "text": text}]
    system = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
    return [*system, {"role": "user", "content": content}]


def use_template(directory: Path, tokenizer: Any) -> None:
    """Gives a tokenizer the template that transformers' processor of this folder would use.

    chat_template.jinja and tokenizer_config.json are read by the tokenizer itself. Earlier releases kept the processor's in a
    file or a key of its own, and there it comes before the tokenizer's, which may know no pictures. Raises ModelError for none.
    """
    if not (directory / "chat_template.jinja").exists():
        files = [file for name in ("processor_config.json", "chat_template.json") if (file := directory / name).exists()]
        tokenizer.chat_template = next((found for file in files if (found := read_json(file).get("chat_template"))), tokenizer.chat_template)
    if isinstance(tokenizer.chat_template, list):
        tokenizer.chat_template = {row["name"]: row["template"] for row in tokenizer.chat_template}
    if isinstance(tokenizer.chat_template, dict):
        if "default" not in tokenizer.chat_template:
            raise ModelError(f'{directory} has several chat templates ({", ".join(tokenizer.chat_template)}) and calls none "default"; name one so')
        tokenizer.chat_template = tokenizer.chat_template["default"]
    if not tokenizer.chat_template:
        raise ModelError(f"{directory} has no chat template; copy chat_template.jinja, chat_template.json or tokenizer_config.json from the model's source")


def check_template(directory: Path, tokenizer: Any, image_token: str) -> None:
    """Raises ModelError where the template cannot write a question about one picture: a language model's own knows of none."""
    content = [{"type": "image"}, {"type": "text", "text": _MARK}]
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        why = "" if text.count(image_token) == 1 and _MARK in text else f'it writes "{image_token}" {text.count(image_token)} times'
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
    if why:
        raise ModelError(f"{directory}: the chat template cannot ask about a picture ({why[:200]}); copy it from the source of the model")


def end_of_turn(tokenizer: Any) -> int | None:
    """The token with which the template ends what the assistant says; None where no single token does."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}, {"role": "assistant", "content": [{"type": "text", "text": _MARK}]}]
    try:
        after = tokenizer.apply_chat_template(turns, tokenize=False).partition(_MARK)[2].lstrip()
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    found = max((token for token in tokenizer.get_added_vocab() if after.startswith(token)), key=len, default="")
    return tokenizer.get_added_vocab().get(found)


def ends(named: int | Sequence[int] | None, turn: int | None, vocabulary: int) -> tuple[int, ...]:
    """The tokens that end an answer: those that the files name, behind the one that ends a turn where they do not name it.

    A model that was taught to talk ends its turns as the template does; where its files name another token (or
    none, or one of another model's vocabulary), it would write on until it is cut off.

    >>> ends([151645, 151643], 151645, 151936), ends(151643, 151645, 151936), ends(None, 151645, 151936)
    ((151645, 151643), (151645, 151643), (151645,))
    >>> ends([151645], 2, 768), ends(2, None, 768), ends(None, None, 768)
    ((2,), (2,), ())
    """
    given = [named] if isinstance(named, int) else list(named or ())
    known = [token for token in given if token < vocabulary]
    return tuple(dict.fromkeys(known if turn is None or turn in known else [turn, *known]))


def use_ends(directory: Path, tokenizer: Any, model: Any) -> str:
    """Lets a model's answers end where ``ends`` says, in its checkpoints too. Returns what is to be said of it, "" for nothing.

    Raises ModelError where nothing ends an answer.
    """
    settings, turn = model.generation_config, end_of_turn(tokenizer)
    named = settings.eos_token_id
    stop = ends(named, turn, model.config.get_text_config().vocab_size)
    if not stop:
        raise ModelError(f'{directory} names no token that ends an answer; write its number as "eos_token_id" into generation_config.json')
    given = [named] if isinstance(named, int) else list(named or ())
    if list(stop) == given:
        return ""
    settings.eos_token_id = list(stop)
    names = [f'"{token}"' for token in tokenizer.convert_ids_to_tokens(list(stop))]
    what = f"names {', '.join(map(str, given))}" if given else "names none"
    return f"answers end with {' or '.join(names)}, as turns of the chat template do; {directory} {what} as its end"
