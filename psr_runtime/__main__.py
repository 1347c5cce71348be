"""`python -m psr_runtime STAGE [--config FILE]`: the entry point of every stage process and pod."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from psr_runtime.config import ServeStage
from psr_runtime.protocol import CONFIG_VARIABLE, PARENT_VARIABLE, ExitCode
from psr_runtime.stage import run_stage
from psr_runtime.stages import STAGES

EXAMPLES = """examples:
  python -m psr_runtime evaluate --config evaluate.json
  PSR_STAGE_CONFIG='{"output": "file:///out/m1", …}' python -m psr_runtime sft
  python -m psr_runtime search --schema          # JSON schema of the configuration

exit codes:
  0 done · 64 configuration wrong · 65 data wrong · 66 input missing · 75 stopped or temporary, run it again
"""

SERVE_MODULE = "psr_runtime.serving.serve"
BRING_MODULE = "psr_runtime.serving.bring"
"""Imported when they are asked for, as stages are: what another command needs may be missing here."""

BRING = "Copy psr_runtime, and what it needs of S3, into a folder that another image's Python is pointed to."


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, find the configuration and run the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m psr_runtime",
        description="Run one stage: read URIs, work, write an artefact, leave one result.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    summaries = {name: stage.summary for name, stage in STAGES.items()} | {"serve": "serve a model with vLLM"}
    for name, summary in summaries.items():
        command = stages.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (else {CONFIG_VARIABLE})")
        command.add_argument("--schema", action="store_true", help="print the configuration's JSON schema and exit")
    bring = stages.add_parser("bring", help="copy psr_runtime for an image without it", description=BRING)
    bring.add_argument("folder", type=Path, metavar="DIR", help="empty folder that PYTHONPATH names in the other image")
    options = parser.parse_args(arguments)
    _end_with_parent()

    if options.stage == "bring":
        importlib.import_module(BRING_MODULE).bring_runtime(options.folder)
        return ExitCode.DONE

    if options.schema:
        kind = STAGES[options.stage].config if options.stage in STAGES else ServeStage
        print(json.dumps(kind.model_json_schema(by_alias=True), indent=1))
        return ExitCode.DONE
    if options.config is not None:
        try:
            document = options.config.read_text()
        except OSError as error:
            print(f"{options.config}: cannot be read ({error.strerror})", file=sys.stderr)
            return ExitCode.CONFIGURATION_ERROR
        source = str(options.config)
    elif CONFIG_VARIABLE in os.environ:
        document, source = os.environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    else:
        print(f"no configuration: set {CONFIG_VARIABLE} or give --config FILE", file=sys.stderr)
        return ExitCode.CONFIGURATION_ERROR
    if options.stage == "serve":
        return int(importlib.import_module(SERVE_MODULE).run_server(document, source=source))
    return run_stage(options.stage, document, source=source)


def _end_with_parent() -> None:
    """When an executor on this machine started this process (`PSR_PARENT`: its pid), end when it does."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
