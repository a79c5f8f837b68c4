"""One end of a tunnel with keys from the command line: data plane, socket and TUN, without IKE.

`python -m tests.bench.static_end a|b LOCAL REMOTE` in a network namespace; runs until it is killed.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from agent.datagram import Address, Path
from agent.io.tun import Tun
from agent.io.udp import UdpSocket
from agent.ipsec import ALL, DataPlane, EspSaParameters, Grants, Offload
from agent.wire.codes import EncryptionId
from agent.wire.selectors import TrafficSelector

MTU = 1400
KEYS = (bytes(range(20)), b""), (bytes(range(20, 40)), b"")


def main(side: str, local: str, remote: str) -> None:
    """Seal and open until killed."""
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    udp = UdpSocket(4500, family)
    tun = Tun("hg0", MTU)
    plane = DataPlane(random=os.urandom, offload=Offload(tun.vnet, tun.udp_segmentation), mtu=MTU)
    first = side == "a"
    everything = (TrafficSelector.parse("0.0.0.0/0"), TrafficSelector.parse("::/0"))
    plane.install(
        EspSaParameters(
            ike_id=1,
            peer="other",
            spi_in=b"aaaa" if first else b"bbbb",
            spi_out=b"bbbb" if first else b"aaaa",
            encr_id=EncryptionId.ENCR_AES_GCM_16,
            key_bits=128,
            integ_id=None,
            keys_in=KEYS[0] if first else KEYS[1],
            keys_out=KEYS[1] if first else KEYS[0],
            local_ts=everything,
            remote_ts=everything,
            path=Path(Address(bytes(16 if ":" in local else 4), 4500), Address.parse(remote, 4500)),
        ),
        time.monotonic(),
    )
    plane.set_grants("other", Grants(ALL))
    poll = select.epoll()
    poll.register(udp.fileno(), select.EPOLLIN)
    poll.register(tun.fileno(), select.EPOLLIN)
    profile = os.environ.get("HG_PROFILE")
    if profile:
        _profiled(lambda: _loop(poll, udp, tun, plane), f"{profile}.{side}")
    else:
        _loop(poll, udp, tun, plane)


def _loop(poll: select.epoll, udp: UdpSocket, tun: Tun, plane: DataPlane) -> None:
    from_udp = udp.fileno()
    while True:
        for descriptor, _ in poll.poll():
            now = time.monotonic()
            if descriptor == from_udp:
                tun.write(plane.receive(udp.receive(), now).writes)
            else:
                udp.send(plane.seal(tun.receive(), now))
        if udp.wants_write:
            udp.flush()


def _profiled(run, path: str) -> None:
    import cProfile
    import signal

    profile = cProfile.Profile()

    def stop(*_: object) -> None:
        profile.disable()
        profile.dump_stats(path)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    profile.runcall(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
