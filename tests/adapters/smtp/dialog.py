r"""Conversations as text files: `dialogs/*.txt`.

A file begins with a `#` line that says what it is about, then has fields and, after an empty line, the script.

    to: jana@fabrikam.com omar@fabrikam.com     default: jana alone
    from: noreply@contoso.com                   default
    content: Subject: hi\r\n\r\n.dot\r\n        default: a small mail; escapes as in Python
    octets: 300000                              instead of content: a mail of about this size
    smtputf8: yes                               its headers need it
    tls: none | starttls | implicit             default: none
    login: plain jana secret                    or: login …, or: offered … (no mechanism configured)
    token: one two                              OAuth instead; one access token after the other, the last is a fresh one
    short: connect command submission           these time-outs are short; all others outlast the test
    packets: whole                              the file is about what comes in one packet: not played octet by octet
    result: accepted 250 2.0.0 Ok               one for each mail; `broken mail garbled|disconnected` allows both
    refused: omar@fabrikam.com 550 5.1.1 no     a recipient's own refusal, of the result above

The script, line by line:

    S: 220 ready        the server says this line; lines without anything between them are one packet
    s: 250 par\r\n      it says these octets, with escapes, and no CRLF is added
    C: MAIL FROM:<…>    the client must say exactly this; {size} is the length of the content
    C: {body}           the client must say the content, dots doubled
    C: {part 1000}      the first 1,000 octets of it; then the server reads no more until it hangs up
    C: .                the final dot. Before it the server waits for the hook `handing_over` and lets it return True
    * handing over      the hook has been called; what follows happens before it returns …
    * go                … True,
    * forbid            … False,
    * break             … not at all, but raises
    * tls               TLS handshake
    * returned          the submission of a mail is over
    * mail              the next mail is submitted
    * repeat 100        says what it said last a hundred times more
    * ask for ever      answers everything with 334
    * gone              the client leaves without another word
    * silence           the same, after it has waited long enough
    * hang up           the server closes its side in an orderly way
    * cut               the server resets the connection
    * over              nothing more is to be submitted, and the connection is still good: C: QUIT follows
    * connection        what follows is said on the next connection
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from contracts.address import AddrSpec, parse
from tests.adapters.smtp.server import PATIENCE, Deviation, Peer, turns
from tests.factories import mailbox
from worker.domain.delivery import Accepted, Broken, Refused, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Credentials, Mailbox, NoLogin, OAuth, Password, Secret, SmtpEndpoint, Tls
from worker.domain.message import OutgoingMessage
from worker.ports import Token
from worker.smtp.connect import Timeouts

SHORT = 0.3
SMALL = b"Subject: Your new password\r\n\r\nFollow the link.\r\n"
DIALOGS = Path(__file__).with_name("dialogs")


class Tripped(Exception):  # noqa: N818 - what happens to the hook
    """The ledger could not be asked."""


@dataclass(frozen=True)
class Step:
    number: int
    kind: str
    text: str


@dataclass
class Dialog:
    path: Path
    fields: dict[str, str] = field(default_factory=dict)
    results: list[list[str]] = field(default_factory=list)
    connections: list[list[Step]] = field(default_factory=lambda: [[]])

    @property
    def content(self) -> bytes:
        if "octets" in self.fields:
            line = b"0123456789abcdef" * 4 + b"\r\n"
            return b"Subject: long\r\n\r\n" + line * (int(self.fields["octets"]) // len(line))
        return _octets(self.fields["content"]) if "content" in self.fields else SMALL

    @property
    def message(self) -> OutgoingMessage:
        return OutgoingMessage("<1@contoso.com>", self.content, smtputf8="smtputf8" in self.fields)

    @property
    def envelope(self) -> Envelope:
        recipients = self.fields.get("to", "jana@fabrikam.com").split()
        return Envelope.of(parse(self.fields.get("from", "noreply@contoso.com")), map(parse, recipients))

    @property
    def timeouts(self) -> Timeouts:
        short = self.fields.get("short", "").split()
        return Timeouts(**{each: SHORT if each in short else PATIENCE for each in ("connect", "command", "submission")})

    @property
    def expected_calls(self) -> int:
        """How often `handing_over` is called: for every mail that got as far as its dot."""
        return sum(step.kind == "*" and step.text == "handing over" for script in self.connections for step in script)

    def mailbox(self, port: int, ca_file: str) -> Mailbox:
        return mailbox(
            endpoint=SmtpEndpoint(
                "localhost" if self.tls is not Tls.NONE else "127.0.0.1",
                port,
                self.tls,
                self._credentials(),
                helo="client.example",
                ca_file=ca_file,
            )
        )

    @property
    def tls(self) -> Tls:
        return Tls(self.fields.get("tls", "none"))

    def _credentials(self) -> Credentials:
        if "token" in self.fields:
            return OAuth("https://authority.example/t", "app", Secret(SecretStr("s")), "scope", "jana@contoso.com")
        if "login" not in self.fields:
            return NoLogin()
        mechanism, username, password = self.fields["login"].split()
        return Password(username, SecretStr(password), None if mechanism == "offered" else mechanism)


def read(path: Path) -> Dialog:
    """Read a file.

    Raises:
        ValueError: it is not written as it should be.
    """
    dialog = Dialog(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines[0].startswith("# "):
        raise ValueError(f"{path.name}: begins with a line that says what it is about")
    head = True
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        if not line:
            head = head and not dialog.results
            continue
        if head:
            _field(dialog, line)
        else:
            _step(dialog, number, line)
    if len(dialog.results) != 1 + sum(step.text == "mail" for script in dialog.connections for step in script):
        raise ValueError(f"{path.name}: has a result for every mail")
    return dialog


def described(submission: Submission) -> list[str]:
    """A submission in the words of the files: its result, and its refused recipients."""
    match submission:
        case Accepted(reply=reply):
            text = f"accepted {reply}"
        case Refused(stage=stage, reply=reply, mechanism=mechanism):
            text = f"refused {stage} {reply}" + (f" ({mechanism})" if mechanism else "")
        case Broken(stage=stage, fault=fault):
            text = f"broken {stage} {fault}"
        case _:
            text = type(submission).__name__.lower()
    refused: dict[AddrSpec, object] = dict(getattr(submission, "refused", {}))
    return [text, *(f"{recipient} {reply}" for recipient, reply in refused.items())]


class Tokens:
    """A token authority that has so many tokens; the first is said to come from the cache unless it is the only one."""

    def __init__(self, values: list[str]) -> None:
        self._values = deque(values)
        self.asked: list[Token | None] = []

    async def token(self, _mailbox: str, _credentials: OAuth, *, rejected: Token | None = None) -> Token:
        self.asked.append(rejected)
        value = self._values.popleft()
        return Token(value, fresh=not self._values)


class Stage:
    """Plays the server of a dialog, and holds the hook that the client calls."""

    def __init__(self, dialog: Dialog, tls: ssl.SSLContext) -> None:
        self._dialog = dialog
        self._tls = tls
        self._scripts = deque(dialog.connections)
        self._called: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()
        self._answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._may_submit = asyncio.Semaphore(1)
        self._overrun = False
        self._deviated = False
        self._over = asyncio.Event()
        self._returned = asyncio.Semaphore(0)
        self._said = b""
        self.calls = 0

    async def handing_over(self) -> bool:
        self.calls += 1
        if self._deviated or self.calls > self._dialog.expected_calls:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._called.put_nowait(answer)
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def next_mail(self) -> None:
        """Wait until the script says that a mail is to be submitted."""
        async with asyncio.timeout(PATIENCE):
            await self._may_submit.acquire()

    def returned(self) -> None:
        """Tell the script that a mail's submission is over."""
        self._returned.release()

    async def over(self) -> None:
        """Wait until the script says that all is over, or has come to its end."""
        async with asyncio.timeout(PATIENCE):
            await self._over.wait()

    async def serve(self, peer: Peer) -> None:
        """Play one connection."""
        if not self._scripts:
            raise Deviation(f"{self._dialog.path.name}: one connection more than the script has")
        for step in self._scripts.popleft():
            try:
                await self._play(peer, step)
            except (Deviation, TimeoutError) as deviation:
                self._give_up()
                where = f"{self._dialog.path.name}:{step.number}: {step.kind} {step.text}"
                raise Deviation(f"{where}: {deviation or 'the hook was not called'}") from deviation
        if not self._scripts:
            self._over.set()

    async def _ask_for_ever(self, peer: Peer) -> None:
        for _ in range(50):
            try:
                await peer.line()
            except Deviation:
                return
            await peer.reply("334 more")
        raise Deviation("was asked 50 times and still answers")

    def _give_up(self) -> None:
        self._deviated = True
        self._over.set()
        self._may_submit.release()
        while not self._called.empty():
            self._called.get_nowait().set_result(False)

    async def _play(self, peer: Peer, step: Step) -> None:
        match step.kind:
            case "S":
                if peer.pending and not self._overrun:
                    raise Deviation(f"spoke out of turn: {peer.pending!r}")
                self._said = step.text.encode("latin-1")
                await peer.say(self._said)
            case "C":
                await self._hear(peer, step.text)
            case _:
                await self._act(peer, step.text)

    async def _hear(self, peer: Peer, text: str) -> None:
        if found := re.fullmatch(r"\{body\}|\{part (\d+)\}", text):
            whole = re.sub(rb"(?m)^\.", b"..", self._dialog.content)
            expected = whole[: int(found[1])] if found[1] else whole
            heard = await peer.octets(len(expected))
            self._overrun = expected != whole
            if self._overrun:
                peer.transport.pause_reading()  # the client must not get further while the server makes up its mind
        else:
            expected = text.replace("{size}", str(len(self._dialog.content))).encode()
            heard = await peer.line()
        if heard != expected:
            raise Deviation(f"said {heard[:200]!r}")

    async def _act(self, peer: Peer, text: str) -> None:
        match text:
            case "handing over" | "go" | "forbid" | "break":
                await self._hand_over(peer, text)
            case "returned" | "mail" | "over":
                await self._take_turns(peer, text)
            case "tls":
                await peer.handshake(self._tls)
            case "gone" | "silence":
                await peer.leaves()
            case "cut":
                peer.cut()
            case "hang up":
                if re.search(rb"(^|\r\n)\.\r\n", rest := await peer.hang_up()):
                    raise Deviation(f"sent a dot to nobody: {rest[-50:]!r}")
            case "ask for ever":
                await self._ask_for_ever(peer)
            case _ if text.startswith("repeat "):
                await peer.say(self._said * int(text.removeprefix("repeat ")))
            case _:
                raise ValueError(f"{self._dialog.path.name}: {text}?")

    async def _hand_over(self, peer: Peer, text: str) -> None:
        if text == "handing over":
            async with asyncio.timeout(PATIENCE):
                self._answer = await self._called.get()
            if peer.pending:
                raise Deviation(f"said {peer.pending!r} before it was handed over")
            return
        await turns()  # what the server did meanwhile has reached the client by now
        if text == "break":
            self._answer.set_exception(Tripped())
        else:
            self._answer.set_result(text == "go")

    async def _take_turns(self, peer: Peer, text: str) -> None:
        if text == "returned":
            async with asyncio.timeout(PATIENCE):
                await self._returned.acquire()
            return
        await turns()
        if text == "mail":
            self._may_submit.release()
        elif peer.pending:
            raise Deviation(f"said {peer.pending!r}")
        else:
            self._over.set()


