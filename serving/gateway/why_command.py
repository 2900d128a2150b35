"""`evershelf why`: explain a recent answer."""

import click
import msgspec
from rich.console import Console
from rich.text import Text

from serving.errors import ServingError
from serving.gateway.answers import Understood, Why
from serving.promotion.gateways import Gateways


@click.command()
@click.argument("request_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def why(request_id: str, as_json: bool) -> None:
    """Explain the answer REQUEST_ID: what was asked, what answered, how long it took, and why its first items were shown.

    Every gateway is asked; the one that gave the answer remembers it in memory, until it restarts or has given many others.
    """
    gateways = Gateways()
    try:
        reached = gateways.why(request_id.strip())
    finally:
        gateways.close()
    explained = next((said for said in reached.values() if isinstance(said, Why)), None)
    if explained is None:
        problems = " ".join(f"{url}: {problem}" for url, problem in reached.items())
        raise ServingError(f"No gateway can explain the answer {request_id[:64]}; shoppers notice nothing. {problems}")
    if as_json:
        click.echo(msgspec.json.encode(explained).decode())
    else:
        show(explained, Console(highlight=False))


def show(why: Why, console: Console) -> None:
    """Print an explanation on one screen. Titles and queries are the shop's and the shopper's text: never markup."""
    asked = f"{why.endpoint}, {why.k} items"
    asked += f", '{why.query}'" if why.query else ""
    asked += f", like {why.item_id}" if why.item_id else ""
    asked += f", in {why.category}" if why.category else ""
    who = f"shopper {why.user}" if why.user else "a guest"
    rows = [
        ("asked", asked),
        ("by", f"{who}, {why.recent_events} events newer than the snapshot's shopper data" if why.recent_events else who),
        ("when", f"{why.at[:23].replace('T', ' ')} UTC, at {why.gateway}"),
        ("answered", f"{why.served_by} of snapshot {why.snapshot_id} ({why.arm}), expected quality {why.expected_quality:.3f} of live"),
        ("took", f"{why.ms:.1f} ms" + (f", of it retrieval {why.retrieval_ms:.1f} ms" if why.retrieval_ms is not None else "")),
    ]
    if why.understood and (read := _read(why.understood)):
        rows.append(("read as", read))
    if not why.matched:
        rows.append(("matched", "nothing: popular items were shown instead"))
    rows += [("unable", f"snapshot {snapshot_id}; the gateway's log says how") for snapshot_id in why.unable]
    rows += [("rung", f"{tried.rung}: {tried.outcome}" + (f", {tried.ms:.1f} ms" if tried.ms is not None else "")) for tried in why.rungs]
    if why.candidates is not None:
        rows.append(("items", f"{why.candidates} to choose from; on these lists (an item may be on several):"))
        rows += [("", f"{origins.items:>4} {origins.words}") for origins in why.origins]
    for name, words in rows:
        console.print(Text(f"{name:<9} {words}"), soft_wrap=True)
    for item in why.items:
        console.print(Text(f"{item.position:>3}. {item.title} ({item.item_id})" if item.title else f"{item.position:>3}. {item.item_id}"), soft_wrap=True)
        without = {moved.words: f" (place {moved.place_without} without)" for moved in item.moved_by}
        if told := [*(reason + without.get(reason, "") for reason in item.reasons), *([item.ranked] if item.ranked else [])]:
            console.print(Text("     " + "; ".join(told)), soft_wrap=True)
    if why.note:
        console.print(Text(why.note, style="yellow"), soft_wrap=True)


def _read(query: Understood) -> str:
    """Return what was not searched for as it was typed; '' when all was."""
    told = [f"'{other}' for '{word}'" for word, other in query.corrected.items()]
    if query.price_from is not None or query.price_to is not None:
        limits = ((name, price) for name, price in (("from", query.price_from), ("to", query.price_to)) if price is not None)
        price = " ".join(f"{name} {price:g}" for name, price in limits) + (f" {query.currency}" if query.currency else "")
        told.append(f"'{query.text}' at a price {price}" + (", which nothing found costs: shown all the same" if query.filter_dropped else ""))
    return "; ".join(told)
