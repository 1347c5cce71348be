"""`psr operator`: the operator's process on a cluster."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

from psr_operator.api.manifest import load_schema

NAME = "operator"
SUMMARY = "reconcile the objects of a cluster"
DESCRIPTION = (
    "Run the operator: carry out every object of the cluster, or of some namespaces, until SIGTERM. Replicas share "
    "a Lease; one of them leads."
)
EXAMPLES = """\
  psr operator --runtime-image psr-runtime --inference-image psr-inference
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it serves, what its pods are made of, its lease, its rhythm."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's service account, else $KUBECONFIG")
    parser.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="serve only this namespace; may be given again (default: the whole cluster)",
    )
    _add_pods(parser)
    _add_lease(parser)
    parser.add_argument("--port", type=int, default=8080, metavar="PORT", help="health and metrics (default: 8080)")
    parser.add_argument(
        "--poll-seconds", type=float, default=10.0, metavar="S", help="between two rounds of asking pods (default: 10)"
    )
    parser.add_argument(
        "--resync-seconds", type=float, default=600.0, metavar="S", help="between two full comparisons (default: 600)"
    )


def _add_pods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runtime-image", required=True, metavar="IMAGE", help="image of the stages, best by digest")
    parser.add_argument("--inference-image", required=True, metavar="IMAGE", help="image of the servers")
    parser.add_argument(
        "--bring-runtime",
        action="store_true",
        help="the inference image holds only vLLM: servers take psr_runtime from the runtime image",
    )
    parser.add_argument(
        "--pod-defaults",
        type=Path,
        metavar="FILE",
        help="YAML with `gpu` and `cpu`: what pods with and without GPUs get where their manifest says nothing else; "
        "fields as in `psr explain StepDPOJob.spec.pod`",
    )
    parser.add_argument("--cpu-limit", metavar="N", help="CPU limit of pods whose manifest names none (default: none)")
    parser.add_argument(
        "--ephemeral-storage",
        metavar="N",
        help="ephemeral storage, request and limit, of pods whose manifest names none (default: none)",
    )
    parser.add_argument(
        "--platform-ids",
        action="store_true",
        help="leave user, group and fsGroup of pods to the platform: OpenShift assigns them",
    )
    parser.add_argument("--image-pull-policy", default="IfNotPresent", choices=["Always", "IfNotPresent", "Never"])
    parser.add_argument(
        "--allow-service-account",
        action="append",
        default=[],
        metavar="NAME",
        help="service account that manifests may name; may be given again",
    )


def _add_lease(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace", default=os.environ.get("POD_NAMESPACE", "psr-system"), metavar="NAME", help="where the Lease is"
    )
    parser.add_argument("--lease", default="psr-operator", metavar="NAME", help="name of the Lease")
    parser.add_argument("--lease-seconds", type=float, default=30.0, metavar="S", help="default: 30")
    parser.add_argument(
        "--identity",
        default=os.environ.get("POD_NAME") or socket.gethostname(),
        metavar="NAME",
        help="name of this replica (default: $POD_NAME, else the host's)",
    )


def execute(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT, or until the lease is lost. Returns the exit code of the process."""
    # kopf and the HTTP client: no other command should wait for them, or need psr[operator].
    from psr_operator.controller.lease import Times
    from psr_operator.controller.prober import Intervals
    from psr_operator.controller.process import Options, run
    from psr_operator.render import PodDefaults, Settings

    poll = options.poll_seconds
    return run(
        Options(
            settings=Settings(
                runtime_image=options.runtime_image,
                inference_image=options.inference_image,
                image_pull_policy=options.image_pull_policy,
                service_accounts=frozenset(options.allow_service_account),
                bring_runtime=options.bring_runtime,
                cpu_limit=options.cpu_limit,
                ephemeral_storage=options.ephemeral_storage,
                platform_ids=options.platform_ids,
                pod_defaults=load_schema(options.pod_defaults, PodDefaults) if options.pod_defaults else PodDefaults(),
            ),
            kubeconfig=options.kubeconfig,
            namespaces=options.watch_namespace,
            namespace=options.namespace,
            lease=options.lease,
            identity=options.identity,
            times=Times.of(options.lease_seconds),
            intervals=Intervals(round=poll, publish=3 * poll, server=poll / 5, ready=1.5 * poll, unreachable=6 * poll),
            resync_seconds=options.resync_seconds,
            port=options.port,
        )
    )
