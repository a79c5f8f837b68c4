"""Session resumption, RFC 5723, both sides: asked for, presented, refused, forged, replayed."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.crypto.digest import sha256
from agent.crypto.kex import generate_key_exchange
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import KeyKind
from agent.crypto.ticket import TICKET_SECONDS, TicketKey, seal_ticket
from agent.datagram import Address, Path, Transmit
from agent.ike.crash import CrashDetection, Tokens
from agent.ike.events import ChildSaEstablished, CloseReason, IkeSaClosed, IkeSaEstablished
from agent.ike.ike_session_resume import SILENCE_SECONDS
from agent.ike.pad import AnyKeyAuth, Lifetimes, Ppk, PskAuth
from agent.ike.resumption import (
    LONGEST_SECONDS,
    RENEW_AT,
    AskForTicket,
    TicketHolder,
)
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState
from agent.ike.table import Ike
from agent.ike.tickets import MAX_VOID, Tickets
from agent.wire.codes import AuthMethod, ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import (
    AuthPayload,
    Identification,
    IdiPayload,
    IdrPayload,
    NoncePayload,
    NotifyPayload,
)
from agent.wire.proposals import Transform
from agent.wire.ticket import encode_granted, encode_presented
from tests.support.certificates import AT
from tests.support.feature_scenes import certified, ticket_pair
from tests.support.keys import private_key
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    IKE_PROPOSALS,
    Pair,
    Side,
    child_policy,
    established,
    ike_proposals,
    make_peers,
    make_side,
    seeded,
)

if TYPE_CHECKING:
    from agent.wire.message import Message

WALL = 1_800_000_000.0
KEY = TicketKey(id=b"k" * 8, secret=b"s" * 32, since=int(WALL))
FULL = """
    a --> b: IKE_SA_INIT? SA KE No
    a <-- b: IKE_SA_INIT! SA KE No
