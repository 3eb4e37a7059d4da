"""A sharded orbax copy of a model, for a fast start on many hosts.

Each process reads the slices of its own devices.

    transformer/  vae/  text_encoder/   config.json as in a model folder, and orbax/ with the
                                        parameters under our names
    metadata.json  manifest.json

Safetensors are the format of exchange. This copy is made from them and equal to them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from causalcine_jax.convert import tables
from causalcine_jax.convert.describe import from_config
from causalcine_jax.convert.find import home
from causalcine_jax.convert.finite import check_parameters
from causalcine_jax.convert.metadata import read_settings
from causalcine_jax.errors import DataError, one_line
from causalcine_jax.parallel.sharding import state_shardings
from causalcine_jax.utils.output import check_utf8

FOLDER = "orbax"


def save(module, folder: Path) -> None:
    """Writes the parameters of a network to `folder`/orbax, sharded as on the devices.

    Their names are such as blocks.ffn_0.weight.

    Raises:
      DataError: the disk is full or cannot be written.
    """
    # Imported here, because the import takes as long as loading a small model.
    from orbax.checkpoint import v1 as ocp

    try:
        ocp.save_checkpointables(
            folder.absolute() / FOLDER, {"parameters": tables.parameters(module)}, overwrite=True
        )
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        raise DataError(f"cannot write {folder / FOLDER}: {one_line(error)}") from error


def find(path: Path, part: str) -> Path | None:
    """The folder of `part` in or at `path`, or in its base, if that is an orbax copy."""
    path = home(path, part)
    return next((folder for folder in (path / part, path) if (folder / FOLDER).is_dir()), None)


def load(folder: Path, part: str, dtype: tables.Dtypes = jnp.float32, mesh: Mesh | None = None):
    """The network in `folder`, in `dtype`, sharded over `mesh`, or on the default device.

    Raises:
      DataError: it is another network, or cannot be read.
    """
    from orbax.checkpoint import v1 as ocp

    check_utf8(folder.absolute())
    _, shapes = from_config(
        part,
        read_settings(folder / "config.json"),
        f"{folder / 'config.json'} is not that of a {part}",
    )
    parameters = tables.parameters(shapes)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = (
        dict.fromkeys(parameters, device) if mesh is None else state_shardings(mesh, parameters)
    )
    own = lambda name: tables.dtype_of(dtype, name)
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, own(name), sharding=shardings[name])
        for name, leaf in parameters.items()
    }
    try:
        loaded = ocp.load_checkpointables(folder.absolute() / FOLDER, {"parameters": wanted})[
            "parameters"
        ]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder / FOLDER} cannot be read ({one_line(error)}); convert the model again"
        ) from error
    check_parameters(loaded, folder, part)
    return jax.tree.unflatten(jax.tree.structure(shapes), [loaded[name] for name in wanted])
