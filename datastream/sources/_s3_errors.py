"""What S3 servers, and the way to them, can answer instead of an object; as errors of ours."""

from __future__ import annotations

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    RevisionConflict,
    SourceUnavailable,
    Unsupported,
)

MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
EMPTY = ("InvalidRange", "416")
_KINDS: dict[str, tuple[type[DatastreamError], str]] = {
    **dict.fromkeys(
        ("PreconditionFailed", "412", "ConditionalRequestConflict"),
        (RevisionConflict, "; read it again, decide and retry"),
    ),
    **dict.fromkeys(("NotImplemented", "501"), (Unsupported, "; this server cannot do that")),
    "KeyTooLongError": (InvalidKey, "; nothing was written"),
    "EntityTooLarge": (InvalidValue, "; nothing was written"),
}
_DENIED = (
    *("AccessDenied", "403", "401", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AllAccessDisabled"),
)


def code_of(error: BaseException | None) -> str:
    """The code of a server's answer, "" if it never answered."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
        error = error.__cause__
    return ""


def explain(
    error: BaseException, where: str, key: str | None = None, *, opening: bool = False
) -> DatastreamError:
    """What went wrong at `where`.

    Args:
        error: what the client library raised.
        where: the bucket and prefix.
        key: what was being written, if anything was.
        opening: nothing has worked yet, so that rights and names may simply be wrong.
    """
    code = code_of(error)
    text = f"{where}: {_text(error)}"
    if _is_denial(error, code) and (opening or key is not None):
        return Denied(f"{text}; check the credentials, and the rights to list, get and put")
    if code == "NoSuchBucket" and opening:
        return DatastreamError(f"{where}: no such bucket; check the name and endpoint_url")
    kind, advice = _KINDS.get(code, (SourceUnavailable, ""))
    return kind(f"{text}{advice}")


def _is_denial(error: BaseException, code: str) -> bool:
    return code in _DENIED or type(error).__name__ in (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError"),
    )


def _text(error: BaseException) -> str:
    code = code_of(error)
    text = str(error) or type(error).__name__
    return f"{code}: {text}" if code and code not in text else text
