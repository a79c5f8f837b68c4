"""Routers whose NAT runs in userspace: the standard picture with delay, loss and any behaviour.

Around the program of usernat.py one namespace: packets from `lan` are led into the TUN device
`natlan`, what the NAT sends leaves `natwan` for the public segment, where the router answers ARP
for the NAT's address.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.operations.lab import PUBLIC, TwoNats, _five_hosts

if TYPE_CHECKING:
    from agent.operations.lab import Lab, Namespace

PROGRAM = Path(__file__).with_name("usernat.py")

SETUP = """
echo 1 > /proc/sys/net/ipv4/ip_forward
for at in all default wan lan; do
  echo 0 > /proc/sys/net/ipv4/conf/$at/rp_filter
  echo 0 > /proc/sys/net/ipv4/conf/$at/send_redirects
done
ip tuntap add natlan mode tun
ip tuntap add natwan mode tun
ip link set natlan up txqueuelen 1000
ip link set natwan up txqueuelen 1000
ip route add {address}/32 dev natwan
ip route add default dev natlan table 100
ip rule add iif lan lookup 100
echo 1 > /proc/sys/net/ipv4/conf/wan/proxy_arp
echo 0 > /proc/sys/net/ipv4/neigh/wan/proxy_delay
"""


def user_nat_router(
    lab: Lab,
    name: str,
    public: Namespace,
    address: str,
    private: Namespace,
    inside: str,
    *options: str,
) -> Namespace:
    """A router for `private` behind `address` (".1" of the public segment takes ".201" itself).

    `options` are usernat.py's: "--delay", "20", "--filtering", "apd".
    """
    router = lab.namespace(name)
    own = f"{PUBLIC}.{200 + int(address.rpartition('.')[2])}/24"
    lab.connect(router, "wan", public, [own])
    lab.connect(router, "lan", private, [inside])
    router.shell(SETUP.format(address=address))
    child = router.popen(
        [sys.executable, "-E", PROGRAM, "--address", address, *options], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n", "the NAT did not start"
    return router


def two_user_nats(lab: Lab, *options: str, b: tuple[str, ...] | None = None) -> TwoNats:
    """`TwoNats` with both NATs in userspace, each called with `options`, or nat-b with `b`."""
    internet, server, gateway, operator, homes = _five_hosts(lab)
    routers = [
        user_nat_router(
            lab,
            f"nat-{side}",
            internet,
            f"{PUBLIC}.{index}",
            homes[index - 1],
            f"10.{index}.0.1/24",
            *(b if b is not None and side == "b" else options),
        )
        for index, side in enumerate("ab", 1)
    ]
    return TwoNats(lab, internet, server, gateway, operator, routers[0], routers[1])
