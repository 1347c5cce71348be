"""Devices, memory and disk against the model's size, by arithmetic from its `config.json`."""

from __future__ import annotations

from collections.abc import Iterator

from psr_runtime.check.findings import Finding, error, fact, warning
from psr_runtime.check.machine import existing
from psr_runtime.check.sizes import RESUMED, Shape, readable
from psr_runtime.check.subject import Subject
from psr_runtime.config import StepDPOConfig
from psr_runtime.protocol.errors import ConfigurationError, Interrupted


def devices_are_there(subject: Subject) -> Iterator[Finding]:
    """This machine has the GPUs that are asked for: nothing falls back to the processor in silence."""
    machine, hardware = subject.machine, subject.config.hardware
    if machine is None:
        return
    there = len(machine.gpu_memory)
    for name, gpus in (
        ("server.resources.gpus", hardware.server_gpus * hardware.replicas),
        ("trainingResources.gpus", hardware.training_gpus),
    ):
        if gpus > there:
            message = f"{gpus} GPUs are asked for, and this machine has {there}"
            todo = f"set it to {there}, or run it where there are {gpus} (see CUDA_VISIBLE_DEVICES)"
            yield error("devices", subject.field(name), message, todo, ConfigurationError)
    yield fact("devices", subject.field("trainingResources"), f"{there} GPUs, {readable(machine.memory)} of memory")


def memory_suffices(subject: Subject) -> Iterator[Finding]:
    """Training and serving fit the memory of a device; where that is elsewhere, what they need is told."""
    shape, machine, hardware = subject.shape, subject.machine, subject.config.hardware
    if shape is None:
        return
    gpu = min(machine.gpu_memory, default=None) if machine is not None else None
    for name, needed in (
        ("sft.training", sft_bytes(subject, shape)),
        ("training", dpo_bytes(subject, shape)),
        ("server.engine", serving_bytes(subject, shape)),
    ):
        if needed is None:
            continue
        asked = hardware.server_gpus if name == "server.engine" else hardware.training_gpus
        room = gpu if asked and gpu is not None else machine.memory if machine is not None and not asked else None
        parts = subject.config.engine.tensor_parallel if name == "server.engine" and subject.config.engine else 1
        share = needed // parts
        where = "a GPU" if asked else "memory"
        message = f"about {readable(share)} of {where}"
        if room is not None and share > room:
            message += f", and this machine has {readable(room)}"
            yield _too_large(subject, name, message, certain=shape.weights * 2 // parts > room)
        else:
            yield fact("memory", subject.field(name), f"{message} by arithmetic")


def disk_suffices(subject: Subject) -> Iterator[Finding]:
    """The volume of the artefacts has room for every checkpoint that retention keeps."""
    shape, config = subject.shape, subject.config
    needed = disk_bytes(subject, shape) if shape is not None else 0
    if not needed:
        return
    field = subject.field("storage.uri")
    path = subject.storage.local_path(config.output)
    if path is None:
        yield fact("disk", field, f"about {readable(needed)} of checkpoints in the storage")
        return
    free = subject.machine.free(path) if subject.machine is not None else None
    message = f"about {readable(needed)} of checkpoints (retention {config.retention})"
    if free is not None and free < needed:
        message += f", and {existing(path)} has {readable(free)} free"
        todo = "free some space, set storage.retention: Last, or choose another storage.uri"
        yield error("disk", field, message, todo, Interrupted)
    else:
        yield fact("disk", field, message + (f", {readable(free)} free" if free is not None else ""))


# --- the arithmetic ----------------------------------------------------------------------------------------


def longest(subject: Subject, roles: tuple[str, ...], limit: int) -> int:
    """The longest sequence of data sets in tokens; the limit where nothing was measured."""
    sizes = [size for role in roles if role in subject.lengths for size in subject.lengths[role].sums]
    return min(limit, max(sizes, default=limit))


def sft_bytes(subject: Subject, shape: Shape) -> int | None:
    """Of fine-tuning on one device."""
    sft = subject.config.sft
    if sft is None:
        return None
    return shape.training_bytes(sft.micro_batch * longest(subject, ("ift", "eft"), sft.max_length))


def dpo_bytes(subject: Subject, shape: Shape) -> int | None:
    """Of step-DPO on one device: two sequences a pair."""
    training = subject.config.training
    if training is None:
        return None
    return shape.training_bytes(2 * training.micro_batch * longest(subject, ("pairs", "ift"), training.max_length))


def serving_bytes(subject: Subject, shape: Shape) -> int | None:
    """Of one replica: weights, and the cache of one sequence of full length."""
    engine = subject.config.engine
    if engine is None:
        return None
    cache = shape.cache_bytes(subject.context or 0, engine.dtype)
    return shape.serving_bytes(engine.dtype) + cache


def disk_bytes(subject: Subject, shape: Shape) -> int:
    """Of all checkpoints that are there at a time, and of one resumable state."""
    config = subject.config
    training = config.training or config.sft
    if training is None:
        return 0
    rounds = len(config.rounds) if isinstance(config.training, StepDPOConfig) and config.rounds else 0
    models = rounds + (config.sft is not None) + (config.training is not None and not config.rounds)
    kept = {"All": models, "Last": min(models, 2), "Best": min(models, 3)}[config.retention]
    return kept * shape.checkpoint_bytes(training.checkpoint_dtype) + shape.weights * RESUMED


def _too_large(subject: Subject, name: str, message: str, *, certain: bool) -> Finding:
    """An error where the weights alone do not fit; a warning where the bound of the activations decides."""
    if certain:
        todo = "take a smaller model or a larger device"
        return error("memory", subject.field(name), message, todo, ConfigurationError)
    return warning("memory", subject.field(name), message, "lower microBatch or maxLength, or take a larger device")
