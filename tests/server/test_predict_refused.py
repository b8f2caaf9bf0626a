"""What /predict refuses: each with a 4xx that names what is wrong, none with a 500, and large things before they are
decoded."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelramp_server.images import npy
from tests.server import pictures
from tests.server.pictures import encoded, form, half_red, plain, saved
from tests.server.served import Served

MOST = 10_000
JPEG, PNG = encoded(plain("red"), "JPEG"), encoded(plain("red"))
MULTIPART = "multipart/form-data; boundary=x"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    declared = {"preprocess": pictures.UNIT, "postprocess": {"activation": "softmax", "classes": pictures.CLASSES}}
    folder = pictures.folder(tmp_path_factory.mktemp("refusing") / "model", pictures.classifier(), declared)
    server = Served(folder, max_pixels=MOST, payload_limit="4Mi").wait_ready()
    yield server
    server.stop()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """A PNG with any header and any compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + PNG_END


def text_bomb() -> bytes:
    """A text chunk that says little and unpacks to 40 MB."""
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"\x00" * 40_000_000, 9))
    return PNG[:33] + text + PNG[33:]


def scans(count: int, progressive: bool = True) -> bytes:
    """A JPEG whose last scan is there many times over."""
    body = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3)), "JPEG", progressive=progressive)
    last = body.rindex(b"\xff\xda")
    return body[:last] + body[last:-2] * count + b"\xff\xd9"


def resized(body: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header lies about its size."""
    at = body.index(b"\xff\xc0") + 5
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


def frames() -> bytes:
    images = [Image.fromarray(plain(color)) for color in pictures.CLASSES]
    return saved(images[0], "PNG", save_all=True, append_images=images[1:])


def header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An npy file with any header."""
    line = text.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(line))
    return b"\x93NUMPY" + version + size + line + data


def npy_of(descr: str, shape: str, data: bytes = b"", **more: str) -> bytes:
    order = more.get("order", "False")
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}", data)


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def parts(*bodies: bytes) -> bytes:
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return b"".join(head + body + b"\r\n" for body in bodies) + b"--x--\r\n"


FLOATS = np.zeros((1, 3, 16, 16), np.float32)

