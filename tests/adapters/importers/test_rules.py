"""`postlane import --templates`: tasks, approvals and reset mails of the old products become rules and templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from worker.cli import app
from worker.domain.mailbox import MailScope
from worker.domain.wording import Order, Rule, Wording, rule_for
from worker.templates.renderer import Renderer
from worker.templates.rules import Rules

RELAYS = [
    {"type": "SMTP Server", "name": "Relay A", "baseUri": "smtp://a.adatum.example"},
    {"type": "SMTP Server", "name": "Relay B", "baseUri": "smtp://b.adatum.example:2525"},
]
TASKS = [
    {
        "name": f"Weekly {relay[-1]}",
        "smtpServer": relay,
        "parameters": {
            "reportToRun": "Events",
            "fromAddress": f"pm-{relay[-1].lower()}@adatum.example",
            "toAddress": "it@adatum.example, soc@adatum.example",
        },
    }
    for relay in ("Relay A", "Relay B")
]
APPROVALS = {
    "name": "Manual Approval Process with E-mail Alerts",
    "smtpServer": "Relay B",
    "startActivity": "Send E-mail for New Approval Task",
}
ADATUM = MailScope("adatum")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(product: str, content: dict[str, Any], *words: str, name: str = "export.json") -> Result:
    Path(name).write_text(json.dumps(content), encoding="utf-8")
    result = CliRunner().invoke(
        app, ["import", product, name, "--tenant", "adatum", "--templates", "templates", *words]
    )
    assert result.exit_code == 0, result.output
    return result


def listing() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def rule(event: str, scope: MailScope = ADATUM) -> Rule:
    found = rule_for(event, scope, Rules(Path("templates")).current())
    assert found is not None
    return found


async def rendered(found: Rule, **data: str) -> Wording:
    renderer = Renderer(Path("templates"), {})
    try:
        told = await renderer.render(Order(str(found.template), found.locale, {**found.data, **data}))
    finally:
        await renderer.close()
    assert isinstance(told, Wording), told
    return told


async def test_dpm_s7_and_s10_each_task_becomes_a_rule_with_its_own_server_sender_and_recipients() -> None:
    run("privilege-manager", {"edition": "on-premises", "foreignSystems": RELAYS, "emailTasks": TASKS})
    for letter in ("a", "b"):
        found = rule(f"task.weekly-{letter}")
        assert found.mailbox == f"privilege-manager-relay-{letter}"
        assert found.sender is not None
        assert found.sender.address == f"pm-{letter}@adatum.example"
        assert [person.address for person in found.to] == ["it@adatum.example", "soc@adatum.example"]
    told = await rendered(rule("task.weekly-a"), text="Nothing happened.")
    assert told.subject == "Weekly A"
    assert "report Events" in told.text
    assert "Nothing happened." in told.text
    assert rule_for("task.weekly-a", MailScope("fabrikam"), Rules(Path("templates")).current()) is None


async def test_dpm_s8_and_s9_approval_process_becomes_the_rule_of_its_event_and_is_added_if_missing() -> None:
    export = {"edition": "on-premises", "foreignSystems": RELAYS, "approvalProcesses": [APPROVALS]}
    assert "added" not in run("privilege-manager", export).output
    assert rule("approval.requested").mailbox == "privilege-manager-relay-b"
    told = await rendered(rule("approval.requested"), link="https://pm.adatum.example/approvals/7", requester="Jana")
    assert told.subject == "Approval requested by Jana"
    assert "https://pm.adatum.example/approvals/7" in told.text
    without = run("privilege-manager", {"edition": "on-premises", "foreignSystems": RELAYS[:1]}, "--name", "other")
    assert "added, for it was missing: rule for approval.requested" in without.output
    assert 'mailbox = "other-relay-a"' in Path("templates/rules.toml").read_text(encoding="utf-8")


def test_dpm_s11_rule_of_the_cloud_edition_names_no_server() -> None:
    managed = {**RELAYS[0], "origin": "instance-setup"}
    tasks = [{key: value for key, value in TASKS[0].items() if key != "smtpServer"}]
    run("privilege-manager", {"edition": "cloud", "foreignSystems": [managed], "emailTasks": tasks})
    assert rule("task.weekly-a").mailbox is None


async def test_nim_s1_and_w7_reset_mail_is_the_agents_in_the_languages_of_its_cultures() -> None:
    mail = {"FromAddress": "reset@adatum.example", "Host": "mx1.adatum.example"}
    agent = {
        "MailSettings": mail,
        "NotificationSettings": {"Cultures": ["fr", "en"]},
        "TokenBuildingSettings": {"ValidFor": "03:00:00"},
    }
    run("netwrix", {"PasswordResetSettings": agent}, name="appsettings.agent.json")
    found = rule("password-reset.requested", MailScope("adatum", None, "agent"))
    assert (found.category, found.locale, found.template) == ("password-reset", "fr", "password-reset")
    told = await rendered(found, link="https://id.adatum.example/reset/7")
    assert told.subject == "Réinitialisez votre mot de passe"
    assert "https://id.adatum.example/reset/7" in told.text
    assert rule_for("password-reset.requested", ADATUM, Rules(Path("templates")).current()) is None


def test_second_import_changes_nothing_and_edited_templates_stay() -> None:
    export = {"edition": "on-premises", "foreignSystems": RELAYS, "emailTasks": TASKS}
    run("privilege-manager", export)
    Path("templates/email-task/en.txt.j2").write_text("Mine: {{ task }}\n", encoding="utf-8")
    own = Path("templates/rules.toml").read_text(encoding="utf-8")
    Path("templates/rules.toml").write_text(f'locales = ["en"]\n{own}', encoding="utf-8")
    before = listing()
    assert "rules unchanged" in run("privilege-manager", export).output
    assert listing() == before


def test_dry_run_writes_no_rules() -> None:
    export = {"edition": "on-premises", "foreignSystems": RELAYS, "emailTasks": TASKS}
    assert "would write rules" in run("privilege-manager", export, "--dry-run").output
    assert set(listing()) == {"export.json"}
