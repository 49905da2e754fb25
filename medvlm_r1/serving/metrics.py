"""Numbers for Prometheus. Labels come from short lists of ours: nothing that was sent, or is a patient's, can become one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One registry a server, so that two in one process do not meet.

    >>> metrics = Metrics()
    >>> metrics.request("chat", 200, 0.5)
    >>> b'medvlm_requests_total{route="chat",status="200"} 1.0' in metrics.page()
    True
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("medvlm_requests", "Requests by route and status", ["route", "status"], registry=self._registry)
        self._seconds = Histogram("medvlm_request_seconds", "From request to last byte", ["route"], registry=self._registry, buckets=_BUCKETS_S)
        self._first = Histogram("medvlm_first_token_seconds", "From request to first text of a stream", registry=self._registry, buckets=_BUCKETS_S)
        self._tokens = Counter("medvlm_tokens", "Tokens written", registry=self._registry)
        self._answers = Counter("medvlm_answers", "Answers by status", ["status"], registry=self._registry)
        self._rows = Gauge("medvlm_rows", "Completions under way in the engine", registry=self._registry)
        self._waiting = Gauge("medvlm_rows_waiting", "Completions that wait for a slot", registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first(self, seconds: float) -> None:
        """The first text of a stream has gone out."""
        self._first.observe(seconds)

    def answer(self, status: str, n_tokens: int) -> None:
        """A completion has ended."""
        self._answers.labels(status).inc()
        self._tokens.inc(n_tokens)

    def load(self, rows: int, waiting: int) -> None:
        """What the engine has to do."""
        self._rows.set(rows)
        self._waiting.set(waiting)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
