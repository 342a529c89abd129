"""What obstore is told besides a URL: nothing of it is printed, and nothing stored.

obstore reads the variables of each service itself (AWS_ACCESS_KEY_ID, AZURE_STORAGE_ACCOUNT_KEY,
GOOGLE_APPLICATION_CREDENTIALS, ...) and Google's standard file. Amazon's two files are read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from configparser import ConfigParser, Error
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fungistore.errors import UsageError

KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
OTHERS = {"region": "region", "endpoint_url": "endpoint"}
ENVIRONMENT = {
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
}
INDIRECT = (
    "sso_session",
    "sso_start_url",
    "credential_process",
    "role_arn",
    "web_identity_token_file",
)
AZURE_ENDPOINT = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")  # obstore reads them itself
ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def settings_of(url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return obstore's arguments for a URL.

    Args:
        url: of a bucket.
        environment: the process's variables.

    Raises:
        UsageError: AWS_PROFILE names a profile that is not there, or one without keys.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("az", "abfs"):
        return _client(next(filter(None, map(environment.get, AZURE_ENDPOINT)), ""))
    if scheme != "s3":
        return {}
    config = _profile(environment)
    for name, variables in ENVIRONMENT.items():
        given = next((environment[one] for one in variables if environment.get(one)), None)
        if given is not None:
            config[name] = given
    return {"config": config} | _client(config.get("endpoint", ""))


def _client(endpoint: str) -> dict[str, Any]:
    """Return what the client is told of an endpoint: who gives one without TLS means it."""
    return {"client_options": {"allow_http": True}} if endpoint.startswith("http://") else {}


def _profile(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the files say of a profile; its keys unless variables give some."""
    name = environment.get("AWS_PROFILE") or "default"
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    credentials = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials")
    settings = Path(environment.get("AWS_CONFIG_FILE") or home / "config")
    said = {
        **_section(settings, name if name == "default" else f"profile {name}"),
        **_section(credentials, name),
    }
    if not said and environment.get("AWS_PROFILE"):
        raise UsageError(
            f"AWS_PROFILE names a profile that is not there: {name!r}",
            where=f"{credentials} and {settings}",
            hint="aws configure list-profiles names them",
        )
    others = {ours: said[theirs] for theirs, ours in OTHERS.items() if theirs in said}
    if any(environment.get(one) for one in ("AWS_ACCESS_KEY_ID", *ELSEWHERE)):
        return others
    keys = {ours: said[theirs] for theirs, ours in KEYS.items() if theirs in said}
    indirect = [one for one in INDIRECT if one in said]
    if indirect and not keys:
        raise UsageError(
            f"the profile {name!r} has no keys of its own, but {indirect[0]}",
            where=settings,
            expected="aws_access_key_id and aws_secret_access_key, or variables that have them",
            hint=f'eval "$(aws configure export-credentials --profile {name} --format env)"',
        )
    return others | keys


def _section(file: Path, name: str) -> dict[str, str]:
    """Return a section of a file; nothing of one that is not there."""
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (Error, UnicodeDecodeError) as error:  # whose text shows lines, which may be secret
        raise UsageError(
            "Amazon's file cannot be read",
            where=file,
            found=type(error).__name__,
            expected="sections [NAME] with lines KEY = VALUE",
        ) from None
    return {key: value for key, value in parser.items(name) if value} if name in parser else {}
