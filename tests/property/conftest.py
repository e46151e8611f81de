"""What the property tests share.

They look for new cases each time somebody runs them; in CI they take the same ones, so that a
change is judged by what it changed.  No example has a deadline: machines are noisy.
"""

import os

from hypothesis import settings

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
