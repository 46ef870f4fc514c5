"""From the mail settings of five products to mailboxes: octets in, verdict, findings and mailboxes out.

Nothing here opens a file, a socket or the environment, and nothing raises: whatever the octets, there is a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from worker.importers import elixeum, kentico, netwrix, privilege_manager, umbraco
from worker.importers.finding import Findings, Place
from worker.importers.mailbox import Import, Taken, judged
from worker.importers.source import Source
from worker.importers.wishes import Wishes

_Reader = Callable[[Sequence[Source], Wishes, Findings], Taken]

PRODUCTS: Mapping[str, _Reader] = MappingProxyType(
    {
        "netwrix": netwrix.read,
        "kentico": kentico.read,
        "privilege-manager": privilege_manager.read,
        "umbraco": umbraco.read,
        "elixeum": elixeum.read,
    }
)


def take_over(product: str, sources: Sequence[Source], wishes: Wishes | None = None) -> Import:
    """Read the files of one installation of a product.

    Args:
        product: a key of `PRODUCTS`.
        sources: all its files; they are judged together, and one that is refused refuses all.
        wishes: what the files cannot say.
    """
    findings = Findings()
    taken = Taken()
    with findings.gathering():
        taken = PRODUCTS[product](sources, wishes or Wishes(), findings)
    for name, count in Counter(mailbox.name for mailbox in taken.mailboxes).items():
        if count > 1:
            findings.refuse(
                f"server.duplicate_name:{name}",
                Place(sources[0].name if sources else ""),
                f"{count} of the servers would be called {name} here",
                "import the files one by one, each with its own --name",
            )
    return judged(findings, taken)
