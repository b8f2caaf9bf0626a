"""Writes the messages of V2 gRPC from inference.proto: `python hack/proto.py`; `--check` tells whether it has to.

protoc's own Python module registers its names in the process-wide pool, where those of another library that speaks the
protocol (tritonclient) already are, and refuses runtimes older than itself. So only its descriptors are taken.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

FOLDER = Path(__file__).resolve().parents[1] / "serving_image" / "modelramp_server" / "rpc"
SOURCE = FOLDER / "inference.proto"
MODULE = '''\
"""Written by `make proto` from inference.proto: the messages, in a descriptor pool of their own."""

from google.protobuf import descriptor_pool, message_factory

DESCRIPTOR = descriptor_pool.DescriptorPool().AddSerializedFile(
{descriptor}
)
globals().update(
    {{name: message_factory.GetMessageClass(found) for name, found in DESCRIPTOR.message_types_by_name.items()}}
)
'''
BYTES_A_LINE = 48


def generate() -> dict[Path, str]:
    """Path to content of both files."""
    with tempfile.TemporaryDirectory() as scratch:
        found, stubs = Path(scratch) / "set", Path(scratch) / "inference_pb2.pyi"
        arguments = [f"-I{FOLDER}", f"--descriptor_set_out={found}", f"--pyi_out={scratch}", str(SOURCE)]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit(f"{SOURCE.name} can't be compiled")
        (file,) = FileDescriptorSet.FromString(found.read_bytes()).file
        raw = file.SerializeToString(deterministic=True)
        lines = [f"    {raw[start : start + BYTES_A_LINE]!r}" for start in range(0, len(raw), BYTES_A_LINE)]
        return {
            FOLDER / "inference_pb2.py": MODULE.format(descriptor="\n".join(lines)),
            FOLDER / "inference_pb2.pyi": stubs.read_text(),
        }


def main(arguments: list[str]) -> int:
    stale = {path: text for path, text in generate().items() if not path.exists() or path.read_text() != text}
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is not what {SOURCE.name} makes: run `make proto`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
