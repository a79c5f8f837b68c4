"""Debian's strongSwan as a real peer, one instance in each namespace (../shared/lab/strongswan.md).

5.9.8 as installed, or strongSwan 6 of tests/lab/newer.py.

ESP by the plugin kernel-libipsec (userspace), so that it runs on every kernel. The configuration
is a nested dict in the words of swanctl.conf; keys are ours, written as PEM files.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.lab import newer as newer_programs
from tests.lab.vici import Vici, ViciError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.operations.lab import Namespace

PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 pubkey curve25519 hmac sha1 sha2 kdf aes gcm ccm chapoly "
    "xcbc cmac drbg vici kernel-libipsec kernel-netlink socket-default updown"
)
START_SECONDS = 10.0
CONF = """
charon {{
  load = {plugins}
  install_virtual_ip_on = lo
  retransmit_timeout = {retransmit_timeout}
  filelog {{
    log {{
      path = {folder}/log
      default = {level}
      ike = {level}
      enc = 1
      time_format = %s
      time_add_ms = yes
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{folder}/vici
    }}
  }}
  {extra}
}}
swanctl {{
  load = pem pkcs1 pkcs8 openssl x509 pubkey curve25519
}}
"""


def render(sections: Mapping[str, Any], indent: str = "") -> str:
    """A nested dict in the syntax of swanctl.conf; True and False become yes and no."""
    lines = []
    for key, value in sections.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key} {{", render(value, indent + "  "), f"{indent}}}"]
        elif isinstance(value, bool):
            lines.append(f"{indent}{key} = {'yes' if value else 'no'}")
        else:
            lines.append(f"{indent}{key} = {value}")
    return "\n".join(lines)


def private_pem(seed: bytes) -> bytes:
    """The Ed25519 private key of `seed` (32 octets) as PKCS #8."""
    return Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(seed: bytes) -> bytes:
    """The public half as SubjectPublicKeyInfo."""
    return (
        Ed25519PrivateKey.from_private_bytes(seed)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


class Charon:
    """One strongSwan. `start` before anything else; the laboratory ends it, or `stop` does."""

    def __init__(
        self,
        host: Namespace,
        folder: Path,
        config: Mapping[str, Any],
        *,
        private: Mapping[str, bytes] | None = None,
        public: Mapping[str, bytes] | None = None,
        level: int = 1,
        retransmit_timeout: float = 4.0,
        extra: str = "",
        plugins: str = PLUGINS,
        files: Mapping[str, bytes] | None = None,
        newer: bool = False,
    ) -> None:
        """`private`: file name → seed of its own key; `public`: file name → seed of another's.

        `files`: further ones, such as "x509ca/root.pem", → content. `newer`: strongSwan 6.
        """
        self.host = host
        self.folder = folder
        self._newer = newer
        self._process: subprocess.Popen[bytes] | None = None
        swanctl = folder / "swanctl"
        for name in ("private", "pubkey", "x509", "x509ca"):
            (swanctl / name).mkdir(parents=True)
        for name, seed in (private or {}).items():
            (swanctl / "private" / name).write_bytes(private_pem(seed))
            (swanctl / "pubkey" / name).write_bytes(public_pem(seed))
        for name, seed in (public or {}).items():
            (swanctl / "pubkey" / name).write_bytes(public_pem(seed))
        for name, content in (files or {}).items():
            (swanctl / name).write_bytes(content)
        (swanctl / "swanctl.conf").write_text(render(config) + "\n")
        conf = CONF.format(
            folder=folder,
            level=level,
            extra=extra,
            plugins=plugins,
            retransmit_timeout=retransmit_timeout,
        )
        (folder / "strongswan.conf").write_text(conf)

    @property
    def pid(self) -> int:
        """The process while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Charon:
        """Start and load the configuration; raises with the log's end if it does not come up."""
        env = {
            **os.environ,
            "STRONGSWAN_CONF": str(self.folder / "strongswan.conf"),
            "SWANCTL_DIR": str(self.folder / "swanctl"),
        }
        # Its pid file is always /run/charon.pid: a /run of its own keeps several apart.
        script = 'mount -t tmpfs tmpfs /run && exec "$@"'
        argv = ["unshare", "-m", "sh", "-c", script, "sh", *self._program([newer_programs.CHARON])]
        with (self.folder / "console").open("wb") as console:
            self._process = self.host.popen(argv, env=env, stdout=console, stderr=console)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.vici("version")
                break
            except (OSError, ViciError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"charon did not start:\n{self.log[-2000:]}") from None
                time.sleep(0.01)
        uri = f"unix://{self.folder / 'vici'}"
        load = self._program(["swanctl", "--load-all", "--noprompt", "--uri", uri])
        self.host.run(load, env=env)
        return self

    def _program(self, argv: Sequence[str]) -> list[str]:
        return newer_programs.inside(argv) if self._newer else list(argv)

    def stop(self) -> None:
        """End it by its pid, as a service manager does; it deletes its SAs. Can be repeated."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        """Everything it has logged so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_log(self, pattern: str, seconds: float = 10.0, *, start: int = 0) -> re.Match[str]:
        """Wait until the log from position `start` on matches; fails with its end."""
        deadline = time.monotonic() + seconds
        while True:
            if match := re.compile(pattern, re.MULTILINE).search(self.log, start):
                return match
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in charon's log:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def vici(self, command: str, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request on its control socket."""
        with Vici(self.folder / "vici") as vici:
            return vici.request(command, message)

    def initiate(self, child: str, ike: str = "", *, seconds: float = 20.0) -> None:
        """Bring up `child` and wait for it; raises ViciError with charon's reason."""
        message: dict[str, Any] = {"child": child, "timeout": int(seconds * 1000)}
        if ike:
            message["ike"] = ike
        with Vici(self.folder / "vici", timeout=seconds + 5) as vici:
            vici.request("initiate", message)

    def sas(self) -> list[dict[str, Any]]:
        """Its IKE SAs as VICI tells them, the connection's name under "name"."""
        with Vici(self.folder / "vici") as vici:
            events = vici.stream("list-sas", "list-sa")
        return [{"name": name, **sa} for event in events for name, sa in event.items()]

    def sa(self, name: str) -> dict[str, Any] | None:
        """The established IKE SA of connection `name`, the youngest if there are several."""
        found = [sa for sa in self.sas() if sa["name"] == name and sa.get("state") == "ESTABLISHED"]
        return max(found, key=lambda sa: int(sa["uniqueid"]), default=None)

    def children(self, name: str) -> list[dict[str, Any]]:
        """The installed Child SAs of all IKE SAs of connection `name`."""
        return [
            child
            for sa in self.sas()
            if sa["name"] == name
            for child in sa.get("child-sas", {}).values()
            if child.get("state") == "INSTALLED"
        ]

    def wait_child(self, name: str, seconds: float = 15.0) -> dict[str, Any]:
        """Wait for an installed Child SA of connection `name`."""
        deadline = time.monotonic() + seconds
        while not (found := self.children(name)):
            if time.monotonic() > deadline:
                raise AssertionError(f"no Child SA of {name}:\n{self.log[-6000:]}")
            time.sleep(0.02)
        return found[-1]

    def terminate(self, ike: str) -> None:
        """Delete the IKE SA of connection `ike`."""
        self.vici("terminate", {"ike": ike, "timeout": 5000})

    def rekey(self, *, ike: str = "", child: str = "") -> None:
        """Start a rekeying of an IKE SA or of a Child SA."""
        self.vici("rekey", {"ike": ike} if ike else {"child": child})
