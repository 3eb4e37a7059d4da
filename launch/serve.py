"""The director's desk: the same as `causalcine serve`, in causalcine_jax/commands/serve.py."""

import sys

from causalcine_jax.__main__ import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
