"""Devices and services as pure sessions: bytes and time go in, bytes and records come out."""
