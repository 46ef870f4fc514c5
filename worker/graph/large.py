"""A mail above what one request may carry: a draft, its files one by one, then `send`."""

from __future__ import annotations

import base64
import contextlib
import json
from http import HTTPStatus

from worker.domain.delivery import Broken, Fault, Stage
from worker.domain.division import Divided, File
from worker.graph.answer import Answer
from worker.graph.conversation import Conversation, Ended, Mark
from worker.graph.upload import Declined, upload

_BY_SESSION = 3 * 1024 * 1024  # octets from which a file needs an upload session


async def send_in_parts(talk: Conversation, mail: Divided, message_id: str, mark: Mark) -> Answer:
    """Make the draft and send it; a draft that is not sent is removed again, as far as that can be done.

    One whose fate is in doubt stays: while it lies in Drafts it was not sent. Only the next attempt removes it, and so
    what a worker left behind that died.

    Returns:
        The answer to `send`.

    Raises:
        Declined: a step before it was refused.
        Ended: there was no answer.
    """
    for left in await talk.search("drafts", message_id) or ():
        await _discard(talk, left)
    answer = _good(await talk.ask("POST", "/messages", base64.b64encode(mail.rest), "text/plain"))
    draft = answer.text("id")
    if not draft:
        raise Ended(Broken(Stage.DATA, Fault.GARBLED, "Graph made a draft without an id"))
    try:
        for file in mail.files:
            await _attach(talk, draft, file)
        sent = await talk.ask("POST", f"/messages/{draft}/send", mark=mark)
    except (Declined, Ended) as error:
        if not isinstance(error, Ended) or _unsent(error):
            await _discard(talk, draft)
        raise
    if sent.definite and sent.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        await _discard(talk, draft)
    return sent


async def _attach(talk: Conversation, draft: str, file: File) -> None:
    described = {"name": file.name, "contentType": file.content_type, "isInline": file.content_id is not None}
    if file.content_id is not None:
        described["contentId"] = file.content_id
    if len(file.content) < _BY_SESSION:
        whole = {
            "@odata.type": "#microsoft.graph.fileAttachment",
            "contentBytes": base64.b64encode(file.content).decode(),
            **described,
        }
        _good(await talk.ask("POST", f"/messages/{draft}/attachments", json.dumps(whole).encode()))
        return
    item = {"AttachmentItem": {"attachmentType": "file", "size": len(file.content), **described}}
    opened = await talk.ask("POST", f"/messages/{draft}/attachments/createUploadSession", json.dumps(item).encode())
    url = _good(opened).text("uploadUrl")
    if not url.startswith("https://"):
        raise Ended(Broken(Stage.DATA, Fault.GARBLED, "Graph gave no https:// address to upload a file to"))
    await upload(talk, url, file.content)


def _good(answer: Answer) -> Answer:
    if not answer.good:
        raise Declined(answer)
    return answer


def _unsent(ended: Ended) -> bool:
    return not (isinstance(ended.outcome, Broken) and ended.outcome.stage is Stage.DOT)


async def _discard(talk: Conversation, draft: str) -> None:
    with contextlib.suppress(Ended):
        await talk.ask("DELETE", f"/messages/{draft}")