CASES: list[tuple[str, Any, dict[str, str], int, str]] = [
    # name of the case, body, headers, status, a part of the message
    ("nothing", b"", {}, 400, "empty"),
    ("nothing, said to be PNG", b"", {"content-type": "image/png"}, 400, "empty"),
    ("a word", b"hello", {}, 415, "no type that is known"),
    ("a word, said to be JSON", b"hello", {"content-type": "application/json"}, 400, "JSON"),
    ("a word, said to be PNG", b"hello", {"content-type": "image/png"}, 415, "'image/png'"),
    ("a GIF", saved(Image.fromarray(plain("red")), "GIF"), {}, 415, "image/gif"),
    ("a GIF, said to be PNG", saved(Image.fromarray(plain("red")), "GIF"), {"content-type": "image/png"}, 415,
     "'image/png', the bytes are image/gif"),
    ("a GIF, and it says so", saved(Image.fromarray(plain("red")), "GIF"), {"content-type": "image/gif"}, 415,
     "'image/gif' is not served"),
    ("a BMP", saved(Image.fromarray(plain("red")), "BMP"), {}, 415, "image/bmp"),
    ("a TIFF", saved(Image.fromarray(plain("red")), "TIFF"), {}, 415, "image/tiff"),
    ("a WebP", b"RIFF\x00\x00\x00\x00WEBPVP8 ", {}, 415, "image/webp"),
    ("a HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", {}, 415, "heic"),
    ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415, "image/svg+xml"),
    ("a PDF", b"%PDF-1.7", {}, 415, "application/pdf"),
    ("an npz", b"PK\x03\x04\x14\x00", {}, 415, "npz"),
    ("gzip that does not say so", b"\x1f\x8b\x08\x00", {}, 415, "gzip"),
    ("a JPEG, said to be PNG", JPEG, {"content-type": "image/png"}, 415, "'image/png', the bytes are image/jpeg"),
    ("a PNG, said to be JPEG", PNG, {"content-type": "image/jpeg"}, 415, "'image/jpeg', the bytes are image/png"),
    ("a PNG, said to be JSON", PNG, {"content-type": "application/json"}, 415, "the bytes are image/png"),
    ("JSON, said to be PNG", b'{"inputs": []}', {"content-type": "image/png"}, 415, "the bytes are application/json"),
    ("a PNG, said to be npy", PNG, {"content-type": "application/x-npy"}, 415, "the bytes are image/png"),
    ("said to be video", PNG, {"content-type": "video/mp4"}, 415, "'video/mp4' is not served"),
    ("PNG's first eight bytes", PNG[:8], {}, 400, "header"),
    ("a PNG cut in its header", PNG[:20], {}, 400, "header"),
    ("a PNG cut in its pixels", PNG[:60], {}, 400, "cut short"),
    ("a PNG with wrong checksums", PNG.replace(b"IDAT", b"IDAT", 1)[:29] + b"\x00" * 4 + PNG[33:], {}, 400, "header"),
    ("a PNG without pixels", png(8, 8), {}, 400, "cut short"),
    ("a PNG of no width", png(0, 8), {}, 400, ""),
    ("a PNG of 3 bits a channel", png(8, 8, b"\x00" * 200, depth=3), {}, 400, ""),
    ("a PNG of 60,000 x 60,000", png(60_000, 60_000, b"\x00" * 1000), {}, 413, "MAX_PIXELS"),
    ("a PNG of 2^31 x 2^31", png(2**31 - 1, 2**31 - 1), {}, 413, "MAX_PIXELS"),
    ("one row too many", encoded(np.zeros((101, 100, 3))), {}, 413, "100 x 101 pixels; at most 10000"),
    ("a PNG that is one line", png(1, 10_001, b"\x00" * 40_004), {}, 413, "MAX_PIXELS"),
    ("a text of 40 MB in a PNG", text_bomb(), {}, 400, "header"),
    ("an animated PNG", frames(), {}, 400, "animated"),
    ("JPEG's first four bytes", JPEG[:4], {}, 400, "header"),
    ("a JPEG cut in its header", JPEG[:200], {}, 400, ""),
    ("a JPEG cut in its pixels", JPEG[:-40], {}, 400, "cut short"),
    ("a JPEG that is all zeros after its header", JPEG[:3] + b"\x00" * 500, {}, 400, "header"),
    ("a JPEG that says 60,000 x 60,000", resized(JPEG, 60_000, 60_000), {}, 413, "60000 x 60000"),
    ("a progressive JPEG of 90 scans", scans(80), {}, 400, "64 scans"),
    ("a JPEG of 90 scans", scans(90, progressive=False), {}, 400, "64 scans"),
    ("a JPEG of 2,000 empty segments", JPEG[:2] + b"\xff\xe1\x00\x02" * 2000 + JPEG[2:], {}, 400, "1000 segments"),
    ("a JPEG of segments of no length", JPEG[:2] + b"\xff\xe1\x00\x00" * 2000 + JPEG[2:], {}, 400, "1000 segments"),
    ("a PNG of 30,000 empty chunks", PNG[:33] + chunk(b"tEXt", b"") * 30_000 + PNG[33:], {}, 400, "20000 chunks"),
    ("a PNG of 30,000 empty pieces", PNG[:33] + chunk(b"IDAT", b"") * 30_000 + PNG[33:], {}, 400, "20000 chunks"),
    ("npy's magic alone", b"\x93NUMPY", {}, 400, "npy: the header"),
    ("npy of version 9", b"\x93NUMPY\x09\x00" + b"\x00" * 20, {}, 400, "npy: the header"),
    ("npy of version 3", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", b"0000", b"\x03\x00"), {},
     400, "version 3.0"),
    ("npy with a header of 60 KB", npy_of("'<f4'", "(1,)" + " " * 60_000), {}, 400, "npy: the header"),
    ("npy with a header that runs code", header("__import__('os').abort()"), {}, 400, "npy: the header"),
    ("npy with a header that nests", header("(" * 200 + ")" * 200), {}, 400, "npy: the header"),
    ("npy with a header of zeros", header("\x00" * 50), {}, 400, "npy: the header"),
    ("npy with fewer fields", header("{'descr': '<f4', 'shape': (1,), }"), {}, 400, "npy: the header"),
    ("npy of objects", objects(), {}, 400, "objects never"),
    ("npy of a pickle by hand", npy_of("'|O'", "(1,)", b"cos\nsystem\n(S'true'\ntR."), {}, 400, "objects never"),
    ("npy of text", npy_of("'<U8'", "(1,)", b"\x00" * 32), {}, 400, "numbers"),
    ("npy of dates", npy_of("'<M8[s]'", "(1,)", b"\x00" * 8), {}, 400, "numbers"),
    ("npy of complex numbers", npy_of("'<c16'", "(1,)", b"\x00" * 16), {}, 400, "numbers"),
    ("npy of records", npy_of("[('a', '<f4')]", "(1,)", b"\x00" * 4), {}, 400, "numbers"),
    ("npy of 10^18 values", npy_of("'<f4'", "(1000000000, 1000000000)"), {}, 400, "the body has 0"),
    ("npy shorter than its shape", npy.write(FLOATS)[:-1], {}, 400, "takes 3072 bytes, the body has 3071"),
    ("npy longer than its shape", npy.write(FLOATS) + b"\x00", {}, 400, "the body has 3073"),
    ("npy below zero", npy_of("'<f4'", "(-1, 4)", b"\x00" * 16), {}, 400, "npy"),
    ("npy of 33 axes", npy_of("'<f4'", str((1,) * 33), b"\x00" * 4), {}, 400, "npy"),
    ("npy of no rows", npy.write(FLOATS[:0]), {}, 400, "npy"),
    ("npy of another shape", npy.write(FLOATS[:, :, :15]), {}, 400, "[-1, 3, 16, 16]"),
    ("npy of integers for floats", npy.write(np.zeros((1, 3, 16, 16), np.bool_)), {}, 400, "FP32"),
    ("npy too large for FP32", npy.write(np.full((1, 3, 16, 16), 1e300)), {}, 400, "too large"),
    ("npy of an image of five channels", npy.write(np.zeros((9, 9, 5), np.uint8)), {}, 400, "(height, width"),
    ("npy of an image of no height", npy.write(np.zeros((0, 9, 3), np.uint8)), {}, 400, "(height, width"),
    ("npy of an image too large", npy.write(np.zeros((101, 100), np.uint8)), {}, 413, "MAX_PIXELS"),
    ("npy, said to be JPEG", npy.write(FLOATS), {"content-type": "image/jpeg"}, 415, "the bytes are application/x-npy"),
    ("JSON cut short", b'{"inputs": [[', {}, 400, "JSON"),
    ("JSON of a list", b"[[1]]", {}, 400, "object"),
    ("JSON without inputs", b"{}", {}, 400, "exactly one"),
    ("JSON of another shape", json.dumps({"inputs": [[0.5]]}).encode(), {}, 400, "[-1, 3, 16, 16]"),
    ("a form without a boundary", b"--x--", {"content-type": "multipart/form-data"}, 400, "boundary"),
    ("a form with a boundary of 100", b"--x--", {"content-type": f"multipart/form-data; boundary={'x' * 100}"}, 400,
     "boundary"),
    ("a form that is none", PNG, {"content-type": MULTIPART}, 400, "multipart"),
    ("a form of nothing", b"", {"content-type": MULTIPART}, 400, "multipart"),
    ("a form without parts", b"--x--\r\n", {"content-type": MULTIPART}, 400, "multipart"),
    ("a form without an end", form(PNG)[0][:-4], {"content-type": MULTIPART}, 400, "last boundary"),
    ("a form with another boundary", form(PNG)[0].replace(b"--x", b"--y"), {"content-type": MULTIPART}, 400,
     "multipart"),
    ("a form of two files", parts(PNG, PNG), {"content-type": MULTIPART}, 400, "several parts"),
    ("a form of 10,000 parts", parts(*[b""] * 10_000), {"content-type": MULTIPART}, 400, "several parts"),
    ("a form with a head of 1 MB", b"--x\r\nx-a: " + b"a" * 1_000_000, {"content-type": MULTIPART}, 400, "multipart"),
    ("a form with an empty file", parts(b""), {"content-type": MULTIPART}, 400, "empty"),
    ("a form with a PNG said to be JPEG", form(PNG, "image/jpeg")[0], {"content-type": MULTIPART}, 415,
     "'image/jpeg', the bytes are image/png"),
    ("a form with a file in base64",
     parts(PNG).replace(b"\r\n\r\n", b"\r\ncontent-transfer-encoding: base64\r\n\r\n", 1),
     {"content-type": MULTIPART}, 400, "content-transfer-encoding"),
    ("other forms", b"a=b", {"content-type": "multipart/mixed; boundary=x"}, 415, "'multipart/mixed'"),
    ("a mask of what has none", PNG, {"accept": "image/png"}, 406, "class"),
    ("an answer in text", PNG, {"accept": "text/html"}, 406, "'text/html'"),
    ("an answer in nothing", PNG, {"accept": "*/*;q=0"}, 406, "allows none"),
    ("an answer of text as npy", PNG, {"accept": "application/x-npy"}, 406, "text"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "part"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_a_bad_request_gets_a_4xx_that_names_what_is_wrong(
    server: Served, body: bytes, headers: dict[str, str], status: int, part: str
) -> None:
    reply = server.call("POST", "/predict", body, headers)
    assert (reply.status, set(reply.json)) == (status, {"error"}), reply.body
    assert part in reply.json["error"] and "Traceback" not in reply.json["error"]


def test_no_two_are_alike() -> None:
    assert len({(body, str(headers)) for _, body, headers, _, _ in CASES}) == len(CASES) > 80


QUERIES = [
    ("?color=red", "'color'"),
    ("?overlay=2", "overlay"),
    ("?overlay=nan", "overlay"),
    ("?overlay=-0.5", "overlay"),
    ("?overlay&overlay", "twice"),
    ("?output=logits", "'logits'"),
    ("?output=class&class=1", "class"),
    ("?output=%ff", "query"),
    ("?" + "&".join(["output=a"] * 50), "query"),
]


@pytest.mark.parametrize(("query", "part"), QUERIES, ids=[query[:20] for query, _ in QUERIES])
def test_a_bad_query_gets_a_400(server: Served, query: str, part: str) -> None:
    reply = server.call("POST", f"/predict{query}", PNG)
    assert reply.status == 400 and part in reply.json["error"], reply.body


def test_an_overlay_needs_a_picture(server: Served) -> None:
    reply = server.call("POST", "/predict?overlay", npy.write(FLOATS))
    assert reply.status == 400 and "overlay" in reply.json["error"]
    reply = server.call("POST", "/predict?overlay", PNG, {"accept": "application/json"})
    assert reply.status == 406 and "image/png" in reply.json["error"]


def test_refusals_are_counted_as_the_clients_mistakes(server: Served) -> None:
    def counted(code: str) -> float:
        return server.metric("modelramp_requests_total", route="predict", code=code)

    before, neutral = counted("413"), server.metric("modelramp_split_requests_total", outcome="neutral")
    assert server.call("POST", "/predict", resized(JPEG, 60_000, 60_000)).status == 413
    assert counted("413") == before + 1
    assert server.metric("modelramp_split_requests_total", outcome="neutral") == neutral + 1
    assert not server.metric("modelramp_requests_total", route="predict", code="500")


def test_a_model_that_declares_nothing_says_so(onnx_server: Served) -> None:
    reply = onnx_server.call("POST", "/predict", encoded(half_red()))
    assert reply.status == 415 and "metadata.modelramp.image" in reply.json["error"]
    reply = onnx_server.call("POST", "/predict", npy.write(np.zeros((2, 64), np.float32)))
    assert reply.status == 200, reply.body
    assert [set(row) for row in reply.json["predictions"]] == [{"label", "probabilities"}] * 2
    reply = onnx_server.call("POST", "/predict", npy.write(np.zeros((2, 64))), {"accept": "image/png"})
    assert reply.status == 406
