"""What an administrator found in a log and wants to understand: an SMTP reply, an OAuth error, an answer of Graph."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from worker.domain import verdict as verdicts
from worker.domain.delivery import Stage, TokenRefused
from worker.domain.reply import EnhancedStatusCode, Reply
from worker.domain.verdict import Action, Row, Scope, Verdict

_AADSTS = re.compile(r"AADSTS[ :#]?(\d{4,8})\b", re.IGNORECASE)
_NUMBER = re.compile(r"#?(\d{5,8})")
_OAUTH = re.compile(
    r"\b(invalid_client|invalid_grant|unauthorized_client|invalid_scope|invalid_resource|invalid_request|invalid_target"
    r"|unsupported_grant_type|unsupported_response_type|access_denied|interaction_required|login_required"
    r"|consent_required|temporarily_unavailable|server_error|authorization_pending|slow_down|expired_token"
    r"|bad_verification_code|authorization_declined|unknown_authority)\b"
)
_GRAPH_CODE = re.compile(
    r"\b(Error(?!(?:InProcessing|Code|Message|Info|Details|Text|Description|Number|Record|Action|Id)\b)[A-Z][A-Za-z0-9]+|Mailbox(?:Not|Info|Concurrency)[A-Za-z]*|Application(?:Throttled)|InvalidAuthenticationToken"
    r"|AuthenticationUnauthorized|NoPermissionsInAccessToken|Authorization_[A-Za-z]+|Request_[A-Za-z]+|Directory_[A-Za-z]+|ResourceNotFound|TooManyRequests|AccessDenied"
    r"|[sS]erviceNotAvailable|ServiceUnavailable|CommandConcurrencyLimitReached|UnknownError|RequestBodyRead|UnableToDeserializePostBody|BadRequest|malwareDetected"
    r"|quotaLimitReached|activityLimitReached|generalException|unauthenticated|InternalServerError|itemNotFound"
    r"|InvalidInternetMessageHeader|RequestEntityTooLarge|OrganizationFromTenantGuidNotFound)\b"
)
# What Graph's error.message says, for logs that leave out error.code.
_GRAPH_WORDS = {
    "access to odata is disabled": "ErrorAccessDenied",  # how an application access policy says no
    "access is denied. check credentials": "ErrorAccessDenied",
    "does not have the right to send mail on behalf of": "ErrorSendAsDenied",
    "at least one recipient isn't valid": "ErrorInvalidRecipients",
    "at least one recipient is not valid": "ErrorInvalidRecipients",
    "the mailbox is either inactive, soft-deleted": "MailboxNotEnabledForRESTAPI",
    "rest api is not yet supported for this mailbox": "MailboxNotEnabledForRESTAPI",
}
_MSAL = re.compile(r"\bmsal|Msal(?:Service|Client)Exception", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"network_error|service_not_available|timed? ?out|connection (?:refused|reset|aborted|error)|max retries exceeded"
    r"|name or service not known|could not resolve|getaddrinfo|failed to establish",
    re.IGNORECASE,
)
_EXCHANGE_CLASS = re.compile(r"STOREDRV|RESOLVER\.|Mapi[A-Z]")
_HTTP = re.compile(
    r"(?:HTTP(?:/[\d.]+)?(?: (?:status|error|response))?|status)(?: code)?:? ?([1-5]\d\d)\b"
    r"|.{0,80}?remote server returned an error: \(([1-5]\d\d)\)"
    r"|.{0,40}?ServiceException: Code: ([1-5]\d\d)\b",
    re.IGNORECASE,
)
_STATUS = re.compile(r"([1-5]\d\d)\b")
_STATUS_WORDS = {
    500: "internal server error",
    502: "bad gateway",
    503: "service unavailable",
    504: "gateway time",
}
_NO_SMTP_CODE = frozenset({400, 401, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 415, 422, 423, 425, 429, 509})
_LATER = frozenset({429, 500, 502, 503, 504})

_LINE_END = re.compile(r"\r\n|\r|\n|\\r\\n|\\n")
_REPLY = re.compile(r"[2-5]\d\d(?=[ -]|$)")
_INSIDE = re.compile(
    r"(?<![\d.])[245]\d\d[ -]#?[245]\.\d{1,3}\.\d{1,3}\b"
    r"|(?:(?<=[:;'\"(>] )|(?<=[;'\"(>])|(?<=with )|(?<=said )|(?<=returned )|(?<=got ))[245]\d\d[ -][A-Za-z<]"
)
# Clients put something between the code and the words: 535: 5.7.3 …, (535, b'5.7.3 …'), (535); Msg: b'5.7.3 …', [550] …
_CODE_APART = re.compile(r"\b([45]\d\d)(?:: |\)?[,;] ?(?:Msg: )?b?['\"]| \(|\] )")
_LOOSE_CODE = re.compile(r"(?<![\d.])([245])(\.\d{1,3}\.\d{1,3})(?![\d.])")
_BASE_CODE = {"2": 250, "4": 451, "5": 550}
_SPOKEN_CODES = (_BASE_CODE["5"], _BASE_CODE["4"])
_FEWEST_WORDS = 4
_SMTP_STAGES = frozenset({Stage.CONNECT, Stage.AUTH, Stage.MAIL, Stage.RCPT, Stage.DATA})


_FIRST_REFUSAL = 400
_GOOD_NEWS = Verdict(
    "accepted",
    Scope.MESSAGE,
    Action.NONE,
    "This is no refusal. After the final dot (or as HTTP 202) it means that the server has taken responsibility for "
    "the mail: accepted, which is not yet delivered.",
    "If the recipient has no mail, look into the sender's mailbox for a report and into the message trace.",
    source="RFC:5321",
)


@dataclass(frozen=True, slots=True)
class GraphAnswer:
    """What Microsoft Graph answered.

    Attributes:
        status: of HTTP; 0 if it is not known.
        codes: `error.code` and those of the errors inside it.
    """

    status: int
    codes: tuple[str, ...]
    message: str


Question = Reply | TokenRefused | GraphAnswer


def understand(text: str, stage: Stage | None = None) -> Question:
    """Find out what the text is.

    Args:
        text: as it was copied: with or without code, on one line or several, as the JSON of an answer.
        stage: where it was seen; decides what a bare `503` is.

    Raises:
        ValueError: it is nothing that a mail server, Entra or Graph says.
    """
    text = text.strip().strip("'\"` ")
    if not text:
        raise ValueError("there is nothing to explain")
    found = _json(text) or _token(text, stage) or _graph(text, stage) or _reply(text) or _words(text)
    if found is None:
        raise ValueError(
            "this is no reply of a mail server (it would begin like 550 5.1.1), no Entra error (AADSTS...) and no "
            "answer of Microsoft Graph"
        )
    return found


def answer(rows: Sequence[Row], question: Question, stage: Stage | None = None, mechanism: str = "") -> Verdict:
    """What it means, by the catalogue."""
    match question:
        case Reply() if question.code < _FIRST_REFUSAL and not challenge(question):
            return _GOOD_NEWS
        case GraphAnswer(status=status) if 0 < status < _FIRST_REFUSAL:
            return _GOOD_NEWS
        case Reply():
            return verdicts.of_reply(rows, stage, question, mechanism)
        case TokenRefused():
            return verdicts.of_token(rows, question)
        case GraphAnswer(status, codes, message):
            return verdicts.of_graph(rows, status, codes, message)


def challenge(reply: Reply) -> str:
    """The JSON inside a 334 with which a server says why it refuses a token; empty if there is none."""
    try:
        return base64.b64decode(reply.text, validate=True).decode("utf-8") if reply.code == 334 else ""  # noqa: PLR2004
    except (binascii.Error, ValueError):
        return ""


def _json(text: str) -> Question | None:
    """The body of an answer of the token authority (RFC 6749 section 5.2) or of Graph."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        body, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError):
        return None
    match body:
        case {"error": str(error)} if " " not in error.strip():  # else it is the line of a log
            description = str(body.get("error_description") or "")
            listed = body.get("error_codes")
            numbers = [int(code) for code in listed if isinstance(code, int)] if isinstance(listed, list) else []
            return TokenRefused(error, description, tuple(dict.fromkeys((*numbers, *_numbers(description)))))
        case {"error": {"code": str()} as error}:
            status = _STATUS.match(text) or _HTTP.search(text[:start])
            number = int(next(filter(None, status.groups()))) if status else 0
            return GraphAnswer(number, tuple(_codes(error)), str(error.get("message") or ""))
        case _:
            return None


