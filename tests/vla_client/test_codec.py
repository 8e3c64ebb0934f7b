"""openpi's wire form: its bytes, round trips, and what is refused."""

from __future__ import annotations

import random
import resource

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_client.arrays import DTYPES
from vla_client.codec import Limits, WireError, pack, unpack


def array_map(data: bytes, dtype: object, shape: object, **more: object) -> bytes:
    """A message that is one array as openpi writes it, with parts of the test's choice."""
    parts = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    return msgpack.packb({**parts, **{key.encode(): value for key, value in more.items()}})


# --- bytes ---------------------------------------------------------------------------------------


def test_the_bytes_of_an_array_are_those_of_openpi() -> None:
    expected = (
        b"\x81\xa1a\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x0c"
        + np.arange(3, dtype="<f4").tobytes()
        + b"\xc4\x05dtype\xa3<f4\xc4\x05shape\x91\x03"
    )
    assert pack({"a": np.arange(3, dtype=np.float32)}) == expected


def test_the_bytes_of_scalars_are_those_of_openpi() -> None:
    assert pack(np.array(7, np.uint8)).endswith(b"\xa3|u1\xc4\x05shape\x90")
    assert pack(np.float32(0.5)) == (
        b"\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\xcb?\xe0" + bytes(6) + b"\xc4\x05dtype\xa3<f4"
    )
    assert pack(np.float64(0.5)) == pack(0.5)
    assert pack(np.str_("x")) == pack("x")
    assert pack((1, 2)) == pack([1, 2])


# --- round trips ---------------------------------------------------------------------------------

shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@st.composite
def numpy_arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(shapes)
    size = int(np.prod(shape, dtype=int))
    if dtype.kind == "b":
        raw = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype)
        return raw.reshape(shape)
    length = size * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=length, max_size=length)), dtype).reshape(shape)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(-128, 127).map(np.int8),
    st.floats(width=32, allow_nan=False).map(np.float32),
    st.booleans().map(np.bool_),
)
keys = st.text(max_size=12).filter(lambda key: not key.startswith("__"))
values = st.recursive(
    st.one_of(scalars, numpy_arrays()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Equal in type, shape and bits."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(values)
def test_a_value_comes_back_bit_for_bit(value: object) -> None:
    try:
        message = pack(value)
    except WireError as error:  # hypothesis can nest deeper than the protocol
        assert "nested" in str(error)  # noqa: PT017
        return
    assert same(unpack(message), value)


def test_arrays_of_other_layouts_keep_their_values() -> None:
    big = np.arange(6, dtype=">i4").reshape(2, 3)
    found = unpack(pack({"big": big, "turned": big.T, "every_other": big[:, ::2]}))
    assert found["big"].dtype == np.dtype("<i4")
    np.testing.assert_array_equal(found["big"], big)
    np.testing.assert_array_equal(found["turned"], big.T)
    np.testing.assert_array_equal(found["every_other"], big[:, ::2])
    assert not found["big"].flags.writeable


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": np.array([None])}, "'a' is an array of object"),
        ({"a": np.array(["x"])}, "'a' is an array of <U1"),
        ({"a": np.array([1j])}, "complex128"),
        ({"a": np.array(["2020-01-01"], "M8[D]")}, "datetime64"),
        ({"a": np.ma.masked_equal([1, 2], 2)}, "mask would be lost"),
        ({"a": np.zeros((1,) * 6)}, "6 dimensions"),
        ({"a": {1, 2}}, "'a' is set"),
        ({1: 2}, "has the key 1, expected text"),
        ({"__ndarray__": True}, "marks an array"),
        ({"a": 2**64}, "cannot be packed"),
        ({"a": "\ud800"}, "cannot be packed"),
    ],
)
def test_what_cannot_travel_is_named(value: object, said: str) -> None:
    with pytest.raises(WireError, match=r"^[^\n]*$") as caught:
        pack(value)
    assert said in str(caught.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(WireError, match="nested more than 8"):
        pack(circle)


def nested(depth: int, inner: object = 1) -> object:
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "ends too early"),
        (b"\xc1", "no msgpack"),
        (b"\x01\x01", "goes on after its end"),
        (b"\x81\xa1a", "ends too early"),
        (b"\xa2\xff\xfe", "not UTF-8"),
        (b"\xdd\xff\xff\xff\xff", "more than 100000 entries"),
        (b"\xdf\xff\xff\xff\xff", "more than 100000 entries"),
        (b"\xc6\xff\xff\xff\xff", "no msgpack"),
        (msgpack.packb(nested(9)), "nested more than 8"),
        (b"\x91" * 5000 + b"\x01", "nested more than 8"),
        (msgpack.packb(msgpack.ExtType(3, b"x")), "extension type"),
        (msgpack.packb(msgpack.Timestamp(1)), "extension type"),
        (b"\xc7\x00\x05", "extension type"),
        (b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (b"\x81\x01\x02", "has the key 1"),
        (b"\x81\x90\x02", "list or a map as a key"),
        (msgpack.packb({b"x": 1}), "mark no array"),
        (msgpack.packb({b"x": 1, "y": 2}), "mixes"),
        (msgpack.packb({"__ndarray__": True}), "marks an array"),
        (array_map(bytes(8), "|O", [1]), "dtype '|O' is not accepted"),
        (array_map(bytes(8), "<U2", [1]), "dtype '<U2'"),
        (array_map(bytes(8), "<f4,<f4", [1]), "not accepted"),
        (array_map(bytes(8), ["<f8"], [1]), "not accepted"),
        (array_map(bytes(8), "<f8", [2]), "which takes 16"),
        (array_map(b"", "<f8", [2**31 - 1] * 5), "0 bytes for shape"),
        (array_map(b"", "<f8", [2**62, 4]), "extent"),
        (array_map(b"", "<f8", [0] + [2**31 - 1] * 4), "too large"),
        (array_map(bytes(8), "<f8", [-1]), "extent -1"),
        (array_map(bytes(8), "<f8", [True]), "extent True"),
        (array_map(bytes(8), "<f8", [1] * 6), "at most 5"),
        (array_map(bytes(8), "<f8", 1), "shape 1"),
        (array_map(b"\x02", "|b1", [1]), "another byte than 0 or 1"),
        (array_map(bytes(8), "<f8", [1], extra=1), "mark no array"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}), "not fit"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1e300, b"dtype": "<f4"}), "not fit"),
        (msgpack.packb({b"__npgeneric__": True, b"data": b"x", b"dtype": "<f4"}), "no float"),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(message: bytes, said: str) -> None:
    with pytest.raises(WireError, match=r"^[^\n]*$") as caught:
        unpack(message)
    assert said in str(caught.value)


