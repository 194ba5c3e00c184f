"""TLS as a department speaks it: to one coordinator, under one authority, and no other."""

from __future__ import annotations

import ssl
from pathlib import Path

from commonroot.common.errors import KeyFileError


def trusting(ca_path: Path) -> ssl.SSLContext:
    """TLS that believes this authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=str(ca_path))
    except (OSError, ssl.SSLError) as error:
        raise KeyFileError(f"{ca_path} is no CA certificate that can be read") from error
    return context


def trusting_nobody() -> ssl.SSLContext:
    """TLS to whoever answers: for what is held against a pin afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def tls_failure(error: BaseException) -> str | None:
    """Why the certificate was not accepted, or None if that was not the trouble."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message
        seen = seen.__cause__ or seen.__context__
    return None
