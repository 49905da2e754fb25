"""What a client may send, field by field, with its bounds; whatever else it sends is refused and not guessed at."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from medvlm_r1.serving.refusals import Refused
from medvlm_r1.wording import decimal

MOST_N, MOST_TOKENS, MOST_PICTURES, MOST_SIGNS = 16, 4096, 8, 20_000
Words = Annotated[str, Field(min_length=1, max_length=1_000)]
Options = Annotated[list[Words], Field(max_length=10)]
Id = Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]


class Strict(BaseModel):
    """Nothing but what is named."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Text(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MOST_SIGNS)]


class Url(Strict):
    """A picture inside the request: nothing is fetched."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrl(Strict):
    """A part of a message."""

    type: Literal["image_url"]
    image_url: Url


class Message(Strict):
    """A turn. One question is asked at a time: the model was trained to answer one."""

    role: Literal["system", "developer", "user"]
    content: Annotated[str, Field(max_length=MOST_SIGNS)] | Annotated[list[Annotated[Text | ImageUrl, Field(discriminator="type")]], Field(max_length=64)]
    name: str | None = None


class StreamOptions(Strict):
    """OpenAI's."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Place(Strict):
    """Which frame or slice, and through which window, where a file has several or its own is not wanted."""

    frame: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    axis: Annotated[int, Field(ge=0, le=2)] | None = None
    slice: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    center: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    width: Annotated[float, Field(gt=0, le=1e6)] | None = None

    def reference(self) -> str:
        """As ``data.images`` writes it.

        >>> Place(center=40, width=400).reference(), Place().reference()
        ('#center=40.0&width=400.0', '')
        """
        pairs = [f"{name}={decimal(value)}" if isinstance(value, float) else f"{name}={value}" for name, value in self]
        pairs = [pair for pair, (_, value) in zip(pairs, self, strict=True) if value is not None]
        return "#" + "&".join(pairs) if pairs else ""


class Earlier(Strict):
    """An earlier answer about the same picture, which the client remembers and the server does not."""

    question: Words
    options: Options = []
    answer_text: Words


class Medical(Strict):
    """What OpenAI's protocol has no word for."""

    options: Options = []
    template: str | None = None
    probs: bool = True
    token_ids: bool = False
    place: Place = Place()
    earlier: Annotated[list[Earlier], Field(max_length=64)] = []


class ChatRequest(Strict):
    """``POST /v1/chat/completions``. Temperature 0, the default here, is greedy."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=8)]
    n: Annotated[int, Field(ge=1, le=MOST_N)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    medical: Medical = Medical()
    # Said by clients, of no effect on an answer, and kept nowhere.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None


def read_chat(data: bytes) -> ChatRequest:
    """Raises Refused, with nothing of what was sent.

    >>> read_chat(b'{"model": "nano", "messages": [{"role": "user", "content": "Which?"}]}').medical.options
    []
    >>> read_chat(b'{"model": "nano", "messages": []}')
    Traceback (most recent call last):
    medvlm_r1.serving.refusals.Refused: List should have at least 1 item after validation, not 0
    """
    try:
        return ChatRequest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        raise Refused(400, "the body is no JSON")
    raise Refused(422, first["msg"], ".".join(map(str, first["loc"]))[:200] or None)


def chat_schemas(reference: str) -> dict[str, Any]:
    """ChatRequest and what it is made of as JSON schemas; ``reference``: how they name each other, with ``{model}``."""
    schemas: dict[str, Any] = models_json_schema([(ChatRequest, "validation")], ref_template=reference)[1]["$defs"]
    return schemas


class FeedbackRequest(Strict):
    """``POST /v1/feedback``: what a reader made of an answer."""

    audit_id: Annotated[str, Field(pattern=r"^[0-9a-f]{24}-[0-9]{1,2}$")]
    action: Literal["agree", "disagree", "skip"]
    answer: Annotated[str, Field(pattern=r"^[A-J]?$")] = ""
    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is none."""

    error: ErrorDetail
