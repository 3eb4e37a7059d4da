"""The checker that jaxtyping's import hook puts on all functions of the package, for all tests.

pyproject.toml names it (`--jaxtyping-packages`). A call fails if a value differs from its
annotation: the kind of value, and an array's dtype and axes.
"""

import dataclasses
import functools

import beartype
import jax
from beartype.roar import BeartypeCallHintViolation

# An int will do where a float is asked for, as for static checkers.
_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function):
    """`function`, which jaxtyping makes from a signature of the package, with checks."""
    check = _check(function)
    if function.__name__ != "__init__":
        return check

    @functools.wraps(check)
    def check_fields(self, *args, **kwargs):
        # Configs check themselves, with errors for users that tests ask for.
        if hasattr(self, "__post_init__"):
            return None
        try:
            return check(self, *args, **kwargs)
        except BeartypeCallHintViolation:
            if _is_pytree(type(self)) and not _holds_arrays(self, args, kwargs):
                return None
            raise

    return check_fields


@functools.cache
def _is_pytree(kind: type) -> bool:
    try:
        return not jax.tree_util.all_leaves([object.__new__(kind)])
    except AttributeError:  # a pytree, without its fields so far
        return True


def _holds_arrays(dataclass, args, kwargs) -> bool:
    """Whether they are of jax, which also makes pytrees of shapes, shardings, numpy's arrays."""
    fields = dataclasses.fields(dataclass)
    given = dict(zip((field.name for field in fields), args)) | kwargs
    leaves = jax.tree.leaves([given.get(f.name) for f in fields if not f.metadata.get("static")])
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)
