"""Files for TLS, looked at before gRPC has them: it only says that no connection can be made."""

from __future__ import annotations

import ssl

from datastream import DatastreamError
from datastream_grpc._files import WatchedFile

ALL = "ALL:@SECLEVEL=0"
"""How strong keys are is for the other side to judge."""


def check_pem(
    certificate: WatchedFile | None, key: WatchedFile | None, roots: WatchedFile | None
) -> None:
    """Refuse files that hold something else than they should.

    Raises:
        DatastreamError: the certificate and its key do not belong together, or are none, or the
            roots hold no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ALL)
    if certificate is not None and key is not None:
        try:
            # Else it would ask for a password at the terminal; gRPC takes none.
            context.load_cert_chain(certificate.path, key.path, password="")
        except (ssl.SSLError, OSError) as error:
            raise DatastreamError(
                f"{certificate.path} and {key.path} are no certificate with its private key, both "
                f"in PEM and without a password: {_reason(error)}"
            ) from error
    if roots is not None:
        try:
            context.load_verify_locations(roots.path)
        except (ssl.SSLError, OSError) as error:
            raise DatastreamError(
                f"{roots.path} holds no certificates in PEM: {_reason(error)}"
            ) from error


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", "")
    return str(reason).lower().replace("_", " ") if reason else str(error)
