"""The emulated Graph as other people's clients see it: permissions, JSON mails, drafts, uploads."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.adapters.emulator.cloud import BOX, SMTP, Cloud, cloud_of
from tests.adapters.graph.conftest import Sender, graph_mailbox
from tests.adapters.graph.test_large import LARGE, described
from worker.domain.delivery import Accepted, Refused
from worker.emulator.run import Plan, emulating
from worker.emulator.scenario import Limits
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens

MIB = 1024 * 1024
SHARED = "info@contoso.example"
PERSONS_GRAPH = "https://graph.microsoft.com/Mail.Send"
SEND_MAIL = f"/users/{BOX}/sendMail"
JANA = {"emailAddress": {"address": "jana@fabrikam.example", "name": "Jana Nováková"}}


@asynccontextmanager
async def in_the_cloud(directory: Path, *, roles: tuple[str, ...] = (), **limits: Any) -> AsyncIterator[Cloud]:
    """An emulator whose app has these permissions."""
    plan = Plan(directory / "emulator", limits=Limits(**limits))
    box = replace(plan.office365_mailboxes[0], send_as=frozenset({SHARED}))
    plan = replace(plan, office365_mailboxes=(box,))
    if roles:
        plan = replace(plan, apps=(replace(plan.apps[0], roles=roles),))
    async with emulating(plan) as emulator, cloud_of(emulator) as cloud:
        yield cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """A mailbox that may send as another."""
    async with in_the_cloud(tmp_path) as made:
        yield made


@pytest.fixture
async def token(cloud: Cloud) -> str:
    """The app's, for Graph."""
    return str((await cloud.app()).json()["access_token"])


def message(**fields: Any) -> dict[str, Any]:
    return {"subject": "Hello", "toRecipients": [JANA], "body": {"contentType": "Text", "content": "Hello"}, **fields}


