"""De-identification of one file, at every depth, by PS3.15 Annex E; and the check of what is left.

UIDs and pseudonyms are keyed digests: the same everywhere for one key, and only for it. Dates move
by a number of days that is the patient's own. Nothing of this file's input reaches a message.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from catchment.imaging import deidentify_standard as standard
from catchment.imaging import deidentify_table as table
from catchment.imaging.deidentify_pixels import check_pictures, only_pixels
from catchment.imaging.deidentify_residue import WORD, check_residue, is_long, names_of
from catchment.imaging.entities import Odd, day, instant
from catchment.imaging.fallback import quiet, syntax_of
from catchment.imaging.profile import Profile
from catchment.imaging.walk import BadFile

STANDARD = "1.2.840.10008."
SHIFT = 3650  # days back, at most
_BYTES = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "OB or OW", "US or OW"})
_PLAIN = frozenset(  # codes and numbers
    ["CS", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "AT", "US or SS"]
)
_A_YEAR = {"D": 366, "W": 53, "M": 12, "Y": 1, "": 1}
_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d[01]\d[0-3]\d(?!\d)")


@dataclass(slots=True)
class Clean:
    """A de-identified file and the evidence: counts and digests, never a value."""

    data: bytes
    uid: str
    digest: str  # SHA-256 of the bytes
    evidence: dict[str, Any] = field(default_factory=dict)


def deidentify(data: bytes, profile: Profile) -> Clean:
    """The file without what identifies.

    The file may lack its preamble and meta information: it gets them.

    BadFile: ``burned-in`` if its pictures may show text, ``residual`` if something of the input's
    identifiers is left in the output's bytes, ``header-broken`` if it cannot be read,
    ``encapsulated-document`` for what cannot be looked into.
    """
    import pydicom

    with quiet():
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if "SOPInstanceUID" not in dataset:
                raise BadFile("header-broken")
            known = names_of(dataset)
        except Exception:  # noqa: BLE001 - what a file of any form makes of pydicom
            raise BadFile("header-broken") from None
        check_pictures(dataset, profile)
        sop_class = str(dataset.get("SOPClassUID") or "")
        work = _Work(profile, _patient(dataset), sop_class, known)
        names = work.long
        try:
            only_pixels(dataset)
            work.clean(dataset)
            _mark(dataset, work, profile)
            made = _written(dataset, work)
        except BadFile:
            raise
        except Exception:  # noqa: BLE001 - the same
            raise BadFile("header-broken") from None
    check_residue(made, dataset, names, profile)
    digest = hashlib.sha256(made).hexdigest()
    evidence = {
        "profile": profile.name,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "sha256": digest,
        "SOPInstanceUID": str(dataset.SOPInstanceUID),
        "actions": dict(sorted(work.actions.items())),
        "looked_for": len(names),
    }
    return Clean(made, str(dataset.SOPInstanceUID), digest, evidence)


def _patient(dataset: Any) -> str:
    """What tells patients apart: their id and who gave it, or else their study."""
    who = str(dataset.get("PatientID") or "")
    if who:
        return f"id:{who}:{dataset.get('IssuerOfPatientID') or ''}"
    return f"study:{dataset.get('StudyInstanceUID') or ''}"


class _Work:
    """One file at work."""

    def __init__(self, profile: Profile, patient: str, sop_class: str, names: set[str]) -> None:
        self.profile = profile
        self.names = {name.lower() for name in names}
        self.long = {name for name in names if is_long(name)}
        self.report = sop_class.startswith(table.REPORTS)
        self.actions: Counter[str] = Counter()
        self.pseudonym = self._digest("patient", patient).hex()[:16].upper()
        days = int.from_bytes(self._digest("shift", patient)[:4], "big")
        self.shift = timedelta(days=1 + days % SHIFT)

    def _digest(self, what: str, value: str, key: bytes = b"") -> bytes:
        key = key or self.profile.key
        return hmac.new(key, f"{what}\0{value}".encode("utf-8", "replace"), "sha256").digest()

    def uid(self, value: str) -> str:
        """Another UID in the place of one, the same each time; standard ones stay."""
        if self.profile.uids or not value or value.startswith(STANDARD):
            return value
        made = self._digest("uid", value, self.profile.uid_key)
        return f"2.25.{int.from_bytes(made[:16], 'big')}"

    def clean(self, dataset: Any) -> None:
        """Act on every element of a dataset and of the items in it."""
        for tag in list(dataset.keys()):
            if tag.is_private:
                self._private(dataset, tag)
            elif tag.group & 0xFF00 in (0x5000, 0x6000) or tag.element == 0:
                self._remove(dataset, tag)  # curves, overlays, lengths of groups
            else:
                self._act(dataset, tag, dataset[tag])

    def _private(self, dataset: Any, tag: Any) -> None:
        """Private elements go, but for those that the profile calls safe, and their creators."""
        safe = self.profile.private
        if tag.is_private_creator:
            wanted = any(one.rpartition("/")[0] == dataset[tag].value for one in safe)
        else:
            creator = dataset.get(tag.group << 16 | tag.element >> 8)
            name = str(creator.value) if creator is not None else ""
            wanted = f"{name}/{tag.group:04X}xx{tag.element & 0xFF:02X}" in safe
            wanted = wanted and dataset[tag].VR not in ("SQ", "UN", "PN")
        if not wanted:
            self._remove(dataset, tag)

    def _act(self, dataset: Any, tag: Any, element: Any) -> None:
        name, vr = element.keyword, str(element.VR)
        listed = standard.ACTIONS.get(name, "")
        if vr == "SQ":
            self._sequence(dataset, tag, element, listed)
        elif vr == "UI" and listed in ("", "U", "D"):
            if name not in table.CLASSES:
                self._remap(element)
        elif name in ("PatientID", "PatientName"):
            element.value = self.pseudonym
            self.actions["pseudonyms"] += 1
        elif not self._stays(dataset, name, vr, listed):
            self._date(dataset, tag, element, name, vr)

    def _sequence(self, dataset: Any, tag: Any, element: Any, listed: str) -> None:
        """Removed, emptied, or kept with items that are cleaned themselves."""
        name = element.keyword
        hollow = table.HOLLOW | table.HOLLOW_IN_REPORTS if self.report else table.HOLLOW
        if listed == "Z" or name in hollow:
            element.value = []
            self.actions["emptied"] += 1
        elif not name or listed in ("X", "X/D", "X/Z", "X/Z/D") or name in table.SEQUENCES:
            self._remove(dataset, tag)
        else:
            for item in element.value:
                self.clean(item)

    def _stays(self, dataset: Any, name: str, vr: str, listed: str) -> bool:
        profile = self.profile
        if name in table.CHARACTERISTICS:
            if name == "PatientAge" and profile.patient:
                self._cap_age(dataset)
            return profile.patient
        if name in table.DEVICE:
            return profile.device or name in table.MAKE
        if listed or name in table.ALSO:
            return False
        if name == "CodeMeaning":
            return str(dataset.get("CodingSchemeDesignator") or "") in table.SCHEMES
        if vr in _BYTES:
            return name in table.BYTES
        if vr in _PLAIN:
            return bool(name)
        if name in table.CODED:
            return True
        return name in table.TECHNICAL and not self._named(dataset[name].value)

    def _named(self, value: Any) -> bool:
        """Whether text holds a word of the identifiers, a long one in any word, or a date."""
        text = str(value).lower()
        if _DATE.search(text) or not self.names.isdisjoint(WORD.findall(text)):
            return True
        return any(name.lower() in text for name in self.long)

    def _cap_age(self, dataset: Any) -> None:
        """Ages above 89 are told as 90, in whatever unit; what is no age is emptied."""
        told = str(dataset.PatientAge or "").strip()
        age = re.fullmatch(r"(\d{1,5})([DWMY]?)", told.upper(), re.ASCII)
        if age is None:
            dataset.PatientAge = ""
        elif int(age[1]) > 89 * _A_YEAR[age[2]]:
            dataset.PatientAge = "090Y"

    def _remap(self, element: Any) -> None:
        found = element.value
        if isinstance(found, str):
            element.value = self.uid(str(found))
        elif found:
            element.value = [self.uid(str(one)) for one in found]
        self.actions["uids"] += 1

    def _date(self, dataset: Any, tag: Any, element: Any, name: str, vr: str) -> None:
        """Move it, or empty or remove it."""
        if self.profile.dates == "shift" and name not in ("PatientBirthDate", "PatientBirthTime"):
            if vr == "TM":
                return
            if vr in ("DA", "DT") and self._moved(element, vr):
                self.actions["dates"] += 1
                return
        listed = standard.ACTIONS.get(name, "")
        if listed == "D" or name in table.DUMMY:
            element.value = table.NOTHING.get(vr, table.NO_TEXT)
            self.actions["dummies"] += 1
        elif listed in ("Z", "X/Z", "Z/D") or name in table.EMPTY:
            element.value = None if vr not in ("DA", "TM", "DT") else ""
            self.actions["emptied"] += 1
        else:
            self._remove(dataset, tag)

    def _moved(self, element: Any, vr: str) -> bool:
        """Whether it was a date, or several, and now is another."""
        values = [element.value] if isinstance(element.value, str) else list(element.value or ())
        moved = []
        for value in map(str, values):
            try:
                if vr == "DA":
                    found = day(value)
                    moved.append("" if found is None else f"{found - self.shift:%Y%m%d}")
                else:
                    zone = value[-5:] if re.search(r"[+-]\d{4}$", value) else ""
                    bare = value.removesuffix(zone)
                    at = instant(bare)
                    text = "" if at is None else f"{at - self.shift:%Y%m%d%H%M%S.%f}"
                    precise = len(bare) if "." in bare else min(len(bare), 14)
                    moved.append(text[:precise] + zone)
            except (Odd, OverflowError):
                return False
        element.value = moved if len(moved) != 1 else moved[0]
        return bool(moved)

    def _remove(self, dataset: Any, tag: Any) -> None:
        del dataset[tag]
        self.actions["removed"] += 1


def _mark(dataset: Any, work: _Work, profile: Profile) -> None:
    """Say in the file that, and how, it was de-identified."""
    from pydicom.dataset import Dataset

    if "StudyInstanceUID" in dataset:  # else it is about nobody: a palette, a template
        dataset.PatientID = dataset.PatientName = work.pseudonym
        for name in ("PatientBirthDate", "PatientSex"):
            if name not in dataset:
                setattr(dataset, name, "")
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"Catchment profile {profile.name}"[:64]
    shifted = profile.dates == "shift"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if shifted else "REMOVED"
    wanted = {
        "basic": True,
        "shifted": shifted,
        "patient": profile.patient,
        "device": profile.device,
        "uids": profile.uids,
        "private": bool(profile.private),
    }
    codes = []
    for option, (value, meaning) in table.CODES.items():
        if wanted[option]:
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
            codes.append(code)
    dataset.DeidentificationMethodCodeSequence = codes


def _written(dataset: Any, work: _Work) -> bytes:
    """The bytes: an empty preamble, and of the meta information what is about the encoding."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    old = getattr(dataset, "file_meta", None) or FileMetaDataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(old.get("TransferSyntaxUID") or syntax_of(dataset))
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
    work.actions["meta"] += max(len(old) - 3, 0)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
