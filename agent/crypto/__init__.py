"""Cryptography of IKEv2 and ESP: suites, key exchange, key derivation, authentication.

Pure: no clock, no random source, no files. Built on the package `cryptography`, 38 to 50. Nothing
is imported that a configuration does not use, and nothing here imports hashlib, the standard
library's hmac (which loads hashlib and with it a second OpenSSL, 3.8 MB), ssl or x509.
"""
