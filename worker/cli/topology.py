"""`postlane topology`: what must exist on the broker."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="Create and show what Postlane needs on RabbitMQ.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("apply")
def apply() -> None:
    """Create exchanges, queues and bindings. Running it again changes nothing.

    Needs a login with configure rights, for instance an administrator's:
    AMQP_URL=amqp://admin:…@broker/ postlane topology apply
    """
    from worker import bootstrap, settings
    from worker.broker import apply as broker
    from worker.cli.broker import with_broker

    loaded = settings.load()
    address = bootstrap.broker_address(loaded)
    made = with_broker(broker.apply(address, bootstrap.topology(loaded)))
    lanes = f"{made.lanes} lanes" if made.hashed else "one lane (the broker has no rabbitmq_consistent_hash_exchange)"
    typer.echo(f"{made.prefix}.* on {address}: {lanes}, wait queues, results and dead letters are in place.")


@app.command("show")
def show(*, as_json: _Json = False) -> None:
    """Show every queue with its messages and consumers."""
    from worker import bootstrap, settings
    from worker.broker import apply as broker
    from worker.cli.broker import with_broker

    loaded = settings.load()

    async def rows() -> list[tuple[str, int | None, int | None]]:
        found = broker.depths(bootstrap.broker_address(loaded), bootstrap.topology(loaded))
        return [row async for row in found]

    found = with_broker(rows())
    if as_json:
        typer.echo(json.dumps([{"queue": name, "ready": ready, "consumers": used} for name, ready, used in found]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("queue", "ready", "consumers")
    for name, ready, used in found:
        table.add_row(name, *(("[red]missing[/]", "") if ready is None else (str(ready), str(used))))
    Console().print(table)


@app.command("definitions")
def definitions(
    *,
    worker: Annotated[str, typer.Option(help="Login of the workers.")] = "postlane-worker",
    producer: Annotated[
        list[str] | None, typer.Option(help="Login of a producer, or LOGIN=TENANT for one tenant only; repeatable.")
    ] = None,
    vhost: Annotated[str, typer.Option(help="Virtual host.")] = "/",
    passwords_from_environment: Annotated[
        bool, typer.Option(help="Set passwords from variables named PASSWORD_<LOGIN>, hyphens as underscores.")
    ] = False,
) -> None:
    """Print definitions for RabbitMQ (load_definitions), with users that can do their part and no more.

    Without passwords the users exist but cannot log in until `rabbitmqctl change_password` gives them one.
    """
    import os

    from worker import bootstrap, settings
    from worker.broker.definitions import User, producer_user, worker_user
    from worker.broker.definitions import definitions as document

    topology = bootstrap.topology(settings.load())
    users: list[User] = [worker_user(worker, topology)]
    for item in producer or ["postlane-producer"]:
        login, _, tenant = item.partition("=")
        users.append(producer_user(login, topology, tenant or None))

    def password(user: User) -> str | None:
        name = f"PASSWORD_{user.name.upper().replace('-', '_')}"
        if not passwords_from_environment:
            return None
        if not os.environ.get(name):
            raise settings.SettingsError(f"{name} is not set.")
        return os.environ[name]

    typer.echo(json.dumps(document(topology, {user: password(user) for user in users}, vhost), indent=2))
