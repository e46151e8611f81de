"""dmsnap: the same scenario against the real dm-snapshot module and against a twin."""

# SPDX-License-Identifier: GPL-2.0-only
from typing import Final

__version__: Final = "0.2.0"
