"""The same arithmetic by others: Diffusers' transformer on our weights, torch's attention.

Imported only with --peer, because it needs torch. On an NVIDIA GPU torch shares it with jax.
"""

from collections.abc import Callable

import jax
import numpy as np
import torch
from diffusers import WanTransformer3DModel

from benchmarks.settings import Settings
from benchmarks.timing import measure, rates
from causalcine_jax.cli import cores
from causalcine_jax.convert import tables
from causalcine_jax.convert.diffusers_tables import key_table
from causalcine_jax.models.dit import Transformer
from causalcine_jax.network_sizes import TransformerConfig

DEVICE = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def diffusers_transformer(config: TransformerConfig) -> WanTransformer3DModel:
    """Returns Diffusers' transformer in our sizes, with weights of its own."""
    return WanTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        eps=config.eps,
    ).eval()


def diffusers_forward(model: Transformer, x, t, text) -> Callable[[], torch.Tensor]:
    """Returns a call of Diffusers' transformer on the same film, time and prompt.

    `x` is [1, F, h, w, C]. The answer [1, C, F, h, w] is on the device when the call returns.
    """
    with torch.device(DEVICE):
        net = diffusers_transformer(model.config)
    net = net.to(_dtype(x))
    net.load_state_dict(_state(model))
    film, prompt, time = _tensor(x).permute(0, 4, 1, 2, 3).contiguous(), _tensor(text), _tensor(t)

    @torch.no_grad()
    def call() -> torch.Tensor:
        velocity = net(film, time, prompt, return_dict=False)[0]
        _wait()
        return velocity

    torch.set_num_threads(len(cores()))
    return call


def latents_of(answer: torch.Tensor) -> np.ndarray:
    """Returns the answer of `diffusers_forward` in our layout, [1, F, h, w, C] in float32."""
    return answer.permute(0, 2, 3, 4, 1).float().cpu().numpy()


def torch_attention(
    shapes: list[tuple[int, int, int, int]], flop: float, settings: Settings
) -> dict:
    """Times scaled_dot_product_attention on random q, k, v of shapes [b, t, h, d].

    Forward, and with the gradients of all three.
    """
    torch.set_num_threads(len(cores()))
    how = {
        "device": DEVICE,
        "dtype": getattr(torch, str(settings.inference_dtype)),
        "requires_grad": True,
    }
    q, k, v = (torch.randn(b, h, t, d, **how) for b, t, h, d in shapes)
    attention = torch.nn.functional.scaled_dot_product_attention

    def forward():
        with torch.no_grad():
            attention(q, k, v)
        _wait()

    def both():
        torch.autograd.grad(attention(q, k, v).float().square().sum(), (q, k, v))
        _wait()

    result = {}
    for name, call, count in (("forward", forward, flop), ("forward_and_backward", both, 3 * flop)):
        seconds = measure(call, settings.repeats)
        result[name] = {
            "seconds": seconds,
            **rates(count, seconds["median"], settings.inference_dtype),
        }
    return result


def versions() -> dict[str, str]:
    import diffusers

    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": DEVICE}


def _state(model: Transformer) -> dict[str, torch.Tensor]:
    """Returns our weights under Diffusers' names."""
    parameters = tables.parameters(model)
    places = tables.places(model, tables.TRANSFORMER, model.config.patch_size)
    names = key_table("transformer", [place.key for place in places])
    state = {}
    for place in places:
        name = names.to_diffusers(place.key)
        assert name is not None  # Diffusers has all of our weights
        state[name] = _tensor(place.to_torch(np.asarray(parameters[place.path], np.float32)))
    return state


def _tensor(array) -> torch.Tensor:
    """Copies an array to torch's device, in the same dtype."""
    return torch.from_numpy(np.array(array, np.float32)).to(DEVICE, _dtype(array))


def _dtype(array) -> torch.dtype:
    return torch.bfloat16 if str(array.dtype) == "bfloat16" else torch.float32


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
