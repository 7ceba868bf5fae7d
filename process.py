"""Container entry point: one case from /input to /output, as grand-challenge runs it.

Options of `l2snet predict` may follow, for example `docker run IMAGE --precision exact`; the last of a kind counts.
"""

import sys

from l2snet.cli import main

if __name__ == "__main__":
    main(["predict", "/input", "/output", "--no-manifest", "--time-limit", "540", *sys.argv[1:]])
