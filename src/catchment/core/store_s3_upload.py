"""S3 uploads in parts, by boto3: obstore cannot let the storage copy a part."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, override

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004
    CredentialRetrievalError,
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

from catchment.core.errors import CatchmentError, Conflict, Translating
from catchment.core.store import Mode
from catchment.core.store_objects import bad_settings, refusal
from catchment.core.store_s3_config import TOKEN

WORKERS = 4  # parts on their way at the same time
IN_FLIGHT = 6  # parts in memory

_TRANSIENT = (HTTPClientError, ConnectionError, CredentialRetrievalError, ResponseParserError)


class Upload:
    """One upload in parts: sent side by side, visible only when completed, aborted on any failure.

    Args:
        client: a boto3 client for S3.
        bucket: of the object.
        key: the object's whole key in the bucket.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self.pool = ThreadPoolExecutor(WORKERS, "upload")
        self._client = client
        self._key = key
        self._token = uuid.uuid4().hex
        self._object = {"Bucket": bucket, "Key": key}
        self._parts: list[Future[dict[str, Any]]] = []
        with boto_errors(key):
            begun = client.create_multipart_upload(**self._object, Metadata={TOKEN: self._token})
        self._target = {**self._object, "UploadId": begun["UploadId"]}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pool.shutdown(cancel_futures=True)  # an abort overlooks parts that are still sent
        if error is not None:
            with suppress(CatchmentError), boto_errors(self._key):  # `sweep` removes what is left
                self._client.abort_multipart_upload(**self._target)

    def send(self, body: bytes) -> None:
        """The next part, of these bytes."""
        self._submit(self._send, body)

    def copy(self, bucket: str, key: str, start: int, length: int, etag: str) -> None:
        """The next part, copied by the storage from an object that must still have the etag."""
        self._submit(self._copy, {"Bucket": bucket, "Key": key}, start, length, etag)

    def complete(self, mode: Mode) -> str:
        """Make the object visible; its etag. Conflict if it is to be created and the key taken."""
        parts = [part.result() for part in self._parts]
        condition = {"IfNoneMatch": "*"} if mode == "create" else {}
        try:
            with boto_errors(self._key):
                answer = self._client.complete_multipart_upload(
                    **self._target, MultipartUpload={"Parts": parts}, **condition
                )
        except CatchmentError:  # it may have been applied, and its answer lost
            with suppress(CatchmentError), boto_errors(self._key):
                answer = self._client.head_object(**self._object)
                if answer["Metadata"].get(TOKEN) == self._token:
                    return str(answer["ETag"])
            raise
        return str(answer["ETag"])

    def _submit(self, work: Callable[..., str], *args: Any) -> None:
        if len(self._parts) >= IN_FLIGHT:
            self._parts[-IN_FLIGHT].result()
        number = len(self._parts) + 1
        self._parts.append(self.pool.submit(self._part, number, work, *args))

    def _part(self, number: int, work: Callable[..., str], *args: Any) -> dict[str, Any]:
        return {"PartNumber": number, "ETag": work(number, *args)}

    def _send(self, number: int, body: bytes) -> str:
        with boto_errors(self._key):
            answer = self._client.upload_part(**self._target, PartNumber=number, Body=body)
        return str(answer["ETag"])

    def _copy(self, number: int, source: dict[str, str], start: int, length: int, etag: str) -> str:
        try:
            with boto_errors(source["Key"]):
                answer = self._client.upload_part_copy(
                    **self._target,
                    PartNumber=number,
                    CopySource=source,
                    CopySourceRange=f"bytes={start}-{start + length - 1}",
                    CopySourceIfMatch=etag,
                )
        except Conflict:
            raise Conflict(
                f"{source['Key']!r} changed while it was copied", kind="source-changed"
            ) from None
        return str(answer["CopyPartResult"]["ETag"])


def abort_uploads(client: Any, bucket: str, prefix: str, before: datetime, *, dry_run: bool) -> int:
    """Abort the uploads below a prefix that were begun before an instant; how many there were."""
    aborted = 0
    with boto_errors(prefix):
        for page in client.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Prefix=prefix
        ):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] <= before:
                    if not dry_run:
                        client.abort_multipart_upload(
                            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                    aborted += 1
    return aborted


def clock(client: Any, bucket: str, prefix: str) -> datetime | None:
    """The time that the storage tells with any answer, be it a refusal; None if it tells none."""
    with boto_errors(prefix):
        try:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except ClientError as error:
            answer = error.response
    told = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    return None if told is None else parsedate_to_datetime(told)


class boto_errors(Translating):  # noqa: N801 - used like contextlib.suppress
    """Turns an error of boto3 inside the block into one of ours, about a key."""

    @override
    def ours(self, error: BaseException) -> CatchmentError | None:
        foreign = isinstance(error, (ClientError, BotoCoreError, ResponseParserError))
        return _failure(error, self._key) if foreign else None


def _failure(error: BaseException, key: str) -> CatchmentError:
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return refusal(key, status, error.response["Error"]["Code"])
    if isinstance(error, _TRANSIENT):
        return refusal(key, 0, type(error).__name__)
    return bad_settings(key, type(error).__name__)
