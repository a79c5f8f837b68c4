"""UDP sockets over loopback, and what they do when the kernel says no."""

from __future__ import annotations

import errno
import socket

import pytest

from agent.datagram import Address, Path, Transmit
from agent.errors import PlatformError
from agent.io import udp as module
from agent.io.udp import KNOWN_PATHS, QUEUE_OCTETS, UdpSocket

FAMILIES = pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
    ids=["ipv4", "ipv6"],
)
UDP_SEGMENT = (17, 103)


@pytest.fixture
def sockets(request):
    """Two sockets of the family that the test is run for."""
    spec = getattr(request.node, "callspec", None)
    family = spec.params["family"] if spec else socket.AF_INET
    pair = [UdpSocket(0, family), UdpSocket(0, family)]
    yield pair
    for each in pair:
        each.close()


def path(one, other, host, local=None):
    """From `one` to `other`; without `local` the kernel chooses the source."""
    nowhere = bytes(4 if one.family == socket.AF_INET else 16)
    source = Address.parse(local, one.port) if local else Address(nowhere, one.port)
    return Path(source, Address.parse(host, other.port))


def datagrams(batch):
    found = []
    for received in batch:
        size = received.segment or max(1, len(received.data))
        found += [received.data[i : i + size] for i in range(0, max(1, len(received.data)), size)]
    return found


@FAMILIES
def test_datagrams_arrive_with_both_addresses(sockets, family, host):
    one, other = sockets
    one.send([Transmit(path(one, other, host), b"hello"), Transmit(path(one, other, host), b"")])
    batch = other.receive()
    assert [r.data for r in batch] == [b"hello", b""]
    assert batch[0].path == Path(Address.parse(host, other.port), Address.parse(host, one.port))
    assert batch[0].path is batch[1].path
    assert other.receive() == []


@FAMILIES
def test_an_answer_along_the_path_it_came(sockets, family, host):
    one, other = sockets
    one.send([Transmit(path(one, other, host), b"?")])
    [question] = other.receive()
    other.send([Transmit(question.path, b"!")])
    assert [r.data for r in one.receive()] == [b"!"]


@FAMILIES
def test_many_in_one_call(sockets, family, host):
    one, other = sockets
    expected = [bytes([i]) * 1200 for i in range(40)] + [b"last"]
    one.send([Transmit(path(one, other, host), b"".join(expected), 1200)])
    assert datagrams(other.receive()) == expected
    assert not one.counters


def test_the_local_address_is_chosen(sockets):
    one, other = sockets
    one.send([Transmit(path(one, other, "127.0.0.1", local="127.0.0.9"), b"x")])
    [received] = other.receive()
    assert received.path.remote == Address.parse("127.0.0.9", one.port)


def test_the_destination_is_seen(sockets):
    one, other = sockets
    one.send([Transmit(path(one, other, "127.0.0.7"), b"x")])
    assert other.receive()[0].path.local == Address.parse("127.0.0.7", other.port)


def test_the_budget_is_kept(sockets):
    one, other = sockets
    one.send([Transmit(path(one, other, "127.0.0.1"), bytes((i,)) * (i + 1)) for i in range(9)])
    assert len(other.receive(4)) == 4
    assert len(other.receive(4)) == 4
    assert len(other.receive(4)) == 1


def test_a_port_in_use_is_explained(sockets):
    with pytest.raises(PlatformError, match=f"UDP port {sockets[0].port} .*another program"):
        UdpSocket(sockets[0].port)


def test_known_paths_are_bounded(sockets):
    one, other = sockets
    for i in range(3 * KNOWN_PATHS):
        local = f"127.1.{i >> 8}.{i & 255}"
        one.send([Transmit(path(one, other, "127.0.0.1", local=local), b"x")])
        assert other.receive()[0].path.remote.host == local
    assert len(other._sources) <= KNOWN_PATHS
    assert len(one._routes) <= KNOWN_PATHS


