"""`python -m ffcad describe`, `fit`, `predict`, `export` and `pretrain`."""

import sys

from ffcad.commands import main

if __name__ == "__main__":  # loader workers may import this module anew
    sys.exit(main())
