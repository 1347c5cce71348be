"""CustomResourceDefinitions from the models: structural schemas, defaults, and rules (CEL) with messages that help.

A method field is immutable: its rule is on its parent, so that setting and unsetting it is seen too. Rules go down
to the leaves, so that operation fields beside a method field stay mutable. What a model checks across fields is said
once more in CEL (`TWINS`), and a validator without its twin is an error here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from psr_operator.api import KINDS, Resource
from psr_operator.api.common import GROUP, VERSION
from psr_operator.api.fields import model_of
from psr_operator.api.keyed import KEY
from psr_operator.api.manifest import NAME_LENGTH
from psr_runtime.config import MARK, Schema

JSONSchema = dict[str, Any]

COMMENT = "# Generated from the models in operator/psr_operator/api by `psr crds`. Change those, then `make crds`.\n"
CHILD_NAME_LENGTH = 52
APPEND_ONLY = "iterations"
"""Name of the method field that may grow at its end."""

TWINS = {
    "StorageSpec._under_the_volume": (
        "!has(self.volume) || !self.uri.startsWith('file://')"
        " || (self.uri + '/').startsWith('file://' + self.volume.mountPath + '/')",
        "uri does not lie under volume.mountPath: begin it with file:// and the mount path",
    ),
    "SFTMethod._has_data": (
        "has(self.ift) || has(self.eft)",
        "there is nothing to train on: give ift, eft or both",
    ),
    "RunSFT._has_data": (
        "has(self.ift) || has(self.eft)",
        "there is nothing to train on: give ift, eft or both",
    ),
    "SelfRewardRunSpec._best_is_measured": (
        "self.storage.retention != 'Best' || self.evaluations.size() > 0",
        "storage.retention: Best needs an evaluation that tells which model is the best; give one, or take Last",
    ),
    "ServerChoice._one_of": (
        "has(self.ref) != has(self.inline)",
        "give either ref, the name of a PolicyServer, or inline, a server of this object's own",
    ),
    "VariableSource._one_of": (
        "has(self.secretKeyRef) != has(self.configMapKeyRef)",
        "give either secretKeyRef or configMapKeyRef",
    ),
    "Variable._one_of": ("has(self.value) != has(self.valueFrom)", "give either value or valueFrom"),
    "PodVolume._one_of": (
        "[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)]"
        ".filter(given, given).size() == 1",
        "give exactly one of emptyDir, persistentVolumeClaim, configMap and secret",
    ),
    "ResourceClaim._one_of": (
        "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
        "give either resourceClaimName or resourceClaimTemplateName",
    ),
}
"""Rule and message for every validator of a model, by class and function."""

COLUMNS = (
    ("Ready", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Reason", ".status.reason", 0),
    ("Step", ".status.step", 0),
    ("Progress", ".status.progress", 0),
    ("Age", ".metadata.creationTimestamp", 0),
    ("Message", '.status.conditions[?(@.type=="Ready")].message', 1),
)
SELECTABLE = (".status.reason", ".status.step", ".spec.model.uri")


def write(folder: Path) -> list[Path]:
    """Write every definition into a folder. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in rendered().items():
        files.append(folder / name)
        files[-1].write_text(text, encoding="utf-8")
    return files


def rendered() -> dict[str, str]:
    """Every definition as YAML, by file name."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.representer.ignore_aliases = lambda *_: True
    files = {}
    for kind in KINDS:
        definition = crd(kind)
        text = io.StringIO(COMMENT)
        text.seek(0, io.SEEK_END)
        writer.dump(definition, text)
        files[f"{GROUP}_{definition['spec']['names']['plural']}.yaml"] = text.getvalue()
    return files


def crd(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, as JSON values.

    Raises:
        TypeError: a model says something that a structural schema cannot, or leaves something open that it must say;
            the message names the field.
    """
    plural = KINDS[kind].plural
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [KINDS[kind].short_name],
                "categories": ["psr"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": name,
                            "type": "date" if name == "Age" else "string",
                            "jsonPath": path,
                            "priority": priority,
                        }
                        for name, path, priority in COLUMNS
                    ],
                    "selectableFields": [{"jsonPath": path} for path in SELECTABLE],
                    "schema": {"openAPIV3Schema": _root(KINDS[kind])},
                }
            ],
        },
    }


