"""Device logins: a person signs in once, workers share what is kept, and nobody else can read it."""

import asyncio
import multiprocessing
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import let_go
from tests.adapters.oauth.conftest import Client
from worker.domain.delivery import TokenRefused
from worker.domain.mailbox import DeviceLogin, OAuth
from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator, Plan, emulating
from worker.emulator.world import MailboxAccount, TokenTrouble
from worker.oauth.login import Invitation, LoginFailed, sign_in
from worker.oauth.tokens import MsalTokens
from worker.oauth.vault import Vault, VaultError, keys
from worker.ports import Token
from worker.sealing import new_key

OWNER = "jana@contoso.example"


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    """An Office 365 where Jana has a mailbox and may send as a shared one."""
    account = MailboxAccount(OWNER, send_as=frozenset({"info@contoso.example"}))
    async with emulating(Plan(tmp_path / "emulator", office365_mailboxes=(account,))) as running:
        yield running


@pytest.fixture
def jana(emulator: Emulator) -> OAuth:
    return OAuth(
        f"{emulator.token_url}/{TENANT_ID}",
        CLIENT_ID,
        DeviceLogin(),
        "https://outlook.office.com/SMTP.Send",
        OWNER,
        ca_file=str(emulator.certificates.ca_file),
    )


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.fixture
def vault(tmp_path: Path, key: str) -> Vault:
    return Vault(tmp_path / "sign-ins", keys(SecretStr(key)))


@pytest.fixture
def client(emulator: Emulator, vault: Vault) -> Iterator[Client]:
    """A worker's tokens, let go of before the emulator ends."""
    made = Client(vault=vault)
    yield made
    let_go(made.tokens)


async def signed_in(emulator: Emulator, credentials: OAuth, vault: Vault, user: str = OWNER) -> str:
    """Somebody types the code in as soon as it is shown."""

    def shown(invitation: Invitation) -> None:
        assert invitation.address == f"{emulator.token_url}/_emulator/devicelogin"
        assert emulator.authority.approve(invitation.code, user)

    return await asyncio.to_thread(sign_in, credentials, vault, 5, shown)


async def test_person_who_has_signed_in_opens_the_mailbox(
    client: Client, emulator: Emulator, jana: OAuth, vault: Vault
) -> None:
    assert await signed_in(emulator, jana, vault) == OWNER
    answer = await client.tokens.token("box", jana)
    assert isinstance(answer, Token)
    assert emulator.authority.check(OWNER, answer.value) == ""
    assert emulator.authority.check("somebody@contoso.example", answer.value) != ""


async def test_mailbox_where_nobody_has_signed_in_says_so(client: Client, jana: OAuth) -> None:
    answer = await client.tokens.token("box", jana)
    assert isinstance(answer, TokenRefused)
    assert answer.error == "login_required"


async def test_token_that_ends_is_refreshed_and_the_new_refresh_token_is_kept(
    client: Client, emulator: Emulator, jana: OAuth, vault: Vault
) -> None:
    """Each refresh token is good once: a third refresh works only if the second one was kept."""
    await signed_in(emulator, jana, vault)
    values = set()
    token = await client.tokens.token("box", jana)
    for _ in range(3):
        assert isinstance(token, Token)
        values.add(token.value)
        token = await client.tokens.token("box", jana, rejected=token)
    assert isinstance(token, Token)
    assert len(values | {token.value}) == 4


async def test_token_that_was_kept_is_replaced_when_the_server_refuses_it(
    client: Client, emulator: Emulator, jana: OAuth, vault: Vault
) -> None:
    """A worker that starts takes what the vault has; it may have been revoked, though the sign-in is good."""
    await signed_in(emulator, jana, vault)
    emulator.authority.expire_all()
    kept = await client.tokens.token("box", jana)
    assert isinstance(kept, Token)
    assert not kept.fresh, "so whoever is refused asks for another one"
    new = await client.tokens.token("box", jana, rejected=kept)
    assert isinstance(new, Token)
    assert new.fresh
    assert emulator.authority.check(OWNER, new.value) == ""


async def test_sign_in_that_was_revoked_asks_for_another(
    client: Client, emulator: Emulator, jana: OAuth, vault: Vault
) -> None:
    await signed_in(emulator, jana, vault)
    token = await client.tokens.token("box", jana)
    assert isinstance(token, Token)
    emulator.authority.forget_sign_ins()
    answer = await client.tokens.token("box", jana, rejected=token)
    assert isinstance(answer, TokenRefused)
    assert (answer.error, answer.hints) == ("invalid_grant", (70000,))


