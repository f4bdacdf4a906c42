"""The sites of a soak: what they have of all five kinds, and how it changes, good and bad.

Each change is one that a real site makes: it writes beside and renames, as clients do. What has
to come of it is written down in ``expected``, or follows from the files that are there.
"""

from __future__ import annotations

import gzip
import random
import shutil
from pathlib import Path

from catchment.core.store import Store
from catchment.testing.centers import make_centers
from catchment.testing.dicom import make_file
from catchment.testing.studies import cube, make_people, parquet, study_zip
from catchment.testing.workspaces import make_recordings

CENTERS = {"centers": 3, "columns": 6, "rows": (8, 14), "transfers": 0.2, "broken": 0}
STUDY = "core"
SITES = ("alpha", "beta", "gamma")
ILL = "sick"  # a site that never sends anything that could be used
NEWEST = 12  # versions of a center's dataset that are made beforehand: 10 to this
SPARE = 24  # files of each kind that are made beforehand, and arrive one by one


def make_template(folder: Path) -> Path:
    """What all worlds begin with, and all that may arrive later (below ``later/``)."""
    made = make_centers(folder / "sites", **CENTERS, tables=("uds",))
    for k in range(CENTERS["centers"]):
        for version in range(11, NEWEST + 1):
            made.sample.write(k, version)
            shutil.move(
                folder / f"sites/datasets/{made.ids[k]}/versions/{version}",
                folder / f"later/datasets/{made.ids[k]}/{version}",
            )
    for name in ("claims", "north", "south", "recordings"):
        (folder / name).mkdir()
        (folder / "later" / name).mkdir(parents=True)
    for number in range(SPARE):
        lines = [b'{"resourceType":"Claim","id":"%d-%d"}\n' % (number, i) for i in range(12)]
        data = gzip.compress(b"".join(lines), mtime=0)
        where = folder / "later/claims" if number >= 4 else folder / "claims"
        (where / f"m{number:03}.ndjson.gz").write_bytes(data)
        for site, provider in enumerate(("north", "south")):
            data = image(site, number)
            where = folder / "later" / provider if number >= 3 else folder / provider
            (where / f"{number:05}.dcm").write_bytes(data)
    make_recordings(folder / "made", 8, 4)
    for path in sorted((folder / "made").iterdir()):
        first = path.name in {"site_s0.edf", "site_s1.edf"}
        path.rename(folder / ("recordings" if first else "later/recordings") / path.name)
    return folder


def image(site: int, number: int, **more: str) -> bytes:
    """One of a provider's; those of each patient are a study of their own, as everywhere."""
    study = f"1.2.{10 * site + number % 3 + 1}"
    patient = f"{('north', 'south')[site]}{number % 3}"
    return make_file(
        f"1.2.3.{site}.1.{number}", series=f"{study}.1", study=study, patient=patient, **more
    )


