"""Renders the chart into config/install.yaml, so that nobody needs helm to start: `python hack/manifests.py`.

`--check` tells in a moment, without helm, whether that is still to be done: the file carries a digest of all that went
into it.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CRD = ROOT / "crds" / "modeldeployments.yaml"
CHART = ROOT / "charts" / "modelramp"
CRD_COPY = CHART / "crds" / CRD.name
INSTALL = ROOT / "config" / "install.yaml"

NAMESPACE = "modelramp-system"
HEAD = """\
# Written by `make manifests` from charts/modelramp with its default values.
# sources sha256:{digest}
---
apiVersion: v1
kind: Namespace
metadata:
  name: {namespace}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def sources_digest() -> str:
    """Over the names and contents of the CRD and all files of the chart."""
    digest = hashlib.sha256()
    for path in [CRD, *sorted(p for p in CHART.rglob("*") if p.is_file() and p != CRD_COPY)]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def render() -> str:
    helm = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py"), "helm"]
    template = ["template", "modelramp", str(CHART), "--namespace", NAMESPACE, "--include-crds"]
    rendered = subprocess.run([*helm, *template], check=True, stdout=subprocess.PIPE, text=True).stdout
    return HEAD.format(digest=sources_digest(), namespace=NAMESPACE) + rendered


def is_current() -> bool:
    try:
        return f"sha256:{sources_digest()}" in INSTALL.read_text() and CRD.read_bytes() == CRD_COPY.read_bytes()
    except FileNotFoundError:
        return False


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if not is_current():
            print("config/install.yaml is not what charts/ and crds/ make: run `make manifests`", file=sys.stderr)
            return 1
        return 0
    CRD_COPY.parent.mkdir(exist_ok=True)
    shutil.copyfile(CRD, CRD_COPY)
    INSTALL.parent.mkdir(exist_ok=True)
    INSTALL.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
