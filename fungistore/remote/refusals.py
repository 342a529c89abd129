"""What a server, or the way to it, refused: in words, with what to try, and nothing secret."""

from __future__ import annotations

import errno
import re

QUERY = re.compile(r"\?[^\s'\"]*")  # of a URL: signatures are there
USER = re.compile(r"//[^/\s@]*@")
NO_PARTS = "the server gives no parts of an object (range requests)"
NO_STORE = (
    "what answers is no object store, but something like a web page: check AWS_ENDPOINT_URL (or "
    "that of your service), which may be a console's address, or be answered by a login page"
)
NO_CREDENTIALS = (
    "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "for ~/.aws/credentials (Google: GOOGLE_APPLICATION_CREDENTIALS; Azure: "
    "AZURE_STORAGE_ACCOUNT_NAME and _KEY)"
)
ODD_PATH = re.compile(r"""[Pp]ath:? (?:Error parsing )?Path "([^"]*)\"""")  # of obstore's rules
STATUS = re.compile(r"status code: \d{3}(?: [A-Z][\w-]*)*")
CODE = re.compile(r"<Code>(\w{1,60})</Code>")
SAID = (
    (
        re.compile(r"non-partial response"),
        errno.ENOTSUP,
        NO_PARTS,
    ),
    (
        re.compile(r"416 Range Not Satisfiable|416 Requested Range"),
        errno.ERANGE,
        "the object is shorter than it was",
    ),
    (
        re.compile(r"Content-Length Header missing"),
        errno.EPROTO,
        "the server does not tell how large the object is (Content-Length)",
    ),
    (
        re.compile(r"Header missing from response|invalid DeleteObjects response"),
        errno.EPROTO,
        NO_STORE,
    ),
    (
        re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist"),
        errno.ENXIO,
        "there is no such bucket: check its name, or make it first",
    ),
    (
        re.compile(
            r"/latest/api/token|/latest/meta-data|CredentialsError|metadata\.google\.internal"
        ),
        errno.EACCES,
        NO_CREDENTIALS,
    ),
    (
        re.compile(
            r"PermanentRedirect|AuthorizationHeaderMalformed|301 Moved|"
            r"incorrectly configured region"
        ),
        errno.EACCES,
        "the bucket is in another region: set AWS_REGION",
    ),
    (
        re.compile(
            r"SignatureDoesNotMatch|InvalidAccessKeyId|ExpiredToken|InvalidToken|TokenRefresh|"
            r"403 Forbidden|401 Unauth"
        ),
        errno.EACCES,
        "the server refuses these credentials: they may have run out, or lack the right to do this "
        "(reading takes GetObject and ListBucket, writing PutObject and DeleteObject too)",
    ),
    (
        re.compile(r"performing HEAD .*400 Bad Request"),  # the answer to a HEAD has no words
        errno.EACCES,
        "the server refuses the request and does not say why: the session token may have run out, "
        "the bucket may be in another region (AWS_REGION), or this machine's clock be wrong",
    ),
    (
        re.compile(r"error sending request|error trying to connect|dns error|timed out"),
        errno.EIO,
        "the server did not answer, for all repetitions: check the network, and AWS_ENDPOINT_URL",
    ),
)


def refusal(error: BaseException) -> tuple[int, str]:
    """Return the number and the words of an error that obstore raised.

    What a server answers is left out but for a code of one word: some repeat tokens and signatures.
    """
    whole = str(error)
    if odd := ODD_PATH.search(whole):
        return errno.EINVAL, f"{odd[1]!r} has an empty part, '.' or '..', and cannot be read"
    for pattern, number, words in SAID:
        if pattern.search(whole):
            return number, words
    first = without_secrets(whole.partition("\n")[0])
    status, code = STATUS.search(first), CODE.search(whole)
    if status is None:
        return errno.EIO, first
    return errno.EIO, first[: status.end()] + (f" ({code[1]})" if code else "")


def names_no_bucket(error: BaseException) -> bool:
    """Whether the bucket itself is not there, rather than the object."""
    return refusal(error)[0] == errno.ENXIO


def without_secrets(text: str) -> str:
    """Return a text without what URLs carry besides a place."""
    return USER.sub("//", QUERY.sub("", text))
