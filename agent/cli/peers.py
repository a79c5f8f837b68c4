"""Who is paired with this machine, and what they may do. --own shows this machine's own keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json, table

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How."""
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument(
        "--own", action="store_true", help="this machine's public keys, also as PEM for strongSwan"
    )


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    if args.own:
        return _own(args)
    peers = ask(args.root, {"command": "peers"})
    if args.json:
        print_json(peers)
        return 0
    rows = [
        (
            p["name"],
            p["role"] or "none",
            " ".join(p["grants"]),
            p["key"][:11] + "…" if p["key"] else p["proof"],
            "configured" if p["configured"] else "",
        )
        for p in peers
    ]
    print(table([("NAME", "ROLE", "GRANTS", "KEY", ""), *rows]) if rows else "Nobody yet.")
    return 0


def _own(args: argparse.Namespace) -> int:
    from agent.crypto.auth import PublicKey, parse_key_text

    status = ask(args.root, {"command": "status"})
    own = {
        what: {
            "key": status[what],
            "id": "keyid:" + parse_key_text(status[what]).hex(),
            "pem": PublicKey(parse_key_text(status[what])).pem().decode(),
        }
        for what in ("identity", "mediation")
    }
    if args.json:
        print_json(own)
    else:
        for what, forms in own.items():
            print(f"{what} key  {forms['key']}\n{forms['id']}\n{forms['pem']}")
    return 0