"""
RESUME = "IKE_SESSION_RESUME? No N(TICKET_OPAQUE)"


class Clients:
    """`a` asks for tickets, `b` gives them. Both clocks go with the time of the pair."""

    def __init__(
        self,
        *,
        child: bool = False,
        settings: IkeSettings | None = None,
        ike: tuple[str, ...] = IKE_PROPOSALS,
        give: bool = True,
        tokens: Tokens | None = None,
        **more,
    ) -> None:
        children = (
            child_policy("10.1.0.0/24", "10.2.0.0/24"),
            child_policy("10.2.0.0/24", "10.1.0.0/24"),
        )
        peer_b, peer_a = make_peers(children=children if child else None, ike=ike, **more)
        self.holder = TicketHolder()
        self.exchanges = 0
        self.boots = 0
        self.wall: float | None = WALL
        self.keys: tuple[TicketKey, ...] = (KEY,)
        self.pair = Pair(
            make_side(
                "a",
                A_ADDRESS,
                [peer_b],
                settings=settings,
                key_exchange=self.counted,
                tokens=tokens,
            ),
            make_side("b", B_ADDRESS, [replace(peer_a, gives_tickets=give)], settings=settings),
        )
        self.settings = settings
        self.restart(self.pair.b)

    def counted(self, group, random, *, answering=False):
        self.exchanges += 1
        return generate_key_exchange(group, random, answering=answering)

    def clock(self) -> float | None:
        return None if self.wall is None else self.wall + self.pair.now - 1000.0

    def restart(self, side: Side, *, supports: bool = True) -> None:
        """Everything but the keys is forgotten."""
        self.boots += 1
        side.installed.clear()
        side.outputs.clear()
        self.tickets = Tickets(seeded(f"tickets {self.boots}"), self.clock)
        self.tickets.keys = self.keys
        side.ike = Ike(
            pad=side.book,
            random=seeded(f"{side.name} {self.boots}"),
            settings=self.settings,
            key_exchange=self.counted,
            tokens=Tokens(side.name.encode() * 32),
            tickets=self.tickets if supports else None,
        )

    def connect(self, **more) -> int:
        pair = self.pair
        extensions = (self.holder.extension,)
        return pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, extensions, **more)

    def established(self) -> Clients:
        self.connect()
        self.pair.settle()
        assert self.pair.a.sa.established
        assert self.pair.b.sa.established
        return self

    def interrupted(self) -> Clients:
        """Up, a ticket there, then b is restarted and a notices by its silence."""
        self.established()
        pair = self.pair
        self.restart(pair.b)
        pair.a.sa.close(CloseReason.TIMEOUT, "no answer", pair.now)
        pair.drain()
        assert self.holder.stored is not None
        return self

    def change_a(self, **more) -> None:
        side = self.pair.a
        side.book.peers = [replace(side.peer, **more)]

    def change_b(self, **more) -> None:
        side = self.pair.b
        side.book.peers = [replace(side.peer, **more)]

    def was_resumed(self) -> bool:
        """Both are up, with the same keys, and say the same."""
        a, b = self.pair.a.last(IkeSaEstablished), self.pair.b.last(IkeSaEstablished)
        assert a.resumed == b.resumed == self.holder.resumed
        assert self.pair.a.sa.established
        assert self.pair.b.sa.established
        assert self.pair.a.sa.protection.sk_d == self.pair.b.sa.protection.sk_d
        assert self.pair.a.sa.suite == self.pair.b.sa.suite
        return a.resumed


def changed(message: Message, payload) -> bytes:
    """The message with `payload` in the place of the one of its class and type."""
    found = [
        payload
        if type(p) is type(payload) and getattr(p, "type", 0) == getattr(payload, "type", 0)
        else p
        for p in message.payloads
    ]
    return encode_message(message.header, found)


def test_asked_for_in_ike_auth_and_given() -> None:
    """RFC 5723 §4.1, figures 2 and 3."""
    world = Clients(child=True)
    world.connect()
    world.pair.play(
        FULL
        + """
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr N(TICKET_REQUEST)
        a <-- b: IKE_AUTH! IDr AUTH N(TICKET_LT_OPAQUE) SA TSi TSr
        """
    )
    world.pair.quiet()
    assert world.holder.stored.expires == pytest.approx(world.pair.now + TICKET_SECONDS, abs=1)


@pytest.mark.parametrize("child", [False, True])
def test_back_after_a_restart(child: bool) -> None:
    """§4.3, figures 4 and 5: one cheap exchange, then IKE_AUTH; and a new ticket with it."""
    world = Clients(child=child).interrupted()
    first = world.holder.stored
    done = world.exchanges
    more, answer = (" SA TSi TSr",) * 2 if child else ("", "")
    world.connect()
    world.pair.play(
        f"""
        a --> b: {RESUME}
        a <-- b: IKE_SESSION_RESUME! No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT){more} N(TICKET_REQUEST)
        a <-- b: IKE_AUTH! IDr AUTH N(TICKET_LT_OPAQUE){answer}
        """
    )
    world.pair.quiet()
    assert world.was_resumed()
    assert world.exchanges == done
    assert world.holder.stored.ticket != first.ticket
    assert world.tickets.counters["resumed"] == 1
    if child:
        assert world.pair.a.last(ChildSaEstablished)
        (one,), (other,) = (s.installed.values() for s in (world.pair.a, world.pair.b))
        assert (one.keys_in, one.keys_out) == (other.keys_out, other.keys_in)


def test_again_and_again() -> None:
    world = Clients()
    for _ in range(5):
        world.interrupted()
        world.established()
        assert world.was_resumed()
    assert world.exchanges == 2  # one, of each side


def test_keys_and_proof_from_the_text_of_the_rfc() -> None:
    """§5.1 and §4.3.3, with the standard library's HMAC alone."""

    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha256).digest()

    world = Clients().interrupted()
    pair = world.pair
    sk_d_old = world.holder.stored.resumes.sk_d
    world.connect()
    pair.drain()
    request = pair.pending[0].data
    pair.deliver(pair.pending.pop(0))
    response = pair.pending[0].data
    pair.deliver(pair.pending.pop(0))
    auth = pair.message(pair.a, pair.pending[0].data)
    first, second = decode_message(request), decode_message(response)
    ni, nr = first.first(NoncePayload).data, second.first(NoncePayload).data
    seed = prf(sk_d_old, b"Resumption" + ni + nr)
    material, block, count = b"", b"", 0
    while len(material) < 3 * 32 + 2 * 20:
        count += 1
        block = prf(seed, block + ni + nr + second.header.spis + bytes((count,)))
        material += block
    sk_d, sk_pi, sk_pr = material[:32], material[72:104], material[104:136]
    octets = request + nr + prf(sk_pi, auth.first(IdiPayload).body)
    assert auth.first(AuthPayload).data == prf(sk_pi, octets)
    assert auth.first(AuthPayload).method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
    pair.deliver(pair.pending.pop(0))
    answer = pair.message(pair.b, pair.pending[0].data)
    octets = response + ni + prf(sk_pr, answer.first(IdrPayload).body)
    assert answer.first(AuthPayload).data == prf(sk_pr, octets)
    pair.settle()
    assert pair.a.sa.protection.sk_d == sk_d
    assert sk_d != sk_d_old


@pytest.mark.parametrize("contact", [True, False], ids=["initial contact", "without"])
def test_a_server_that_is_still_there_lets_the_old_one_go_silently(contact: bool) -> None:
    """§4.3.4: no Delete."""
    world = Clients(child=True)
    if not contact:  # who does not know whom it will meet does not send INITIAL_CONTACT
        world.change_a(remote_id=None)
    world.established()
    pair = world.pair
    old = pair.b.sa.ike_id
    pair.a.sa.close(CloseReason.TIMEOUT, "no answer", pair.now)
    before = len(pair.sent)
    world.established()
    assert world.was_resumed()
    assert pair.b.events(IkeSaClosed)[-1].ike_id == old
    assert pair.b.events(IkeSaClosed)[-1].reason is CloseReason.REPLACED
    assert not [line for _, line in pair.sent[before:] if "INFORMATIONAL" in line]
    assert len(pair.b.installed) == 1


