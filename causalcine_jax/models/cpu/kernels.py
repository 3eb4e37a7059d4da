"""Our CPU kernels, cpu/*.h: compiled once per machine, kept in the user's cache, called by XLA.

    first use --> compiler found? --> ~/.cache/causalcine_jax/kernels-<hash>.so
                  --> jax.ffi --> `flash_attention`, `linear`
                  otherwise: `missing()` gives the reason, and XLA computes the same

They are optional. Without them models/attention/backends.py, models/nn.py and
models/vae/convolution.py use XLA; CAUSALCINE_CPU_KERNELS=0 chooses that.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.errors import first_line
from causalcine_jax.utils.compile_cache import make_private, processor, user_cache

HERE = Path(__file__).parent
SWITCH = "CAUSALCINE_CPU_KERNELS"
COMPILERS = ("c++", "g++", "clang++")
# Never -ffast-math: it flushes denormals in the whole process, and hides NaNs.
FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-w",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
)
FOR_THIS_CPU = (
    ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
)
SECONDS = 120  # timeout of the compiler
ATTENTION, LINEAR = "causalcine_attention", "causalcine_linear"
ATTENTION_KEPT, ATTENTION_BACKWARD = f"{ATTENTION}_kept", f"{ATTENTION}_backward"
FIELDS, FIELDS_BACKWARD = "causalcine_fields", "causalcine_fields_backward"
CONVOLUTION, CONVOLUTION_GRADIENT = "causalcine_convolution", "causalcine_convolution_gradient"
NORM, NORM_GRADIENT = "causalcine_norm_silu", "causalcine_norm_silu_gradient"
TARGETS = (
    ATTENTION,
    ATTENTION_KEPT,
    ATTENTION_BACKWARD,
    FIELDS,
    FIELDS_BACKWARD,
    CONVOLUTION,
    CONVOLUTION_GRADIENT,
    NORM,
    NORM_GRADIENT,
    LINEAR,
)


@dataclass(frozen=True)
class Kernels:
    """The compiled kernels' limits.

    dtypes       that attention multiplies
    rows, lanes  divisors of a head's width: `rows` always, `lanes` also with a gradient
    """

    dtypes: tuple[str, ...]
    rows: int
    lanes: int


def path_in_use() -> str:
    """How the CPU attends, for display: by which kernels, or by XLA and the reason."""
    own = kernels()
    return f"XLA ({missing()})" if own is None else f"own kernels ({', '.join(own.dtypes)})"


def kernels() -> Kernels | None:
    """This machine's kernels, compiled on first use; None if that fails."""
    loaded = _loaded()
    return None if isinstance(loaded, str) else loaded


def missing() -> str | None:
    """Why there are no kernels here; None where there are."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else None


def flash_attention(
    q: Float[Array, "*b t h d"],
    k: Float[Array, "*b s h d"],
    v: Float[Array, "*b s h d"],
    lengths: Int[Array, "*b"],
) -> Float[Array, "*b t h d"]:
    """softmax(q k^T / sqrt(d)) v over the first `lengths` keys, in time proportional to them.

    It has no gradient.

    Raises:
      NotImplementedError: kernels are missing, or do not support the dtype or the heads' width.
    """
    own = kernels()
    if own is None:
        raise NotImplementedError(missing())
    if not str(q.dtype) == str(k.dtype) == str(v.dtype) or str(q.dtype) not in own.dtypes:
        raise NotImplementedError(
            f"this processor's kernels attend in {' or '.join(own.dtypes)}, not {q.dtype}"
        )
    if q.shape[-1] % own.rows:
        raise NotImplementedError(
            f"heads must be a multiple of {own.rows} channels wide, not {q.shape[-1]}"
        )
    # Inside shard_map all operands must vary along the same mesh axes. Adding 0 * q makes lengths
    # vary as q does.
    lengths = lengths + 0 * q[..., 0, 0, 0].astype(jnp.int32)
    return jax.ffi.ffi_call(ATTENTION, q, vmap_method="broadcast_all")(q, k, v, lengths)


def differentiates(dtype, head_dim: int) -> bool:
    """Whether attention in this dtype and with heads of this width has gradient kernels too."""
    own = kernels()
    return (
        own is not None
        and dtype == jnp.float32
        and head_dim % own.lanes == 0
        and head_dim % own.rows == 0
    )


def flash_attention_with_logs(
    q, k, v, lengths
) -> tuple[Float[Array, "*b t h d"], Float[Array, "*b h t"]]:
    """`flash_attention`, and the base-2 logarithm of each query's sum of weights.

    Call it only where `differentiates` is true.
    """
    lengths = lengths + 0 * q[..., 0, 0, 0].astype(jnp.int32)
    like = (q, jnp.swapaxes(q[..., 0], -1, -2))
    call = jax.ffi.ffi_call(ATTENTION_KEPT, like, vmap_method="broadcast_all")
    out, log_sum = call(q, k, v, lengths)
    return out, log_sum


def flash_attention_backward(
    q, k, v, lengths, out, log_sum, gradient
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, given that of the output of `flash_attention_with_logs`."""
    lengths = lengths + 0 * q[..., 0, 0, 0].astype(jnp.int32)
    call = jax.ffi.ffi_call(ATTENTION_BACKWARD, (q, k, v), vmap_method="broadcast_all")
    of_q, of_k, of_v = call(q, k, v, lengths, out, log_sum, gradient)
    return of_q, of_k, of_v


