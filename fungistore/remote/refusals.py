"""What a server, or the way to it, refused: in words, with what to try, and nothing secret."""

from __future__ import annotations

import errno
import re

QUERY = re.compile(r"\?[^\s'\"]*")  # of a URL: signatures are there
USER = re.compile(r"//[^/\s@]*@")
NO_CREDENTIALS = (
    "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "for ~/.aws/credentials (Google: GOOGLE_APPLICATION_CREDENTIALS; Azure: "
    "AZURE_STORAGE_ACCOUNT_NAME and _KEY)"
)
SAID = (
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
            r"SignatureDoesNotMatch|InvalidAccessKeyId|ExpiredToken|403 Forbidden|401 Unauth"
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
    """Return the number and the words of an error that obstore raised."""
    whole = str(error)
    for pattern, number, words in SAID:
        if pattern.search(whole):
            return number, words
    return errno.EIO, without_secrets(whole.partition("\n")[0])


def names_no_bucket(error: BaseException) -> bool:
    """Whether the bucket itself is not there, rather than the object."""
    return SAID[0][0].search(str(error)) is not None


def without_secrets(text: str) -> str:
    """Return a text without what URLs carry besides a place."""
    return USER.sub("//", QUERY.sub("", text))