# -- refused -------------------------------------------------------------------------------------

NACK = (
    f"""
    a --> b: {RESUME}
    a <-- b: IKE_SESSION_RESUME! N(TICKET_NACK)
    """
    + FULL
)


def assert_full(world: Clients) -> None:
    """The ticket is refused, and IKE_SA_INIT follows at once; the server keeps nothing."""
    world.connect()
    world.pair.play(NACK)
    world.pair.settle()
    assert not world.was_resumed()
    assert len(world.pair.b.ike.half_open) == 0
    assert len(world.pair.b.ike._by_spi) == 1


@pytest.mark.parametrize("why", ["key", "no keys", "no clock", "expired", "clock went back"])
def test_a_ticket_that_does_not_open(why: str) -> None:
    world = Clients().interrupted()
    match why:
        case "key":
            world.tickets.keys = (replace(KEY, secret=b"t" * 32),)
        case "no keys":
            world.tickets.keys = ()
        case "no clock":
            world.wall = None
        case "expired":
            world.wall += TICKET_SECONDS
        case "clock went back":
            world.wall -= 3600
    assert_full(world)


@pytest.mark.parametrize(
    "change",
    [
        {"remote_auth": PskAuth(secret=b"p" * 32)},
        {"ppk": Ppk(id=b"k", secret=b"p" * 32, required=False)},
        {"gives_tickets": False},
        {"auth_seconds": 600.0},
        {"proposals": ike_proposals("aes256gcm16-prfsha384-x25519")},
        {"remote_id": Identification.parse("c@example.org")},
        {"local_id": Identification.parse("c@example.org")},
    ],
    ids=["credential", "ppk", "policy", "repeated proof", "suite", "idi", "idr"],
)
def test_a_peer_that_is_another_one_now(change: dict[str, object]) -> None:
    world = Clients().interrupted()
    world.change_b(**change)
    world.connect()
    world.pair.play(NACK.replace(FULL, "").rstrip())
    assert len(world.pair.b.ike._by_spi) == 0


def test_a_peer_that_was_revoked() -> None:
    world = Clients().interrupted()
    world.pair.b.book.peers = []
    world.pair.b.book.proposals = world.pair.a.peer.proposals
    world.connect()
    world.pair.play(NACK)
    world.pair.settle()
    assert world.pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert world.holder.stored is None


@pytest.mark.parametrize("transform", [1, 2, 3, 4, 6])
def test_a_suite_that_nobody_here_knows(transform: int) -> None:
    """Of a program that had more, and kept its keys: refused before anything is made of it."""
    world = Clients().interrupted()
    stored = world.holder.stored
    state = world.tickets.open(stored.ticket, world.pair.now)
    transforms = [t for t in state.chosen.transforms if t.type != transform]
    unknown = replace(
        state, chosen=replace(state.chosen, transforms=(*transforms, Transform(transform, 999)))
    )
    world.holder.stored = replace(stored, ticket=seal_ticket(KEY, unknown, seeded("x")))
    assert_full(world)


def test_revoked_in_between() -> None:
    """Between IKE_SESSION_RESUME and IKE_AUTH."""
    world = Clients().interrupted()
    world.connect()
    world.pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    world.change_b(remote_auth=PskAuth(secret=b"p" * 32))
    world.pair.settle()
    assert world.pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert world.holder.stored is None


def test_each_octet_of_a_ticket_counts() -> None:
    """Whatever is wrong with it, the answer is the same, and nothing is kept."""
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    sent = pair.pending[0]
    message = decode_message(sent.data)
    ticket = message.notify(NotifyType.TICKET_OPAQUE).data
    answers = set()
    for at in range(len(ticket)):
        bad = ticket[:at] + bytes((ticket[at] ^ 1,)) + ticket[at + 1 :]
        pair.now += 0.5  # an address gets few answers a second
        pair.b.ike.receive(sent.arriving, changed(message, encode_presented(bad)), pair.now)
        while (output := pair.b.ike.poll_output()) is not None:
            assert isinstance(output, Transmit)
            answers.add(output.data)
    assert len(answers) == 1
    assert len(pair.b.ike.half_open) == 0
    assert len(pair.b.ike._by_spi) == 0
    pair.settle()
    assert world.was_resumed()