def agrees(result: list[str], expected: list[str]) -> bool:
    """Whether a submission, described, is one of those that the file allows."""
    head, _, faults = expected[0].rpartition(" ")
    allowed = [f"{head} {fault}" for fault in faults.split("|")] if head.startswith("broken") else [expected[0]]
    return result[0] in allowed and result[1:] == expected[1:]


def _field(dialog: Dialog, line: str) -> None:
    name, _, value = line.partition(":")
    if name == "result":
        dialog.results.append([value.strip()])
    elif name == "refused":
        dialog.results[-1].append(value.strip())
    elif name in {"to", "from", "content", "octets", "smtputf8", "tls", "login", "token", "packets", "short"}:
        dialog.fields[name] = value.strip()
    else:
        raise ValueError(f"{dialog.path.name}: what is {line!r}?")


def _step(dialog: Dialog, number: int, line: str) -> None:
    script = dialog.connections[-1]
    before = script[-1] if script else Step(0, "*", "connection")
    match line[:3]:
        case "S: " | "s: ":
            said = line[3:].encode() + b"\r\n" if line[0] == "S" else _octets(line[3:])
            if before.kind == "S":
                said = script.pop().text.encode("latin-1") + said
            script.append(Step(number, "S", said.decode("latin-1")))
        case "C: ":
            if line == "C: ." and before.text not in {"go", "forbid"}:
                script += [Step(number, "*", "handing over"), Step(number, "*", "go")]
            script.append(Step(number, "C", line[3:]))
        case _ if line == "* connection":
            dialog.connections.append([])
        case _ if line.startswith("* "):
            script.append(Step(number, "*", line[2:]))
        case _:
            raise ValueError(f"{dialog.path.name}:{number}: what is {line!r}?")


def _octets(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")
