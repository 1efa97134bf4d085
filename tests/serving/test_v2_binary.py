from hypothesis import given
from hypothesis import strategies as st

from resnext.serving.problems import ProblemError
from resnext.serving.v2_binary import decode_elements, encode_elements


@given(st.lists(st.binary(max_size=50), max_size=16))
def test_bytes_tensors_round_trip(elements):
    assert decode_elements(memoryview(encode_elements(elements)), len(elements)) == elements


@given(st.binary(max_size=200), st.integers(0, 16))
def test_any_bytes_are_decoded_exactly_or_refused_with_400(data, count):
    try:
        elements = decode_elements(memoryview(data), count)
    except ProblemError as problem:
        assert problem.status == 400
    else:
        assert encode_elements(elements) == data
