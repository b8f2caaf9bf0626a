"""Loading pt2 archives (torch.export) without running code that they bring.

torch says of its loader: never for untrusted data. It unpickles what the archive asks it to, loads shared libraries,
evaluates expressions of sizes, compiles names into Python source, and calls what a node names, `torch.os.system` too.
So the archive is read here first, by torch's own reader, lest the two see different records: only plain tensors,
operators of torch, expressions of sizes and harmless names may be in it. What is left to unpickle is a record of
example inputs, by torch's restricted unpickler.
"""

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2

from modelramp_server.runtime.base import LoadFailed
from modelramp_server.runtime.policy import refuse_code

_RECORDS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_(format|version)|byteorder|version|\.data/\w+|extra/[\w./-]+"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_TENSOR_FILE = re.compile(r"(weight|tensor)_\d+")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+|torch\.ops\.higher_order\.(cond|while_loop|map_impl|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast)|torch\.sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load|_load)")
_NAME = re.compile(r"[\w .,:;/<>=+*-]*")
_MESSAGE = re.compile(r'[^"\\\n]*')
# Names of sizes, and the functions that sympy prints sums and products of them with.
_SIZE_NAME = re.compile(
    r"[suzf]{1,3}\d+|Symbol|Integer|Float|Rational|Add|Mul|Pow|Min|Max|Abs|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv"
    r"|ModularIndexing|Where|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ToFloat|TruncToInt|FloorToInt"
    r"|CeilToInt|RoundToInt|Piecewise|floor|ceiling|true|false|oo"
)
_EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def load(path: Path, allow_code: bool) -> Any:
    """The exported program in an archive.

    Raises:
        UnsupportedModel: it brings code, or what can't be told from code.
        LoadFailed: it is no archive of this torch's format.
    """
    if allow_code:
        return torch.export.load(str(path))
    for found in _code(PT2ArchiveReader(str(path))):
        refuse_code(f"{path.name} has {found}", "log a TorchScript module or ONNX", allow_code)
    with _tensors_only():
        programs = load_pt2(str(path)).exported_programs
    if "model" not in programs:
        raise LoadFailed(f"{path.name} holds no program; export it again with this image's torch ({torch.__version__})")
    return programs["model"]


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Whatever torch's loader asks for, its unpickler makes tensors and containers only."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def _code(archive: Any) -> Iterator[str]:
    """What in the archive could run code of its own."""
    for record in archive.get_file_names():
        if not _RECORDS.fullmatch(record):
            yield f"the record {record[:80]}"
    for record in _CONFIGS:
        for entry in json.loads(archive.read_string(record))["config"].values():
            if entry["use_pickle"] or not _TENSOR_FILE.fullmatch(entry["path_name"]):
                yield f"a pickle ({str(entry['path_name'])[:80]})"
    program = json.loads(archive.read_string("models/model.json"))
    for guard in program.pop("guards_code", None) or ():
        if not _is_guard(guard):
            yield f"the guard {guard[:80]!r}"
    yield from _walk(program)


def _walk(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if not _NAME.fullmatch(name) or name.startswith("__"):  # __enum__ imports what it names
                yield f"the name {name[:80]!r}"
            elif not _is_prose(name, value):
                yield from _walk(value, name)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item, key)
    elif isinstance(node, str):
        yield from _text(node, key)


def _is_prose(name: str, value: Any) -> bool:
    """The exporter's notes on where a node came from: never compiled, never called."""
    return name == "metadata" and isinstance(value, dict) and all(isinstance(note, str) for note in value.values())


def _text(text: str, key: str) -> Iterator[str]:
    if key in ("target", "as_operator"):
        if not _OPERATOR.fullmatch(text) or _FILES.match(text):
            yield f"a call of {text[:80]!r}"
    elif key == "expr_str":
        if not _is_expression(text):
            yield f"the expression {text[:80]!r}"
    elif text.startswith(("[", "{")):
        yield from _walk(_parsed(text))  # how inputs and outputs nest: JSON in a string
    elif not (_MESSAGE if key == "as_string" else _NAME).fullmatch(text):
        yield f"the text {text[:80]!r}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return f"({text}"


def _is_expression(text: str) -> bool:
    """Arithmetic of sizes, as sympy prints it: calls of known functions, numbers, and names in quotes."""
    tree = _tree(text)
    return tree is not None and all(_arithmetic(node) for node in ast.walk(tree))


def _is_guard(text: str) -> bool:
    """A comparison of an input's sizes, such as `L['x'].size()[0] <= 16`."""
    sizes = re.sub(r"L(\['\w+'\]|\[\d+\]|\.\w+)*\.size\(\)\[\d+\]", "1", text)
    tree = _tree(sizes)
    return tree is not None and all(_arithmetic(node) and not isinstance(node, ast.Call) for node in ast.walk(tree))


def _tree(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval") if len(text) < 10_000 else None
    except (SyntaxError, ValueError, RecursionError):
        return None


def _arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return _SIZE_NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.isidentifier()
    return isinstance(node, _EXPRESSION_NODES)