async def test_sign_in_that_is_forgotten_is_gone(client: Client, emulator: Emulator, jana: OAuth, vault: Vault) -> None:
    await signed_in(emulator, jana, vault)
    assert vault.forget(jana)
    assert not vault.forget(jana)
    assert isinstance(await client.tokens.token("box", jana), TokenRefused)


async def test_app_that_allows_no_public_clients_is_said_so(emulator: Emulator, jana: OAuth, vault: Vault) -> None:
    emulator.authority.replace_app(replace(emulator.plan.apps[0], public=False))
    with pytest.raises(LoginFailed, match=r"AADSTS7000218.*Allow public client flows"):
        await signed_in(emulator, jana, vault)


async def test_trouble_while_the_person_signs_in_does_not_end_it(emulator: Emulator, jana: OAuth, vault: Vault) -> None:
    emulator.authority.troubled(TokenTrouble(status=503, times=1), CLIENT_ID)
    assert await signed_in(emulator, jana, vault) == OWNER


async def test_authority_out_of_reach_is_said_so(jana: OAuth, vault: Vault) -> None:
    with pytest.raises(LoginFailed, match="cannot be used for signing in"):
        await asyncio.to_thread(
            sign_in, replace(jana, authority="https://localhost:1/t"), vault, 1, lambda _invitation: None
        )


# what is kept


async def test_nothing_that_is_kept_can_be_read_without_the_key(
    emulator: Emulator, jana: OAuth, vault: Vault, tmp_path: Path
) -> None:
    await signed_in(emulator, jana, vault)
    (file,) = (tmp_path / "sign-ins").glob("*.sealed")
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sign-ins").stat().st_mode & 0o777 == 0o700
    content = file.read_bytes()
    assert b"secret" not in content
    with vault.opened(jana) as sealed:
        assert "RefreshToken" in sealed.content
    stranger = Vault(tmp_path / "sign-ins", keys(SecretStr(new_key())))
    with pytest.raises(VaultError, match="another key"), stranger.opened(jana):
        pass


def test_file_of_one_owner_does_not_open_as_anothers(jana: OAuth, vault: Vault, tmp_path: Path) -> None:
    with vault.opened(jana) as sealed:
        sealed.content = "what is Jana's"
    other = replace(jana, username="petr@contoso.example")
    with vault.opened(other) as sealed:
        sealed.content = "what is Petr's"
    janas, petrs = sorted((tmp_path / "sign-ins").glob("*.sealed"))
    petrs.write_bytes(janas.read_bytes())
    with pytest.raises(VaultError, match="damaged or belongs to another"), vault.opened(other):
        pass


@pytest.mark.parametrize("at", [30, 60, -5], ids=["nonce", "content", "tag"])
def test_changed_file_is_not_believed(jana: OAuth, vault: Vault, tmp_path: Path, at: int) -> None:
    with vault.opened(jana) as sealed:
        sealed.content = "what was kept" * 10
    (file,) = (tmp_path / "sign-ins").glob("*.sealed")
    octets = bytearray(file.read_bytes())
    octets[at] = ord("A") if octets[at] != ord("A") else ord("B")
    file.write_bytes(octets)
    with pytest.raises(VaultError), vault.opened(jana):
        pass


def test_key_that_was_replaced_still_opens_and_the_new_one_encrypts(jana: OAuth, tmp_path: Path, key: str) -> None:
    new = new_key()
    with Vault(tmp_path, keys(SecretStr(key))).opened(jana) as sealed:
        sealed.content = "kept"
    with Vault(tmp_path, keys(SecretStr(f"{new}, {key}"))).opened(jana) as sealed:
        assert sealed.content == "kept"
        sealed.content = "kept again"
    with Vault(tmp_path, keys(SecretStr(new))).opened(jana) as sealed:
        assert sealed.content == "kept again"


@pytest.mark.parametrize("content", [b"", b"garbage"], ids=["empty", "garbage"])
def test_damage_is_told_from_another_key(jana: OAuth, vault: Vault, tmp_path: Path, content: bytes) -> None:
    vault.keep(jana, "what was kept")
    (file,) = (tmp_path / "sign-ins").glob("*.sealed")
    file.write_bytes(content)
    with pytest.raises(VaultError, match="damaged"), vault.opened(jana):
        pass


