"""Two IKE engines back to back in virtual time, driven by scripts in arrow notation.

A script line both moves one datagram and says what it must be:

    a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr     `?` request, `!` response
    a <-- b: CREATE_CHILD_SA! SA No TSi TSr
    a --x b: INFORMATIONAL? D(ESP)                          lost on the way
    a x-- b: INFORMATIONAL! D(ESP)

Payloads are compared as a set of words in their order, decrypted with the sender's own keys. The
NAT detection, hash and fragmentation notifies of IKE_SA_INIT are left out, they are always there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from agent.crypto.algorithms import IntegrityError
from agent.crypto.auth import SigningKey
from agent.datagram import Address, Dropped, Path, Transmit
from agent.ike import certificates
from agent.ike.attachment import Attachment
from agent.ike.events import (
    ChildSaClosed,
    ChildSaEstablished,
    ChildSaRekeyed,
    CloseReason,
    InstallChildSa,
    RemoveChildSa,
)
from agent.ike.informational import DeleteChild
from agent.ike.pad import ChildPolicy, KeyAuth, Lifetimes, Peer, PskAuth
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState
from agent.ike.table import Ike
from agent.wire.codes import ExchangeType, NotifyType, PayloadType, ProtocolId, known
from agent.wire.errors import WireError
from agent.wire.message import decode_message, decode_payloads
from agent.wire.payloads import (
    DeletePayload,
    Encrypted,
    EncryptedFragment,
    Identification,
    NotifyPayload,
    UnknownPayload,
)
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.exchange import Task
    from agent.ike.extension import Extension, Factory
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import CertreqPayload, Payload
    from agent.wire.proposals import Proposal

T = TypeVar("T")

_WORDS = {PayloadType.NONCE: "No", PayloadType.V: "V"}
_ALWAYS = {
    NotifyType.NAT_DETECTION_SOURCE_IP,
    NotifyType.NAT_DETECTION_DESTINATION_IP,
    NotifyType.SIGNATURE_HASH_ALGORITHMS,
    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED,
}

IKE_PROPOSALS = ("aes128gcm16-prfsha256-x25519",)
ESP_PROPOSALS = ("aes128gcm16",)


def seeded(seed: str) -> Callable[[int], bytes]:
    """A random source that is the same in each run."""
    state = hashlib.shake_128(seed.encode())
    count = 0

    def random(length: int) -> bytes:
        nonlocal count
        count += 1
        fresh = state.copy()
        fresh.update(count.to_bytes(4, "big"))
        return fresh.digest(length)

    return random


def key_of(name: str) -> SigningKey:
    """A fixed Ed25519 key for `name`."""
    return SigningKey.from_seed(hashlib.sha256(name.encode()).digest())


def ike_proposals(*texts: str) -> tuple[Proposal, ...]:
    """For an IKE SA."""
    return parse_proposals(texts or IKE_PROPOSALS, ProtocolId.IKE)


def child_policy(
    local: str,
    remote: str,
    *,
    proposals: Sequence[str] = ESP_PROPOSALS,
    request: tuple[int, ...] = (),
    assign: tuple[bytes, ...] = (),
) -> ChildPolicy:
    """Between two selectors (empty text: none)."""
    return ChildPolicy(
        name="net",
        local_ts=(TrafficSelector.parse(local),) if local else (),
        remote_ts=(TrafficSelector.parse(remote),) if remote else (),
        proposals=parse_proposals(proposals, ProtocolId.ESP),
        request_addresses=request,
        assign=assign,
    )


class Book:
    """A Pad over a list of peers."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self.peers = list(peers)
        self.proposals: tuple[Proposal, ...] = ()

    def responder_proposals(self, path: Path, request: Message) -> tuple[Proposal, ...]:
        """See Pad."""
        return self.proposals or tuple(p for peer in self.peers for p in peer.proposals)

    def find_peer(
        self,
        remote_id: Identification,
        local_id: Identification | None,
        context: tuple[Extension, ...],
    ) -> Peer | None:
        """See Pad."""
        for peer in self.peers:
            if peer.remote_id is not None and peer.remote_id.matches(remote_id):
                return peer
        return None

    def uses_ppk(self) -> bool:
        """See Pad."""
        return any(peer.ppk is not None for peer in self.peers)

    def certificate_requests(self, request: Message) -> tuple[CertreqPayload, ...]:
        """See Pad."""
        return certificates.requests([peer.remote_auth for peer in self.peers])


