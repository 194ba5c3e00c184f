"""``federation.toml``: every wrong field is named at once, and what is right means what it says."""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common import parcel
from commonroot.common.charter import Draft, model_from_toml
from commonroot.common.errors import ConfigError
from commonroot.common.messages import Open
from commonroot.common.parcel import Parcel
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.founding import to_toml
from commonroot.simulations.network import Crossing, drop
from commonroot.simulations.scenario import Scenario, read_scenario
from commonroot.simulations.weather import by_round

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits" / "federation.toml"
CHARTER = """
[charter]
federation = "works"
name = "tried"
rounds = 9
method = { name = "fedper" }
backbone = { inputs = 4, widths = [6] }
"""
WORLD = '[world]\nkind = "digits"\n'


def read(text: str) -> Scenario:
    return model_from_toml(Scenario, text, path="federation.toml")


def test_the_example_is_a_scenario_and_its_charter_is_a_charter():
    scenario = read_scenario(EXAMPLE)
    assert scenario.names == ("sorting", "parcels", "parity", "amounts", "archive")
    assert Draft.model_validate(tomllib.loads(EXAMPLE.read_text())["charter"]).rounds == 15


def test_every_wrong_field_is_named_at_once_with_the_file(tmp_path):
    path = tmp_path / "federation.toml"
    path.write_text(
        CHARTER.replace("rounds = 9", "rounds = 0").replace("[charter]", 'sed = 3\n[charter]\nmehtod = "x"')
        + '[[departments]]\nname = "a"\n[departments.data]\npath = "a.csv"\ntask = "guessing"\n'
        + "[network]\ndrop = 1.5\ndelay = -1\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    for word in ("charter.rounds", "charter.mehtod", "sed", "departments.0.data.target", "departments.0.data.task"):
        assert word in str(caught.value)
    for word in ("network.drop", "network.delay", str(path)):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CHARTER, r"\[world\] or \[\[departments\]\]"),
        (
            CHARTER + WORLD + "".join(f'[[departments]]\nname = "{n}"\ndata = {{}}\n' for n in "abc"),
            "departments.0.data",
        ),
        (
            CHARTER
            + "".join(
                f'[[departments]]\nname = "{n}"\ndata = {{ path = "x", target = "y", task = "binary" }}\n'
                for n in "aab"
            ),
            "a: a name stands twice",
        ),
        (
            CHARTER
            + "".join(
                f'[[departments]]\nname = "{n}"\ndata = {{ path = "x", target = "y", task = "binary" }}\n' for n in "ab"
            ),
            "2 departments; 3 to 1000",
        ),
        (CHARTER + WORLD + '[[events]]\nround = 3\nkill = "nobody"\n', "no department is called 'nobody'"),
        (CHARTER + WORLD + '[[events]]\nround = 10\nkill = "parity"\n', "round 10 comes after the last, 9"),
        (CHARTER + WORLD + '[[events]]\nround = 3\nkill = "parity"\nstart = "parity"\n', "give kill or start"),
        (
            CHARTER + WORLD + "".join(f'[[events]]\nround = {r}\nkill = "parity"\n' for r in (3, 5)),
            "'parity' is killed or started twice in a row",
        ),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_with_its_reason(text, said):
    with pytest.raises(ConfigError, match=said):
        read(text)


def test_who_is_present_follows_from_the_events():
    """parity is killed in the round that makes version 3, so it is there when that one opens (from version 2) and not
    when the next does; it starts before the round that makes 5 opens, so it is there from version 4 on.  archive was
    not there before its start."""
    events = '[[events]]\nround = 3\nkill = "parity"\n[[events]]\nround = 5\nstart = "parity"\n'
    scenario = read(CHARTER + WORLD + events + '[[events]]\nround = 4\nstart = "archive"\n').cast()
    assert ["parity" in scenario.present(version) for version in range(9)] == [True] * 3 + [False] + [True] * 5
    assert ["archive" in scenario.present(version) for version in range(9)] == [False] * 3 + [True] * 6
    assert {version: scenario.killed(version) for version in range(1, 5)} == {1: [], 2: [], 3: ["parity"], 4: []}


