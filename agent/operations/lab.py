"""A laboratory of network namespaces on this machine: hosts, a public segment, NAT routers.

The demo and the tests share it. Every host is a namespace `hg-<owner>-<name>`; `<owner>` is the
process that made it (pid and start time), so that several laboratories run side by side and one
whose process died without cleaning up is recognised and removed at the next start. No packet
leaves the namespaces: nothing is connected to the machine's own network.

Needs root, or a user namespace of its own (see sandbox.py), `ip` and `nft`.
Left out: delay and loss (the kernel may have no netem; tests/lab has a NAT in userspace).
"""

# ruff: noqa: S603
# The arguments are this module's own or the developer's, and `ip` stands where the system has it.

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agent.errors import PlatformError
from agent.operations.leftovers import KEPT, MARK, NETNS, own_tag, remove, remove_stale
from agent.operations.processes import end_children

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

PUBLIC = "203.0.113"
"""The public segment (TEST-NET-3 of RFC 5737)."""
PUBLIC6 = "2001:db8:113:"
"""The same for IPv6 (documentation prefix of RFC 3849)."""

_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,20}$")

NAT_RULES = """
table ip hgnat {{
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname "wan" masquerade{ports}
  }}
}}
table inet hgfilter {{
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" accept
  }}
  chain input {{
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname "lo" accept
    iifname "lan" accept
    meta l4proto icmpv6 accept
  }}
}}
"""
# Input is dropped too: an unwanted datagram that were delivered to the router itself would leave a
# conntrack entry that takes the very port which the masquerading of the answer wants.


