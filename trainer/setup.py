"""From a checked plan to a run that is ready for its next step: modules, caches, room on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .attention import Choices
from .cache import LatentCache
from .checkpoint import part_keys, weights_digest
from .checks import Plan
from .config import Job, TrainConfig
from .config.lora import LORA
from .dataset import PairedRows
from .events import Listener, Note, Phase
from .ladder import must_fit
from .model import StableDiffusion
from .modules import choose_attention, fuse_layers, set_up_modules
from .precision import hold_frozen
from .ranks import ALONE, Ranks
from .rehearsal import Load, rehearse
from .resume import Start
from .room import plan_room
from .state import CheckpointWriter, RunFolder
from .texts import FrozenTexts
from .trainable import Trainable, WholeParts
from .training_state import SavedState, fits, learning

if TYPE_CHECKING:
    from .lora import Adapters


@dataclass
class Prepared:
    """A run that is ready for its next step.

    Attributes:
        texts: by prompt where the text encoders are frozen, else None.
        previews: prompts of the sample pictures.
        trained: what learns.
        adapters: the same if it is a LoRA, else None.
        folder: locked for this run.
        state: to go on from; None: this is the beginning.
        schedule: see :class:`training_state.Progress`.
        text_steps: after how many steps the text encoder has learned; None: it never stops.
        states_kept: how many states the disk has room for.
        ranks: all processes of the run. Only the first writes into the folder.
        attention: which ways of computing it were chosen; None: torch chooses.
        state_in_ram: what only updates need is kept in pinned memory, see
            :class:`split_adamw.SplitAdamW`.
    """

    job: Job
    device: torch.device
    precision: str
    model: StableDiffusion
    rows: PairedRows
    latents: LatentCache
    texts: FrozenTexts | None
    previews: list[str]
    writer: CheckpointWriter
    folder: RunFolder
    trained: Trainable
    adapters: "Adapters | None"
    fingerprint: str
    state: SavedState | None
    schedule: tuple[int, ...]
    text_steps: int | None
    states_kept: int
    ranks: Ranks
    attention: Choices | None = None
    state_in_ram: bool = False

    @property
    def autocast(self) -> str:
        """The precision of autocast: none for weights that are bf16 themselves."""
        return "fp32" if self.job.config.has_split_weights else self.precision


def prepare(
    plan: Plan,
    base: dict[str, Tensor],
    start: Start,
    listener: Listener,
    check_stop: Callable[[], None],
    load: Load | None = None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Load, encode, rehearse the save; then reserve the run's folder, or set one to its state.

    Args:
        base: the single-file state dict. It is used up: what trains is taken out of it, so that
            no second copy stays in memory.
        start: a folder that is reserved becomes its own.
        load: see :data:`rehearsal.Load`.
        check_stop: called as often in every process.

    Raises:
        ConfigError, CheckpointError, RehearsalFailed: one sentence for the user.
        TrainingError: the pictures or the text encoder do not fit into the memory, or another
            process is gone.
    """
    job, layout = plan.job, plan.layout
    listener(Phase("Loading the model", 0, 1))
    vae_digest = weights_digest({key: base[key] for key in part_keys(base, layout, "vae")})
    model = StableDiffusion(base, layout, job.clip_skip)
    trained, adapters = what_trains(model, base, job, plan.precision)
    set_up_modules(model, trained, job)
    attention = choose_attention(model, plan, start.state, listener)
    if start.state and not fits(start.state, trained.modules):
        start.give_up("was kept by other versions of the libraries", listener)
    rows = plan.rows()
    fuse_layers(model, rows.sizes, plan, listener)
    schedule = start.schedule(job.config)
    writer = trained.writer(job.config.save_precision, plan.metadata | _said(schedule))
    states_kept = 0
    if ranks.is_first:
        states_kept = plan_room(
            job,
            file=writer.size(trained.tensors()),
            previews=len(_preview_prompts(job)),
            pixels=sum(width * height for width, height in (v.size for v in rows.views())),
            weights=sum(p.numel() for _, p in learning(trained.modules)),
            old_states=start.folder.states.size() if start.folder else 0,
            listener=listener,
        )
    listener(Phase("Loading the model", 1, 1))

    latents = LatentCache(Path(job.cache), model, vae_digest, ranks)

    def on_encoded(done: int, total: int) -> None:
        listener(Phase("Encoding pictures", done, total))
        check_stop()

    with must_fit(
        "a picture does not fit into the memory while it is encoded, and nothing was trained:"
        " choose a smaller resolution, or close what else uses the memory"
    ):
        latents.fill(rows.views(), plan.device, on_encoded)
    if idle := rows.idle_classes():
        listener(Note(f"{idle} class images are left out: no photo has their shape"))
    for path in latents.unseen_masks():
        listener(Note(f"{Path(path).name}: a cut holds nothing of the white part of its mask"))
    texts = _frozen_texts(job, rows, model, plan.device)
    sums = None
    if not start.state:
        if ranks.is_first:
            sums = rehearse(writer, trained.tensors(), Path(job.runs), load, listener)
        check_stop()
    folder = start.open_folder(plan, ranks)
    if sums:
        folder.save_base_sums(sums)
    # the state's tensors are mapped from files: who is done with them must be able to let go
    state, start.state = start.state, None
    return Prepared(
        job=job,
        device=plan.device,
        precision=plan.precision,
        model=model,
        rows=rows,
        latents=latents,
        texts=texts,
        previews=_preview_prompts(job),
        writer=writer,
        folder=folder,
        trained=trained,
        adapters=adapters,
        fingerprint=plan.fingerprint.digest,
        state=state,
        schedule=schedule,
        text_steps=_text_steps(job.config, schedule),
        states_kept=states_kept,
        ranks=ranks,
        attention=attention,
    )