def test_the_limits_of_a_server_hold() -> None:
    with pytest.raises(WireError, match="at most 100 are read"):
        unpack(pack("x" * 200), Limits(max_bytes=100))
    with pytest.raises(WireError, match="no msgpack"):
        unpack(pack("x" * 200), Limits(max_text=100))
    with pytest.raises(WireError, match="more than 3 entries"):
        unpack(pack([[1, 2], [3]]), Limits(max_entries=3))


def test_errors_show_no_control_characters() -> None:
    message = msgpack.packb({"\x1b[2J\n": {b"__ndarray__": "\x1b]0;"}})
    with pytest.raises(WireError) as caught:
        unpack(message)
    assert str(caught.value).isprintable()


# --- mutations -----------------------------------------------------------------------------------

OBSERVATION = {
    "observation/image": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    "observation/state": np.linspace(-1, 1, 8, dtype=np.float32),
    "prompt": "push the red block",
    "vla/step": 3,
    "vla/reset": np.bool_(False),
    "nested": {"list": [1, 2.5, None], "scalar": np.float32(2)},
}


def mutated(message: bytes, generator: random.Random) -> bytes:
    """The message with a few bytes changed, cut, doubled or inserted."""
    data = bytearray(message)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) or 1)
        change = generator.randrange(4)
        if change == 0 and data:
            data[at] = generator.randrange(256)
        elif change == 1:
            del data[at : at + generator.randint(1, 8)]
        elif change == 2:
            data[at:at] = data[at : at + generator.randint(1, 16)]
        else:
            data[at:at] = bytes(generator.randrange(256) for _ in range(generator.randint(1, 4)))
    return bytes(data)


def refused(count: int, seed: int) -> int:
    """How many of `count` mutated messages are refused; any other error fails the test."""
    message = pack(OBSERVATION)
    generator = random.Random(seed)
    found = 0
    for _ in range(count):
        try:
            repr(unpack(mutated(message, generator)))  # repr touches every element
        except WireError as error:
            assert str(error).isprintable()  # noqa: PT017
            found += 1
    return found


def test_mutated_messages_raise_nothing_else() -> None:
    assert refused(2_000, seed=0) > 1_000


@pytest.mark.slow
def test_100_000_mutated_messages_leave_the_memory_as_it_was() -> None:
    refused(2_000, seed=1)  # what is taken once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(100_000, seed=2) > 50_000
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 8 * 1024
