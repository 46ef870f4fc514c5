"""Documents of mailboxes: secrets come out of them and never go back to a reader."""

from __future__ import annotations

from typing import Any

import pytest

from worker.domain.document import led_astray, masked, merged, new_references, parted, wanted, whole

LOGIN = {"host": "smtp.example", "login": {"username": "u", "password": "s3cret"}}
OAUTH = {"preset": "office365", "oauth": {"tenant_id": "t", "client_id": "c", "client_secret": "s3cret"}}
KEPT = {"host": "smtp.example", "login": {"username": "u", "password": None}}


@pytest.mark.parametrize(("document", "place"), [(LOGIN, "login.password"), (OAUTH, "oauth.client_secret")])
def test_secret_is_taken_out_and_its_place_stays(document: dict[str, Any], place: str) -> None:
    found = parted(document)
    assert found.given == {place: "s3cret"}
    assert wanted(found.document) == {place}
    assert "s3cret" not in repr(found)
    assert whole(found.document, found.given) == document


@pytest.mark.parametrize("blank", [{}, {"password": ""}, {"password": None}, {"password": {"set": True}}])
def test_blank_secret_stays_what_it_was(blank: dict[str, Any]) -> None:
    found = parted({"host": "smtp.example", "login": {"username": "u", **blank}}, KEPT)
    assert not found.given
    assert found.document == KEPT


def test_blank_secret_beside_another_source_makes_room_for_it() -> None:
    found = parted({"login": {"username": "u", "password": "", "password_env": "SMTP"}}, KEPT)
    assert found.document == {"login": {"username": "u", "password_env": "SMTP"}}
    assert not wanted(found.document)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("file:/run/secrets/smtp", "password_file"),
        ("env:SMTP", "password_env"),
        ("keyvault:https://v.vault.azure.net/secrets/smtp", "password_keyvault"),
    ],
)
def test_reference_becomes_the_key_of_the_mailboxes_file(value: str, key: str) -> None:
    found = parted({"login": {"username": "u", "password": value}})
    assert found.document == {"login": {"username": "u", key: value.partition(":")[2]}}
    assert not found.given


@pytest.mark.parametrize("value", [7, ["s3cret"], {"value": "s3cret"}])
def test_secret_that_is_none_is_refused_without_being_repeated(value: object) -> None:
    with pytest.raises(ValueError, match=r"login\.password") as refused:
        parted({"login": {"username": "u", "password": value}})
    assert "s3cret" not in str(refused.value)


def test_client_secret_that_another_proof_replaces_is_not_wanted_any_more() -> None:
    before = parted(OAUTH).document
    after = parted({"preset": "office365", "oauth": {"tenant_id": "t", "managed_identity": "system"}}, before)
    assert not wanted(after.document)


@pytest.mark.parametrize(
    ("document", "there", "shown"),
    [
        (KEPT, {"login.password"}, {"set": True}),
        (KEPT, set(), {"set": False}),
        (LOGIN, set(), {"set": True}),
    ],
)
def test_reader_is_told_whether_a_secret_is_set_and_no_more(
    document: dict[str, Any], there: set[str], shown: dict[str, bool]
) -> None:
    assert masked(document, there)["login"] == {"username": "u", "password": shown}


@pytest.mark.parametrize(
    ("change", "astray"),
    [
        ({"host": "evil.example"}, ("login.password",)),
        ({"port": 2525}, ("login.password",)),
        ({"address": "other@example.com"}, ()),
        ({"host": "evil.example", "login": {"password": "new"}}, ()),
    ],
)
def test_kept_secret_never_follows_a_mailbox_to_another_server(change: dict[str, Any], astray: tuple[str, ...]) -> None:
    assert led_astray(KEPT, parted(merged(KEPT, change), KEPT)) == astray


def test_new_source_on_the_workers_is_noticed_and_an_old_one_is_not() -> None:
    before = {"login": {"username": "u", "password_file": "/run/secrets/smtp"}}
    assert new_references(before, before) == ()
    assert new_references(before, {"login": {"username": "u", "password_env": "HOME"}}) == ("login.password_env",)


@pytest.mark.parametrize(
    ("patch", "after"),
    [
        ({"b": None}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"x": None, "z": 3}}, {"a": {"y": 2, "z": 3}, "b": [1]}),
        ({"b": [2, 3]}, {"a": {"x": 1, "y": 2}, "b": [2, 3]}),
        ({"a": 5}, {"a": 5, "b": [1]}),
    ],
)
def test_merge_patch_follows_rfc_7396(patch: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged({"a": {"x": 1, "y": 2}, "b": [1]}, patch) == after
