"""The small parts of the engine: back-off, sentences, what arrives from strangers, who is known."""

from __future__ import annotations

import itertools

import pytest

from agent import profiles
from agent.config import load_config
from agent.datagram import Address, Path, Received
from agent.engine.authority import Authority
from agent.engine.backoff import SHORT_ONES, STABLE_SECONDS, Backoff
from agent.engine.entries import MEDIATED
from agent.engine.sentences import connect_failed, mediator_closed, peer_closed
from agent.ike.crash import decode_invalid_spi
from agent.ike.events import CloseReason
from agent.mediation.events import ConnectFailure
from agent.peers import Peers
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification
from tests.support.pair import key_of, seeded
from tests.unit.engine.machines import Scene

KEYS = profiles.Keys(identity=key_of("me"), mediation=key_of("mediation me"))


def backoff(octets: bytes = b"\0\0") -> Backoff:
    return Backoff(lambda length: octets[:length], 2.0, 120.0)


def test_delays_double_up_to_the_limit():
    lower, upper = backoff(), backoff(b"\xff\xff")
    steps = [2, 4, 8, 16, 32, 64, 120, 120]
    assert [lower.next_delay() for _ in steps] == [s / 2 for s in steps]
    for step in steps:
        assert step * 0.99 < upper.next_delay() <= step


def test_reset_begins_again():
    delays = backoff()
    for _ in range(5):
        delays.next_delay()
    delays.reset()
    assert delays.next_delay() == 1.0


def test_a_success_that_lasted_begins_again():
    delays = backoff()
    for _ in range(20):
        assert delays.next_delay() == 1.0
        assert not delays.on_lost(STABLE_SECONDS)


def test_short_successes_in_a_row_are_suspicious_once():
    delays = backoff()
    told = [(delays.on_lost(5.0), delays.next_delay()) for _ in range(SHORT_ONES + 4)]
    assert [delay for _, delay in told] == [1.0] * SHORT_ONES + [2.0, 4.0, 8.0, 16.0]
    assert [suspicious for suspicious, _ in told] == [False] * SHORT_ONES + [True] + [False] * 3
    delays.on_lost(STABLE_SECONDS)
    assert delays.next_delay() == 1.0


@pytest.mark.parametrize("reason", CloseReason)
def test_every_end_has_a_sentence(reason):
    for said in (mediator_closed(reason, "why"), peer_closed(reason, "why")):
        assert said[-1] in ".?"
        assert len(said.split()) > 4
        assert said.isprintable()


def test_what_has_no_sentence_of_its_own_shows_its_detail():
    said = peer_closed(CloseReason.REFUSED, "NO_ADDITIONAL_SAS")
    assert said == "the other side refused it (NO_ADDITIONAL_SAS)."
    assert peer_closed(CloseReason.REFUSED, "") == "the other side refused it."


def test_why_somebody_was_not_believed_is_told():
    """But not the notify by which the other side says no more than that it did not believe us."""
    failed = CloseReason.AUTHENTICATION_FAILED
    plain = peer_closed(failed, "AUTHENTICATION_FAILED")
    assert peer_closed(failed, "the certificate of CN=bob ended on 2026-01-01 00:00 UTC") == (
        f"{plain} What was wrong: the certificate of CN=bob ended on 2026-01-01 00:00 UTC."
    )
    assert peer_closed(failed, "") == plain


@pytest.mark.parametrize("reason", ConnectFailure)
def test_every_failure_to_connect_has_words(reason):
    assert "_" not in connect_failed(reason)
    assert len(connect_failed(reason)) > 4


# --- strangers ---------------------------------------------------------------------------------


def test_nonsense_is_counted_and_not_answered():
    scene = Scene().registered()
    path = Path(Address.parse("10.0.1.2", 4500), Address.parse("198.18.0.1", 9999))
    random = seeded("nonsense")
    sizes = [0, 1, 2, 3, 4, 5, 8, 18, 19, 27, 28, 29, 100, 1500, 9000, 65507]
    prefixes = [b"", b"\xff", bytes(4), bytes(20), bytes(22) + b"\x25" * 8]
    datagrams = [
        (prefix + random(size))[:65507] for prefix, size in itertools.product(prefixes, sizes)
    ]
    scene.gateway.drain(scene.now)
    before = scene.gateway.sas
    for data in datagrams:
        scene.gateway.engine.receive_datagrams([Received(path, data)], scene.now)
    # What looks like ESP may be told that nobody knows it, once a second.
    (answer,) = scene.gateway.drain(scene.now)
    assert decode_invalid_spi(answer.data[4:]) is not None
    assert scene.gateway.sas == before
    dropped = scene.gateway.engine.status(scene.now).dropped
    counted = sum(dropped.values())
    assert counted >= len(datagrams) - 5  # keepalives and empty ones may count as nothing
    assert all(reason.replace("_", "").isalpha() for reason in dropped)


def test_replayed_datagrams_change_nothing():
    scene = Scene()
    scene.network.trace.clear()
    scene.connected()
    assert scene.echoes()
    sent = [(p.source, p.data) for _, name, p in scene.network.trace if name == "operator"]
    before = (scene.gateway.sas, len(scene.gateway.delivered), len(scene.gateway.events))
    stranger = Path(Address.parse("10.0.1.2", 4500), Address.parse("198.18.0.1", 4500))
    for _, data in sent:
        scene.gateway.engine.receive_datagrams([Received(stranger, data)], scene.now)
    scene.gateway.drain(scene.now)
    scene.run(1)
    delivered = len(scene.gateway.delivered)
    assert (scene.gateway.sas, delivered, len(scene.gateway.events)) == before
    assert scene.gateway.peer("laptop").path.startswith("192.0.2.1")


REQUEST = Message(
    Header(bytes(8), bytes(8), 34, is_initiator=True, is_response=False, message_id=0)
)

# --- the authority -----------------------------------------------------------------------------


def test_nobody_is_known_by_default():
    authority = Authority(profiles.OUR_IKE)
    who = Identification.key_id(key_of("x").public)
    assert authority.find_peer(who, None, ()) is None
    assert authority.responder_proposals(Path(Address(b"", 0), Address(b"", 0)), REQUEST)


def test_proposals_of_single_peers_are_accepted_after_ours():
    config = load_config(
        '[peer.x]\npsk="0123456789abcdef!"\nid="x"\nassign="10.3.0.1"\nproposals="aes256-sha256-modp2048"'
    )
    authority = Authority(profiles.OUR_IKE[:1])
    authority.set_peers(profiles.peers(config, KEYS, Peers()))
    found = authority.responder_proposals(Path(Address(b"", 0), Address(b"", 0)), REQUEST)
    assert found[0] == profiles.OUR_IKE[0]
    assert len(found) == 2


def test_no_peer_can_be_called_like_the_mediated_ones():
    from agent.config import NAME

    assert not NAME.fullmatch(MEDIATED)
    assert not NAME.fullmatch(profiles.INVITATION + "x")
    assert not NAME.fullmatch(profiles.ENROLMENT + "x")
