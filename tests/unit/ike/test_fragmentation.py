"""IKE fragmentation (RFC 7383), in both roles. What fragments can do wrong: tests/threats."""

from __future__ import annotations

import random as chances

import pytest

from agent.datagram import Address, Path
from agent.ike import fragmentation
from agent.ike.events import ChildSaRekeyed, IkeSaEstablished
from agent.ike.extension import Extension
from agent.ike.fragmentation import SIZES
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload, VendorIdPayload
from tests.support.pair import A_TO_B, Datagram, Pair, established, make_bare, make_pair

CLAIMED = 241


class Big(Extension):
    """Makes requests and responses of IKE_AUTH and of an exchange of its own long."""

    def __init__(self, octets: int, *, in_auth: bool = True) -> None:
        self.octets = octets
        self.in_auth = in_auth
        self.got: list[int] = []

    def filling(self) -> VendorIdPayload:
        return VendorIdPayload(bytes(i % 251 for i in range(self.octets)))

    def on_request_building(self, sa, exchange, payloads):
        if exchange == ExchangeType.IKE_AUTH and self.in_auth:
            payloads.append(self.filling())

    def on_request(self, sa, message, payloads, now):
        if message.header.exchange == ExchangeType.IKE_AUTH and self.in_auth:
            payloads.append(self.filling())

    def claims_exchange(self, exchange):
        return exchange == CLAIMED

    def handle_exchange(self, sa, message, now):
        (vendor,) = message.payloads
        assert vendor == VendorIdPayload(bytes(i % 251 for i in range(len(vendor.data))))
        self.got.append(len(vendor.data))
        return [self.filling()]


def start(octets: int = 3000, **options) -> Pair:
    pair = make_pair(child=True, factories=[lambda sa, message: Big(octets)], **options)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, [Big(octets)])
    return pair


def up(octets: int = 3000) -> tuple[Pair, Big]:
    big = Big(octets, in_auth=False)
    pair = make_pair(child=True, factories=[lambda sa, message: big])
    return established(pair), big


def ask(pair: Pair, octets: int, exchange: int = CLAIMED) -> list:
    """A request of a with so many octets; returns where its answer comes."""
    answers: list = []
    payload = VendorIdPayload(bytes(i % 251 for i in range(octets)))
    pair.a.ike.request(
        pair.a.sa.ike_id, exchange, [payload], lambda m, now: answers.append(m), pair.now
    )
    pair.drain()
    return answers


# -- both ways -----------------------------------------------------------------------------------


