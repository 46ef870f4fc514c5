"""Where there are no templates, nothing that renders them is loaded."""

from __future__ import annotations

from worker.domain.mailbox import MailScope
from worker.domain.wording import Order, Unrenderable


class NoTemplates:
    """The port `Templates` where no directory is set."""

    async def rule(self, event: str, scope: MailScope) -> None:
        """There is no rule for anything."""

    async def render(self, order: Order) -> Unrenderable:
        """There is no template."""
        return Unrenderable(
            f"Template {order.template!r} was asked for, but no templates are set up here.",
            "Set POSTLANE_TEMPLATES__DIRECTORY, restart the workers, then replay the dead letter.",
        )

    async def close(self) -> None:
        """Nothing is open."""