class World:
    """Inputs below a folder, which change.

    Attributes:
        changes: what happened, by name, for the record of a soak.
        expected: the cube of each site of the study that counts in the end.
    """

    def __init__(self, template: Path, folder: Path, draw: random.Random, staging: Store) -> None:
        self.folder = folder
        shutil.copytree(template, folder, symlinks=True)
        self._home(template)
        self.later = folder / "later"
        self.draw = draw
        self.staging = staging
        self.changes: dict[str, int] = {}
        self.expected: dict[str, bytes] = {}
        self._number = 0

    def _home(self, template: Path) -> None:
        """The mapping names datasets by template, so nothing in it tells of a folder."""
        for path in self.folder.glob("sites/*.json"):
            assert str(template) not in path.read_text()

    def change(self) -> str:
        """One thing that some site does; its name."""
        names = [name for name in dir(self) if name.startswith("site_")]
        name = self.draw.choice(names)
        getattr(self, name)()
        self.changes[name] = self.changes.get(name, 0) + 1
        return name.removeprefix("site_")

    # --- center datasets -------------------------------------------------------------------------

    def site_dataset_new(self) -> None:
        """A version that takes the place of the one before, or comes first."""
        center = self._center()
        waiting = sorted(self.later.glob(f"datasets/{center}/*"), key=lambda p: int(p.name))
        if waiting:
            self._versions(center).mkdir(parents=True, exist_ok=True)
            waiting[0].rename(self._versions(center) / waiting[0].name)

    def site_dataset_damaged(self) -> None:
        """The newest version's file is cut: the center is quarantined, until a newer one comes."""
        center = self._center(1)
        found = sorted(self._versions(center).glob("1*"), key=lambda p: int(p.name))
        if found:
            path = found[-1] / "tables/uds/data.parquet"
            self._write(path, path.read_bytes()[: max(8, path.stat().st_size // 2)])

    def site_dataset_late(self) -> None:
        """An old version turns up after newer ones; it counts for nothing."""
        center = self._center()
        old = self._versions(center) / "9"
        if old.exists() and not old.with_name("8").exists():
            shutil.copytree(old, self.folder / "beside")
            (self.folder / "beside").rename(old.with_name("8"))

    def site_dataset_withdrawn(self) -> None:
        """A center takes all of its datasets back, or brings them again."""
        center = self._center(1)
        here, away = self._versions(center).parent, self.folder / "away" / center
        away.parent.mkdir(exist_ok=True)
        if away.exists() and not here.exists():
            away.rename(here)
        elif here.exists() and not away.exists():
            here.rename(away)

    def _center(self, first: int = 0) -> str:
        """One of them; the very first stays well, so that there is always a table to make."""
        return f"center{self.draw.randrange(first, CENTERS['centers']):02}"

    def _versions(self, center: str) -> Path:
        return self.folder / "sites/datasets" / center / "versions"

    # --- streamed records ------------------------------------------------------------------------

    def site_records_new(self) -> None:
        self._arrive("claims")

    def site_records_again(self) -> None:
        """The same records under another name; they are as they are sent."""
        self._double("claims", ".ndjson.gz")

    def site_records_damaged(self) -> None:
        """A part that is no gzip, and one with a line that is no JSON."""
        self._number += 1
        bad = gzip.compress(b'{"resourceType":"Claim","id":"x"}\nnot json\n', mtime=0)
        data = self.draw.choice([b"no gzip at all", bad])
        self._write(self.folder / "claims" / f"bad{self._number:03}.ndjson.gz", data)

    def site_records_withdrawn(self) -> None:
        found = sorted((self.folder / "claims").iterdir())
        if len(found) > 2:
            self.draw.choice(found).unlink()

    # --- images ----------------------------------------------------------------------------------

    def site_image_new(self) -> None:
        self._arrive(self.draw.choice(["north", "south"]))

    def site_image_again(self) -> None:
        self._double(self.draw.choice(["north", "south"]), ".dcm")

    def site_image_differs(self) -> None:
        """Other bytes that claim to be the same image: neither is to be trusted."""
        self._number += 1
        number = self.draw.randrange(3)
        data = image(0, number, ImageComments=f"other {self._number}")
        self._write(self.folder / "north" / f"other{self._number:03}.dcm", data)

    def site_image_damaged(self) -> None:
        self._number += 1
        data = self.draw.choice([b"", b"no DICOM", make_file(f"1.2.9.{self._number}")[:200]])
        self._write(self.folder / "south" / f"bad{self._number:03}.dcm", data)

    # --- recordings ------------------------------------------------------------------------------

    def site_recording_new(self) -> None:
        self._arrive("recordings")

    def site_recording_damaged(self) -> None:
        self._number += 1
        path = self.folder / "recordings" / f"site_bad{self._number:03}.edf"
        self._write(path, self.draw.randbytes(self.draw.choice([0, 100, 3000])))

    # --- uploads of studies ----------------------------------------------------------------------

    def site_upload(self) -> None:
        """A site's cube, which takes the place of what it sent before."""
        site = self.draw.choice(SITES)
        data = parquet(cube(make_people(self.draw.randrange(1 << 30), 15)))
        self.staging.put(staged(site), data, mode="overwrite")
        self.expected[site] = data

    def site_upload_again(self) -> None:
        """The same bytes once more: they count once."""
        if self.expected:
            site = self.draw.choice(sorted(self.expected))
            self.staging.put(staged(site), self.expected[site], mode="overwrite")

    def site_upload_damaged(self) -> None:
        """From a site that cannot do better: nothing of it is ever shown."""
        whole = study_zip(STUDY, {"count": cube(make_people(self.draw.randrange(99), 5))})
        data = self.draw.choice([b"no zip", whole[: len(whole) // 2], b"PK\x05\x06" + bytes(18)])
        key = f"upload_staging/{STUDY}/{ILL}/000/{ILL}_{STUDY}.zip"
        self.staging.put(key, data, mode="overwrite")

    # --- how -------------------------------------------------------------------------------------

    def _arrive(self, kind: str) -> None:
        waiting = sorted((self.later / kind).iterdir())
        if waiting:
            # Not in order: what was made early may come late.
            path = self.draw.choice(waiting)
            path.rename(self.folder / kind / path.name)

    def _double(self, kind: str, suffix: str) -> None:
        self._number += 1
        found = [p for p in sorted((self.folder / kind).iterdir()) if p.name[0] in "m0"]
        if found:
            name = f"again{self._number:03}{suffix}"
            self._write(self.folder / kind / name, self.draw.choice(found).read_bytes())

    def _write(self, path: Path, data: bytes) -> None:
        beside = self.folder / "beside"
        beside.write_bytes(data)
        beside.replace(path)


def staged(site: str) -> str:
    """Where a site's cube arrives."""
    return f"upload_staging/{STUDY}/{site}/000/{STUDY}__count.cube.parquet"
