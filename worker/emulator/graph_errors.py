"""What Microsoft Graph says instead of yes."""

from __future__ import annotations

import time

from starlette.responses import JSONResponse, Response


class Refused(Exception):  # noqa: N818 - the way out of a request
    """Graph says no."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0) -> None:
        """An HTTP status, and what stands in the body as `code` and `message`."""
        super().__init__(code)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def response(self, request_id: str = "") -> Response:
        """In the form that Graph has for all errors."""
        inner = {"date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "request-id": request_id}
        body = {"error": {"code": self.code, "message": self.message, "innerError": inner}}
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        return JSONResponse(body, self.status, headers)


def unreadable(what: str) -> Refused:
    """The request's JSON is not what it should be."""
    return Refused(400, "RequestBodyRead", what)
