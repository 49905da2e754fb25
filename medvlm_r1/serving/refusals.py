"""What a client is told when there is no answer, in the shape that OpenAI's clients read."""

from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """No answer. ``status``: of HTTP; ``why``: one sentence with the remedy, and nothing of what was sent; ``param``: which field is to blame.

    >>> Refused(422, 'n wants 1 to 16', "n").body
    {'error': {'message': 'n wants 1 to 16', 'type': 'invalid_request_error', 'param': 'n', 'code': None}}
    """

    def __init__(self, status: int, why: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.status, self.param, self.retry_after_s = status, param, retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return error_body(self.status, str(self), self.param)

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After``, where waiting helps."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def error_body(status: int, why: str, param: str | None = None) -> dict[str, Any]:
    """
    >>> error_body(503, "not ready")["error"]["type"]
    'server_error'
    """
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": why, "type": kind, "param": param, "code": None}}
