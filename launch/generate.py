"""Makes a film: the same as `causalcine film`, in causalcine_jax/commands/film.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["film", *sys.argv[1:]])
