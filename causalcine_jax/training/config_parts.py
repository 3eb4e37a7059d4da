"""Groups of fields of a training run's config (config.py), each with its own range checks."""

from collections.abc import Iterable
from dataclasses import dataclass

from causalcine_jax.diffusion.flow import LOSS_WEIGHTS, TRAIN_TIMES
from causalcine_jax.errors import choice_faults, least_faults, nearest, range_faults, shown
from causalcine_jax.models.lora import LAYERS, layers_of
from causalcine_jax.storyworld.world import WORLDS

TRAIN_DTYPES = ("float32", "bfloat16")
MATMUL_PRECISIONS = ("", "bfloat16", "tensorfloat32", "float32")
TIME_SHARED_BY = ("film", "chunk")


@dataclass(frozen=True)
class TimeConfig:
    """Noise times in training: uniform positions, bent by `shift` (Wan2.1 uses 5).

    shift         larger values move the times toward noise. In stage teacher_forcing it is also
                  that of the exported model's sampler. A student's is self_forcing.shift
    shared_by     film: one time per film (paper Eq. 5); chunk: one per chunk
    stratified    with shared_by=film: draw one position from each of B equal parts of the schedule
                  instead of B independent ones; the loss then varies less
    weight        of the squared error at time t, in stage dmd of the fake score's: none, bsmntw,
                  sigma or x0 (diffusion/flow.py)
    draws         noise draws of each film, with times of their own, that a pass of stage
                  teacher_forcing learns from; they share the pass's clean chunks
    own_history   share of history's chunks in stage teacher_forcing that are the network's own
                  predictions, not the film's, so that it learns to go on from its errors.
                  The held-out loss is measured the same way
    """

    shift: float = 5.0
    shared_by: str = "film"
    stratified: bool = True
    weight: str = "none"
    draws: int = 1
    own_history: float = 0.0

    def faults(self) -> Iterable[str]:
        yield from choice_faults("time.shared_by", self.shared_by, TIME_SHARED_BY)
        yield from choice_faults("time.weight", self.weight, LOSS_WEIGHTS)
        yield from range_faults("time.shift", self.shift, 0, 100, open_low=True)
        yield from range_faults("time.draws", self.draws, 1)
        yield from range_faults("time.own_history", self.own_history, 0, 1)


@dataclass(frozen=True)
class DataConfig:
    """The training data.

    world       StoryWorld films. base: 80x48 pixels, 30 latent frames; base-long: 60 frames.
                montage and montage-long: the same sizes with a cut at almost every chunk.
                storyworld: 160x96 pixels, 60 frames. single, storyworld-single: without a cut
    seed        of the stories; evaluation uses other seeds
    films       number of films in the latent store
    store       folder of the latent store; "" means OUT/latents. A missing one is made first if
                it lies in OUT. Several folders, joined by commas, are mixed film by film. Stage
                autoencoder does not read it
    vae         model folder of the VAE that encodes and is exported with the model. "" means the
                VAE of `teacher`, else of `init`, or the embedded one if that has none
    retell      StoryWorld only: write the prompts anew, with other names, each time a film is read
                (data/retelling.py)
    return_weight  with retell: loss weight of a chunk in which a character comes back; other
                chunks weigh 1
    clip_frames latent frames F of a clip of stage autoencoder: 4F - 3 video frames for a VAE with
                the strides of Wan2.1
    clips_per_story  clips of a batch that come from one story. More of them cost the host less,
                which matters for clips of one frame
    threads     threads that read films ahead; 0 reads between steps, enough for small films
    workers     processes that paint clips ahead in stage autoencoder; 0 uses threads instead
    max_bad_fraction  corrupt records are skipped and counted; a larger fraction stops the run.
                It must be below 1
    chunks      length of the parts that films are cut to in stages teacher_forcing and dmd, each
                from a shot's start on, another one at every visit; held-out films too. 0: whole
                films
    embeddings  read the prompts' embeddings, which `causalcine embed` left in every store, and load
                no text encoder. It must not be trained
    """

    world: str = "base"
    seed: int = 0
    films: int = 2000
    store: str = ""
    vae: str = ""
    retell: bool = False
    return_weight: float = 1.0
    clip_frames: int = 3
    clips_per_story: int = 1
    threads: int = 0
    workers: int = 0
    max_bad_fraction: float = 0.01
    chunks: int = 0
    embeddings: bool = False

    def faults(self) -> Iterable[str]:
        yield from choice_faults("data.world", self.world, WORLDS)
        yield from least_faults(self, ("films", "clip_frames", "clips_per_story"), 1, "data.")
        yield from range_faults("data.return_weight", self.return_weight, 0, open_low=True)
        yield from least_faults(self, ("chunks", "threads", "workers"), 0, "data.")
        yield from _store_faults("data.store", self.store)
        if self.return_weight != 1 and not self.retell:
            yield (
                "data.return_weight needs data.retell=True, "
                "which knows where a character comes back"
            )
        if self.embeddings and self.retell:
            yield "data.embeddings: data.retell rewords the prompts; leave one of the two out"
        yield from range_faults(
            "data.max_bad_fraction", self.max_bad_fraction, 0, 1, open_high=True
        )


