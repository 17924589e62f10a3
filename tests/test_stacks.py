"""Names and numbers of layers."""

from __future__ import annotations

import pytest

from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name, layer_number, spans


def test_a_decoder_only_model_has_numbers() -> None:
    assert [layer_name(layer, 0) for layer in range(3)] == ["0", "1", "2"]
    assert layer_number("2", 0, 3) == 2


@pytest.mark.parametrize(
    ("layer", "name"), [(0, "encoder.0"), (3, "encoder.3"), (4, "decoder.0"), (5, "decoder.1")]
)
def test_an_encoder_decoder_has_addresses(layer: int, name: str) -> None:
    assert layer_name(layer, 4) == name
    assert layer_number(name, 4, 6) == layer


@pytest.mark.parametrize("name", ["encoder.4", "decoder.2", "3", "other.1", "encoder.-1", "", "."])
def test_layers_that_an_encoder_decoder_lacks(name: str) -> None:
    expected = "encoder.0 to encoder.3, decoder.0 to decoder.1"
    with pytest.raises(UserError, match=f"no layer {name!r}: expected one of {expected}"):
        layer_number(name, 4, 6)


@pytest.mark.parametrize("name", ["3", "encoder.0", ".1", "-1", "x"])
def test_layers_that_a_decoder_lacks(name: str) -> None:
    with pytest.raises(UserError, match=r"expected one of 0 to 2\."):
        layer_number(name, 0, 3)


def test_spans_of_the_stacks() -> None:
    assert spans(0, 3) == [(0, 2)]
    assert spans(4, 6) == [(0, 3), (4, 5)]
