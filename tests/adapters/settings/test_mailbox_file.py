"""The mailboxes file: what good ones mean, and that each bad one is refused with its place and the way out."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path, PurePath
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.address import parse
from worker.domain.mailbox import (
    Certificate,
    DeviceLogin,
    Federated,
    GraphEndpoint,
    Limits,
    ManagedIdentity,
    NoLogin,
    OAuth,
    Organisation,
    Password,
    PickupDirectory,
    PickupFlavour,
    Rank,
    Redirect,
    Restraint,
    Secret,
    SmtpEndpoint,
    Stop,
    Tenant,
    Tls,
)
from worker.mailbox_file import MailboxFileError, load, presets

BAD = sorted((Path(__file__).parent / "bad").glob("*.toml"))
SECRET = "S3CRET"
ENVIRONMENT = {"SET": f"{SECRET}-variable", "EMPTY": ""}

MAILBOX = """
[mailboxes.portal]
address = "portal@contoso.com"
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """A mailboxes file with this text; `/TMP` stands for a directory with files to refer to."""
    (tmp_path / "secret").write_text(f"{SECRET}-file\r\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "newline").write_text("\n")
    (tmp_path / "octets").write_bytes(b"\xff\xfe" + SECRET.encode())
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    (tmp_path / "directory").mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "mailboxes.toml"
        path.write_text(text.replace("/TMP", str(tmp_path)), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("bad", BAD, ids=[path.stem for path in BAD])
def test_bad_file_is_refused_with_its_place_and_what_to_do(
    bad: Path, written: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first line of each file says what the text must contain."""
    first, _, rest = bad.read_text(encoding="utf-8").partition("\n")
    path = written(rest if bad.stem != "not-toml" else f"{first}\n{rest}")
    with pytest.raises(MailboxFileError) as refused:
        load(path, ENVIRONMENT)
    text = str(refused.value)
    assert first.removeprefix("# ").replace("/TMP", str(tmp_path)) in text
    assert all(line.startswith(str(path)) for line in text.splitlines())
    assert SECRET not in f"{text}{refused.value!r}"
    assert "53783370" not in text
    assert "Value error" not in text


@pytest.mark.parametrize("bad", BAD, ids=[path.stem for path in BAD])
def test_not_even_the_traceback_of_a_bad_file_holds_a_secret(bad: Path, written: Callable[[str], Path]) -> None:
    """An error is printed with its causes where nobody expected one."""
    try:
        load(written(bad.read_text(encoding="utf-8")), ENVIRONMENT)
    except MailboxFileError as refused:
        told = "".join(traceback.format_exception(refused))
        assert SECRET not in told
        assert "53783370" not in told


def test_there_are_many_bad_files() -> None:
    assert len(BAD) >= 25


def test_every_mistake_is_named_not_only_the_first(written: Callable[[str], Path]) -> None:
    path = written(f'{MAILBOX}host = "h"\nport = 0\ntls = "maybe"\n[mailboxes.other]\nhost = "h"\n')
    with pytest.raises(MailboxFileError) as refused:
        load(path, {})
    assert [line.removeprefix(f"{path}: ").partition(":")[0] for line in str(refused.value).splitlines()] == [
        "mailboxes.portal.port",
        "mailboxes.portal.tls",
        "mailboxes.other.address",
    ]


def test_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MailboxFileError, match=r"nowhere\.toml cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.toml", {})


def test_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MailboxFileError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_said_so(written: Callable[[str], Path]) -> None:
    path = written(MAILBOX)
    path.chmod(0)
    with pytest.raises(MailboxFileError, match="cannot be read: Permission denied"):
        load(path, {})


def test_file_that_is_not_text_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "mailboxes.toml"
    path.write_bytes(b"\xff\xfe\x00d")
    with pytest.raises(MailboxFileError, match=f"{path} is not TOML"):
        load(path, {})


def test_file_saved_by_a_windows_editor_is_read(tmp_path: Path) -> None:
    """With a byte order mark and CR LF."""
    path = tmp_path / "mailboxes.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f'{MAILBOX}host = "h"\n'.strip().replace("\n", "\r\n").encode())
    assert set(load(path, {}).mailboxes) == {"portal"}


# ---------------------------------------------------------------- good ones


def test_empty_file_is_an_installation_that_knows_nobody(written: Callable[[str], Path]) -> None:
    directory = load(written(""), {})
    assert (dict(directory.mailboxes), directory.default) == ({}, None)
    assert (directory.tenants, directory.producers) == (None, None)


def test_office365_needs_three_lines_and_a_secret(written: Callable[[str], Path]) -> None:
    oauth = 'tenant_id = "contoso.onmicrosoft.com"\nclient_id = "1111"\nclient_secret_file = "/TMP/secret"\n'
    path = written(f'default = "portal"\n{MAILBOX}preset = "office365"\n[mailboxes.portal.oauth]\n{oauth}')
    directory = load(path, {})
    mailbox = directory.mailboxes["portal"]
    assert directory.default == "portal"
    assert isinstance(mailbox.endpoint, SmtpEndpoint)
    endpoint = mailbox.endpoint
    assert (endpoint.host, endpoint.port, endpoint.tls) == ("smtp.office365.com", 587, Tls.STARTTLS)
    assert endpoint.limits.connections == 1
    credentials = endpoint.credentials
    assert isinstance(credentials, OAuth)
    assert credentials.authority == "https://login.microsoftonline.com/contoso.onmicrosoft.com"
    assert credentials.scope == "https://outlook.office365.com/.default"
    assert (credentials.username, credentials.oidc) == ("portal@contoso.com", False)
    assert isinstance(credentials.proof, Secret)
    assert credentials.proof.value.get_secret_value() == f"{SECRET}-file"


def test_preset_gives_way_to_what_is_written(written: Callable[[str], Path]) -> None:
    path = written(f'{MAILBOX}preset = "office365"\nhost = "smtp-hve.office365.com"\nconnections = 3\n')
    endpoint: Any = load(path, {}).mailboxes["portal"].endpoint
    assert (endpoint.host, endpoint.port, endpoint.limits.connections) == ("smtp-hve.office365.com", 587, 3)


@pytest.mark.parametrize(
    ("lines", "tls", "port"),
    [
        ("", Tls.STARTTLS, 587),
        ('tls = "starttls"', Tls.STARTTLS, 587),
        ('tls = "implicit"', Tls.IMPLICIT, 465),
        ('tls = "none"', Tls.NONE, 25),
        ("port = 25", Tls.STARTTLS, 25),
        ('tls = "implicit"\nport = 2465', Tls.IMPLICIT, 2465),
    ],
    ids=["nothing", "starttls", "implicit", "none", "port-25", "odd-port"],
)
def test_port_and_tls_follow_from_each_other(written: Callable[[str], Path], lines: str, tls: Tls, port: int) -> None:
    endpoint: Any = load(written(f'{MAILBOX}host = "h"\n{lines}\n'), {}).mailboxes["portal"].endpoint
    assert (endpoint.tls, endpoint.port) == (tls, port)
    assert endpoint.credentials == NoLogin()


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        (f'password = "{SECRET}-value"', f"{SECRET}-value"),
        ('password_file = "/TMP/secret"', f"{SECRET}-file"),
        ('password_env = "SET"', f"{SECRET}-variable"),
    ],
    ids=["value", "file", "variable"],
)
def test_secret_may_stand_in_three_places(written: Callable[[str], Path], line: str, secret: str) -> None:
    path = written(f'{MAILBOX}host = "h"\n[mailboxes.portal.login]\nusername = "u"\nmechanism = "plain"\n{line}\n')
    directory = load(path, ENVIRONMENT)
    endpoint: Any = directory.mailboxes["portal"].endpoint
    assert endpoint.credentials == Password("u", endpoint.credentials.password, "plain")
    assert endpoint.credentials.password.get_secret_value() == secret
    assert SECRET not in repr(directory)


def test_spaces_in_a_secret_are_kept_and_only_the_line_end_is_taken_off(
    written: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "spaced").write_text("  a b \n\n")
    path = written(f'{MAILBOX}host = "h"\n[mailboxes.portal.login]\nusername = "u"\npassword_file = "/TMP/spaced"\n')
    endpoint: Any = load(path, {}).mailboxes["portal"].endpoint
    assert endpoint.credentials.password.get_secret_value() == "  a b "


def test_other_authorities_than_microsofts_are_taken_as_given(written: Callable[[str], Path]) -> None:
    who = 'client_id = "c"\nscope = "mail"\nusername = "box"\nclient_secret_env = "SET"\n'
    oauth = f'oidc_issuer = "https://id.contoso.com"\nca_file = "/TMP/ca.pem"\n{who}'
    path = written(f'{MAILBOX}host = "h"\n[mailboxes.portal.oauth]\n{oauth}')
    endpoint: Any = load(path, ENVIRONMENT).mailboxes["portal"].endpoint
    credentials = endpoint.credentials
    assert (credentials.authority, credentials.oidc) == ("https://id.contoso.com", True)
    assert (credentials.scope, credentials.username) == ("mail", "box")
    assert str(credentials.ca_file).endswith("/ca.pem")
    assert SECRET not in repr(credentials)


def test_pickup_directory_has_its_staging_beside_it(written: Callable[[str], Path]) -> None:
    path = written(f'{MAILBOX}[mailboxes.portal.pickup]\ndirectory = "/srv/pickup"\n')
    assert load(path, {}).mailboxes["portal"].endpoint == PickupDirectory(
        PurePath("/srv/pickup"), PurePath("/srv/pickup.staging"), PickupFlavour.IIS, 0o660, None
    )


def test_pickup_directory_takes_all_that_is_given(written: Callable[[str], Path]) -> None:
    lines = 'directory = "/srv/pickup"\nstaging = "/srv/aside"\nflavour = "exchange"\nmode = "0640"\ngroup = "mail"\n'
    assert load(written(f"{MAILBOX}[mailboxes.portal.pickup]\n{lines}"), {}).mailboxes["portal"].endpoint == (
        PickupDirectory(PurePath("/srv/pickup"), PurePath("/srv/aside"), PickupFlavour.EXCHANGE, 0o640, "mail")
    )


def test_limits_of_sessions_are_the_mailboxes_own(written: Callable[[str], Path]) -> None:
    path = written(f'{MAILBOX}host = "h"\nconnections = 7\nmessages_per_connection = 3\nidle_seconds = 0.5\n')
    endpoint: Any = load(path, {}).mailboxes["portal"].endpoint
    limits = endpoint.limits
    assert (limits.connections, limits.messages, limits.idle) == (7, 3, timedelta(seconds=0.5))


def test_names_are_brought_into_the_form_in_which_they_are_compared(written: Callable[[str], Path]) -> None:
    path = written("""
[mailboxes.portal]
address = "Portal@Příklad.CZ"
host = "smtp.příklad.cz"
tenants = ["Contoso", "FABRIKAM"]
senders = ["*@Příklad.cz", "News@Contoso.com"]
[tenants.Tailspin]
use_default = false
[tenants.Woodgrove]
[[producers]]
user = "Portal"
tenants = ["Contoso"]
categories = ["invite"]
""")
    directory = load(path, {})
    mailbox = directory.mailboxes["portal"]
    assert str(mailbox.address) == "Portal@xn--pklad-zsa96e.cz"
    assert isinstance(mailbox.endpoint, SmtpEndpoint)
    assert mailbox.endpoint.host == "smtp.xn--pklad-zsa96e.cz"
    assert mailbox.tenants == {"contoso", "fabrikam"}
    assert mailbox.may_send_as(parse("anybody@příklad.cz"))
    assert mailbox.may_send_as(parse("News@contoso.com"))
    assert not mailbox.may_send_as(parse("other@contoso.com"))
    assert directory.tenants == {"tailspin": Tenant(use_default=False), "woodgrove": Tenant()}
    assert directory.producers is not None
    assert directory.producers["Portal"].tenants == {"contoso"}
    assert directory.producers["Portal"].categories == {"invite"}


def test_producers_that_are_listed_as_none_are_none_not_everybody(written: Callable[[str], Path]) -> None:
    assert load(written("producers = []\n"), {}).producers == {}
    assert load(written("[tenants]\n"), {}).tenants == {}


def test_pool_has_its_scopes_priorities_and_purposes(written: Callable[[str], Path]) -> None:
    path = written("""
[mailboxes.shop]
address = "shop@contoso.com"
host = "h"
tenants = ["Contoso"]
sites = ["Shop"]
components = ["Agent"]
priority = "default"
purposes = ["invite"]
enabled = false
[mailboxes.nowhere]
address = "shop@contoso.com"
host = "h"
tenants = ["Contoso"]
sites = []
[mailboxes.plain]
address = "shop@contoso.com"
host = "h"
tenants = ["Contoso"]
[mailboxes.fallback]
address = "invites@platform.example"
host = "h"
fallback_for = ["invite"]
""")
    boxes = load(path, {}).mailboxes
    shop, plain = boxes["shop"], boxes["plain"]
    assert (shop.sites, shop.components, shop.rank, shop.enabled) == ({"shop"}, {"agent"}, Rank.DEFAULT, False)
    assert (shop.serves("invite"), shop.serves("mass")) == (True, False)
    assert (plain.sites, plain.components, plain.rank, plain.enabled) == (None, None, Rank.NORMAL, True)
    assert plain.serves("mass")
    assert boxes["nowhere"].sites == frozenset()
    assert boxes["fallback"].fallback_for == {"invite"}


def test_what_keeps_mail_back_is_read_for_platform_tenant_site_and_component(written: Callable[[str], Path]) -> None:
    path = written("""
[platform]
redirect_to = "sandbox@Test.example"
[tenants.Contoso]
use_default = true
choose_mailbox = false
stop = "hold"
[tenants.Contoso.sites.Shop]
suppress = true
[tenants.Contoso.components.Agent]
purposes_off = ["password-reset"]
""")
    directory = load(path, {})
    assert directory.restraint == Restraint(redirect=Redirect(parse("sandbox@test.example")))
    assert directory.tenants == {
        "contoso": Tenant(
            use_default=True,
            choose=False,
            restraint=Restraint(stop=Stop.HOLD),
            sites={"shop": Restraint(suppress=True)},
            components={"agent": Restraint(purposes_off=frozenset({"password-reset"}))},
        )
    }


def test_recipients_are_kept_in_bounds_by_what_the_mailbox_says(written: Callable[[str], Path]) -> None:
    lines = """host = "h"
allowed_domains = ["Contoso.com", "*.příklad.cz"]
catch_all = "catch@Contoso.com"
catch_all_cc = "audit@contoso.com"
redirect_to = "sandbox@contoso.com"
suppress = true
"""
    mailbox = load(written(f"{MAILBOX}{lines}"), {}).mailboxes["portal"]
    assert mailbox.allowed_domains == {"contoso.com", "*.xn--pklad-zsa96e.cz"}
    assert mailbox.catch_all == Redirect(parse("catch@contoso.com"), parse("audit@contoso.com"))
    assert mailbox.redirect == Redirect(parse("sandbox@contoso.com"))
    assert mailbox.suppress


def test_limits_are_carried_and_one_worker_never_takes_more_connections_than_all(
    written: Callable[[str], Path],
) -> None:
    minute, day = "per_minute = 10, per_hour = 50", "recipients_per_day = 60, recipients_per_message = 20"
    limits = f"limits = {{ connections = 2, {minute}, {day}, max_size = 1000 }}"
    mailbox = load(written(f'{MAILBOX}host = "h"\n{limits}\n'), {}).mailboxes["portal"]
    assert mailbox.limits == Limits(
        connections=2, per_minute=10, per_hour=50, recipients_per_day=60, recipients_per_message=20, max_size=1000
    )
    assert isinstance(mailbox.endpoint, SmtpEndpoint)
    assert mailbox.endpoint.limits.connections == 2


def test_preset_knows_the_limits_of_office_365(written: Callable[[str], Path]) -> None:
    lines = 'preset = "office365"\nlimits = { per_minute = 20 }\n'
    mailbox = load(written(f"{MAILBOX}{lines}"), {}).mailboxes["portal"]
    assert mailbox.limits == Limits(
        connections=3,
        per_minute=20,
        recipients_per_day=10_000,
        recipients_per_message=500,
        max_size=35 * 1024 * 1024,
    )


def test_producer_may_be_held_to_senders(written: Callable[[str], Path]) -> None:
    producers = load(written('[[producers]]\nuser = "p"\nsenders = ["*@Příklad.cz"]\n'), {}).producers
    assert producers is not None
    assert producers["p"].senders == {"*@xn--pklad-zsa96e.cz"}


OAUTH = '[mailboxes.portal.oauth]\ntenant_id = "t"\nclient_id = "c"\nclient_secret = "s"\n'


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        pytest.param('preset = "office365"\n[mailboxes.portal.graph]\n', ["smtp", "graph"], id="smtp-first"),
        pytest.param(
            'preset = "office365"\nchannels = ["graph", "smtp"]\n[mailboxes.portal.graph]\n',
            ["graph", "smtp"],
            id="as-listed",
        ),
        pytest.param("[mailboxes.portal.graph]\n", ["graph"], id="graph-alone"),
        pytest.param('preset = "office365"\n', ["smtp"], id="smtp-alone"),
    ],
)
def test_channels_are_tried_in_the_order_of_the_file(
    written: Callable[[str], Path], lines: str, kinds: list[str]
) -> None:
    mailbox = load(written(f"{MAILBOX}{lines}{OAUTH}"), {}).mailboxes["portal"]
    assert [mailbox.via(channel).transport for channel in mailbox.channels] == kinds


@pytest.mark.parametrize(
    ("lines", "url", "scope"),
    [
        ("", "https://graph.microsoft.com/v1.0", "https://graph.microsoft.com/.default"),
        (
            'url = "https://graph.microsoft.us/"\n',
            "https://graph.microsoft.us/v1.0",
            "https://graph.microsoft.us/.default",
        ),
        ('scope = "api://x/.default"\n', "https://graph.microsoft.com/v1.0", "api://x/.default"),
    ],
)
def test_graph_has_an_address_and_a_scope_of_its_own(
    written: Callable[[str], Path], lines: str, url: str, scope: str
) -> None:
    endpoint = load(written(f"{MAILBOX}[mailboxes.portal.graph]\n{lines}{OAUTH}"), {}).mailboxes["portal"].endpoint
    assert isinstance(endpoint, GraphEndpoint)
    assert (endpoint.url, endpoint.credentials.scope, endpoint.user) == (url, scope, "portal@contoso.com")


# ---------------------------------------------------------------- proofs and clouds


@pytest.mark.parametrize(
    ("lines", "proof"),
    [
        ('client_secret_env = "SET"\nexpires = 2027-01-31', Secret(SecretStr(ENVIRONMENT["SET"]), date(2027, 1, 31))),
        ('certificate_file = "/TMP/ca.pem"', Certificate(PurePath("/TMP/ca.pem"))),
        (
            'certificate_file = "/TMP/ca.pem"\ncertificate_password_env = "SET"',
            Certificate(PurePath("/TMP/ca.pem"), SecretStr(ENVIRONMENT["SET"])),
        ),
        ('federated_token_file = "/TMP/secret"', Federated(PurePath("/TMP/secret"))),
        ("device_login = true", DeviceLogin()),
    ],
    ids=["secret", "certificate", "certificate-with-password", "federated", "device"],
)
def test_proof_is_read(written: Callable[[str], Path], tmp_path: Path, lines: str, proof: object) -> None:
    oauth = f'[mailboxes.portal.oauth]\ntenant_id = "t"\nclient_id = "1"\n{lines}\n'
    path = written(f'{MAILBOX}preset = "office365"\n{oauth}')
    found = oauth_of(load(path, ENVIRONMENT).mailboxes["portal"].endpoint)
    assert str(found.proof) == str(proof).replace("/TMP", str(tmp_path))


def oauth_of(endpoint: object) -> OAuth:
    assert isinstance(endpoint, SmtpEndpoint)
    assert isinstance(endpoint.credentials, OAuth)
    return endpoint.credentials


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("system", ManagedIdentity()),
        ("1111-2222", ManagedIdentity(client_id="1111-2222")),
        ("/subscriptions/1/id", ManagedIdentity(resource_id="/subscriptions/1/id")),
    ],
)
def test_managed_identity_needs_no_app(
    written: Callable[[str], Path], identity: str, expected: ManagedIdentity
) -> None:
    oauth = f'[mailboxes.portal.oauth]\nmanaged_identity = "{identity}"\n'
    found = oauth_of(load(written(f'{MAILBOX}preset = "office365"\n{oauth}'), {}).mailboxes["portal"].endpoint)
    assert (found.proof, found.authority, found.client_id) == (expected, "", "")


def test_file_of_a_federated_assertion_may_be_named_by_the_platform(
    written: Callable[[str], Path], tmp_path: Path
) -> None:
    lines = 'tenant_id = "t"\nclient_id = "1"\nfederated_token_file_env = "AZURE_FEDERATED_TOKEN_FILE"\n'
    path = written(f'{MAILBOX}preset = "office365"\n[mailboxes.portal.oauth]\n{lines}')
    found = load(path, {"AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "secret")}).mailboxes["portal"].endpoint
    assert oauth_of(found).proof == Federated(tmp_path / "secret")


@pytest.mark.parametrize(
    ("issuer", "scope"),
    [
        ("https://id.contoso.com", ""),
        ("https://login.microsoftonline.com/t/v2.0", "https://outlook.office365.com/.default"),
    ],
)
def test_issuer_that_is_not_microsofts_is_asked_for_no_scope_of_microsofts(
    written: Callable[[str], Path], issuer: str, scope: str
) -> None:
    oauth = f'[mailboxes.portal.oauth]\nclient_id = "c"\nclient_secret = "s"\noidc_issuer = "{issuer}"\n'
    text = f'[mailboxes.portal]\naddress = "portal@contoso.com"\nhost = "smtp.contoso.com"\n{oauth}'
    found = load(written(text), {}).mailboxes["portal"]
    assert oauth_of(found.endpoint).scope == scope


@pytest.mark.parametrize(
    ("cloud", "host", "authority", "scope", "graph"),
    [
        (
            "global",
            "smtp.office365.com",
            "login.microsoftonline.com",
            "outlook.office365.com",
            "https://graph.microsoft.com",
        ),
        (
            "gcc-high",
            "smtp.office365.us",
            "login.microsoftonline.us",
            "outlook.office365.us",
            "https://graph.microsoft.us",
        ),
        (
            "dod",
            "outlook-dod.office365.us",
            "login.microsoftonline.us",
            "outlook.office365.us",
            "https://dod-graph.microsoft.us",
        ),
        (
            "china",
            "smtp.partner.outlook.cn",
            "login.partner.microsoftonline.cn",
            "partner.outlook.cn",
            "https://microsoftgraph.chinacloudapi.cn",
        ),
    ],
)
def test_cloud_decides_on_hosts_and_scopes(
    written: Callable[[str], Path], cloud: str, host: str, authority: str, scope: str, graph: str
) -> None:
    oauth = '[mailboxes.portal.graph]\n[mailboxes.portal.oauth]\ntenant_id = "t"\nclient_id = "1"\n'
    text = f'{MAILBOX}preset = "office365"\ncloud = "{cloud}"\n{oauth}client_secret = "x"\n'
    mailbox = load(written(text), {}).mailboxes["portal"]
    smtp, by_graph = mailbox.channels
    assert isinstance(smtp, SmtpEndpoint)
    assert isinstance(by_graph, GraphEndpoint)
    found = oauth_of(smtp)
    assert (smtp.host, found.authority, found.scope) == (host, f"https://{authority}/t", f"https://{scope}/.default")
    assert (by_graph.url, by_graph.credentials.scope) == (f"{graph}/v1.0", f"{graph}/.default")


def test_person_asks_for_a_persons_permission(written: Callable[[str], Path]) -> None:
    oauth = '[mailboxes.portal.graph]\n[mailboxes.portal.oauth]\ntenant_id = "t"\nclient_id = "1"\n'
    text = f'{MAILBOX}preset = "office365"\n{oauth}device_login = true\nusername = "jana@contoso.com"\n'
    smtp, by_graph = load(written(text), {}).mailboxes["portal"].channels
    assert oauth_of(smtp).scope == "https://outlook.office.com/SMTP.Send"
    assert oauth_of(smtp).username == "jana@contoso.com"
    assert isinstance(by_graph, GraphEndpoint)
    assert by_graph.credentials.scope == "https://graph.microsoft.com/Mail.Send"


@pytest.mark.parametrize("name", presets())
def test_every_preset_makes_a_mailbox(written: Callable[[str], Path], name: str) -> None:
    host = "" if presets()[name].get("host") or "cloud" in presets()[name] else 'host = "smtp.contoso.com"\n'
    found = load(written(f'{MAILBOX}preset = "{name}"\n{host}'), {}).mailboxes["portal"]
    assert isinstance(found.endpoint, SmtpEndpoint)
    assert found.endpoint.tls is Tls.STARTTLS
    expected = presets()[name].get("limits", {})
    assert {key: getattr(found.limits, key) for key in expected} == expected


def test_every_number_of_a_preset_gives_way_to_what_is_written(written: Callable[[str], Path]) -> None:
    lines = 'preset = "acs"\nport = 2525\nlimits = { per_minute = 500 }\n'
    found = load(written(f"{MAILBOX}{lines}"), {}).mailboxes["portal"]
    assert isinstance(found.endpoint, SmtpEndpoint)
    assert (found.endpoint.host, found.endpoint.port) == ("smtp.azurecomm.net", 2525)
    assert (found.limits.per_minute, found.limits.recipients_per_message) == (500, 50)


# ---------------------------------------------------------------- organisations


def test_mailboxes_of_an_organisation_share_the_limit_of_its_licences(written: Callable[[str], Path]) -> None:
    contoso = 'domains = ["Contoso.com", "contoso.onmicrosoft.com"]\nlicences = 100\n'
    text = f"[organisations.contoso]\n{contoso}"
    for name, address in (("a", "a@contoso.com"), ("b", "b@contoso.onmicrosoft.com"), ("c", "c@fabrikam.com")):
        text += f'[mailboxes.{name}]\naddress = "{address}"\nhost = "smtp.office365.com"\n'
    found = load(written(text), {}).mailboxes
    organisation = found["a"].organisation
    assert organisation is not None
    assert organisation.external_per_day == 22059
    assert found["a"].outside(parse("x@fabrikam.com"))
    assert not found["a"].outside(parse("x@contoso.onmicrosoft.com"))
    assert found["b"].organisation == Organisation("contoso.onmicrosoft.com", organisation.domains, 100)
    assert found["c"].organisation is None


@pytest.mark.parametrize(
    ("way", "counted"),
    [
        ('preset = "office365"', True),
        ('preset = "office365-relay"\nhost = "contoso.mail.protection.outlook.com"', True),
        ('host = "smtp.contoso.com"', True),
        ('preset = "office365-hve"', False),
        ('host = "smtp-hve.office365.com"', False),
        ('host = "smtp.azurecomm.net"', False),
        ('preset = "acs"', False),
        ('preset = "sendgrid"', False),
        ('preset = "exchange-onprem"\nhost = "mail.contoso.com"', False),
    ],
)
def test_only_what_leaves_through_exchange_online_counts_for_its_organisation(
    written: Callable[[str], Path], way: str, *, counted: bool
) -> None:
    text = '[organisations.contoso]\ndomains = ["contoso.com"]\nlicences = 1\n'
    found = load(written(f'{text}[mailboxes.a]\naddress = "a@contoso.com"\n{way}\n'), {}).mailboxes["a"]
    assert (found.organisation is not None) == counted


def test_office365_takes_five_hundred_recipients_and_35_megabytes_unless_told_otherwise(
    written: Callable[[str], Path],
) -> None:
    text = '[mailboxes.a]\naddress = "a@contoso.com"\npreset = "office365"\n'
    limits = load(written(text), {}).mailboxes["a"].limits
    assert (limits.recipients_per_message, limits.max_size) == (500, 35 * 1024 * 1024)
    changed = load(written(f"{text}limits = {{ recipients_per_message = 1000, max_size = 157286400 }}\n"), {})
    limits = changed.mailboxes["a"].limits
    assert (limits.recipients_per_message, limits.max_size, limits.per_minute) == (1000, 157286400, 30)


@pytest.mark.parametrize("limit", ["", "licences = 10\ntrial = true", "licences = 10\nexternal_recipients_per_day = 5"])
def test_organisation_has_exactly_one_limit(written: Callable[[str], Path], limit: str) -> None:
    path = written(f'[organisations.contoso]\ndomains = ["contoso.com"]\n{limit}\n')
    with pytest.raises(MailboxFileError, match=r"organisations\.contoso: give exactly one of licences"):
        load(path, {})


@pytest.mark.parametrize(
    "way_out", ['host = "smtp.hve.mx.microsoft"', '[mailboxes.a.pickup]\ndirectory = "/srv/pickup"']
)
def test_high_volume_email_and_pickup_files_count_against_no_organisation(
    written: Callable[[str], Path], way_out: str
) -> None:
    text = '[organisations.contoso]\ndomains = ["contoso.com"]\ntrial = true\n'
    text += f'[mailboxes.a]\naddress = "a@contoso.com"\n{way_out}\n'
    assert load(written(text), {}).mailboxes["a"].organisation is None