def _codes(error: Mapping[str, object]) -> Iterator[str]:
    """The code of an error, then those of the errors within, each as special as the one before or more."""
    within = error.get("innerError") or error.get("innererror")
    if isinstance(within, Mapping):
        yield from _codes(within)
    if isinstance(error.get("code"), str):
        yield str(error["code"])


def _token(text: str, stage: Stage | None) -> TokenRefused | None:
    if stage is not Stage.TOKEN and _said_by_smtp(text):
        return None
    numbers = _numbers(text)
    if not numbers and (bare := _NUMBER.fullmatch(text)):
        numbers = (int(bare[1]),)
    error = _OAUTH.search(text)
    if numbers or error:
        return TokenRefused(error[1] if error else "", text, numbers)
    silent = _NO_NETWORK.search(text) is not None
    if stage is not Stage.TOKEN:
        return TokenRefused("temporarily_unavailable", text) if silent and _MSAL.search(text) else None
    if "unable to get authority configuration" in text.lower():
        return TokenRefused("unknown_authority", text)
    later = silent or _http_status(text, Stage.GRAPH) in _LATER
    return TokenRefused("temporarily_unavailable" if later else _first_word(text), text)


def _said_by_smtp(text: str) -> bool:
    """Whether it begins with a code that HTTP does not have."""
    return bool(_REPLY.match(text)) and int(text[:3]) not in _NO_SMTP_CODE


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(number) for number in _AADSTS.findall(text)))


