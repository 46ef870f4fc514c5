"""What went wrong, as RFC 9457 wants it told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """The answer to a request that is not done."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Say what is wrong, one line for each mistake; `key: what` where a key is wrong."""
        super().__init__(detail)
        self.status = status
        self.headers = headers

    def answer(self) -> Response:
        """As JSON."""
        detail = str(self)
        body: dict[str, object] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": detail,
        }
        if self.status is HTTPStatus.UNPROCESSABLE_ENTITY:
            lines = (line.partition(": ") for line in detail.splitlines())
            body["errors"] = [
                {"key": key, "problem": what} if what else {"key": "", "problem": key} for key, _, what in lines
            ]
        text = json.dumps(body, ensure_ascii=False)
        return Response(text, self.status, dict(self.headers or {}), "application/problem+json")
