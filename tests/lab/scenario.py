"""Configurations of strongSwan for the mediated picture, and the identities that tests use.

The seeds are fixed: the same keys in every run, none of them used outside the tests.
"""

from __future__ import annotations

from typing import Any

IKE = "aes128-sha256-x25519"
ESP = "aes128gcm128-x25519"


def seed(name: str) -> bytes:
    """32 octets for the key called `name`."""
    return (name.encode() * 32)[:32]


def secret(name: str) -> str:
    """A pre-shared key long enough for our configuration's rules."""
    return f"{name}-0123456789abcdef"


def server_connection(
    remote: dict[str, Any], local: dict[str, Any] | None = None, *, proposals: str = IKE
) -> dict[str, Any]:
    """strongSwan as mediation server, which proves the key in the file `ms` unless told else."""
    return {
        "local": {"id": "ms@example.org", **(local or {"auth": "pubkey", "pubkeys": "ms"})},
        "remote": remote,
        "version": 2,
        "mobike": False,
        "mediation": True,
        "proposals": proposals,
    }


def mediation_connection(
    local: dict[str, Any], remote: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """strongSwan as a mediation client of the server at the standard address."""
    return {
        "remote_addrs": "203.0.113.10",
        "local": local,
        "remote": remote,
        "children": {"medserv": {"start_action": "start"}},
        "version": 2,
        "mobike": False,
        "mediation": True,
        "proposals": IKE,
        **more,
    }


def mediated_connection(
    local: dict[str, Any],
    remote: dict[str, Any],
    pseudonym: str,
    *,
    local_ts: str,
    remote_ts: str,
    ike: str = IKE,
) -> dict[str, Any]:
    """strongSwan's connection to a peer called `pseudonym` by way of connection `medsrv`."""
    return {
        "local": local,
        "remote": remote,
        "children": {"peer": {"local_ts": local_ts, "remote_ts": remote_ts, "esp_proposals": ESP}},
        "version": 2,
        "mobike": False,
        "mediated_by": "medsrv",
        "mediation_peer": pseudonym,
        "proposals": ike,
    }
