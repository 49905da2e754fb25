"""A small server in this process that behaves as vLLM's endpoints do (0.32): its answers, its order of a sync, and its traps."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from medvlm_r1.models.images import Images
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.writing import Writing


class Server:
    """Writes with the weights of ``policy``, which are its own. ``log`` holds every path that was asked for, ``modes`` how it was paused, ``written`` the
    labels of all answers.

    A reload leaves the encoder's cache as it was: the next picture that it knows ends the server. ``kill`` and ``start`` are a process's
    end and its next beginning, on the same port, with the weights that it first had and no memory of any run.
    """

    def __init__(self, policy):
        self.policy, self.first = policy, {name: p.detach().clone() for name, p in policy.model.named_parameters()}
        self.log, self.modes, self.written, self.port = [], [], [], 0
        self.before = lambda body: None  # called with each request before it is written
        self.spans = None  # the labels of an answer's stretches, if they are to be told otherwise
        self.lock, self.changed = threading.Lock(), threading.Condition()
        self.start()

    def start(self):
        with torch.no_grad():
            for name, p in self.policy.model.named_parameters():
                p.copy_(self.first[name])
        self.label, self.paused, self.busy, self.known, self.stale = "default", False, 0, set(), False
        self.policy.images = Images(self.policy.model, self.policy.encoder.family)
        self.alive, self.server = True, _Listening(("127.0.0.1", self.port), _handler(self))
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def kill(self):
        self.alive = False
        with self.changed:
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    close = kill

    def answer(self, path, query, body):
        """(status, what is answered); None ends the connection."""
        self.log.append(path)
        if path == "/weight_info":
            return 200, {"weight_version": self.label}
        if path == "/pause":
            self.modes += query["mode"]
            with self.changed:
                self.paused = True
                self.changed.wait_for(lambda: not self.alive or query["mode"] == ["keep"] or not self.busy)
        elif path == "/resume":
            with self.changed:
                self.paused = False
                self.changed.notify_all()
        elif path == "/collective_rpc":
            assert body["method"] == "reload_from" and self.paused
            self._load(body["kwargs"]["path"])
        elif path == "/reset_encoder_cache":
            self.known, self.stale = set(), False
        elif path == "/update_weight_version":
            self.label = body["new_version"]
        elif path == "/inference/v1/generate":
            return self._generate(body)
        elif path not in ("/reset_prefix_cache", "/reset_mm_cache", "/abort_requests"):
            return 404, {"detail": "Not Found"}
        return 200, ""

    def _load(self, folder):
        with self.lock:
            self.policy.load_weights(load_file(f"{folder}/model.safetensors"), {})
        self.stale = bool(self.known)

    def _generate(self, body):
        self.before(body)
        with self.changed:
            self.changed.wait_for(lambda: not self.alive or not self.paused)
            self.busy += 1
        try:
            with self.lock:
                return (200, self._write(body)) if self.alive else None
        finally:
            with self.changed:
                self.busy -= 1
                self.changed.notify_all()

    def _write(self, body):
        encoder, params = self.policy.encoder, body["sampling_params"]
        pictures = [self._picture(part["url"]) for part in body.get("content_parts", [])]
        if self.stale and self.known & {p.key for p in pictures}:
            threading.Thread(target=self.kill).start()
            raise ConnectionAbortedError
        self.known |= {p.key for p in pictures}
        left = iter(pictures)
        tokens = encoder.tokenizer
        ids = [token for id in body["token_ids"] for token in (tokens(next(left).text)["input_ids"] if id == encoder.image_id else [id])]
        sampling = Sampling(params["n"], params["temperature"], params["max_tokens"], params["seed"], params["min_tokens"])
        assert {int(id) for id, bias in params["logit_bias"].items() if bias <= -100} == set(self.policy.banned_ids)
        assert params["stop_token_ids"] == list(self.policy.stop_ids) and (params["top_p"], params["top_k"], params["logprobs"]) == (1.0, 0, 0)
        noise = np.stack([np.random.default_rng(sampling.seed + k).random(sampling.max_tokens, dtype=np.float32) for k in range(sampling.n)])
        with torch.no_grad():
            rows = list(Writing(self.policy, self.policy.packed(), sampling).write(encoder.collate([ids], [pictures]), torch.from_numpy(noise)))
        self.written.append(self.label)
        choices = [
            {
                "index": k, "token_ids": row, "finish_reason": "stop" if row[-1] in self.policy.stop_ids else "length",
                "logprobs": {"content": [{"token_id": id, "logprob": value} for id, value in zip(row, logprobs, strict=True)]},
                "weight_versions": self.spans or [{"version": self.label, "start": 0, "end": len(row)}],
            }
            for k, (row, logprobs) in enumerate(rows)
        ]  # fmt: skip
        return {"choices": choices, "prompt_token_ids": ids if body["return_token_ids"] else None}

    def _picture(self, url):
        encoder, image = self.policy.encoder, Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        return encoder.family.prepare(encoder.image_processor, image.convert("RGB"), encoder.tile_tokens)


class _Listening(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True


def _handler(owner):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
            self._answer(body)

        def do_GET(self):
            self._answer(None)

        def _answer(self, body):
            place = urlsplit(self.path)
            try:
                found = owner.answer(place.path, parse_qs(place.query), body)
            except ConnectionAbortedError:
                found = None
            if found is None or not owner.alive:
                return
            status, content = found
            data = json.dumps(content).encode() if content != "" else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Silence."""

    return Handler
