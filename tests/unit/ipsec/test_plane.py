"""The data plane: rekeys, lifetimes, moving peers, and everything that must not come through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datagram import Address, Path, Received
from agent.ipsec import ALL, DataPlane, Grants, Offload
from agent.ipsec.flow import read
from agent.ipsec.plane import GENERATION, MAX_ANSWERS, ROUTED_FLOWS
from agent.ipsec.tunnel import VERDICTS
from agent.wire.selectors import TrafficSelector
from tests.unit.ipsec.packets import (
    PATH_A,
    PATH_B,
    SUITES,
    Pair,
    arriving,
    datagrams,
    echo,
    ip,
    octets,
    parameters,
    tcp,
    udp,
)

ELSEWHERE = Path(PATH_B.local, Address(bytes([198, 51, 100, 9]), 7777))
WEB = Grants(frozenset({(6, 80)}))


def received(data, path=PATH_B):
    return [Received(path, data)]


def sealed(plain, pair, next_header=None, sequence=1):
    """An ESP packet from a to b around any plaintext; with a next header it gets a trailer."""
    sa = pair.a._sas[pair.sa_a.spi_in].outbound
    if next_header is not None:
        pad = -(len(plain) + 2) % 4
        plain += bytes(range(1, pad + 1)) + bytes((pad, next_header))
    header = pair.sa_a.spi_out + sequence.to_bytes(4, "big")
    iv = sequence.to_bytes(8, "big")
    return header + iv + sa._cipher.seal(iv, plain, header)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("esn", [False, True], ids=["32", "esn"])
def test_both_ways_and_both_families(suite, esn):
    pair = Pair(suite=suite, esn=esn)
    packets = [tcp(b"x"), echo(), udp(bytes(1000)), echo(v4=True)]
    assert sorted(pair.carry(*packets)) == sorted(packets)
    assert pair.back(echo(back=True)) == [echo(back=True)]
    assert not pair.b.counters
    assert set(pair.b.active()) == {1}
    assert set(pair.b.active()) == set()


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_octets_are_taken_without_a_traceback(rubbish):
    pair = Pair()
    spi = pair.sa_b.spi_in
    batch = [Received(PATH_B, data) for data in rubbish]
    batch += [Received(PATH_B, spi + data, 1 + i * 7) for i, data in enumerate(rubbish)]
    result = pair.b.receive(batch, 0.0)
    assert result.packets == []
    assert list(pair.b.active()) == []
    assert pair.a.seal(rubbish, 0.0) == []


@given(st.binary(max_size=100), st.integers(0, 255))
def test_any_authentic_plaintext_is_taken_without_a_traceback(plain, next_header):
    pair = Pair()
    batch = received(sealed(plain + b"\0\0", pair)) + received(sealed(plain, pair, next_header, 2))
    for packet in pair.b.receive(batch, 0.0).packets:
        assert read(packet) is not None


# What is not ESP of ours


def test_other_datagrams_are_handed_back_one_by_one():
    pair = Pair()
    [packet] = datagrams(pair.a.seal([echo()], 0.0))
    ike = bytes(len(packet))
    keepalive = b"\xff"
    unknown = b"none" + bytes(50)
    batch = [
        Received(PATH_B, ike + packet + ike + ike[:30], len(packet)),
        Received(PATH_B, keepalive),
        Received(PATH_B, unknown),
        Received(PATH_B, b""),
    ]
    result = pair.b.receive(batch, 0.0)
    assert result.packets == [echo()]
    found = sorted(r.data for r in result.other)
    assert found == sorted([ike, ike, ike[:30], keepalive, unknown, b""])
    assert all(not r.segment for r in result.other)


def test_ike_behind_esp_in_one_buffer():
    pair = Pair()
    [packet] = datagrams(pair.a.seal([echo()], 0.0))
    ike = bytes(len(packet))
    result = pair.b.receive([Received(PATH_B, packet + ike, len(packet))], 0.0)
    assert result.packets == [echo()]
    assert [r.data for r in result.other] == [ike]


# RFC 4303 §3.4.4, §2.6, §2.7


def test_dummy_packets_are_dropped():
    pair = Pair()
    assert pair.b.receive(received(sealed(bytes(30), pair, 59)), 0.0).packets == []
    assert pair.b.counters == {"dummy": 1}
    assert set(pair.b.active()) == {1}


@pytest.mark.parametrize("next_header", [41, 6, 0, 50])
def test_a_next_header_that_disagrees(next_header):
    pair = Pair()
    pair.b.receive(received(sealed(echo(v4=True), pair, next_header)), 0.0)
    assert pair.b.counters == {"malformed": 1}


@pytest.mark.parametrize("trailer", [b"\1\1\2\4", b"\2\2\4", b"\0\1\4", b"\xff\4"])
def test_padding_is_checked(trailer):
    pair = Pair()
    pair.b.receive(received(sealed(echo(v4=True) + trailer, pair)), 0.0)
    assert pair.b.counters == {"padding": 1}


def test_flow_confidentiality_padding_is_cut_off():
    pair = Pair()
    packet = sealed(echo(v4=True) + bytes(100), pair, 4)
    assert pair.b.receive(received(packet), 0.0).packets == [echo(v4=True)]


def test_flow_confidentiality_padding_is_cut_off_in_groups_too():
    pair = Pair(offload=Offload(vnet=True, udp=True))
    batch = [
        Received(PATH_B, sealed(tcp(bytes(9), sequence=i * 9) + bytes(41), pair, 41, i + 1))
        for i in range(3)
    ]
    [write] = pair.b.receive(batch, 0.0).writes
    assert [len(part) for part in write[1:]] == [9, 9, 9]


# Selectors and grants


HOSTS = {
    "local_ts": (TrafficSelector.parse("fd00::1/128"),),
    "remote_ts": (TrafficSelector.parse("fd00::2/128"),),
}


def test_inner_addresses_are_those_of_the_sa():
    pair = Pair()
    strict = parameters(
        mirror=True, seed=2, local_ts=HOSTS["remote_ts"], remote_ts=HOSTS["local_ts"]
    )
    sender = DataPlane(random=octets())
    sender.install(parameters(seed=2), 0.0)
    pair.b.install(strict, 0.0)
    good, forged = echo(), echo(back=True)
    batch = arriving(sender.seal([good, forged, echo(v4=True)], 0.0))
    assert pair.b.receive(batch, 0.0).packets == [good]
    assert pair.b.counters["selectors"] == 2


def test_what_no_tunnel_covers_is_not_sent():
    plane = DataPlane(random=octets())
    plane.install(parameters(**HOSTS), 0.0)
    assert len(plane.seal([echo()], 0.0)) == 1
    assert plane.seal([echo(back=True), echo(v4=True)], 0.0) == []
    assert plane.counters["no_tunnel"] == 2


def test_grants_decide_and_change_at_once():
    pair = Pair(grants=None)
    syn = tcp(b"", flags=0x02)
    assert pair.carry(syn, echo()) == [echo()]
    pair.b.set_grants("a", WEB)
    assert pair.carry(syn) == [syn]
    assert pair.carry(syn, tcp(b"", flags=0x02, ports=(1, 22))) == [syn]
    pair.b.set_grants("a", None)
    assert pair.carry(syn) == []
    assert pair.b.counters["not_granted"] == 3


def test_grants_before_the_sa():
    plane = DataPlane(random=octets())
    plane.set_grants("a", Grants(ALL))
    plane.install(parameters(mirror=True), 0.0)
    sender = DataPlane(random=octets())
    sender.install(parameters(), 0.0)
    packet = udp(b"x")
    assert plane.receive(arriving(sender.seal([packet], 0.0)), 0.0).packets == [packet]


def test_answers_to_our_connections_pass_without_a_grant():
    pair = Pair(grants=None)
    answer = tcp(b"", flags=0x12, ports=(80, 4000), back=True)
    data = tcp(b"hello", ports=(80, 4000), back=True)
    assert pair.back(answer, data) == [answer, data]


def test_udp_answers_pass_as_long_as_we_ask():
    pair = Pair(grants=None)
    question, answer = udp(b"?"), udp(b"!", ports=(53, 5000), back=True)
    assert pair.back(answer) == []
    pair.carry(question)
    assert pair.back(answer) == [answer]
    now = GENERATION + 1
    pair.carry(question, now=now)
    assert pair.back(answer, now=now) == [answer]
    for _ in range(2):
        now += GENERATION + 1
        pair.carry(echo(), now=now)
    assert pair.back(answer, now=now) == []


def test_caches_are_bounded():
    pair = Pair()
    for first in range(0, 60_000, 500):
        packets = [udp(b"", ports=(port + 1, 53)) for port in range(first, first + 500)]
        assert len(pair.carry(*packets)) == 500
    assert len(pair.b._sas[pair.sa_b.spi_in].verdicts) <= VERDICTS
    assert len(pair.a._routed) <= ROUTED_FLOWS


# Rekey


def rekeyed(pair, *, seed=5, a_first=True, **changes):
    """A new Child SA in place of the first; the end that asked for it sends on it at once."""
    ends = (False, pair.a, pair.sa_a), (True, pair.b, pair.sa_b)
    new = []
    for mirror, plane, old in ends:
        at_once = mirror is not a_first
        made = parameters(
            mirror=mirror, seed=seed, replaces=old.spi_in, outbound_at_once=at_once, **changes
        )
        plane.install(made, 0.0)
        new.append(made)
    return new


def spi_of(transmits):
    return transmits[0].data[:4]


def test_after_a_rekey_both_sas_receive():
    pair = Pair()
    late = arriving(pair.a.seal([echo()], 0.0))
    new_a, _ = rekeyed(pair)
    sent = pair.a.seal([echo()], 0.0)
    assert spi_of(sent) == new_a.spi_out
    assert len(pair.b.receive(arriving(sent), 0.0).packets) == 1
    assert len(pair.b.receive(late, 0.0).packets) == 1


def test_the_other_side_goes_over_with_the_first_packet():
    pair = Pair()
    _, new_b = rekeyed(pair)
    assert spi_of(pair.b.seal([echo(back=True)], 0.0)) == pair.sa_b.spi_out
    pair.carry(echo())
    assert spi_of(pair.b.seal([echo(back=True)], 0.0)) == new_b.spi_out


def test_the_other_side_goes_over_when_the_old_sa_is_deleted():
    pair = Pair()
    _, new_b = rekeyed(pair)
    pair.b.remove(pair.sa_b.spi_in)
    assert spi_of(pair.b.seal([echo(back=True)], 0.0)) == new_b.spi_out


def test_a_forged_packet_does_not_make_it_go_over():
    pair = Pair()
    _, new_b = rekeyed(pair)
    pair.b.receive(received(new_b.spi_in + bytes(60)), 0.0)
    assert spi_of(pair.b.seal([echo(back=True)], 0.0)) == pair.sa_b.spi_out


def test_no_packet_is_lost_across_a_rekey():
    pair = Pair()
    got = pair.carry(tcp(b"1"))
    new_a, new_b = rekeyed(pair)
    got += pair.carry(tcp(b"2"))
    pair.a.remove(pair.sa_a.spi_in)
    got += pair.carry(tcp(b"3"))
    pair.b.remove(pair.sa_b.spi_in)
    got += pair.carry(tcp(b"4"))
    assert got == [tcp(b"1"), tcp(b"2"), tcp(b"3"), tcp(b"4")]
    pair.a.remove(new_a.spi_in)
    pair.b.remove(new_b.spi_in)
    assert pair.carry(tcp(b"5")) == []
    assert pair.a.counters["no_tunnel"] == 1


def test_the_losing_sa_of_a_simultaneous_rekey_can_go():
    pair = Pair()
    won, _ = rekeyed(pair)
    lost, _ = rekeyed(pair, seed=6, a_first=False)
    pair.carry(echo())
    pair.a.remove(lost.spi_in)
    pair.a.remove(pair.sa_a.spi_in)
    assert spi_of(pair.a.seal([echo()], 0.0)) == won.spi_out


def test_a_new_tunnel_with_the_same_selectors_is_preferred_and_the_old_one_remains():
    plane = DataPlane(random=octets())
    plane.install(parameters(seed=1, ike_id=1), 0.0)
    new = parameters(seed=2, ike_id=2)
    plane.install(new, 0.0)
    assert spi_of(plane.seal([echo()], 0.0)) == new.spi_out
    plane.remove(new.spi_in)
    assert spi_of(plane.seal([echo()], 0.0)) == parameters(seed=1).spi_out


def test_removing_what_is_not_there():
    plane = DataPlane(random=octets())
    plane.remove(b"none")
    plane.set_path(9, PATH_A)
    plane.set_path_mtu(9, 1280)
    plane.set_grants("nobody", None)
    assert plane.seal([echo()], 0.0) == []


def test_a_wrong_key_is_refused_and_leaves_nothing():
    plane = DataPlane(random=octets())
    with pytest.raises(ValueError):  # noqa: PT011 - the cipher's own words
        plane.install(parameters(keys_in=(b"short", b"")), 0.0)
    assert plane.seal([echo()], 0.0) == []


# Lifetimes


def test_soft_and_hard_limits_by_packets():
    pair = Pair(soft_packets=3, hard_packets=5)
    assert len(pair.carry(echo(), echo())) == 2
    assert pair.a.expiring() == []
    assert len(pair.carry(echo())) == 1
    assert pair.a.expiring() == [(pair.sa_a.spi_in, False)]
    assert pair.b.expiring() == [(pair.sa_b.spi_in, False)]
    assert len(pair.carry(*[echo()] * 10)) == 2
    assert pair.a.expiring() == [(pair.sa_a.spi_in, True)]
    assert pair.b.expiring() == [(pair.sa_b.spi_in, True)]
    assert pair.a.counters["expired"] == 8
    assert pair.carry(echo()) == []
    assert pair.a.expiring() == []


def test_soft_and_hard_limits_by_octets():
    size = len(echo())
    pair = Pair(soft_octets=2 * size, hard_octets=4 * size)
    pair.a.seal([echo()] * 2, 0.0)
    assert pair.a.expiring() == [(pair.sa_a.spi_in, False)]
    pair.a.seal([echo()] * 2, 0.0)
    assert pair.a.expiring() == [(pair.sa_a.spi_in, True)]
    assert pair.a.seal([echo()], 0.0) == []


@pytest.mark.parametrize(("esn", "last"), [(False, 2**32 - 1), (True, 2**64 - 1)])
def test_sequence_numbers_never_wrap(esn, last):
    pair = Pair(esn=esn, hard_packets=2**70, soft_packets=2**70)
    sa = pair.a._sas[pair.sa_a.spi_in]
    sa.outbound.sequence = sa.packets_out = last - 3
    pair.b._sas[pair.sa_b.spi_in].inbound.window.mark(last - 3)
    assert len(pair.carry(*[echo()] * 10)) == 3
    assert sa.outbound.sequence == last
    assert (pair.sa_a.spi_in, True) in pair.a.expiring()
    assert pair.a.seal([echo()], 0.0) == []


def test_when_the_new_sa_has_ended_an_older_one_sends():
    pair = Pair()
    rekeyed(pair, hard_packets=1)
    pair.carry(echo())
    assert spi_of(pair.a.seal([echo()], 0.0)) == pair.sa_a.spi_out


def test_traffic_is_counted_over_rekeys():
    pair = Pair()
    pair.carry(echo())
    rekeyed(pair)
    pair.carry(echo(), echo())
    pair.a.remove(pair.sa_a.spi_in)
    pair.b.remove(pair.sa_b.spi_in)
    sent = 3 * len(echo())
    assert pair.a.traffic("b") == (sent, 0)
    back, received = pair.b.traffic("a")
    assert back == 0
    assert sent <= received <= sent + 3 * 16  # counted with the ESP trailer
    assert pair.b.traffic("nobody") == (0, 0)


def test_an_ended_sa_receives_no_more():
    pair = Pair()
    later = arriving(pair.a.seal([echo()], 0.0))
    pair.b._sas[pair.sa_b.spi_in].hard = True
    assert pair.b.receive(later, 0.0).packets == []
    assert pair.b.counters == {"expired": 1}


# Moving peers (THREATS 32)


def test_the_newest_authentic_packet_moves_the_endpoint():
    pair = Pair()
    pair.b.receive(arriving(pair.a.seal([echo()], 0.0), ELSEWHERE), 0.0)
    assert pair.b.moved() == [(1, ELSEWHERE)]
    assert pair.b.moved() == []
    assert pair.b.seal([echo(back=True)], 0.0)[0].path == ELSEWHERE


def test_nothing_else_moves_it():
    pair = Pair()
    first, second, third = datagrams(pair.a.seal([echo()] * 3, 0.0))
    pair.b.receive(received(second), 0.0)
    pair.b.receive(received(first, ELSEWHERE), 0.0)  # older, though fresh
    pair.b.receive(received(second, ELSEWHERE), 0.0)  # replayed
    pair.b.receive(received(third[:-1] + b"x", ELSEWHERE), 0.0)  # forged
    assert pair.b.counters == {"replayed": 1, "forged": 1}
    assert pair.b.moved() == []
    assert pair.b.seal([echo(back=True)], 0.0)[0].path == PATH_B


def test_a_late_packet_of_the_old_sa_does_not_move_it():
    pair = Pair()
    late = pair.a.seal([echo()], 0.0)
    rekeyed(pair)
    pair.carry(echo())
    assert len(pair.b.receive(arriving(late, ELSEWHERE), 0.0).packets) == 1
    assert pair.b.moved() == []


def test_all_tunnels_of_the_ike_sa_move():
    pair = Pair()
    narrow = parameters(mirror=True, seed=9, remote_ts=(TrafficSelector.parse("fd99::1/128"),))
    pair.b.install(narrow, 0.0)
    pair.b.receive(arriving(pair.a.seal([echo()], 0.0), ELSEWHERE), 0.0)
    assert {t.path for t in pair.b._tunnels} == {ELSEWHERE}


def test_seeing_our_own_address_is_no_move():
    pair = Pair()
    unknown = Path(Address(bytes(4), 4500), PATH_B.remote)
    pair.b.set_path(1, unknown)
    pair.b.receive(arriving(pair.a.seal([echo()], 0.0)), 0.0)
    assert pair.b.moved() == []
    assert pair.b.seal([echo(back=True)], 0.0)[0].path == unknown


def test_the_engine_sets_the_path():
    pair = Pair()
    pair.a.set_path(1, ELSEWHERE)
    assert pair.a.seal([echo()], 0.0)[0].path == ELSEWHERE


# Size


def test_packets_too_big_for_the_path_are_answered():
    pair = Pair()
    pair.a.set_path_mtu(1, 1300)
    packets = [tcp(bytes(1300), sequence=n) for n in range(40)]
    assert pair.a.seal([*packets, echo()], 0.0)[0].segment == 0
    answers = pair.a.answers()
    assert len(answers) == MAX_ANSWERS
    assert pair.a.answers() == []
    flow = read(answers[0][0])
    assert flow is not None
    assert (flow.protocol, flow.kind, flow.destination) == (58, 2, packets[0][8:24])
    assert pair.a.counters["too_big"] == 40


def test_answers_have_a_vnet_header_where_the_device_wants_one():
    plane = DataPlane(random=octets(), offload=Offload(vnet=True), mtu=1280)
    plane.install(parameters(), 0.0)
    plane.seal([tcp(bytes(1280))], 0.0)
    [[head, _]] = plane.answers()
    assert head == bytes(10)


def test_rubbish_from_the_device_is_not_sent():
    pair = Pair()
    assert pair.a.seal([b"", b"\x60", b"\x45" + bytes(30), bytes(60), ip(6, b"")], 0.0) == []
    assert pair.a.counters["malformed"] == 4  # nothing is not even that


def test_status_shows_no_keys():
    text = repr(parameters())
    assert "keys" not in text
