"""What the operator asks of kopf: credentials, watches with a selector each, and no notes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from psr_operator.backends import load_all
from psr_operator.controller.client import NoCredentials
from psr_operator.controller.informer import Informer
from psr_operator.controller.kopf_adapter import NoMemories, login_from, settings_for
from psr_operator.controller.prober import Prober
from psr_operator.controller.store import Store
from psr_operator.controller.workqueue import WorkQueue
from tests.controller.test_store import training

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me, namespace: team}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:8001/"}}]
users: [{name: me, user: {token: secret}}]
"""


def test_a_kubeconfig_gives_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")  # login_from changes it; put back at the end
    (tmp_path / "config").write_text(KUBECONFIG)
    connection = login_from(str(tmp_path / "config"))()
    assert connection.server.rstrip("/") == "http://127.0.0.1:8001"
    assert connection.headers["Authorization"] == "Bearer secret"
    assert (connection.tls, connection.default_namespace) == (None, "team")


def test_without_credentials_the_message_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoCredentials, match="give --kubeconfig FILE"):
        login_from(None)()


def test_a_kubeconfig_without_credentials_that_are_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an operator that asks as nobody, and is refused everything."""
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    (tmp_path / "config").write_text(KUBECONFIG.replace("token: secret", "exec: {command: aws, apiVersion: v1}"))
    with pytest.raises(NoCredentials, match="exec plug-ins and OIDC are not read here"):
        login_from(str(tmp_path / "config"))()


def test_of_foreign_kinds_only_what_we_have_rendered_is_watched() -> None:
    client: Any = None
    store, queue = Store(), WorkQueue(lambda: 0.0)
    prober = Prober(client, store, queue, lambda: 0.0, lambda _: None)
    settings = settings_for(Informer(client, store, queue, prober, load_all()))
    ours = "app.kubernetes.io/managed-by=psr"
    chosen = {str(selector.any_name): labels for selector, labels in settings.watching.label_selectors.items()}
    assert chosen == {"batch/jobs": ours, "apps/deployments": ours, "pods": ours}
    assert not settings.posting.enabled, "no events of kopf's own"


def test_kopf_keeps_no_note_of_an_object() -> None:
    async def after_an_event() -> list[Any]:
        memories = NoMemories()
        await memories.recall(training(1), noticed_by_listing=True, memobase={})
        return list(memories.iter_all_memories())

    assert asyncio.run(after_an_event()) == []
