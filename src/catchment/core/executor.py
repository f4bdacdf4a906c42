"""Where work runs: threads, child processes under limits, or a cluster; and a bounded map over it.

A cluster is dask.distributed's (extra ``cluster``). Its workers need this package installed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.safe import Limits, SafePool, name_of, pack, take
from catchment.core.safe_child import call, failure

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0

# Of this process where it is a worker of a cluster; starts nothing before its first task.
_worker_pool = SafePool(os.cpu_count() or 1)


@contextmanager
def open_executor(
    kind: str = "threads", workers: int | None = None, limits: Limits | None = None
) -> Iterator[Executor]:
    """An executor; on leaving, its tasks are waited for, or cancelled where an exception leaves.

    Args:
        kind: ``threads``; ``processes`` (:class:`SafePool`); or the address of a dask scheduler,
            ``tcp://host:port`` or ``tls://host:port`` (certificates by dask's configuration).
        workers: tasks at a time, as many as processors if None. A cluster has its own number.
        limits: of each task in processes and on a cluster; threads have none.

    On a cluster each task runs in a :class:`SafePool` of the worker that got it, so the limits
    and the kinds of errors are those of ``processes``, and no value reaches the worker's log.
    Different there: a task whose worker is lost runs again on another one (Invalid, kind
    ``reader-died``, when several are lost), so it must bear to run twice; results pass through
    the memory of the worker itself, which only dask's nanny limits; a cancelled task that has
    begun runs on to its end.

    Raises:
        Invalid: ``bad-executor`` for another kind or a wrong address, ``missing-extra`` where
            dask.distributed is not installed.
        Unavailable: ``cluster-unreachable`` within about 5 seconds; ``cluster-lost`` by futures
            whose scheduler went away.
    """
    workers = workers or os.cpu_count() or 1
    limits = limits or Limits()
    if kind == "threads":
        executor: Executor = ThreadPoolExecutor(workers)
    elif kind == "processes":
        executor = SafePool(workers, **limits._asdict())
    elif kind.startswith(("tcp://", "tls://")):
        executor = _Cluster(_connect(kind), limits)
    else:
        raise Invalid(
            f"no executor is called {kind!r}; expected threads, processes or tcp://host:port",
            kind="bad-executor",
            hint="use threads, processes, or the address that `dask scheduler` prints",
        )
    with executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


class _Cluster(Executor):
    """Runs tasks on the workers of a dask cluster; see :func:`open_executor`."""

    def __init__(self, client: Any, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._pending: set[Future[Any]] = set()

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        name = name_of(fn)
        future: Future[T] = Future()
        # Bytes in, bytes out: dask neither logs the arguments nor loads what it carries.
        remote = self._client.submit(
            _on_worker, pack(fn, args, kwargs), *self._limits, key=f"{name}-{uuid.uuid4()}"
        )
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        future.add_done_callback(lambda done: remote.cancel() if done.cancelled() else None)
        self._client.loop.add_callback(self._follow, remote, future, name)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            wait_for(self._pending)
            self._client.close()

    async def _follow(self, remote: Any, future: Future[Any], name: str) -> None:
        """Hand the outcome of a task on, in the client's event loop."""
        value, error = None, None
        try:
            value = take(await self._client.gather(remote, asynchronous=True), name)
        except CatchmentError as known:
            error = known
        except Exception as other:  # noqa: BLE001 - tasks do not raise there: it is the cluster's
            error = _cluster_error(other)
        if future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


def _on_worker(task: bytes, memory: int, cpu: float, wall: float) -> bytes:
    """The outcome of a task under limits; runs on a worker of the cluster."""
    pool = _worker_pool.limited(memory=memory, cpu=cpu, wall=wall)
    try:
        return pool.submit(call, task).result()
    except CatchmentError as error:
        return failure(error)


