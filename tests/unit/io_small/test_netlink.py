"""rtnetlink against the kernel, in a namespace of the test's own; the codec without one."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agent.io import netlink, rtnetlink
from agent.io.netlink import Netlink

ROOT = Path(__file__).parents[3]


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


@pytest.fixture
def namespace():
    """A network namespace with a dummy-like veth pair `a`, `b`; removed also after a failure."""
    name = f"hg-nl{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(
            ["ip", "-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b"],
            check=True,
        )
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def run_inside(namespace: str, program: str) -> str:
    """Run `program` in the namespace; the test module's helpers are there."""
    head = "from tests.unit.io_small.test_netlink import *\nfrom agent.io.netlink import *\n"
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-W", "error", "-c", head + program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(namespace: str, *arguments: str) -> str:
    """What the judge, iproute2, says."""
    done = subprocess.run(
        ["ip", "-n", namespace, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.netns
def test_addresses_routes_and_links_as_iproute2_sees_them(namespace):
    run_inside(
        namespace,
        """
with Netlink() as n:
    n.set_link("a", up=True, mtu=1280); n.set_link("b", up=True); n.set_link("lo", up=True)
    n.add_address("a", ip("fd00::1"), 128); n.add_address("a", ip("10.7.0.1"), 24)
    n.add_address("a", ip("fd00::1"), 128)  # again is no error
    n.add_route(ip("fd01::"), 16, "a"); n.add_route(ip("10.9.0.0"), 16, "a", source=ip("10.7.0.1"))
    n.add_route(ip("0.0.0.0"), 0, "a", gateway=ip("10.7.0.2"), metric=50)
    n.add_route(ip("fd02::5"), 128, "a", table=4711)
    n.add_route(ip("0.0.0.0"), 0, "b", metric=60)
    assert n.name(n.index("a")) == "a"
    assert n.source_towards(ip("10.9.1.1")) == ip("10.7.0.1")
    assert n.source_towards(ip("fd01::9")) == ip("fd00::1")
    assert n.route_to(ip("10.9.1.1")).index == n.index("a")
    assert n.route_to(ip("8.8.8.8")).gateway == ip("10.7.0.2")
    assert n.route_to(ip("2001:db8::1")) is None
    assert n.source_towards(ip("10.7.0.1")) == ip("10.7.0.1")
    link = next(l for l in n.links() if l.name == "a")
    assert (link.mtu, link.is_up, link.is_running, link.is_loopback) == (1280, True, True, False)
    assert {a.ip for a in n.addresses("a")} >= {ip("fd00::1"), ip("10.7.0.1")}
    assert {a.ip for a in n.addresses()} >= {ip("fd00::1"), ip("127.0.0.1"), ip("::1")}
    assert not any(a.is_tentative for a in n.addresses("a") if a.ip == ip("fd00::1"))
    assert [r.metric for r in n.routes(socket.AF_INET) if r.prefix_length == 0] == [50, 60]
    assert [r.destination for r in n.routes(socket.AF_INET6, table=4711)] == [ip("fd02::5")]
""",
    )
    assert "mtu 1280" in shown(namespace, "link", "show", "dev", "a")
    assert "fd00::1/128 scope global nodad" in shown(namespace, "-6", "addr", "show", "dev", "a")
    assert "default via 10.7.0.2" in shown(namespace, "route")
    assert "10.9.0.0/16 proto static scope link src 10.7.0.1" in shown(
        namespace, "route", "show", "dev", "a"
    ).replace("  ", " ")
    run_inside(
        namespace,
        """
with Netlink() as n:
    assert n.del_route(ip("fd01::"), 16, "a"); assert not n.del_route(ip("fd01::"), 16, "a")
    assert n.del_route(ip("10.9.0.0"), 16, "a"); assert not n.del_route(ip("10.9.0.0"), 16, "a")
    assert n.del_route(ip("0.0.0.0"), 0, "a", metric=50)
    assert n.del_route(ip("fd02::5"), 128, "a", table=4711)
    assert n.del_address("a", ip("10.7.0.1"), 24); assert not n.del_address("a", ip("10.7.0.1"), 24)
    assert n.del_address("a", ip("fd00::1"), 128)
    assert not n.del_address("a", ip("fd00::1"), 128)
    n.set_link("a", up=False, segments=45)
    assert not next(l for l in n.links() if l.name == "a").is_up
""",
    )
    assert "gso_max_segs 45 " in shown(namespace, "-d", "link", "show", "a")
    assert "fd00::1" not in shown(namespace, "addr")
    assert "10.9.0.0" not in shown(namespace, "route")


@pytest.mark.netns
def test_errors_carry_the_kernels_words(namespace):
    out = run_inside(
        namespace,
        """
def said(call, *args, **kw):
    try: call(*args, **kw)
    except OSError as e: print(e.errno, e.strerror)
    else: print("no error")
with Netlink() as n:
    said(n.add_address, "a", ip("10.0.0.1"), 44)
    said(n.add_route, ip("10.0.0.1"), 24, "lo")
    said(n.add_address, 999, ip("fd00::1"), 128)
    said(n.index, "absent")
    said(n.set_link, "a", mtu=10**9)
    said(n.add_address, "a", b"123", 8)
""",
    ).splitlines()
    assert out[0].startswith(f"{errno.EINVAL} Invalid argument (")
    assert "prefix" in out[0]
    assert out[1].startswith(f"{errno.EINVAL} Invalid argument (")
    assert out[2].startswith(f"{errno.ENODEV} ")
    assert out[3] == f"{errno.ENODEV} there is no network interface absent"
    assert out[4].startswith(f"{errno.EINVAL} Invalid argument (")
    assert out[5] == f"{errno.EINVAL} an address has 4 or 16 octets, not 3"


@pytest.mark.netns
def test_watch_tells_changes_and_ignores_our_own_device(namespace):
    run_inside(
        namespace,
        """
import select
for name in ("all", "default", "a", "b"):  # else duplicate detection goes on for two seconds
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
with Netlink() as n:
    n.set_link("lo", up=True)
    watch = NetlinkWatch()
    assert not watch.drain()
    n.set_link("a", up=True); n.set_link("b", up=True)
    assert select.select([watch], [], [], 5)[0] and watch.drain()
    for change in (
        lambda: n.add_address("b", ip("10.7.0.1"), 24),
        lambda: n.add_route(ip("10.9.0.0"), 16, "b"),
        lambda: n.del_route(ip("10.9.0.0"), 16, "b"),
        lambda: n.del_address("b", ip("10.7.0.1"), 24),
        lambda: n.set_link("b", mtu=1300),
    ):
        change()
        assert watch.drain()
    while select.select([watch], [], [], 0)[0]:
        watch.drain()
    watch.ignore(n.index("a"))
    n.add_route(ip("10.9.0.0"), 16, "a"); n.del_route(ip("10.9.0.0"), 16, "a")
    assert not select.select([watch], [], [], 0)[0]  # the kernel keeps them to itself
    n.add_route(ip("10.9.0.0"), 16, "b")
    assert select.select([watch], [], [], 5)[0] and watch.drain()
    n.set_link("a", mtu=1400); n.add_address("a", ip("10.8.0.1"), 24)
    assert not watch.drain()
    for number in range(3000):  # more than the socket holds: lost changes are changes
        n.add_address("b", ip("10.7.0.1"), 24); n.del_address("b", ip("10.7.0.1"), 24)
    assert watch.drain()
    watch.close()
""",
    )


def test_reading_needs_no_rights():
    with Netlink() as kernel:
        loopback = next(link for link in kernel.links() if link.is_loopback)
        assert kernel.index(loopback.name) == loopback.index
        assert isinstance(kernel.addresses(), list)
        assert isinstance(kernel.routes(socket.AF_INET6), list)


class FakeSocket:
    """Plays the kernel to a Netlink: each request takes the next list of datagrams."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.waiting: list[bytes] = []
        self.sequence = 0

    def sendto(self, data: bytes, _address: tuple[int, int]) -> int:
        self.sequence = struct.unpack_from("=IHHI", data)[3]
        self.waiting = list(self.answers.pop(0))
        return len(data)

    def recv(self, _size: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0).replace(b"SEQ!", struct.pack("=I", self.sequence))

    def close(self) -> None:
        pass


def message(kind: int, body: bytes, flags: int = 0, sequence: bytes = b"SEQ!") -> bytes:
    data = struct.pack("=IHH", 16 + len(body), kind, flags) + sequence + bytes(4) + body
    return data + bytes(-len(data) & 3)


DONE = message(rtnetlink.NLMSG_DONE, bytes(4))
LO = message(rtnetlink.RTM_NEWLINK, rtnetlink.LINK.pack(0, 772, 1, 9, 0))


def kernel_of(*answers: list[bytes]) -> Netlink:
    kernel = Netlink()
    kernel.close()
    kernel._socket = FakeSocket(*answers)  # type: ignore[assignment]
    return kernel


def test_an_interrupted_dump_is_read_again():
    broken = message(rtnetlink.NLMSG_DONE, bytes(4), rtnetlink.NLM_F_DUMP_INTR)
    assert [link.index for link in kernel_of([LO, broken], [LO, DONE]).links()] == [1]
    with pytest.raises(InterruptedError):
        kernel_of(*[[LO, broken]] * netlink.DUMP_ATTEMPTS).links()


def test_answers_to_an_older_request_are_passed_over():
    stale = message(rtnetlink.RTM_NEWLINK, bytes(16), sequence=b"\xff" * 4)
    assert len(kernel_of([stale, LO + LO, DONE]).links()) == 2


def test_a_silent_kernel_is_an_error():
    with pytest.raises(OSError, match="did not answer") as caught:
        kernel_of([LO]).links()
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("cut", range(1, 40))
def test_truncated_messages_end_the_reading_without_a_crash(cut):
    body = rtnetlink.ROUTE.pack(2, 24, 0, 0, 254, 4, 0, 1, 0)
    body += rtnetlink.attribute(rtnetlink.RTA_DST, ip("10.0.0.0"))
    body += rtnetlink.attribute(rtnetlink.RTA_OIF, struct.pack("=I", 3))
    whole = rtnetlink.decode_route(body)
    assert whole is not None
    assert (whole.destination, whole.prefix_length, whole.index) == (ip("10.0.0.0"), 24, 3)
    assert list(rtnetlink.messages(message(24, body)[:-cut])) == []
    if cut < len(body) - rtnetlink.ROUTE.size:
        assert rtnetlink.decode_route(body[:-cut]) is not None


def test_what_leads_nowhere_is_no_route():
    for kind in (0, 3, 6, 7, 8):
        assert rtnetlink.decode_route(rtnetlink.ROUTE.pack(2, 0, 0, 0, 254, 4, 0, kind, 0)) is None
    cached = rtnetlink.ROUTE.pack(10, 128, 0, 0, 254, 4, 0, 1, rtnetlink.RTM_F_CLONED)
    assert rtnetlink.decode_route(cached) is None
    assert rtnetlink.decode_route(cached, cloned=True) is not None


class PickySocket:
    """Takes the time limit in one size only."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken: dict[int, bytes] = {}

    def setsockopt(self, _level: int, option: int, value: bytes) -> None:
        if len(value) != self.size:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.taken[option] = value


@pytest.mark.parametrize("value", netlink.ANSWER_TIMES)
def test_the_time_limit_is_given_in_the_size_that_the_system_wants(value):
    picky = PickySocket(len(value))
    netlink._limit_time(picky)  # type: ignore[arg-type]
    assert set(picky.taken) == {socket.SO_RCVTIMEO, socket.SO_SNDTIMEO}
    with pytest.raises(OSError, match="no time limit"):
        netlink._limit_time(PickySocket(3))  # type: ignore[arg-type]


def test_the_kernel_has_the_time_limit():
    with Netlink() as kernel:
        got = kernel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
        assert got == netlink.ANSWER_TIMES[0]
