"""Octets and values: the codecs of IKEv2, IKE-ME and ESP. No state, no clock, no keys."""
