"""A small OpenAI-compatible server in this process, which answers as it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Listening(ThreadingHTTPServer):
    request_queue_size = 64  # of five, the sixth call at a time would wait a second


class Server:
    """Answers in turn with what it is given: (status, headers, body), or a function from a request's body to one.

    The last is given again and again. None ends the connection without an answer.
    """

    def __init__(self, *answers):
        self.answers, self.asked, self.keys, self.paths = list(answers), [], [], []
        self.models = None  # what a GET gets; as a POST where this is None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                owner.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                owner.keys.append(self.headers.get("Authorization"))
                owner.paths.append(self.path)
                answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                self._answer(answer(owner.asked[-1]) if callable(answer) else answer)

            def do_GET(self):
                self._answer(owner.models or owner.answers[0])

            def _answer(self, answer):
                if answer is None:
                    return
                status, headers, body = answer
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                """Silence."""

        self.server = _Listening(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