def test_request_and_response_in_fragments() -> None:
    pair = start()
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? SKF(1/3)
        a --> b: IKE_AUTH? SKF(2/3)
        a --> b: IKE_AUTH? SKF(3/3)
        a <-- b: IKE_AUTH! SKF(1/3)
        a <-- b: IKE_AUTH! SKF(2/3)
        a <-- b: IKE_AUTH! SKF(3/3)
        """
    )
    assert pair.a.last(IkeSaEstablished)
    assert pair.b.last(IkeSaEstablished)
    assert not pair.a.drops
    assert not pair.b.drops


def test_no_datagram_is_longer_than_1280_allows() -> None:
    for cipher in ("aes128gcm16-prfsha256-x25519", "aes128-sha256-x25519"):
        pair = start(9000, ike=[cipher])
        sizes = []
        pair.drain()
        while pair.pending:
            datagram = pair.pending.pop(0)
            sizes.append(len(datagram.data))
            pair.deliver(datagram)
        assert SIZES[0] - 32 < max(sizes) <= SIZES[0]
        assert pair.a.last(IkeSaEstablished)


@pytest.mark.parametrize("octets", [0, 1, 1150, 1165, 1166, 1167, 1168, 1200, 2400, 60000])
def test_any_length(octets: int) -> None:
    pair, big = up(octets)
    answers = ask(pair, octets)
    pair.settle()
    assert len(answers[0].payloads[0].data) == octets
    assert big.got == [octets]


@pytest.mark.parametrize("seed", range(8))
def test_any_order_with_duplicates(seed: int) -> None:
    pair, big = up()
    answers = ask(pair, 8000)
    chance = chances.Random(seed)
    while pair.pending:
        datagram = chance.choice(pair.pending)
        if chance.random() < 0.7:
            pair.pending.remove(datagram)
        pair.deliver(datagram)
        if len(pair.sent) > 500:
            break
    assert big.got == [8000]
    assert len(answers) == 1


def test_all_fragments_are_repeated() -> None:
    pair, big = up()
    answers = ask(pair, 3000)
    lost = pair.pending.pop(1)
    pair.settle()
    assert answers == []
    pair.tick(pair.a)
    assert len(pair.pending) == 3
    assert lost.data in [d.data for d in pair.pending]  # the very same octets
    pair.settle()
    assert big.got == [3000]
    assert len(answers) == 1
    assert pair.b.drops == ["duplicate_fragment", "message_id"]  # the third came when all was there


def test_only_the_first_fragment_asks_for_the_answer_again() -> None:
    """RFC 7383 §2.6.1."""
    pair, _ = up()
    ask(pair, 3000)
    request = list(pair.pending)
    pair.pending.clear()
    for datagram in request:
        pair.deliver(datagram)
    answer = [d.data for d in pair.pending]
    pair.pending.clear()
    for datagram in request[1:]:
        pair.deliver(datagram)
    pair.quiet()
    pair.deliver(request[0])
    assert [d.data for d in pair.pending] == answer


def test_a_peer_without_it_gets_everything_whole() -> None:
    pair = make_pair()
    make_bare(pair.b, [lambda sa, message: Big(3000)])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, [Big(3000)])
    pair.settle()
    assert pair.a.sa.fragments is None
    assert pair.a.last(IkeSaEstablished)
    assert not [text for _, text in pair.sent if "SKF" in text]


def test_rekeying_keeps_it() -> None:
    pair, big = up()
    pair.a.sa.fragments.limit = SIZES[1]
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert pair.a.sa.fragments.limit == SIZES[1]
    ask(pair, 3000)
    pair.settle()
    assert big.got == [3000]


# -- what stays whole ----------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", [ExchangeType.INFORMATIONAL, ExchangeType.ME_CONNECT])
def test_strongswan_cannot_read_these_in_fragments(exchange: int) -> None:
    """mediation.md §5."""
    pair, _ = up()
    ask(pair, 3000, exchange)
    (datagram,) = pair.pending
    assert len(datagram.data) > 3000


def test_what_only_our_own_ends_get_may_be_cut() -> None:
    pair, _ = up()
    accepts = NotifyPayload(NotifyType.HG_ACCEPTS, bytes(16 * 1024))
    sa = pair.a.sa
    pair.a.ike.request(sa.ike_id, ExchangeType.INFORMATIONAL, [accepts], print, pair.now)
    pair.drain()
    assert len(pair.pending) == 15
    assert all(len(d.data) <= SIZES[0] for d in pair.pending)
    pair.settle()
    assert sa.outgoing.task is None


# -- path MTU ------------------------------------------------------------------------------------


def narrow(pair: Pair, octets: int, seconds: float = 20.0) -> list[float]:
    """Run with a path that loses what is longer; returns when something got through."""
    got = []
    until = pair.now + seconds
    while pair.now < until:
        pair.drain()
        while pair.pending:
            datagram = pair.pending.pop(0)
            pair.now += 0.01
            if len(datagram.data) <= octets:
                got.append(pair.now)
                pair.deliver(datagram)
        due = [t for t in (pair.a.ike.next_timeout(), pair.b.ike.next_timeout()) if t]
        pair.now = max(pair.now, min(due, default=until))
        if pair.now >= until:
            break
        for side in (pair.a, pair.b):
            at = side.ike.next_timeout()
            if at is not None and at <= pair.now:
                side.ike.handle_timer(pair.now)
    return got


@pytest.mark.parametrize("octets", [1200, 1100, 1000, 800, 530])
def test_smaller_pieces_when_nobody_answers(octets: int) -> None:
    pair = start()
    started = pair.now
    narrow(pair, octets)
    assert pair.a.events(IkeSaEstablished)
    assert pair.b.events(IkeSaEstablished)
    assert pair.a.sa.fragments.limit <= octets
    assert pair.b.sa.fragments.limit <= octets
    assert pair.a.sa.established_at - started < 5


def test_a_long_answer_to_a_short_request_gets_smaller_too() -> None:
    pair, _ = up(3000)
    answers = ask(pair, 10)
    narrow(pair, 1100)
    assert len(answers) == 1
    assert answers[0] is not None
    assert pair.b.sa.fragments.limit == SIZES[1]


def test_the_total_grows_with_each_size() -> None:
    """RFC 7383 §2.5.2; by this the receiver tells the sets apart."""
    pair, _ = up()
    ask(pair, 3000)
    pair.sleep(10, deliver=False)
    totals = [int(text.split("/")[1][:-1]) for _, text in pair.sent if "241" in text]
    assert totals == sorted(totals)
    assert sorted(set(totals)) == [3, 4, 7]


def test_a_new_path_is_tried_with_the_large_size() -> None:
    pair, _ = up()
    pair.a.sa.fragments.limit = SIZES[-1]
    other = Path(Address.parse("192.0.2.1", 4501), A_TO_B.remote)
    pair.a.ike.set_path(pair.a.sa.ike_id, other, pair.now)
    assert pair.a.sa.fragments.limit == SIZES[0]


def test_a_second_set_replaces_the_first() -> None:
    pair, big = up()
    ask(pair, 3000)
    first = list(pair.pending)
    pair.pending.clear()
    pair.deliver(first[0])
    pair.a.sa.fragments.limit = SIZES[-1]
    second = fragmentation.cut(pair.a.sa, pair.a.sa.outgoing.plain)
    for data in second[:-1]:
        pair.deliver(Datagram(pair.a, A_TO_B, data))
    pair.deliver(first[1])  # late, of the set of before
    assert pair.b.drops == ["fragment_total"]
    pair.deliver(Datagram(pair.a, A_TO_B, second[-1]))
    assert big.got == [3000]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.mlkem
@pytest.mark.parametrize("seed", range(6))
def test_rekeyings_in_fragments_through_loss(seed: int) -> None:
    """Hybrid rekeyings of both kinds; a fifth of all datagrams is lost."""
    chance = chances.Random(seed)
    hybrid = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
    pair = established(make_pair(child=True, ike=[hybrid], esp=["aes128gcm16-x25519-ke1_mlkem768"]))
    for side in (pair.a, pair.b):
        side.ike.rekey_child(next(iter(side.installed)), pair.now)
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    until = pair.now + 120
    while pair.now < until:
        pair.drain()
        while pair.pending:
            pair.now += 0.005
            datagram = pair.pending.pop(0)
            if chance.random() > 0.2:
                pair.deliver(datagram)
        due = [t for t in (pair.a.ike.next_timeout(), pair.b.ike.next_timeout()) if t]
        if not due or min(due) > until:
            break
        pair.now = max(pair.now, min(due))
        for side in (pair.a, pair.b):
            side.ike.handle_timer(pair.now)
    assert pair.a.sa.protection.sk_d == pair.b.sa.protection.sk_d
    assert pair.a.events(ChildSaRekeyed)
    ours = {c.spi_in: c.keys_in for c in pair.a.installed.values()}
    theirs = {c.spi_out: c.keys_out for c in pair.b.installed.values()}
    assert ours == theirs
    assert len(ours) == 1
