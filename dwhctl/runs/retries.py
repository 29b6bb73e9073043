"""When a failed attempt is tried again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

_LONGEST_SECONDS = 600.0


def retry_seconds(delay: timedelta, failures: int) -> float:
    """Give the wait after so many failures: `delay` doubled each time, ten minutes at most, a fifth more or less."""
    base = delay.total_seconds() * 2.0 ** (failures - 1)
    return min(base, _LONGEST_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
