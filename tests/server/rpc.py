"""Calls of V2 gRPC as they stand on the wire, beside tritonclient, which hides codes and metadata."""

from typing import Any, NamedTuple

import grpc

from modelramp_server.rpc import inference_pb2 as pb

TIMEOUT = 30.0
INFER = "ModelInfer"


class RpcReply(NamedTuple):
    """What came back; `metadata` is the trailing one."""

    code: grpc.StatusCode
    details: str
    metadata: dict[str, str]
    answer: pb.ModelInferResponse


class RpcClient:
    """One channel to one server, or to the first of several that answers."""

    def __init__(self, *ports: int, **options: Any) -> None:
        target = ",".join(f"127.0.0.1:{port}" for port in ports)
        chosen = [(f"grpc.{name}", value) for name, value in options.items()]
        # Channels of one process share connections else.
        chosen.append(("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(f"ipv4:{target}", options=chosen)

    def send(self, raw: bytes, method: str = INFER, timeout: float = TIMEOUT, **options: Any) -> RpcReply:
        """One call with these bytes as its message."""
        return settled(self.start(raw, method, timeout, **options))

    def start(self, raw: bytes, method: str = INFER, timeout: float = TIMEOUT, **options: Any) -> Any:
        """A call that is not waited for."""
        call = self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        return call.future(raw, timeout=timeout, **options)

    def infer(self, request: pb.ModelInferRequest, **options: Any) -> RpcReply:
        """One ModelInfer."""
        return self.send(request.SerializeToString(), **options)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def settled(call: Any) -> RpcReply:
    """Wait for a call."""
    code = call.code()
    raw = call.result() if code is grpc.StatusCode.OK else b""
    metadata = {name: str(value) for name, value in call.trailing_metadata()}
    return RpcReply(code, call.details() or "", metadata, pb.ModelInferResponse.FromString(raw))


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferRequest.InferInputTensor:
    """An input; its contents by field, if they are not raw."""
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.CopyFrom(pb.InferTensorContents(**contents))
    return made


def number(value: int = 2, **changes: Any) -> pb.ModelInferRequest:
    """A request of the lookup model."""
    fields = {"model_name": "digits", "inputs": [tensor("x", "INT64", [1], int64_contents=[value])]}
    return pb.ModelInferRequest(**{**fields, **changes})
