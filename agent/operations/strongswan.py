"""Debian's strongSwan in the mediation server's place, for the demo: its files and its process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from agent.crypto.auth import PublicKey, SigningKey, key_text
from agent.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.operations.lab import Namespace

SERVER_ID = "mediator@hearthgate.example"
DOMAIN = "hearthgate.example"
CHARON = "/usr/lib/ipsec/charon"
START_SECONDS = 20.0
_NAMES = {"gateway": "cabin", "operator": "laptop"}


def prepare_server(folder: Path, address: str, clients: Mapping[str, bytes]) -> str:
    """charon's and swanctl's files; returns the server's public key (43 characters).

    `clients`: role → the public key (32 octets) that it registers with.
    """
    key = SigningKey.generate(os.urandom)
    for name in ("run", "swanctl/private", "swanctl/pubkey"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    private = folder / "swanctl/private/server.pem"
    private.touch(0o600)
    private.write_bytes(key.pem())
    (folder / "swanctl/pubkey/server.pub").write_bytes(key.public_key().pem())
    (folder / "strongswan.conf").write_text(_STRONGSWAN.format(folder=folder, plugins=_PLUGINS))
    connections = []
    for role, public in clients.items():
        (folder / f"swanctl/pubkey/{role}.pub").write_bytes(PublicKey(public).pem())
        connections.append(
            _CONNECTION.format(address=address, identity=SERVER_ID, role=role, domain=DOMAIN)
        )
    text = "connections {\n" + "".join(connections) + "}\n"
    (folder / "swanctl/swanctl.conf").write_text(text)
    return key_text(key.public)


def peer_config(role: str, other: str, other_key: str, server_key: str, address: str) -> str:
    """hearthgate.toml of `role`, which knows `other` by its public key."""
    return f"""\
name = "{_NAMES[role]}"

[mediator.main]
address = "{address}"
key = "{server_key}"
id = "{SERVER_ID}"
local_id = "{role}@{DOMAIN}"

[peer.{_NAMES[other]}]
key = "{other_key}"
mediator = "main"
pseudonym = "{other}@{DOMAIN}"
role = "operator"

"""


def start_server(host: Namespace, folder: Path) -> str:
    """Start charon in `host` and load the connection. Raises UnavailableError."""
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "STRONGSWAN_CONF": str(folder / "strongswan.conf"),
        "SWANCTL_DIR": str(folder / "swanctl"),
    }
    with (folder / "log").open("ab") as log:
        # A private /run keeps its pid file apart from one that the machine itself runs.
        script = f"mount -t tmpfs tmpfs /run && exec {CHARON}"
        host.popen(["unshare", "-m", "sh", "-c", script], env=env, stdout=log, stderr=log)
    socket = folder / "run/vici"
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = host.run(
            ["swanctl", "--load-all", "--uri", f"unix://{socket}"], env=env, check=False
        )
        if done.returncode == 0:
            return "charon is up"
        if time.monotonic() > deadline:
            raise UnavailableError(f"charon did not start: {done.stderr.strip()[-200:]}")
        time.sleep(0.1)


_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 pubkey curve25519 hmac sha1 sha2 kdf aes gcm drbg vici "
    "kernel-libipsec kernel-netlink socket-default"
)
_STRONGSWAN = """\
charon {{
  load = {plugins}
  filelog {{
    stderr {{
      default = 1
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{folder}/run/vici
    }}
  }}
}}
swanctl {{
  load = pem pkcs1 pkcs8 openssl x509 pubkey
}}
"""

_CONNECTION = """\
  {role} {{
    local_addrs = {address}
    local {{
      auth = pubkey
      pubkeys = server.pub
      id = {identity}
    }}
    remote {{
      auth = pubkey
      pubkeys = {role}.pub
      id = {role}@{domain}
    }}
    version = 2
    mobike = no
    mediation = yes
    proposals = aes128gcm16-prfsha256-x25519,aes128-sha256-x25519
  }}
"""