def test_the_ticket_of_another_is_no_use() -> None:
    """Bound to IDi: who has somebody's ticket, and even its SK_d, is not somebody else with it."""
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    pair.b.book.peers.append(
        replace(pair.b.peer, name="c", remote_id=Identification.parse("c@example.org"))
    )
    task = pair.pending.pop(0)
    message = pair.message(pair.a, task.data)
    idi = IdiPayload(Identification.parse("c@example.org"))
    sealed = pair.a.sa.protection.seal(
        message.header,
        [idi if isinstance(p, IdiPayload) else p for p in message.payloads],
        seeded("x"),
    )
    pair.deliver(replace(task, data=sealed))
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.b.events(IkeSaEstablished)


def test_the_responder_is_whom_the_ticket_names() -> None:
    """Bound to IDr: it cannot become another one, even where we would take anybody."""
    world = Clients()
    world.change_a(remote_id=None)
    world.interrupted()
    pair = world.pair
    world.connect()
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    other = Identification.parse("c@example.org")
    (half_open,) = pair.b.ike.sas()
    half_open.handshake.resumes = replace(half_open.handshake.resumes, idr=other)
    world.change_b(local_id=other)
    pair.settle()
    assert pair.b.events(IkeSaEstablished)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("what", ["mac", "method", "signature"])
def test_a_wrong_proof(what: str) -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    task = pair.pending.pop(0)
    message = pair.message(pair.a, task.data)
    auth = message.first(AuthPayload)
    bad = {
        "mac": AuthPayload(auth.method, bytes(len(auth.data))),
        "method": AuthPayload(AuthMethod.DIGITAL_SIGNATURE, auth.data),
        "signature": AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes(80)),
    }[what]
    sealed = pair.a.sa.protection.seal(
        message.header,
        [bad if isinstance(p, AuthPayload) else p for p in message.payloads],
        seeded("x"),
    )
    pair.deliver(replace(task, data=sealed))
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.b.events(IkeSaEstablished)


def test_a_responder_that_does_not_know_sk_d() -> None:
    """Anybody can answer IKE_SESSION_RESUME: nobody is believed before the proof."""
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = pair.pending.pop(0)
    header = decode_message(request.data).header
    forged = encode_message(
        header._replace(responder_spi=b"r" * 8, is_initiator=False, is_response=True),
        [NoncePayload(b"n" * 32)],
    )
    pair.a.ike.receive(A_TO_B, forged, pair.now)
    pair.sleep(60, deliver=False)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT
    assert not pair.a.events(IkeSaEstablished)[1:]
    world.established()
    assert not world.was_resumed()


# -- used once -----------------------------------------------------------------------------------


def test_a_used_ticket_is_refused() -> None:
    """§4.3.1: the client does not use it twice; who replays it gets nowhere, and costs nothing."""
    world = Clients().interrupted()
    pair = world.pair
    used = world.holder.stored
    world.established()
    assert world.was_resumed()
    pair.a.sa.close(CloseReason.TIMEOUT, "", pair.now)
    assert world.holder.stored is not used
    world.holder.stored = used
    world.connect()
    pair.play(NACK)


def test_a_ticket_that_is_shown_twice_at_once_is_used_once() -> None:
    """§4.3.1: both requests came before either proof."""
    world = Clients().interrupted()
    pair = world.pair
    twice = world.holder.stored
    world.connect()
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    held, pair.pending = pair.pending, []
    world.holder.stored = twice
    world.connect()
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    assert len(pair.b.ike.half_open) == 2
    pair.settle()
    assert world.tickets.counters["resumed"] == 1
    (kept,) = pair.b.events(IkeSaEstablished)
    pair.pending = held
    pair.settle()
    assert world.tickets.counters["resumed"] == 1
    assert pair.b.events(IkeSaEstablished) == [kept]
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_deleted_sa_takes_its_ticket_along(name: str) -> None:
    """§6.2, §9.8: the client forgets it, the server refuses it."""
    world = Clients().established()
    pair = world.pair
    kept = world.holder.stored
    side = getattr(pair, name)
    side.ike.close(side.sa.ike_id, pair.now)
    pair.settle()
    assert world.holder.stored is None
    world.connect()
    pair.play(FULL)
    pair.settle()
    pair.a.sa.close(CloseReason.TIMEOUT, "", pair.now)
    world.holder.stored = kept
    world.connect()
    pair.play(NACK)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_rekeying_makes_the_ticket_void_and_another_is_asked_for(name: str) -> None:
    """§4.1, §6.2."""
    world = Clients().established()
    pair = world.pair
    old = world.holder.stored
    side = getattr(pair, name)
    before = len(pair.sent)
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    pair.settle()
    lines = [line for _, line in pair.sent[before:]]
    assert "a --> b: INFORMATIONAL? N(TICKET_REQUEST)" in lines
    assert "a <-- b: INFORMATIONAL! N(TICKET_LT_OPAQUE)" in lines
    assert world.holder.stored not in (None, old)
    assert world.holder.stored.resumes.sk_d == pair.b.sa.protection.sk_d
    pair.a.sa.close(CloseReason.TIMEOUT, "", pair.now)
    new, world.holder.stored = world.holder.stored, old
    world.connect()
    pair.play(NACK)
    pair.settle()
    pair.a.sa.close(CloseReason.TIMEOUT, "", pair.now)
    world.holder.stored = new
    world.restart(pair.b)
    world.established()
    assert world.was_resumed()