@dataclass
class Side:
    """One engine and what it said."""

    name: str
    ike: Ike
    book: Book
    address: Address
    outputs: list[object] = field(default_factory=list)
    installed: dict[bytes, InstallChildSa] = field(default_factory=dict)
    seals: dict[bytes, list] = field(default_factory=dict)  # each round of keys has one

    def events(self, kind: type[T]) -> list[T]:
        """The outputs of a class, in their order."""
        return [o for o in self.outputs if isinstance(o, kind)]

    def last(self, kind: type[T]) -> T:
        """The last output of a class."""
        return self.events(kind)[-1]

    @property
    def drops(self) -> list[str]:
        """Why datagrams were dropped."""
        return [d.reason for d in self.events(Dropped)]

    @property
    def sa(self) -> IkeSa:
        """The only IKE SA that is not half-open."""
        (sa,) = (s for s in self.ike.sas() if s.state is not IkeState.HALF_OPEN)
        return sa

    def submit(self, task: Task, now: float) -> None:
        """Let the IKE SA of `sa` send a request."""
        sa = self.sa
        sa.submit(task, now)
        self.ike.touch(sa)

    def delete_child(self, spi_in: bytes, now: float) -> None:
        """Let the IKE SA of `sa` delete the Child SA that this side calls `spi_in`."""
        self.submit(DeleteChild(self.sa.children[spi_in], CloseReason.DELETED), now)

    @property
    def peer(self) -> Peer:
        """The first peer of the book."""
        return self.book.peers[0]


@dataclass
class Datagram:
    """On its way."""

    sender: Side
    path: Path
    data: bytes

    @property
    def arriving(self) -> Path:
        """The path as the receiver sees it."""
        return Path(self.path.remote, self.path.local)


