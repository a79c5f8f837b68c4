"""Super-packets: what the kernel cuts them into is what the peer sent, each flow in its order."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ipsec import Grants
from agent.ipsec.flow import flow_key, read
from agent.ipsec.segments import MAX_SEGMENTS, Coalescer, Offload, runs
from tests.unit.ipsec.packets import Pair, arriving, checksum, echo, parameters, segment, tcp, udp

BOTH = pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
FULL = Offload(vnet=True, udp=True)
SIZE = 1000


def coalesced(packets, offload=FULL):
    """The writes for packets that carry no trailer, all of them let through."""
    coalescer = Coalescer(offload)
    for _, run in groupby(packets, len):
        coalescer.add_run(list(run), lambda packet: coalescer.add(packet, b"", flow_key(packet)))
    return coalescer.finish()


def cut(writes):
    return [packet for buffers in writes for packet in segment(buffers)]


def stream(count, *, size=SIZE, start=1000, v4=False, last=None, **fields):
    packets = [
        tcp(bytes([i % 251]) * size, sequence=start + i * size, v4=v4, ident=i, **fields)
        for i in range(count)
    ]
    if last is not None:
        packets.append(tcp(last, sequence=start + count * size, v4=v4, ident=count, **fields))
    return packets


def same(packets):
    """Packets without the IPv4 identification and header checksum, which the kernel sets anew."""
    return [p if p[0] >> 4 == 6 else p[:4] + p[6:10] + p[12:] for p in packets]


@BOTH
def test_a_stream_is_one_write(v4):
    packets = stream(40, v4=v4)
    writes = coalesced(packets)
    assert len(writes) == 1
    assert same(cut(writes)) == same(packets)


@BOTH
def test_checksums_of_the_test_packets_are_right(v4):
    packet = tcp(b"x" * 11, v4=v4)
    at, ends = (20, packet[12:20]) if v4 else (40, packet[8:40])
    assert (
        checksum(ends + (len(packet) - at).to_bytes(4, "big") + bytes((0, 0, 0, 6)) + packet[at:])
        == 0
    )


@BOTH
@pytest.mark.parametrize("flags", [0x10, 0x18])
def test_the_last_may_be_shorter_and_push(v4, flags):
    packets = stream(3, v4=v4)
    packets.append(tcp(b"end", sequence=1000 + 3 * SIZE, flags=flags, v4=v4))
    writes = coalesced(packets)
    assert len(writes) == 1
    assert same(cut(writes)) == same(packets)


@BOTH
def test_nothing_follows_a_push_or_a_shorter_one(v4):
    packets = stream(2, v4=v4, last=b"short")
    packets += stream(2, v4=v4, start=1000 + 2 * SIZE + 5)
    packets.append(tcp(bytes(SIZE), sequence=1005 + 4 * SIZE, flags=0x18, v4=v4))
    packets += stream(2, v4=v4, start=1005 + 5 * SIZE)
    writes = coalesced(packets)
    assert [len(w) for w in writes] == [4, 4, 3]
    assert same(cut(writes)) == same(packets)


CHANGES = {
    "gap": {"sequence": 1000 + 2 * SIZE + 1},
    "back": {"sequence": 1000},
    "ack": {"ack": 6},
    "options": {"options": b"\1\1\x08\x0a" + bytes(7) + b"\1"},
    "fewer options": {"options": b""},
    "fin": {"flags": 0x11},
    "rst": {"flags": 0x14},
    "urg": {"flags": 0x30},
    "ece": {"flags": 0x50},
    "syn": {"flags": 0x12},
}


@BOTH
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_differs_stands_alone(v4, change):
    packets = stream(2, v4=v4)
    packets.append(tcp(bytes(SIZE), v4=v4, **({"sequence": 1000 + 2 * SIZE} | change)))
    writes = coalesced(packets)
    assert [len(w) for w in writes] == [3, 2]
    assert same(cut(writes)) == same(packets)


def changed(packet, at, value):
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


@pytest.mark.parametrize(("v4", "at"), [(True, 1), (True, 8), (False, 1), (False, 3), (False, 7)])
def test_another_hop_limit_or_traffic_class_stands_alone(v4, at):
    packets = stream(3, v4=v4)
    packets[2] = changed(packets[2], at, packets[2][at] ^ 3)
    assert len(coalesced(packets)) == 2


@BOTH
def test_pure_acknowledgements_stand_alone(v4):
    packets = [tcp(b"", v4=v4, ack=n) for n in range(5)] + [tcp(b"", v4=v4, ack=4)] * 3
    writes = coalesced(packets)
    assert [w[1] for w in writes] == packets


@BOTH
def test_several_flows_at_once(v4):
    flows = [stream(20, v4=v4, ports=(4000 + n, 80)) for n in range(4)]
    packets = [p for several in zip(*flows, strict=True) for p in several]
    writes = coalesced(packets)
    assert len(writes) == 4
    for flow, write in zip(flows, writes, strict=True):
        assert same(segment(write)) == same(flow)


@BOTH
def test_the_sequence_number_wraps_between_groups(v4):
    packets = stream(10, v4=v4, start=2**32 - 4 * SIZE - 7)
    writes = coalesced(packets)
    assert [len(w) for w in writes] == [5, 2, 6]
    assert same(cut(writes)) == same(packets)


@BOTH
def test_groups_stay_within_an_ip_packet(v4):
    packets = stream(200, v4=v4)
    writes = coalesced(packets)
    assert len(writes) == 4
    assert same(cut(writes)) == same(packets)


def test_small_segments_stay_within_one_writev():
    packets = stream(3000, size=2)
    writes = coalesced(packets)
    assert max(len(w) for w in writes) <= 1024
    assert cut(writes) == packets


@BOTH
def test_datagrams_of_equal_size_and_a_shorter_last(v4):
    packets = [udp(bytes([i]) * 300, v4=v4) for i in range(10)] + [udp(b"last", v4=v4)]
    packets += [udp(bytes([i]) * 300, v4=v4) for i in range(MAX_SEGMENTS + 1)]
    writes = coalesced(packets)
    assert [len(w) for w in writes] == [12, MAX_SEGMENTS + 1, 2]
    assert same(cut(writes)) == same(packets)


def test_datagrams_without_checksum_stand_alone():
    packet = udp(bytes(100), v4=True)
    packet = packet[:26] + b"\0\0" + packet[28:]
    assert len(coalesced([packet] * 3)) == 3


def test_ipv4_without_df_stands_alone():
    packets = [changed(p, 6, 0) for p in stream(3, v4=True)]
    assert len(coalesced(packets)) == 3


def test_a_udp_length_that_disagrees_stands_alone():
    packets = [changed(udp(bytes(100)), 45, 50)] * 3
    assert len(coalesced(packets)) == 3


def test_kernels_that_do_not_take_udp_or_anything():
    datagrams, segments = [udp(bytes(100))] * 3, stream(3)
    assert len(coalesced(datagrams, Offload(vnet=True))) == 3
    assert len(coalesced(segments, Offload(vnet=True))) == 1
    assert coalesced(segments, Offload()) == [[p] for p in segments]


kinds = st.tuples(
    st.integers(0, 3),  # flow
    st.sampled_from([0, 1, 2, 500, 500, 500, 500]),  # payload
    st.sampled_from([0x10, 0x10, 0x10, 0x10, 0x18, 0x11]),
    st.sampled_from([0, 0, 0, 0, 0, 1]),  # gap
)


@BOTH
@given(st.lists(kinds, max_size=60))
def test_any_mixture_keeps_each_flow(v4, plan):
    sequences = dict.fromkeys(range(4), 100)
    packets = []
    for flow, size, flags, gap in plan:
        sequences[flow] += gap
        ports = (4000 + flow, 80)
        payload = bytes([size % 256]) * size
        if flow == 3:
            packets.append(udp(payload, ports=ports, v4=v4) if size else echo(v4=v4))
            continue
        packets.append(tcp(payload, sequence=sequences[flow], flags=flags, ports=ports, v4=v4))
        sequences[flow] += size

    def by_flow(all_packets):
        flows = {}
        for packet in all_packets:
            flow = read(packet)
            assert flow is not None
            flows.setdefault((flow.protocol, flow.ports), []).append(packet)
        return {name: same(each) for name, each in flows.items()}

    writes = coalesced(packets)
    assert by_flow(cut(writes)) == by_flow(packets)
    assert len(writes) <= len(packets)


@BOTH
def test_through_the_tunnel(v4):
    pair = Pair(offload=FULL)
    packets = (
        stream(100, size=1300, v4=v4, last=b"end") + [udp(bytes(99), v4=v4)] * 5 + [echo(v4=v4)]
    )
    writes = pair.b.receive(arriving(pair.a.seal(packets, 0.0)), 0.0).writes
    assert same(cut(writes)) == same(packets)
    assert len(writes) <= 6


def test_a_group_does_not_outlive_its_peer():
    # Two peers, one flow's name: the second peer's packet must be checked on its own.
    pair = Pair(offload=FULL)
    one, two = stream(2)
    other = Pair(seed=77)
    pair.b.install(parameters(mirror=True, seed=77, peer="stranger"), 0.0)
    pair.b.set_grants("stranger", Grants(frozenset({(6, 9)})))
    batch = arriving(pair.a.seal([one], 0.0)) + arriving(
        other.a.seal([changed(two, 53, 0x02)], 0.0)
    )
    writes = pair.b.receive(batch, 0.0).writes
    assert cut(writes) == [one]
    assert pair.b.counters["not_granted"] == 1


@given(st.lists(st.integers(1, 1500), max_size=200), st.sampled_from([4, 16]))
def test_runs_cover_everything_once(lengths, block):
    found = runs(lengths, block, 36)
    assert [i for start, end, _ in found for i in range(start, end)] == list(range(len(lengths)))
    for start, end, size in found:
        wire = [(n + 2 + block - 1) // block * block + 36 for n in lengths[start:end]]
        assert 0 < len(wire) <= MAX_SEGMENTS
        assert set(wire[:-1]) <= {size}
        assert wire[-1] <= size