def _cluster_error(error: Exception) -> CatchmentError:
    if isinstance(error, import_module("distributed").KilledWorker):
        return Invalid(
            f"{error.allowed_failures + 1} workers of the cluster were lost while they ran a task",
            kind="reader-died",
            hint="look into the workers' logs; the file may be damaged or hostile",
        )
    if isinstance(error, CancelledError):
        return Unavailable(
            "the cluster's scheduler went away before a task was done",
            kind="cluster-lost",
            hint="start the scheduler again, then run the same command again",
        )
    return Unavailable(
        f"the cluster could not run a task: {type(error).__name__}",
        kind="cluster-failed",
        hint="check that its scheduler and workers have this version of catchment installed",
    )


def _connect(address: str) -> Any:
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise Invalid(
            "a cluster needs dask.distributed, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[cluster]'",
        ) from None

    # What it logs with tracebacks comes back as our errors.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)

    async def identify() -> Any:
        arguments = distributed.Security().get_connection_args("client")
        async with asyncio.timeout(_CONNECT_SECONDS):
            async with distributed.rpc(address, connection_args=arguments) as scheduler:
                return await scheduler.identity()

    # Asked before a client is made: one that cannot connect prints tracebacks when it is collected.
    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop already
        try:
            identity = thread.submit(asyncio.run, identify()).result()
        except (ValueError, TypeError):
            raise Invalid(
                f"not the address of a scheduler that can be used: {address}",
                kind="bad-executor",
                hint="expected tcp://host:port; tls:// needs dask's setting distributed.comm.tls",
            ) from None
        except Exception as error:  # noqa: BLE001 - what an answer of anything else makes of dask
            raise Unavailable(
                f"no dask scheduler answers at {address} ({type(error).__name__})",
                kind="cluster-unreachable",
                hint="start one with `dask scheduler`, or use the executor `processes`",
            ) from None
    if not identity["workers"]:
        logger.warning("the cluster at %s has no workers yet: work waits for one", address)
    return distributed.Client(
        address, timeout=_CONNECT_SECONDS, set_as_default=False, name="catchment"
    )


def bounded_map[A, R](
    executor: Executor, fn: Callable[[A], R], items: Iterable[A], window: int
) -> Iterator[R]:
    """Results in order of the items, of which at most ``window`` are under way or waiting.

    The first failure in order is raised, :func:`failed_item` tells its position, and what has not
    begun is cancelled, as it is when the iterator is closed early.
    """
    _check_window(window)
    source = iter(items)
    futures: deque[Future[R]] = deque()
    position = 0
    try:
        while True:
            futures.extend(
                executor.submit(fn, item) for item in islice(source, window - len(futures))
            )
            if not futures:
                return
            yield _result(futures.popleft(), position)
            position += 1
    finally:
        for future in futures:
            future.cancel()


def bounded_unordered[A, R](
    executor: Executor, fn: Callable[[A], R], items: Iterable[A], window: int
) -> Iterator[tuple[int, R]]:
    """As :func:`bounded_map`, but pairs of position and result as they are done."""
    _check_window(window)
    source = enumerate(items)
    positions: dict[Future[R], int] = {}
    try:
        while True:
            for position, item in islice(source, window - len(positions)):
                positions[executor.submit(fn, item)] = position
            if not positions:
                return
            done = wait_for(positions, return_when=FIRST_COMPLETED).done
            for future in sorted(done, key=positions.__getitem__):
                position = positions.pop(future)
                yield position, _result(future, position)
    finally:
        for future in positions:
            future.cancel()


def failed_item(error: BaseException) -> int | None:
    """The position of the item whose failure a bounded map raised; None for any other error."""
    return vars(error).get("_catchment_item")


def _check_window(window: int) -> None:
    if window < 1:
        raise Invalid(f"expected a window of 1 or more, got {window}", kind="bad-window")


def _result[R](future: Future[R], position: int) -> R:
    try:
        return future.result()
    except BaseException as error:
        vars(error)["_catchment_item"] = position
        raise
