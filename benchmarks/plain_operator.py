"""A plain kopf operator that carries SelfRewardIterations out: what `benchmarks/operator.py` compares ours with.

It is written as kopf's documentation does it: change handlers and a timer for each kind, `kopf.adopt` for children, the
official client inside of handlers, statuses by `patch.status`, Jobs observed by an event handler. kopf's settings are
its defaults. It does what a round with `server.ref` needs when everything goes well, and no more: no retries, no
suspension, no servers.

    KUBECONFIG=… python -m benchmarks.plain_operator --port 8081
"""

from __future__ import annotations

import argparse
import functools
import json
from datetime import UTC, datetime
from typing import Any

import kopf
import kubernetes
from kubernetes.client.rest import ApiException

GROUP, VERSION = "psr.dev", "v1alpha1"
ITERATIONS, GENERATIONS, TRAININGS = "selfrewarditerations", "preferencegenerations", "stepdpojobs"
PLURALS = {"PreferenceGeneration": GENERATIONS, "StepDPOJob": TRAININGS}
RUNNING = {"search": "Searching", "merge": "Merging", "step-dpo": "Training"}
MANAGED = {"app.kubernetes.io/managed-by": "plain"}
INTERVAL = 10.0

Object = dict[str, Any]


@kopf.on.startup()
def login(**_: Any) -> None:
    kubernetes.config.load_kube_config()


def unfinished(status: Any, **_: Any) -> bool:
    """Whether a timer still has something to look after."""
    return not _is_ready({"status": status})


# --- SelfRewardIteration -----------------------------------------------------------------------------------


@kopf.on.resume(GROUP, VERSION, ITERATIONS)
@kopf.on.create(GROUP, VERSION, ITERATIONS)
@kopf.on.update(GROUP, VERSION, ITERATIONS)
def start_iteration(body: Any, patch: Any, logger: Any, **_: Any) -> None:
    """Make the generation."""
    if _is_ready(body):
        return
    spec = body["spec"]
    child = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PreferenceGeneration",
        "metadata": {"name": f"{body['metadata']['name']}-pairs"},
        "spec": {
            **{key: spec[key] for key in ("model", "problems", "questions", "server", "storage")},
            **{key: spec[key] for key in ("prompts", "search", "judge", "iteration", "seed") if key in spec},
            "output": f"{_prefix(body)}/pairs",
        },
    }
    kopf.adopt(child, owner=body)
    if _create_custom(GENERATIONS, child):
        logger.info("%s is created", child["metadata"]["name"])
    _stand(patch.status, body, False, "Generating")


@kopf.timer(GROUP, VERSION, ITERATIONS, interval=INTERVAL, when=unfinished)
def look_after_iteration(body: Any, patch: Any, **_: Any) -> None:
    """Whatever no event told."""
    patch.status.update(_advance_iteration(body))


@kopf.on.event(GROUP, VERSION, GENERATIONS)
@kopf.on.event(GROUP, VERSION, TRAININGS)
def child_changed(body: Any, namespace: str, type: str | None, **_: Any) -> None:
    """A child is done: carry its iteration on."""
    if type == "DELETED" or not _is_ready(body):
        return
    owner = next((item for item in body["metadata"].get("ownerReferences", []) if item.get("controller")), None)
    if owner is None:
        return
    iteration = _get_custom(ITERATIONS, namespace, owner["name"])
    if iteration is not None and not _is_ready(iteration):
        _store_status(ITERATIONS, iteration, _advance_iteration(iteration))


def _advance_iteration(body: Any) -> Object:
    """Make the training once the pairs are there; the status once that is done."""
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    pairs = _get_custom(GENERATIONS, namespace, f"{name}-pairs")
    status: Object = {}
    if pairs is None or not _is_ready(pairs):
        return status
    status["pairs"] = pairs["status"]["output"]
    status["pairCount"] = pairs["status"]["done"]["merge"]["pairs"]
    training = _get_custom(TRAININGS, namespace, f"{name}-dpo")
    if training is None:
        spec = body["spec"]
        child = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "StepDPOJob",
            "metadata": {"name": f"{name}-dpo"},
            "spec": {
                **{key: spec[key] for key in ("model", "storage")},
                **{key: spec[key] for key in ("training", "seed") if key in spec},
                "pairs": pairs["status"]["output"],
                "output": f"{_prefix(body)}/checkpoint",
            },
        }
        kopf.adopt(child, owner=body)
        _create_custom(TRAININGS, child)
    elif _is_ready(training):
        status |= {"output": training["status"]["output"], "digest": training["status"]["digest"]}
        _stand(status, body, True, "Succeeded")
        kopf.info(body, reason="Succeeded", message=f"the next model is at {status['output']}")
        return status
    _stand(status, body, False, "Training")
    return status


