"""THREATS 18: a rogue responder collects AUTH made with a shared key, to guess it at leisure.

tests/unit/config/test_config.py::test_a_weak_psk_is_refused_and_not_repeated
tests/unit/config/test_config.py::test_psk_file_with_a_weak_key
tests/unit/ike/test_initial.py::test_psk_is_no_answer_to_a_pinned_key
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.config import load_config
from agent.config.values import PSK_MINIMUM
from agent.crypto.auth import key_text
from agent.errors import ConfigError
from agent.ike.events import IkeSaClosed, IkeSaEstablished
from agent.ike.pad import KeyAuth, PskAuth
from agent.wire.codes import AuthMethod
from agent.wire.payloads import AuthPayload
from tests.support.pair import A_TO_B, Pair, key_of, make_pair

PLACES = {
    "a peer": '[peer.x]\naddress = "192.0.2.1"\nid = "x"\npsk = "{}"\nremote_ts = ["10.0.0.0/8"]\n',
    "a mediator": '[mediator.x]\naddress = "192.0.2.1"\npsk = "{}"\nid = "me"\n',
    "a peer of our mediator": '[mediate]\n[mediate.peer.x]\nid = "x"\npsk = "{}"\n',
}
WEAK = ["a", "secret", "x" * (PSK_MINIMUM - 1), "a" * 64, " " * 40, "password" * 8]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", WEAK)
def test_weak_keys_are_refused_wherever_one_is_read(place: str, secret: str) -> None:
    """And the sentence that refuses it does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        load_config(PLACES[place].format(secret))
    assert "psk" in caught.value.sentence
    assert len(secret) < 8 or secret not in caught.value.sentence


def _proofs(pair: Pair) -> list[int]:
    """The methods of all AUTH payloads that a has sent, whoever could read them."""
    found = []
    while pair.pending:
        datagram = pair.pending.pop(0)
        if datagram.sender is pair.a:
            message = pair.message(pair.a, datagram.data)
            found += [auth.method for auth in message.all(AuthPayload)]
        pair.deliver(datagram)
    return found


def test_who_has_a_key_to_sign_with_makes_no_other_proof() -> None:
    """Whatever the responder is, or says: our proof is a signature, which is no use elsewhere."""
    for theirs in (PskAuth(secret=b"p" * 32), KeyAuth(public=key_of("rogue").public)):
        pair = make_pair()
        pair.b.book.peers[0] = replace(pair.b.peer, remote_auth=theirs)
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.drain()
        assert _proofs(pair) == [AuthMethod.DIGITAL_SIGNATURE]
        assert not pair.a.events(IkeSaEstablished)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_pinned_key_is_never_answered_by_a_shared_one(side: str) -> None:
    """In either role: a peer whose key is pinned and who comes with a shared key is refused."""
    pair = make_pair(psk=b"p" * 32)
    here = getattr(pair, side)
    other = "b" if side == "a" else "a"
    pinned = KeyAuth(public=key_of(other).public)
    here.book.peers[0] = replace(here.peer, remote_auth=pinned)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert not here.events(IkeSaEstablished)
    assert pair.a.events(IkeSaClosed)
    assert len(pair.a.ike) == len(pair.b.ike) == 0


def test_a_configuration_has_one_or_the_other() -> None:
    """A key and a shared key for one peer would leave the choice to whoever answers."""
    key = key_text(key_of("x").public)
    text = PLACES["a peer"].format("Yz0-9fK2_mQ7xw3LrT8v") + f'key = "{key}"\n'
    with pytest.raises(ConfigError):
        load_config(text)
