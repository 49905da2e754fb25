"""The process that holds the model: asks come in over a socket, tokens go out. It ends when the socket does.

The one thread that owns the model takes what has come between two tokens; another only reads. Pictures, and what was
computed of them, stay as long as their request; the last traces go when nobody asks any more.
"""

import base64
import ctypes
import io
import json
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from medvlm_r1.data.foreign import errors_as
from medvlm_r1.errors import ImageError, MedVLMError, ModelError
from medvlm_r1.models.policy import Policy
from medvlm_r1.reasoning import render
from medvlm_r1.rollout.answer import letter_place, option_probs, probs_from
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.told import question
from medvlm_r1.serving.slot_engine import SlotEngine, Token
from medvlm_r1.serving.wire import MOST_LINE_BYTES, Said, line
from medvlm_r1.types import Prompt

REPORT_EVERY_STEPS = 20
FIRST_TOKENS = 3  # are told at once: the first of them is a tag
QUIET_S = 0.5  # one client's next question comes sooner, and would pay for it
TELL_EVERY_S = 0.1  # a reader sees no difference, and telling costs the front as much as writing does the engine


@dataclass(eq=False)
class _Request:
    """A request under way, and what was told of its rows."""

    id: int
    number: int  # the engine's
    prompt: Prompt
    message: Mapping[str, Any]
    n_prompt_tokens: int = 0
    seen: tuple[tuple[int, int], ...] = ()
    ids: dict[int, list[int]] = field(default_factory=dict)
    told: Counter[int] = field(default_factory=Counter)  # signs of each row that were sent
    told_at: dict[int, float] = field(default_factory=dict)
    open_rows: int = 0


