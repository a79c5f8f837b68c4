"""IKE_SA_INIT and IKE_AUTH between two engines: RFC 7296 §1.2, §2.6, §2.15, §2.21."""

from __future__ import annotations

import pytest

from agent.ike.events import (
    ChildSaEstablished,
    IkeSaEstablished,
)
from tests.support.pair import A_TO_B, established, make_pair


def test_childless_with_ed25519() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        """
    )
    pair.quiet()
    for side, other in ((pair.a, "b@example.org"), (pair.b, "a@example.org")):
        event = side.last(IkeSaEstablished)
        assert event.remote_id.text == other
        assert event.is_initiator == (side is pair.a)
        assert event.suite == "aes128gcm16-prfsha256-x25519"
        assert event.remote_behind_nat  # forced by the random source hash
        assert not event.behind_nat
        assert not side.installed
    assert pair.a.last(IkeSaEstablished).spis == pair.b.last(IkeSaEstablished).spis


@pytest.mark.parametrize(
    "ike",
    [
        "aes128gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha512-ecp256",
        "chacha20poly1305-prfsha384-x25519",
        "aes128-sha256-x25519",
        "aes256-sha256-modp2048",
    ],
)
@pytest.mark.parametrize("psk", [None, b"a shared secret"])
def test_with_child_sa(ike: str, psk: bytes | None) -> None:
    pair = make_pair(child=True, ike=(ike,), psk=psk)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    pair.quiet()
    (ours,) = pair.a.installed.values()
    (theirs,) = pair.b.installed.values()
    assert (ours.spi_in, ours.spi_out) == (theirs.spi_out, theirs.spi_in)
    assert (ours.keys_in, ours.keys_out) == (theirs.keys_out, theirs.keys_in)
    assert ours.keys_in != ours.keys_out
    assert ours.use_at_once
    assert not theirs.use_at_once
    assert str(pair.a.last(ChildSaEstablished).remote_ts[0]) == "10.2.0.0/24"
    assert pair.b.last(ChildSaEstablished).local_ts == ours.remote_ts


def test_established_helper() -> None:
    pair = established(make_pair(child=True))
    assert len(pair.a.ike) == len(pair.b.ike) == 1
