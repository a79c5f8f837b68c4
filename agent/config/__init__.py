"""hearthgate.toml → frozen values. The file is written by people, never by the daemon.

An error names file, key, value and what is allowed. Left out: what the daemon learns by itself
(peers, invitations), which is in agent/peers.py.
"""

from __future__ import annotations

from agent.config.reader import load_config
from agent.config.values import (
    ESP_PROPOSALS,
    IKE_PORT,
    IKE_PROPOSALS,
    NAME,
    NAME_RULE,
    NATT_PORT,
    ROLES,
    Config,
    MediateConfig,
    MediatedPeerConfig,
    MediatorConfig,
    PeerConfig,
    SignatureConfig,
    split_host,
)

__all__ = [
    "ESP_PROPOSALS",
    "IKE_PORT",
    "IKE_PROPOSALS",
    "NAME",
    "NAME_RULE",
    "NATT_PORT",
    "ROLES",
    "Config",
    "MediateConfig",
    "MediatedPeerConfig",
    "MediatorConfig",
    "PeerConfig",
    "SignatureConfig",
    "load_config",
    "split_host",
]
