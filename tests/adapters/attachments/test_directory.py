"""Attachments by reference: exactly the file that was announced, and nothing outside the shared directory."""

import asyncio
import base64
import hashlib
import os
from pathlib import Path

import pytest

from contracts.notification import Attachment
from worker.attachments.directory import AttachmentDirectory
from worker.ports import FileMissing

REPORT = b"%PDF-1.7 quarterly report"
LIMIT = 1000


def referring(reference: str, content: bytes = REPORT, **changes: object) -> Attachment:
    announced = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return Attachment.model_validate({"filename": "report.pdf", "reference": reference, **announced})


def inline(content: bytes, **announced: object) -> Attachment:
    packed = base64.b64encode(content).decode()
    return Attachment.model_validate({"filename": "inline.bin", "content": packed, **announced})


def unchecked(reference: str) -> Attachment:
    """As if the contract had let it pass: the directory must not rely on it."""
    return referring("placeholder").model_copy(update={"reference": reference})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The shared directory, with a neighbour that is nobody's business."""
    root = tmp_path / "shared"
    (root / "2026" / "june").mkdir(parents=True)
    (root / "report.pdf").write_bytes(REPORT)
    (root / "2026" / "june" / "report.pdf").write_bytes(REPORT)
    (tmp_path / "secret.pdf").write_bytes(REPORT)
    (tmp_path / "shared-secrets").mkdir()
    (tmp_path / "shared-secrets" / "report.pdf").write_bytes(REPORT)
    return root


@pytest.fixture
def files(root: Path) -> AttachmentDirectory:
    """What reads from it."""
    return AttachmentDirectory(root, LIMIT)


async def refusal(files: AttachmentDirectory, *attachments: Attachment) -> str:
    with pytest.raises(FileMissing) as caught:
        await files.fetch(attachments)
    return str(caught.value)


@pytest.mark.parametrize("reference", ["report.pdf", "2026/june/report.pdf", "./report.pdf", "2026//june/report.pdf"])
async def test_file_below_the_root_is_read(files: AttachmentDirectory, reference: str) -> None:
    assert list(await files.fetch([referring(reference)])) == [REPORT]


async def test_files_come_in_the_order_of_the_attachments(files: AttachmentDirectory, root: Path) -> None:
    (root / "other").write_bytes(b"other")
    wanted = [inline(b"one"), referring("other", b"other"), referring("report.pdf"), inline(b"")]
    assert list(await files.fetch(wanted)) == [b"one", b"other", REPORT, b""]


async def test_empty_file_is_a_file(files: AttachmentDirectory, root: Path) -> None:
    (root / "empty").touch()
    assert list(await files.fetch([referring("empty", b"")])) == [b""]


@pytest.mark.parametrize("announced", [{}, {"size": 3}, {"sha256": hashlib.sha256(b"abc").hexdigest()}])
async def test_inline_content_needs_no_directory(announced: dict[str, object]) -> None:
    assert list(await AttachmentDirectory(None, LIMIT).fetch([inline(b"abc", **announced)])) == [b"abc"]


async def test_reference_without_a_directory_says_what_to_set() -> None:
    assert "POSTLANE_ATTACHMENTS__DIRECTORY" in await refusal(AttachmentDirectory(None, LIMIT), referring("report.pdf"))


# outside


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.pdf",
        "2026/../../secret.pdf",
        "../shared-secrets/report.pdf",
        "/etc/hostname",
        "..",
        ".",
        "",
    ],
)
async def test_reference_out_of_the_root_is_refused(files: AttachmentDirectory, reference: str) -> None:
    assert "leads out of" in await refusal(files, unchecked(reference))


async def test_absolute_path_of_a_file_below_the_root_is_that_file(files: AttachmentDirectory, root: Path) -> None:
    assert list(await files.fetch([unchecked(str(root / "report.pdf"))])) == [REPORT]


@pytest.mark.parametrize("target", ["../secret.pdf", "/etc/hostname", "../shared-secrets/report.pdf"])
async def test_symlink_out_of_the_root_is_refused(files: AttachmentDirectory, root: Path, target: str) -> None:
    (root / "innocent.pdf").symlink_to(target)
    assert "leads out of" in await refusal(files, referring("innocent.pdf"))


async def test_symlinked_directory_out_of_the_root_is_refused(files: AttachmentDirectory, root: Path) -> None:
    (root / "july").symlink_to("../shared-secrets")
    assert "leads out of" in await refusal(files, referring("july/report.pdf"))


