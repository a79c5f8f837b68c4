"""Errors for people. The class docstring says what happened; the instance adds facts and advice.

Exit codes follow sysexits.h.
"""

from __future__ import annotations


class HearthgateError(Exception):
    """Something did not work."""

    exit_code = 70  # EX_SOFTWARE

    @property
    def sentence(self) -> str:
        """What is printed: the facts if given, else the docstring's first line."""
        return str(self) or (type(self).__doc__ or "").splitlines()[0]


class UsageError(HearthgateError):
    """The command was called in a way that it does not understand."""

    exit_code = 64  # EX_USAGE


class InputError(HearthgateError):
    """Something that was typed or handed in is not valid (invitation, value, key)."""

    exit_code = 65  # EX_DATAERR


class UnknownNameError(HearthgateError):
    """There is no peer, device or point of this name."""

    exit_code = 68  # EX_NOHOST


class UnavailableError(HearthgateError):
    """Something that is needed is not there (daemon, mediator, peer, device)."""

    exit_code = 69  # EX_UNAVAILABLE


class PlatformError(HearthgateError):
    """The operating system refuses something that is needed (TUN, socket, port in use)."""

    exit_code = 71  # EX_OSERR


class StorageError(HearthgateError):
    """A file could not be read or written."""

    exit_code = 74  # EX_IOERR


class TemporaryError(HearthgateError):
    """It did not work this time and may work later."""

    exit_code = 75  # EX_TEMPFAIL


class RefusedError(HearthgateError):
    """It is not permitted: not granted, out of limits, no rights."""

    exit_code = 77  # EX_NOPERM


class ConfigError(HearthgateError):
    """The configuration is wrong; the text names file, key, value and what is allowed."""

    exit_code = 78  # EX_CONFIG
