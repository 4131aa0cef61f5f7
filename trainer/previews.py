"""When and of what a run samples pictures: its previews, each with its place on disk."""

from collections.abc import Callable

import torch

from .conditioning import Conditioning
from .events import Listener, Note, Phase, Preview
from .ladder import is_out_of_memory
from .precision import autocast
from .preview import encode_for_preview, sample, save_picture
from .setup import Prepared


class Previews:
    """A picture of each prompt, from the weights as they are; none where memory does not do."""

    def __init__(
        self,
        prepared: Prepared,
        listener: Listener,
        check_stop: Callable[[], None],
    ) -> None:
        self._p = prepared
        self._config = prepared.job.config
        self._listener = listener
        self._check_stop = check_stop
        self._prompts = prepared.previews

    def take(self, step: int, *, again: bool = True) -> None:
        """A picture of each prompt; without ``again`` only those that are not there."""
        try:
            for index, prompt in enumerate(self._prompts):
                if again or not self._p.folder.sample(step, index).exists():
                    self._take(step, index, prompt)
        except OSError as error:
            said = f"the previews of step {step} could not be written ({error})"
            self._listener(Note(f"{said}: the training goes on"))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._prompts = []
            reason = str(error).splitlines()[0]
            self._listener(
                Note(f"no previews from here on: they do not fit into the memory ({reason})")
            )

    def _take(self, step: int, index: int, prompt: str) -> None:
        config, path = self._config, self._p.folder.sample(step, index)
        self._check_stop()
        self._listener(Phase("Sampling previews", index, len(self._prompts)))
        with torch.no_grad(), autocast(self._p.precision, self._p.device):
            image = sample(
                self._p.model,
                *self._texts(prompt),
                size=self._p.rows.main_size,
                steps=config.preview_steps,
                cfg=config.preview_cfg,
                seed=config.seed + index,
                device=self._p.device,
                check_stop=self._check_stop,
            )
        save_picture(image, path)
        self._listener(Preview(step, prompt, image, path))

    def _texts(self, prompt: str) -> list[Conditioning]:
        """The prompt and the empty one."""
        if self._p.texts is None:
            return encode_for_preview(self._p.model, [prompt, ""], self._p.device)
        return [self._p.texts[prompt], self._p.texts[""]]