async def test_symlink_within_the_root_is_followed(files: AttachmentDirectory, root: Path) -> None:
    (root / "latest.pdf").symlink_to("2026/june/report.pdf")
    assert list(await files.fetch([referring("latest.pdf")])) == [REPORT]


async def test_root_may_be_a_symlink_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(root)
    assert list(await AttachmentDirectory(tmp_path / "mount", LIMIT).fetch([referring("report.pdf")])) == [REPORT]


# not what was announced


@pytest.mark.parametrize("size", [0, len(REPORT) - 1, len(REPORT) + 1])
async def test_file_of_another_size_is_refused(files: AttachmentDirectory, size: int) -> None:
    assert "announced size" in await refusal(files, referring("report.pdf", size=size))


async def test_file_that_grows_without_end_is_not_read_to_its_end(files: AttachmentDirectory, root: Path) -> None:
    with (root / "huge").open("wb") as huge:
        huge.truncate(1 << 40)
    assert "announced size" in await refusal(files, referring("huge"))


async def test_file_with_another_content_is_refused(files: AttachmentDirectory, root: Path) -> None:
    (root / "report.pdf").write_bytes(REPORT[:-1] + b"!")
    assert "announced sha256" in await refusal(files, referring("report.pdf"))


@pytest.mark.parametrize(
    ("announced", "said"), [({"size": 4}, "announced size"), ({"sha256": "0" * 64}, "announced sha256")]
)
async def test_inline_content_that_was_announced_otherwise_is_refused(
    files: AttachmentDirectory, announced: dict[str, object], said: str
) -> None:
    assert said in await refusal(files, inline(b"abc", **announced))


@pytest.mark.parametrize("reference", ["missing.pdf", "missing/report.pdf", "report.pdf/inside", "x" * 300])
async def test_file_that_is_not_there_is_missing(files: AttachmentDirectory, reference: str) -> None:
    assert "cannot be read" in await refusal(files, referring(reference))


async def test_directory_is_no_file(files: AttachmentDirectory) -> None:
    assert "is no file" in await refusal(files, referring("2026"))


async def test_dangling_symlink_is_missing(files: AttachmentDirectory, root: Path) -> None:
    (root / "dangling.pdf").symlink_to("nowhere.pdf")
    assert "cannot be read" in await refusal(files, referring("dangling.pdf"))


async def test_symlink_to_itself_is_missing(files: AttachmentDirectory, root: Path) -> None:
    (root / "loop.pdf").symlink_to("loop.pdf")
    assert "loop.pdf" in await refusal(files, referring("loop.pdf"))


async def test_root_that_is_not_mounted_is_told_without_its_path(root: Path) -> None:
    said = await refusal(AttachmentDirectory(root / "not-mounted", LIMIT), referring("report.pdf"))
    assert "cannot be read" in said
    assert str(root) not in said


async def test_pipe_is_no_file_and_holds_nobody_up(files: AttachmentDirectory, root: Path) -> None:
    """Opening a pipe waits for a writer, for ever."""
    os.mkfifo(root / "pipe")
    fetching = asyncio.create_task(refusal(files, referring("pipe")))
    done, _ = await asyncio.wait({fetching}, timeout=1)
    if not done:
        (root / "pipe").open("wb").close()  # lets the thread go
        await asyncio.wait({fetching})
    assert done, "it was waiting for a writer"
    assert "pipe" in await fetching


# too much


async def test_more_than_the_limit_is_refused_unread(files: AttachmentDirectory, root: Path) -> None:
    content = b"x" * 600
    (root / "a").write_bytes(content)
    (root / "b").write_bytes(content)
    assert list(await files.fetch([referring("a", content)])) == [content]
    assert f"larger than {LIMIT}" in await refusal(files, referring("a", content), referring("b", content))


async def test_inline_content_counts_towards_the_limit(files: AttachmentDirectory, root: Path) -> None:
    """The limit is for all attachments of one notification together, announced or not."""
    content = b"x" * 600
    (root / "a").write_bytes(content)
    assert f"larger than {LIMIT}" in await refusal(files, referring("a", content), inline(content))


async def test_refusal_does_not_tell_where_this_machine_keeps_its_files(files: AttachmentDirectory, root: Path) -> None:
    (root / "out.pdf").symlink_to("../secret.pdf")
    wanted = [referring("missing.pdf"), referring("out.pdf"), referring("report.pdf", size=1), unchecked("..")]
    said = [await refusal(files, each) for each in wanted]
    assert not any(str(root.parent) in each for each in said)
