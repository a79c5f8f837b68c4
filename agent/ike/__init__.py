"""IKEv2 (RFC 7296) as pure state machines: bytes, `now` and randomness in, outputs out."""