@dataclass(frozen=True)
class HeldOutConfig:
    """The loss on films that are not trained on, for the weights and for their average.

    every   steps between measurements; 0: never
    films   number of films (clips, in stage autoencoder); every measurement uses the same films
            and the same noise
    store   their latent store, or several joined by commas. A single missing store in OUT is made
            first, from stories of another seed. Stage autoencoder paints clips of another seed
            instead
    """

    every: int = 0
    films: int = 64
    store: str = ""

    def faults(self) -> Iterable[str]:
        yield from range_faults("held_out.every", self.every, 0)
        yield from range_faults("held_out.films", self.films, 1)
        yield from _store_faults("held_out.store", self.store)


def _store_faults(name: str, stores: str) -> list[str]:
    """An empty path would be the current folder."""
    empty = bool(stores) and not all(map(str.strip, stores.split(",")))
    return [f"{name} names an empty path between commas: {shown(stores)}"] if empty else []


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved and its model exported.

    every         steps between checkpoints; the last `keep` of them stay
    export_every  steps between exports of the model; 0: only at the end
    export_dtype  of the exported weights. A VAE that was not trained is never rounded: it stays
                  float32 if bfloat16 does not hold it, so that its latents stay valid
    """

    every: int = 500
    keep: int = 2
    export_every: int = 0
    export_dtype: str = "bfloat16"

    def faults(self) -> Iterable[str]:
        yield from least_faults(self, ("every", "keep"), 1, "checkpoint.")
        yield from range_faults("checkpoint.export_every", self.export_every, 0)
        yield from choice_faults("checkpoint.export_dtype", self.export_dtype, TRAIN_DTYPES)


@dataclass(frozen=True)
class LoraConfig:
    """Adapters in place of all weights (models/lora.py): what fits a single device.

    rank    of each adapter; 0 trains all weights
    alpha   the adapters' result is scaled by alpha / rank
    layers  of every block, joined by commas: self_attn, cross_attn, ffn, or single ones such as
            self_attn.q
    """

    rank: int = 0
    alpha: float = 16.0
    layers: str = "self_attn,cross_attn,ffn"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def faults(self) -> Iterable[str]:
        yield from range_faults("lora.rank", self.rank, 0)
        yield from range_faults("lora.alpha", self.alpha, 0, open_low=True)
        for layer in layers_of(self.layers):
            if layer not in LAYERS:
                yield f"lora.layers: unknown layer {layer!r}, {nearest(layer, LAYERS)}"


@dataclass(frozen=True)
class SampleConfig:
    """A film by the model in training, with its contact sheet.

    every            steps between films; 0: never
    at_end           one more after the last step
    steps, guidance  of its sampler. In stage teacher_forcing they also become the exported model's
                     defaults, with time.shift. A student's sampler is that of self_forcing
    story            a story file to film; "" films one of StoryWorld, if the data is StoryWorld's
    """

    every: int = 0
    at_end: bool = True
    steps: int = 25
    guidance: float = 3.0
    story: str = ""

    def faults(self) -> Iterable[str]:
        yield from range_faults("sample.every", self.every, 0)
        yield from range_faults("sample.steps", self.steps, 1, TRAIN_TIMES)
        yield from range_faults("sample.guidance", self.guidance, 0)
