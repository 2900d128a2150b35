"""Write `serving_pb2.py` and its type stub from `serving.proto`; needs grpcio-tools, and a process without TensorFlow, which brings another protoc.

Run: python -m serving.tf_serving.generate
"""

import sys
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).with_name("serving.proto")


def generate(target: Path) -> int:
    """Generate both files into a folder that mirrors the tree; return protoc's exit status."""
    root = PROTO.parents[2]
    arguments = ["protoc", f"-I{root}", f"-I{Path(protoc.__file__).parent / '_proto'}", f"--python_out={target}", f"--pyi_out={target}"]
    return int(protoc.main([*arguments, PROTO.relative_to(root).as_posix()]))


if __name__ == "__main__":
    sys.exit(generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO.parents[2]))
