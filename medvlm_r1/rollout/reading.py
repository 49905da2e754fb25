"""What an endpoint answered, as a completion: the shapes in which servers, gateways and libraries write one message.

Text and thought come as strings, as parts of many names, or one within the other; here they become one text with
the thought in its tags, as the model wrote it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from medvlm_r1.types import Completion

# Beside a message: vLLM and DeepSeek; newer vLLM; Ollama; LiteLLM; OpenRouter.
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
# Where a part keeps what it says; the first that holds anything.
TEXTS = ("text", "output_text", "thinking", "reasoning", "content", "summary", "value", "parts", "refusal")
CUT_OFF = {"length", "max_tokens", "max_length", "max_output_tokens", "model_length", "model_context_window_exceeded", "token_limit"}
BROKEN_OFF = {"abort", "aborted", "cancelled", "canceled", "error", "failed"}  # not the model's doing: ask again


def read(answer: Any, max_tokens: int) -> Completion:
    """The first choice. Raises ValueError where there is none, or where the server broke it off.

    A server that keeps the thought apart gets it back in its tags. A refusal is an
    answer like another, and an answer that a filter withheld or that spent all its
    tokens on a thought it does not show is an empty one: asking again would bring the same.
    An answer has ended where no reason says that it was cut off; where there is no reason at all, its number of tokens tells.

    >>> read({"choices": [{"message": {"content": "<answer>B</answer>", "reasoning_content": "Dark."}, "finish_reason": "stop"}]}, 9).text
    '<think>Dark.</think><answer>B</answer>'
    >>> read({"choices": [{"message": {"content": [{"type": "thinking", "thinking": "Dark."}, {"type": "text", "text": "B"}]}}]}, 9).text
    '<think>Dark.</think>B'
    >>> read({"choices": [{"message": {"content": None, "refusal": "I cannot help."}, "finish_reason": "stop"}]}, 9).text
    'I cannot help.'
    >>> read({"choices": [{"text": "It", "finish_reason": None}], "usage": {"completion_tokens": 9}}, max_tokens=9).finished
    False
    """
    choice, message = _choice(answer)
    reason = str(choice.get("finish_reason") or "").lower()
    if reason in BROKEN_OFF:
        raise ValueError(f'the server broke off ("{reason}"): {json.dumps(choice)}')
    content = message.get("content", choice.get("text"))
    pieces = list(_pieces(content))
    thought = _untagged("".join(text for is_thought, text in pieces if is_thought) or next(filter(None, map(_all_of, map(message.get, THOUGHTS))), ""))
    text = "".join(text for is_thought, text in pieces if not is_thought) or _all_of(message.get("refusal"))
    is_cut_off = reason in CUT_OFF or (not reason and _tokens(answer) >= max_tokens)
    if not (text or thought or is_cut_off or reason == "content_filter"):
        raise ValueError(f"no text in it: {json.dumps(choice)}")
    return Completion((), (), f"<think>{thought}</think>{text}" if thought else text, not is_cut_off)


def _choice(answer: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The first choice and its message, which older servers leave out."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message", {}) if isinstance(choice, Mapping) and (choice.get("message") or "text" in choice) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise ValueError(f"no choice in it: {json.dumps(answer)}")
    return choice, message


def _pieces(content: Any, is_thought: bool = False) -> Iterator[tuple[bool, str]]:
    """Whether it is thought, and the text, of every part of a content, however deep.

    >>> list(_pieces([{"type": "thinking", "thinking": [{"type": "text", "text": "Dark."}]}, "<answer>", {"type": "output_text", "text": "B"}]))
    [(True, 'Dark.'), (False, '<answer>'), (False, 'B')]
    >>> list(_pieces({"type": "reasoning.encrypted", "data": "gAAAA"})), list(_pieces(None))
    ([], [])
    """
    if isinstance(content, str):
        yield is_thought, content
    elif isinstance(content, list):
        for part in content:
            yield from _pieces(part, is_thought)
    elif isinstance(content, Mapping):
        kind = str(content.get("type", ""))
        inner = next((key for key in TEXTS if content.get(key)), None)
        is_thought |= content.get("thought") is True or any(word in part for word in ("think", "reason") for part in (kind, inner or ""))
        yield from _pieces(content.get(inner) if inner else None, is_thought)


def _all_of(content: Any) -> str:
    return "".join(text for _, text in _pieces(content))


def _untagged(thought: str) -> str:
    """
    >>> _untagged("<think>Dark.</think>"), _untagged("Dark.")
    ('Dark.', 'Dark.')
    """
    return thought.strip().removeprefix("<think>").removesuffix("</think>") if "think>" in thought else thought


def _tokens(answer: Mapping[str, Any]) -> int:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) else 0
