"""Between the rooms that do not know each other: a Child SA of ike becomes an ESP SA of ipsec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ipsec import EspSaParameters

if TYPE_CHECKING:
    from agent.ike.events import InstallChildSa


def esp_parameters(order: InstallChildSa, *, unsummed: bool) -> EspSaParameters:
    """The same values under the names of the data plane."""
    return EspSaParameters(
        ike_id=order.ike_id,
        peer=order.peer,
        spi_in=order.spi_in,
        spi_out=order.spi_out,
        encr_id=order.encr_id,
        key_bits=order.key_bits or None,  # ike says 0 where the transform has no length
        integ_id=order.integ_id,
        keys_in=order.keys_in,
        keys_out=order.keys_out,
        local_ts=order.local_ts,
        remote_ts=order.remote_ts,
        path=order.path,
        esn=order.esn,
        soft_octets=order.soft_octets,
        hard_octets=order.hard_octets,
        soft_packets=order.soft_packets,
        hard_packets=order.hard_packets,
        replaces=order.replaces,
        outbound_at_once=order.use_at_once,
        yields_to=order.yields_to,
        unsummed=unsummed,
    )