def _root(kind: type[Resource]) -> JSONSchema:
    spec, status = (model_of(kind.model_fields[name].annotation) for name in ("spec", "status"))
    assert spec is not None
    assert status is not None
    limit = NAME_LENGTH if kind.__name__ == "SelfRewardRun" else CHILD_NAME_LENGTH
    return {
        "type": "object",
        "description": f"{_sentence(kind)} {_sentence(spec)}",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{kind.__name__}."},
            "metadata": {"type": "object"},
            "spec": {"description": "What is wanted.", **_object(spec, "spec", fixed=True)},
            "status": {
                "description": "What was found. Written by the operator.",
                **_object(status, "status", fixed=False, filled=False),
                "default": {"observedGeneration": status.model_fields["observed_generation"].default},
            },
        },
        "x-kubernetes-validations": [
            _rule(
                r"self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')"
                f" && self.metadata.name.size() <= {limit}",
                f"metadata.name must be at most {limit} lower-case letters, digits and dashes, begin with a letter and "
                "end with a letter or digit, as pods and folders are named after it",
            )
        ],
    }


def _object(model: type[BaseModel], at: str, *, fixed: bool, filled: bool = True, key: str | None = None) -> JSONSchema:
    """Schema of a model.

    Args:
        at: dotted path, for messages.
        fixed: whether its method fields are immutable.
        filled: whether the apiserver fills in defaults; a status is read with the model's.
        key: field by which a list's items differ: it cannot change.
    """
    source = model.model_json_schema()
    nodes = source["properties"]
    properties, required, rules = {}, [], []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        path = f"{at}.{alias}"
        held = fixed and _mark(field) != "operation"
        node = _without_null(nodes[alias])
        schema = _value(node, model_of(field.annotation), path, held=held, filled=filled)
        if not field.description:
            raise TypeError(f"{path}: has no description")
        fixed_here = " Immutable." if held and not {"properties", "items"} & set(schema) else ""
        properties[alias] = {"description": field.description + fixed_here, **schema}
        if field.is_required():
            required.append(alias)
        elif filled and field.default is not None:
            properties[alias]["default"] = _default(field)
        if held and alias != key:
            present = field.is_required() or field.default is not None
            rules += _immutable(alias, path, properties[alias], present=present, inner=model_of(field.annotation))
    rules += _twins(model)
    return {
        "type": "object",
        **({"required": required} if required else {}),
        "properties": properties,
        **({"x-kubernetes-validations": rules} if rules else {}),
    }


def _value(node: JSONSchema, inner: type[BaseModel] | None, path: str, *, held: bool, filled: bool) -> JSONSchema:
    """Schema of a field's value. `inner` is the model in it, where there is one."""
    if "$ref" in node:
        assert inner is not None
        return _object(inner, path, fixed=held, filled=filled)
    if node.get("type") == "array":
        return _list(node, inner, path, held=held, filled=filled)
    if node.get("type") == "object":
        return _map(node, inner, path, filled=filled)
    return _leaf(node, path)


def _list(node: JSONSchema, inner: type[BaseModel] | None, path: str, *, held: bool, filled: bool) -> JSONSchema:
    if "maxItems" not in node:
        raise TypeError(f"{path}: the list has no maximum")
    key = node.get(KEY)
    if key is not None and inner is not None:
        items = _object(inner, f"{path}[]", fixed=held, filled=filled, key=key)
        kind: JSONSchema = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    else:
        # Items have no name, so that nothing can be said about one of them before and after. Nor is anything filled in:
        # who applies the same file a second time, under another name, would want a list that differs from the stored.
        items = _value(node["items"], inner, f"{path}[]", held=False, filled=False)
        kind = {"x-kubernetes-list-type": "atomic"}
    least = {"minItems": node["minItems"]} if "minItems" in node else {}
    return {"type": "array", **least, "maxItems": node["maxItems"], **kind, "items": items}


def _map(node: JSONSchema, inner: type[BaseModel] | None, path: str, *, filled: bool) -> JSONSchema:
    if "maxProperties" not in node:
        raise TypeError(f"{path}: the map has no maximum")
    schema = {"type": "object", "maxProperties": node["maxProperties"]}
    if node.get("additionalProperties") is True:
        return {**schema, "x-kubernetes-preserve-unknown-fields": True}
    if "patternProperties" not in node:
        items = _value(node["additionalProperties"], inner, f"{path}.*", held=False, filled=filled)
        return {**schema, "additionalProperties": items}
    ((pattern, value),) = node["patternProperties"].items()
    longest = node["propertyNames"]["maxLength"]
    rule = _rule(
        f"self.all(key, key.size() <= {longest} && key.matches(r'{pattern}'))",
        f"{path}: each key must be a name of at most 63 letters, digits, dashes, dots and underscores, after a domain "
        "and a slash where it has one",
    )
    items = _value(value, inner, f"{path}.*", held=False, filled=filled)
    return {**schema, "additionalProperties": items, "x-kubernetes-validations": [rule]}


