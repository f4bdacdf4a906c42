"""What children of tests would import late, and each for itself: imported once, in who forks them.

Of five capabilities these are seconds. No thread may be started by it.
"""

from __future__ import annotations

import gc
import inspect
from contextlib import suppress
from importlib import import_module
from tempfile import TemporaryDirectory

from catchment.core.capability import NAMES
from catchment.core.ledger import Ledger

MODULES = (
    *(f"catchment.{kind}.capability" for kind in NAMES),
    "catchment.core.store_local", "catchment.core.store_s3", "catchment.core.store_s3_upload",
    "catchment.core.collection", "catchment.studies.actions", "catchment.studies.library",
    "catchment.studies.scan", "catchment.exports.fhir", "catchment.exports.aggregator",
    "catchment.imaging.compress", "catchment.imaging.scan", "catchment.arrays.api",
    "catchment.arrays.transform.worker", "catchment.arrays.transform.signals",
    "catchment.testing.faults", "catchment.testing.arrays", "catchment.testing.studies",
    "scipy.signal", "xarray", "dask.array", "zarr", "mmh3", "tblib", "edfio", "pydicom", "PIL.Image",
    "pandas", "pyarrow.csv", "pyarrow.pandas_compat", "duckdb", "psycopg", "boto3",
    "botocore.httpchecksum", "alembic.command", "pytest",
)  # fmt: skip

for name in MODULES:
    with suppress(ImportError):  # an extra that is not installed
        import_module(name)
with suppress(ImportError):
    from PIL import Image

    Image.preinit()
with TemporaryDirectory() as folder:
    Ledger.open(f"sqlite:///{folder}/ledger.db").close()
# Coverage, which starts in each child, asks where it is: that looks up the file of every module, and
# remembers it.
inspect.stack()
# A child that collected garbage among all of these would get a copy of each of their pages.
gc.collect()
gc.freeze()