def test_the_memory_of_void_tickets_is_bounded() -> None:
    tickets = Tickets(seeded("x"), lambda: WALL)
    for number in range(MAX_VOID + 10):
        tickets.invalidate(number.to_bytes(16, "big"), 0.0)
    assert len(tickets._void) == MAX_VOID
    assert bytes(16) not in tickets._void
    tickets.invalidate(b"late", TICKET_SECONDS + 1.0)
    assert list(tickets._void) == [b"late"]


def test_a_ticket_is_asked_for_anew_before_it_expires() -> None:
    world = Clients().established()
    old = world.holder.stored
    world.pair.sleep(RENEW_AT * TICKET_SECONDS + 5)
    assert world.holder.stored not in (None, old)
    assert world.pair.sent[-2][1] == "a --> b: INFORMATIONAL? N(TICKET_REQUEST)"
    world.pair.sleep(10 * TICKET_SECONDS)
    assert len(world.tickets._void) <= 2


def test_an_expired_ticket_is_not_presented() -> None:
    """§4.3.1 MUST NOT."""
    world = Clients().interrupted()
    world.pair.now += TICKET_SECONDS
    world.connect()
    world.pair.play(FULL)


def test_nobody_keeps_a_secret_for_ever() -> None:
    """However long the responder says that it is good."""
    world = Clients().established()
    pair = world.pair
    pair.b.sa.extensions = ()  # b itself is silent; what it says is ours
    pair.a.sa.submit(AskForTicket(), pair.now)
    pair.drain()
    request = decode_message(pair.pending.pop(0).data)
    header = request.header._replace(is_initiator=False, is_response=True)
    granted = pair.b.sa.protection.seal(header, [encode_granted(2**32 - 1, b"t")], seeded("x"))
    pair.a.ike.receive(A_TO_B, granted, pair.now)
    assert world.holder.stored.ticket == b"t"
    assert world.holder.stored.expires == pair.now + LONGEST_SECONDS


def test_the_suite_must_still_be_allowed_here() -> None:
    """Whoever wants ML-KEM from now on does not come back without (THREATS 13)."""
    world = Clients().interrupted()
    pair = world.pair
    wanted = ike_proposals("aes256gcm16-prfsha384-x25519")
    for side in (pair.a, pair.b):
        side.book.peers = [replace(side.peer, proposals=wanted)]
    world.connect()
    pair.play(FULL)
    pair.settle()
    assert not world.was_resumed()


# -- lost packets, cookies, silence --------------------------------------------------------------


def test_lost_packets() -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.play(f"a --x b: {RESUME}")
    pair.tick(pair.a)
    pair.play(f"a --> b: {RESUME}\n a x-- b: IKE_SESSION_RESUME! No")
    pair.tick(pair.a)
    pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! No")
    assert len(pair.b.ike.half_open) == 1
    auth = "IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) N(TICKET_REQUEST)"
    pair.play(f"a --> b: {auth}\n a x-- b: IKE_AUTH! IDr AUTH N(TICKET_LT_OPAQUE)")
    pair.tick(pair.a)
    pair.play(f"a --> b: {auth}\n a <-- b: IKE_AUTH! IDr AUTH N(TICKET_LT_OPAQUE)")
    assert world.was_resumed()


@pytest.mark.parametrize("supports", [True, False])
def test_silence_leads_to_a_handshake_soon(supports: bool) -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.restart(pair.b, supports=supports)
    world.connect()
    started = pair.now
    if supports:  # the network takes these away, and nothing else
        for _ in range(4):
            pair.play(f"a --x b: {RESUME}")
            pair.tick(pair.a)
    pair.sleep(SILENCE_SECONDS + 0.5)
    assert not world.was_resumed()
    lines = [line for at, line in pair.sent if at >= started]
    assert len([line for line in lines if RESUME in line]) == 4
    assert pair.a.last(IkeSaEstablished).ike_id == pair.a.sa.ike_id
    assert not pair.b.events(IkeSaClosed)


def test_a_server_that_is_away_does_not_cost_the_ticket() -> None:
    """It is used up by an answer (§4.3.1: only when an SA was established with it)."""
    world = Clients().interrupted()
    pair = world.pair
    for patience in (5.0, None, 5.0):
        world.connect(patience=patience)
        pair.sleep(50, deliver=False)
        assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT
        assert world.holder.stored is not None
    world.established()
    assert world.was_resumed()


