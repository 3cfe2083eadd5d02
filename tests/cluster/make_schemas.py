"""Makes kuberay.schema.json, the JSON Schema that test_files.py holds the Kubernetes files against.

    python tests/cluster/make_schemas.py v1.7 ray.io_rayclusters.yaml ray.io_rayjobs.yaml

The two CRDs are those of the KubeRay release (helm-chart/kuberay-operator/crds in its repository).
Of version v1 of each, descriptions and `status` are dropped, parts that occur several times are kept
once, and what the API server would prune is made an error: a key that the CRD does not declare.
Rules written in CEL (x-kubernetes-validations) are beyond JSON Schema and are dropped.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KEPT = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
)
SHARED_FROM = 150  # characters


def strict(node: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as a JSON Schema that forbids what is not declared."""
    out: dict[str, Any] = {key: node[key] for key in KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    if node.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    if "items" in node:
        out["items"] = strict(node["items"])
    if "properties" in node:
        out["properties"] = {key: strict(value) for key, value in node["properties"].items()}
    if node.get("type") == "object" and not node.get("x-kubernetes-preserve-unknown-fields"):
        values = node.get("additionalProperties", False)
        out["additionalProperties"] = strict(values) if isinstance(values, dict) else values
    return out


def dumps(node: Any) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"))


def count(node: Any, seen: Counter[str]) -> None:
    for child in children(node):
        text = dumps(child)
        seen[text] += len(text) >= SHARED_FROM
        if seen[text] < 2:
            count(child, seen)


def children(node: dict[str, Any]) -> list[dict[str, Any]]:
    nested = [
        *node.get("properties", {}).values(),
        node.get("items"),
        node.get("additionalProperties"),
    ]
    return [child for child in nested if isinstance(child, dict)]


def share(node: dict[str, Any], seen: Counter[str], defs: dict[str, Any]) -> dict[str, Any]:
    """The same schema, with the parts that occur several times replaced by references."""
    out = dict(node)

    def refer(child: Any) -> Any:
        if not isinstance(child, dict):
            return child
        text = dumps(child)
        if seen[text] < 2:
            return share(child, seen, defs)
        name = hashlib.sha256(text.encode()).hexdigest()[:8]
        if name not in defs:
            defs[name] = share(child, seen, defs)
        return {"$ref": f"#/$defs/{name}"}

    if "properties" in node:
        out["properties"] = {key: refer(value) for key, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            out[key] = refer(node[key])
    return out


def main(version: str, *paths: str) -> None:
    kinds: dict[str, Any] = {}
    sources = []
    for path in map(Path, paths):
        text = path.read_bytes()
        crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        found = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        kind = crd["spec"]["names"]["kind"]
        schema = strict(found["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        # The API server itself knows these three.
        schema["properties"]["apiVersion"] = {"const": f"{crd['spec']['group']}/v1"}
        schema["properties"]["kind"] = {"const": kind}
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        kinds[kind] = schema
        sources.append(f"{kind} sha256 {hashlib.sha256(text).hexdigest()}")
    seen: Counter[str] = Counter()
    count({"properties": kinds}, seen)
    defs: dict[str, Any] = {}
    out = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"KubeRay {version}, ray.io/v1; made by make_schemas.py from the CRDs {', '.join(sources)}",
        "kinds": {kind: share(schema, seen, defs) for kind, schema in kinds.items()},
        "$defs": dict(sorted(defs.items())),
    }
    target = Path(__file__).with_name("kuberay.schema.json")
    target.write_text(json.dumps(out, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
