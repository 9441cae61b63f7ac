"""The reader of OpenVINO's IR, on a network of two layers, and against OpenVINO itself."""

import struct

import pytest
import torch

from ggl.base.errors import WeightsError
from ggl.generators.mobilestylegan.openvino_ir import Layer, read_ir

KINDS = ["MatMul", "Add"]
WEIGHT = [1.0, -2.0, 0.5, 3.0, 0.25, -1.5]
BIAS = [10.0, 20.0]
CONTENT = struct.pack("<8f", *WEIGHT, *BIAS)


def port(number, shape, precision=' precision="FP32"'):
    return f'<port id="{number}"{precision}>{"".join(f"<dim>{d}</dim>" for d in shape)}</port>'


def constant(number, name, shape, offset):
    size = 4 * torch.Size(shape).numel()
    data = f'<data element_type="f32" shape="{",".join(map(str, shape))}" offset="{offset}" size="{size}"/>'
    return (
        f'<layer id="{number}" name="{name}" type="Const" version="opset1">{data}'
        f"<output>{port(0, shape)}</output></layer>"
    )


def operation(number, name, kind, data, shapes, out):
    ports = "".join(port(i, shape, "") for i, shape in enumerate(shapes))
    return (
        f'<layer id="{number}" name="{name}" type="{kind}" version="opset1"><data {data}/>'
        f"<input>{ports}</input><output>{port(2, out)}</output></layer>"
    )


XML = (
    '<?xml version="1.0"?><net name="tiny" version="10"><layers>'
    '<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,3" element_type="f32"/>'
    f"<output>{port(0, (1, 3))}</output></layer>"
    + constant(1, "weight", (2, 3), 0)
    + constant(2, "bias", (1, 2), 24)
    + operation(3, "product", "MatMul", 'transpose_a="false" transpose_b="true"', [(1, 3), (2, 3)], (1, 2))
    + operation(4, "sum", "Add", 'auto_broadcast="numpy"', [(1, 2), (1, 2)], (1, 2))
    + f'<layer id="5" name="out" type="Result" version="opset1"><input>{port(0, (1, 2), "")}</input></layer>'
    "</layers><edges>"
    '<edge from-layer="1" from-port="0" to-layer="3" to-port="1"/>'
    '<edge from-layer="0" from-port="0" to-layer="3" to-port="0"/>'
    '<edge from-layer="3" from-port="2" to-layer="4" to-port="0"/>'
    '<edge from-layer="2" from-port="0" to-layer="4" to-port="1"/>'
    '<edge from-layer="4" from-port="2" to-layer="5" to-port="0"/>'
    "</edges></net>"
)


