"""`name=value` as text: one parser for the command line, notebooks and Flower."""

import pytest

from matfl.core.settings import parse_settings


@pytest.mark.parametrize(
    "text, values",
    [
        ("", {}),
        (" ; ", {}),
        ("k=4", {"k": "4"}),
        (" k = 4 ;rounds=5; ", {"k": "4", "rounds": "5"}),
        ("fedprox.mu=0.1; aspp_rates=1,2", {"fedprox.mu": "0.1", "aspp_rates": "1,2"}),
        ("start=a=b.safetensors", {"start": "a=b.safetensors"}),
        (["k=4", "k=5"], {"k": "5"}),
        (["tasks=a;b"], {"tasks": "a;b"}),
    ],
)
def test_settings(text, values):
    assert parse_settings(text, where="settings") == values


@pytest.mark.parametrize("text, named", [("k", "'k'"), ("k=1; =3", "'=3'"), (["rounds"], "'rounds'"), ([""], "''")])
def test_what_is_no_assignment_is_named(text, named):
    with pytest.raises(ValueError, match=f"-p: {named} is not of the form NAME=VALUE"):
        parse_settings(text, where="-p")