# --- PreferenceGeneration and StepDPOJob -------------------------------------------------------------------


@kopf.on.resume(GROUP, VERSION, GENERATIONS)
@kopf.on.create(GROUP, VERSION, GENERATIONS)
@kopf.on.update(GROUP, VERSION, GENERATIONS)
def start_generation(body: Any, patch: Any, namespace: str, **_: Any) -> None:
    """Search once the server serves the model."""
    if _is_ready(body):
        return
    server = _get_custom("policyservers", namespace, body["spec"]["server"]["ref"])
    status = (server or {}).get("status", {})
    if not status.get("endpoints") or status.get("model") != body["spec"]["model"]["uri"]:
        raise kopf.TemporaryError("the server does not serve the model yet", delay=INTERVAL)
    if "search" not in body.get("status", {}).get("done", {}):
        _search(body, status)
        _stand(patch.status, body, False, "Searching")


@kopf.timer(GROUP, VERSION, GENERATIONS, interval=INTERVAL, when=unfinished)
@kopf.timer(GROUP, VERSION, TRAININGS, interval=INTERVAL, when=unfinished)
def look_after_work(body: Any, patch: Any, **_: Any) -> None:
    """Whatever no event told."""
    patch.status.update(_advance_work(body))


@kopf.on.resume(GROUP, VERSION, TRAININGS)
@kopf.on.create(GROUP, VERSION, TRAININGS)
@kopf.on.update(GROUP, VERSION, TRAININGS)
def start_training(body: Any, patch: Any, **_: Any) -> None:
    """Train."""
    if not _is_ready(body):
        spec = body["spec"]
        config = {key: spec[key] for key in ("model", "pairs", "output", "training", "seed") if key in spec}
        _create_job(body, f"{body['metadata']['name']}-a1", "step-dpo", config)
        _stand(patch.status, body, False, "Training")


@kopf.on.event("batch", "v1", "jobs", labels=MANAGED)
def job_changed(body: Any, namespace: str, type: str | None, **_: Any) -> None:
    """A Job has ended: take its result."""
    if type == "DELETED" or _ended(body) is None:
        return
    owner = next(item for item in body["metadata"]["ownerReferences"] if item.get("controller"))
    plural = PLURALS[owner["kind"]]
    work = _get_custom(plural, namespace, owner["name"])
    if work is not None and not _is_ready(work):
        _store_status(plural, work, _advance_work(work))


@kopf.on.event("v1", "pods", labels=MANAGED)
def pod_changed(body: Any, namespace: str, type: str | None, labels: Any, **_: Any) -> None:
    """A pod waits or runs: show it."""
    phase = body.get("status", {}).get("phase")
    if type == "DELETED" or phase not in ("Pending", "Running"):
        return
    job = _get_job(namespace, labels["psr.dev/workload"])
    if job is None or _ended(job) is not None:
        return
    owner = next(item for item in job["metadata"]["ownerReferences"] if item.get("controller"))
    work = _get_custom(PLURALS[owner["kind"]], namespace, owner["name"])
    reason = "Pending" if phase == "Pending" else RUNNING[labels["psr.dev/stage"]]
    if work is not None and not _is_ready(work) and work.get("status", {}).get("reason") != reason:
        status: Object = {}
        _stand(status, work, False, reason)
        _store_status(PLURALS[owner["kind"]], work, status)


def _advance_work(body: Any) -> Object:
    """Take the results of the Jobs that have ended; start the next one."""
    name, namespace, kind = body["metadata"]["name"], body["metadata"]["namespace"], body["kind"]
    done = dict(body.get("status", {}).get("done", {}))
    steps = {"search": f"{name}-search-a1", "merge": f"{name}-merge-a1"}
    if kind == "StepDPOJob":
        steps = {"train": f"{name}-a1"}
    for step, job_name in steps.items():
        if step in done:
            continue
        job = _get_job(namespace, job_name)
        if job is None:
            if step == "merge":
                spec = body["spec"]
                config = {"output": spec["output"], "parts": [_part(body)], "iteration": spec.get("iteration", 1)}
                _create_job(body, job_name, "merge", config)
            break
        ended = _ended(job)
        if ended is None:
            break
        if ended == "Failed":
            status: Object = {"done": done}
            _stand(status, body, False, "Failed", stalled=True)
            return status
        done[step] = _result(namespace, job_name)
    else:
        last = done[list(steps)[-1]]
        status = {"done": done, "output": last["output"], "digest": last["digest"]}
        _stand(status, body, True, "Succeeded")
        return status
    if done == body.get("status", {}).get("done", {}):
        return {}
    status = {"done": done}
    _stand(status, body, False, "Merging" if kind == "PreferenceGeneration" else "Training")
    return status