def error(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def arrived(cloud: Cloud) -> EmailMessage:
    """The only mail."""
    (path,) = cloud.emulator.accepted.directory.glob("*.eml")
    return cast("EmailMessage", BytesParser(policy=default).parsebytes(path.read_bytes()))


def nothing_arrived(cloud: Cloud) -> bool:
    return cloud.emulator.accepted.log.read_text() == ""


# ---------------------------------------------------------------- permissions


@pytest.mark.parametrize(
    ("roles", "sends", "drafts", "reads"),
    [
        (("Mail.Send",), 202, 403, 403),
        (("Mail.Send", "Mail.ReadBasic"), 202, 403, 200),
        (("Mail.ReadWrite",), 403, 201, 200),
        (("SMTP.SendAsApp",), 403, 403, 403),
    ],
)
async def test_each_request_wants_its_own_permission(
    tmp_path: Path, roles: tuple[str, ...], sends: int, drafts: int, reads: int
) -> None:
    async with in_the_cloud(tmp_path, roles=roles) as cloud:
        token = (await cloud.app()).json()["access_token"]
        sent = await cloud.post(SEND_MAIL, {"message": message()}, token)
        drafted = await cloud.post(f"/users/{BOX}/messages", message(), token)
        address = f"{cloud.emulator.graph_url}/v1.0/users/{BOX}/mailFolders/sentitems/messages"
        look = {"$filter": "internetMessageId eq '<1@contoso.example>'"}
        read = await cloud.http.get(address, params=look, headers={"Authorization": f"Bearer {token}"})
    assert (sent.status_code, drafted.status_code, read.status_code) == (sends, drafts, reads)


async def test_permission_for_graph_does_not_open_smtp(tmp_path: Path) -> None:
    async with in_the_cloud(tmp_path, roles=("Mail.Send",)) as cloud:
        token = (await cloud.app(SMTP)).json()["access_token"]
        assert "permission" in cloud.emulator.authority.check(BOX, token)


async def test_person_sends_from_the_own_mailbox_by_either_name_and_from_no_other(cloud: Cloud) -> None:
    token = (await cloud.person(PERSONS_GRAPH))["access_token"]
    assert (await cloud.post("/me/sendMail", {"message": message()}, token)).status_code == 202
    assert (await cloud.post(SEND_MAIL, {"message": message()}, token)).status_code == 202
    other = "/users/graph-error@contoso.example/sendMail"
    assert error(await cloud.post(other, {"message": message()}, token)) == (403, "ErrorAccessDenied")
    assert error(await cloud.post("/me/messages", message(), token)) == (403, "ErrorAccessDenied")


async def test_person_who_may_use_smtp_only_may_not_use_graph(cloud: Cloud) -> None:
    token = (await cloud.person("https://graph.microsoft.com/SMTP.Send"))["access_token"]
    assert error(await cloud.post("/me/sendMail", {"message": message()}, token)) == (403, "ErrorAccessDenied")


async def test_app_is_nobody_and_has_no_mailbox_of_its_own(cloud: Cloud, token: str) -> None:
    assert error(await cloud.post("/me/sendMail", {"message": message()}, token)) == (400, "BadRequest")
    assert error(await cloud.post("/me/sendMail", {"message": message()}, "none")) == (
        401,
        "InvalidAuthenticationToken",
    )


# ---------------------------------------------------------------- mails as JSON


async def test_everything_that_json_says_about_a_mail_arrives(cloud: Cloud, token: str) -> None:
    said = message(
        **{"from": {"emailAddress": {"address": SHARED, "name": "Contoso, Info"}}},
        sender={"emailAddress": {"address": BOX, "name": "Notifications"}},
        ccRecipients=[{"emailAddress": {"address": "petr@fabrikam.example"}}],
        replyTo=[{"emailAddress": {"address": "help@contoso.example", "name": "Help"}}],
        importance="high",
        isReadReceiptRequested=True,
        internetMessageHeaders=[{"name": "X-Order", "value": "17"}],
        attachments=[
            {
                "@odata.type": "#microsoft.graph.fileAttachment",
                "name": "účet.pdf",
                "contentType": "application/pdf",
                "contentBytes": base64.b64encode(b"%PDF").decode(),
            }
        ],
    )
    assert (await cloud.post(SEND_MAIL, {"message": said}, token)).status_code == 202
    mail = arrived(cloud)
    assert (mail["From"], mail["Sender"]) == (f'"Contoso, Info" <{SHARED}>', f"Notifications <{BOX}>")
    assert (mail["To"], mail["Cc"]) == ("Jana Nováková <jana@fabrikam.example>", "petr@fabrikam.example")
    assert (mail["Reply-To"], mail["Importance"], mail["X-Order"]) == ("Help <help@contoso.example>", "high", "17")
    assert mail["Disposition-Notification-To"] == f'"Contoso, Info" <{SHARED}>'
    assert [part.get_filename() for part in mail.iter_attachments()] == ["účet.pdf"]


async def test_mail_without_sender_and_date_is_the_mailboxs_and_of_now(cloud: Cloud, token: str) -> None:
    assert (await cloud.post(SEND_MAIL, {"message": message()}, token)).status_code == 202
    mail = arrived(cloud)
    assert mail["From"] == BOX
    assert datetime.now(UTC) - parsedate_to_datetime(mail["Date"]) < timedelta(minutes=1)
    assert mail["Message-ID"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (
            {"internetMessageHeaders": [{"name": "Reply-To", "value": "a@b.example"}]},
            400,
            "InvalidInternetMessageHeader",
        ),
        (
            {"internetMessageHeaders": [{"name": f"x-{n}", "value": "v"} for n in range(6)]},
            400,
            "InvalidInternetMessageHeaderCollection",
        ),
        ({"attachments": [{"name": "a", "contentBytes": "no base64!"}]}, 400, "RequestBodyRead"),
        ({"attachments": [{"@odata.type": "#microsoft.graph.itemAttachment", "name": "a"}]}, 400, "RequestBodyRead"),
        ({"sender": {"emailAddress": {"address": "boss@contoso.example"}}}, 403, "ErrorSendAsDenied"),
        ({"from": {"emailAddress": {"address": "boss@contoso.example"}}}, 403, "ErrorSendAsDenied"),
        ({"importance": "urgent"}, 400, "RequestBodyRead"),
        ({"body": {"contentType": "markdown", "content": ""}}, 400, "RequestBodyRead"),
        ({"body": "Hello"}, 400, "RequestBodyRead"),
        ({"reply_to": []}, 400, "RequestBodyRead"),
        ({"toRecipients": [{}]}, 400, "ErrorInvalidRecipients"),
        ({"toRecipients": ["jana@fabrikam.example"]}, 400, "RequestBodyRead"),
        ({"toRecipients": JANA}, 400, "RequestBodyRead"),
        ({"toRecipients": []}, 400, "ErrorInvalidRecipients"),
        ({"toRecipients": [{"emailAddress": {"address": "jana"}}]}, 400, "ErrorInvalidRecipients"),
        (
            {"toRecipients": [{"emailAddress": {"address": "jana@fabrikam.example\r\nBcc: x@y.example"}}]},
            400,
            "ErrorInvalidRecipients",
        ),
        ({"subject": "Hello\r\nBcc: hidden@fabrikam.example"}, 400, "BadRequest"),
        ({"subject": 17}, 400, "RequestBodyRead"),
    ],
)
async def test_mail_that_json_describes_wrongly_is_refused(
    cloud: Cloud, token: str, fields: dict[str, Any], status: int, code: str
) -> None:
    assert error(await cloud.post(SEND_MAIL, {"message": message(**fields)}, token)) == (status, code)
    assert nothing_arrived(cloud)