def what_trains(
    model: StableDiffusion, base: dict[str, Tensor], job: Job, precision: str
) -> "tuple[Trainable, Adapters | None]":
    """What learns; a second time if it is a LoRA."""
    parts = ["unet"] + list(model.text_encoders) * job.config.trains_text_encoder
    if not job.config.lora.is_on:
        return WholeParts(model, base, parts), None
    from .lora import Adapters  # not at the top: peft may be missing

    modules = {part: model.parts[part] for part in parts}
    encoders = len(model.text_encoders)
    adapters = Adapters(modules, job.config.lora, job.config.seed, encoders)
    base.clear()
    if job.config.lora.kind == LORA:  # a DoRA computes norms of the weights outside of autocast
        hold_frozen(modules.values(), precision)
    return adapters, adapters


def _said(schedule: tuple[int, ...]) -> dict[str, str]:
    """What was learned towards one end and then towards another is no plain run's."""
    broken = len(schedule) > 1
    return {"dreambooth.schedule_steps": ", ".join(map(str, schedule))} if broken else {}


def _text_steps(config: TrainConfig, schedule: tuple[int, ...]) -> int | None:
    """The share is of the steps that were asked for first: what has stopped never starts again."""
    return round(config.text_encoder_until * schedule[0]) if config.text_encoder_stops else None


def _frozen_texts(
    job: Job, rows: PairedRows, model: StableDiffusion, device: torch.device
) -> FrozenTexts | None:
    """The run's prompts if the text encoders do not train."""
    if job.config.trains_text_encoder:
        return None
    with must_fit(
        "the text encoder does not fit into the memory while it reads the prompts, and nothing was"
        " trained: close what else uses the memory"
    ):
        return FrozenTexts(model, [*_preview_prompts(job), "", *rows.texts()], device)


def _preview_prompts(job: Job) -> list[str]:
    """Also where none are due: a preview may be wished for."""
    if job.config.preview_prompt.strip():
        return [job.config.preview_prompt]
    return list(dict.fromkeys(c.instance_prompt for c in job.concepts))
