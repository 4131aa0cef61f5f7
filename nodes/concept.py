"""DreamBooth Concept and DreamBooth Concepts File: what the photos show and how it is called."""

import hashlib
import json
from pathlib import Path

from comfy_api.latest import io, ui

from ..trainer.concepts import make_concept, read_concepts_file, report, unused
from ..trainer.config import Concept
from ..trainer.image_set import ImageSet
from . import host
from .types import CATEGORY, Concepts, Images, check_wires
from .widgets import widget


class DreamBoothConcept(io.ComfyNode):
    """One subject; chain several through ``previous``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothConcept",
            display_name="DreamBooth Concept",
            category=CATEGORY,
            description=(
                "Names your subject. Prompt with the identifier and the class noun afterwards:"
                " 'a photo of zwx dog on the moon'. Chain several concepts through 'previous'."
            ),
            search_aliases=["dreambooth", "subject", "trigger word"],
            inputs=[
                Images.Input("instance_images", tooltip="Photos of the subject."),
                widget(Concept, "identifier"),
                widget(Concept, "class_noun"),
                widget(Concept, "prior_weight"),
                widget(Concept, "repeats"),
                io.String.Input(
                    "instance_prompt",
                    default="",
                    optional=True,
                    tooltip="Empty: 'a photo of <identifier> <class noun>'.",
                ),
                io.String.Input(
                    "class_prompt",
                    default="",
                    optional=True,
                    tooltip=(
                        "Empty: the prompt that made the class images, or 'a photo of a"
                        " <class noun>' for photos of your own."
                    ),
                ),
                Images.Input(
                    "class_images",
                    optional=True,
                    tooltip="From DreamBooth Class Images, or photos of the class of your own.",
                ),
                Concepts.Input("previous", optional=True, tooltip="Concepts to train together."),
            ],
            outputs=[
                Concepts.Output("concepts", display_name="concepts"),
                io.String.Output(
                    "report", display_name="report", tooltip="The prompts as they are read."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        instance_images: ImageSet,
        identifier: str,
        class_noun: str,
        prior_weight: float,
        repeats: int,
        instance_prompt: str = "",
        class_prompt: str = "",
        class_images: ImageSet | None = None,
        previous: tuple[Concept, ...] = (),
    ) -> io.NodeOutput:
        check_wires(
            instance_images=(instance_images, ImageSet),
            class_images=(class_images, ImageSet | None),
            previous=(previous, tuple | None),
        )
        concept = make_concept(
            instance_images,
            class_images,
            identifier=identifier,
            class_noun=class_noun,
            instance_prompt=instance_prompt,
            class_prompt=class_prompt,
            prior_weight=prior_weight,
            repeats=repeats,
        )
        concepts = (*(previous or ()), concept)
        text = report(concepts)
        if class_images and (said := unused(class_images)):
            text += "\n" + said
        host.say(cls.hidden.unique_id, text)
        return io.NodeOutput(concepts, text, ui=ui.PreviewText(text).as_dict())


class DreamBoothConceptsFile(io.ComfyNode):
    """The field's usual concepts_list.json."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothConceptsFile",
            display_name="DreamBooth Concepts File",
            category=CATEGORY,
            description=(
                "Reads a concepts_list.json as other trainers write it: a list of objects with"
                " instance_prompt, class_prompt, instance_data_dir and class_data_dir. Folders"
                " are taken relative to ComfyUI's input."
            ),
            search_aliases=["concepts_list.json"],
            inputs=[
                io.String.Input(
                    "file",
                    default="concepts_list.json",
                    tooltip="The file, under ComfyUI's input folder.",
                ),
                widget(Concept, "prior_weight"),
            ],
            outputs=[
                Concepts.Output("concepts", display_name="concepts"),
                io.String.Output("report", display_name="report"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, prior_weight: float) -> str:
        """Changes when the file or a picture in one of its folders does."""
        path = host.resolve(file)
        facts = [path.read_text(encoding="utf-8-sig") if path.is_file() else ""]
        try:
            entries = json.loads(facts[0] or "[]")
            kinds = ("instance_data_dir", "class_data_dir")  # the second is not always there
            folders = [e.get(kind) for e in entries for kind in kinds]
        except (ValueError, TypeError, AttributeError):
            folders = []
        for folder in folders:
            target = host.resolve(folder) if folder else None
            if target and target.is_dir():
                stats = [(p.name, p.stat().st_mtime_ns) for p in sorted(target.iterdir())]
                facts.append(repr(stats))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @classmethod
    def execute(cls, file: str, prior_weight: float) -> io.NodeOutput:
        concepts = read_concepts_file(Path(host.resolve(file)), host.resolve, prior_weight)
        text = report(concepts)
        host.say(cls.hidden.unique_id, text)
        return io.NodeOutput(concepts, text, ui=ui.PreviewText(text).as_dict())
