"""The AWS Lambda function that compresses: its handler is ``...lambda_handler.handler``.

Deploy this package with the extras ``imaging`` and ``s3``. Its role may read and write the bucket;
``CATCHMENT_WORKSPACE__STORE`` names the store, and events about any other are refused. An event
may come twice: the same objects are made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.executor import open_executor
from catchment.core.safe import Limits
from catchment.core.settings import Settings
from catchment.core.store import open_store
from catchment.imaging import layout
from catchment.imaging.compress import Image, Wanted, compress
from catchment.imaging.read import Stored

log = logging.getLogger(__name__)


def handler(event: Mapping[str, Any], _context: object = None) -> dict[str, Any]:
    """Compress the images of an event, and put what became of them where the event says.

    A decoder that dies, dies in a child. Invalid (kind ``bad-event``) for what is no event of ours.
    """
    settings = Settings.load()
    if event.get("store") != settings.workspace.store:
        raise _bad("it is about another store than CATCHMENT_WORKSPACE__STORE")
    try:
        wanted = Wanted(**event["wanted"])
        images = [Image(Stored(**one["file"]), one["uid"], one["name"]) for one in event["images"]]
        result = str(event["result"])
        places = sorted({layout.results(image.name) for image in images})
    except (KeyError, TypeError):
        raise _bad("it does not say which images") from None
    if len(places) != 1 or not result.startswith(places[0]):
        raise _bad("its result would lie elsewhere")
    store = open_store(settings.workspace.store, **settings.s3.options())
    try:
        with open_executor("processes", 1, Limits(memory=settings.executor.memory << 20)) as child:
            told: dict[str, Any] = {"rows": child.submit(compress, store, wanted, images).result()}
    except CatchmentError as error:
        log.warning("%d images were not compressed: %s", len(images), error.kind)
        told = {"error": error.kind, "passing": isinstance(error, Unavailable)}
    store.put(result, json.dumps(told).encode(), mode="overwrite")
    return {"result": result}


def _bad(problem: str) -> Invalid:
    return Invalid(f"not an event of a compression: {problem}", kind="bad-event")
