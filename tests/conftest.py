"""One thread for each process of the tests, their children included.

The networks are tiny, and threads of several processes on two cores mostly wait for each other.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
