"""Microsoft Graph as far as sending goes: sendMail (MIME and JSON), drafts, attachments, uploads, Sent Items."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from email.utils import format_datetime, getaddresses
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.emulator.accepted import AcceptedMails
from worker.emulator.backstage import Backstage
from worker.emulator.entra import TokenAuthority
from worker.emulator.graph_errors import Refused
from worker.emulator.graph_fields import Fields
from worker.emulator.graph_mail import attach, mail_of
from worker.emulator.hanging import unspoken
from worker.emulator.permissions import GRAPH_RESOURCE, READ, SEND, WRITE, Right
from worker.emulator.scenario import LOST, YES, Moment, Rule
from worker.emulator.uploads import Upload, opened
from worker.emulator.world import MailboxAccount

_LOG = logging.getLogger(__name__)
_HOST = "emulator.graph.microsoft.example"
_LOOPBACK = ("127.0.0.1", "::1")
_FILTER = re.compile(r"internetMessageId eq '((?:[^']|'')*)'")

_WHOLE_LINES = SMTP.clone(max_line_length=998)  # a header is folded as late as may be, a long Message-ID never

Handler = Callable[[Request, MailboxAccount, bytes], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
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

        `tokens_shown` counts pieces of uploads that came with a token: it belongs to Graph, not to the other host.
        """
        self._accounts = {account.address.lower(): account for account in accounts}
        self._authority = authority
        self._accepted = accepted
        self._backstage = backstage
        self._base_url = base_url
        self._drafts: dict[str, _Draft] = {}
        self._uploads: dict[str, Upload] = {}
        self._unsaved: set[tuple[str, str]] = set()
        self.tokens_shown = 0

    def application(self, *further: Route) -> Starlette:
        """The HTTP side, with further routes of the emulator's own."""
        return Starlette(
            routes=[
                *self._of_a_mailbox("/v1.0/users/{user}"),
                *self._of_a_mailbox("/v1.0/me"),
                Route("/upload/{upload}", self._uploading(self._put), methods=["PUT"]),
                Route("/upload/{upload}", self._uploading(self._end_upload), methods=["DELETE"]),
                *further,
            ],
            exception_handlers={HTTPException: _no_such_thing},
        )

    def _of_a_mailbox(self, user: str) -> list[Route]:
        draft, post = f"{user}/messages/{{draft}}", ["POST"]
        return [
            Route(f"{user}/sendMail", self._guarded(SEND, self._send_mail), methods=post),
            Route(f"{user}/messages", self._guarded(WRITE, self._make_draft), methods=post),
            Route(f"{draft}/attachments", self._guarded(WRITE, self._attach), methods=post),
            Route(f"{draft}/attachments/createUploadSession", self._guarded(WRITE, self._open_upload), methods=post),
            Route(f"{draft}/send", self._guarded(SEND, self._send_draft), methods=post),
            Route(draft, self._guarded(WRITE, self._delete_draft), methods=["DELETE"]),
            Route(f"{user}/mailFolders/sentitems/messages", self._guarded(READ, self._sent_items), methods=["GET"]),
        ]

    def _guarded(self, right: Right, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Token, rights, limits; then the handler."""

        async def guarded(request: Request) -> Response:
            journal, number = self._backstage.journal, self._backstage.journal.number()
            user = (request.path_params.get("user") or self._authority.owner(_token(request))).lower()
            journal.write("open", connection=number, server=_HOST)
            request_id = str(uuid.uuid4())
            try:
                body = await request.body()
                account = await self._admitted(request, user, body, right)
                journal.write("login", connection=number, login=user, mechanism="graph")
                response = await self._counted(_understood(partial(handler, request, account, body)), user, number)
            except Refused as no:
                journal.write(
                    "refused",
                    connection=number,
                    login=user,
                    command="GRAPH",
                    reply=f"{no.status} {no.code} {no.message}",
                )
                response = no.response(request_id)
            except ClientDisconnect:
                response = Response(status_code=499)
            finally:
                journal.write("close", connection=number, login=user)
            response.headers["request-id"] = request_id
            return response

        return guarded

    async def _admitted(self, request: Request, user: str, body: bytes, right: Right) -> MailboxAccount:
        token = _token(request)
        account = self._accounts.get(user)
        if not token:
            raise Refused(401, "InvalidAuthenticationToken", "Access token is empty.")
        problem = self._authority.check(user, token, GRAPH_RESOURCE, right)
        if "audience" in problem:
            raise Refused(401, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.")
        if "expired" in problem:
            raise Refused(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
        if not user:
            raise Refused(400, "BadRequest", "/me request is only valid with delegated authentication flow.")
        if account is None:
            raise Refused(404, "ErrorInvalidUser", f"The requested user '{user}' is invalid.")
        if problem:
            raise Refused(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
        if rule := self._backstage.play.answer(Moment.GRAPH_ACCESS, user):
            await self._say(rule, request)
        if len(body) > self._backstage.governor.limits.graph_octets:
            raise Refused(413, "RequestEntityTooLarge", "The request entity is too large.")
        return account

    async def _counted(self, answer: Awaitable[Response], user: str, number: int) -> Response:
        """Four requests at once for one app and mailbox; more are turned away."""
        governor, task = self._backstage.governor, asyncio.ensure_future(answer)
        if governor.requests[user] >= governor.limits.graph_requests:
            task.cancel()
            raise Refused(429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit.", 1)
        if seconds := governor.turned_away(user):
            task.cancel()
            raise Refused(429, "ApplicationThrottled", "Application is over its request limit.", math.ceil(seconds))
        governor.requests[user] += 1
        self._backstage.journal.write("submitting", connection=number, login=user)
        try:
            return await task
        finally:
            governor.requests[user] -= 1

    async def _send_mail(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        if not _is_json(request):
            return await self._send(request, account, _from_mime(body))
        asked = Fields.of(body)
        mail, saved = mail_of(asked.inner("message")), asked.flag("saveToSentItems", otherwise=True)
        return await self._send(request, account, mail, saved=saved)

    async def _make_draft(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        mail = mail_of(Fields.of(body)) if _is_json(request) else _from_mime(body)
        _stamp(mail, account.address)
        name = f"AAMk{uuid.uuid4().hex}"
        self._drafts[name] = _Draft(account.address.lower(), mail)
        told = {"id": name, "isDraft": True, "subject": mail["Subject"], "internetMessageId": mail["Message-ID"]}
        return JSONResponse(told, 201)

    async def _attach(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        described = Fields.of(body)
        content = described.octets("contentBytes")
        attach(self._draft(request, account).content, described, content)
        kind = {"@odata.type": "#microsoft.graph.fileAttachment", "contentType": described.text("contentType")}
        return JSONResponse({**kind, "id": uuid.uuid4().hex, "name": described.text("name"), "size": len(content)}, 201)

    async def _open_upload(self, request: Request, account: MailboxAccount, body: bytes) -> Response:
        self._draft(request, account)
        upload, name = opened(account.address, request.path_params["draft"], Fields.of(body)), uuid.uuid4().hex
        self._uploads[name] = upload
        return JSONResponse({"uploadUrl": f"{self._elsewhere(request)}/upload/{name}", **upload.opening}, 201)

    def _elsewhere(self, request: Request) -> str:
        """Uploads go to another host, as at Microsoft's: whoever follows a token's host by name sees the difference."""
        address = str(request.scope["server"][0])
        if address not in _LOOPBACK:
            return self._base_url
        host = f"[{address}]" if ":" in address else address
        return self._base_url.replace("//localhost:", f"//{host}:")

    def _uploading(
        self, handler: Callable[[Request, Upload], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The address is the right: it wants no token, and does not refuse one."""

        async def uploading(request: Request) -> Response:
            upload = self._uploads.get(request.path_params["upload"])
            if "authorization" in request.headers:
                self.tokens_shown += 1
            if upload is None:
                return Refused(404, "ErrorItemNotFound", "The upload session is not known.").response()
            try:
                return await _understood(partial(handler, request, upload))
            except Refused as no:
                return no.response()
            except ClientDisconnect:
                return Response(status_code=499)

        return uploading

    async def _put(self, request: Request, upload: Upload) -> Response:
        upload.take(request.headers.get("content-range", ""), await request.body())
        if not upload.complete:
            return JSONResponse(upload.progress)
        draft = self._drafts.get(upload.draft)
        if draft is None:
            raise Refused(404, "ErrorItemNotFound", "The specified object was not found in the store.")
        attach(draft.content, upload.described, bytes(upload.content))
        del self._uploads[request.path_params["upload"]]
        return Response(status_code=201, headers={"Location": f"{self._base_url}{upload.location}"})

    async def _end_upload(self, request: Request, _upload: Upload) -> Response:
        del self._uploads[request.path_params["upload"]]
        return Response(status_code=204)

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
            raise Refused(400, "ErrorInvalidUrlQueryFilter", "Only internetMessageId eq '…' is emulated.")
        message_id = found[1].replace("''", "'")
        unsaved = (account.address.lower(), message_id) in self._unsaved
        there = self._accepted.holds(account.address, message_id) and not unsaved
        return JSONResponse({"value": [{"id": "AAMk", "internetMessageId": message_id}] if there else []})

    def _draft(self, request: Request, account: MailboxAccount) -> _Draft:
        draft = self._drafts.get(request.path_params["draft"])
        if draft is None or draft.mailbox != account.address.lower():
            raise Refused(404, "ErrorItemNotFound", "The specified object was not found in the store.")
        return draft

    @property
    def drafts(self) -> int:
        """How many were made and neither sent nor deleted."""
        return len(self._drafts)

    async def _send(
        self, request: Request, account: MailboxAccount, mail: EmailMessage, *, saved: bool = True
    ) -> Response:
        recipients = [address for _, address in getaddresses(_all(mail, "To", "Cc", "Bcc")) if "@" in address]
        if not recipients:
            raise Refused(400, "ErrorInvalidRecipients", "At least one recipient isn't valid.")
        rule = self._backstage.play.answer(Moment.GRAPH, account.address, recipients)
        if rule is not None and not (rule.accepts or rule.reply in (LOST, YES)):
            await self._say(rule, request)
        self._accept(account, mail, recipients, saved=saved)
        if rule is not None:
            await self._say(rule, request)
        return Response(status_code=202)

    def _accept(self, account: MailboxAccount, mail: EmailMessage, recipients: list[str], *, saved: bool) -> None:
        _stamp(mail, account.address)
        senders = [address for _, address in getaddresses(_all(mail, "From", "Sender"))]
        if not {account.address.lower(), *map(str.lower, account.send_as)}.issuperset(map(str.lower, senders)):
            raise Refused(
                403,
                "ErrorSendAsDenied",
                "The user account which was used to submit this request does not have the right to send mail on "
                "behalf of the specified sending account.",
            )
        sender = next(iter(senders), account.address)
        del mail["Bcc"]
        content = mail.as_bytes(policy=_WHOLE_LINES)
        login, governor = account.address.lower(), self._backstage.governor
        if 0 < governor.limits.recipients_per_message < len(recipients):
            raise Refused(400, "ErrorTooManyRecipients", "The message has too many recipients.")
        if len(content) > governor.limits.octets:
            raise Refused(413, "ErrorMessageSizeExceeded", "The message exceeds the maximum supported size.")
        if refusal := governor.quota(login, len(recipients), len(content) if saved else 0):
            code = "ErrorQuotaExceeded" if "full" in refusal else "ErrorSubmissionQuotaExceeded"
            raise Refused(507 if "full" in refusal else 429, code, refusal)
        kept = self._accepted.keep(
            content,
            server=_HOST,
            login=account.address,
            mechanism="graph",
            tls="https",
            mail_from=sender,
            rcpt_to=recipients,
        )
        if not saved:
            self._unsaved.add((login, kept.message_id))
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
        await unspoken(rule.reply, request)
        status, code, message = rule.reply.split(" ", 2)
        raise Refused(int(status), code, message, rule.retry_after)


async def _understood(answer: Callable[[], Awaitable[Response]]) -> Response:
    """What a client has sent must not look like an outage, whatever it is."""
    try:
        return await answer()
    except (Refused, ClientDisconnect):
        raise
    except Exception:  # noqa: BLE001 - see above
        _LOG.exception("a request to Graph cannot be read")
        raise Refused(400, "BadRequest", "The request is malformed or invalid.") from None


async def _no_such_thing(request: Request, problem: Exception) -> Response:
    """An address that is not Graph's, or not emulated."""
    if isinstance(problem, HTTPException) and problem.status_code == 405:  # noqa: PLR2004 - of HTTP
        return Refused(
            405, "Request_BadRequest", "Specified HTTP method is not allowed for the request target."
        ).response()
    segment = request.url.path.rpartition("/")[2]
    return Refused(404, "ResourceNotFound", f"Resource not found for the segment '{segment}'.").response()


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("application/json")


def _from_mime(body: bytes) -> EmailMessage:
    try:
        content = base64.b64decode(body, validate=True)
    except binascii.Error:
        content = b""
    if not content:
        raise Refused(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content.")
    return BytesParser(policy=SMTP).parsebytes(content)


def _stamp(mail: EmailMessage, address: str) -> None:
    """What Exchange adds to a mail that has none of it."""
    if "From" not in mail:
        mail["From"] = address
    if "Date" not in mail:
        mail["Date"] = format_datetime(datetime.now(UTC))
    if "Message-ID" not in mail:
        mail["Message-ID"] = f"<{uuid.uuid4().hex}@{_HOST}>"


def _all(mail: EmailMessage, *names: str) -> list[str]:
    return [str(value) for name in names for value in mail.get_all(name, [])]
