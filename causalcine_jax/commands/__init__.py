"""What `causalcine` runs: a module per command, with parse(arguments) and main(arguments).

Each parses its flags before it imports what computes: --help and a wrong flag do not wait for jax.
"""