def _leaf(node: JSONSchema, path: str) -> JSONSchema:
    kind = node.get("type")
    if kind not in ("string", "integer", "number", "boolean"):
        raise TypeError(f"{path}: a structural schema cannot say {node}")
    schema: JSONSchema = {"type": kind}
    if kind == "integer":
        schema["format"] = "int64"
    if "const" in node or "enum" in node:
        return {**schema, "enum": node.get("enum", [node.get("const")])}
    if kind == "string" and "maxLength" not in node:
        raise TypeError(f"{path}: the string has no maximum")
    schema |= {name: node[name] for name in ("minLength", "maxLength", "pattern", "minimum", "maximum") if name in node}
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in node:
            schema |= {bound.lower(): node[f"exclusive{bound}"], f"exclusive{bound}": True}
    return schema


def _without_null(node: JSONSchema) -> JSONSchema:
    """The schema of an optional field's value: unset is absent, never null."""
    if "anyOf" not in node:
        return node
    kinds = [kind for kind in node["anyOf"] if kind.get("type") != "null"]
    if len(kinds) != 1:
        raise TypeError(f"a structural schema cannot say {node}")
    return dict(kinds[0])


def _default(field: FieldInfo) -> Any:
    """A default; of a model all of it, as rules are checked on a default before the apiserver fills in the rest."""
    return field.default.to_whole_json() if isinstance(field.default, Schema) else field.default


def _immutable(
    name: str, path: str, schema: JSONSchema, *, present: bool, inner: type[BaseModel] | None
) -> list[JSONSchema]:
    """The rule on the parent that keeps a method field as it is.

    Args:
        schema: of the field; a keyed or append-only list gets its rule there, where each item can be compared.
        present: whether the apiserver always sees the field, as it is required or has a default.
        inner: the model in it, where there is one.
    """
    put = f"{path} is fixed once the object exists"
    otherwise = "make a new object under another name"
    both = f"has(self.{name}) == has(oldSelf.{name})"
    if "properties" in schema:  # its own fields have rules
        return [] if present else [_rule(both, f"{put}, and so is whether it is set; {otherwise}")]
    if name == APPEND_ONLY:
        schema["x-kubernetes-validations"] = [
            _rule(
                f"self.size() >= oldSelf.size() && oldSelf.all(i, v, {_same_item(inner, 'self[i]', 'v')})",
                f"{path} can only grow: leave the entries that stand there as they are and add new ones at the end, "
                f"or {otherwise}",
            )
        ]
        return []
    if schema.get("x-kubernetes-list-type") == "map":
        (key,) = schema["x-kubernetes-list-map-keys"]
        schema["x-kubernetes-validations"] = [
            _rule(
                f"self.size() == oldSelf.size() && self.all(a, oldSelf.exists(b, b.{key} == a.{key}))",
                f"{path} cannot gain, lose or rename entries once the object exists; {otherwise}",
            )
        ]
        return []
    same = f"self.{name} == oldSelf.{name}"
    return [_rule(same if present else f"{both} && (!has(self.{name}) || {same})", f"{put}; {otherwise}")]


def _same_item(model: type[BaseModel] | None, one: str, other: str) -> str:
    """The rule that two items of a list say the same, a default that one of them does not spell out included."""
    if model is None:
        return f"{one} == {other}"
    parts = []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        if field.is_required():
            parts.append(f"{one}.{alias} == {other}.{alias}")
        elif field.default is None or model_of(field.annotation) is not None:
            raise TypeError(f"{model.__name__}.{alias}: an item of an append-only list has plain defaults only")
        else:
            default = json.dumps(field.default)
            both = (f"(has({item}.{alias}) ? {item}.{alias} : {default})" for item in (one, other))
            parts.append(" == ".join(both))
    return " && ".join(parts)


def _twins(model: type[BaseModel]) -> list[JSONSchema]:
    rules = []
    for name in model.__pydantic_decorators__.model_validators:
        where = next(base for base in model.__mro__ if name in vars(base))
        twin = TWINS.get(f"{where.__name__}.{name}")
        if twin is None:
            raise TypeError(f"{where.__name__}.{name}: this validator has no rule in {__name__}.TWINS")
        rules.append(_rule(*twin))
    return rules


def _rule(rule: str, message: str) -> JSONSchema:
    return {"rule": rule, "message": message}


def _mark(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    mark = extra.get(MARK) if isinstance(extra, Mapping) else None
    return str(mark) if mark is not None else None


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())
