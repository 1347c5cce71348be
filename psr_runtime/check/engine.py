"""Every check over one subject: all findings, whatever the first one says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psr_runtime.check.checks import hardware, inputs, leaks, lengths, model, place
from psr_runtime.check.estimate import DEVICES, Device, Effort, Estimator
from psr_runtime.check.findings import Finding
from psr_runtime.check.machine import Machine
from psr_runtime.check.measure import measure
from psr_runtime.check.subject import Subject
from psr_runtime.config import CheckStage
from psr_runtime.storage import Storage

Check = Callable[[Subject], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    place.storage_takes_objects,
    inputs.names_are_known,
    inputs.data_sets_are_there,
    inputs.rounds_have_questions,
    inputs.pairs_are_of_this_model,
    model.configuration_is_a_causal_model,
    model.weights_are_there,
    model.tokenizer_reads,
    model.prompts_render,
    lengths.server_context_fits_the_model,
    lengths.records_fit_the_training,
    lengths.prompts_fit_the_context,
    lengths.limits_fit_the_data,
    hardware.devices_are_there,
    hardware.memory_suffices,
    hardware.disk_suffices,
    leaks.problems_are_distinct,
    leaks.benchmarks_are_unseen,
)
"""In the order in which their facts are shown."""


@dataclass(frozen=True)
class Report:
    """What a check has to say.

    Attributes:
        stages: what the work to come takes, in order; empty where nothing tells, or nobody asked.
        device: on which the stages are reckoned.
    """

    findings: Sequence[Finding]
    stages: Sequence[Effort] = ()
    device: Device = DEVICES["CPU"]


def run_checks(subject: Subject, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """What every check says."""
    return [finding for check in checks for finding in check(subject)]


def check(
    config: CheckStage,
    storage: Storage,
    scratch: Path,
    machine: Machine | None,
    *,
    estimate: bool = True,
    device: Device | None = None,
) -> Report:
    """Check what a configuration declares.

    Args:
        scratch: folder for what has to be fetched, tokenizer and configuration of the model.
        machine: where the work will be done; None where that is not here.
        estimate: whether to work out what it takes, too.
        device: of the estimate; unset: an H100 where GPUs are asked for, else a processor.
    """
    subject = Subject(config, storage, scratch, machine)
    findings = run_checks(subject)
    measured = measure(subject) if estimate else None
    if measured is None:
        return Report(findings)
    asks = config.hardware.server_gpus or config.hardware.training_gpus
    device = device or DEVICES["H100" if asks else "CPU"]
    return Report(findings, Estimator(config, measured, subject.shape, device).stages(), device)