def test_who_answers_neither_finds_us_with_the_ticket_when_it_is_back() -> None:
    world = Clients().interrupted()
    pair = world.pair
    done = world.exchanges
    world.connect()
    pair.sleep(2 * SILENCE_SECONDS + 1, deliver=False)
    begun = [line.split("? ")[0] for _, line in pair.sent if "?" in line][-9:]
    assert begun == [
        *["a --> b: IKE_SESSION_RESUME"] * 3,
        *["a --> b: IKE_SA_INIT"] * 4,
        *["a --> b: IKE_SESSION_RESUME"] * 2,
    ]
    pair.sleep(20)
    assert world.was_resumed()
    assert world.exchanges == done + 1  # the try in between


def test_patience_is_kept_over_the_fall_back() -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect(patience=5.0)
    pair.sleep(4.9, deliver=False)
    assert pair.a.sa.state is IkeState.INIT_SENT
    pair.sleep(0.2, deliver=False)
    assert not pair.a.ike.sas()


def test_cookie() -> None:
    """§4.3.2: as in IKE_SA_INIT."""
    world = Clients(settings=IkeSettings(cookie_threshold=0)).established()
    world.interrupted()
    pair = world.pair
    world.connect()
    pair.play(
        f"""
        a --> b: {RESUME}
        a <-- b: IKE_SESSION_RESUME! N(COOKIE)
        a --> b: IKE_SESSION_RESUME? N(COOKIE) No N(TICKET_OPAQUE)
        a <-- b: IKE_SESSION_RESUME! No
        """
    )
    pair.settle()
    assert world.was_resumed()


def test_endless_cookies() -> None:
    """THREATS 7."""
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    for number in range(10):
        pair.drain()
        if not pair.pending:
            break
        request = decode_message(pair.pending.pop(0).data)
        header = request.header._replace(is_initiator=False, is_response=True)
        cookie = NotifyPayload(NotifyType.COOKIE, bytes((number,)))
        pair.a.ike.receive(A_TO_B, encode_message(header, [cookie]), pair.now)
    assert number == 4
    assert pair.a.drops[-1] == "cookie"


def test_endless_cookies_over_every_fall_back() -> None:
    """THREATS 7: three rounds for an attempt, whether it begins with the ticket or without."""
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    followed = 0
    for number in range(400):
        pair.sleep(0.1, deliver=False)
        if not pair.a.ike.sas():
            break
        request = decode_message(pair.a.sa.outgoing.data[0])
        cookie = NotifyPayload(NotifyType.COOKIE, number.to_bytes(2, "big"))
        header = request.header._replace(is_initiator=False, is_response=True)
        pair.a.ike.receive(A_TO_B, encode_message(header, [cookie]), pair.now)
        followed += pair.a.sa.handshake.cookie == cookie.data
    assert followed == 3


@pytest.mark.parametrize("notify", [NotifyType.TICKET_NACK, NotifyType.INVALID_SYNTAX, 12345])
def test_a_forged_refusal_costs_a_handshake_and_nothing_else(notify: int) -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = decode_message(pair.pending.pop(0).data)
    header = request.header._replace(is_initiator=False, is_response=True)
    forged = encode_message(header, [NotifyPayload(notify)])
    pair.a.ike.receive(A_TO_B, forged, pair.now)
    pair.a.ike.receive(A_TO_B, forged, pair.now)  # a second one changes nothing
    pair.settle()
    assert not world.was_resumed()


def test_a_flood_of_replays_is_bounded() -> None:
    """THREATS 9: from many networks, a true ticket; and then its owner comes."""
    limit = 20
    settings = IkeSettings(half_open_limit=limit, cookie_threshold=10, cookie_threshold_net=4)
    world = Clients(settings=settings).interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    message = decode_message(pair.pending[0].data)
    sent = received = 0
    for number in range(2000):
        source = Address(bytes((10, number // 250, number % 250, 7)), 4500)
        replay = changed(message, NoncePayload(number.to_bytes(32, "big")))
        pair.b.ike.receive(Path(B_ADDRESS, source), replay, pair.now)
        received += len(replay)
        while (output := pair.b.ike.poll_output()) is not None:
            sent += len(output.data) if isinstance(output, Transmit) else 0
    assert len(pair.b.ike.half_open) <= limit
    assert len(pair.b.ike._by_spi) <= limit
    assert sent < received  # THREATS 8
    pair.settle()
    assert world.was_resumed()
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0


def test_the_same_request_again_is_the_same_answer() -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = pair.pending[0]
    answers = []
    for _ in range(50):
        pair.now += 0.3  # an address gets few answers a second
        pair.b.ike.receive(request.arriving, request.data, pair.now)
        while (output := pair.b.ike.poll_output()) is not None:
            if isinstance(output, Transmit):
                answers.append(output.data)
    assert len(answers) == 50
    assert len(set(answers)) == 1
    assert len(pair.b.ike.half_open) == 1


def test_nothing_unproven_is_taken_from_the_first_exchange() -> None:
    """What belongs under protection and comes in the clear is nothing."""
    world = Clients(tokens=Tokens(b"a" * 32)).interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = pair.pending.pop(0)
    pair.deliver(request)
    answer = pair.pending.pop(0)
    message = decode_message(answer.data)
    more = [
        NotifyPayload(NotifyType.AUTH_LIFETIME, bytes(4)),
        NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, b"t" * 16, 1),
        encode_granted(1000, b"forged"),
    ]
    forged = encode_message(message.header, [*message.payloads, *more])
    pair.a.ike.receive(A_TO_B, forged, pair.now)
    assert world.holder.stored is None
    assert [e.theirs for e in pair.a.sa.extensions if isinstance(e, CrashDetection)] == [b""]
    pair.sleep(60, deliver=False)  # the octets differ, so nobody is authenticated
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT
    assert world.holder.stored is None


def test_the_responder_takes_nothing_unproven_either() -> None:
    world = Clients(tokens=Tokens(b"a" * 32)).interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = pair.pending.pop(0)
    message = decode_message(request.data)
    token = NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, b"t" * 16, 1)
    asks = NotifyPayload(NotifyType.TICKET_REQUEST)
    forged = encode_message(message.header, [*message.payloads, token, asks])
    pair.b.ike.receive(request.arriving, forged, pair.now)
    (half_open,) = pair.b.ike.sas()
    assert [e.theirs for e in half_open.extensions if isinstance(e, CrashDetection)] == [b""]
    pair.drain()
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data) == "IKE_SESSION_RESUME! No"