def _search(body: Any, server: Object) -> None:
    spec = body["spec"]
    config = {
        **{key: spec[key] for key in ("model", "problems", "questions")},
        **{key: spec[key] for key in ("prompts", "search", "judge", "iteration", "seed") if key in spec},
        "output": _part(body),
        "shard": 0,
        "shards": 1,
        "server": {"urls": server["endpoints"], "modelDigest": server.get("digest")},
    }
    _create_job(body, f"{body['metadata']['name']}-search-a1", "search", config)


def _part(body: Any) -> str:
    return f"{body['spec']['output']}/shards/0-of-1"


def _prefix(body: Any) -> str:
    meta = body["metadata"]
    return f"{body['spec']['storage']['uri']}/{meta['namespace']}/{meta['name']}"


# --- Jobs --------------------------------------------------------------------------------------------------


def _create_job(owner: Any, name: str, stage: str, config: Object) -> None:
    labels = {**MANAGED, "psr.dev/stage": stage, "psr.dev/workload": name, "psr.dev/attempt": "1"}
    container = {
        "name": "stage",
        "image": "psr-runtime",
        "args": [stage],
        "env": [{"name": "PSR_STAGE_CONFIG", "value": json.dumps(config).replace("$", "$$")}],
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "completionMode": "Indexed",
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }
    kopf.adopt(job, owner=owner)
    try:
        _batch().create_namespaced_job(owner["metadata"]["namespace"], job)
    except ApiException as error:
        if error.status != 409:
            raise


def _get_job(namespace: str, name: str) -> Any:
    try:
        job = _batch().read_namespaced_job(name, namespace)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    return _client().sanitize_for_serialization(job)


def _ended(job: Any) -> str | None:
    """`Complete` or `Failed` once a Job has ended."""
    for item in job.get("status", {}).get("conditions") or []:
        if item["type"] in ("Complete", "Failed") and item["status"] == "True":
            return str(item["type"])
    return None


def _result(namespace: str, job: str) -> Object:
    """The termination message of a Job's pod."""
    pods = _core().list_namespaced_pod(namespace, label_selector=f"job-name={job}")
    for pod in pods.items:
        ended = pod.status.container_statuses[0].state.terminated if pod.status.container_statuses else None
        if ended is not None and ended.exit_code == 0:
            result: Object = json.loads(ended.message)
            return result
    raise kopf.TemporaryError(f"the result of {job} cannot be read yet", delay=INTERVAL)


# One client for all handlers: a new one each time, as in many examples, would also mean a new TLS connection each time.


@functools.cache
def _client() -> Any:
    return kubernetes.client.ApiClient()


@functools.cache
def _custom() -> Any:
    return kubernetes.client.CustomObjectsApi(_client())


@functools.cache
def _batch() -> Any:
    return kubernetes.client.BatchV1Api(_client())


@functools.cache
def _core() -> Any:
    return kubernetes.client.CoreV1Api(_client())


# --- statuses and objects ----------------------------------------------------------------------------------


def _is_ready(body: Any) -> bool:
    conditions = body.get("status", {}).get("conditions") or []
    return any((item["type"], item["status"]) == ("Ready", "True") for item in conditions)


def _stand(status: Any, body: Any, ready: bool, reason: str, *, stalled: bool = False) -> None:
    generation = body["metadata"]["generation"]
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = {"Ready": str(ready)}
    if not ready:
        kinds["Stalled" if stalled else "Reconciling"] = "True"
    status["observedGeneration"] = generation
    status["reason"] = reason
    shared = {"reason": reason, "message": "", "observedGeneration": generation, "lastTransitionTime": since}
    status["conditions"] = [{"type": kind, "status": value, **shared} for kind, value in kinds.items()]


def _create_custom(plural: str, body: Any) -> bool:
    """Whether it was not there before."""
    api = _custom()
    try:
        api.create_namespaced_custom_object(GROUP, VERSION, body["metadata"]["namespace"], plural, body)
    except ApiException as error:
        if error.status == 409:
            return False
        raise
    return True


def _get_custom(plural: str, namespace: str, name: str) -> Any:
    try:
        return _custom().get_namespaced_custom_object(GROUP, VERSION, namespace, plural, name)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _store_status(plural: str, body: Any, status: Object) -> None:
    if status:
        meta = body["metadata"]
        _custom().patch_namespaced_custom_object_status(
            GROUP, VERSION, meta["namespace"], plural, meta["name"], {"status": status}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the plain operator on the cluster that KUBECONFIG names.")
    parser.add_argument("--port", type=int, default=8081, help="of /healthz")
    arguments = parser.parse_args()
    kopf.configure(verbose=False)
    kopf.run(clusterwide=True, liveness_endpoint=f"http://127.0.0.1:{arguments.port}/healthz")


if __name__ == "__main__":
    main()
