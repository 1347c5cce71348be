"""PodOverrides: what a manifest may say about the pods of its work, and nothing that a cluster's owner would refuse.

A typed subset of a pod's specification. It is merged into the one pod template: maps deeply, named lists (env, volumes,
volumeMounts, resourceClaims, imagePullSecrets) by name, other lists replaced. There is no field for host namespaces,
privileges, capabilities, commands or further containers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from psr_operator.api.keyed import Keyed
from psr_runtime.config import Schema, operation

Quantity = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?(m|k|[KMGTP]i|[MGTP])?$", max_length=24)
]
"""An amount as Kubernetes writes it: `500m`, `4`, `64Gi`."""
DNSLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DNSName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253)
]
QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
        r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=317,
    ),
]
"""Key of a label or an annotation."""
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", max_length=63)
]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Path = Annotated[str, StringConstraints(pattern=r"^/[^:]*$", max_length=256)]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


Free = Annotated[dict[str, Any], Field(max_length=64), AfterValidator(without_nulls)]
"""An object as Kubernetes defines it; the apiserver checks it when the pod's Job or Deployment is made. A null in it is
a field that is not set."""


class KeySelector(Schema):
    """A key of a Secret or ConfigMap in the object's namespace."""

    name: DNSName = operation(description="Name of the Secret or ConfigMap.")
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = operation(
        description="Key in it."
    )


class VariableSource(Schema):
    """Where a variable's value comes from: one of the two."""

    secret_key_ref: KeySelector | None = operation(None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = operation(None, description="A key of a ConfigMap.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            raise ValueError("give either secretKeyRef or configMapKeyRef")
        return self


class Variable(Schema):
    """An environment variable. Names that begin with PSR_ are the platform's own and win."""

    name: VariableName = operation(description="Name.")
    value: Annotated[str, StringConstraints(max_length=16384)] | None = operation(None, description="Value.")
    value_from: VariableSource | None = operation(None, description="Source of the value.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.value is None) == (self.value_from is None):
            raise ValueError("give either value or valueFrom")
        return self


class EmptyDir(Schema):
    """A folder that lives as long as the pod."""

    medium: Literal["", "Memory"] = operation("", description="Memory: a tmpfs, counted as the pod's memory.")
    size_limit: Quantity | None = operation(None, description="Largest size.")


class ClaimVolume(Schema):
    """A PersistentVolumeClaim."""

    claim_name: DNSName = operation(description="Claim in the object's namespace.")
    read_only: bool = operation(False, description="Mount it read-only.")


class ConfigMapVolume(Schema):
    """A ConfigMap as files."""

    name: DNSName = operation(description="ConfigMap in the object's namespace.")


class SecretVolume(Schema):
    """A Secret as files."""

    secret_name: DNSName = operation(description="Secret in the object's namespace.")


class PodVolume(Schema):
    """A volume of a type that cannot reach the node: one of the four."""

    name: DNSLabel = operation(description="Name; volumeMounts refer to it.")
    empty_dir: EmptyDir | None = operation(None, description="An empty folder.")
    persistent_volume_claim: ClaimVolume | None = operation(None, description="A claim.")
    config_map: ConfigMapVolume | None = operation(None, description="A ConfigMap.")
    secret: SecretVolume | None = operation(None, description="A Secret.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        types = [self.empty_dir, self.persistent_volume_claim, self.config_map, self.secret]
        if sum(item is not None for item in types) != 1:
            raise ValueError("give exactly one of emptyDir, persistentVolumeClaim, configMap and secret")
        return self


class VolumeMount(Schema):
    """Where a volume appears in the container."""

    name: DNSLabel = operation(description="Name of the volume.")
    mount_path: Path = operation(description="Folder in the container.")
    sub_path: Annotated[str, StringConstraints(pattern=r"^[^/].*$", max_length=256)] | None = operation(
        None, description="Folder in the volume."
    )
    read_only: bool = operation(False, description="Mount it read-only.")


class Toleration(Schema):
    """A taint that the pods bear."""

    key: QualifiedName | None = operation(None, description="Key of the taint. Unset: all.")
    operator: Literal["Exists", "Equal"] = operation("Equal", description="Whether the value matters.")
    value: LabelValue | None = operation(None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = operation(
        None, description="Effect of the taint. Unset: all."
    )
    toleration_seconds: int | None = operation(None, ge=0, le=2**31 - 1, description="Seconds, for NoExecute.")


class ResourceClaim(Schema):
    """A claim on a device (dynamic resource allocation): one of the two names."""

    name: DNSLabel = operation(description="Name of the claim in the pod.")
    resource_claim_name: DNSName | None = operation(None, description="A ResourceClaim in the namespace.")
    resource_claim_template_name: DNSName | None = operation(None, description="A ResourceClaimTemplate.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.resource_claim_name is None) == (self.resource_claim_template_name is None):
            raise ValueError("give either resourceClaimName or resourceClaimTemplateName")
        return self


class NamedReference(Schema):
    """A Secret by name."""

    name: DNSName = operation(description="Secret in the object's namespace.")


class PodOverrides(Schema):
    """What is merged into the pods of a piece of work."""

    labels: dict[QualifiedName, LabelValue] = operation({}, max_length=32, description="Further labels.")
    annotations: dict[QualifiedName, Annotated[str, StringConstraints(max_length=4096)]] = operation(
        {}, max_length=32, description="Further annotations."
    )
    node_selector: dict[QualifiedName, LabelValue] = operation(
        {}, max_length=32, description="Labels that the node must have."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = operation([], description="Taints to bear.")
    affinity: Free | None = operation(None, description="As a pod's `affinity`; replaces the template's own.")
    topology_spread_constraints: Annotated[list[Free], Field(max_length=8)] | None = operation(
        None, description="As a pod's `topologySpreadConstraints`; replaces the template's own."
    )
    priority_class_name: DNSName | None = operation(None, description="PriorityClass.")
    scheduler_name: DNSName | None = operation(None, description="Scheduler. Unset: the cluster's own.")
    runtime_class_name: DNSName | None = operation(None, description="RuntimeClass.")
    service_account_name: DNSName | None = operation(
        None, description="Service account, one of those that the operator allows. Its token is never mounted."
    )
    termination_grace_period_seconds: int | None = operation(
        None, ge=1, le=86400, description="Seconds between SIGTERM and SIGKILL."
    )
    image_pull_secrets: Annotated[list[NamedReference], Field(max_length=8), Keyed("name")] = operation(
        [], description="Secrets for the image's registry."
    )
    env: Annotated[list[Variable], Field(max_length=64), Keyed("name")] = operation(
        [], description="Further variables."
    )
    volumes: Annotated[list[PodVolume], Field(max_length=16), Keyed("name")] = operation(
        [], description="Further volumes."
    )
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=16), Keyed("mountPath")] = operation(
        [], description="Where further volumes appear."
    )
    resource_claims: Annotated[list[ResourceClaim], Field(max_length=8), Keyed("name")] = operation(
        [], description="Claims on devices; the container uses all of them."
    )
