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
from datastream.url import shown

MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
EMPTY = ("InvalidRange", "416")
_THROTTLING = (
    *("SlowDown", "503", "ServiceUnavailable", "429", "TooManyRequests", "RequestLimitExceeded"),
    *("Throttling", "ThrottlingException"),
)
_PASSING = (*_THROTTLING, "InternalError", "500", "502", "504", "RequestTimeout")
_BROKEN_OFF = (
    *("ConnectionClosedError", "ClientPayloadError", "ResponseStreamingError"),
    *("IncompleteReadError", "SourceUnavailable"),
)
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


_OF_ONE = {
    "InvalidObjectState": "it is archived; restore it",
    **dict.fromkeys(("AccessDenied", "403", "Forbidden"), "no right to get it; check its policy"),
    "InvalidRequest": "it was stored with a key that only its writer has",
}


def code_of(error: BaseException | None) -> str:
    """The code of a server's answer, "" if it never answered."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
        error = error.__cause__
    return ""


def why_unreadable(error: BaseException) -> str:
    """Why one object cannot be read while others can; "" if that is not what the server says."""
    code = code_of(error)
    if code.startswith("KMS."):
        return f"{code}: its key cannot be used"
    return f"{code}: {_OF_ONE[code]}" if code in _OF_ONE else ""


def is_throttling(error: BaseException) -> bool:
    """The server did nothing, because it has too much to do."""
    return code_of(error) in _THROTTLING


def is_passing(error: BaseException) -> bool:
    """The server answered, and may answer otherwise next time."""
    return code_of(error) in _PASSING or type(error).__name__ in _BROKEN_OFF


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
    if isinstance(error, DatastreamError):
        return error
    code = code_of(error)
    text = f"{where}: {shown(_text(error))}"
    if _is_denial(error, code) and (opening or key is not None):
        return Denied(f"{text}; check the credentials, and the rights to list, get and put")
    if code == "NoSuchBucket" and opening:
        return DatastreamError(f"{where}: no such bucket; check the name and endpoint_url")
    if opening and _is_misnamed(error, code):
        return DatastreamError(
            f"{text}; check the bucket's name, endpoint_url, region and what is for botocore"
        )
    kind, advice = _KINDS.get(code, (SourceUnavailable, ""))
    return kind(f"{text}{advice}")


def _is_denial(error: BaseException, code: str) -> bool:
    return code in _DENIED or type(error).__name__ in (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError"),
    )


def _is_misnamed(error: BaseException, code: str) -> bool:
    """No bucket has that name, no server that address, or an option is not one of botocore's."""
    names = (
        *("ParamValidationError", "InvalidRegionError", "InvalidEndpointConfigurationError"),
        "EndpointResolutionError",
    )
    return (
        isinstance(error, ValueError | TypeError)
        or type(error).__name__ in names
        or code in ("InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed")
    )


def _text(error: BaseException) -> str:
    code = code_of(error)
    text = str(error) or type(error).__name__
    return f"{code}: {text}" if code and code not in text else text
