"""Sign-ins that outlive a process: one encrypted file each, shared by the workers of a host under a lock.

The file's first line names format and key, so that keys can be replaced while old files
stay readable; it and the owner are authenticated too, so that a file cannot be passed off as another mailbox's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from worker import sealing
from worker.domain.mailbox import OAuth
from worker.sealing import NONCE_OCTETS, CannotOpen, Keyring, KeyUnusable
from worker.unusable import Unusable

_FORMAT = "postlane-sign-in-1"
_LOCK_PATIENCE = 60.0  # seconds: another worker may be talking to a slow authority
_LOCK_PAUSE = 0.02  # seconds


class VaultError(Unusable):
    """A sign-in cannot be kept or read. The text says why and what to do, and nothing of what is kept."""


@dataclass(slots=True)
class Sealed:
    """The content of an opened file; empty if there is none yet. What it is set to is written on closing."""

    content: str


class Vault:
    """A directory of sign-ins."""

    def __init__(self, directory: Path | None, keys: Sequence[bytes] = ()) -> None:
        """Nothing is read yet.

        Args:
            directory: None: none was set up.
            keys: the first encrypts; the others open files from before it was replaced.
        """
        self._directory = directory
        self._keyring = Keyring(keys)

    @contextmanager
    def opened(self, credentials: OAuth) -> Iterator[Sealed]:
        """Open the owner's file for oneself alone; other processes wait.

        Raises:
            VaultError: it cannot be had, or not be read.
        """
        with self._alone(credentials) as path:
            with _explained(path):
                before = self._read(path, credentials)
            sealed = Sealed(before)
            yield sealed  # what is raised there, by a network for example, is none of ours
            if sealed.content != before:
                with _explained(path):
                    self._write(path, credentials, sealed.content)

    def prepare(self, credentials: OAuth) -> None:
        """Make sure that a sign-in can be kept. What is there is not read: it may be what has to be replaced.

        Raises:
            VaultError: it could not.
        """
        with self._alone(credentials) as path, _explained(path):
            self._aside(path, b"").unlink()

    def keep(self, credentials: OAuth, content: str) -> None:
        """Keep a new sign-in in place of whatever is there, damaged or of a lost key.

        Raises:
            VaultError: it cannot be kept.
        """
        with self._alone(credentials) as path, _explained(path):
            self._write(path, credentials, content)

    def forget(self, credentials: OAuth) -> bool:
        """Remove the owner's file. Returns whether there was one."""
        path = self._path(credentials)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, credentials: OAuth) -> Path:
        if self._directory is None or self._keyring.newest is None:
            missing = "POSTLANE_OAUTH__DIRECTORY" if self._directory is None else "POSTLANE_OAUTH__KEY"
            raise VaultError(f"{missing} is not set: sign-ins with device_login are kept there, encrypted.")
        digest = hashlib.sha256(_owner(credentials)).hexdigest()[:16]
        return self._directory / f"{re.sub(r'[^A-Za-z0-9@.-]', '_', credentials.username)}.{digest}.sealed"

    def _read(self, path: Path, credentials: OAuth) -> str:
        try:
            head, _, body = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return ""
        name, _, key_id = head.decode("ascii", "replace").partition(" ")
        if name != _FORMAT:
            raise VaultError(f"{path} has been damaged; sign in again: postlane token login.")
        if not self._keyring.knows(key_id):
            raise VaultError(
                f"{path} was encrypted with another key; add that one to POSTLANE_OAUTH__KEY, or sign in again: "
                "postlane token login."
            )
        try:
            packed = base64.b64decode(body.rstrip(), validate=True)
            sealed = sealing.Sealed(key_id, packed[:NONCE_OCTETS], packed[NONCE_OCTETS:])
            return self._keyring.open(sealed, head + _owner(credentials))
        except (binascii.Error, CannotOpen):
            raise VaultError(
                f"{path} has been damaged or belongs to another mailbox; sign in again: postlane token login."
            ) from None

    @contextmanager
    def _alone(self, credentials: OAuth) -> Iterator[Path]:
        """The owner's file, while nobody else may touch it."""
        path = self._path(credentials)
        with ExitStack() as stack:
            with _explained(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(_locked(path.with_suffix(".lock")))
            yield path

    def _write(self, path: Path, credentials: OAuth, content: str) -> None:
        """Beside the old one, then in its place: whoever is killed on the way leaves the old one."""
        head = f"{_FORMAT} {self._keyring.newest}".encode()
        sealed = self._keyring.seal(content, head + _owner(credentials))
        self._aside(path, head + b"\n" + base64.b64encode(sealed.nonce + sealed.ciphertext) + b"\n").replace(path)

    def _aside(self, path: Path, content: bytes) -> Path:
        aside = path.with_suffix(f".{secrets.token_hex(8)}")
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return aside


def keys(given: SecretStr | None) -> list[bytes]:
    """Read keys as they are configured.

    Raises:
        VaultError: one is none.
    """
    try:
        return sealing.keys(given, "POSTLANE_OAUTH__KEY", "postlane token key")
    except KeyUnusable as error:
        raise VaultError(str(error)) from None


def _owner(credentials: OAuth) -> bytes:
    return f"{credentials.authority}\n{credentials.client_id}\n{credentials.username.lower()}".encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of files and directories that cannot be used what to do about it."""
    try:
        yield
    except OSError as error:
        raise VaultError(
            f"{error.filename or path}: {error.strerror}. POSTLANE_OAUTH__DIRECTORY must be writable."
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes. The file stays: removing it would let two hold one each."""
    until = time.monotonic() + _LOCK_PATIENCE
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        while not _taken(file.fileno()):
            if time.monotonic() > until:
                raise VaultError(f"{path} has been locked by another process for {_LOCK_PATIENCE:g} s.")
            time.sleep(_LOCK_PAUSE)
        yield  # closing gives it back


if sys.platform == "win32":
    import msvcrt

    def _taken(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _taken(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
