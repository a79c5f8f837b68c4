"""THREATS 24: rekeying with protocol 0, an unknown SPI, twice before the delete, while deleting.

The right error, no crash, and the Child SA that carries the traffic stands on both sides.
"""

from __future__ import annotations

import pytest

from agent.ike.events import IkeSaClosed
from agent.wire.codes import NotifyType
from agent.wire.message import encode_payloads
from agent.wire.payloads import DeletePayload, NotifyPayload, SaPayload
from tests.support.exchanges import REQUESTS, payloads_of, sealed
from tests.support.pair import established, make_pair
from tests.unit.ike.test_agreement import _agree as agree

(REKEY,) = [s for s in REQUESTS if s.name == "CREATE_CHILD_SA rekey"]
(REKEY_IKE,) = [s for s in REQUESTS if s.name == "CREATE_CHILD_SA IKE"]

BAD: dict[str, tuple[int, bytes | None, str]] = {
    # name: (protocol, SPI; None: the right one, answer)
    "protocol 0": (0, None, "N(CHILD_SA_NOT_FOUND)"),
    "protocol IKE": (1, None, "N(CHILD_SA_NOT_FOUND)"),
    "protocol AH": (2, None, "N(CHILD_SA_NOT_FOUND)"),
    "protocol 255": (255, None, "N(CHILD_SA_NOT_FOUND)"),
    "an unknown SPI": (3, b"none", "N(CHILD_SA_NOT_FOUND)"),
    "SPI zero": (3, bytes(4), "N(CHILD_SA_NOT_FOUND)"),
    "no SPI": (3, b"", "N(CHILD_SA_NOT_FOUND)"),
    "nothing at all": (0, b"", "N(CHILD_SA_NOT_FOUND)"),
    "an SPI of sixteen octets": (3, b"sixteen octets!!", "N(CHILD_SA_NOT_FOUND)"),
}


@pytest.mark.parametrize("name", BAD)
def test_notifies_that_name_no_child_sa(name: str) -> None:
    protocol, spi, wanted = BAD[name]
    pair, true = REKEY.start()
    message, cipher = payloads_of(pair, true)
    spi = next(iter(pair.a.installed)) if spi is None else spi
    rekey = NotifyPayload(NotifyType.REKEY_SA, b"", protocol, spi)
    payloads = [rekey if isinstance(p, NotifyPayload) else p for p in message.payloads]
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *encode_payloads(payloads)), pair.now)
    pair.drain()
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data) == f"CREATE_CHILD_SA! {wanted}"
    (said,) = pair.message(pair.b, answer.data).payloads
    assert said.spi == spi  # RFC 7296 §2.25: it names what was not found
    assert len(pair.b.installed) == 1


def test_the_spi_of_the_other_direction() -> None:
    """The sender's inbound SPI is what REKEY_SA has; the receiver's names nothing here."""
    pair, true = REKEY.start()
    message, cipher = payloads_of(pair, true)
    rekey = NotifyPayload(NotifyType.REKEY_SA, b"", 3, next(iter(pair.b.installed)))
    payloads = [rekey if isinstance(p, NotifyPayload) else p for p in message.payloads]
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *encode_payloads(payloads)), pair.now)
    pair.drain()
    assert pair.describe(pair.b, pair.pending[0].data).endswith("N(CHILD_SA_NOT_FOUND)")
    assert len(pair.b.installed) == 1


def test_an_ike_spi_of_zero_or_of_a_wrong_length() -> None:
    for spi in (bytes(8), b"", b"four"):
        pair, true = REKEY_IKE.start()
        message, cipher = payloads_of(pair, true)
        payloads = [
            SaPayload(tuple(o.with_spi(spi) for o in p.proposals))
            if isinstance(p, SaPayload)
            else p
            for p in message.payloads
        ]
        data = sealed(message, cipher, *encode_payloads(payloads))
        pair.b.ike.receive(true.arriving, data, pair.now)
        pair.drain()
        assert pair.describe(pair.b, pair.pending[0].data).endswith("N(INVALID_SYNTAX)")
        assert not pair.b.ike.sas()


def test_twice_before_the_delete() -> None:
    """What was replaced is not rekeyed again (§2.8): TEMPORARY_FAILURE; the new one carries on."""
    pair = established(make_pair(child=True))
    first = next(iter(pair.a.installed))
    pair.a.ike.rekey_child(first, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No TSi TSr
        """
    )
    pair.pending.clear()  # the delete is lost
    pair.a.sa.outgoing.clear()
    new = set(pair.a.installed) - {first}
    child = pair.a.sa.children[first]
    child.is_closing = child.ends_silently = False
    pair.a.ike.rekey_child(first, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr
        a <-- b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        """
    )
    assert set(pair.a.installed) == {first} | new
    assert len(pair.b.installed) == 2
    pair.a.delete_child(first, pair.now)
    pair.settle()
    agree(pair, with_child=True)


def test_while_the_other_side_deletes_it() -> None:
    """§2.25.1: TEMPORARY_FAILURE, and the delete goes through."""
    pair = established(make_pair(child=True))
    pair.b.delete_child(next(iter(pair.b.installed)), pair.now)
    pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)
    pair.drain()
    rekey, delete = pair.pending
    pair.pending.clear()
    pair.deliver(rekey)
    assert pair.describe(pair.b, pair.pending[0].data).endswith("! N(TEMPORARY_FAILURE)")
    pair.deliver(delete)
    pair.sleep(60)
    agree(pair, with_child=False)
    assert not pair.a.installed


def test_while_the_ike_sa_is_being_deleted() -> None:
    pair, true = REKEY.start()
    pair.b.ike.close(pair.b.sa.ike_id, pair.now)
    pair.drain()
    delete = pair.pending.pop()
    pair.deliver(true)
    answer = pair.pending.pop(0)
    assert pair.describe(pair.b, answer.data).endswith("N(TEMPORARY_FAILURE)")
    pair.deliver(answer)
    pair.deliver(delete)
    pair.settle()
    for side in (pair.a, pair.b):
        assert len(side.events(IkeSaClosed)) == 1
        assert not side.installed
        assert not side.ike._by_spi


@pytest.mark.parametrize("protocol", [0, 2, 3, 255])
def test_deletes_that_name_nothing(protocol: int) -> None:
    """Of unknown SPIs, of wrong sizes, the same one often: answered, and what is there stays."""
    for spis in ((b"none",), (b"none",) * 200, (b"twooctet",), (b"\1\2",), ()):
        pair = established(make_pair(child=True))
        answers: list = []
        pair.a.ike.request(
            pair.a.sa.ike_id,
            37,
            [DeletePayload(protocol, spis)] * 3,
            lambda m, now, answers=answers: answers.append(m),
            pair.now,
        )
        pair.settle()
        assert answers[0].payloads == ()
        agree(pair, with_child=True)
