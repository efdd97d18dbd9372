"""Every Python process with this on its path collects its garbage less often.

Hundreds of those that tests start live for seconds, and import Prefect first: a fifth of that was
spent looking for garbage among what had just been imported.
"""

import gc

gc.set_threshold(100_000)
