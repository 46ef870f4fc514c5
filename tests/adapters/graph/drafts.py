"""Graph as far as drafts go, over real sockets, as the documentation has it and not as the emulator does."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from contracts.address import parse
from tests.adapters.graph.test_faults import OneToken, serving
from tests.adapters.graph.test_large import described
from tests.factories import JANA, NOON, notification
from worker.domain.delivery import Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import DeviceLogin, GraphEndpoint, Mailbox, OAuth
from worker.domain.message import compose
from worker.emulator.authority import Certificates
from worker.graph.conversation import Timeouts
from worker.graph.transport import GraphTransport
from worker.ports import Tokens

MIB = 1024 * 1024
_KINDS = (
    ("POST", re.compile(r".*/messages"), "draft"),
    ("POST", re.compile(r".*/attachments"), "attach"),
    ("POST", re.compile(r".*/createUploadSession"), "session"),
    ("POST", re.compile(r".*/send"), "send"),
    ("POST", re.compile(r".*/sendMail"), "sendMail"),
    ("DELETE", re.compile(r".*/messages/.*"), "discard"),
    ("GET", re.compile(r".*/mailFolders/drafts/messages"), "find"),
    ("PUT", re.compile(r"/upload/.*"), "put"),
    ("GET", re.compile(r"/upload/.*"), "look"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    content: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, **headers: str) -> Said:
        """With Graph's error; `Retry_After` is a header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, {"error": {"code": code, "message": "It is not done."}}, named)


@dataclass
class Draft:
    """A mail that is being written."""

    mime: bytes
    files: list[bytes] = field(default_factory=list)

    @property
    def message_id(self) -> str:
        """Of its header."""
        return str(message_from_bytes(self.mime)["Message-ID"])


@dataclass
class Upload:
    """A file on its way into a draft."""

    draft: Draft
    size: int
    got: bytearray = field(default_factory=bytearray)


@dataclass
class Drafts:
    """Keeps drafts of one mailbox.

    Attributes:
        instead: said in place of its own answer to the next request of a kind, one after the other.
        keeps: most octets that it keeps of a piece.
        form: of what it says is expected next, and `name` of the field that says it.
        asked: kinds of all requests.
        sent: files of the drafts that were sent.
        marks: how often the ledger was asked.
    """

    ca_file: str
    port: int = 0
    keeps: int = 4 * MIB
    form: str = "{}"
    name: str = "nextExpectedRanges"
    instead: dict[str, list[Said]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    drafts: dict[str, Draft] = field(default_factory=dict)
    sent: list[list[bytes]] = field(default_factory=list)
    marks: int = 0
    _uploads: dict[str, Upload] = field(default_factory=dict)

    async def handing_over(self) -> bool:
        """The ledger's mark."""
        self.marks += 1
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The requests of one connection."""
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            method, target, _ = head.split(" ", 2)
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            url = urlsplit(target)
            kind = next(kind for verb, path, kind in _KINDS if verb == method and path.fullmatch(url.path))
            self.asked.append(kind)
            instead = self.instead.get(kind)
            said = instead.pop(0) if instead else self._answer(kind, url, headers.get("content-range", ""), body)
            content = json.dumps(said.content).encode() if said.content is not None else b""
            fields = {"Content-Length": str(len(content)), **said.headers}
            lines = [f"HTTP/1.1 {said.status} So", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + content)
            await writer.drain()

    def _answer(self, kind: str, url: SplitResult, span: str, body: bytes) -> Said:
        place = url.path.split("/")
        match kind:
            case "draft":
                name = uuid.uuid4().hex
                self.drafts[name] = Draft(base64.b64decode(body))
                return Said(201, {"id": name})
            case "attach":
                self.drafts[place[-2]].files.append(base64.b64decode(json.loads(body)["contentBytes"]))
                return Said(201, {})
            case "session":
                name = uuid.uuid4().hex
                self._uploads[name] = Upload(self.drafts[place[-3]], json.loads(body)["AttachmentItem"]["size"])
                return Said(201, {"uploadUrl": f"https://localhost:{self.port}/upload/{name}"})
            case "put":
                return self._piece(self._uploads[place[-1]], span, body)
            case "look":
                return Said(200, {self.name: [self.form.format(len(self._uploads[place[-1]].got))]})
            case "find":
                wanted = parse_qs(url.query)["$filter"][0].removeprefix("internetMessageId eq ").strip("'")
                there = [name for name, draft in self.drafts.items() if draft.message_id == wanted]
                return Said(200, {"value": [{"id": name} for name in there]})
            case "send":
                self.sent.append(self.drafts.pop(place[-2]).files)
                return Said(202)
            case _:
                gone = self.drafts.pop(place[-1], None)
                return Said(204) if gone else Said.error(404, "ErrorItemNotFound")

    def _piece(self, upload: Upload, span: str, body: bytes) -> Said:
        if int(span.removeprefix("bytes ").split("-")[0]) != len(upload.got):
            return Said.error(416, "ErrorInvalidRange")
        upload.got += body[: self.keeps]
        if len(upload.got) < upload.size:
            return Said(200, {self.name: [self.form.format(len(upload.got))]})
        upload.draft.files.append(bytes(upload.got))
        return Said(201)


@asynccontextmanager
async def graph_with_drafts(certificates: Certificates, **fields: Any) -> AsyncIterator[Drafts]:
    """A server of drafts on a free port."""
    graph = Drafts(str(certificates.ca_file), **fields)
    async with serving(graph.serve, certificates.server_context()) as graph.port:
        yield graph


async def sent(graph: Drafts, *files: bytes, tokens: Tokens | None = None) -> Submission:
    """What came of a mail with these files."""
    credentials = OAuth("https://login.example/t", "app", DeviceLogin(), "s", "a@contoso.com")
    url = f"https://localhost:{graph.port}/v1.0"
    mailbox = Mailbox(
        "portal",
        parse("a@contoso.com"),
        "Portal",
        GraphEndpoint(url, "a@contoso.com", credentials, ca_file=graph.ca_file),
    )
    attachments = [described(f"{number}.pdf", content) for number, content in enumerate(files)]
    message = compose(notification(attachments=attachments), mailbox, files, NOON)
    transport = GraphTransport(tokens or OneToken(), Timeouts(connect=5, answer=5, whole=20))
    try:
        return await transport.submit(mailbox, Envelope.of(mailbox.address, [JANA]), message, graph.handing_over)
    finally:
        await transport.close()