class Pair:
    """Sides `a` and `b`, and the datagrams between them."""

    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        self.now = 1000.0
        self.pending: list[Datagram] = []
        self.sent: list[tuple[float, str]] = []

    # -- driving ---------------------------------------------------------------------------------

    def other(self, side: Side) -> Side:
        """The peer of `side`."""
        return self.b if side is self.a else self.a

    def drain(self) -> None:
        """Collect the outputs of both."""
        for side in (self.a, self.b):
            for spi, sa in side.ike._by_spi.items():
                seals = side.seals.setdefault(spi, [])
                if sa.protection is not None and sa.protection._outbound not in seals:
                    seals.append(sa.protection._outbound)
            while (output := side.ike.poll_output()) is not None:
                match output:
                    case Transmit(path=path, data=data):
                        self.pending.append(Datagram(side, path, data))
                        arrow = "-->" if side is self.a else "<--"
                        self.sent.append((self.now, f"a {arrow} b: {self.describe(side, data)}"))
                    case InstallChildSa():
                        side.installed[output.spi_in] = output
                    case RemoveChildSa(spi_in=spi_in):
                        del side.installed[spi_in]
                if not isinstance(output, Transmit):
                    side.outputs.append(output)

    def deliver(self, datagram: Datagram) -> None:
        """Hand a datagram to its receiver."""
        self.drain()
        receiver = self.other(datagram.sender)
        receiver.ike.receive(datagram.arriving, datagram.data, self.now)
        self.drain()

    def settle(self, delay: float = 0.01) -> None:
        """Deliver everything, in order, each taking `delay` seconds, without any timer."""
        self.drain()
        for _ in range(10_000):
            if not self.pending:
                return
            self.now += delay
            self.deliver(self.pending.pop(0))
        raise AssertionError("this never ends")

    def sleep(self, seconds: float, *, deliver: bool = True) -> None:
        """Let time pass, timer by timer; what is sent arrives, or is lost."""
        until = self.now + seconds
        self.drain()
        for _ in range(100_000):
            if deliver:
                self.settle()
            else:
                self.pending.clear()
            deadlines = [side.ike.next_timeout() for side in (self.a, self.b)]
            due = min((d for d in deadlines if d is not None), default=None)
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            for side in (self.a, self.b):
                at = side.ike.next_timeout()
                if at is not None and at <= self.now:
                    side.ike.handle_timer(self.now)
            self.drain()
        else:
            raise AssertionError("this never ends")
        self.now = max(self.now, until)

    def tick(self, side: Side) -> None:
        """Jump to the next deadline of `side` and let it act."""
        at = side.ike.next_timeout()
        assert at is not None
        self.now = max(self.now, at)
        side.ike.handle_timer(self.now)
        self.drain()

    def play(self, script: str) -> None:
        """Move datagrams as the arrows say, and compare each with what the line says."""
        self.drain()
        for line in filter(None, map(str.strip, script.splitlines())):
            arrow, _, expected = line.partition(": ")
            sender = self.a if arrow.endswith(("> b", "x b")) else self.b
            found = next((d for d in self.pending if d.sender is sender), None)
            waiting = [self.describe(d.sender, d.data) for d in self.pending]
            assert found is not None, f"nothing for {line!r}; waiting: {waiting}"
            self.pending.remove(found)
            assert self.describe(sender, found.data) == " ".join(expected.split()), line
            if "x" not in arrow:
                self.now += 0.01
                self.deliver(found)

    def quiet(self) -> None:
        """Nothing is on its way."""
        self.drain()
        assert [self.describe(d.sender, d.data) for d in self.pending] == []

    # -- looking ---------------------------------------------------------------------------------

    def message(self, side: Side, data: bytes) -> Message:
        """What `side` sent, decrypted with its own keys."""
        message = decode_message(data)
        encrypted = message.first(Encrypted)
        if encrypted is None:
            return message
        own = message.header.spis[:8] if message.header.is_initiator else message.header.spis[8:]
        for cipher in reversed(side.seals[own]):
            body, iv = encrypted.body, cipher.iv_length
            try:
                inner = cipher.open(body[:iv], body[iv:], encrypted.aad)
            except IntegrityError:
                continue
            inner = inner[: len(inner) - 1 - inner[-1]]
            return replace(message, payloads=decode_payloads(encrypted.first_inner, inner))
        raise KeyError(own)

    def describe(self, side: Side, data: bytes) -> str:
        """One line about what `side` sent."""
        try:
            message = self.message(side, data)
        except (KeyError, WireError):  # keys are gone, or it is bad on purpose
            message = decode_message(data)
        exchange = known(ExchangeType, message.header.exchange)
        name = exchange.name if isinstance(exchange, ExchangeType) else str(exchange)
        mark = "!" if message.header.is_response else "?"
        words = [w for w in map(_word, message.payloads) if w]
        return " ".join([name + mark, *words])


def _word(payload: Payload) -> str:
    match payload:
        case NotifyPayload(type=kind):
            if kind in _ALWAYS:
                return ""
            name = known(NotifyType, kind)
            return f"N({name.name if isinstance(name, NotifyType) else name})"
        case EncryptedFragment(number=number, total=total):
            return f"SKF({number}/{total})"
        case DeletePayload(protocol=protocol):
            return f"D({getattr(known(ProtocolId, protocol), 'name', protocol)})"
        case UnknownPayload(type=kind):
            return f"[{kind}]"
    kind = PayloadType(payload.payload_type)
    return _WORDS.get(kind, kind.name)


def tunnels_told(side: Side) -> set[bytes]:
    """Our SPIs of the Child SAs that are there by what was told."""
    up: set[bytes] = set()
    for event in side.outputs:
        match event:
            case ChildSaEstablished():
                up.add(event.spi_in)
            case ChildSaRekeyed():
                assert event.old_spi_in in up
                up = up - {event.old_spi_in} | {event.spi_in}
            case ChildSaClosed():
                up.discard(event.spi_in)
    return up


