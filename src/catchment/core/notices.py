"""What a bucket tells of itself: S3 events that arrive in an SQS queue.

They may come twice, late or never: who asks must bear that, and look for itself now and then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

from catchment.core.errors import Invalid, Unavailable
from catchment.core.store_s3_config import service

_MOST = 100  # messages of one look
_BATCH = 10  # of one request: SQS gives no more


def heard(queue: str, options: Mapping[str, str]) -> Iterator[list[str]]:
    """The keys that messages of a queue speak of, message by message.

    A message is removed once its keys were taken and the next are asked for; one that is no event
    of S3 is removed, too. Keys are those of the bucket.

    Raises:
        Unavailable: kind ``queue-unavailable``.
        Invalid: kind ``queue-refused``.
    """
    client = service("sqs", options)
    for _ in range(_MOST // _BATCH):
        answer = _ask(partial(client.receive_message, QueueUrl=queue, MaxNumberOfMessages=_BATCH))
        messages = answer.get("Messages", ())
        for message in messages:
            yield list(_keys(message["Body"]))
            receipt = message["ReceiptHandle"]
            _ask(partial(client.delete_message, QueueUrl=queue, ReceiptHandle=receipt))
        if not messages:
            return


def _keys(body: str) -> Iterator[str]:
    try:
        event = json.loads(body)
        if "Message" in event:  # it came by way of SNS
            event = json.loads(event["Message"])
        for record in event["Records"]:
            yield unquote_plus(record["s3"]["object"]["key"])
    except (ValueError, KeyError, TypeError):
        return


def _ask(call: Callable[[], Any]) -> Any:
    from botocore import exceptions as aws

    try:
        return call()
    except aws.ClientError as error:
        code = error.response["Error"]["Code"]
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise _unavailable(code) from None
        raise Invalid(
            f"the queue refused: {code}",
            kind="queue-refused",
            hint="the role needs sqs:ReceiveMessage and sqs:DeleteMessage; look at flows.queue",
        ) from None
    except aws.BotoCoreError as error:
        raise _unavailable(type(error).__name__) from None


def _unavailable(what: str) -> Unavailable:
    return Unavailable(
        f"the queue does not answer: {what}",
        kind="queue-unavailable",
        hint="nothing is lost: the next look lists what is there",
    )