@dataclass(slots=True)
class Namespace:
    """One host of the laboratory."""

    name: str
    full: str
    mark: str = ""
    children: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    def argv(self, command: Sequence[str | os.PathLike[str]]) -> list[str]:
        """`command` as it is called to run inside."""
        return ["ip", "netns", "exec", self.full, *(os.fspath(word) for word in command)]

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float | None = 60.0,
        env: Mapping[str, str] | None = None,
        input_text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside and wait; raises PlatformError with its message if it fails."""
        return _call(self.argv(command), check, timeout, env, input_text)

    def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` inside. The laboratory ends it when it is taken down.

        `ip netns exec` replaces itself by the command: the pid is the command's own.
        """
        child = subprocess.Popen(
            self.argv(command),
            env={**(os.environ if env is None else env), MARK: self.mark},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self.children.append(child)
        return child

    def shell(self, script: str) -> str:
        """Run lines of `sh -eu` inside; returns what they print."""
        return self.run(["sh", "-eu"], input_text=script).stdout

    def ping(self, address: str, *, count: int = 1, seconds: float = 2.0) -> bool:
        """Whether an echo to `address` is answered within `seconds`."""
        argv = ["ping", "-n", "-q", "-i", "0.2", "-c", str(count), "-W", f"{seconds:.2f}", address]
        return self.run(argv, check=False).returncode == 0


class Lab:
    """All namespaces of one owner; a context manager that leaves nothing behind."""

    def __init__(self, label: str = "") -> None:
        remove_stale()
        self.owner = own_tag()
        self._prefix = f"hg-{self.owner}-{label}{'-' if label else ''}"
        self._count = 0
        self.namespaces: dict[str, Namespace] = {}
        self.folder = Path(tempfile.mkdtemp(prefix=f"hg-{self.owner}-"))

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def namespace(self, name: str) -> Namespace:
        """A new host without any link but its loopback."""
        if not _NAME.match(name) or name in self.namespaces:
            raise ValueError(f"not a new name for a host: {name!r}")
        host = Namespace(name, _free_name(self._prefix, name), str(self.folder))
        self.namespaces[name] = host  # first: an interruption must not leave it behind
        _call(["ip", "netns", "add", host.full])
        host.shell(
            "ip link set lo up\n"
            # Addresses are ready at once: there is nobody else on these links to ask.
            "echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad\n"
            "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad\n"
            "echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra\n"
        )
        return host

    def switch(self, name: str) -> Namespace:
        """A namespace that holds a bridge `br0`: a segment that hosts are connected to."""
        host = self.namespace(name)
        host.shell(
            "ip link add br0 type bridge\necho 0 > /proc/sys/net/ipv6/conf/br0/disable_ipv6\n"
            "ip link set br0 up\n"
        )
        return host

    def connect(
        self,
        host: Namespace,
        device: str,
        switch: Namespace,
        addresses: Iterable[str] = (),
        *,
        gateways: Iterable[str] = (),
        mtu: int = 1500,
    ) -> None:
        """Give `host` a link into `switch`, with addresses ("10.1.0.2/24") and default routes."""
        self._count += 1
        port = f"p{self._count}"
        self.link(host, device, switch, port)
        switch.shell(f"ip link set {port} mtu {mtu} master br0 up\n")
        lines = [f"ip link set {device} mtu {mtu} up"]
        lines += [f"ip addr add {address} dev {device}" for address in addresses]
        lines += [f"ip route add default via {gateway} dev {device}" for gateway in gateways]
        host.shell("\n".join(lines) + "\n")

    def link(self, one: Namespace, device: str, other: Namespace, other_device: str) -> None:
        """A cable between two hosts; both ends are down and have no address yet."""
        words = f"ip -n {one.full} link add {device} type veth peer name {other_device}"
        _call([*words.split(), "netns", other.full])

    def nat_router(
        self,
        name: str,
        public: Namespace,
        address: str,
        private: Namespace,
        inside: str,
        *,
        address_dependent: bool = False,
    ) -> Namespace:
        """A router that masquerades `private` behind `address` and drops what comes in unasked.

        Linux's mapping is endpoint-independent as long as the port is free; with
        `address_dependent` every destination gets another random port (a "symmetric" NAT).
        """
        router = self.namespace(name)
        self.connect(router, "wan", public, [f"{address}/24"])
        self.connect(router, "lan", private, [inside])
        router.shell("echo 1 > /proc/sys/net/ipv4/ip_forward\n")
        ports = " random,fully-random" if address_dependent else ""
        router.run(["nft", "-f", "-"], input_text=NAT_RULES.format(ports=ports))
        return router

    def keep(self) -> None:
        """Let the laboratory outlive this process until `remove_kept` is called."""
        (self.folder / KEPT).touch()

    @property
    def is_kept(self) -> bool:
        """Whether `keep` was called."""
        return (self.folder / KEPT).exists()

    def close(self) -> None:
        """End every process inside, remove the namespaces and the folder. Can be repeated."""
        if self.is_kept:
            return
        # A child that has only just been started need not be in its namespace yet: by pid first.
        end_children([child for host in self.namespaces.values() for child in host.children])
        remove([host.full for host in self.namespaces.values()], [self.folder])
        self.namespaces.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(slots=True)
class TwoNats:
    """The house's standard picture: a server in public, two hosts, each behind its own NAT.

    internet 203.0.113.0/24:  server .10   nat-a .1   nat-b .2   (2001:db8:113::10 for the server)
    home-a   10.1.0.0/24:     nat-a  .1    gateway  .10
    home-b   10.2.0.0/24:     nat-b  .1    operator .10
    """

    lab: Lab
    internet: Namespace
    server: Namespace
    gateway: Namespace
    operator: Namespace
    nat_a: Namespace
    nat_b: Namespace

    SERVER = f"{PUBLIC}.10"
    NAT_A = f"{PUBLIC}.1"
    NAT_B = f"{PUBLIC}.2"
    GATEWAY = "10.1.0.10"
    OPERATOR = "10.2.0.10"

    @classmethod
    def build(cls, lab: Lab, *, address_dependent: tuple[bool, bool] = (False, False)) -> TwoNats:
        """Make all seven namespaces in `lab`; about a third of a second."""
        internet, server, gateway, operator, homes = _five_hosts(lab)
        routers = [
            lab.nat_router(
                f"nat-{side}",
                internet,
                f"{PUBLIC}.{index}",
                homes[index - 1],
                f"10.{index}.0.1/24",
                address_dependent=address_dependent[index - 1],
            )
            for index, side in enumerate("ab", 1)
        ]
        return cls(lab, internet, server, gateway, operator, routers[0], routers[1])


def _five_hosts(
    lab: Lab,
) -> tuple[Namespace, Namespace, Namespace, Namespace, tuple[Namespace, Namespace]]:
    """What there is besides the NATs: (internet, server, gateway, operator, the two homes)."""
    internet = lab.switch("internet")
    homes = (lab.switch("home-a"), lab.switch("home-b"))
    server, gateway, operator = (lab.namespace(n) for n in ("server", "gateway", "operator"))
    lab.connect(server, "eth0", internet, [f"{PUBLIC}.10/24", f"{PUBLIC6}:10/64"])
    lab.connect(gateway, "eth0", homes[0], ["10.1.0.10/24"], gateways=["10.1.0.1"])
    lab.connect(operator, "eth0", homes[1], ["10.2.0.10/24"], gateways=["10.2.0.1"])
    return internet, server, gateway, operator, homes


def check_can_build() -> None:
    """Raise PlatformError with the reason if namespaces, NAT or TUN devices are not to be had."""
    with Lab("probe") as lab:
        host = lab.namespace("probe")
        try:
            host.run(["nft", "-f", "-"], input_text=NAT_RULES.format(ports=""))
        except PlatformError as error:
            raise PlatformError(f"This kernel has no NAT in nftables: {error}") from error
        try:
            host.run(["ip", "tuntap", "add", "probe0", "mode", "tun"])
        except PlatformError as error:
            raise PlatformError(f"There are no TUN devices here: {error}") from error


def _free_name(prefix: str, name: str) -> str:
    """One process may have several laboratories: number the names that are taken."""
    candidate, number = prefix + name, 1
    while (NETNS / candidate).exists():
        number += 1
        candidate = f"{prefix}{name}-{number}"
    return candidate


def _call(
    argv: Sequence[str],
    check: bool = True,
    timeout: float | None = 60.0,
    env: Mapping[str, str] | None = None,
    input_text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        env=None if env is None else dict(env),
        input=input_text,
        stdin=subprocess.DEVNULL if input_text is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        reason = (done.stderr or done.stdout).strip()[-600:]
        raise PlatformError(f"'{' '.join(argv)}' failed: {reason}")
    return done
