"""A mailboxes file that fits the emulated world."""

from __future__ import annotations

from pathlib import Path

from worker.emulator.permissions import GRAPH_RESOURCE
from worker.emulator.run import Emulator
from worker.emulator.world import MailboxAccount


def mailboxes_file(running: Emulator, pickup: Path | None = None, *, graph: bool = False) -> str:
    """A default mailbox over OAuth, a tenant's own by password, and one over a pickup directory if one is given.

    Args:
        running: the emulator.
        pickup: the directory of the mailbox `zlin`.
        graph: give the default mailbox Microsoft Graph as its second channel.
    """
    plan = running.plan
    app, default, own = plan.apps[0], plan.office365_mailboxes[0], plan.ordinary_mailboxes[0]
    host = plan.names[0] if plan.names else "localhost"
    ca_file = running.certificates.ca_file.resolve()
    text = f"""# Written by the emulator. Secrets stand in it because nothing here is real.
default = "platform"

[mailboxes.platform]
address = "{default.address}"
display_name = "Contoso Portal"
host = "{host}"
port = {running.office365.port}
ca_file = "{ca_file}"
connections = 1
[mailboxes.platform.oauth]
authority = "{running.token_url}/{app.tenant_id}"
client_id = "{app.client_id}"
client_secret = "{app.client_secret}"
ca_file = "{ca_file}"
{_by_password(default)}
[mailboxes.fabrikam]
tenants = ["fabrikam"]
address = "{own.address}"
display_name = "Fabrikam"
host = "{host}"
port = {running.ordinary.port}
ca_file = "{ca_file}"
[mailboxes.fabrikam.login]
username = "{own.address}"
password = "{own.password}"

[tenants.contoso]
[tenants.tailspin]
use_default = false
"""
    if graph:
        second = f"""[mailboxes.platform.graph]
url = "{running.graph_url}"
scope = "{GRAPH_RESOURCE}/.default"
ca_file = "{ca_file}"
"""
        text = text.replace("\n[mailboxes.fabrikam]", f"{second}\n[mailboxes.fabrikam]", 1)
    if pickup is not None:
        text += f"""
[mailboxes.zlin]
tenants = ["zlin"]
address = "pozvanky@zlin.example"
display_name = "Město Zlín"
[mailboxes.zlin.pickup]
directory = "{pickup.resolve()}"
flavour = "iis"
"""
    return text


def _by_password(mailbox: MailboxAccount) -> str:
    """The same mailbox the old way, for whoever wants to try that."""
    if mailbox.password is None:
        return ""
    return f"""# By password, in place of [mailboxes.platform.oauth]:
# [mailboxes.platform.login]
# username = "{mailbox.address}"
# password = "{mailbox.password}"
"""