def test_the_seed_reaches_whatever_names_none_of_its_own(tmp_path):
    own = 'name = "a"\ndata = { path = "x.csv", target = "y", task = "binary", seed = 7 }\n'
    others = "".join(
        f'[[departments]]\nname = "{n}"\ndata = {{ path = "x.csv", target = "y", task = "binary" }}\n' for n in "bc"
    )
    scenario = read("seed = 5\n" + CHARTER + f"[[departments]]\n{own}" + others)
    sections = scenario.sections(tmp_path, tmp_path / "data")
    assert [sections[name].seed for name in "abc"] == [7, 5, 5]
    assert sections["a"].path == (tmp_path / "x.csv").resolve()
    assert scenario.draft.training.seed == 5
    assert read("seed = 5\n" + CHARTER + "training = { seed = 2 }\n" + WORLD).draft.training.seed == 2


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("fedavg", "fedavg", {}),
        ("fedrep:head_epochs=3,anchor=0.5", "fedrep", {"head_epochs": 3, "anchor": 0.5}),
        ("fedavg:head=shared,outputs=4", "fedavg", {"head": "shared", "outputs": 4}),
        ("fedper", "fedper", {"backbone_epochs": 2}),
        ("fedper:alternating=true", "fedper", {"alternating": True}),
    ],
)
def test_an_arm_is_a_method_with_options(text, name, options):
    """The charter's own method keeps its options under its bare name; with options it is somebody else's."""
    draft = read(CHARTER.replace('"fedper" }', '"fedper", options = { backbone_epochs = 2 } }') + WORLD).draft
    arm = parse_arm(text, draft)
    assert (arm.draft.method.name, arm.draft.method.options) == (name, options)
    assert arm.draft.model_copy(update={"method": draft.method}) == draft


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fedperr", "did you mean 'fedper'"),
        ("fedper:epoch=3", "epoch"),
        ("fedper:backbone_epochs", "OPTION=VALUE|not a new"),
        ("fedper:backbone_epochs=2,backbone_epochs=3", "not a new"),
        ("pooled:epochs=3", "pooled has no options"),
        ("Fed Per", "name"),
    ],
)
def test_an_arm_that_cannot_run_is_refused_by_name(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_arm(text, read(CHARTER + WORLD).draft)
    assert f"--arm {text}" in str(caught.value)


def test_a_charter_written_as_toml_is_the_same_charter():
    draft = read(
        CHARTER.replace('"fedper" }', '"fedper", options = { anchor = 1e-5, alternating = true } }') + WORLD
    ).draft
    assert Draft.from_toml(to_toml(draft.model_dump(mode="json", exclude_none=True))) == draft


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1)), min_size=1
    )
)
def test_any_text_and_number_survives_toml(values):
    assert tomllib.loads(to_toml({**values, "table": {"inner": {"x": 1}, **values}})) == {
        **values,
        "table": {"inner": {"x": 1}, **values},
    }


def opening(round_: int, department: str) -> Crossing:
    head = Open(bytes(32), round_, (0, 1), (b"", b""), (), (), bytes(64)).encode()
    return Crossing("to-department", department, Parcel(parcel.OPEN, head))


@given(st.permutations([(round_, name) for round_ in range(1, 6) for name in "abcd"]))
def test_the_fate_of_a_parcel_does_not_depend_on_what_went_before(order):
    def fates(crossings: list[tuple[int, str]]) -> dict[tuple[int, str], int]:
        weather, stream = by_round(3, [drop(0.5)]), random.Random(0)
        return {(r, name): len(list(weather(opening(r, name), stream))) for r, name in crossings}

    straight = fates([(r, name) for r in range(1, 6) for name in "abcd"])
    assert fates(order) == straight
    assert set(straight.values()) == {0, 1}


def test_a_parcel_that_is_sent_again_has_another_chance():
    weather, stream = by_round(3, [drop(0.5)]), random.Random(0)
    assert {len(list(weather(opening(1, "a"), stream))) for _ in range(20)} == {0, 1}


def test_weather_told_to_people_names_shares_and_kinds():
    text = '[network]\ndrop = 0.3\ndelay = 2.5\nrepeat = 0.1\nparcels = ["masked", "shares"]\n'
    told = read(CHARTER + WORLD + text + '[[events]]\nround = 2\nkill = "parity"\n').told()
    assert [re.sub(r"\s+", " ", line) for line in told] == [
        "30 % of masked/shares parcels are lost",
        "masked/shares parcels are up to 2.5 s late",
        "10 % of masked/shares parcels arrive twice",
        "round 2: parity is killed",
    ]
