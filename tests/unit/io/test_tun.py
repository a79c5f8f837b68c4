"""The TUN device against the real kernel, each test in a network namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import PlatformError
from agent.io import tun as module
from agent.io.tun import Tun

ROOT = Path(__file__).parents[3]
PRELUDE = """
import itertools, os, select, socket, subprocess
from agent.io.tun import Tun
from agent.ipsec import Offload
from agent.ipsec.flow import flow_key
from agent.ipsec.segments import Coalescer
from tests.unit.ipsec.packets import tcp, udp

def ip(*words):
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE).stdout

def writes(tun, packets):
    coalescer = Coalescer(Offload(tun.vnet, tun.udp_segmentation))
    for _, run in itertools.groupby(packets, len):
        coalescer.add_run(list(run), lambda p: coalescer.add(p, b"", flow_key(p)))
    return coalescer.finish()

def ready():
    tun = Tun("hgtest0", 1400)
    # `there` of the packets is us; `here` is behind the device.
    ip("address", "add", "10.77.2.1/24", "dev", tun.name)
    ip("route", "add", "10.77.1.0/24", "dev", tun.name)
    ip("address", "add", "fd00::2/64", "dev", tun.name, "nodad")
    # A worker of the kernel makes it ours; until then what comes for it is dropped in silence.
    while not ip("-6", "route", "show", "table", "local", "fd00::2"):
        pass
    return tun

def spoken(tun, protocol, kind=None, *, seconds=10):
    # The kernel sends things of its own (multicast listener reports, router solicitations), and
    # takes its time when busy. `kind` is that of ICMPv6.
    found = []
    while not found and select.select([tun], [], [], seconds)[0]:
        found = [p for p in tun.receive() if (p[6] if p[0] >> 4 == 6 else p[9]) == protocol]
        found = [p for p in found if kind is None or p[40] == kind]
    return found

def answered(tun, packet, *what):
    # ICMP errors have limits that the kernel keeps for the whole machine: asked until it answers.
    for _ in range(50):
        tun.write(writes(tun, [packet]))
        if found := spoken(tun, *what, seconds=0.2):
            return found[:1]
    raise AssertionError("no answer")
"""


def inside(script: str) -> None:
    """Run a script in a new network namespace; its failure is the test's."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-W", "error", "-c", PRELUDE + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.netns
def test_packets_in_both_directions():
    inside("""
tun = ready()
[answer] = answered(tun, udp(b"x", v4=True), 1)
assert answer[20:22] == bytes((3, 3)), answer.hex()  # port unreachable
assert answer[28:] == udp(b"x", v4=True)
[answer] = answered(tun, udp(b"x"), 58, 1)
assert answer[40:42] == bytes((1, 4)), answer.hex()
assert answer[48:] == udp(b"x")
""")


@pytest.mark.netns
@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
def test_the_kernel_takes_udp_super_packets(v4):
    inside(f"""
v4 = {v4}
tun = ready()
sock = socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
sock.bind(("", 53))
sent = [bytes((i,)) * 1000 for i in range(40)] + [b"last"]
made = writes(tun, [udp(p, v4=v4) for p in sent])
assert len(made) == (1 if tun.udp_segmentation else 41)
tun.write(made)
sock.settimeout(5)
assert [sock.recv(2000) for _ in sent] == sent
assert not tun.counters
""")


@pytest.mark.netns
@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
def test_a_tcp_connection_takes_super_packets(v4):
    inside(f"""
v4 = {v4}
tun = ready()
assert tun.vnet
server = socket.create_server(("", 80), family=socket.AF_INET if v4 else socket.AF_INET6)
at = 20 if v4 else 40
tun.write(writes(tun, [tcp(b"", flags=2, sequence=999, ack=0, options=b"", v4=v4)]))
[answer] = spoken(tun, 6)
theirs = int.from_bytes(answer[at + 4 : at + 8], "big") + 1
ours = dict(ack=theirs % 2**32, options=b"", v4=v4)
tun.write(writes(tun, [tcp(b"", **ours)]))
connection, _ = server.accept()
parts = [bytes((i,)) * 1000 for i in range(40)]
segments = [tcp(p, sequence=1000 + i * 1000, ident=i, **ours) for i, p in enumerate(parts)]
segments.append(tcp(b"end", sequence=41000, flags=0x18, **ours))
made = writes(tun, segments)
assert len(made) == 1
tun.write(made)
connection.setblocking(False)
assert connection.recv(1 << 17) == b"".join(parts) + b"end"
assert not tun.counters
""")


@pytest.mark.netns
def test_what_is_read_is_segmented_and_has_checksums():
    inside("""
from tests.unit.ipsec.packets import checksum
tun = ready()
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.setsockopt(17, 103, 1000)  # UDP_SEGMENT
sock.sendto(bytes(3500), ("fd00::1", 9))
packets = spoken(tun, 17)
assert [len(p) for p in packets] == [1048, 1048, 1048, 548]
for p in packets:
    assert checksum(p[8:40] + (len(p) - 40).to_bytes(4, "big") + bytes((0, 0, 0, 17)) + p[40:]) == 0
assert len(tun.receive(2)) == 0
""")


@pytest.mark.netns
def test_name_mtu_and_end():
    inside("""
tun = ready()
link = subprocess.run(["ip", "link", "show", "hgtest0"], check=True, capture_output=True).stdout
assert b"mtu 1400" in link and b"UP" in link
tun.set_mtu(1280)
assert b"mtu 1280" in subprocess.run(["ip", "link", "show", "hgtest0"], capture_output=True).stdout
from agent.errors import PlatformError
try:
    Tun("hgtest0")
except PlatformError as error:
    assert "another program" in error.sentence
else:
    raise AssertionError
ip("link", "set", "hgtest0", "down")
tun.write([[bytes(10) + udp(b"x")]])
assert tun.counters == {"eio": 1}, tun.counters
tun.receive()  # does not raise
tun.close()
tun.close()
assert subprocess.run(["ip", "link", "show", "hgtest0"], capture_output=True).returncode
""")