@pytest.mark.parametrize(
    "payloads",
    [
        [NoncePayload(b"n" * 32)],
        [encode_presented(b"t" * 300)],
        [NoncePayload(b"n" * 32), encode_presented(b"t" * 300), encode_presented(b"t" * 300)],
        [NoncePayload(b"n" * 32), NotifyPayload(NotifyType.TICKET_OPAQUE, bytes(1025))],
        [NoncePayload(b"n" * 32), NotifyPayload(NotifyType.TICKET_OPAQUE, b"")],
        [NoncePayload(b"n" * 32), NotifyPayload(NotifyType.TICKET_OPAQUE, b"t" * 300, 1)],
        [],
    ],
    ids=["no ticket", "no nonce", "two tickets", "too long", "empty", "protocol", "nothing"],
)
def test_a_request_that_is_none_is_dropped(payloads: list) -> None:
    world = Clients().established()
    pair = world.pair
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    header = decode_message(pair.pending[0].data).header
    pair.pending.clear()
    data = encode_message(header._replace(exchange=ExchangeType.IKE_SESSION_RESUME), payloads)
    pair.b.ike.receive(Path(B_ADDRESS, A_ADDRESS), data, pair.now)
    pair.quiet()
    assert pair.b.drops


def test_a_message_that_is_cut_at_each_octet() -> None:
    world = Clients().interrupted()
    pair = world.pair
    world.connect()
    pair.drain()
    request = pair.pending[0]
    for length in range(len(request.data)):
        pair.b.ike.receive(request.arriving, request.data[:length], pair.now)
    while (output := pair.b.ike.poll_output()) is not None:
        assert not isinstance(output, Transmit)
    assert len(pair.b.ike._by_spi) == 0
    pair.settle()
    assert world.was_resumed()


# -- who gets one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "answer"),
    [({"gives_tickets": False}, " N(TICKET_NACK)"), ({"auth_seconds": 600.0}, None)],
    ids=["policy", "repeated authentication"],
)
def test_no_ticket_is_given(change: dict[str, object], answer: str | None) -> None:
    world = Clients()
    world.change_b(**change)
    world.connect()
    world.pair.settle()
    assert world.holder.stored is None
    line = next(line for _, line in world.pair.sent if "IKE_AUTH!" in line)
    assert "N(TICKET_NACK)" in line
    assert answer is None or line.endswith(answer)
    assert "TICKET_LT_OPAQUE" not in line


def test_a_responder_without_tickets_ignores_the_question() -> None:
    world = Clients()
    world.restart(world.pair.b, supports=False)
    world.established()
    assert world.holder.stored is None
    world.pair.a.ike.rekey_ike(world.pair.a.sa.ike_id, world.pair.now)
    world.pair.settle()
    assert not [line for _, line in world.pair.sent if "INFORMATIONAL? N(TICKET" in line]


def test_a_lifetime_is_that_of_the_ike_sa_at_most() -> None:
    world = Clients()
    world.change_b(lifetimes=Lifetimes(ike_seconds=600.0, child_seconds=0))
    world.established()
    assert world.holder.stored.expires == pytest.approx(world.pair.now + 600, abs=1)


