"""Postquantum preshared keys beside the usual authentication (RFC 8784), both sides.

    SK_d = prf+(PPK, SK_d')    SK_pi = prf+(PPK, SK_pi')    SK_pr = prf+(PPK, SK_pr')

Who recorded the key exchange and breaks it one day still lacks the PPK, and with it SK_d and every
key of a Child SA and of later IKE SAs. USE_PPK is agreed in IKE_SA_INIT, the PPK is named in
IKE_AUTH. Where a PPK is not required, an initiator proves itself without one too (NO_PPK_AUTH), for
a responder that does not have it; where it is required nothing goes on without it.

Left out: PPK_ID_OPAQUE, several PPKs for one peer, EAP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.digest import bytes_eq
from agent.crypto.keymat import mix_ppk
from agent.ike.errors import AuthenticationFailed
from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import AuthPayload, NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.keymat import IkeKeys
    from agent.ike.pad import Peer, Ppk
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

    Prove = Callable[[], AuthPayload]

FIXED: Final = b"\x02"  # PPK_ID_FIXED, §5.1


class PpkUse(Extension):
    """Whether both sides said USE_PPK, and whether the keys have a PPK in them."""

    __slots__ = ("agreed", "mixed", "plain")

    def __init__(self) -> None:
        self.agreed = False
        self.mixed = False
        self.plain: IkeKeys | None = None  # until IKE_AUTH is answered

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_SA_INIT:
            payloads.append(NotifyPayload(NotifyType.USE_PPK))

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        if message.header.exchange == ExchangeType.IKE_SA_INIT:
            self.agreed = True
            payloads.append(NotifyPayload(NotifyType.USE_PPK))
        elif message.header.exchange == ExchangeType.IKE_AUTH and self.mixed:
            payloads.append(NotifyPayload(NotifyType.PPK_IDENTITY))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension. Without USE_PPK an answer is no use where the PPK is required."""
        if exchange == ExchangeType.IKE_SA_INIT:
            self.agreed = message.notify(NotifyType.USE_PPK) is not None
            ppk = _ppk(sa)
            if not self.agreed and ppk is not None and ppk.required:
                raise AuthenticationFailed("the peer does not use the PPK that is required")

    def mix(self, sa: IkeSa, ppk: Ppk) -> None:
        """What is derived from now on has the PPK in it; `plain` keeps what was."""
        hs = sa.handshake
        assert hs is not None
        assert hs.keys is not None
        assert sa.suite is not None
        self.mixed = True
        self.plain = hs.keys
        self._use(sa, mix_ppk(sa.suite.prf, ppk.secret, hs.keys))

    def unmix(self, sa: IkeSa) -> None:
        """As if there were none: the responder proves itself without it."""
        assert self.plain is not None
        self.mixed = False
        self._use(sa, self.plain)

    @staticmethod
    def _use(sa: IkeSa, keys: IkeKeys) -> None:
        assert sa.handshake is not None
        assert sa.protection is not None
        sa.handshake.keys = keys
        sa.protection.sk_d = keys.sk_d

    def on_established(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        self.plain = None


def attach(sa: IkeSa, message: Message | None) -> Extension | None:
    """The factory: for an SA with a peer of a PPK, or whose request asks and we have some."""
    if message is None:
        return PpkUse() if _ppk(sa) is not None else None
    asked = message.notify(NotifyType.USE_PPK) is not None
    return PpkUse() if asked and sa.table.pad.uses_ppk() else None


def use_of(sa: IkeSa) -> PpkUse | None:
    """The state of this SA."""
    return next((e for e in sa.extensions if isinstance(e, PpkUse)), None)


def negotiated(sa: IkeSa) -> str:
    """The suite of this SA for people, and whether a PPK is in its keys."""
    use = use_of(sa)
    text = sa.suite.text if sa.suite is not None else ""
    return text + " + PPK" if use is not None and use.mixed else text


def _ppk(sa: IkeSa) -> Ppk | None:
    return sa.peer.ppk if sa.peer is not None else None


# -- initiator -----------------------------------------------------------------------------------


def prove(sa: IkeSa, proof: Prove) -> list[Payload]:
    """AUTH of the initiator, and what goes with it; `proof` makes one with the keys of the time."""
    use, ppk = use_of(sa), _ppk(sa)
    if use is None or ppk is None or not use.agreed:
        return [proof()]
    without = [] if ppk.required else [NotifyPayload(NotifyType.NO_PPK_AUTH, proof().data)]
    use.mix(sa, ppk)
    return [proof(), NotifyPayload(NotifyType.PPK_IDENTITY, FIXED + ppk.id), *without]


def on_answer(sa: IkeSa, message: Message) -> None:
    """Before the responder's proof is looked at. Raises AuthenticationFailed."""
    use, ppk = use_of(sa), _ppk(sa)
    if use is None or ppk is None or message.notify(NotifyType.PPK_IDENTITY) is not None:
        return
    if ppk.required:
        raise AuthenticationFailed("the peer did not use the PPK that is required")
    if use.mixed:
        use.unmix(sa)


# -- responder -----------------------------------------------------------------------------------


def on_proof(sa: IkeSa, peer: Peer, message: Message, auth: AuthPayload) -> AuthPayload:
    """What is to be verified, with the keys that are right for it (§3 table 1).

    Raises AuthenticationFailed.
    """
    use, ppk = use_of(sa), peer.ppk
    if use is None or not use.agreed:
        if ppk is not None and ppk.required:
            raise AuthenticationFailed("no PPK, but it is required")
        return auth
    named = message.notify(NotifyType.PPK_IDENTITY)
    if named is None:
        raise AuthenticationFailed("no PPK is named")
    if ppk is not None and bytes_eq(named.data, FIXED + ppk.id):
        use.mix(sa, ppk)
        return auth
    without = message.notify(NotifyType.NO_PPK_AUTH)
    if without is None or (ppk is not None and ppk.required):
        raise AuthenticationFailed("another PPK")
    return AuthPayload(auth.method, without.data)
