"""A small stage to plan, its networks, and a TPU compiler's refusal."""

from repository import ROOT

TINY = ROOT / "tests" / "support" / "tiny_training.py"


FILMS = {"frames": 9, "size": (32, 32)}


REFUSAL = """RESOURCE_EXHAUSTED: TPU backend error (ResourceExhausted). \
XLA:TPU compile permanent error. Ran out of memory in memory space hbm. \
Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.

Total hbm usage >= 23.00G:
    reserved        512.00M
    program          17.50G
    arguments         5.00G

  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(run)/while/body/gather" source_file="packed.py" source_line=291
     Shape: bf16[20,10,1560,12,128]{4,3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 3.90G
     XLA label: fusion.1
     Allocation type: HLO temp
     ==========================

  2. Size: 512.00M
     Shape: f32[8,128]{1,0:T(8,128)}
     Unpadded size: 512.00M
     Allocation type: HLO temp
     ==========================
"""


def networks_of(config):
    from causalcine_jax.models.dit import Transformer
    from causalcine_jax.models.text.umt5 import UMT5Encoder

    return {
        "transformer": (Transformer, config.transformer),
        "text_encoder": (UMT5Encoder, config.text_encoder),
    }
