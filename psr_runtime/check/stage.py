"""The stage `check`: every finding as an artefact, and all errors in one message."""

from __future__ import annotations

import json
import sys

from psr_runtime.check.engine import check
from psr_runtime.check.findings import Severity, raise_errors, table
from psr_runtime.check.timeline import total_tokens
from psr_runtime.config import CheckStage
from psr_runtime.config.results import CheckResult
from psr_runtime.stage import Outcome, StageContext

FINDINGS, ESTIMATE = "findings.json", "estimate.json"


def run(config: CheckStage, context: StageContext) -> Outcome:
    """Check what a run declares. Devices are not looked at: the work will be done in other pods.

    Raises:
        ConfigurationError, DataError, InputMissing, Interrupted: there are errors; the class is that of the worst one.
    """
    report = check(config, context.storage, context.scratch, None)
    findings = report.findings
    print(table(findings), file=sys.stderr, flush=True)
    raise_errors(findings)
    folder = context.scratch / "artefact"
    folder.mkdir()
    for name, items in ((FINDINGS, findings), (ESTIMATE, report.stages)):
        document = [item.to_json() for item in items]
        (folder / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    warnings = sum(item.severity is Severity.WARNING for item in findings)
    tokens = total_tokens(report.stages)
    return Outcome(folder, result=CheckResult(warnings=warnings, facts=len(findings) - warnings, tokens=tokens))
