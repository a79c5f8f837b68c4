"""hearthgate: IKEv2 mediation, ESP and device bridges behind two NATs."""

from __future__ import annotations

__version__ = "0.1.0"
