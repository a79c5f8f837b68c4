"""invite, accept, peers, grant, revoke."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from agent import profiles
from agent.bridge.devices import ModbusConfig
from agent.bridge.grants import MAX_GRANTS, Grant, parse_grant
from agent.commands.part import Events, Part, Send
from agent.config import NAME, NAME_RULE, ROLES, PeerConfig
from agent.crypto.auth import key_text
from agent.engine.events import Enrolled, MediatorChanged, PeerChanged
from agent.errors import (
    InputError,
    RefusedError,
    StorageError,
    TemporaryError,
    UnavailableError,
    UnknownNameError,
)
from agent.invitation import EnrolResult, Invitation, decode_invitation, encode_enrolment
from agent.invitation import encode_invitation as invitation_line
from agent.io.clock import monotonic
from agent.peers import KnownPeer, Peers
from board.errors import BoardError

ENROL_SECONDS = 60.0
INVITATION_MINIMUM, INVITATION_MAXIMUM = 60, 30 * 86400  # seconds

_REFUSALS: dict[int, str] = {
    EnrolResult.USED: "This invitation has been used by another machine already; ask for a new "
    "one, and ask who used it.",
    EnrolResult.EXPIRED: "This invitation has expired; ask for a new one.",
    EnrolResult.INVALID: "The gateway could not verify our keys; are both of the same version?",
    EnrolResult.FULL: "The gateway cannot store one more peer; its log says why.",
}


def _proof(peer: PeerConfig) -> str:
    """What proves this peer, in words."""
    if peer.psk is not None:
        return "pre-shared key"
    if peer.signatures.anchors:
        return "certificate"
    return "key" if peer.key is not None else "key in a file"


class Pairing(Part):
    """Who may come, and as what."""

    async def on_invite(self, send: Send, name: str, role: str, seconds: int) -> dict[str, Any]:
        """Make an invitation."""
        self._check_name(name)
        if role not in ROLES[1:]:
            raise InputError(f"The role is one of {', '.join(ROLES[1:])}.")
        if not INVITATION_MINIMUM <= seconds <= INVITATION_MAXIMUM:
            raise InputError("An invitation lasts from one minute to 30 days.")
        invitation = self.house.invite(name, role, seconds)
        self.daemon.refresh()
        return {
            "invitation": invitation_line(invitation),
            "name": name,
            "role": role,
            "expires": invitation.expires,
        }

    async def on_accept(self, send: Send, invitation: str, name: str = "") -> dict[str, Any]:
        """Use an invitation: hand our keys over, store the gateway."""
        invited = decode_invitation(invitation)
        name = name or invited.name
        self._check_name(name)
        if invited.gateway_identity == self.house.keys.identity.public:
            raise InputError("This invitation is from this very machine; accept it on another one.")
        wall = self.house.wall()
        if wall is not None and 0 < invited.expires <= wall:
            raise InputError("This invitation has expired; ask for a new one.")
        known = self.house.peers.by_identity(key_text(invited.gateway_identity))
        taken = self.house.peers.peers.get(name)
        if (taken is not None and taken != known) or name in self.house.configured_names:
            raise InputError(f'There is a peer "{name}" already; take another with --name.')
        role = await self._hand_over(invited, send)
        peers = self.house.copy_peers()
        identity = key_text(invited.gateway_identity)
        before = peers.by_identity(identity)
        if before is not None:  # what it may do here stays
            del peers.peers[before.name]
            if before.name != name:
                self.end_forwards(before.name)
        else:
            before = KnownPeer(
                name=name, identity=identity, mediation="", role="none", added=int(wall or 0)
            )
        peers.peers[name] = replace(
            before,
            name=name,
            mediation=key_text(invited.gateway_mediation),
            mediator=invited.mediator,
            mediator_key=key_text(invited.mediator_key),
        )
        self.house.save(peers)
        self.daemon.refresh()
        return {"peer": name, "role": role}

    async def _hand_over(self, invited: Invitation, send: Send) -> str:
        daemon, keys = self.daemon, self.house.keys
        try:
            mediator, peer = profiles.enrolment(invited)
        except ValueError as error:
            raise InputError(f"This invitation names no usable mediation server: {error}") from None
        if any(extra.name == peer.name for extra in daemon.extra_peers):
            raise TemporaryError("This invitation is being used at this moment.")
        data = encode_enrolment(
            keys.identity, keys.mediation, invited.identity.public, invited.gateway_identity
        )
        started = monotonic()
        async with Events(daemon) as events:
            daemon.extra_mediators.append(mediator)
            daemon.extra_peers.append(peer)
            daemon.refresh()
            try:
                async with asyncio.timeout(ENROL_SECONDS):
                    await self._until_enrolling(peer.name, events, send, started)
                    daemon.drive(lambda now: daemon.engine.send_enrolment(peer.name, data, now))
                    while not isinstance(event := await events.next(), Enrolled):
                        pass
            except TimeoutError:
                why = self.mediator_trouble() or "the gateway does not answer."
                raise TemporaryError(f"The invitation could not be used yet: {why}") from None
            finally:
                daemon.extra_mediators.remove(mediator)
                daemon.extra_peers.remove(peer)
                daemon.refresh()
        if not event.answer:
            raise TemporaryError("The gateway went away while pairing; try the same line again.")
        result, role = event.answer[0], event.answer[1:].decode("ascii", "replace")
        if result != EnrolResult.ACCEPTED:
            raise RefusedError(_REFUSALS.get(result, "The gateway refused."))
        return role if role in ROLES else "unknown"

    async def _until_enrolling(self, name: str, events: Events, send: Send, started: float) -> None:
        while True:
            event = await events.next()
            if isinstance(event, MediatorChanged) and event.name == name and event.error:
                raise TemporaryError(
                    f"The invitation could not be used yet: {event.error} Then try the same line "
                    "again."
                )
            if isinstance(event, PeerChanged) and event.name == name:
                seconds = round(monotonic() - started, 3)
                await send({"event": "progress", "state": event.state, "seconds": seconds})
                if event.state == "up":
                    return
                if event.state == "waiting" and event.error:
                    raise UnavailableError(
                        f"The gateway could not be reached with this invitation: {event.error} "
                        "Or the invitation has expired."
                    )

    async def on_peers(self, send: Send) -> list[dict[str, Any]]:
        """Everybody paired or configured, without anything secret."""
        known = [
            {
                "name": p.name,
                "key": p.identity,
                "proof": "key",
                "role": p.role,
                "grants": list(p.grants),
                "mediator": p.mediator,
                "configured": False,
            }
            for p in self.house.peers.peers.values()
        ]
        configured = [
            {
                "name": p.name,
                "key": key_text(p.key) if p.key else "",
                "proof": _proof(p),
                "role": p.role,
                "grants": list(p.grants),
                "mediator": p.mediator or p.host,
                "configured": True,
            }
            for p in self.house.config.peers
        ]
        return known + configured

    async def on_revoke(self, send: Send, peer: str) -> dict[str, Any]:
        """Forget a peer, or an invitation that nobody used; what it had open is closed at once."""
        peers = self.house.copy_peers()
        gone = [
            k
            for k, i in peers.invitations.items()
            if i.name == peer
            or i.used_by == (peers.peers[peer].identity if peer in peers.peers else None)
        ]
        known = peer in peers.peers or gone
        peers.peers.pop(peer, None)
        for key in gone:
            del peers.invitations[key]
        try:
            # Also of somebody unknown: the last time it may not have been possible to store it.
            if not self.house.forget(peers) and not known:
                self.learnt(peer)
        except BoardError as error:
            raise StorageError(
                f'No "{peer}" gets in any more, but only until the next start: {error.sentence}'
            ) from error
        finally:
            if self.daemon.services is not None:
                self.daemon.services.kick(peer)
            self.end_forwards(peer)
            try:
                await self.daemon.say_last_words()
            finally:
                self.daemon.refresh()
        return {"peer": peer}

    async def on_grant(
        self,
        send: Send,
        peer: str,
        role: str | None = None,
        add: list[str] | None = None,
        remove: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change what a peer may do; it holds at once.

        What cannot be stored is taken away all the same, but not given.
        """
        known = self.learnt(peer)
        if role is not None and role not in ROLES:
            raise InputError(f"The role is one of {', '.join(ROLES)}.")
        for text in remove or []:
            if text not in known.grants:
                has = ", ".join(known.grants) or "none"
                raise InputError(f"{peer} has no grant {text!r:.60}; it has {has}.")
        grants = [g for g in known.grants if g not in (remove or [])]
        for text in add or []:
            try:
                grant = parse_grant(str(text))
            except ValueError as error:
                raise InputError(f"{error}.") from None
            self._check_there(grant)
            if text not in grants:
                grants.append(str(text))
        if len(grants) > MAX_GRANTS:
            raise InputError(f"A peer has at most {MAX_GRANTS} grants; a role says more.")
        changed = replace(known, role=role or known.role, grants=tuple(grants))
        less = _less(known, changed)
        if changed == less:
            self._take(less)
        elif known == less:
            self._give(changed)
        else:  # some of both
            self._take(less)
            self._give(changed)
        return {"peer": peer, "role": changed.role, "grants": list(changed.grants)}

    def _give(self, peer: KnownPeer) -> None:
        """`peer` may do more than before, once that is stored. Raises BoardError."""
        self.house.save(self._with(peer))
        self._apply(peer)

    def _take(self, peer: KnownPeer) -> None:
        """`peer` may do less than before. Raises StorageError; then it holds for this run."""
        try:
            self.house.forget(self._with(peer))
        except BoardError as error:
            rights = " and ".join(filter(None, (peer.role, ", ".join(peer.grants))))
            raise StorageError(
                f'"{peer.name}" is {rights}, but only until the next start: {error.sentence}'
            ) from error
        finally:
            self._apply(peer)

    def _with(self, peer: KnownPeer) -> Peers:
        peers = self.house.copy_peers()
        peers.peers[peer.name] = peer
        return peers

    def _apply(self, peer: KnownPeer) -> None:
        self.daemon.refresh()
        if self.daemon.services is not None:
            self.daemon.services.kick(peer.name)

    def _check_there(self, grant: Grant) -> None:
        """A grant of what is not there would give nothing, and nobody would know why."""
        devices = {device.name: device for device in self.house.config.devices}
        device = devices.get(grant.device)
        if grant.device and device is None:
            known = f"known are {', '.join(devices)}" if devices else "it has none"
            raise UnknownNameError(f'There is no device "{grant.device}" here; {known}.')
        if grant.point and not (isinstance(device, ModbusConfig) and device.point(grant.point)):
            raise UnknownNameError(f"{grant.device} has no point {grant.point}.")

    @staticmethod
    def _check_name(name: str) -> None:
        if not NAME.fullmatch(name):
            raise InputError(NAME_RULE.capitalize())


def _less(before: KnownPeer, after: KnownPeer) -> KnownPeer:
    """What it may do both `before` and `after`."""
    role = min(before.role, after.role, key=lambda role: ROLES.index(role or "none"))
    return replace(before, role=role, grants=tuple(g for g in before.grants if g in after.grants))
