"""An object of a cluster as a person reaches it: by their kubeconfig, read by the official Kubernetes client.

The client knows exec plug-ins (EKS, GKE, AKS), OIDC, client certificates and token files. The operator has a client of
its own (`psr_operator.controller.client`) and no need of it; laptops install it with psr[cluster].
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from psr_operator.api import GROUP, KINDS, VERSION

USUAL = "~/.kube/config"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
REQUEST_SECONDS = 15.0


class CannotRead(Exception):
    """There is no way to the cluster, or it refuses; repeating will not help."""


class NoAnswer(Exception):
    """The cluster does not answer now."""


@dataclass(frozen=True)
class Choice:
    """What kubeconfigs say of the context that is used.

    Attributes:
        files: that were read, joined as $KUBECONFIG is.
        user, cluster: their entries; empty where the files have none of that name.
    """

    files: str
    context: str
    namespace: str
    user_name: str
    user: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)


class Reader:
    """Reads one object again and again.

    Args:
        kind, name: of the object.
        namespace: None for that of the context, else `default`.
        kubeconfig: files, joined as $KUBECONFIG is; None for $KUBECONFIG, then ~/.kube/config, then the pod's account.
        context: None for the current one.

    Raises:
        CannotRead: nothing says how to reach a cluster, or it yields no credentials.
    """

    def __init__(
        self, kind: str, name: str, namespace: str | None, kubeconfig: str | None = None, context: str | None = None
    ) -> None:
        self._kind, self._name = kind, name
        self._choice = _choose(kubeconfig, context)
        self.namespace = namespace or (self._choice.namespace if self._choice else "") or "default"
        self._api = self._connect()

    def read(self) -> Mapping[str, Any] | None:
        """The object as it is now, None where there is none.

        Raises:
            CannotRead: the apiserver refuses, or does not know the kind.
            NoAnswer: it does not answer, or not now.
        """
        try:
            return self._get()
        except client.ApiException as error:
            if error.status != 401:
                raise CannotRead(_refusal(error)) from error
        self._api = self._connect()  # a token that has expired: whoever gave it gives another one
        try:
            return self._get()
        except client.ApiException as error:
            raise CannotRead(_refusal(error)) from error

    def _get(self) -> Mapping[str, Any] | None:
        objects = client.CustomObjectsApi(self._api)
        place = (GROUP, VERSION, self.namespace, KINDS[self._kind].plural, self._name)
        try:
            answer: Mapping[str, Any] = objects.get_namespaced_custom_object(*place, _request_timeout=REQUEST_SECONDS)
            return answer
        except client.ApiException as error:
            if error.status == 404 and '"NotFound"' in str(error.body) and self._name in str(error.body):
                return None
            if error.status == 404:
                raise CannotRead(
                    f"this cluster knows no {self._kind}; `psr crds | kubectl apply --server-side -f -` teaches it"
                ) from error
            if error.status == 429 or error.status >= 500:
                raise NoAnswer(_refusal(error)) from error
            raise
        except urllib3.exceptions.MaxRetryError as error:
            if isinstance(error.reason, urllib3.exceptions.SSLError):
                raise CannotRead(f"TLS with {self._api.configuration.host} fails: {error.reason}") from error
            raise NoAnswer(f"{self._api.configuration.host} does not answer ({error.reason})") from error
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(f"{self._api.configuration.host} does not answer ({error})") from error

    def _connect(self) -> client.ApiClient:
        """A client with credentials."""
        settings = client.Configuration()
        settings.retries = 0  # whoever waits asks again
        try:
            if self._choice is None:
                config.load_incluster_config(settings)
                return client.ApiClient(settings)
            with _logged_errors() as logged:
                config.load_kube_config(self._choice.files, self._choice.context, settings, persist_config=False)
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise CannotRead(f"{self._choice.files if self._choice else ACCOUNT}: {error}") from error
        if not (settings.api_key or settings.cert_file):
            raise CannotRead(_no_credentials(self._choice, logged))
        if self._choice.cluster.get("proxy-url"):
            settings.proxy, settings.no_proxy = self._choice.cluster["proxy-url"], None
        return client.ApiClient(settings)


def _choose(kubeconfig: str | None, context: str | None) -> Choice | None:
    """What the kubeconfigs say of a context; None for the account of the pod that this is.

    Of two entries with one name that of the first file counts, and so does its current-context.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG")
    files = [Path(item).expanduser() for item in (named or USUAL).split(os.pathsep) if item]
    documents = [_document(file) for file in files if file.exists()]
    if not documents and named is None and ACCOUNT.exists():
        return None
    if not documents:
        raise CannotRead(
            f"there is no kubeconfig {os.pathsep.join(map(str, files))}; give --kubeconfig FILE or set KUBECONFIG, "
            "or for a psr run give --workdir"
        )
    name = context or next((str(item["current-context"]) for item in documents if item.get("current-context")), None)
    known = _entries(documents, "contexts", "context")
    where = os.pathsep.join(map(str, files))
    if name is None:
        raise CannotRead(f"{where}: no current-context; give --context with one of {', '.join(known) or 'none'}")
    if name not in known:
        raise CannotRead(f"{where}: no context {name}; there are {', '.join(known) or 'none'}")
    chosen = known[name]
    user = str(chosen.get("user") or "")
    return Choice(
        where,
        name,
        str(chosen.get("namespace") or ""),
        user,
        _entries(documents, "users", "user").get(user, {}),
        _entries(documents, "clusters", "cluster").get(str(chosen.get("cluster")), {}),
    )


def _document(file: Path) -> Mapping[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise CannotRead(f"{file}: cannot be read as a kubeconfig ({' '.join(str(error).split())})") from error
    if not isinstance(document, Mapping):
        raise CannotRead(f"{file}: is no kubeconfig")
    return document


def _entries(documents: list[Mapping[str, Any]], kind: str, key: str) -> dict[str, Mapping[str, Any]]:
    """The entries of a list of kubeconfigs by name."""
    entries: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        for item in document.get(kind) or []:
            entries.setdefault(str(item["name"]), item.get(key) or {})
    return entries


def _no_credentials(choice: Choice, logged: list[str]) -> str:
    """Why a kubeconfig yields none: the client only logs it, and would go on as nobody."""
    who = f"{choice.files}: user {choice.user_name!r} of context {choice.context!r}"
    plugin = choice.user.get("exec")
    if isinstance(plugin, Mapping):
        why = "; ".join(logged) or "it printed nothing that is a credential"
        hint = f". {' '.join(str(plugin['installHint']).split())}" if plugin.get("installHint") else ""
        return f"{who}: the exec plug-in {plugin.get('command')} gave no credentials: {why}{hint}"
    provider = choice.user.get("auth-provider")
    if isinstance(provider, Mapping):
        return f"{who}: the auth-provider {provider.get('name')} gave no credentials; use its exec plug-in instead"
    known = ", ".join(choice.user) or "nothing"
    return f"{who} has no credentials (it has {known}); log in to the cluster, or give --context or --kubeconfig"


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """The errors that the client logs while it reads a kubeconfig, in place of raising or printing them."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(" ".join(record.getMessage().split()))

    handler = Keep(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)


def _refusal(error: client.ApiException) -> str:
    """What an apiserver answered, in a line."""
    try:
        message = YAML(typ="safe", pure=True).load(error.body)["message"]
    except (YAMLError, TypeError, KeyError, AttributeError):
        message = error.reason
    return f"the apiserver answers {error.status}: {message}"