@pytest.mark.parametrize("lost", ["file", "key"])
async def test_person_signs_in_again_over_what_cannot_be_read(
    emulator: Emulator, jana: OAuth, vault: Vault, tmp_path: Path, lost: str
) -> None:
    await signed_in(emulator, jana, vault)
    if lost == "key":
        vault = Vault(tmp_path / "sign-ins", keys(SecretStr(new_key())))
    else:
        (file,) = (tmp_path / "sign-ins").glob("*.sealed")
        file.write_bytes(b"garbage")
    with pytest.raises(VaultError, match="postlane token login"), vault.opened(jana):
        pass
    await signed_in(emulator, jana, vault)
    with vault.opened(jana) as sealed:
        assert "RefreshToken" in sealed.content


async def test_nobody_signs_in_for_a_directory_that_takes_nothing(
    emulator: Emulator, jana: OAuth, tmp_path: Path, key: str
) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(VaultError, match="must be writable"):
        await signed_in(emulator, jana, Vault(tmp_path / "a-file", keys(SecretStr(key))))
    assert emulator.authority.user_codes == ()


@pytest.mark.parametrize("wrong", ["short", "c2hvcnQ=", "!" * 44])
def test_key_that_is_none_is_refused_without_being_shown(wrong: str) -> None:
    with pytest.raises(VaultError, match=re.escape("`postlane token key` makes one")) as refused:
        keys(SecretStr(wrong))
    assert wrong not in str(refused.value)


@pytest.mark.parametrize("given", ["", " \n"])
def test_key_that_is_empty_is_none(given: str) -> None:
    assert keys(SecretStr(given)) == []


@pytest.mark.parametrize("missing", ["directory", "key"])
def test_what_is_not_set_up_is_named(jana: OAuth, tmp_path: Path, key: str, missing: str) -> None:
    vault = Vault(None, keys(SecretStr(key))) if missing == "directory" else Vault(tmp_path)
    with pytest.raises(VaultError, match=f"POSTLANE_OAUTH__{missing.upper()}"), vault.opened(jana):
        pass


def test_two_who_write_at_once_wait_for_each_other(jana: OAuth, vault: Vault) -> None:
    def count() -> None:
        for _ in range(20):
            with vault.opened(jana) as sealed:
                sealed.content = str(int(sealed.content or 0) + 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with vault.opened(jana) as sealed:
        assert sealed.content == "80"


# several workers


def _worker(
    credentials: OAuth, directory: Path, key: str, rounds: int, answers: "multiprocessing.Queue[object]"
) -> None:
    """A worker process: token after token, each refused by the server."""

    async def work() -> None:
        tokens = MsalTokens(lambda _event: None, 10, Vault(directory, keys(SecretStr(key))))
        token = await tokens.token("box", credentials)
        for _ in range(rounds):
            if isinstance(token, Token):
                token = await tokens.token("box", credentials, rejected=token)
        answers.put(token.value if isinstance(token, Token) else repr(token))
        tokens.close()

    asyncio.run(work())


def run_workers(credentials: OAuth, directory: Path, key: str, rounds: int) -> list[str]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_worker, args=(credentials, directory, key, rounds, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [str(answers.get(timeout=60)) for _ in processes]
    for process in processes:
        process.join()
    return found


async def test_two_processes_share_one_token(
    emulator: Emulator, jana: OAuth, vault: Vault, tmp_path: Path, key: str
) -> None:
    await signed_in(emulator, jana, vault)
    before = emulator.authority.requests
    found = await asyncio.to_thread(run_workers, jana, tmp_path / "sign-ins", key, 0)
    assert emulator.authority.check(OWNER, found[0]) == ""
    assert found[0] == found[1]
    assert emulator.authority.requests == before, "the token from the sign-in is still good"


async def test_two_processes_that_refresh_never_lose_the_refresh_token(
    emulator: Emulator, jana: OAuth, vault: Vault, tmp_path: Path, key: str
) -> None:
    """The emulator takes each refresh token once: a lost update would end the sign-in."""
    await signed_in(emulator, jana, vault)
    found = await asyncio.to_thread(run_workers, jana, tmp_path / "sign-ins", key, 5)
    assert [emulator.authority.check(OWNER, value) for value in found] == ["", ""]
