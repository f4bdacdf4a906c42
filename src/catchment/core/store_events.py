"""Events of a bucket, by a queue: S3 tells SQS of each object that is created, and SQS tells us.

An event only says where to look, and may come twice, late or never: whoever is told looks at the
store itself.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.store_s3_config import service

logger = logging.getLogger(__name__)

LONGEST = 20  # seconds that the service waits for a message
_MOST = 10  # messages at a time, which is what the service gives
_URL = re.compile(r"(https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)(/[\w.-]+){1,3}")
_HOST = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_REFUSED = 400  # HTTP status: from here on to 499, asking again does not help


class Arrival(NamedTuple):
    """An object that an event tells of."""

    bucket: str
    key: str  # in the bucket


class Message(NamedTuple):
    """What the queue gave: what it tells of, and what gives it back."""

    arrivals: tuple[Arrival, ...]
    receipt: str


class Queue:
    """A queue of SQS that a bucket, an SNS topic or EventBridge writes to.

    Args:
        url: of the queue.
        options: those of :func:`catchment.core.store.open_store`; the key must be allowed to
            receive and to delete messages.

    Invalid (kind ``bad-queue``) if there is no such queue, or no right to it.
    """

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise _bad("expected https://host/account/name")
        if url.startswith("http:") and options.get("allow_http") != "true":
            raise _bad("plain http:// needs s3.allow_http = true")
        region = _HOST.fullmatch(found[2])
        more = {"region": region[1]} if region else {}
        self._url = url
        self._sqs = service("sqs", {**options, **more}, endpoint=found[1])
        self._ask(self._sqs.get_queue_attributes, AttributeNames=["QueueArn"])

    def receive(self, seconds: float) -> list[Message]:
        """The messages that are there, or come within so many seconds; empty: none did.

        Unavailable, or Invalid (kind ``bad-queue``).
        """
        told = self._ask(
            self._sqs.receive_message,
            WaitTimeSeconds=max(0, min(LONGEST, int(seconds))),
            MaxNumberOfMessages=_MOST,
        )
        return [
            Message(tuple(arrivals(one.get("Body", ""))), one["ReceiptHandle"])
            for one in told.get("Messages", ())
        ]

    def done(self, message: Message) -> None:
        """The message is not needed any more; else it comes again."""
        self._ask(self._sqs.delete_message, ReceiptHandle=message.receipt)

    def _ask(self, call: Any, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = call(QueueUrl=self._url, **arguments)
        except ClientError as error:
            told = error.response
            status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            code = told.get("Error", {}).get("Code", "")
            if _REFUSED <= status < _REFUSED + 100 and "Throttl" not in code:
                raise _bad(f"the service says {code}") from None
            raise _away(code) from None
        except BotoCoreError as error:
            raise _away(type(error).__name__) from None
        return answer


def arrivals(body: str) -> Iterator[Arrival]:
    """The objects that a message tells of: of S3 itself, of an SNS topic, or of EventBridge.

    Nothing, where it is no message of these.
    """
    try:
        told = json.loads(body)
        if told.get("Type") == "Notification":
            told = json.loads(told["Message"])
        if told.get("detail-type") == "Object Created":
            detail = told["detail"]
            yield _arrival(detail["bucket"]["name"], detail["object"]["key"])
            return
        for record in told.get("Records", ()):
            if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
                found = record["s3"]
                yield _arrival(found["bucket"]["name"], unquote_plus(found["object"]["key"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.info("a message of the queue is none of S3's")


def _arrival(bucket: Any, key: Any) -> Arrival:
    if not (isinstance(bucket, str) and isinstance(key, str)):
        raise TypeError
    return Arrival(bucket, key)


def _bad(why: str) -> Invalid:
    return Invalid(
        f"the queue of events cannot be used: {why}",
        kind="bad-queue",
        hint="check events.queue, its region, and the rights sqs:GetQueueAttributes, "
        "sqs:ReceiveMessage and sqs:DeleteMessage",
    )


def _away(why: str) -> CatchmentError:
    return Unavailable(f"the queue of events does not answer: {why}", kind="queue-away")
