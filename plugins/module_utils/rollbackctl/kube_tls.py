# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom to believe, and what to show, when a TLS connection to the API server is made."""

from __future__ import annotations

import functools
import os
import ssl

from .errors import Refused
from .kube_auth import Access
from .kube_credentials import Credentials


def trust(access: Access, credentials: Credentials) -> ssl.SSLContext:
    """Return the TLS context; making one costs milliseconds, so equal ones are made once."""
    ca = access.ca.read().decode("latin-1") if access.ca else ""
    return _context(ca, access.verify, credentials.certificate, credentials.key)


@functools.lru_cache(maxsize=8)
def _context(ca: str, verify: bool, certificate: bytes, key: bytes) -> ssl.SSLContext:  # noqa: FBT001 - a cache's key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError):
            raise Refused("the certificate authority of the API server's address is not a PEM certificate.") from None
    else:
        context.load_default_certs()
    if certificate:
        _load_certificate(context, certificate, key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key. Python wants a file: this one is in memory and has no name on any disk."""
    number = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(certificate + b"\n" + key)
        # The password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{number}", password="")
    except (ssl.SSLError, ValueError, OSError):
        raise Refused(
            "the client certificate cannot be used: it and its key must be PEM, belong together and not be encrypted.",
        ) from None
    finally:
        os.close(number)