class EngineProcess:
    """Answers over ``channel`` until its other end closes."""

    def __init__(self, policy: Policy, channel: socket.socket, slots: int = 64, keep_bytes: int = 2**28) -> None:
        if not policy.shares_prompts:
            raise ModelError(
                f'"{policy.model.config.model_type}" has no family of its own, and this server writes by the shared prefix; '
                "serve it with vLLM and give --upstream URL#MODEL, or use medvlm-r1 ask"
            )
        self.policy, self.channel, self.engine = policy, channel, SlotEngine(policy, slots)
        self._requests: dict[int, _Request] = {}
        self._pictures: dict[str, bytes] = {}
        self._held: Counter[str] = Counter()
        self._inbox: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._out: list[bytes] = []
        self._ended: list[tuple[_Request, Token]] = []
        policy.keep_at_most(keep_bytes)
        policy.encoder.load_image = self._load

    def run(self, about: Mapping[str, Any]) -> None:
        """Say who is here, then answer."""
        threading.Thread(target=self._read, daemon=True).start()
        self._out.append(line({"say": "ready", **about}))
        steps = 0
        while self._flush() and self._take():
            self.engine.step()
            self._finish()
            steps += 1
            if steps % REPORT_EVERY_STEPS == 0 or not self._requests:
                self._out.append(line({"say": "load", "rows": self.engine.rows, "waiting": self.engine.waiting}))
            if not self._requests:
                self.policy.forget()
                self.engine.step()  # nothing to do: it gives its memory back

    def _read(self) -> None:
        try:
            with self.channel.makefile("rb") as lines:
                while (text := lines.readline(MOST_LINE_BYTES)).endswith(b"\n"):  # half a line is the front's last breath
                    self._inbox.put(json.loads(text))
        except ConnectionResetError:  # the front left words of ours unread
            return
        finally:
            self._inbox.put(None)

    def _flush(self) -> bool:
        data, self._out = b"".join(self._out), []
        try:
            self.channel.sendall(data)
        except OSError:  # the front has gone
            return False
        return True

    def _take(self) -> bool:
        """All that has come; waits where there is nothing to write. False at the end."""
        wait = not self._requests
        while True:
            try:
                message = self._next() if wait else self._inbox.get_nowait()
            except queue.Empty:
                return True
            wait = False  # what came of the first is to be told before another is waited for
            if message is None:
                return False
            if message["do"] == "ask":
                self._ask(message)
            elif request := self._requests.get(message["id"]):
                self.engine.cancel(request.number)
                self._forget(request)

    def _next(self) -> Mapping[str, Any] | None:
        """Waits for whoever comes next; where nobody does for a while, free memory goes back first."""
        try:
            return self._inbox.get(timeout=QUIET_S)
        except queue.Empty:
            give_back()
            return self._inbox.get()

    def _ask(self, message: Mapping[str, Any]) -> None:
        shas = [picture["sha256"] for picture in message["pictures"]]
        self._held.update(shas)
        self._pictures |= {picture["sha256"]: base64.b64decode(picture.pop("png")) for picture in message["pictures"]}
        request = _Request(message["id"], -1, Prompt(question("", "?", ()), ""), message, open_rows=message["sampling"]["n"])
        self._requests[request.id] = request
        try:
            example = replace(question("", message["question"], tuple(message["options"])), images=tuple(f"picture:{sha}" for sha in shas))
            template = message["template"] or (self.policy.template if example.options else "plain")
            request.prompt = render(example, template)
        except MedVLMError as error:
            self._fail(request, str(error), 400)
            return
        # Its pictures are prepared when it is its turn: what waits holds its files alone, and holds nobody up.
        request.number = self.engine.submit(request.prompt, Sampling(**message["sampling"]), lambda token: self._hear(request, token))

    def _load(self, reference: str) -> Image.Image:
        png = self._pictures.get(reference.partition(":")[2])
        if png is None:
            raise ImageError("the picture has gone with its request; ask again")
        with errors_as("the picture cannot be opened ({why}); save it anew and ask again"):
            return Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB")

    def _seen(self, reference: str) -> tuple[int, int] | None:
        """Width and height that a picture came to, where the family cuts it into patches of one size."""
        patch = getattr(self.policy.encoder.image_processor, "patch_size", None)
        if not isinstance(patch, int) or self.policy.encoder.merge == 1:
            return None
        _, height, width = self.policy.encoder.pixels(reference).grid_thw
        return width * patch, height * patch

    def _hear(self, request: _Request, token: Token) -> None:
        kind, is_fault, why = token.end.partition(": ")
        if is_fault:
            if request.id in self._requests:
                self._fail(request, why, 400 if kind == "refused" else 500)
            return
        if not request.n_prompt_tokens:
            request.n_prompt_tokens = len(self.policy.encoder.prompt_ids(request.prompt))
            request.seen = tuple(filter(None, map(self._seen, request.prompt.example.images)))
        ids = request.ids.setdefault(token.k, [])
        if token.end != "stop":
            ids.append(token.id)
        if token.end:
            self._ended.append((request, token))
        elif request.message["stream"]:
            self._tell(request, token.k)

    def _tell(self, request: _Request, k: int) -> None:
        """What row ``k`` has written since; half a character waits for its rest."""
        if (now := time.monotonic()) - request.told_at.get(k, 0.0) < TELL_EVERY_S and request.told[k]:
            return
        text, told = self.policy.encoder.thoughts.said(request.ids[k], request.prompt, whole=False), request.told[k]
        if len(text) > told and not text.endswith("\ufffd"):
            request.told[k] = len(text)
            request.told_at[k] = now if len(request.ids[k]) >= FIRST_TOKENS else 0.0
            self._say(request, Said(k, text[told:]))

    def _finish(self) -> None:
        """Measure the options of all rows that have just ended, together, and tell of them."""
        ended = [(request, token) for request, token in self._ended if request.id in self._requests]
        self._ended = []
        texts = [self.policy.encoder.thoughts.said(request.ids[token.k], request.prompt) for request, token in ended]
        probs = self._probs(ended, texts)
        for n, ((request, token), text) in enumerate(zip(ended, texts, strict=True)):
            ids = (*request.ids[token.k], *([token.id] if token.end == "stop" else []))
            self._say(request, Said(token.k, text, token.end, len(ids), request.n_prompt_tokens, probs.get(n, ()), ids, request.seen))
            request.open_rows -= 1
            if not request.open_rows:
                self._forget(request)

    def _probs(self, ended: Sequence[tuple[_Request, Token]], texts: Sequence[str]) -> dict[int, tuple[float, ...]]:
        """Of each of these rows that is to have them: from the state that its letter was written from, or else by a pass."""
        known: dict[int, tuple[torch.Tensor, tuple[int, ...]]] = {}
        others = []
        for n, (request, token) in enumerate(ended):
            if not (request.message["probs"] and request.prompt.example.options):
                continue
            ids, n_written = request.ids[token.k], len(request.ids[token.k]) + (token.end == "stop")
            place = letter_place(self.policy, request.prompt, texts[n], ids)
            if place and n_written - place[0] <= len(token.states):
                known[n] = token.states[place[0] - n_written], place[1]
            else:
                others.append(n)
        found = probs_from(self.policy, *zip(*known.values(), strict=True)) if known else []
        try:
            measured = option_probs(self.policy, [ended[n][0].prompt for n in others], [texts[n] for n in others])
        except torch.OutOfMemoryError:  # the answers stand
            measured = [()] * len(others)
        return dict(zip([*known, *others], [*found, *measured], strict=True))

    def _fail(self, request: _Request, why: str, status: int) -> None:
        self._say(request, Said(0, "", why=why, status=status))
        self.engine.cancel(request.number)
        self._forget(request)

    def _say(self, request: _Request, said: Said) -> None:
        values = {name: value for name, value in vars(said).items() if value or name in ("k", "text")}
        self._out.append(line({"say": "row", "id": request.id, **values}))

    def _forget(self, request: _Request) -> None:
        del self._requests[request.id]
        gone = []
        for picture in request.message["pictures"]:
            self._held[picture["sha256"]] -= 1
            if not self._held[picture["sha256"]]:
                del self._held[picture["sha256"]], self._pictures[picture["sha256"]]
                gone.append(f"picture:{picture['sha256']}")
        self.policy.let_go(request.prompt, gone)  # under steady load nobody would ever be the last


def give_back() -> None:
    """What malloc keeps and nobody uses goes back to the system, where it knows how (glibc)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