class Kernel:
    """A socket that answers as it is told, one answer a call; None takes what is sent."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []
        self.segments = 0
        self.arriving = []

    def sendmsg(self, buffers, ancillary, flags, address):
        answer = self.answers.pop(0) if self.answers else None
        many = any(item[:2] == UDP_SEGMENT for item in ancillary)
        self.segments += many
        if callable(answer):
            answer = answer(many)
        if answer is not None:
            raise OSError(answer, "no")
        self.sent.append(b"".join(buffers))

    def recvmsg(self, size, ancillary):
        if not self.arriving:
            raise BlockingIOError(errno.EAGAIN, "no")
        answer = self.arriving.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, "no")
        return answer

    def close(self):
        pass


@pytest.fixture
def told():
    """A socket on a Kernel that the test tells what to answer."""
    sock = UdpSocket(0)
    sock._socket.close()
    sock._socket = kernel = Kernel()
    return sock, kernel


TO = Path(Address(bytes(4), 4500), Address.parse("192.0.2.7", 4500))


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.EMSGSIZE])
def test_without_segmentation_one_at_a_time_and_only_one_attempt(told, error):
    sock, kernel = told
    kernel.answers = [error]
    sock.send([Transmit(TO, b"aaabbbc", 3), Transmit(TO, b"dddee", 3), Transmit(TO, b"f")])
    assert kernel.sent == [b"aaa", b"bbb", b"c", b"ddd", b"ee", b"f"]
    assert kernel.segments == 1
    assert not sock.counters


def test_one_remote_without_segmentation_leaves_the_others(told):
    sock, kernel = told
    elsewhere = Path(TO.local, Address.parse("192.0.2.8", 4500))
    kernel.answers = [errno.EIO]
    sock.send([Transmit(TO, b"aab", 2), Transmit(elsewhere, b"ccd", 2)])
    assert kernel.sent == [b"aa", b"b", b"ccd"]


def test_a_path_that_refuses_single_datagrams_too_is_not_about_segmentation(told):
    sock, kernel = told
    kernel.answers = [errno.EINVAL] * 3
    sock.send([Transmit(TO, b"aab", 2)])
    assert sock.counters == {"einval": 2}
    sock.send([Transmit(TO, b"aab", 2)])
    assert kernel.sent == [b"aab"]


def test_a_full_buffer_queues_in_order_and_never_blocks(told):
    sock, kernel = told
    kernel.answers = [errno.EAGAIN]
    sock.send([Transmit(TO, b"one"), Transmit(TO, b"two", 1)])
    assert sock.wants_write
    assert kernel.sent == []
    sock.send([Transmit(TO, b"three")])
    kernel.answers = [None, errno.EAGAIN]
    sock.flush()
    assert kernel.sent == [b"one"]
    assert sock.wants_write
    sock.flush()
    assert kernel.sent == [b"one", b"two", b"three"]
    assert not sock.wants_write
    assert sock._queued == 0


def test_the_queue_is_bounded(told):
    sock, kernel = told
    kernel.answers = [errno.EAGAIN]
    sock.send([Transmit(TO, bytes(60_000))] * 40)
    assert sock._queued <= QUEUE_OCTETS
    assert sock.counters == {"queue_full": 40 - QUEUE_OCTETS // 60_000}


def test_a_buffer_that_fills_within_single_datagrams_keeps_the_rest(told):
    sock, kernel = told
    kernel.answers = [errno.EINVAL, None, errno.EAGAIN]
    sock.send([Transmit(TO, b"aabbc", 2)])
    assert kernel.sent == [b"aa"]
    assert sock.wants_write
    sock.flush()
    assert kernel.sent == [b"aa", b"bb", b"c"]
    assert not sock.wants_write
    assert sock._queued == 0


def test_connection_refused_is_of_the_past(told):
    sock, kernel = told
    kernel.answers = [errno.ECONNREFUSED]
    sock.send([Transmit(TO, b"x")])
    assert kernel.sent == [b"x"]
    kernel.arriving = [errno.ECONNREFUSED, (b"y", [], 0, ("192.0.2.7", 4500))]
    assert [r.data for r in sock.receive()] == [b"y"]
    assert sock.counters == {"econnrefused": 1}


@pytest.mark.parametrize("error", [errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS])
def test_what_cannot_be_sent_is_counted(told, error):
    sock, kernel = told
    kernel.answers = [error]
    sock.send([Transmit(TO, b"x"), Transmit(TO, b"y")])
    assert kernel.sent == [b"y"]
    assert sum(sock.counters.values()) == 1


def test_a_truncated_datagram_is_dropped(told):
    sock, kernel = told
    kernel.arriving = [(b"x", [], socket.MSG_TRUNC, ("192.0.2.7", 4500))]
    assert sock.receive() == []
    assert sock.counters == {"truncated": 1}


def test_without_a_way_to_force_buffers_the_usual_options_are_used(monkeypatch):
    calls = []

    class Unprivileged(socket.socket):
        def setsockopt(self, level, option, *value):
            calls.append(option)
            if option in (32, 33):
                raise PermissionError(errno.EPERM, "no")
            super().setsockopt(level, option, *value)

    monkeypatch.setattr(module.socket, "socket", Unprivileged)
    UdpSocket(0).close()
    assert socket.SO_RCVBUF in calls
    assert socket.SO_SNDBUF in calls


def test_a_link_local_remote_keeps_its_interface():
    sock = UdpSocket(0, socket.AF_INET6)
    try:
        learnt = sock._learn(("fe80::1%lo", 4500, 0, 3), bytes(15) + b"\1" + bytes(4))
        assert learnt.remote == Address.parse("fe80::1", 4500)
        assert sock._route(learnt)[1] == ("fe80::1", 4500, 0, 3)
    finally:
        sock.close()
