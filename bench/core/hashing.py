"""One byte string and one hash for each value, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> bytes:
    """One byte string for one value: keys sorted, no spaces, no NaN."""
    return ENCODER.encode(value).encode()


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()