# -- making pairs --------------------------------------------------------------------------------

A_ADDRESS = Address.parse("192.0.2.1", 4500)
B_ADDRESS = Address.parse("198.51.100.2", 4500)
A_TO_B = Path(A_ADDRESS, B_ADDRESS)


def make_side(
    name: str,
    address: Address,
    peers: Sequence[Peer],
    *,
    settings: IkeSettings | None = None,
    factories: Sequence[Factory] = (),
    **more: Any,
) -> Side:
    """An engine that knows `peers`; `more` is for Ike."""
    book = Book(peers)
    ike = Ike(
        pad=book,
        random=seeded(name),
        settings=settings or IkeSettings(),
        responder_extensions=factories,
        **more,
    )
    return Side(name, ike, book, address)


def make_peers(
    *,
    psk: bytes | None = None,
    children: tuple[ChildPolicy, ChildPolicy] | None = None,
    ike: Sequence[str] = IKE_PROPOSALS,
    lifetimes: Lifetimes | None = None,
    liveness: float = 0.0,
) -> tuple[Peer, Peer]:
    """How a sees b, and how b sees a: Ed25519 unless a `psk` is given."""
    a_key, b_key = key_of("a"), key_of("b")
    a_id, b_id = Identification.parse("a@example.org"), Identification.parse("b@example.org")
    peer_b = Peer(
        name="b",
        local_id=a_id,
        remote_id=b_id,
        local_auth=PskAuth(secret=psk) if psk else a_key,
        remote_auth=PskAuth(secret=psk) if psk else KeyAuth(public=b_key.public),
        proposals=ike_proposals(*ike),
        child=children[0] if children else None,
        lifetimes=lifetimes or Lifetimes(ike_seconds=0, child_seconds=0),
        liveness_seconds=liveness,
    )
    peer_a = replace(
        peer_b,
        name="a",
        local_id=b_id,
        remote_id=a_id,
        local_auth=PskAuth(secret=psk) if psk else b_key,
        remote_auth=PskAuth(secret=psk) if psk else KeyAuth(public=a_key.public),
        child=children[1] if children else None,
    )
    return peer_b, peer_a


def make_pair(
    *,
    child: bool = False,
    esp: Sequence[str] = ESP_PROPOSALS,
    psk: bytes | None = None,
    ike: Sequence[str] = IKE_PROPOSALS,
    lifetimes: Lifetimes | None = None,
    liveness: float = 0.0,
    settings: IkeSettings | None = None,
    factories: Sequence[Factory] = (),
) -> Pair:
    """Two engines that know each other; `factories` are b's."""
    children = None
    if child:
        children = (
            child_policy("10.1.0.0/24", "10.2.0.0/24", proposals=esp),
            child_policy("10.2.0.0/24", "10.1.0.0/24", proposals=esp),
        )
    peer_b, peer_a = make_peers(
        psk=psk, children=children, ike=ike, lifetimes=lifetimes, liveness=liveness
    )
    return Pair(
        make_side("a", A_ADDRESS, [peer_b], settings=settings),
        make_side("b", B_ADDRESS, [peer_a], settings=settings, factories=factories),
    )


class _Bare(Attachment):
    def _attach(self, sa: IkeSa, extensions: Sequence[Extension]) -> None:
        sa.extensions = (self._natd, *extensions)


def make_bare(side: Side, factories: Sequence[Factory] = ()) -> None:
    """From now on `side` knows no fragments and no intermediate exchanges."""
    side.ike.attachment = _Bare(
        side.ike.random, always=(), responder=factories, tokens=None, force_encapsulation=False
    )


def established(pair: Pair, extensions: Sequence[Extension] = ()) -> Pair:
    """The same pair with an IKE SA that a has started."""
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, extensions)
    pair.settle()
    assert pair.a.sa.established
    assert pair.b.sa.established
    return pair
