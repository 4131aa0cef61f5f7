"""Concepts from what a person typed, or from the field's ``concepts_list.json``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from .captions import instance_texts, names
from .config import Concept, ConfigError, check_text, shown
from .image_set import ImageSet, read_folder
from .tokenizer import overflow, pieces

MAX_SHOWN = 40  # texts of photos in a report


def make_concept(
    instance_images: ImageSet,
    class_images: ImageSet | None = None,
    *,
    identifier: str,
    class_noun: str,
    instance_prompt: str = "",
    class_prompt: str = "",
    prior_weight: float = 1.0,
    repeats: int = 1,
) -> Concept:
    """A concept with the usual prompts where none are given.

    Raises:
        ConfigError: nothing names the subject, or a prompt does not hold its name.
    """
    given = {"identifier": identifier, "class_noun": class_noun}
    given |= {"instance_prompt": instance_prompt, "class_prompt": class_prompt}
    for name, text in given.items():
        check_text(name, text)
    identifier, class_noun = identifier.strip(), class_noun.strip()
    if not identifier:
        raise ConfigError("identifier is empty: give your subject a rare name, such as zwx")
    if not class_noun:
        raise ConfigError("class_noun is empty: say what the subject is, such as dog")
    instance_prompt = instance_prompt.strip() or f"a photo of {identifier} {class_noun}"
    if not names(instance_prompt, identifier):
        raise ConfigError(
            f"the instance prompt {shown(instance_prompt)} does not hold the identifier"
            f" {shown(identifier)}: without it the photos would redefine the class itself"
        )
    if cut := overflow(instance_prompt):
        kept = instance_prompt[: -len(cut)] if instance_prompt.endswith(cut) else ""
        if kept and not names(kept, identifier):
            raise ConfigError(
                f"the identifier {shown(identifier)} is beyond the 77 tokens that count"
            )
    captions = instance_texts(
        instance_images.captions,
        instance_images.caption_source,
        instance_prompt,
        identifier,
        class_noun,
    )
    class_prompt = class_prompt.strip() or (class_images.prompt if class_images else "")
    return Concept(
        instance_prompt=instance_prompt,
        instance_images=instance_images.paths,
        transparent=instance_images.transparent,
        masks=instance_images.masks,
        captions=captions,
        class_prompt=class_prompt or f"a photo of a {class_noun}",
        class_images=class_images.paths if class_images else (),
        class_transparent=class_images.transparent if class_images else "white",
        identifier=identifier,
        class_noun=class_noun,
        prior_weight=prior_weight,
        repeats=repeats,
    )


def read_concepts_file(
    path: Path, resolve: Callable[[str], Path], prior_weight: float = 1.0
) -> tuple[Concept, ...]:
    """Read a ``concepts_list.json``: instance_prompt, class_prompt, instance_data_dir,
    class_data_dir per entry, as ShivamShrirao's ``train_dreambooth.py`` takes it.

    Args:
        resolve: turns a folder of the file into a path that may be read.

    Raises:
        ConfigError: not such a file; names the entry and the key.
        ImageError: an instance folder without a usable picture.
    """
    if not path.is_file():
        raise ConfigError(f"no file {shown(str(path))}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path.name} holds no list of concepts")
    return tuple(
        _read_entry(f"{path.name}, concept {number}", entry, resolve, prior_weight)
        for number, entry in enumerate(entries, 1)
    )


def _read_entry(
    where: str, entry: object, resolve: Callable[[str], Path], prior_weight: float
) -> Concept:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is not an object")
    for key in ("instance_prompt", "instance_data_dir"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ConfigError(f"{where} has no {key}")
    class_prompt = str(entry.get("class_prompt") or "").strip()
    known = set(class_prompt.lower().split())
    words = [w for w in entry["instance_prompt"].split() if w.lower() not in known]
    class_folder = str(entry.get("class_data_dir") or "").strip()
    try:
        photos = resolve(entry["instance_data_dir"])
        target = resolve(class_folder) if class_folder else None
        photos.is_dir()  # which refuses what no system takes for a path, such as a NUL
        # other trainers fill this folder while they run, so an absent or empty one is no mistake
        has_class = bool(class_prompt and target and target.is_dir() and any(target.iterdir()))
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{where} names a folder that cannot be read: {str(error)[:300]}"
        ) from error
    found = read_folder(photos)
    return Concept(
        instance_prompt=entry["instance_prompt"].strip(),
        instance_images=found.paths,
        masks=found.masks,
        class_prompt=class_prompt,
        class_images=read_folder(target).paths if has_class and target else (),
        identifier=words[0] if words else entry["instance_prompt"].split()[0],
        class_noun=(class_prompt or entry["instance_prompt"]).split()[-1],
        prior_weight=prior_weight,
    )


def report(concepts: Sequence[Concept]) -> str:
    """The prompts as CLIP reads them, and warnings worth reading.

    Raises:
        ConfigError: two concepts with the same prompt.
    """
    prompts = [concept.instance_prompt.lower() for concept in concepts]
    if twice := {prompt for prompt in prompts if prompts.count(prompt) > 1}:
        raise ConfigError(
            f"two concepts share the prompt {shown(sorted(twice)[0])}: give each its own identifier"
        )
    lines = []
    named = [concept.identifier for concept in concepts]
    for identifier in dict.fromkeys(name for name in named if name and named.count(name) > 1):
        lines.append(f"warning: several concepts are called {identifier!r} and are one subject")
    for concept in concepts:
        lines.append(f"{len(concept.instance_images)} photos: {concept.instance_prompt!r}")
        lines += _captions(concept)
        said = [piece.replace("</w>", "") for piece in pieces(concept.identifier)]
        tokens = "1 token" if len(said) == 1 else f"{len(said)} tokens"
        lines.append(f"  {concept.identifier!r} is read as {tokens}: {' + '.join(said)}")
        if len(said) > 3:
            lines.append("  warning: a shorter identifier is learned better")
        if concept.has_prior:
            lines.append(
                f"  {len(concept.class_images)} class images: {concept.class_prompt!r},"
                f" weight {concept.prior_weight:g}"
            )
            lines += _other_class(concept)
        else:
            lines.append(
                "  no prior preservation: the class may turn into your subject (unless a LoRA"
                " learns with prior_without_images)"
            )
        for prompt in dict.fromkeys((*concept.texts, concept.class_prompt)):
            if cut := overflow(prompt):
                lines.append(f"  warning: longer than 77 tokens, {cut!r} is cut off: {prompt!r}")
    return "\n".join(lines)


def unused(class_images: ImageSet) -> str:
    """What class images bring that training does not look at, in words; "" for nothing."""
    masked = any(file.masked for file in class_images.files)
    found = ["masks"] * masked + ["captions"] * any(class_images.captions)
    if not found:
        return ""
    what = " and ".join(found)
    return f"  warning: class images train whole, with the class prompt: their {what} are not used"


def _other_class(concept: Concept) -> list[str]:
    """What speaks against the prompt that the class images were made with."""
    found = []
    if concept.class_noun and not names(concept.class_prompt, concept.class_noun):
        found.append(f"do not name the class, {concept.class_noun!r}: they keep another as it is")
    if concept.identifier and names(concept.class_prompt, concept.identifier):
        found.append(f"name your subject, {concept.identifier!r}: they hold it back")
    return [f"  warning: the class images {what}" for what in found]


def _captions(concept: Concept) -> list[str]:
    """The text of each photo."""
    pairs = zip(concept.instance_images, concept.captions, strict=False)
    lines = [f"  {Path(path).name}: {text!r}" for path, text in pairs]
    more = [f"  and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return lines[:MAX_SHOWN] + more