@pytest.fixture
def read(tmp_path):
    """Write the tiny network, or what a test made of it, and read it."""

    def read(xml=XML, content=CONTENT, kinds=KINDS):
        (tmp_path / "tiny.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
        (tmp_path / "tiny.bin").write_bytes(content)
        return read_ir(tmp_path / "tiny.xml", tmp_path / "tiny.bin", kinds)

    return read


def test_layers_and_constants_are_read(read):
    graph = read()
    assert graph.layers["product"] == Layer("MatMul", ("x", "weight"))
    assert graph.layers["sum"] == Layer("Add", ("product", "bias"))
    assert set(graph.constants) == {"weight", "bias"}
    assert torch.equal(graph.constant_of("product"), torch.tensor(WEIGHT).view(2, 3))
    assert torch.equal(graph.constant_of("sum"), torch.tensor([BIAS]))


@pytest.mark.parametrize(
    ("kind", "code", "values"),
    [("f16", "e", [1, -2.5]), ("f64", "d", [1, 0.1]), ("i64", "q", [-1, 2**40]), ("i32", "i", [-1, 7])],
)
def test_constants_of_other_types_are_read(read, kind, code, values):
    content = struct.pack(f"<2{code}", *values)
    xml = XML.replace(
        'element_type="f32" shape="1,2" offset="24" size="8"',
        f'element_type="{kind}" shape="1,2" offset="24" size="{len(content)}"',
    )
    graph = read(xml, CONTENT[:24] + content)
    assert graph.constants["bias"].tolist() == [values]


def test_a_scalar_and_an_empty_constant_are_read(read):
    for shape, size in (("", 4), ("0,2", 0)):
        graph = read(
            XML.replace('shape="1,2" offset="24" size="8"', f'shape="{shape}" offset="24" size="{size}"')
        )
        assert graph.constants["bias"].numel() == size // 4


def test_a_constant_is_the_callers_own(read):
    first, second = read(), read()
    first.constants["bias"].zero_()
    assert second.constants["bias"].tolist() == [BIAS]


def test_the_network_is_openvinos(read, tmp_path):
    openvino = pytest.importorskip("openvino")
    graph = read()
    core = openvino.Core()
    compiled = core.compile_model(
        str(tmp_path / "tiny.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    x = torch.tensor([[1.0, 2.0, -3.0]])
    found = x @ graph.constant_of("product").T + graph.constant_of("sum")
    torch.testing.assert_close(found, torch.from_numpy(compiled([x.numpy()])[0]), rtol=1e-6, atol=1e-6)


def test_a_layer_that_is_not_there_is_refused(read):
    with pytest.raises(WeightsError, match="expected a layer 'other', found none"):
        read().constant_of("other")
    with pytest.raises(WeightsError, match="expected one constant at layer 'out', found 0"):
        read().constant_of("out")


@pytest.mark.parametrize("length", [0, 23, 31])
def test_constants_cut_short_are_refused(read, length):
    with pytest.raises(
        WeightsError, match=rf"tiny\.bin: expected at least \d+ bytes, found {length}; .*fetch"
    ):
        read(content=CONTENT[:length])


DAMAGES = {
    "an offset outside": ('offset="24"', 'offset="25"', "expected at least 33 bytes, found 32"),
    "an offset far outside": (
        'offset="24"',
        f'offset="{10**17}"',
        "expected at least 100000000000000008 bytes",
    ),
    "a negative offset": ('offset="24"', 'offset="-8"', "expected a whole number, found '-8'"),
    "an endless offset": ('offset="24"', f'offset="{"9" * 5000}"', "expected a whole number, found '9999"),
    "another size": ('size="8"', 'size="4"', r"expected 8 bytes for a constant of shape \[1,2\], found 4"),
    "another shape": (
        'shape="1,2"',
        'shape="1,3"',
        r"expected 12 bytes for a constant of shape \[1,3\], found 8",
    ),
    "a huge shape": ('shape="1,2"', f'shape="{10**12},{10**12}"', "expected a shape of at most 8 axes and"),
    "endless lengths": (
        'shape="1,2"',
        f'shape="{",".join(["9" * 18] * 20_000)}"',
        "expected a shape of at most 8",
    ),
    "nine axes": ('shape="1,2"', 'shape="1,1,1,1,1,1,1,1,2"', "expected a shape of at most 8 axes"),
    "huge lengths beside a zero": (
        'shape="1,2" offset="24" size="8"',
        f'shape="0,{10**17},{10**17}" offset="24" size="0"',
        "expected a shape of at most 8 axes",
    ),
    "a version of two lines": ('version="10"', 'version="1&#10;0"', r"found 'net' '1\\n0'"),
    "a kind of two lines": ('type="Add"', 'type="A&#10;dd"', r"found 'A\\ndd'"),
    "an endless kind": ('type="Add"', f'type="{"a" * 5000}"', "found 'a{40}'"),
    "an unknown type": ('element_type="f32" shape="1,2"', 'element_type="u1" shape="1,2"', "found 'u1'"),
    "no size": (' size="8"', "", "expected an attribute 'size' at <data>, found none"),
    "an unknown layer": (
        'type="Add"',
        'type="LSTMCell"',
        "expected layers of the kinds Add, .*found 'LSTMCell'",
    ),
    "an id twice": ('layer id="2"', 'layer id="1"', "expected each layer's id once, found '1' twice"),
    "a name twice": ('name="bias"', 'name="weight"', "expected layers of different names"),
    "an edge from nowhere": (
        'from-layer="2"',
        'from-layer="9"',
        "expected one edge from and to known layers",
    ),
    "two edges to a port": ('to-layer="4" to-port="1"', 'to-layer="4" to-port="0"', "expected one edge"),
    "no port": (' to-port="1"', "", "expected an attribute 'to-port' at <edge>, found none"),
    "another version": (
        'version="10"',
        'version="9"',
        "expected a <net> of version 10 or 11, found 'net' '9'",
    ),
    "another root": ("net", "web", "expected a <net> of version 10 or 11, found 'web' '10'"),
    "no layers": ("layers>", "other>", "expected layers of different names, found 0"),
    "no end": ("</net>", "", "expected whole XML, found a damaged file"),
    "a document type": (
        "<net",
        "<!DOCTYPE net><net",
        "expected XML without a document type, found one; refused",
    ),
    "entities": (
        "<net",
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><net',
        "expected XML without a document type, found one; refused",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_graphs_are_refused(read, old, new, message):
    assert old in XML
    with pytest.raises(WeightsError, match=message) as error:
        read(XML.replace(old, new))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_constants_may_share_bytes_but_not_fill_the_memory_with_them(read):
    shared = [constant(6, "again", (2, 3), 0), constant(7, "and again", (2, 3), 0)]
    graph = read(XML.replace("</layers>", shared[0] + "</layers>"))
    assert torch.equal(graph.constants["again"], graph.constants["weight"])
    with pytest.raises(
        WeightsError, match=r"expected constants of at most 2 times the 32 bytes of tiny\.bin"
    ):
        read(XML.replace("</layers>", "".join(shared) + "</layers>"))


def test_a_constant_without_data_is_refused(read):
    data = '<data element_type="f32" shape="1,2" offset="24" size="8"/>'
    assert data in XML
    with pytest.raises(WeightsError, match="expected <data> in each constant, found none in 'bias'"):
        read(XML.replace(data, ""))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_no_encoding_hides_a_document_type(read, encoding):
    xml = XML.replace('"1.0"?>', f'"1.0" encoding="{encoding}"?><!DOCTYPE net>')
    with pytest.raises(WeightsError, match="damaged file"):
        read(xml.encode(encoding))


def test_a_declared_encoding_is_not_used(read):
    """In UTF-7, "+ADwAIQ-DOCTYPE net+AD4-" is a document type; here it is text before the root."""
    with pytest.raises(WeightsError, match="damaged file"):
        read(XML.replace('"1.0"?>', '"1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE net+AD4-'))


def test_a_graph_too_large_is_refused(read, monkeypatch):
    monkeypatch.setattr("ggl.generators.mobilestylegan.openvino_ir.LARGEST_XML", len(XML) - 1)
    with pytest.raises(WeightsError, match=f"expected at most {len(XML) - 1} bytes, found {len(XML)}"):
        read()


def test_missing_files_are_refused(read, tmp_path):
    read()
    for name in ("tiny.bin", "tiny.xml"):
        (tmp_path / name).unlink()
        with pytest.raises(WeightsError, match=rf"{name}: expected a weights file, but it cannot be read"):
            read_ir(tmp_path / "tiny.xml", tmp_path / "tiny.bin", KINDS)
