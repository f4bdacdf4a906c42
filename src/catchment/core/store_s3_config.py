"""How the two S3 libraries are set up: alike, from one set of options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import S3Store as Backend

from catchment.core.errors import Invalid

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential

TOKEN = "catchment-put"  # noqa: S105 - the object's metadata that tells which put wrote it

_ENDPOINT = re.compile(r"(https?://)((?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)/?")
_BOOLEAN = {"": False, "0": False, "false": False, "1": True, "true": True}

# A request may last long, a silent connection not: 8 MiB at 140 kB/s is slow enough.
_CLIENT: ClientConfig = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "1h"}
_RETRY: RetryConfig = {
    "max_retries": 5,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}


def backend(bucket: str, prefix: str, options: Mapping[str, str]) -> Backend:
    """The bucket by obstore, below a prefix. Invalid if the options cannot work."""
    endpoint, allow_http, virtual = _endpoint(options)
    settings: dict[str, Any] = {}
    if endpoint:
        settings["endpoint"] = (
            _ENDPOINT.sub(rf"\g<1>{bucket}.\g<2>", endpoint) if virtual else endpoint
        )
    if region := _region(options):
        settings["region"] = region
    if options.get("access_key_id"):  # a provider, lest a token from the environment join them
        settings["credential_provider"] = _Fixed(options)
    elif os.environ.get("AWS_PROFILE") and not os.environ.get("AWS_ACCESS_KEY_ID"):
        settings["credential_provider"] = _profile()
    return Backend(
        bucket,
        prefix=prefix or None,
        virtual_hosted_style_request=virtual,
        disable_bulk_delete=True,
        client_options={**_CLIENT, "allow_http": allow_http},
        retry_config=_RETRY,
        **settings,
    )


def client(options: Mapping[str, str]) -> Any:
    """A boto3 client of the same storage. Invalid (kind ``missing-extra``) without boto3."""
    endpoint, _, virtual = _endpoint(options)
    with aws_settings() as boto3:
        from botocore.config import Config

        style = "virtual" if virtual else "path" if endpoint else "auto"
        return boto3.Session().client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=_region(options) or None,
            aws_access_key_id=options.get("access_key_id") or None,
            aws_secret_access_key=options.get("secret_access_key") or None,
            aws_session_token=options.get("session_token") or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": style},
                retries={"mode": "standard", "total_max_attempts": 6},
                request_checksum_calculation="when_required",  # other vendors may know no more
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=16,
            ),
        )


def service(name: str, options: Mapping[str, str], *, endpoint: str | None = None) -> Any:
    """A boto3 client of another AWS service, with the region and the key of the storage.

    Its endpoint is this, or what ``AWS_ENDPOINT_URL_<SERVICE>`` says, or that of AWS.
    """
    with aws_settings() as boto3:
        from botocore.config import Config

        return boto3.Session().client(
            name,
            endpoint_url=endpoint,
            region_name=_region(options) or None,
            aws_access_key_id=options.get("access_key_id") or None,
            aws_secret_access_key=options.get("secret_access_key") or None,
            aws_session_token=options.get("session_token") or None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 6},
                connect_timeout=10,
                read_timeout=60,
            ),
        )


class _Fixed:
    """Credentials from options."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._credential: S3Credential = {
            "access_key_id": options["access_key_id"],
            "secret_access_key": options["secret_access_key"],
            "token": options.get("session_token") or None,
            "expires_at": None,
        }

    def __call__(self) -> S3Credential:
        return self._credential


def _profile() -> Any:
    """Credentials of the profile that ``AWS_PROFILE`` names; obstore alone knows no profiles."""
    with aws_settings() as boto3:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider(boto3.Session())


@contextmanager
def aws_settings() -> Iterator[Any]:
    """The library, which is an extra; its complaints about settings become ours."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise Invalid(
            "S3 objects above 5 MiB, AWS profiles, queues and Glue need boto3",
            kind="missing-extra",
            hint="pip install 'catchment[s3]'",
        ) from None
    try:
        yield boto3
    except BotoCoreError as error:
        raise Invalid(
            f"cannot use the AWS settings: {type(error).__name__}",
            kind="bad-store-option",
            hint="check AWS_PROFILE, its file and the region",
        ) from None


def _endpoint(options: Mapping[str, str]) -> tuple[str, bool, bool]:
    """The endpoint (empty: AWS itself), whether plain HTTP and virtual-hosted style are wanted."""
    env = os.environ
    endpoint = (
        options.get("endpoint") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    )
    allow_http = _boolean("allow_http", options.get("allow_http") or env.get("AWS_ALLOW_HTTP", ""))
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise _bad("endpoint", "expected https://host or https://host:port")
    if endpoint and endpoint.startswith("http:") and not allow_http:
        raise _bad("endpoint", "plain http:// needs allow_http = true")
    if bool(options.get("access_key_id")) != bool(options.get("secret_access_key")):
        raise _bad("access_key_id", "expected together with secret_access_key")
    return (
        endpoint or "",
        allow_http,
        _boolean("virtual_hosted_style", options.get("virtual_hosted_style", "")),
    )


def _region(options: Mapping[str, str]) -> str:
    env = os.environ
    return options.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or ""


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEAN:
        raise _bad(name, "expected true or false")
    return _BOOLEAN[value.lower()]


def _bad(name: str, expected: str) -> Invalid:
    return Invalid(f"store option {name}: {expected}", kind="bad-store-option")
