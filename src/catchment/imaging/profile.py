"""Profiles: how files are de-identified, and the secrets that it takes."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from catchment.core.errors import Invalid, NotFound
from catchment.core.named_sections import DeidentifySettings
from catchment.core.settings import Settings

BUILT_IN = "basic"
LEAST_KEY = 16  # characters of a secret


@dataclass(frozen=True, slots=True)
class Profile:
    """How files are de-identified.

    Attributes:
        key: secret of pseudonyms and shifts, and of UIDs unless ``uid_key`` is another.
        dates: ``remove``, or ``shift`` by the patient's own number of days.
        uids: retain them.
        device, patient: retain the device's identity, the patient's characteristics.
        private: safe private elements, ``"CREATOR/GGGGxxEE"``.
        shown: modalities whose pictures are taken to show no text.
        uid_key: secret of UIDs: one for all sites, so that what two sites send stays one image.
        keys: secrets of single sites.
    """

    name: str
    key: bytes = field(repr=False)
    dates: str = "remove"
    uids: bool = False
    device: bool = False
    patient: bool = False
    private: frozenset[str] = frozenset()
    shown: frozenset[str] = frozenset()
    uid_key: bytes = field(default=b"", repr=False)
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False, hash=False)

    def of_site(self, site: str) -> Profile:
        """The same for files of one site: its pseudonyms and shifts are of no other.

        Its secret may come from the environment, where a dash is an underscore.
        """
        secret = self.keys.get(site) or self.keys.get(site.replace("-", "_"), self.key)
        own = hmac.new(secret, f"site\0{site}".encode(), "sha256").digest()
        return replace(self, key=own, uid_key=self.uid_key or self.key, keys={})

    def described(self) -> dict[str, Any]:
        """What a snapshot says about it: all but the secrets, of which a keyed digest tells."""
        made = hmac.new(self.key, digestmod="sha256")
        for site, secret in sorted(self.keys.items()):
            made.update(f"{site}\0".encode() + hmac.digest(secret, b"key", "sha256"))
        return {
            "name": self.name,
            "dates": self.dates,
            "retain_uids": self.uids,
            "retain_device": self.device,
            "retain_patient": self.patient,
            "safe_private": sorted(self.private),
            "key_id": made.hexdigest()[:16],
        }


def profile_of(settings: Settings, name: str) -> Profile:
    """``[deidentify.<name>]``, or what is built in as ``basic``.

    Raises:
        NotFound: kind ``no-profile``.
        Invalid: kind ``no-key``: pseudonyms without a secret can be guessed.
    """
    found = settings.deidentify.get(name)
    if found is None and name != BUILT_IN:
        raise NotFound(
            f"the settings have no [deidentify.{name}]",
            kind="no-profile",
            hint=f"add it, or use the profile {BUILT_IN}",
        )
    found = found or DeidentifySettings()
    key = found.key.get_secret_value() if found.key else ""
    keys = {site: secret.get_secret_value() for site, secret in found.keys.items()}
    variable = f"CATCHMENT_DEIDENTIFY__{name.upper().replace('-', '_')}__KEY"
    if len(key) < LEAST_KEY:
        raise _no_key(f"the profile {name}", variable)
    for site, secret in keys.items():
        if len(secret) < LEAST_KEY:
            raise _no_key(f"the profile {name} for {site}", f"{variable}S__{site.upper()}")
    return Profile(
        name,
        key.encode(),
        found.dates,
        found.retain_uids,
        found.retain_device,
        found.retain_patient,
        frozenset(found.safe_private),
        frozenset(modality.upper() for modality in found.shown),
        keys={site: secret.encode() for site, secret in keys.items()},
    )


def _no_key(what: str, variable: str) -> Invalid:
    return Invalid(
        f"{what} needs a secret key of {LEAST_KEY} characters or more",
        kind="no-key",
        hint=f"set {variable}",
    )
