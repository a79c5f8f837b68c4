"""The userspace data plane (RFC 4301, 4303, 3948): pure, in batches. See `plane.DataPlane`."""

from agent.ipsec.plane import DataPlane, DataResult
from agent.ipsec.sad import EspSaParameters
from agent.ipsec.segments import Offload
from agent.ipsec.spd import ALL, Grants

__all__ = ["ALL", "DataPlane", "DataResult", "EspSaParameters", "Grants", "Offload"]
