"""Compression by an AWS Lambda function, behind the protocol of local workers and of a cluster.

A task is invoked asynchronously, as an event of a few hundred bytes; the function
(:mod:`catchment.imaging.lambda_handler`) puts its result below ``results/`` in the store, where it
is looked for. What pictures are is never in an event, only where they lie.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.store import Store
from catchment.core.store_s3_config import service
from catchment.core.strictjson import loads
from catchment.imaging import layout

AT_ONCE = 64  # tasks under way, at most
POLL = 0.25  # seconds between two looks for a result; they grow to eight times as many
WAIT = 960.0  # seconds until a result is given up: a function ends after 900
LOST = "reader-wall"  # kind: the function was killed, or took too long
_SPEC = re.compile(r"lambda:([A-Za-z0-9_-]{1,64})(?::([A-Za-z0-9$_-]{1,128}))?")

type Invoke = Callable[[bytes], None]


class LambdaExecutor(Executor):
    """Runs the task of :func:`catchment.imaging.compress.compress` in a Lambda function.

    Args:
        invoke: tells the function of one event.
        store: holds the files, and gets the results.
        wait: seconds after which a task is taken to have killed its function.
    """

    def __init__(self, invoke: Invoke, store: Store, *, wait: float = WAIT) -> None:
        self._invoke = invoke
        self._store = store
        self._wait = wait
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._ended = threading.Event()

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """``fn`` is ``partial(compress, store, wanted)``, its argument some images."""
        assert isinstance(fn, partial)  # noqa: S101 - what compress_all makes
        del kwargs  # it has none
        images: Any = args[0]
        return self._threads.submit(self._run, fn.args[1], images)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """No task begins any more; those under way are given up where they are to be cancelled."""
        if cancel_futures:
            self._ended.set()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _run(self, wanted: Any, images: Sequence[Any]) -> Any:
        key = layout.result_key(images[0].name, uuid.uuid4().hex)
        event = {
            "store": self._store.url,
            "wanted": wanted._asdict(),
            "images": [image._asdict() | {"file": image.file._asdict()} for image in images],
            "result": key,
        }
        self._invoke(json.dumps(event).encode())
        told = loads(self._result(key))
        with suppress(Unavailable):  # else an orphan
            self._store.delete(key)
        if "error" in told:
            kind = Unavailable if told.get("passing") else Invalid
            raise kind(
                "a task of the Lambda function failed",
                kind=str(told["error"]),
                hint="run again; nothing was published",
            )
        return told["rows"]

    def _result(self, key: str) -> bytes:
        pause, end = POLL, time.monotonic() + self._wait
        while time.monotonic() < end and not self._ended.wait(pause):
            try:
                return self._store.read(key)
            except NotFound:
                pause = min(pause * 1.5, POLL * 8)
        raise Invalid("a task of the Lambda function has no result", kind=LOST)


@contextmanager
def open_lambda(
    spec: str, store: Store, options: Mapping[str, str], *, wait: float = WAIT
) -> Iterator[Executor]:
    """The function that a setting names, with the region and the key of the storage.

    Invalid: kind ``bad-executor`` for another setting, ``missing-extra`` without boto3,
    ``lambda-refused``. Unavailable: kind ``lambda-unavailable``.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise Invalid(
            f"no compressor is called {spec!r}; expected lambda:NAME or lambda:NAME:QUALIFIER",
            kind="bad-executor",
            hint="name the function that runs catchment.imaging.lambda_handler.handler",
        )
    executor = LambdaExecutor(_invoker(parts[1], parts[2], options), store, wait=wait)
    with executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _invoker(name: str, qualifier: str | None, options: Mapping[str, str]) -> Invoke:
    client = service("lambda", options)
    from botocore import exceptions as aws

    where = {"FunctionName": name} | ({"Qualifier": qualifier} if qualifier else {})

    def invoke(event: bytes) -> None:
        try:
            client.invoke(**where, InvocationType="Event", Payload=event)
        except aws.ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            raise (_unavailable if status == 429 or status >= 500 else _refused)(code) from None
        except (aws.ConnectionError, aws.HTTPClientError) as error:
            raise _unavailable(type(error).__name__) from None
        except aws.BotoCoreError as error:
            raise _refused(type(error).__name__) from None

    return invoke


def _refused(problem: str) -> Invalid:
    return Invalid(
        f"the Lambda function was not invoked: {problem}",
        kind="lambda-refused",
        hint="check its name, the region, and the AWS credentials",
    )


def _unavailable(problem: str) -> Unavailable:
    return Unavailable(
        f"AWS Lambda takes no invocation: {problem}",
        kind="lambda-unavailable",
        hint="run again later; nothing was published",
    )