@pytest.mark.parametrize("body", [b"", b"[]", b"17", b"{", b"\xff", b'{"message": []}', b'{"message": "Hello"}'])
async def test_body_that_describes_no_mail_is_a_bad_request(cloud: Cloud, token: str, body: bytes) -> None:
    answer = await cloud.post_octets(SEND_MAIL, body, token)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


async def test_null_is_the_same_as_nothing(cloud: Cloud, token: str) -> None:
    said = message(body=None, ccRecipients=None, replyTo=None, importance=None)
    assert (await cloud.post(SEND_MAIL, {"message": said, "saveToSentItems": None}, token)).status_code == 202


async def test_parameters_of_an_action_may_be_written_in_any_case(cloud: Cloud, token: str) -> None:
    """As Microsoft's own libraries write them."""
    said = {"Message": message(), "SaveToSentItems": True}
    assert (await cloud.post(SEND_MAIL, said, token)).status_code == 202


@pytest.mark.parametrize("saved", [True, False])
async def test_sent_items_keep_a_mail_unless_the_sender_does_not_want_it(tmp_path: Path, *, saved: bool) -> None:
    async with in_the_cloud(tmp_path, mailbox_octets=700) as cloud:
        token = (await cloud.app()).json()["access_token"]
        said = {"message": message(), "saveToSentItems": saved}
        answers = [await cloud.post(SEND_MAIL, said, token) for _ in range(4)]
        address = f"{cloud.emulator.graph_url}/v1.0/users/{BOX}/mailFolders/sentitems/messages"
        (path, *_) = cloud.emulator.accepted.directory.glob("*.eml")
        message_id = BytesParser(policy=default).parsebytes(path.read_bytes())["Message-ID"]
        look = {"$filter": f"internetMessageId eq '{message_id}'"}
        found = await cloud.http.get(address, params=look, headers={"Authorization": f"Bearer {token}"})
    assert len(found.json()["value"]) == saved
    assert {answer.status_code for answer in answers} == ({202, 507} if saved else {202})


async def test_mail_to_more_people_than_allowed_is_refused(tmp_path: Path) -> None:
    async with in_the_cloud(tmp_path, recipients_per_message=3) as cloud:
        token = (await cloud.app()).json()["access_token"]
        people = [{"emailAddress": {"address": f"r{number}@fabrikam.example"}} for number in range(5)]
        many = await cloud.post(SEND_MAIL, {"message": message(toRecipients=people)}, token)
        few = await cloud.post(SEND_MAIL, {"message": message(toRecipients=people[:3])}, token)
    assert error(many) == (400, "ErrorTooManyRecipients")
    assert few.status_code == 202


async def test_address_that_is_not_emulated_is_refused_in_graphs_form(cloud: Cloud, token: str) -> None:
    for path in ("/$batch", f"/users/{BOX}/calendar", "/groups"):
        assert error(await cloud.post(path, {}, token)) == (404, "ResourceNotFound")
    answer = await cloud.http.get(f"{cloud.emulator.graph_url}/v1.0{SEND_MAIL}")
    assert answer.status_code == 405
    assert answer.json()["error"]["message"]


# ---------------------------------------------------------------- drafts and uploads


async def draft(cloud: Cloud, token: str) -> str:
    """Where it is, made from JSON."""
    answer = await cloud.post(f"/users/{BOX}/messages", message(), token)
    assert (answer.status_code, answer.json()["isDraft"], answer.json()["subject"]) == (201, True, "Hello")
    return f"/users/{BOX}/messages/{answer.json()['id']}"


async def session(cloud: Cloud, token: str, size: int) -> tuple[str, dict[str, Any]]:
    """A draft, and its upload session."""
    where = await draft(cloud, token)
    item = {"AttachmentItem": {"attachmentType": "file", "name": "big.bin", "size": size}}
    answer = await cloud.post(f"{where}/attachments/createUploadSession", item, token)
    assert answer.status_code == 201
    return where, answer.json()


async def put(cloud: Cloud, opened: dict[str, Any], span: str, body: bytes, **headers: str) -> httpx2.Response:
    return await cloud.http.put(opened["uploadUrl"], content=body, headers={"Content-Range": span, **headers})


async def test_draft_from_json_gets_its_files_and_is_sent(cloud: Cloud, token: str) -> None:
    where = await draft(cloud, token)
    file = {"@odata.type": "#microsoft.graph.fileAttachment", "name": "a.txt", "contentBytes": "YQ=="}
    assert (await cloud.post(f"{where}/attachments", file, token)).status_code == 201
    assert error(await cloud.post(f"{where}/attachments", {"name": "b", "contentBytes": "?"}, token))[0] == 400
    assert (await cloud.post(f"{where}/send", {}, token)).status_code == 202
    assert [part.get_filename() for part in arrived(cloud).iter_attachments()] == ["a.txt"]