def _graph(text: str, stage: Stage | None) -> GraphAnswer | None:
    codes = () if _EXCHANGE_CLASS.search(text) else tuple(dict.fromkeys(_GRAPH_CODE.findall(text)))
    if not codes and not EnhancedStatusCode.quoted(text):
        codes = tuple(code for words, code in _GRAPH_WORDS.items() if words in text.lower())[:1]
    status = _http_status(text, stage)
    named = any(code.startswith("Error") for code in codes) and not EnhancedStatusCode.quoted(text)
    named = named and stage not in _SMTP_STAGES
    if status is not None or named or (codes and not _said_by_smtp(text)):
        return GraphAnswer(status or 0, codes, text)
    return GraphAnswer(0, (_first_word(text),), text) if stage is Stage.GRAPH else None


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0]


def _http_status(text: str, stage: Stage | None) -> int | None:
    if stage in _SMTP_STAGES:
        return None
    if (http := _HTTP.match(text)) and not EnhancedStatusCode.quoted(text):
        return int(http[1] or http[2] or http[3])
    bare = _STATUS.match(text)
    if bare is None or EnhancedStatusCode.quoted(text):
        return None
    status = int(bare[1])
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    spoken = _STATUS_WORDS.get(status, "\0") in words
    return status if stage is Stage.GRAPH or status in _NO_SMTP_CODE or spoken else None


def _reply(text: str) -> Reply | None:
    lines = [line.strip() for line in _LINE_END.split(text) if line.strip()]
    first = lines[0].lstrip("#<> ")
    if _REPLY.match(first):
        return Reply.parse("\n".join([first, *lines[1:]]))
    joined = _CODE_APART.sub(r"\1 ", " ".join(lines))
    if inside := _INSIDE.search(joined):
        return Reply.parse(joined[inside.start() :].strip("'\"> "))
    if loose := _LOOSE_CODE.search(joined):  # reports and exceptions often leave out the reply code
        return Reply.parse(f"{_BASE_CODE[loose[1]]} {joined[loose.start() :]}")
    return None


def _words(text: str) -> Reply | None:
    """Reports for people leave all codes out; what a row knows by its words it knows without them."""
    words = " ".join(text.split())
    if words.count(" ") + 1 < _FEWEST_WORDS:
        return None
    rows = [row for row in verdicts.catalogue("hve", "exchange-online", "providers") if row.words or row.pattern]
    for reply in (Reply(code, None, words) for code in _SPOKEN_CODES):
        said = verdicts.essence(reply)
        if any(row.matches_reply(None, said, "") for row in rows):
            return reply
    return None