def test_ticket_ack_is_followed_by_one_question() -> None:
    """§4.1: a responder that cannot give one at once."""
    world = Clients()
    pair = world.pair
    world.connect()
    pair.play(FULL + "a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) N(TICKET_REQUEST)")
    answer = pair.pending.pop(0)
    message = pair.message(pair.b, answer.data)
    payloads = [
        NotifyPayload(NotifyType.TICKET_ACK) if isinstance(p, NotifyPayload) else p
        for p in message.payloads
    ]
    sealed = pair.b.sa.protection.seal(message.header, payloads, seeded("x"))
    pair.deliver(replace(answer, data=sealed))
    pair.play(
        """
        a --> b: INFORMATIONAL? N(TICKET_REQUEST)
        a <-- b: INFORMATIONAL! N(TICKET_LT_OPAQUE)
        """
    )
    assert world.holder.stored is not None


@pytest.mark.mlkem
def test_with_ml_kem_and_a_ppk() -> None:
    """Both are in the old SK_d: nothing of them is repeated, and the suite says what it was."""
    suite = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
    world = Clients(ike=(suite,))
    ppk = Ppk(id=b"k", secret=b"p" * 32, required=True)
    for side in (world.pair.a, world.pair.b):
        side.book.peers = [replace(side.peer, ppk=ppk)]
    world.interrupted()
    done = world.exchanges
    world.established()
    assert world.was_resumed()
    assert world.exchanges == done
    assert suite in world.pair.a.last(IkeSaEstablished).suite
    pair = world.pair
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)  # has a key exchange of its own again
    pair.settle()
    assert world.exchanges == done + 4
    assert pair.a.sa.protection.sk_d == pair.b.sa.protection.sk_d


def test_with_psk() -> None:
    world = Clients(psk=b"p" * 32).interrupted()
    world.established()
    assert world.was_resumed()
    world.interrupted()
    world.change_b(remote_auth=PskAuth(secret=b"q" * 32))
    world.connect()
    world.pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! N(TICKET_NACK)")


@pytest.mark.parametrize("in_band", [False, True])
def test_with_a_key_of_another_kind(in_band: bool) -> None:
    """ECDSA, pinned here or shown in band (RFC 7670): void once another key is pinned."""
    own, other = private_key(KeyKind.P256, "one"), private_key(KeyKind.P256, "two")

    def pinned(spki: bytes) -> AnyKeyAuth:
        return AnyKeyAuth(sha256=sha256(spki), key=None if in_band else AnyPublicKey(spki))

    world = Clients(ike=("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-x25519"))
    world.change_a(local_auth=own)
    world.change_b(remote_auth=pinned(own.spki))
    world.interrupted()
    world.established()
    assert world.was_resumed()
    world.interrupted()
    world.change_b(remote_auth=pinned(other.spki))
    world.connect()
    world.pair.play(f"a --> b: {RESUME}\n a <-- b: IKE_SESSION_RESUME! N(TICKET_NACK)")


def test_no_secret_is_shown() -> None:
    world = Clients().established()
    shown = repr(world.holder.stored) + repr(world.tickets.keys)
    assert repr(world.holder.stored.resumes.sk_d) not in shown
    assert repr(KEY.secret) not in shown


def test_nat_is_detected_anew() -> None:
    """§4.3.2: NAT status is no part of what is resumed."""
    world = Clients(settings=IkeSettings(force_encapsulation=False)).interrupted()
    pair = world.pair
    assert not pair.a.events(IkeSaEstablished)[-1].behind_nat
    world.connect()
    pair.drain()
    request = pair.pending.pop(0)
    outside = Path(B_ADDRESS, Address.parse("203.0.113.9", 1234))
    pair.b.ike.receive(outside, request.data, pair.now)
    pair.drain()
    pair.a.ike.receive(A_TO_B, pair.pending.pop(0).data, pair.now)
    pair.settle()
    assert pair.a.last(IkeSaEstablished).behind_nat
    assert pair.b.last(IkeSaEstablished).remote_behind_nat


def test_established_helper() -> None:
    """What the other tests stand on: without the extension nothing of this happens."""
    world = Clients()
    established(world.pair)
    assert not [line for _, line in world.pair.sent if "TICKET" in line]


def test_certificates_are_neither_asked_for_nor_shown() -> None:
    """§4.3.3: the ticket stands for what the server proved with them."""
    pair, holder = ticket_pair()
    a, b = certified()["a"], certified()["b"]
    pair.a.ike.wall = lambda: AT
    pair.a.book.peers[0] = replace(pair.a.peer, remote_auth=a["remote_auth"])
    own = {name: b[name] for name in ("local_auth", "certificates")}
    pair.b.book.peers[0] = replace(pair.b.peer, **own)
    established(pair, (holder.extension,))
    assert any(" CERT CERT " in line for _, line in pair.sent)
    for side in (pair.a, pair.b):
        side.sa.close(CloseReason.TIMEOUT, "", pair.now)
    pair.drain()
    pair.sent.clear()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, (holder.extension,))
    pair.settle()
    assert all(side.last(IkeSaEstablished).resumed for side in (pair.a, pair.b))
    assert len(pair.sent) == 4
    assert not any("CERT" in line for _, line in pair.sent)
