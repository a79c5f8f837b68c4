"""devices, get, set: through a tunnel or on this machine."""

from __future__ import annotations

from typing import Any

from agent.bridge.devices import NAME as DEVICE_NAME
from agent.bridge.grants import Peer as BridgePeer
from agent.bridge.grants import Role
from agent.commands.connecting import DEVICES_SECONDS, Connecting
from agent.commands.part import Part, Send, patiently
from agent.errors import UnavailableError, UnknownNameError

LOCAL = BridgePeer(name="local", role=Role.OWNER)  # whoever may use the control socket
ANSWER_SECONDS = 65.0  # 256 points of a slow slave


class Points(Part):
    """Devices here and behind peers. A peer that is not connected is connected first."""

    async def on_devices(self, send: Send, peer: str = "") -> Any:  # noqa: ANN401  # JSON
        """What is behind a peer, or here."""
        if not peer:
            return self.daemon.services.status() if self.daemon.services else []
        # A peer without devices for us answers nothing at all: nobody waits long for that.
        return await self._ask(peer, send, "GET", "/api/devices", seconds=DEVICES_SECONDS)

    async def on_get(
        self, send: Send, device: str, peer: str = "", point: str | None = None
    ) -> Any:  # noqa: ANN401  # JSON
        """Read points of a device, through the tunnel or here."""
        self._check_point(device, point)
        if not peer:
            services = self._services(device)
            return await patiently(services.get(device, point, LOCAL), send, "answering")
        path = f"/api/points/{device}" + (f"/{point}" if point else "")
        return await self._ask(peer, send, "GET", path)

    async def on_set(
        self, send: Send, device: str, point: str, value: object, peer: str = ""
    ) -> Any:  # noqa: ANN401  # JSON
        """Write a point; limits are checked where the device is."""
        self._check_point(device, point)
        if not peer:
            services = self._services(device)
            return await patiently(services.set(device, point, value, LOCAL), send, "answering")
        return await self._ask(peer, send, "PUT", f"/api/points/{device}/{point}", {"value": value})

    async def _ask(
        self,
        peer: str,
        send: Send,
        method: str,
        path: str,
        body: object = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:  # noqa: ANN401  # JSON
        from agent.web.client import request_json

        self.check_known(peer)
        if self.peer_status(peer)["state"] != "up":
            await Connecting(self.daemon).on_connect(send, peer)
        address = self.daemon.tunnels.inner_address(peer)
        if address is None:
            raise UnavailableError(f"{peer}: it has no services of hearthgate's kind.")
        asking = request_json(address, method, path, body, seconds=seconds)
        return await patiently(asking, send, "answering")

    def _services(self, device: str) -> Any:  # noqa: ANN401  # imported only where there are devices
        known = {device_config.name for device_config in self.house.config.devices}
        if device not in known and self.is_peer(device):
            raise UnknownNameError(
                f"{device} is a peer; name a device too, like `hearthgate get {device} DEVICE`. "
                f"`hearthgate connect {device}` shows its devices."
            )
        if self.daemon.services is None:
            raise UnknownNameError(
                f"No device is configured on this machine ({self.house.layout.config})."
            )
        return self.daemon.services

    @staticmethod
    def _check_point(device: str, point: str | None) -> None:
        """They become part of a path; what is no name is nobody's."""
        for what, name in (("device", device), ("point", point)):
            if name is not None and not DEVICE_NAME.fullmatch(name):
                raise UnknownNameError(f"There is no {what} {name!r:.40}.")