async def test_upload_goes_to_another_host_says_when_it_ends_and_where_the_file_is(cloud: Cloud, token: str) -> None:
    content = bytes(3 * MIB + 1)
    where, opened = await session(cloud, token, len(content))
    assert urlsplit(opened["uploadUrl"]).hostname == "127.0.0.1"
    assert urlsplit(cloud.emulator.graph_url).hostname == "localhost"
    assert datetime.fromisoformat(opened["expirationDateTime"]) > datetime.now(UTC)
    assert opened["nextExpectedRanges"] == ["0-"]
    first = await put(cloud, opened, f"bytes 0-{MIB - 1}/{len(content)}", content[:MIB])
    assert (first.status_code, first.json()["NextExpectedRanges"]) == (200, [f"{MIB}"])
    assert first.json()["nextExpectedRanges"] == [f"{MIB}-{3 * MIB}"], "as Microsoft's library for Python reads it"
    last = await put(cloud, opened, f"bytes {MIB}-{3 * MIB}/{len(content)}", content[MIB:])
    assert last.status_code == 201
    assert f"{where}/attachments/" in last.headers["Location"]
    assert (await cloud.post(f"{where}/send", {}, token)).status_code == 202
    (part,) = arrived(cloud).iter_attachments()
    assert part.get_payload(decode=True) == content


@pytest.mark.parametrize(
    ("span", "octets"),
    [
        ("bytes 0-99999/{size}", 1000),
        ("bytes 0-9/{size}", 1000),
        ("bytes 0-999/1000", 1000),
        ("bytes 10-1009/{size}", 1000),
        ("bytes 0-{size}/{size}", 3 * MIB + 1),
        ("bytes 0-999", 1000),
        ("", 1000),
    ],
)
async def test_piece_that_is_not_as_it_says_is_refused_and_not_kept(
    cloud: Cloud, token: str, span: str, octets: int
) -> None:
    size = 3 * MIB
    _, opened = await session(cloud, token, size)
    assert error(await put(cloud, opened, span.format(size=size), bytes(octets))) == (416, "ErrorInvalidRange")
    assert (await put(cloud, opened, f"bytes 0-{size - 1}/{size}", bytes(size))).status_code == 201


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (3 * MIB - 1, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize"),
        (150 * MIB + 1, "ErrorAttachmentSizeLimitExceeded"),
        ("x", "RequestBodyRead"),
        (None, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize"),
    ],
)
async def test_file_of_another_size_is_not_uploaded(cloud: Cloud, token: str, size: object, code: str) -> None:
    where = await draft(cloud, token)
    item = {"AttachmentItem": {"attachmentType": "file", "name": "big.bin", "size": size}}
    assert error(await cloud.post(f"{where}/attachments/createUploadSession", item, token)) == (400, code)


async def test_upload_that_is_given_up_is_gone(cloud: Cloud, token: str) -> None:
    _, opened = await session(cloud, token, 3 * MIB)
    assert (await cloud.http.delete(opened["uploadUrl"])).status_code == 204
    assert error(await cloud.http.delete(opened["uploadUrl"])) == (404, "ErrorItemNotFound")


async def test_token_that_an_upload_is_shown_is_not_refused_and_counted(cloud: Cloud, token: str) -> None:
    _, opened = await session(cloud, token, 3 * MIB)
    span = f"bytes 0-{3 * MIB - 1}/{3 * MIB}"
    assert (await put(cloud, opened, span, bytes(3 * MIB), Authorization=f"Bearer {token}")).status_code == 201
    assert cloud.emulator.graph.tokens_shown == 1


# ---------------------------------------------------------------- our own client


async def test_our_client_shows_its_token_to_no_upload(cloud: Cloud) -> None:
    async with our_client(cloud) as sender:
        outcome = await sender.send(sender.mail(LARGE, attachments=[described("a.pdf", LARGE)]))
    assert isinstance(outcome, Accepted), outcome
    assert cloud.emulator.graph.tokens_shown == 0


async def test_our_client_is_told_that_there_are_too_many_recipients(tmp_path: Path) -> None:
    async with in_the_cloud(tmp_path, recipients_per_message=1) as cloud, our_client(cloud) as sender:
        outcome = await sender.send(sender.mail(to=["a@fabrikam.com", "b@fabrikam.com"]))
    assert isinstance(outcome, Refused)
    assert outcome.reply.text.startswith("ErrorTooManyRecipients")


@asynccontextmanager
async def our_client(cloud: Cloud) -> AsyncIterator[Sender]:
    tokens = MsalTokens(lambda _event: None)
    transport = GraphTransport(tokens)
    yield Sender(transport, tokens, graph_mailbox(cloud.emulator))
    await transport.close()
    tokens.close()