@pytest.mark.netns
def test_a_kernel_without_vnet_headers_gets_packets_one_by_one():
    inside("""
import agent.io.tun as module
import errno
real = module.fcntl.ioctl
def ioctl(fd, request, *args):
    if request == module._TUNSETIFF and args[0][17] & 0x40:
        raise OSError(errno.EINVAL, "no")
    return real(fd, request, *args)
module.fcntl = type("fcntl", (), {"ioctl": staticmethod(ioctl)})
tun = ready()
assert not tun.vnet and not tun.udp_segmentation
tun.write(writes(tun, [udp(b"x")] * 2))
assert len(spoken(tun, 58)) >= 1
""")


def test_a_name_that_is_too_long(monkeypatch):
    monkeypatch.setattr(module, "_open", lambda: pytest.fail("opened"))
    with pytest.raises(PlatformError, match="at most 15"):
        Tun("hearthgate-device")


@pytest.mark.parametrize(
    ("error", "hint"), [(FileNotFoundError(2, "x"), "modprobe"), (PermissionError(13, "x"), "root")]
)
def test_no_device_is_explained(monkeypatch, error, hint):
    def fail(*_):
        raise error

    monkeypatch.setattr(module.os, "open", fail)
    with pytest.raises(PlatformError, match=hint):
        Tun("hgtest0")


@pytest.mark.netns
@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
def test_unfinished_packets_in_both_directions(v4):
    inside(f"""
from agent.ipsec import supers
from tests.unit.ipsec.packets import checksum, with_checksum
v4 = {v4}
at = 20 if v4 else 40
family = socket.AF_INET if v4 else socket.AF_INET6
tun = ready()
tun.set_unfinished(True)
assert tun.unfinished

def wide(packet):
    return with_checksum(packet[: at + 14] + b"\\xff\\xff" + packet[at + 16 :])

def vouched(packet):  # as from a peer that leaves the checksum to us
    coalescer = Coalescer(Offload(tun.vnet, tun.udp_segmentation))
    coalescer.vouched = True
    coalescer.add(packet[:-1] + b"!", b"", flow_key(packet))
    return coalescer.finish()

def right(packet):
    ends = packet[12:20] if v4 else packet[8:40]
    protocol = packet[9] if v4 else packet[6]
    rest = (len(packet) - at).to_bytes(4, "big") + bytes((0, 0, 0, protocol)) + packet[at:]
    return checksum(ends + rest) == 0

def finished(protocol, summed=True):
    frames = []
    for frame in tun.receive():
        packet = frame[10:] if frame[0] < 16 else frame
        if packet[0] >> 4 == (4 if v4 else 6) and packet[9 if v4 else 6] == protocol:
            frames.append(frame)
    return frames, [p for f in frames for p in supers.finish(f, summed=summed)]

server = socket.create_server(("", 80), family=family)
syn = tcp(b"", flags=2, sequence=999, ack=0, options=b"\\2\\4\\3\\xe8", v4=v4)
tun.write(writes(tun, [wide(syn)]))
_, [answer] = finished(6)
assert right(answer)
theirs = (int.from_bytes(answer[at + 4 : at + 8], "big") + 1) % 2**32
tun.write(writes(tun, [wide(tcp(b"", ack=theirs, options=b"", v4=v4))]))
connection, _ = server.accept()
data = bytes(i % 251 for i in range(4500))
connection.sendall(data)
frames, packets = finished(6)
assert len(frames) == 1 and len(frames[0]) == 10 + at + 20 + 4500
assert [len(p) - at - 20 for p in packets] == [1000] * 4 + [500]
assert all(map(right, packets))
assert b"".join(p[at + 20 :] for p in packets) == data
numbers = [int.from_bytes(p[at + 4 : at + 8], "big") for p in packets]
assert numbers == [(theirs + i * 1000) % 2**32 for i in range(5)]
assert [p[at + 13] for p in packets] == [0x10] * 4 + [0x18]

tun.write(vouched(tcp(b"word?", flags=0x18, ack=theirs, options=b"", v4=v4)))
connection.settimeout(5)
assert connection.recv(99) == b"word!"
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind(("", 53))
sock.settimeout(5)
tun.write(vouched(udp(b"datagram?", v4=v4)))
assert sock.recv(99) == b"datagram!"
sock.sendto(b"odd", ("10.77.1.1" if v4 else "fd00::1", 9))
frames, packets = finished(17)
assert len(frames) == 1 and frames[0][0] == 1
assert all(map(right, packets)) and packets[0].endswith(b"odd")
tun.set_unfinished(False)
sock.sendto(b"odd", ("10.77.1.1" if v4 else "fd00::1", 9))
assert any(right(p) for p in spoken(tun, 17))
assert not tun.counters, tun.counters
""")


@pytest.mark.netns
def test_a_kernel_that_refuses_goes_on_as_before():
    inside("""
import agent.io.tun as module
import errno
tun = ready()
real, asked = module.fcntl.ioctl, []
def ioctl(fd, request, *args):
    if request == module._TUNSETOFFLOAD:
        asked.append(args[0])
        raise OSError(errno.EINVAL, "no")
    return real(fd, request, *args)
module.fcntl = type("fcntl", (), {"ioctl": staticmethod(ioctl)})
tun.set_unfinished(True)
tun.set_unfinished(True)
assert asked == [7]
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.sendto(b"x", ("fd00::1", 9))
assert len(spoken(tun, 17)) == 1
""")
