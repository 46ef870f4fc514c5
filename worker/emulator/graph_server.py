"""Microsoft Graph as far as sending goes: sendMail (MIME and JSON), drafts, attachments, uploads, Sent Items."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from email.utils import getaddresses
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.emulator.accepted import AcceptedMails
from worker.emulator.backstage import Backstage
from worker.emulator.entra import GRAPH_RESOURCE, TokenAuthority
from worker.emulator.scenario import DROP, LOST, SILENT, YES, Moment, Rule
from worker.emulator.world import MailboxAccount

_HOST = "emulator.graph.microsoft.example"
_BY_SESSION = 3 * 1024 * 1024  # octets from which a file needs an upload session
_PIECE = 4 * 1024 * 1024  # octets that one PUT stays below
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_FILTER = re.compile(r"internetMessageId eq '((?:[^']|'')*)'")
_QUIET = ("authorization",)


class _Refused(Exception):  # noqa: N818 - the way out of a request
    """Graph says no."""

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


@dataclass(slots=True)
class _Upload:
    draft: _Draft
    described: Mapping[str, Any]
    size: int
    content: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Draft:
    mailbox: str
    content: EmailMessage


class GraphServer:
    """Answers requests on behalf of mailboxes, with the limits and scenarios of the emulator."""

    def __init__(
        self,
        accounts: list[MailboxAccount],
        authority: TokenAuthority,
        accepted: AcceptedMails,
        backstage: Backstage,
        base_url: str,
    ) -> None:
        """Nobody has asked for anything.

        Args:
            accounts: the mailboxes that exist.
            authority: knows the tokens.
            accepted: keeps the mails.
            backstage: rules, limits and journal.
            base_url: where it will be reached, `https://host:port`.
        """
        self._accounts = {account.address.lower(): account for account in accounts}
        self._authority = authority
        self._accepted = accepted
        self._backstage = backstage
        self._base_url = base_url
        self._drafts: dict[str, _Draft] = {}
        self._uploads: dict[str, _Upload] = {}

    def application(self, *further: Route) -> Starlette:
        """The HTTP side, with further routes of the emulator's own."""
        user, draft = "/v1.0/users/{user}", "/v1.0/users/{user}/messages/{draft}"
        post, get, delete = ["POST"], ["GET"], ["DELETE"]
        return Starlette(
            routes=[
                Route(f"{user}/sendMail", self._guarded(self._send_mail), methods=post),
                Route(f"{user}/messages", self._guarded(self._make_draft), methods=post),
                Route(f"{draft}/attachments", self._guarded(self._attach), methods=post),
                Route(f"{draft}/attachments/createUploadSession", self._guarded(self._open_upload), methods=post),
                Route(f"{draft}/send", self._guarded(self._send_draft), methods=post),
                Route(draft, self._guarded(self._delete_draft), methods=delete),
                Route(f"{user}/mailFolders/sentitems/messages", self._guarded(self._sent_items), methods=get),
                Route("/upload/{upload}", self._put, methods=["PUT"]),
                *further,
            ]
        )

    def _guarded(
        self, handler: Callable[[Request, MailboxAccount, bytes], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Token, rights, limits; then the handler."""

        async def guarded(request: Request) -> Response:
            journal, number = self._backstage.journal, self._backstage.journal.number()
            user = request.path_params["user"].lower()
            journal.write("open", connection=number, server=_HOST)
            request_id = str(uuid.uuid4())
            try:
                body = await request.body()
                account = await self._admitted(request, user, body)
                journal.write("login", connection=number, login=user, mechanism="graph")
                response = await self._counted(handler(request, account, body), user, number)
            except _Refused as no:
                journal.write(
                    "refused",
                    connection=number,
                    login=user,
                    command="GRAPH",
                    reply=f"{no.status} {no.code} {no.message}",
                )
                response = _error(no, request_id)
            except ClientDisconnect:
                response = Response(status_code=499)
            finally:
                journal.write("close", connection=number, login=user)
            response.headers["request-id"] = request_id
            return response

        return guarded

    async def _admitted(self, request: Request, user: str, body: bytes) -> MailboxAccount:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        account = self._accounts.get(user)
        if not token:
            raise _Refused(401, "InvalidAuthenticationToken", "Access token is empty.")
        problem = self._authority.check(user, token, GRAPH_RESOURCE)
        if "audience" in problem:
            raise _Refused(401, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.")
        if "expired" in problem:
            raise _Refused(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
        if account is None:
            raise _Refused(404, "ErrorInvalidUser", f"The requested user '{user}' is invalid.")
        if problem:
            raise _Refused(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
        if rule := self._backstage.play.answer(Moment.GRAPH_ACCESS, user):
            await self._say(rule, request)
        if len(body) > self._backstage.governor.limits.graph_octets:
            raise _Refused(413, "RequestEntityTooLarge", "The request entity is too large.")
        return account

    async def _counted(self, answer: Awaitable[Response], user: str, number: int) -> Response:
        """Four requests at once for one app and mailbox; more are turned away."""
        governor, task = self._backstage.governor, asyncio.ensure_future(answer)
        if governor.requests[user] >= governor.limits.graph_requests:
            task.cancel()
            raise _Refused(429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit.", 1)
        if seconds := governor.turned_away(user):
            task.cancel()
            raise _Refused(429, "ApplicationThrottled", "Application is over its request limit.", math.ceil(seconds))
        governor.requests[user] += 1
        self._backstage.journal.write("submitting", connection=number, login=user)
        try:
            return await task
        finally:
            governor.requests[user] -= 1

    async def _send_mail(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        mail = _from_json(body) if _is_json(request) else _from_mime(body)
        return await self._send(request, account, mail)

    async def _make_draft(self, _request: Request, account: MailboxAccount, body: bytes) -> Response:
        draft = _Draft(account.address.lower(), _from_mime(body))
        name = f"AAMk{uuid.uuid4().hex}"
        self._drafts[name] = draft
        return JSONResponse({"id": name, "isDraft": True, "internetMessageId": draft.content["Message-ID"]}, 201)

    async def _attach(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        described = _object(body)
        content = base64.b64decode(described.get("contentBytes", ""))
        _add(self._draft(request, account).content, described, content)
        return JSONResponse({"id": uuid.uuid4().hex, "name": described.get("name"), "size": len(content)}, 201)

    async def _open_upload(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        item = _object(body).get("AttachmentItem", {})
        size = int(item.get("size", 0))
        if size < _BY_SESSION:
            raise _Refused(
                400,
                "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize",
                "Attachment size must be greater than the minimum size.",
            )
        name = uuid.uuid4().hex
        self._uploads[name] = _Upload(self._draft(request, account), item, size)
        opened = {"uploadUrl": f"{self._base_url}/upload/{name}", "nextExpectedRanges": ["0-"]}
        return JSONResponse(opened, 201)

    async def _put(self, request: Request) -> Response:
        upload = self._uploads.get(request.path_params["upload"])
        if upload is None:
            return _error(_Refused(404, "ErrorItemNotFound", "The upload session is not known."), "")
        if any(name in request.headers for name in _QUIET):
            return _error(_Refused(401, "InvalidAuthenticationToken", "An upload takes no token."), "")
        body, span = await request.body(), _RANGE.fullmatch(request.headers.get("content-range", ""))
        if span is None or len(body) > _PIECE or (int(span[1]), int(span[3])) != (len(upload.content), upload.size):
            return _error(_Refused(416, "ErrorInvalidRange", "The range is not the expected one."), "")
        upload.content += body
        if len(upload.content) < upload.size:
            return JSONResponse({"nextExpectedRanges": [f"{len(upload.content)}-"]})
        _add(upload.draft.content, upload.described, bytes(upload.content))
        del self._uploads[request.path_params["upload"]]
        return Response(status_code=201)

    async def _send_draft(self, request: Request, account: MailboxAccount, _body: bytes) -> Response:
        response = await self._send(request, account, self._draft(request, account).content)
        self._drafts.pop(request.path_params["draft"])
        return response

    async def _delete_draft(self, request: Request, account: MailboxAccount, _body: bytes) -> Response:
        self._draft(request, account)
        del self._drafts[request.path_params["draft"]]
        return Response(status_code=204)

    async def _sent_items(self, request: Request, account: MailboxAccount, _body: bytes) -> Response:
        found = _FILTER.fullmatch(request.query_params.get("$filter", ""))
        if found is None:
            raise _Refused(400, "ErrorInvalidUrlQueryFilter", "Only internetMessageId eq '…' is emulated.")
        message_id = found[1].replace("''", "'")
        there = self._accepted.holds(account.address, message_id)
        return JSONResponse({"value": [{"id": "AAMk", "internetMessageId": message_id}] if there else []})

    def _draft(self, request: Request, account: MailboxAccount) -> _Draft:
        draft = self._drafts.get(request.path_params["draft"])
        if draft is None or draft.mailbox != account.address.lower():
            raise _Refused(404, "ErrorItemNotFound", "The specified object was not found in the store.")
        return draft

    @property
    def drafts(self) -> int:
        """How many were made and neither sent nor deleted."""
        return len(self._drafts)

    async def _send(self, request: Request, account: MailboxAccount, mail: EmailMessage) -> Response:
        recipients = [address for _, address in getaddresses(_all(mail, "To", "Cc", "Bcc")) if "@" in address]
        if not recipients:
            raise _Refused(400, "ErrorInvalidRecipients", "At least one recipient isn't valid.")
        rule = self._backstage.play.answer(Moment.GRAPH, account.address, recipients)
        if rule is not None and not (rule.accepts or rule.reply in (LOST, YES)):
            await self._say(rule, request)
        self._accept(account, mail, recipients)
        if rule is not None:
            await self._say(rule, request)
        return Response(status_code=202)

    def _accept(self, account: MailboxAccount, mail: EmailMessage, recipients: list[str]) -> None:
        sender = next((address for _, address in getaddresses(_all(mail, "From"))), account.address)
        if sender.lower() not in {account.address.lower(), *map(str.lower, account.send_as)}:
            raise _Refused(
                403,
                "ErrorSendAsDenied",
                "The user account which was used to submit this request does not have the right to send mail on "
                "behalf of the specified sending account.",
            )
        del mail["Bcc"]
        content = mail.as_bytes(policy=SMTP)
        login, governor = account.address.lower(), self._backstage.governor
        if len(content) > governor.limits.octets:
            raise _Refused(413, "ErrorMessageSizeExceeded", "The message exceeds the maximum supported size.")
        if refusal := governor.quota(login, len(recipients), len(content)):
            code = "ErrorQuotaExceeded" if "full" in refusal else "ErrorSubmissionQuotaExceeded"
            raise _Refused(507 if "full" in refusal else 429, code, refusal)
        kept = self._accepted.keep(
            content,
            server=_HOST,
            login=account.address,
            mechanism="graph",
            tls="https",
            mail_from=sender,
            rcpt_to=recipients,
        )
        self._backstage.journal.write(
            "accepted",
            login=login,
            server=_HOST,
            mechanism="graph",
            message_id=kept.message_id,
            notification_id=kept.notification_id,
            recipients=len(recipients),
            octets=kept.octets,
        )
        self._backstage.bounce(content, sender=sender, login=login, recipients=recipients, host=_HOST)

    async def _say(self, rule: Rule, request: Request) -> None:
        """Answer as the rule wants, or do not."""
        await asyncio.sleep(rule.delay)
        if rule.reply == YES:
            return
        if rule.reply in (DROP, LOST):
            _hang_up(request)
            raise ClientDisconnect
        if rule.reply == SILENT:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            raise ClientDisconnect
        status, code, message = rule.reply.split(" ", 2)
        raise _Refused(int(status), code, message, rule.retry_after)


def _hang_up(request: Request) -> None:
    """Close the connection without a word, which ASGI knows no way for: the server's cycle has the transport."""
    cycle = cast("Any", request.receive).__self__
    cycle.transport.abort()


def _error(no: _Refused, request_id: str) -> Response:
    inner = {"date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "request-id": request_id}
    body = {"error": {"code": no.code, "message": no.message, "innerError": inner}}
    headers = {"Retry-After": str(no.retry_after)} if no.retry_after else {}
    return JSONResponse(body, no.status, headers)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")


def _from_mime(body: bytes) -> EmailMessage:
    try:
        content = base64.b64decode(body, validate=True)
    except binascii.Error:
        content = b""
    if not content:
        raise _Refused(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content.")
    return BytesParser(policy=SMTP).parsebytes(content)


def _from_json(body: bytes) -> EmailMessage:
    message = _object(body).get("message", {})
    mail = EmailMessage(policy=SMTP)
    sender = message.get("from")
    for name, people in (("From", [sender] if sender else []), *((n, message.get(k, [])) for n, k in _PEOPLE)):
        if people:
            mail[name] = ", ".join(person["emailAddress"]["address"] for person in people)
    mail["Subject"] = message.get("subject", "")
    mail["Message-ID"] = message.get("internetMessageId") or f"<{uuid.uuid4()}@{_HOST}>"
    for header in message.get("internetMessageHeaders", []):
        mail[header["name"]] = header["value"]
    text = message.get("body", {})
    mail.set_content(
        text.get("content", ""), subtype="html" if text.get("contentType", "").lower() == "html" else "plain"
    )
    for described in message.get("attachments", []):
        _add(mail, described, base64.b64decode(described.get("contentBytes", "")))
    return mail


_PEOPLE = (("To", "toRecipients"), ("Cc", "ccRecipients"), ("Bcc", "bccRecipients"))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _Refused(400, "BadRequest", "Unable to read JSON request payload.")
    return found


def _add(mail: EmailMessage, described: Mapping[str, Any], content: bytes) -> None:
    main, _, sub = (described.get("contentType") or "application/octet-stream").partition("/")
    inline = bool(described.get("isInline"))
    mail.add_attachment(
        content,
        maintype=main,
        subtype=sub or "octet-stream",
        filename=described.get("name", ""),
        disposition="inline" if inline else "attachment",
        cid=f"<{described['contentId']}>" if inline and described.get("contentId") else None,
    )


def _all(mail: EmailMessage, *names: str) -> list[str]:
    return [str(value) for name in names for value in mail.get_all(name, [])]