def multiplies(dtype) -> bool:
    """Whether `linear` multiplies this dtype: bfloat16, on processors that multiply it.

    XLA would convert to float32 first.
    """
    return dtype == jnp.bfloat16 and (own := kernels()) is not None and "bfloat16" in own.dtypes


def rounds_products() -> bool:
    """Whether jax's setting asks for products of float32 in bfloat16, which XLA ignores on CPUs."""
    return jax.config.jax_default_matmul_precision == "bfloat16"  # type: ignore[attr-defined]


@functools.cache
def has_tiles() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (AMX)."""
    with contextlib.suppress(OSError):
        return " amx_bf16 " in Path("/proc/cpuinfo").read_text(errors="replace")
    return False


@jax.custom_vjp
def linear(
    x: Float[Array, "t i"], weight: Float[Array, "i o"], bias: Float[Array, " o"]
) -> Float[Array, "t o"]:
    """x W + b in bfloat16, summed in float32, rounded once. Only where `multiplies` is true."""
    shape = jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), x.dtype)
    return jax.ffi.ffi_call(LINEAR, shape, vmap_method="sequential")(x, weight, bias)


def _linear_backward(kept, gradient):
    x, weight = kept
    return (
        gradient @ weight.T,
        x.T @ gradient,
        jnp.sum(gradient, axis=0, dtype=jnp.float32).astype(gradient.dtype),
    )


linear.defvjp(lambda x, weight, bias: (linear(x, weight, bias), (x, weight)), _linear_backward)


@functools.cache
def _loaded() -> Kernels | str:
    """The kernels, or the reason why there are none."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if os.name != "posix":
        return f"not made for {platform.system()}"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return f"no C++ compiler: none of {', '.join(COMPILERS)} was found"
    try:
        library = _library(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} could not make them: {first_line(error)}"
    for target in TARGETS:
        jax.ffi.register_ffi_target(
            target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
        )
    dtypes = ("float32", "bfloat16") if library.causalcine_bfloat16() else ("float32",)
    return Kernels(dtypes, library.causalcine_rows(), library.causalcine_lanes())


def _library(compiler: str) -> ctypes.CDLL:
    """Loads the compiled file; compiles it if it is missing or damaged."""
    file = _folder() / f"kernels-{_fingerprint(compiler)}.so"
    with contextlib.suppress(OSError):
        return ctypes.CDLL(str(file))
    with _alone(file.parent):
        with contextlib.suppress(OSError):  # another process made it meanwhile
            return ctypes.CDLL(str(file))
        _compile(compiler, file)
    return ctypes.CDLL(str(file))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process compiles for `folder`; goes on where no lock is possible."""
    import fcntl  # other systems lack it

    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _folder() -> Path:
    """The folder of compiled kernels.

    Raises:
      OSError: another user can write to it, and so choose the code that runs.
    """
    folder = user_cache()
    make_private(folder)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} can be written by other users: chmod go-w {folder}")
    return folder


def _fingerprint(compiler: str) -> str:
    """Hash of all that the compiled file depends on; a shared home has several processors."""
    sources = (file.read_text() for file in sorted(HERE.iterdir()) if file.suffix in (".h", ".cc"))
    parts = (
        *sources,
        jax.__version__,
        compiler,
        *FLAGS,
        *FOR_THIS_CPU,
        platform.machine(),
        processor(),
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _compile(compiler: str, file: Path) -> None:
    """Compiles the kernels to an atomic `file`."""
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        made = Path(scratch) / file.name
        include, source = f"-I{jax.ffi.include_dir()}", str(HERE / "kernels.cc")
        command = [compiler, *FLAGS, *FOR_THIS_CPU, include, source, "-o", str(made)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
        if done.returncode:
            raise OSError(first_line(done.stderr))
        made.replace(file)
